import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cisray.errors import InputError
from cisray.genome.sequence import encode
from cisray.scoring.effects import SCORES, resolve_scores
from cisray.scoring.engine import score_pairs

SUMS = resolve_scores(["delta_sum"])


def count_bases(codes):
    """Predict one bin per 2 bases and two tracks: how many A, how many T."""
    pairs = codes.reshape(len(codes), -1, 2)
    return torch.stack([(pairs == 0).sum(2), (pairs == 3).sum(2)], dim=2).float()


def windows(*texts):
    return np.stack([encode(text) for text in texts])


REFERENCE = windows("AACC", "GGGG", "TTTT")
ALTERNATE = windows("AAAA", "GGGT", "TTCC")
ADDED = [[2, 0], [0, 1], [0, -2]]  # A and T gained


@pytest.mark.parametrize("batch_size", [2, 3, 4, 7])
def test_scores_do_not_depend_on_the_batch_size(batch_size):
    found = score_pairs(count_bases, REFERENCE, ALTERNATE, scores=SUMS, strands="forward", batch_size=batch_size)
    assert found.values["delta_sum"].tolist() == ADDED
    assert found.values["delta_sum"].dtype == np.float32
    assert found.noise_floor == {"delta_sum": 0.0}


def test_every_forward_has_one_shape_and_carries_a_null_variant():
    seen = []

    def predict(codes):
        seen.append(codes.clone())
        return count_bases(codes)

    score_pairs(predict, REFERENCE, ALTERNATE, scores=SUMS, strands="both", batch_size=3, swap=np.array([1, 0]))
    assert [tuple(codes.shape) for codes in seen] == [(3, 4)] * 8  # 2 batches, 2 strands, 2 alleles
    assert all(codes.dtype == torch.uint8 for codes in seen)
    reference, alternate = seen[4].numpy(), seen[5].numpy()  # the second batch, forward
    assert (reference == windows("TTTT", "TTTT", "TTTT")).all()
    assert (alternate == windows("TTCC", "TTCC", "TTTT")).all()


def test_a_swap_makes_both_strands_agree_for_a_model_that_respects_them():
    # T on the forward strand is A on the reverse: with the swap the second pass repeats the first
    found = score_pairs(
        count_bases, REFERENCE, ALTERNATE, scores=SUMS, strands="both", batch_size=4, swap=np.array([1, 0])
    )
    assert found.values["delta_sum"].tolist() == ADDED
    unswapped = score_pairs(count_bases, REFERENCE, ALTERNATE, scores=SUMS, strands="both", batch_size=4)
    assert unswapped.values["delta_sum"].tolist() == [[1, 1], [0.5, 0.5], [-1, -1]]


def test_scores_are_averaged_not_predictions():
    def predict(codes):  # [B, 1, 1]: 3 where the window starts with A, 0 elsewhere
        return 3.0 * (codes[:, :1, None] == 0)

    # forward: CC -> AC, 0 -> 3. reverse: GG -> GT, 0 -> 0
    found = score_pairs(predict, windows("CC"), windows("AC"), scores=SCORES, strands="both", batch_size=2)
    assert found.values["log2fc"].item() == 1.0  # (2 + 0) / 2, where the mean of predictions gives log2(2.5)
    assert found.values["delta_sum"].item() == 1.5
    assert found.values["l2_log2"].item() == 1.0


def test_bins_of_the_reverse_pass_are_flipped_back():
    def first_bin_only(reference, alternate):
        return (alternate - reference)[:, 0, :].float()

    scores = {"first": SCORES["delta_sum"]._replace(function=first_bin_only)}
    swap = np.array([1, 0])
    found = score_pairs(
        count_bases, windows("CCCC"), windows("ACCC"), scores=scores, strands="both", batch_size=2, swap=swap
    )
    assert found.values["first"].tolist() == [[1, 0]]


def test_the_noise_floor_is_what_a_variant_that_changes_nothing_scores():
    calls = []

    def drifting(codes):  # every second forward reads 0.25 higher
        calls.append(codes)
        return torch.zeros(len(codes), 1, 2) + torch.tensor([0.25, -0.5]) * (len(calls) % 2 == 0)

    found = score_pairs(drifting, REFERENCE, ALTERNATE, scores=SUMS, strands="forward", batch_size=3)
    assert found.noise_floor == {"delta_sum": 0.5}


def test_no_pairs_score_nothing():
    none = np.empty((0, 4), np.uint8)
    found = score_pairs(count_bases, none, none, scores=SUMS, strands="forward", batch_size=2)
    assert found.values["delta_sum"].shape == (0, 0)
    assert found.noise_floor == {"delta_sum": 0.0}


def test_read_only_codes_are_welcome():
    reference = REFERENCE.copy()
    reference.flags.writeable = False
    found = score_pairs(count_bases, reference, ALTERNATE, scores=SUMS, strands="forward", batch_size=4)
    assert found.values["delta_sum"].tolist() == ADDED


@settings(max_examples=25, deadline=None)
@given(data=st.data(), batch_size=st.integers(2, 5))
def test_scores_equal_those_of_one_pair_at_a_time(data, batch_size):
    letters = st.text("ACGTN", min_size=6, max_size=6)
    pairs = data.draw(st.lists(st.tuples(letters, letters), min_size=1, max_size=7))
    reference, alternate = (windows(*column) for column in zip(*pairs, strict=True))
    found = score_pairs(count_bases, reference, alternate, scores=SUMS, strands="forward", batch_size=batch_size)
    expected = [[a.count(base) - r.count(base) for base in "AT"] for r, a in pairs]
    assert found.values["delta_sum"].tolist() == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alternate_codes": ALTERNATE[:2]}, r"\(3, 4\) and alternate codes \(2, 4\) do not pair up"),
        ({"reference_codes": REFERENCE.astype(int)}, "reference codes are int64"),
        ({"batch_size": 1}, "batch_size=1 leaves no room"),
        ({"strands": "reverse"}, "strands='reverse' is unknown"),
        ({"swap": np.array([1, 1])}, r"swap=\[1, 1\] does not pair 2 tracks"),
        ({"swap": np.array([0], np.uint8)}, r"swap=\[0\] does not pair 2 tracks"),
        ({"predict": lambda codes: count_bases(codes)[:, 0]}, r"the model gave predictions \(4, 2\)"),
        (
            {"predict": lambda codes: count_bases(codes) * float("nan")},
            "delta_sum is not finite for 4 of 4 rows",
        ),
    ],
)
def test_bad_input_is_told(changes, message):
    arguments = {
        "predict": count_bases,
        "reference_codes": REFERENCE,
        "alternate_codes": ALTERNATE,
        "scores": SUMS,
        "strands": "both",
        "batch_size": 4,
    } | changes
    with pytest.raises(InputError, match=message):
        score_pairs(**arguments)
