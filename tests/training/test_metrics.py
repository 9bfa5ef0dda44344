import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import r2_score

from cisray.training.metrics import DEFINITIONS, TrackSums, mean_present


def made_up(seed, *, windows=12, bins=7, tracks=3):
    """Make predictions that go along with targets of unlike sizes, some of them masked."""
    random = np.random.default_rng(seed)
    targets = random.gamma(0.7, [[[1.0, 30.0, 4000.0]]], (windows, bins, tracks)).astype(np.float32)
    predictions = (targets * random.uniform(0.5, 1.5, targets.shape) + random.uniform(0, 3)).astype(np.float32)
    targets[random.random(targets.shape) < 0.2] = np.nan
    return predictions, targets


def sums_of(predictions, targets, cuts=()):
    sums = TrackSums(targets.shape[2])
    for part, truth in zip(np.split(predictions, cuts), np.split(targets, cuts), strict=True):
        sums.update(torch.from_numpy(part), torch.from_numpy(truth))
    return sums


@given(st.integers(0, 10_000), st.lists(st.integers(0, 12), max_size=5).map(sorted))
def test_metrics_are_those_of_scipy_and_sklearn_however_the_batches_are_cut(seed, cuts):
    predictions, targets = made_up(seed)
    sums = sums_of(predictions, targets, cuts)
    for track in range(3):
        present = ~np.isnan(targets[:, :, track])
        x, y = (values[:, :, track][present].astype(np.float64) for values in (predictions, targets))
        assert sums.num_bins()[track] == present.sum()
        assert sums.pearson()[track].item() == pytest.approx(pearsonr(x, y).statistic, abs=1e-9)
        assert sums.r2()[track].item() == pytest.approx(r2_score(y, x), rel=1e-7, abs=1e-9)


def test_workers_add_up_to_the_whole():
    predictions, targets = made_up(3)
    parts = [sums_of(predictions[:5], targets[:5]), sums_of(predictions[5:], targets[5:])]
    total = parts[0].sums + parts[1].sums
    for part in parts:
        part.reduce(lambda _: total)
    whole = sums_of(predictions, targets)
    for part in parts:
        torch.testing.assert_close(part.pearson(), whole.pearson(), rtol=1e-12, atol=0)
        torch.testing.assert_close(part.r2(), whole.r2(), rtol=1e-12, atol=0)


@given(st.floats(2**-10, 1000, width=32), st.integers(0, 1000))
def test_a_constant_side_has_no_correlation(level, seed):
    predictions, targets = made_up(seed)
    constant = np.full_like(predictions, level)
    assert torch.isnan(sums_of(constant, targets, cuts=[3, 4]).pearson()).all()
    level_targets = np.where(np.isnan(targets), np.nan, constant).astype(np.float32)
    assert torch.isnan(sums_of(predictions, level_targets, cuts=[3, 4]).pearson()).all()
    assert torch.isnan(sums_of(predictions, level_targets, cuts=[3, 4]).r2()).all()


def test_tracks_without_data_have_no_metric_and_do_not_count():
    predictions, targets = made_up(1)
    targets[:, :, 1] = np.nan
    sums = sums_of(predictions, targets)
    for metric in (sums.pearson(), sums.r2()):
        assert torch.isnan(metric).tolist() == [False, True, False]
        assert mean_present(metric) == pytest.approx((metric[0] + metric[2]).item() / 2)
    assert np.isnan(mean_present(torch.full((2,), torch.nan)))
    assert torch.isnan(TrackSums(2).pearson()).all()


def test_the_extremes_of_a_correlation():
    targets = torch.rand(2, 50, 1) + 1
    for predictions, pearson in ((2 * targets + 5, 1.0), (-targets, -1.0)):
        sums = TrackSums(1)
        sums.update(predictions, targets)
        assert sums.pearson().item() == pytest.approx(pearson, abs=1e-6)
    sums = TrackSums(1)
    sums.update(targets, targets)
    assert sums.r2().item() == 1.0


def test_every_metric_has_its_definition():
    assert {"pearson", "r2"} <= set(DEFINITIONS)
    assert all(len(text) > 20 for text in DEFINITIONS.values())
