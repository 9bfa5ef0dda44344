import numpy as np
import pytest
import torch

from cisray.baselines.estimators import GkmSvm, LinearModel, TreeModel, build_shallow
from cisray.baselines.feature_sets import Kmers, PlacedKmers, RegionKmers
from cisray.baselines.fitted import Fitted, Line
from cisray.baselines.fitting import fit_shallow
from cisray.baselines.gkm_estimator import GkmSvmConfig
from cisray.baselines.gkm_filters import GkmSpec
from cisray.baselines.gkm_table import GkmTable
from cisray.baselines.linear import LinearConfig, LinearTrack
from cisray.baselines.trees import GradientBoostingConfig, RandomForestConfig
from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.goals import choose
from cisray.models.outputs import apply_link
from cisray.scoring.engine import Engine, EngineSpec
from cisray.scoring.readout import Model
from engine_cases import full_scores, measure, windows_of

GEOMETRY = Geometry(window_bp=60, bin_bp=60)
CONFIGS = {
    "linear": LinearConfig(features=(Kmers(k=2),), penalties=(0.1,)),
    "linear_regions": LinearConfig(features=(RegionKmers(longest=3, num_parts=3, num_kept=5),), penalties=(0.1,)),
    "gkm_svm": GkmSvmConfig(gkm=GkmSpec(l=4, k=3, d=1), prices=(1.0,)),
    "random_forest": RandomForestConfig(features=(Kmers(k=2),), num_trees=5, leaf_sizes=(3,)),
    "gradient_boosting": GradientBoostingConfig(features=(Kmers(k=2),), rounds=(5,), leaf_size=5),
}


def make_batches(num=80, seed=0, *, num_tracks=2, numbers=False):
    random = np.random.default_rng(seed)
    codes = random.integers(0, 4, (num, 60), np.uint8)
    shares = np.stack([(codes == track).mean(axis=1) for track in range(num_tracks)], axis=1)
    targets = shares if numbers else shares > 0.25
    return [(torch.from_numpy(codes), torch.from_numpy(targets.astype(np.float32))[:, None])]


@pytest.fixture(params=sorted(CONFIGS))
def fitted(request):
    model = build_shallow(CONFIGS[request.param], geometry=GEOMETRY, num_tracks=2)
    fit_shallow(model, make_batches(), make_batches(seed=1), kind="labels")
    return model.eval()


def test_outputs_are_one_log_odds_per_track(fitted):
    ((codes, _),) = make_batches(7, seed=2)
    outputs = fitted(codes)
    assert outputs.shape == (7, 1, 2)
    assert choose("labels", fitted) == ("binary_cross_entropy", "sigmoid")
    expected = fitted.slopes.numpy() * fitted.decide(codes.numpy()) + fitted.offsets.numpy()
    np.testing.assert_array_equal(outputs[:, 0], expected)
    probabilities = apply_link(outputs, "sigmoid")
    assert 0 < probabilities.min() < 0.45 < 0.55 < probabilities.max() < 1


def test_predictions_do_not_depend_on_the_company_or_on_grad(fitted):
    ((codes, _),) = make_batches(7, seed=2)
    whole = fitted(codes)
    with torch.inference_mode():
        for row in (0, 6):
            torch.testing.assert_close(fitted(codes[row : row + 1])[0], whole[row], rtol=1e-12, atol=1e-12)
    assert not whole.requires_grad
    assert len(list(fitted.parameters())) >= 2  # an engine asks the first for its device and type
    assert torch.isfinite(fitted(torch.full((1, 60), 4, dtype=torch.uint8))).all()


def test_a_loaded_state_predicts_the_same_bits(fitted):
    ((codes, _),) = make_batches(9, seed=3)
    again = build_shallow(fitted.config, geometry=GEOMETRY, num_tracks=2)
    again.load_state_dict(fitted.state_dict())
    assert torch.equal(again(codes), fitted(codes))
    assert all(torch.equal(value, fitted.state_dict()[name]) for name, value in again.state_dict().items())


def test_a_model_of_coverage_says_that_its_outputs_are_the_numbers():
    model = build_shallow(CONFIGS["linear"], geometry=GEOMETRY, num_tracks=1)
    assert choose("measurements", model) == ("squared_error", "identity")
    model.aim_at("coverage")
    assert choose("coverage", model) == ("squared_error", "identity")
    again = build_shallow(CONFIGS["linear"], geometry=GEOMETRY, num_tracks=1)
    again.load_state_dict(model.state_dict())
    assert again.least_squares
    model.aim_at("labels")
    assert not model.least_squares


