import numpy as np
import pytest
import torch

from cisray.baselines.held_out import accuracy
from cisray.baselines.windows import collect
from cisray.errors import InputError


def test_batches_are_held_in_order():
    codes = torch.arange(12, dtype=torch.uint8).view(3, 4) % 5
    targets = torch.arange(6.0).view(3, 1, 2)
    windows = collect([(codes[:2], targets[:2]), (codes[2:], targets[2:])], split="train")
    np.testing.assert_array_equal(windows.codes, codes)
    np.testing.assert_array_equal(windows.targets, targets[:, 0])
    assert windows.codes.dtype == np.uint8


def test_windows_of_several_bins_and_none_at_all_are_refused():
    with pytest.raises(
        InputError, match=r"the valid split has targets of shape \(3, 2, 1\); wanted \[windows, 1, tracks\]"
    ):
        collect([(torch.zeros(3, 4, dtype=torch.uint8), torch.zeros(3, 2, 1))], split="valid")
    with pytest.raises(InputError, match="the train split has no window; build the dataset with folds"):
        collect([], split="train")


def test_labels_are_measured_by_the_pairs_that_are_in_order():
    random = np.random.default_rng(0)
    scores, target = random.integers(0, 5, 60).astype(float), (random.random(60) < 0.4).astype(float)
    target[:7] = np.nan
    pairs = [(x > y) + (x == y) / 2 for x in scores[target == 1] for y in scores[target == 0]]
    assert accuracy("labels", scores, target) == pytest.approx(np.mean(pairs))
    assert np.isnan(accuracy("labels", scores, np.ones(60)))
    assert np.isnan(accuracy("labels", scores, np.full(60, np.nan)))


@pytest.mark.parametrize("kind", ["measurements", "coverage"])
def test_numbers_are_measured_by_their_correlation(kind):
    random = np.random.default_rng(0)
    scores = random.normal(size=40)
    target = (scores + random.normal(size=40)).astype(np.float32)
    target[3] = np.nan
    known = np.arange(40) != 3
    assert accuracy(kind, scores, target) == pytest.approx(np.corrcoef(scores[known], target[known])[0, 1])
    assert np.isnan(accuracy(kind, np.ones(40), target))
    assert np.isnan(accuracy(kind, scores, np.ones(40)))
    assert np.isnan(accuracy(kind, scores[:1], target[:1]))
