import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import logit, rel_entr

from cisray.scoring import formulas
from cisray.scoring.effects import SCORES
from cisray.scoring.formulas import KeptBins


def log2_of_sum(x, c):
    return np.log2(c + np.maximum(x, 0).sum())


def shares(x, k):
    return (np.maximum(x, 0) + k) / (np.maximum(x, 0) + k).sum()


def levelled(r, a):
    k = 1e-9 + np.percentile(np.maximum(r, 0), 25)
    return shares(r, k), shares(a, k)


def logits(x):
    return logit(np.clip(x, 1e-6, 1 - 1e-6))


def jensen_shannon(p, q):
    middle = (p + q) / 2
    divergence = (rel_entr(p, middle).sum() + rel_entr(q, middle).sum()) / 2
    return math.sqrt(max(divergence, 0) / math.log(2))


def log2_bins(x):
    return np.log2(1 + np.maximum(x, 0))


# One track's kept bins [K] of reference and alternate, and the pseudocount: each formula written again, in NumPy.
IN_NUMPY = {
    "delta_sum": lambda r, a, c: a.sum() - r.sum(),
    "delta_mean": lambda r, a, c: a.mean() - r.mean(),
    "log2fc": lambda r, a, c: log2_of_sum(a, c) - log2_of_sum(r, c),
    "sum_log2": lambda r, a, c: log2_bins(a).sum() - log2_bins(r).sum(),
    "max_signed": lambda r, a, c: (a - r)[np.argmax(np.abs(a - r))],
    "max_gain": lambda r, a, c: max(0, *(a - r)),
    "max_loss": lambda r, a, c: max(0, *(r - a)),
    "gain_offset": lambda r, a, c: list(a - r).index(max(a - r)),
    "loss_offset": lambda r, a, c: list(r - a).index(max(r - a)),
    "l1": lambda r, a, c: np.abs(a - r).sum(),
    "l2": lambda r, a, c: math.dist(a, r),
    "l2_log2": lambda r, a, c: math.dist(log2_bins(a), log2_bins(r)),
    "jsd": lambda r, a, c: jensen_shannon(shares(r, 1e-9), shares(a, 1e-9)),
    "jeffreys_half": lambda r, a, c: sum(rel_entr(*pair).sum() for pair in (levelled(r, a), levelled(r, a)[::-1])) / 2,
    "ndi": lambda r, a, c: np.abs(np.subtract(*levelled(r, a))).max(),
    "active_sum": lambda r, a, c: max(r.sum(), a.sum()),
    "active_mean": lambda r, a, c: max(r.mean(), a.mean()),
    "logit_diff": lambda r, a, c: (logits(a) - logits(r)).mean(),
    "prob_diff": lambda r, a, c: a.mean() - r.mean(),
    "deepsea_e": lambda r, a, c: abs((logits(a) - logits(r)).mean()) * abs(a.mean() - r.mean()),
    "gene_log2fc": lambda r, a, c: log2_of_sum(a, c) - log2_of_sum(r, c),
    "gene_ln_mean": lambda r, a, c: math.log(np.maximum(a, 0).mean() + 1e-3) - math.log(np.maximum(r, 0).mean() + 1e-3),
    "ies": lambda r, a, c: abs(IN_NUMPY["log2fc"](r, a, c)) * IN_NUMPY["jsd"](r, a, c),
}


def bins_of(reference, alternate, kept=None, pseudocount=1.0):
    """Make bins of two predictions [R, K, T], with 0 where a mask keeps none."""
    sides = [torch.tensor(np.asarray(side), dtype=torch.float64) for side in (reference, alternate)]
    kept = torch.ones(sides[0].shape[:2], dtype=torch.bool) if kept is None else torch.tensor(kept)
    return KeptBins(*(torch.where(kept[:, :, None], side, 0) for side in sides), kept, pseudocount=pseudocount)


def test_every_score_is_written_again():
    assert IN_NUMPY.keys() == SCORES.keys()


numbers = st.floats(-2, 1e4, width=32) | st.just(0.0)


@settings(max_examples=60, deadline=None)
@given(
    sides=arrays.arrays(np.float64, (2, 3, 5, 2), elements=numbers),
    kept=arrays.arrays(bool, (3, 5)).filter(lambda kept: kept.any(axis=1).all()),
    pseudocount=st.sampled_from([1.0, 0.25]),
)
def test_formulas_equal_numpy_one_mask_and_track_at_a_time(sides, kept, pseudocount):
    found_of = {name: score.of_bins(bins_of(*sides, kept, pseudocount)).numpy() for name, score in SCORES.items()}
    for name, in_numpy in IN_NUMPY.items():
        expected = [
            [
                in_numpy(sides[0, row, kept[row], track], sides[1, row, kept[row], track], pseudocount)
                for track in (0, 1)
            ]
            for row in range(3)
        ]
        # by its definition, a distance loses what cancels in the sum: the root of 1e-16 is 1e-8
        loose = 2e-7 * (1 + np.abs(found_of["log2fc"])) if name in ("jsd", "ies") else 1e-9
        assert (np.abs(found_of[name] - expected) <= loose + 1e-9 * np.abs(expected)).all(), name


