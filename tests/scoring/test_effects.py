import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cisray.errors import InputError
from cisray.scoring.effects import SCORES, delta_sum, l2_log2, log2fc, resolve_scores

# one variant, two bins, two tracks
REFERENCE = torch.tensor([[[1.0, 0.0], [2.0, 3.0]]])
ALTERNATE = torch.tensor([[[3.0, 0.0], [12.0, 0.0]]])


def test_delta_sum_is_alternate_less_reference():
    assert delta_sum(REFERENCE, ALTERNATE).tolist() == [[12.0, -3.0]]


def test_log2fc_compares_sums_with_a_pseudocount_of_one():
    # (1 + 15) / (1 + 3) = 4 and (1 + 0) / (1 + 3) = 1/4
    assert log2fc(REFERENCE, ALTERNATE).tolist() == [[2.0, -2.0]]


def test_l2_log2_is_a_norm_over_bins():
    reference = torch.tensor([[[0.0], [7.0]]])
    alternate = torch.tensor([[[7.0], [127.0]]])  # log2(1 + x): 0, 3 against 3, 7
    assert l2_log2(reference, alternate).tolist() == [[5.0]]
    assert l2_log2(alternate, reference).tolist() == [[5.0]]


@pytest.mark.parametrize("name", SCORES)
def test_no_change_is_exactly_zero_and_results_are_float32(name):
    predictions = torch.rand(3, 5, 2, dtype=torch.float16)
    values = SCORES[name].function(predictions, predictions)
    assert values.shape == (3, 2)
    assert values.dtype == torch.float32
    assert (values == 0).all()


def test_logs_take_predictions_below_zero_for_zero():
    below = torch.tensor([[[-5.0], [3.0]]])
    zero = torch.tensor([[[0.0], [0.0]]])
    assert log2fc(zero, below).tolist() == [[2.0]]
    assert l2_log2(zero, below).tolist() == [[2.0]]
    assert delta_sum(zero, below).tolist() == [[-2.0]]


def test_small_effects_survive_sums_over_many_bins():
    # float32 adds 1 to 2**24 and gets 2**24
    reference = torch.full((1, 4096, 1), 4096.0)
    alternate = reference.clone()
    alternate[0, 0, 0] += 1
    assert delta_sum(reference, alternate).item() == 1.0
    expected = math.log2(1 + 2**24 + 1) - math.log2(1 + 2**24)
    assert log2fc(reference, alternate).item() == pytest.approx(expected, rel=1e-6)


values = st.lists(st.floats(0, 1e6, width=32), min_size=3, max_size=3)


@given(reference=values, alternate=values)
def test_scores_equal_their_formulas_in_plain_arithmetic(reference, alternate):
    pair = torch.tensor(reference)[None, :, None], torch.tensor(alternate)[None, :, None]
    log_ratio = math.log2(1 + sum(alternate)) - math.log2(1 + sum(reference))
    bins = [math.log2(1 + a) - math.log2(1 + r) for r, a in zip(reference, alternate, strict=True)]
    expected = {
        "delta_sum": sum(alternate) - sum(reference),
        "log2fc": log_ratio,
        "l2_log2": math.hypot(*bins),
    }
    for name, score in SCORES.items():
        assert score.function(*pair).item() == pytest.approx(expected[name], rel=1e-6, abs=1e-9)


@given(reference=values, alternate=values)
def test_swapping_alleles_turns_the_sign_of_signed_scores(reference, alternate):
    pair = torch.tensor(reference)[None, :, None], torch.tensor(alternate)[None, :, None]
    for score in SCORES.values():
        there, back = score.function(*pair).item(), score.function(*pair[::-1]).item()
        assert back == (-there if score.signed else there)
        assert score.signed or there >= 0


def test_resolve_scores_knows_aliases_and_keeps_order():
    assert list(resolve_scores(["logD2", "SAD", "log2fc", "logSED"])) == ["l2_log2", "delta_sum", "log2fc"]
    assert resolve_scores(["SAD"]) == {"delta_sum": SCORES["delta_sum"]}


def test_resolve_scores_lists_what_exists():
    with pytest.raises(InputError, match=r"unknown score 'SADD'; choose from delta_sum \(SAD\), log2fc"):
        resolve_scores(["SADD"])
    with pytest.raises(InputError, match="no score asked for"):
        resolve_scores([])
