import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cisray.errors import InputError
from cisray.scoring import effects
from cisray.scoring.effects import SCORES, USUAL_SCORES, check_scores, make_measure, resolve_scores

# one variant, two bins, two tracks
REFERENCE = torch.tensor([[[1.0, 0.0], [2.0, 3.0]]])
ALTERNATE = torch.tensor([[[3.0, 0.0], [12.0, 0.0]]])
COMPARING = [name for name, score in SCORES.items() if score.compares]


def score_all_bins(name, reference, alternate):
    return SCORES[name].function(reference, alternate)


def test_delta_sum_is_alternate_less_reference():
    assert score_all_bins("delta_sum", REFERENCE, ALTERNATE).tolist() == [[12.0, -3.0]]


def test_log2fc_compares_sums_with_a_pseudocount_of_one():
    # (1 + 15) / (1 + 3) = 4 and (1 + 0) / (1 + 3) = 1/4
    assert score_all_bins("log2fc", REFERENCE, ALTERNATE).tolist() == [[2.0, -2.0]]


def test_l2_log2_is_a_norm_over_bins():
    reference = torch.tensor([[[0.0], [7.0]]])
    alternate = torch.tensor([[[7.0], [127.0]]])  # log2(1 + x): 0, 3 against 3, 7
    assert score_all_bins("l2_log2", reference, alternate).tolist() == [[5.0]]
    assert score_all_bins("l2_log2", alternate, reference).tolist() == [[5.0]]


@pytest.mark.parametrize("name", COMPARING)
def test_no_change_is_exactly_zero_and_results_are_float32(name):
    predictions = torch.rand(3, 5, 2, dtype=torch.float16)
    values = score_all_bins(name, predictions, predictions)
    assert values.shape == (3, 2)
    assert values.dtype == torch.float32
    assert (values == 0).all()


def test_the_activity_of_an_allele_and_a_place_compare_nothing():
    assert set(SCORES) - set(COMPARING) == {"active_sum", "active_mean", "gain_offset", "loss_offset"}
    assert score_all_bins("active_sum", REFERENCE, REFERENCE).tolist() == [[3.0, 3.0]]


def test_logs_take_predictions_below_zero_for_zero():
    below = torch.tensor([[[-5.0], [3.0]]])
    zero = torch.tensor([[[0.0], [0.0]]])
    assert score_all_bins("log2fc", zero, below).tolist() == [[2.0]]
    assert score_all_bins("l2_log2", zero, below).tolist() == [[2.0]]
    assert score_all_bins("delta_sum", zero, below).tolist() == [[-2.0]]


def test_small_effects_survive_sums_over_many_bins():
    # float32 adds 1 to 2**24 and gets 2**24
    reference = torch.full((1, 4096, 1), 4096.0)
    alternate = reference.clone()
    alternate[0, 0, 0] += 1
    assert score_all_bins("delta_sum", reference, alternate).item() == 1.0
    expected = math.log2(1 + 2**24 + 1) - math.log2(1 + 2**24)
    assert score_all_bins("log2fc", reference, alternate).item() == pytest.approx(expected, rel=1e-6)


values = st.lists(st.floats(0, 1e6, width=32), min_size=3, max_size=3)


@given(reference=values, alternate=values)
def test_swapping_alleles_turns_the_sign_of_signed_scores(reference, alternate):
    pair = torch.tensor(reference)[None, :, None], torch.tensor(alternate)[None, :, None]
    for score in SCORES.values():
        there, back = score.function(*pair).item(), score.function(*pair[::-1]).item()
        if not score.one_way:
            assert back == (-there if score.signed else there)
        assert score.signed or there >= 0


def test_scores_that_exchanged_alleles_change_are_named():
    one_way = {name for name, score in SCORES.items() if score.one_way}
    assert one_way == {"jeffreys_half", "ndi", "max_gain", "max_loss", "gain_offset", "loss_offset"}
    there, back = (score_all_bins("max_gain", *pair) for pair in ((REFERENCE, ALTERNATE), (ALTERNATE, REFERENCE)))
    assert (there.tolist(), back.tolist()) == ([[10.0, 0.0]], [[0.0, 3.0]])
    assert torch.equal(back, score_all_bins("max_loss", REFERENCE, ALTERNATE))


def in_one_piece(reference, alternate):
    """Compute three scores over all bins, each as one expression in float64."""
    r, a = reference.double(), alternate.double()
    log_sums = [torch.log2(1 + side.clamp(min=0).sum(dim=1)) for side in (r, a)]
    log_bins = [torch.log2(1 + side.clamp(min=0)) for side in (r, a)]
    return {
        "delta_sum": (a - r).sum(dim=1).float(),
        "log2fc": (log_sums[1] - log_sums[0]).float(),
        "l2_log2": (log_bins[1] - log_bins[0]).square().sum(dim=1).sqrt().float(),
    }


