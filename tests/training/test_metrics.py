import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import average_precision_score, r2_score, roc_auc_score

from cisray.errors import InputError
from cisray.training.metrics import DEFINITIONS, HeldValues, ScoreHistogram, TrackSums, WindowMeans, mean_present


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


def per_window(predictions, targets, metric):
    """Compute a metric for every window and track that has it, and its mean over windows."""
    values = np.full((len(targets), targets.shape[2]), np.nan)
    for window, track in np.ndindex(values.shape):
        present = ~np.isnan(targets[window, :, track])
        x, y = (each[window, present, track].astype(np.float64) for each in (predictions, targets))
        has_it = y.sum() > 0 and x.sum() > 0 if metric is jensenshannon else len(y) > 1 and np.ptp(y) > 0
        if has_it:
            values[window, track] = metric(x, y)
    return values


OF_A_WINDOW = {
    "pearson": lambda x, y: pearsonr(x, y).statistic,
    "r2": lambda x, y: r2_score(y, x),
    "spearman": lambda x, y: spearmanr(x, y).statistic,
    "profile_jsd": jensenshannon,
}


@pytest.mark.parametrize("metric", OF_A_WINDOW)
@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), cut=st.integers(0, 12))
def test_metrics_of_windows_are_those_of_scipy_and_sklearn_however_they_are_dealt(metric, seed, cut):
    predictions, targets = made_up(seed)
    targets[targets < 0.3] = 0  # ties
    targets[0] = np.nan
    targets[1, :, 0] = 5.0
    workers = [WindowMeans(3, [metric]) for _ in "ab"]
    for means, part in zip(workers, (slice(None, cut), slice(cut, None)), strict=True):
        means.update(torch.from_numpy(predictions[part]), torch.from_numpy(targets[part]))
    total = workers[0].sums + workers[1].sums
    workers[0].reduce(lambda _: total)
    expected = per_window(predictions, targets, OF_A_WINDOW[metric])
    assert workers[0].num_windows(metric).tolist() == (~np.isnan(expected)).sum(axis=0).tolist()
    np.testing.assert_allclose(workers[0].mean(metric).numpy(), np.nanmean(expected, axis=0), rtol=1e-6, atol=1e-9)


def test_metrics_of_windows_know_what_they_do_not_know():
    with pytest.raises(InputError, match="metric 'kendall' per window; wanted one of pearson, r2, spearman"):
        WindowMeans(2, ["kendall"])
    means = WindowMeans(2, list(OF_A_WINDOW))
    means.update(torch.ones(3, 5, 2), torch.full((3, 5, 2), torch.nan))
    for metric in OF_A_WINDOW:
        assert torch.isnan(means.mean(metric)).all()
        assert means.num_windows(metric).tolist() == [0, 0]


def test_metrics_of_windows_at_their_extremes():
    targets = torch.rand(4, 50, 1, generator=torch.Generator().manual_seed(0)) + 1e6  # a level far above the spread
    means = WindowMeans(1, ["pearson", "r2", "spearman", "profile_jsd"])
    means.update(targets, targets)
    assert [means.mean(metric).item() for metric in means.metrics] == pytest.approx([1, 1, 1, 0], abs=1e-7)
    means = WindowMeans(1, ["spearman", "profile_jsd"])
    left, right = torch.zeros(1, 10, 1), torch.zeros(1, 10, 1)
    left[0, :5], right[0, 5:] = 1.0, 1.0
    means.update(left, right)
    assert means.mean("profile_jsd").item() == pytest.approx(np.sqrt(np.log(2)))
    assert means.mean("spearman").item() == pytest.approx(-1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("metric", [lambda: WindowMeans(2), lambda: ScoreHistogram(2), lambda: HeldValues(2)])
def test_a_prediction_that_is_no_number_is_not_passed_over(metric, value):
    predictions, targets = torch.rand(3, 4, 2), torch.rand(3, 4, 2)
    predictions[1, 2, 0] = value
    with pytest.raises(FloatingPointError, match="1 of 24 predictions are not finite numbers"):
        metric().update(predictions, targets)
    targets[1, 2, 0] = torch.nan
    metric().update(predictions, targets)  # nothing was measured there


def labelled(seed, *, windows=300, tracks=3, spread=3.0):
    random = np.random.default_rng(seed)
    labels = (random.random((windows, 1, tracks)) < [[[0.5, 0.1, 0.01]]]).astype(np.float32)
    logits = random.normal(labels * 1.5 - 1, spread).astype(np.float32)
    labels[random.random(labels.shape) < 0.1] = np.nan
    return logits, labels


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.01, 10))
def test_areas_are_scikit_learns_for_rounded_scores_and_near_them_for_raw_ones(seed, spread):
    logits, labels = labelled(seed, spread=spread)
    workers = [ScoreHistogram(3) for _ in "abc"]
    for index, histogram in enumerate(workers):
        histogram.update(torch.from_numpy(logits[index::3]), torch.from_numpy(labels[index::3]))
    total = sum(histogram.counts for histogram in workers)
    workers[0].reduce(lambda _: total)
    rounded = np.round(np.clip(logits.astype(np.float64), -32, 32) * 2048) / 2048
    for track in range(3):
        present = ~np.isnan(labels[:, 0, track])
        truth = labels[present, 0, track]
        auroc, precision = workers[0].auroc()[track].item(), workers[0].average_precision()[track].item()
        if truth.min() == truth.max():
            assert np.isnan(auroc)
            assert np.isnan(precision) == (truth.max() == 0)
            continue
        assert auroc == pytest.approx(roc_auc_score(truth, rounded[present, 0, track]), abs=1e-12)
        assert precision == pytest.approx(average_precision_score(truth, rounded[present, 0, track]), abs=1e-12)
        error = workers[0].auroc_error()[track].item()
        assert abs(auroc - roc_auc_score(truth, logits[present, 0, track])) <= error + 1e-12


