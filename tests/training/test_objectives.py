import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import gammaln
from scipy.stats import multinomial
from sklearn.metrics import log_loss

from cisray.errors import InputError
from cisray.training.objectives import (
    LEAST_RATE,
    OBJECTIVES,
    binary_cross_entropy_loss,
    central_weights,
    cross_entropy_loss,
    poisson_loss,
    poisson_multinomial_loss,
    profile_count_loss,
    squared_error_loss,
)


@given(st.integers(0, 10_000), st.floats(0, 0.9))
def test_the_loss_is_torchs_own_over_the_bins_with_data(seed, masked):
    random = torch.Generator().manual_seed(seed)
    rates = 10 * torch.rand(2, 5, 3, generator=random)
    counts = 20 * torch.rand(2, 5, 3, generator=random)
    present = torch.rand(2, 5, 3, generator=random) >= masked
    present[0, 0, 0] = True
    targets = torch.where(present, counts, torch.nan)
    torchs = torch.nn.PoissonNLLLoss(log_input=False, full=False, eps=LEAST_RATE)
    torch.testing.assert_close(poisson_loss(rates, targets), torchs(rates[present], counts[present]))


def test_masked_bins_move_nothing():
    rates = torch.rand(1, 4, 2).requires_grad_()
    targets = torch.tensor([[[1.0, torch.nan], [torch.nan, 2.0], [0.0, 3.0], [torch.nan, torch.nan]]])
    poisson_loss(rates, targets).backward()
    assert (rates.grad[torch.isnan(targets)] == 0).all()
    assert (rates.grad[~torch.isnan(targets)] != 0).all()


def test_a_batch_without_any_data_is_no_loss():
    rates = torch.rand(1, 4, 2).requires_grad_()
    loss = poisson_loss(rates, torch.full((1, 4, 2), torch.nan))
    loss.backward()
    assert loss == 0
    assert (rates.grad == 0).all()


def test_a_rate_of_zero_stays_finite_and_the_best_rate_is_the_count():
    assert torch.isfinite(poisson_loss(torch.zeros(1, 1, 1), torch.full((1, 1, 1), 100.0)))
    rates = torch.linspace(0.1, 10, 100)
    losses = [poisson_loss(rate.view(1, 1, 1), torch.tensor([[[4.0]]])) for rate in rates]
    assert abs(rates[torch.stack(losses).argmin()] - 4) <= 0.05


def test_half_precision_predictions_are_summed_in_float32():
    rates = torch.full((1, 4096, 1), 3.0, dtype=torch.bfloat16)
    targets = torch.full((1, 4096, 1), 2.0)
    loss = poisson_loss(rates, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.tensor(3 - 2 * torch.log(torch.tensor(3.0)).item()))


def random_values(seed=0, shape=(3, 6, 4)):
    """Make predictions above 0, targets of which a fifth is masked, and a weight per track."""
    random = torch.Generator().manual_seed(seed)
    predictions = 10 * torch.rand(shape, generator=random) + 0.1
    targets = torch.poisson(5 * torch.rand(shape, generator=random), generator=random)
    targets = torch.where(torch.rand(shape, generator=random) < 0.2, torch.nan, targets)
    return predictions, targets, torch.rand(shape[2], generator=random) + 0.1


def weighted_mean(losses, present, weights):
    """Average an array [..., T] by hand, in float64, one entry at a time."""
    total = weight = 0.0
    for index in np.argwhere(present.numpy()):
        total += losses[tuple(index)] * float(weights[index[-1]])
        weight += float(weights[index[-1]])
    return total / weight


def test_tracks_weigh_what_they_are_told_to():
    predictions, targets, weights = random_values()
    present = ~torch.isnan(targets)
    x, y = predictions.double().numpy(), targets.double().numpy()
    expected = weighted_mean(x - y * np.log(x), present, weights)
    assert poisson_loss(predictions, targets, track_weights=weights).item() == pytest.approx(expected, abs=1e-5)
    expected = weighted_mean((x - y) ** 2, present, weights)
    assert squared_error_loss(predictions, targets, track_weights=weights).item() == pytest.approx(expected, rel=1e-5)
    only_first = torch.tensor([1.0, 0, 0, 0])
    for loss in (poisson_loss, squared_error_loss, binary_cross_entropy_loss, poisson_multinomial_loss):
        alone = loss(predictions[:, :, :1], targets[:, :, :1].clamp(max=1))
        torch.testing.assert_close(loss(predictions, targets.clamp(max=1), track_weights=only_first), alone)
        equal = loss(predictions, targets.clamp(max=1), track_weights=torch.full((4,), 7.0))
        torch.testing.assert_close(equal, loss(predictions, targets.clamp(max=1)))