@pytest.mark.parametrize("strands", ["forward", "both"])
def test_variants_are_scored_as_by_forwards_of_both_alleles(fitted, strands):
    model = Model(fitted, "sigmoid", None, np.array([1, 0]), GEOMETRY, 2)
    (window,) = windows_of(GEOMETRY, num_windows=1)
    engine = Engine([model], measure=measure, spec=EngineSpec(batch_size=6, check_rows=4, strands=strands))
    (found,) = list(engine.score([window]))
    expected = []
    for edit in window.edits:
        readings = full_scores(
            model,
            window,
            edit,
            align=engine.spec.align_for(GEOMETRY),
            strands=(False, True) if strands == "both" else (False,),
        )
        expected.append(sum(measure(*each)["delta_sum"] for each in readings) / len(readings))
    np.testing.assert_allclose(found.values["delta_sum"], torch.cat(expected), rtol=1e-6, atol=1e-7)
    assert np.abs(found.values["delta_sum"]).max() > 1e-3


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_several_bins_are_refused(name):
    with pytest.raises(InputError, match=r"labels a window as a whole, but the geometry has 3 bins; wanted one"):
        build_shallow(CONFIGS[name], geometry=Geometry(window_bp=60, bin_bp=20), num_tracks=1)


def test_each_architecture_has_its_model():
    kinds = {name: type(build_shallow(CONFIGS[name], geometry=GEOMETRY, num_tracks=1)) for name in CONFIGS}
    assert kinds == {
        "linear": LinearModel,
        "linear_regions": LinearModel,
        "gkm_svm": GkmSvm,
        "random_forest": TreeModel,
        "gradient_boosting": TreeModel,
    }


def test_fits_of_tracks_are_kept_in_order_and_a_track_without_a_model_is_its_line():
    model = build_shallow(
        LinearConfig(features=(PlacedKmers(),)), geometry=Geometry(window_bp=2, bin_bp=2), num_tracks=2
    )
    track = LinearTrack(np.arange(8.0), 0.5, converged=True)
    model.keep([Fitted(track, Line(2.0, 1.0), 0.1, (0.5,)), Fitted(None, Line(0.0, -3.0), np.nan, (np.nan,))])
    codes = torch.tensor([[1, 3], [0, 4]], dtype=torch.uint8)
    # placed k-mers: column 4 * offset + base
    assert model(codes)[:, 0].tolist() == [[2 * (1 + 7 + 0.5) + 1, -3.0], [2 * 0.5 + 1, -3.0]]


def test_a_table_of_one_track_scores_variants():
    model = build_shallow(CONFIGS["gkm_svm"], geometry=GEOMETRY, num_tracks=2)
    weights = np.random.default_rng(0).normal(size=(2, 4**4)).astype(np.float32)
    model.weights.copy_(torch.from_numpy(weights))
    codes = np.random.default_rng(1).integers(0, 4, (3, 7), np.uint8)
    other = codes.copy()
    other[:, 3] = (codes[:, 3] + 1) % 4
    expected = GkmTable(model.config.gkm, weights[1], 0.0).delta_svm().delta(codes, other)
    np.testing.assert_array_equal(model.delta_svm(1).delta(codes, other), expected)


def test_damaged_states_are_refused():
    model = build_shallow(CONFIGS["linear_regions"], geometry=GEOMETRY, num_tracks=2)
    fit_shallow(model, make_batches(), make_batches(seed=1), kind="labels")
    state = model.state_dict()
    state["coefficients"] = state["coefficients"][:-1]
    with pytest.raises(InputError, match="4 coefficients for 5 features; this model was damaged"):
        build_shallow(model.config, geometry=GEOMETRY, num_tracks=2).load_state_dict(state)
    trees = build_shallow(CONFIGS["random_forest"], geometry=GEOMETRY, num_tracks=2)
    fit_shallow(trees, make_batches(), make_batches(seed=1), kind="labels")
    state = trees.state_dict()
    trees.trees.put(trees.trees.estimators[:1])
    state["trees.skops"] = trees.trees.skops
    with pytest.raises(InputError, match=r"trees\.skops holds 1 estimators for 2 tracks"):
        build_shallow(trees.config, geometry=GEOMETRY, num_tracks=2).load_state_dict(state)
    state.pop("trees.skops")
    with pytest.raises(RuntimeError, match=r"Missing key.*trees\.skops"):
        build_shallow(trees.config, geometry=GEOMETRY, num_tracks=2).load_state_dict(state)
