import pickle

import numpy as np
import pytest
import torch

from cisray.baselines.estimators import build_shallow
from cisray.baselines.feature_sets import Composition, FeatureMaker, Kmers, RegionKmers
from cisray.baselines.fitting import describe, fit_shallow, fit_tables, fit_track
from cisray.baselines.gkm_estimator import GkmSvmConfig
from cisray.baselines.gkm_filters import GkmSpec
from cisray.baselines.held_out import accuracy
from cisray.baselines.linear import LinearConfig
from cisray.baselines.trees import GradientBoostingConfig, RandomForestConfig
from cisray.baselines.windows import Table
from cisray.errors import InputError
from cisray.geometry import Geometry

LENGTH = 60
GEOMETRY = Geometry(window_bp=LENGTH, bin_bp=LENGTH)
WORD = [0, 2, 3, 1, 0]  # AGTCA
CONFIGS = [
    LinearConfig(features=(Kmers(k=4),), penalty="l1", penalties=(0.3, 0.1)),
    LinearConfig(features=(Kmers(k=4),), penalty="l2", penalties=(10.0, 1.0)),
    LinearConfig(features=(RegionKmers(longest=5, num_parts=4, num_kept=30), Composition()), penalties=(0.3, 0.1)),
    GkmSvmConfig(gkm=GkmSpec(l=6, k=4, d=2), prices=(0.1, 1.0)),
    RandomForestConfig(features=(Kmers(k=4),), num_trees=40, leaf_sizes=(5,), feature_share=0.3),
    GradientBoostingConfig(features=(Kmers(k=4),), rounds=(10, 20), leaf_size=5),
]
IDS = ["l1", "l2", "regions", "gkm", "forest", "boosting"]