@given(st.integers(0, 10_000))
def test_cross_entropy_of_labels_is_scikit_learns(seed):
    predictions, targets, weights = random_values(seed)
    logits, labels = predictions - 5, torch.where(torch.isnan(targets), targets, (targets > 2).float())
    present = ~torch.isnan(labels)
    loss = binary_cross_entropy_loss(logits, labels, track_weights=weights)
    expected = log_loss(
        labels[present],
        torch.sigmoid(logits[present].double()).numpy(),
        sample_weight=weights.expand_as(labels)[present],
        labels=[0, 1],
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_of_classes_is_torchs_own(weighted):
    predictions, _, weights = random_values()
    classes = torch.randint(4, (3, 6), generator=torch.Generator().manual_seed(1))
    targets = torch.nn.functional.one_hot(classes, 4).float()
    targets[1, 2, 3] = torch.nan  # the bin's class is not known
    known = torch.ones(3, 6, dtype=bool)
    known[1, 2] = False
    chosen = weights if weighted else None
    expected = torch.nn.functional.cross_entropy(predictions[known], classes[known], weight=chosen)
    torch.testing.assert_close(cross_entropy_loss(predictions, targets, track_weights=chosen), expected)


def borzoi_loss(x, y, *, total_weight, position_weights):
    """Compute the loss of one window and track as Borzoi's authors define it, in float64."""
    x, y = x * position_weights, y * position_weights
    poisson = x.sum() - y.sum() * math.log(x.sum())
    multinomial = -sum(count * math.log(rate / x.sum()) for count, rate in zip(y, x, strict=True) if count)
    return (multinomial + total_weight * poisson) / position_weights.sum()


@pytest.mark.parametrize("weight_range", [1.0, 8.0])
def test_poisson_multinomial_is_borzois(weight_range):
    predictions, targets, weights = random_values()
    targets[0, :, 2] = torch.nan  # a track without data in a window
    position_weights = central_weights(6, weight_range=weight_range, exponent=6)
    losses = np.full((3, 4), np.nan)
    for window, track in np.ndindex(3, 4):
        x, y = (each[window, :, track].double().numpy() for each in (predictions, targets))
        present = ~np.isnan(y)
        if present.any():
            w = position_weights.double().numpy()[present]
            losses[window, track] = borzoi_loss(x[present], y[present], total_weight=0.3, position_weights=w)
    expected = weighted_mean(losses, torch.from_numpy(~np.isnan(losses)), weights)
    loss = poisson_multinomial_loss(
        predictions, targets, total_weight=0.3, position_weights=position_weights, track_weights=weights
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_poisson_multinomial_is_least_at_the_counts():
    targets = torch.tensor([3.0, 0.0, 8.0, 1.0]).view(1, 4, 1)
    rates = targets.clone().add_(1e-3).requires_grad_()
    for total_weight in (0.2, 1.0):
        poisson_multinomial_loss(rates, targets, total_weight=total_weight).backward()
        assert rates.grad[targets > 0].abs().max() < 1e-3
        rates.grad = None


def test_weights_of_positions_fall_to_the_ends():
    weights = central_weights(101, weight_range=8, exponent=6)
    assert weights[50] == 1
    assert weights[[0, 100]].tolist() == pytest.approx([1 / 8, 1 / 8])
    assert torch.equal(weights, weights.flip(0))
    assert (weights[:50].diff() >= 0).all()
    assert weights[25:76].min() > 0.9  # flat in the middle half
    assert central_weights(4, weight_range=1, exponent=2).tolist() == [1, 1, 1, 1]
    assert central_weights(1, weight_range=8, exponent=2).tolist() == [1]
    with pytest.raises(InputError, match=r"weight_range=0\.5, exponent=4; wanted at least 1 for either"):
        central_weights(10, weight_range=0.5, exponent=4)


def test_profile_and_count_is_bpnets():
    predictions, targets, weights = random_values(2)
    predictions = predictions - 8  # logits below 0, beside which a masked one must not stand as a 0
    targets = torch.where(torch.isnan(targets), 4.0, targets)
    targets[0, 2, 1] = torch.nan  # of this window only the profile is known
    log_counts = torch.linspace(0, 3, 12).view(3, 4)
    profiles, errors = np.full((3, 4), np.nan), np.full((3, 4), np.nan)
    for window, track in np.ndindex(3, 4):
        present = ~torch.isnan(targets[window, :, track])
        counts = targets[window, present, track].double().numpy()
        logits = predictions[window, present, track].double().numpy()
        shares = np.exp(logits) / np.exp(logits).sum()
        constant = gammaln(counts.sum() + 1) - gammaln(counts + 1).sum()
        profiles[window, track] = -multinomial.logpmf(counts, counts.sum(), shares) + constant
        if present.all():
            errors[window, track] = (log_counts[window, track].item() - math.log(1 + counts.sum())) ** 2
    expected = weighted_mean(profiles, torch.ones(3, 4), weights) + 5 * weighted_mean(
        errors, torch.from_numpy(~np.isnan(errors)), weights
    )
    loss = profile_count_loss((predictions, log_counts), targets, count_weight=5, track_weights=weights)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
@given(seed=st.integers(0, 1000), masked=st.sampled_from([0.0, 0.3, 0.9]), cut=st.integers(0, 6), weighed=st.booleans())
def test_means_of_parts_add_up_to_that_of_the_whole_by_their_weights(name, seed, masked, cut, weighed):
    random = torch.Generator().manual_seed(seed)
    outputs = 0.1 + torch.rand(6, 4, 3, generator=random).double()
    targets = 5 * torch.rand(6, 4, 3, generator=random).double()
    if name == "cross_entropy":
        targets = torch.nn.functional.one_hot(targets.argmax(dim=2), 3).double()
    targets[torch.rand(6, 4, 3, generator=random) < masked] = torch.nan
    settings = {"track_weights": torch.tensor([1.0, 0.0, 2.5])} if weighed else {}
    objective = OBJECTIVES[name]

    def terms(rows):
        given_outputs = (outputs[rows], outputs[rows, 0]) if name == "profile_count" else outputs[rows]
        return objective.terms(given_outputs, targets[rows], **settings).reshape(-1)

    parts = [part for part in (slice(0, cut), slice(cut, 6)) if len(targets[part])]
    weights = torch.stack([objective.weights(targets[part], **settings).reshape(-1) for part in parts])
    shares = weights / weights.sum(dim=0).clamp(min=1e-300)
    added = sum(terms(part) * share for part, share in zip(parts, shares, strict=True))
    torch.testing.assert_close(added, terms(slice(0, 6)).double(), rtol=1e-5, atol=1e-6)


def test_every_objective_has_a_name():
    for name, objective in OBJECTIVES.items():
        assert objective.terms.__name__ == ("profile_count_terms" if name == "profile_count" else f"{name}_loss")


LOSSES = [
    poisson_loss,
    squared_error_loss,
    binary_cross_entropy_loss,
    cross_entropy_loss,
    poisson_multinomial_loss,
    lambda outputs, targets: profile_count_loss((outputs, outputs.sum(dim=1)), targets),
]
NAMES = ["poisson", "squared_error", "binary", "classes", "poisson_multinomial", "profile_count"]


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_what_is_masked_moves_nothing_whatever_was_predicted_there(loss):
    predictions, targets, _ = random_values(3)
    targets = targets.clamp(max=1)
    targets[0] = torch.nan
    masked = torch.isnan(targets)
    if loss is cross_entropy_loss:
        masked = masked.any(dim=2, keepdim=True).expand_as(targets)
    other = torch.where(masked, 1e30, predictions).requires_grad_()
    if loss is LOSSES[-1]:  # the count is predicted from all
        other = torch.where(masked, predictions + 3, predictions).requires_grad_()
        counts = predictions.sum(dim=1)
        ours, moved = (profile_count_loss((each, counts), targets) for each in (predictions, other))
    else:
        ours, moved = loss(predictions, targets), loss(other, targets)
    torch.testing.assert_close(moved, ours)
    moved.backward()
    assert (other.grad[masked] == 0).all()
    assert (other.grad[~masked] != 0).any()


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_nothing_known_is_no_loss_and_no_gradient(loss):
    predictions = torch.rand(2, 3, 4).requires_grad_()
    value = loss(predictions, torch.full((2, 3, 4), torch.nan))
    value.backward()
    assert value == 0
    assert (predictions.grad == 0).all()


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
@pytest.mark.parametrize("level", [0.0, 1e-30, 1e4])
def test_extremes_stay_finite(loss, level):
    predictions = torch.full((2, 3, 4), level).requires_grad_()
    targets = torch.zeros(2, 3, 4)
    targets[1, 1] = 1.0 if loss in (binary_cross_entropy_loss, cross_entropy_loss) else 60_000.0
    value = loss(predictions, targets)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(predictions.grad).all()


def test_logits_of_any_size_stay_finite():
    logits = torch.tensor([-1e4, 1e4, 1e4, -1e4]).view(1, 2, 2).requires_grad_()
    targets = torch.tensor([1.0, 0.0, 1.0, 0.0]).view(1, 2, 2)
    total = binary_cross_entropy_loss(logits, targets) + cross_entropy_loss(logits, targets)
    total = total + profile_count_loss((logits, torch.zeros(1, 2)), targets)
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_under_autocast_the_arithmetic_stays_in_float32(loss):
    predictions, targets, _ = random_values(4, shape=(1, 4096, 2))
    targets = targets.clamp(max=1)
    short = predictions.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(short, targets)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(short.float(), targets), rtol=0.01 if loss is LOSSES[-1] else 1e-6, atol=0)
