import numpy as np
import pytest
import torch
from pydantic import ValidationError

from cisray.baselines.kmer_ridge import KmerRidge, KmerRidgeConfig
from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.goals import ObjectiveSpec, choose, make_goal, start_at_means
from cisray.models.basenji import BasenjiConfig, build_basenji
from cisray.models.bpnet import BPNetConfig, build_bpnet
from cisray.models.deepbind import DeepBindConfig, build_deepbind
from cisray.models.outputs import ProfileAndCount
from cisray.training.objectives import (
    binary_cross_entropy_loss,
    central_weights,
    poisson_loss,
    poisson_multinomial_loss,
    profile_count_loss,
    squared_error_loss,
)

WINDOW = Geometry(window_bp=64, bin_bp=64)
BINS = Geometry(window_bp=64, bin_bp=8)
BASES = Geometry(window_bp=64, bin_bp=1)
TRACKS = 3


@pytest.fixture
def networks():
    """Small networks that return rates, one number per track, and a profile with a count; and a linear one."""
    torch.manual_seed(0)
    small = BasenjiConfig(stem_channels=4, channels=8, dilated_layers=1, dilated_channels=4, head_channels=8)
    built = {
        "rates": build_basenji(small, geometry=BINS, num_tracks=TRACKS),
        "numbers": build_deepbind(DeepBindConfig(), geometry=WINDOW, num_tracks=TRACKS),
        "profile": build_bpnet(BPNetConfig(channels=4, dilated_layers=2), geometry=BASES, num_tracks=TRACKS),
        "linear": KmerRidge(KmerRidgeConfig(), geometry=BINS, num_tracks=TRACKS),
    }
    return {name: network.eval() for name, network in built.items()}


@pytest.mark.parametrize(
    ("kind", "name", "objective", "link"),
    [
        ("coverage", "rates", "poisson", "identity"),
        ("coverage", "numbers", "poisson", "softplus"),
        ("coverage", "profile", "profile_count", "profile"),
        ("labels", "numbers", "binary_cross_entropy", "sigmoid"),
        ("measurements", "numbers", "squared_error", "identity"),
        ("coverage", "linear", "squared_error", "identity"),
        ("labels", "linear", "squared_error", "identity"),
        ("measurements", "linear", "squared_error", "identity"),
    ],
)
def test_targets_and_outputs_decide_what_is_minimised(networks, kind, name, objective, link):
    assert choose(kind, networks[name]) == (objective, link)


@pytest.mark.parametrize(
    ("kind", "name", "wanted", "message"),
    [
        (
            "labels",
            "rates",
            None,
            "targets are labels, and this architecture predicts rates; choose one that returns one",
        ),
        ("measurements", "rates", None, "targets are measurements, and this architecture predicts rates"),
        ("labels", "profile", None, "predicts a profile and a count"),
        ("coverage", "rates", "profile_count", r"wanted one of poisson, poisson_multinomial, squared_error"),
        ("labels", "numbers", "poisson", r"training\.objective\.name=poisson: for labels"),
    ],
)
def test_what_does_not_go_together_is_refused(networks, kind, name, wanted, message):
    with pytest.raises(InputError, match=message):
        choose(kind, networks[name], wanted)


def test_settings_that_cannot_be_are_refused():
    for wrong in ({"total_weight": -1.0}, {"count_weight": -1.0}, {"weight_range": 0.5}, {"weight_exponent": 0}):
        with pytest.raises(ValueError, match="wanted weights of 0 or more"):
            ObjectiveSpec(**wrong)


