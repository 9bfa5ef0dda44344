import numpy as np
import pytest

from cisray.baselines.estimators import build_shallow
from cisray.baselines.feature_sets import PlacedKmers
from cisray.baselines.fitting import fit_shallow
from cisray.baselines.linear import LinearConfig
from cisray.baselines.stability import stability
from cisray.errors import InputError
from shallow_cases import CONFIGS, GEOMETRY, TRAIN, VALID, batches, fitted


@pytest.fixture(scope="module")
def models():
    return {name: fitted(name) for name in CONFIGS}


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