def test_rounding_scores_moves_areas_by_little():
    logits, labels = labelled(5, windows=20_000)
    histogram = ScoreHistogram(3)
    histogram.update(torch.from_numpy(logits), torch.from_numpy(labels))
    assert histogram.auroc_error().max() < 1e-4
    for track in range(3):
        present = ~np.isnan(labels[:, 0, track])
        truth, scores = labels[present, 0, track], logits[present, 0, track]
        assert histogram.auroc()[track].item() == pytest.approx(roc_auc_score(truth, scores), abs=1e-4)
        assert histogram.average_precision()[track].item() == pytest.approx(
            average_precision_score(truth, scores), abs=2e-3
        )


@pytest.mark.parametrize(("num_tracks", "steps"), [(1, 2048), (16, 2048), (100, 256), (919, 64), (100_000, 64)])
def test_few_tracks_are_told_apart_more_finely_than_many(num_tracks, steps, monkeypatch):
    monkeypatch.setattr(torch, "zeros", lambda *shape, dtype: torch.empty(*shape, dtype=dtype, device="meta"))
    histogram = ScoreHistogram(num_tracks)
    assert histogram.steps == steps
    assert histogram.counts.shape == (2, num_tracks, 64 * steps + 1)


def test_areas_of_the_surest_scores():
    labels = torch.tensor([0.0, 0, 1, 1]).view(4, 1, 1)
    for logits, area in ((labels * 1e6 - 5e5, 1.0), (5e5 - labels * 1e6, 0.0), (torch.zeros(4, 1, 1), 0.5)):
        histogram = ScoreHistogram(1)
        histogram.update(logits, labels)
        assert histogram.auroc().item() == area
    assert histogram.auroc_error().item() == 0.5
    assert histogram.average_precision().item() == 0.5
    assert torch.isnan(ScoreHistogram(2).auroc()).all()
    assert torch.isnan(ScoreHistogram(2).average_precision()).all()


def reduce_together(workers):
    """Reduce workers in threads that wait for each other at every sum, as processes do."""
    barrier, slots = threading.Barrier(len(workers)), [None] * len(workers)

    def run(rank):
        def add(value):
            slots[rank] = value
            barrier.wait()
            total = sum(slots[1:], slots[0])
            barrier.wait()
            return total

        workers[rank].reduce(add, rank=rank)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(workers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("cuts", [[], [5], [0, 7], [3, 3, 9]])
def test_ranks_over_all_bins_are_scipys_whoever_holds_them(cuts):
    predictions, targets = made_up(7)
    targets[targets < 0.3] = 0
    targets[:, :, 2] = np.where(np.isnan(targets[:, :, 2]), np.nan, 1.0)
    predictions = np.round(predictions, 1)
    workers = []
    for part, truth in zip(np.split(predictions, cuts), np.split(targets, cuts), strict=True):
        workers.append(HeldValues(3))
        for window, measured in zip(part, truth, strict=True):
            workers[-1].update(torch.from_numpy(window[None]), torch.from_numpy(measured[None]))
    reduce_together(workers)
    for held in workers:
        spearman = held.spearman()
        for track in range(2):
            present = ~np.isnan(targets[:, :, track])
            expected = spearmanr(predictions[:, :, track][present], targets[:, :, track][present]).statistic
            assert spearman[track].item() == pytest.approx(expected, abs=1e-12)
        assert torch.isnan(spearman[2])  # a constant has no rank
    assert torch.isnan(HeldValues(2).spearman()).all()