def outputs_of(network, bins):
    codes = torch.randint(0, 4, (5, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    targets = torch.rand(5, bins, TRACKS, generator=torch.Generator().manual_seed(2))
    targets[0, 0, 1] = torch.nan
    return network(codes), targets


@pytest.mark.parametrize(
    ("kind", "name", "bins", "spec", "expected"),
    [
        ("coverage", "rates", 8, ObjectiveSpec(), poisson_loss),
        ("coverage", "rates", 8, ObjectiveSpec(name="squared_error"), squared_error_loss),
        (
            "coverage",
            "rates",
            8,
            ObjectiveSpec(name="poisson_multinomial", total_weight=0.7, weight_range=5.0),
            lambda outputs, targets: poisson_multinomial_loss(
                outputs,
                targets,
                total_weight=0.7,
                position_weights=central_weights(8, weight_range=5.0, exponent=4),
            ),
        ),
        ("coverage", "numbers", 1, ObjectiveSpec(), lambda o, t: poisson_loss(torch.nn.functional.softplus(o), t)),
        (
            "coverage",
            "profile",
            64,
            ObjectiveSpec(count_weight=3.0),
            lambda outputs, targets: profile_count_loss(outputs, targets, count_weight=3.0),
        ),
        ("labels", "numbers", 1, ObjectiveSpec(), binary_cross_entropy_loss),
        ("measurements", "numbers", 1, ObjectiveSpec(), squared_error_loss),
    ],
)
def test_a_goal_minimises_its_objective_and_predicts_in_the_targets_units(networks, kind, name, bins, spec, expected):
    outputs, targets = outputs_of(networks[name], bins)
    goal = make_goal(kind, networks[name], spec, num_bins=bins)
    torch.testing.assert_close(goal.terms(outputs, targets).sum(), expected(outputs, targets))
    predictions = goal.predict(outputs)
    assert predictions.shape == targets.shape
    assert goal.labels == (kind == "labels")
    if kind == "labels":
        torch.testing.assert_close(predictions, torch.sigmoid(outputs))
    if isinstance(outputs, ProfileAndCount):
        torch.testing.assert_close(predictions.sum(dim=1), torch.expm1(outputs.log_counts).clamp(min=0))


@pytest.mark.parametrize(
    ("kind", "name", "bins", "means"),
    [
        ("coverage", "rates", 8, [0.5, 2.0, 30.0]),
        ("labels", "numbers", 1, [0.1, 0.5, 0.02]),
        ("measurements", "numbers", 1, [-4.0, 0.0, 7.5]),
    ],
)
def test_first_predictions_are_the_means(networks, kind, name, bins, means):
    network = networks[name]
    start_at_means(kind, network, means)
    outputs, _ = outputs_of(network, bins)
    goal = make_goal(kind, network, ObjectiveSpec(), num_bins=bins)
    first = goal.predict(outputs).detach().mean(dim=(0, 1)).numpy()
    np.testing.assert_allclose(first, means, rtol=0.25, atol=0.25)


def test_a_linear_model_is_left_as_it_is(networks):
    before = {name: weight.clone() for name, weight in networks["linear"].state_dict().items()}
    start_at_means("labels", networks["linear"], [0.1, 0.2, 0.3])
    assert all(torch.equal(weight, before[name]) for name, weight in networks["linear"].state_dict().items())


def test_tracks_weigh_what_the_job_says(networks):
    outputs, targets = torch.rand(2, 8, TRACKS), torch.rand(2, 8, TRACKS)
    spec = ObjectiveSpec(track_weights={"b": 3.0, "elsewhere": 5.0})
    goal = make_goal("coverage", networks["rates"], spec, num_bins=8, tracks=["a", "b", "c"])
    weights = torch.tensor([1.0, 3.0, 1.0])
    torch.testing.assert_close(goal.terms(outputs, targets), poisson_loss(outputs, targets, track_weights=weights))
    assert goal.weights(targets) == 2 * 8 * weights.sum()
    plain = make_goal("coverage", networks["rates"], spec, num_bins=8, tracks=["x", "y", "z"])
    torch.testing.assert_close(plain.terms(outputs, targets), poisson_loss(outputs, targets))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"track_weights": {"d": 1}}, r"track_weights.d: no such track; the dataset has a, b$"),
        ({"head_weights": {"rat": 1}}, r"head_weights.rat: no such head; the network has human, mouse$"),
    ],
)
def test_weights_of_what_is_not_there_are_refused(weights, message):
    spec = ObjectiveSpec(**weights)
    with pytest.raises(InputError, match=message):
        spec.check_names({"human": ["a", "b"], "mouse": ["a"]})
    ObjectiveSpec(track_weights={"a": 0.0}, head_weights={"mouse": 2}).check_names({"human": ["a"], "mouse": ["a"]})


def test_a_network_of_one_head_has_none_to_weigh():
    with pytest.raises(InputError, match=r"no such head; the network has one without a name$"):
        ObjectiveSpec(head_weights={"human": 1}).check_names({None: ["a"]})


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan")])
def test_weights_are_numbers_of_zero_or_more(weight):
    with pytest.raises(ValidationError, match=r"head_weights.human=.*; wanted zero or more"):
        ObjectiveSpec(head_weights={"human": weight})
