import numpy as np
import pytest
import torch

from cisray.baselines.estimators import build_shallow
from cisray.baselines.feature_sets import Kmers, PlacedKmers
from cisray.baselines.fitting import fit_shallow
from cisray.baselines.held_out import Windows
from cisray.baselines.linear import LinearConfig
from cisray.baselines.stability import stability
from cisray.baselines.trees import GradientBoostingConfig, RandomForestConfig
from cisray.errors import InputError
from cisray.geometry import Geometry

LENGTH = 40
GEOMETRY = Geometry(window_bp=LENGTH, bin_bp=LENGTH)
KMERS = (Kmers(k=2, fold_strands=False),)
CONFIGS = {
    "linear": LinearConfig(features=KMERS, penalty="l1", penalties=(0.05,)),
    "random_forest": RandomForestConfig(features=KMERS, num_trees=30, leaf_sizes=(3,), feature_share=0.5),
    "gradient_boosting": GradientBoostingConfig(features=KMERS, rounds=(20,), leaf_size=5),
}


def make_windows(num, seed=0):
    """Make windows whose number is how often CG stands there, less half of how often AA does, with noise."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 4, (num, LENGTH), np.uint8)
    texts = ["".join("ACGT"[code] for code in row) for row in codes]
    overlapping = [sum(text[at : at + 2] == "AA" for at in range(LENGTH - 1)) for text in texts]
    signal = np.array([text.count("CG") for text in texts]) - 0.5 * np.array(overlapping)
    return Windows(codes, (signal + random.normal(0, 0.3, num)).astype(np.float32)[:, None])


TRAIN, VALID = make_windows(300), make_windows(80, 1)


def batches(windows):
    return [(torch.from_numpy(windows.codes), torch.from_numpy(windows.targets)[:, None])]


@pytest.fixture(scope="module")
def models():
    made = {}
    for name, config in CONFIGS.items():
        made[name] = build_shallow(config, geometry=GEOMETRY, num_tracks=1)
        fit_shallow(made[name], batches(TRAIN), batches(VALID), kind="measurements")
    return made


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_features_that_matter_are_read_by_every_fit(models, name):
    found = stability(models[name], TRAIN, VALID, kind="measurements", resamples=4)
    assert found.sort == "subjective"
    frequency = dict(zip(found.names, found.frequency[:, 0], strict=True))
    mean = dict(zip(found.names, np.abs(found.mean[:, 0]), strict=True))
    assert frequency["kmers:CG"] == frequency["kmers:AA"] == 1
    assert sorted(mean, key=mean.get)[-2:] == ["kmers:AA", "kmers:CG"]
    assert 0 < found.rank_correlation[0] <= 1
    again = stability(models[name], TRAIN, VALID, kind="measurements", resamples=4)
    np.testing.assert_array_equal(found.mean, again.mean)
    assert (found.deviation > 0).any()


def test_noise_is_read_by_few_fits():
    noise = TRAIN._replace(targets=np.random.default_rng(0).normal(size=(300, 1)).astype(np.float32))
    model = build_shallow(
        LinearConfig(features=(PlacedKmers(),), penalty="l1", penalties=(0.9,)), geometry=GEOMETRY, num_tracks=1
    )
    fit_shallow(model, batches(noise), batches(VALID), kind="measurements")
    found = stability(model, noise, VALID, kind="measurements", resamples=6)
    assert found.frequency.max() <= 5 / 6
    assert found.frequency.sum() > 0


def test_a_track_that_reads_nothing_has_no_rank_correlation():
    constant = TRAIN._replace(targets=np.ones((300, 1), np.float32))
    model = build_shallow(CONFIGS["linear"], geometry=GEOMETRY, num_tracks=1)
    fit_shallow(model, batches(constant), batches(VALID), kind="measurements")
    found = stability(model, constant, VALID, kind="measurements", resamples=2)
    assert np.isnan(found.rank_correlation).all()
    assert (found.frequency == 0).all()


def test_one_fit_is_nothing_to_compare(models):
    with pytest.raises(InputError, match="resamples=1; wanted at least two fits to compare"):
        stability(models["linear"], TRAIN, VALID, kind="measurements", resamples=1)