@pytest.mark.parametrize("shape", [(2, 896, 70), (5, 1, 919), (3, 1024, 3)])
def test_in_chunks_the_first_three_scores_are_the_same_to_the_last_bit(shape, monkeypatch):
    monkeypatch.setattr(effects, "VALUES_AT_ONCE_CPU", 1 << 12)
    generator = torch.Generator().manual_seed(7)
    reference = torch.randn(shape, generator=generator).exp() - 0.1
    alternate = reference + 0.01 * torch.randn(shape, generator=generator)
    for name, expected in in_one_piece(reference, alternate).items():
        assert torch.equal(score_all_bins(name, reference, alternate), expected)


def masked_one_by_one(name, reference, alternate, masks, rows):
    """Score each mask alone, over a copy of the bins that it keeps."""
    alone = [
        score_all_bins(name, reference[pair : pair + 1, mask], alternate[pair : pair + 1, mask])[0]
        for mask, pair in zip(masks, rows.tolist(), strict=True)
    ]
    return torch.stack(alone)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    num_masks=st.integers(1, 9),
    share=st.sampled_from([0.05, 0.5, 1.0]),
    at_once=st.sampled_from([1, 64, 300, 1 << 17]),
)
def test_masks_of_many_sizes_score_as_each_alone(seed, num_masks, share, at_once):
    generator = torch.Generator().manual_seed(seed)
    reference, alternate = torch.rand(2, 3, 12, 40, generator=generator)
    masks = torch.rand(num_masks, 12, generator=generator) < share
    masks[torch.arange(num_masks), torch.randint(12, (num_masks,), generator=generator)] = True
    rows = torch.randint(3, (num_masks,), generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(effects, "VALUES_AT_ONCE_CPU", at_once)
        patch.setattr(effects, "FEWEST_TRACKS", 7)
        found = make_measure(SCORES)(reference, alternate, masks, rows)
    assert list(found) == list(SCORES)
    for name, scored in found.items():
        expected = masked_one_by_one(name, reference, alternate, masks, rows)
        assert scored.shape == (num_masks, 40)
        torch.testing.assert_close(scored, expected, rtol=1e-6, atol=1e-12)


def test_one_reference_may_stand_for_many_and_what_is_masked_out_is_not_read():
    alternates = torch.rand(4, 6, 3)
    alternates[2, 5] = torch.nan
    one = torch.rand(1, 6, 3)
    masks = torch.ones(4, 6, dtype=torch.bool)
    masks[:, 5] = False
    measure = make_measure(["log2fc", "l1"])
    found = measure(one.expand(4, -1, -1), alternates, masks, torch.arange(4))
    for pair in range(4):
        alone = measure(one, alternates[pair : pair + 1], masks[:1], torch.zeros(1, dtype=torch.int32))
        for name in found:
            assert torch.isfinite(found[name]).all()
            assert torch.equal(found[name][pair], alone[name][0])


def test_no_masks_give_no_rows():
    none = make_measure(["l2"])(REFERENCE, ALTERNATE, torch.empty(0, 2, dtype=torch.bool), torch.empty(0).long())
    assert none["l2"].shape == (0, 2)


def test_the_pseudocount_is_in_the_score_and_in_its_formula():
    measure = make_measure(["log2fc", "l2_log2", "ies"], pseudocount=0.5)
    found = measure(REFERENCE, ALTERNATE, torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, dtype=torch.long))
    assert found["log2fc"][0, 0].item() == pytest.approx(math.log2(15.5 / 3.5))
    assert measure.formulas["log2fc"] == "log2(0.5 + sum(max(a, 0))) - log2(0.5 + sum(max(r, 0)))"
    assert measure.formulas["l2_log2"] == SCORES["l2_log2"].formula
    assert measure.formulas["ies"].startswith("|log2(0.5 + sum(max(a, 0))) - log2(0.5")
    usual = make_measure(SCORES).formulas
    assert usual == {name: score.formula for name, score in SCORES.items()}


@pytest.mark.parametrize("pseudocount", [0.0, -1.0, math.inf, math.nan])
def test_a_pseudocount_below_zero_is_told(pseudocount):
    with pytest.raises(InputError, match=r"pseudocount=.*; wanted a number above 0"):
        make_measure(["log2fc"], pseudocount=pseudocount)


ALL = torch.ones(1, 2, dtype=torch.bool)
FIRST = torch.zeros(1, dtype=torch.long)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alternate": ALTERNATE[:, :1]}, r"reference predictions are \(1, 2, 2\) and alternate \(1, 1, 2\)"),
        ({"reference": REFERENCE[0], "alternate": ALTERNATE[0]}, r"wanted \[pairs, bins, tracks\] of both"),
        ({"masks": ALL.long()}, r"masks are torch.int64 \(1, 2\) .* wanted bool \[masks, 2\]"),
        ({"masks": torch.ones(1, 3, dtype=torch.bool)}, r"masks are torch.bool \(1, 3\)"),
        (
            {"rows": torch.zeros(2, dtype=torch.long)},
            r"with rows \(2,\); wanted bool \[masks, 2\] and one row per mask",
        ),
        ({"rows": FIRST + 1}, "rows reach from 1 to 1; wanted 0 to 0"),
        ({"rows": FIRST - 1}, "rows reach from -1 to -1"),
        ({"masks": ~ALL}, "mask 0 of 1 keeps no bin; leave it out, and give its variant a status instead"),
    ],
)
def test_what_does_not_fit_together_is_told(changes, message):
    arguments = {"reference": REFERENCE, "alternate": ALTERNATE, "masks": ALL, "rows": FIRST} | changes
    with pytest.raises(InputError, match=message):
        make_measure(["l1"])(**arguments)