def test_bins_of_a_profile_that_a_person_can_check():
    # half of the signal moves from the first bin to the second: p = (1, 0), q = (1/2, 1/2)
    moved = bins_of([[[8.0], [0.0]]], [[[4.0], [4.0]]])
    assert formulas.jsd(moved).item() == pytest.approx(math.sqrt(1.5 - 0.75 * math.log2(3)), abs=1e-6)
    apart = bins_of([[[8.0], [0.0]]], [[[0.0], [3.0]]])
    assert formulas.jsd(apart).item() == pytest.approx(1.0, abs=1e-7)
    # the 25th percentile of 0, 4, 4, 4, 8 is 4: shares of 4, 8, 8, 8, 12 in 40 against 8, 8, 8, 8, 8
    levelled_pair = bins_of([[[0.0], [4.0], [4.0], [4.0], [8.0]]], [[[4.0]] * 5])
    assert formulas.ndi(levelled_pair).item() == pytest.approx(0.1)
    expected = (0.1 * math.log(2) + 0.1 * math.log(1.5)) / 2
    assert formulas.jeffreys_half(levelled_pair).item() == pytest.approx(expected)


def test_the_distance_of_nearly_equal_profiles_keeps_its_digits():
    # for p (1 + e), p (1 - e) the distance is e sqrt(1 / (8 ln 2)) up to e^3; by its definition all digits cancel
    for small in (1e-3, 1e-6, 1e-10):
        pair = bins_of([[[1.0], [1.0]]], [[[1.0 + small], [1.0 - small]]])
        assert formulas.jsd(pair).item() == pytest.approx(small / math.sqrt(8 * math.log(2)), rel=1e-5)


def test_nothing_against_something_is_finite():
    nothing, something = np.zeros((1, 3, 1)), np.array([[[0.0], [5.0], [1.0]]])
    for pair in ((nothing, something), (something, nothing), (nothing, nothing)):
        for name, score in SCORES.items():
            assert torch.isfinite(score.of_bins(bins_of(*pair))).all(), name
    assert formulas.jsd(bins_of(nothing, nothing)).item() == 0


def test_logits_of_certain_predictions_are_bounded():
    certain = bins_of([[[0.0]]], [[[1.0]]])
    assert formulas.logit_diff(certain).item() == pytest.approx(2 * math.log((1 - 1e-6) / 1e-6))
    assert formulas.deepsea_e(certain).item() == formulas.logit_diff(certain).item()


def test_of_equal_differences_the_first_bins_counts():
    tied = bins_of([[[1.0], [5.0], [5.0]]], [[[1.0], [3.0], [7.0]]])
    assert formulas.max_signed(tied).item() == -2


def test_gain_and_loss_are_found_where_they_are():
    # an acceptor that is lost in the first bin, and a weaker one that is made in the last
    pair = bins_of([[[0.9], [0.1], [0.0], [0.0]]], [[[0.2], [0.1], [0.0], [0.5]]])
    assert [score(pair).item() for score in (formulas.max_gain, formulas.gain_place)] == [0.5, 3]
    assert [score(pair).item() for score in (formulas.max_loss, formulas.loss_place)] == [pytest.approx(0.7), 0]
    only_lost = bins_of([[[0.9], [0.8]]], [[[0.2], [0.6]]])
    assert [score(only_lost).item() for score in (formulas.max_gain, formulas.gain_place)] == [0, 1]


def test_a_place_is_counted_among_the_kept_bins_and_fillers_are_none_of_them():
    filled = bins_of([[[1.0], [1.0], [9.0]]], [[[-1.0], [-2.0], [20.0]]], kept=[[True, True, False]])
    assert formulas.gain_place(filled).item() == 0
    assert formulas.max_gain(filled).item() == 0


def test_what_is_not_kept_is_not_seen():
    wide = bins_of([[[1.0], [2.0], [np.nan]]], [[[3.0], [5.0], [9.0]]], kept=[[True, True, False]])
    narrow = bins_of([[[1.0], [2.0]]], [[[3.0], [5.0]]])
    for name, score in SCORES.items():
        assert score.of_bins(wide).item() == score.of_bins(narrow).item(), name


def test_a_prediction_that_is_not_finite_does_not_become_a_number():
    for name, score in SCORES.items():
        assert not torch.isfinite(score.of_bins(bins_of([[[np.nan], [1.0]]], [[[np.nan], [2.0]]]))).any(), name
    for score in (formulas.max_gain, formulas.max_loss, formulas.gain_place, formulas.loss_place):
        assert not torch.isfinite(score(bins_of([[[np.inf], [1.0]]], [[[0.0], [2.0]]]))).any()


def test_the_norm_of_small_changes_of_large_predictions_keeps_its_digits():
    # log2(1 + x + d) - log2(1 + x) is d / ((1 + x) ln 2), up to the square of d: float64 alone has 5 digits of it
    small = bins_of(np.full((1, 2, 1), 1e5), np.full((1, 2, 1), 1e5 + 2.0**-20))
    expected = math.sqrt(2) * 2.0**-20 / ((1 + 1e5) * math.log(2))
    assert formulas.l2_log2(small).item() == pytest.approx(expected, rel=1e-10)