def make_data(num=240, seed=0, *, kind="labels"):
    """Make windows of which a half holds AGTCA, and targets that say so, by labels or by noisy numbers."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 4, (num, LENGTH), np.uint8)
    has = np.arange(num) % 2 == 0
    for row in np.flatnonzero(has):
        for start in random.integers([0, 20, 38], [20, 35, 53]):
            codes[row, start : start + 5] = WORD
    target = has if kind == "labels" else 3 * has + random.normal(size=num)
    return codes, target.astype(np.float32)[:, None]


def batches(codes, targets, size=50):
    rows = range(0, len(codes), size)
    return [(torch.from_numpy(codes[i : i + size]), torch.from_numpy(targets[i : i + size])[:, None]) for i in rows]


def fit(config, *, kind="labels", seed=0, targets=None, **settings):
    codes, own = make_data(kind=kind)
    own = own if targets is None else targets
    model = build_shallow(config, geometry=GEOMETRY, num_tracks=own.shape[1])
    valid_codes, valid = make_data(120, seed=1, kind=kind)
    valid = np.repeat(valid, own.shape[1], axis=1)
    rows = fit_shallow(
        model, iter(batches(codes, own)), iter(batches(valid_codes, valid)), kind=kind, seed=seed, **settings
    )
    return model, rows


@pytest.mark.parametrize("kind", ["labels", "measurements"])
@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_a_planted_word_is_learned_and_told_on_fresh_windows(config, kind):
    model, rows = fit(config, kind=kind)
    codes, target = make_data(200, seed=7, kind=kind)
    found = accuracy(kind, model.decide(codes)[:, 0], target[:, 0])
    assert found > (0.9 if kind == "labels" else 0.6)
    metric = {"labels": "valid.auroc", "measurements": "valid.pearson"}[kind]
    assert len(rows) == len(config.settings)
    assert max(row[metric] for row in rows) == pytest.approx(found, abs=0.1)
    assert sum(row["num_chosen"] for row in rows) == 1
    assert rows[0]["num_calibrated"] == (kind == "labels")


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_equal_seeds_give_equal_bits(config):
    states = [fit(config, seed=5)[0].state_dict() for _ in range(2)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("config", [config for config in CONFIGS if config is not CONFIGS[2]])
def test_a_missing_target_is_as_if_the_window_were_not_there(config):
    codes, target = make_data()
    gone = np.random.default_rng(3).random(240) < 0.3
    masked = np.where(gone[:, None], np.nan, target).astype(np.float32)
    other = np.random.default_rng(4).integers(0, 2, (240, 1)).astype(np.float32)
    both, _ = fit(config, targets=np.concatenate([masked, other], axis=1))
    alone = build_shallow(config, geometry=GEOMETRY, num_tracks=1)
    valid = batches(*make_data(120, seed=1))
    fit_shallow(alone, batches(codes[~gone], target[~gone]), valid, kind="labels")
    fresh = make_data(20, seed=8)[0]
    np.testing.assert_allclose(both.decide(fresh)[:, 0], alone.decide(fresh)[:, 0], rtol=1e-6, atol=1e-6)


def test_probabilities_are_calibrated():
    random = np.random.default_rng(0)
    config = LinearConfig(features=(Kmers(k=1),), penalty="l2", penalties=(1e-4,))
    parts = []
    for num in (600, 4000, 4000):
        codes = random.integers(0, 4, (num, LENGTH), np.uint8)
        logit = ((codes == 0).sum(axis=1) + (codes == 3).sum(axis=1) - 30) * 0.4
        parts.append((codes, (random.random(num) < 1 / (1 + np.exp(-logit))).astype(np.float32)[:, None]))
    model = build_shallow(config, geometry=GEOMETRY, num_tracks=1)
    fit_shallow(model, batches(*parts[0]), batches(*parts[1]), kind="labels")
    codes, labels = parts[2]
    probability = torch.sigmoid(model(torch.from_numpy(codes)))[:, 0, 0].numpy()
    for low in np.arange(0, 1, 0.2):
        here = (probability >= low) & (probability < low + 0.2)
        assert labels[here, 0].mean() == pytest.approx(probability[here].mean(), abs=0.05)


def test_coverage_of_windows_is_fitted_as_numbers():
    codes, target = make_data(kind="measurements")
    states = []
    for kind in ("measurements", "coverage"):
        model = build_shallow(CONFIGS[0], geometry=GEOMETRY, num_tracks=1)
        fit_shallow(model, batches(codes, target), batches(codes, target), kind=kind)
        states.append(model.state_dict())
        assert model.least_squares == (kind == "coverage")
    assert torch.equal(states[0]["coefficients"], states[1]["coefficients"])


def test_tracks_from_which_nothing_can_be_learned_harm_no_other():
    targets = np.concatenate([make_data()[1], np.ones((240, 1)), np.full((240, 1), np.nan)], axis=1).astype(np.float32)
    for config in CONFIGS:
        model, rows = fit(config, targets=targets)
        outputs = model(torch.from_numpy(make_data(5, seed=9)[0]))[:, 0]
        assert torch.isfinite(outputs).all()
        np.testing.assert_allclose(outputs[:, 1], np.log(241), rtol=1e-6)
        assert (outputs[:, 2] == 0).all()
        assert rows[0]["num_constant"] == 2
        assert outputs[:, 0].std() > 0


def test_tracks_can_be_fitted_anywhere_in_any_order():
    targets = np.repeat(make_data()[1], 3, axis=1)
    targets[:100, 1] = 1 - targets[:100, 1]
    asked = []

    def backwards(function, tracks):
        found, function = {}, pickle.loads(pickle.dumps(function))  # as it goes to another machine
        for track in reversed(list(tracks)):
            asked.append(track)
            found[track] = function(track)
        return [found[track] for track in sorted(found)]

    one, _ = fit(CONFIGS[0], targets=targets)
    other, _ = fit(CONFIGS[0], targets=targets, spread=backwards)
    assert asked == [2, 1, 0]
    assert all(torch.equal(one.state_dict()[name], other.state_dict()[name]) for name in one.state_dict())


def test_features_do_not_depend_on_the_batches():
    codes, target = make_data(50)
    maker = FeatureMaker((Kmers(k=3),), window_bp=LENGTH)
    for size in (1, 7, 50):
        table = describe(maker, batches(codes, target, size), split="train")
        np.testing.assert_array_equal(table.rows.toarray(), maker(codes).toarray())
        np.testing.assert_array_equal(table.targets, target)
        assert table.rows.indices.dtype == np.int32
    with pytest.raises(InputError, match="the test split has no window"):
        describe(maker, [], split="test")


@pytest.mark.parametrize("number", [0, 4, 5], ids=["l1", "forest", "boosting"])
def test_a_fit_to_features_is_the_fit_to_their_windows(number):
    config = CONFIGS[number]
    model, rows = fit(config)
    other = build_shallow(config, geometry=GEOMETRY, num_tracks=1)
    tables = [Table(other.features(codes), target) for codes, target in (make_data(), make_data(120, seed=1))]
    assert fit_tables(other, *tables, kind="labels") == rows
    assert all(torch.equal(values, other.state_dict()[name]) for name, values in model.state_dict().items())


def test_fits_that_end_early_and_windows_left_out_are_counted():
    _, rows = fit(LinearConfig(features=(Kmers(k=3),), penalty="l1", penalties=(1e-4,), max_rounds=1))
    assert rows[0]["num_unconverged"] == 1
    _, rows = fit(GkmSvmConfig(gkm=GkmSpec(l=5, k=3, d=1), prices=(1.0,), most_windows=100))
    assert (rows[0]["num_thinned"], rows[0]["num_blank"]) == (140, 0)
    assert list(rows[0])[:2] == ["price", "valid.auroc"]


def test_a_split_without_windows_is_refused():
    model = build_shallow(CONFIGS[0], geometry=GEOMETRY, num_tracks=1)
    with pytest.raises(InputError, match="the valid split has no window"):
        fit_shallow(model, batches(*make_data()), [], kind="labels")


def test_a_track_keeps_the_setting_that_does_best_on_the_validation_split():
    random = np.random.default_rng(0)
    codes = random.integers(0, 4, (60, LENGTH), np.uint8)
    maker = FeatureMaker((Kmers(k=3),), window_bp=LENGTH)
    noise = random.normal(size=(60, 1))
    config = LinearConfig(features=(Kmers(k=3),), penalty="l2", penalties=(100.0, 1e-4))
    train = Table(maker(codes), noise)
    # on what it has learned by heart the weakest penalty is best
    assert fit_track(config, train, train, "measurements", 0, 0).setting == 1e-4
    strong = fit_track(config, train, train, "measurements", 0, 0).tried
    assert strong[0] < strong[1]


def test_windows_that_have_no_feature_are_refused():
    config = LinearConfig(features=(RegionKmers(longest=2, num_parts=2, num_kept=5),))
    blank, target = np.full((20, LENGTH), 4, np.uint8), make_data(20)[1]
    model = build_shallow(config, geometry=GEOMETRY, num_tracks=1)
    with pytest.raises(
        InputError, match=r"linear: no k-mer of any region varies among 20 training windows; name other"
    ):
        fit_shallow(model, batches(blank, target), batches(blank, target), kind="labels")