def test_resolve_scores_knows_aliases_and_keeps_order():
    assert list(resolve_scores(["logD2", "SAD", "log2fc", "logSED"])) == ["l2_log2", "delta_sum", "log2fc"]
    assert resolve_scores(["SAD"]) == {"delta_sum": SCORES["delta_sum"]}


def test_resolve_scores_lists_what_exists():
    with pytest.raises(InputError, match=r"unknown score 'SADD'; choose from delta_sum \(SAD, SUM, SED, DIFF_SUM\), "):
        resolve_scores(["SADD"])
    with pytest.raises(InputError, match="no score asked for"):
        resolve_scores([])


def test_the_fields_names_for_scores_are_known():
    calico = ["SAD", "SUM", "SED", "SAX", "D1", "D2", "logSED", "logSUM", "logSAD", "logD2", "JS", "nDi"]
    alphagenome = ["DIFF_MEAN", "DIFF_SUM", "DIFF_LOG2_SUM", "DIFF_SUM_LOG2", "L2_DIFF", "ACTIVE_SUM", "ACTIVE_MEAN"]
    splicing = [f"{what}_{where}{how}" for what in ("DS", "DP") for where in "AD" for how in "GL"]
    assert list(resolve_scores(splicing)) == ["max_gain", "max_loss", "gain_offset", "loss_offset"]
    for name in [*calico, *alphagenome, *splicing, "GeneMaskLFC", "abs_logfc_x_jsd", "diff", "logit", "deepsea_effect"]:
        assert len(resolve_scores([name])) == 1
    every = [name for known, score in SCORES.items() for name in (known, *score.aliases)]
    assert len(every) == len(set(every))


@pytest.mark.parametrize(
    ("name", "settings_of", "message"),
    [
        (
            "log2fc",
            {"kind": "measurements", "link": "identity"},
            "score log2fc suits coverage and labels, and .* are measurements; choose from delta_sum, .* l2$",
        ),
        ("logit_diff", {"kind": "coverage", "link": "softplus"}, "logit_diff suits labels, and .* are coverage"),
        ("jsd", {"kind": "labels", "link": "sigmoid"}, "score jsd suits coverage, and .* are labels"),
        ("deepsea_e", {"kind": "labels", "link": "identity"}, "reads probabilities, and this model's predictions have"),
        ("gene_log2fc", {"kind": "coverage", "link": "identity"}, r"give it the mask gene\(exon\) or gene\(span\)"),
    ],
)
def test_a_score_that_does_not_suit_the_model_is_told(name, settings_of, message):
    with pytest.raises(InputError, match=message):
        check_scores(resolve_scores(["delta_sum", name]), of_genes=False, **settings_of)


def test_a_score_that_suits_the_model_is_fine():
    check_scores(resolve_scores(["log2fc", "jsd", "ies"]), kind="coverage", link="profile", of_genes=False)
    check_scores(resolve_scores(["GeneMaskLFC", "log2fc"]), kind="coverage", link="identity", of_genes=True)
    check_scores(resolve_scores(["logit_diff", "delta_sum"]), kind="labels", link="sigmoid", of_genes=False)


@pytest.mark.parametrize(
    ("kind", "link"), [("coverage", "identity"), ("labels", "sigmoid"), ("measurements", "identity")]
)
def test_the_usual_scores_suit_their_targets(kind, link):
    check_scores(resolve_scores(USUAL_SCORES[kind]), kind=kind, link=link, of_genes=False)


def test_scores_are_those_of_numpy_at_the_size_of_a_large_model():
    generator = np.random.default_rng(3)
    reference = generator.gamma(0.5, 2.0, (1, 896, 200)).astype(np.float32)
    alternate = reference * np.exp(generator.normal(0, 0.05, reference.shape)).astype(np.float32)
    masks = np.zeros((2, 896), bool)
    masks[0, 446:450] = True
    masks[1, ::3] = True
    measure = make_measure(["log2fc", "delta_sum"])
    found = measure(*map(torch.from_numpy, (reference, alternate, masks)), torch.zeros(2, dtype=torch.long))
    for row, mask in enumerate(masks):
        sums = [side[0, mask].astype(np.float64).sum(axis=0) for side in (reference, alternate)]
        np.testing.assert_allclose(found["delta_sum"][row], sums[1] - sums[0], rtol=1e-6)
        np.testing.assert_allclose(found["log2fc"][row], np.log2((1 + sums[1]) / (1 + sums[0])), rtol=1e-6)
