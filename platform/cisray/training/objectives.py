"""What training minimises: each objective is a mean over what was measured, with a weight per track.

Every function takes what a network returns and targets [B, N, T], in which NaN says that nothing was measured: such a
bin weighs nothing. The arithmetic is in float32 whatever the network computed in.

A batch that is computed in parts, by one worker or many, has the loss of the whole when each part's mean counts by its
weight, for which every objective has a function beside it.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cisray.errors import InputError

# Keeps the logarithm finite where a rate underflows to zero.
LEAST_RATE = 1e-6


def poisson_loss(predictions: Tensor, targets: Tensor, *, track_weights: Tensor | None = None) -> Tensor:
    """Return the mean Poisson negative log-likelihood over bins with data, less its constant term.

    Args:
        predictions: rates, [B, N, T].
        targets: counts or coverage, [B, N, T].
        track_weights: [T]; None weighs all tracks alike.
    """
    present = ~torch.isnan(targets)
    counts = torch.where(present, targets, 0.0)
    rates = torch.where(present, predictions, 1.0).float()
    return _mean(rates - counts * torch.log(rates + LEAST_RATE), present, track_weights)


def squared_error_loss(predictions: Tensor, targets: Tensor, *, track_weights: Tensor | None = None) -> Tensor:
    """Return the mean squared error of predictions [B, N, T] over bins with data."""
    present = ~torch.isnan(targets)
    errors = torch.where(present, predictions.float() - targets, 0.0)
    return _mean(errors.square(), present, track_weights)


def binary_cross_entropy_loss(logits: Tensor, targets: Tensor, *, track_weights: Tensor | None = None) -> Tensor:
    """Return the mean negative log-likelihood of labels over bins whose label is known.

    Args:
        logits: of each label's probability, [B, N, T].
        targets: 0, 1, or a probability between, [B, N, T].
        track_weights: [T]; None weighs all tracks alike.
    """
    present = ~torch.isnan(targets)
    labels = torch.where(present, targets, 0.0).float()
    known = torch.where(present, logits, 0.0).float()
    losses = F.binary_cross_entropy_with_logits(known, labels, reduction="none")
    return _mean(losses, present, track_weights)


def cross_entropy_loss(logits: Tensor, targets: Tensor, *, track_weights: Tensor | None = None) -> Tensor:
    """Return the mean negative log-likelihood of one class among the tracks, per bin.

    Args:
        logits: one per class, [B, N, T].
        targets: 1 for a bin's class and 0 for the others, or probabilities, [B, N, T]; a bin with a NaN is left out.
        track_weights: weights of the classes, [T]; the mean is over the weights of the bins' own classes.
    """
    present = ~torch.isnan(targets).any(dim=2, keepdim=True)  # [B, N, 1]
    shares = torch.where(present, targets, 0.0).float()
    if track_weights is not None:
        shares = shares * track_weights.to(shares)
    log_shares = torch.log_softmax(torch.where(present, logits, 0.0).float(), dim=2)
    return -(shares * log_shares).sum() / _at_least_some(shares.sum())


def poisson_multinomial_loss(
    predictions: Tensor,
    targets: Tensor,
    *,
    total_weight: float = 0.2,
    position_weights: Tensor | None = None,
    track_weights: Tensor | None = None,
) -> Tensor:
    """Return Borzoi's loss: where a window's counts lie, plus `total_weight` times how many there are.

    The first is the multinomial negative log-likelihood of the counts over the bins of a window, the second the Poisson
    one of their sum, both without constant terms and per bin. A window in which a track has no data is left out.

    Args:
        predictions: rates, [B, N, T].
        targets: counts or coverage, [B, N, T].
        total_weight: weight of the Poisson term; Borzoi's is 0.2.
        position_weights: [N], as `central_weights` makes them; None weighs all bins alike.
        track_weights: [T]; None weighs all tracks alike.
    """
    present = ~torch.isnan(targets)
    weights = present.float()
    if position_weights is not None:
        weights = weights * position_weights.to(weights)[:, None]
    counts = torch.where(present, targets, 0.0).float() * weights
    rates = torch.where(present, predictions, 0.0).float() * weights
    total, expected = counts.sum(dim=1), rates.sum(dim=1)  # [B, T]
    poisson = expected - total * torch.log(expected + LEAST_RATE)
    log_rates = torch.log(rates + LEAST_RATE)
    log_total = torch.log((rates + LEAST_RATE).sum(dim=1, keepdim=True))
    multinomial = (counts * (log_total - log_rates)).sum(dim=1)
    losses = (multinomial + total_weight * poisson) / _at_least_some(weights.sum(dim=1))
    return _mean(losses, present.any(dim=1), track_weights)


def central_weights(num_bins: int, *, weight_range: float, exponent: int) -> Tensor:
    """Return Borzoi's weights of a window's bins, [N]: 1 in the middle, falling to 1 / `weight_range` at the ends.

    They stand in for a crop: exp(-(distance from the middle / s)^exponent), with the s that gives the ends that weight.
    """
    if weight_range < 1 or exponent < 1:
        raise InputError(
            f"position weights: weight_range={weight_range}, exponent={exponent}; wanted at least 1 for either"
        )
    from_middle = torch.arange(num_bins, dtype=torch.float64) - (num_bins - 1) / 2
    share = from_middle.abs() / max(1.0, (num_bins - 1) / 2)  # of the way to the ends
    weights = torch.exp(-math.log(weight_range) * share**exponent)
    return (weights / weights.max()).float()


def profile_count_loss(
    predictions: tuple[Tensor, Tensor],
    targets: Tensor,
    *,
    count_weight: float = 1.0,
    track_weights: Tensor | None = None,
) -> Tensor:
    """Return BPNet's loss: where a window's counts lie, plus `count_weight` times the error of the log count.

    The first is the multinomial negative log-likelihood of the counts over the bins of a window, without its constant
    term; the second the squared error of log(1 + total), for windows all of whose bins have data. Both are means over
    windows and tracks, where BPNet sums the profiles of a task's two strands: its weight of 10 is 5 here.

    Args:
        predictions: logits of the profile [B, N, T] and log(1 + total) [B, T].
        targets: counts, [B, N, T].
        count_weight: weight of the squared error; ChromBPNet's is a tenth of the median total.
        track_weights: [T]; None weighs all tracks alike.
    """
    return profile_count_terms(predictions, targets, count_weight=count_weight, track_weights=track_weights).sum()


def profile_count_terms(
    predictions: tuple[Tensor, Tensor],
    targets: Tensor,
    *,
    count_weight: float = 1.0,
    track_weights: Tensor | None = None,
) -> Tensor:
    """Return the two means of `profile_count_loss`, [2], which are not over the same windows."""
    logits, log_counts = predictions
    present = ~torch.isnan(targets)
    counts = torch.where(present, targets, 0.0).float()
    # a bin without data takes no share; a window without any keeps its logits, or its softmax would be NaN
    some = present.any(dim=1, keepdim=True)
    log_shares = torch.log_softmax(logits.float().masked_fill(~present & some, -math.inf), dim=1)
    profile = -(counts * torch.where(present, log_shares, 0.0)).sum(dim=1)  # [B, T]
    errors = (log_counts.float() - torch.log1p(counts.sum(dim=1))).square()
    shape = _mean(profile, some[:, 0], track_weights)
    return torch.stack([shape, count_weight * _mean(errors, present.all(dim=1), track_weights)])


def weigh_bins(targets: Tensor, *, track_weights: Tensor | None = None) -> Tensor:
    """Return the weight of a mean over bins with data."""
    return _weight(~torch.isnan(targets), track_weights)


def weigh_classes(targets: Tensor, *, track_weights: Tensor | None = None) -> Tensor:
    """Return the weight of `cross_entropy_loss`: that of the bins' own classes."""
    known = ~torch.isnan(targets).any(dim=2, keepdim=True)
    shares = torch.where(known, targets, 0.0).double()
    return (shares if track_weights is None else shares * track_weights.to(shares)).sum()


def weigh_windows(targets: Tensor, *, track_weights: Tensor | None = None) -> Tensor:
    """Return the weight of a mean over windows in which a track has data."""
    return _weight((~torch.isnan(targets)).any(dim=1), track_weights)


def weigh_profiles(targets: Tensor, *, track_weights: Tensor | None = None) -> Tensor:
    """Return the weights of `profile_count_terms`, [2]: windows with some data, and with nothing but data."""
    whole = _weight((~torch.isnan(targets)).all(dim=1), track_weights)
    return torch.stack([weigh_windows(targets, track_weights=track_weights), whole])


def _weight(present: Tensor, track_weights: Tensor | None) -> Tensor:
    """Return how much of [..., T] is present, in float64: float32 counts to 16 million only."""
    numbers = present.flatten(0, -2).sum(dim=0).double()  # [T]
    return (numbers if track_weights is None else numbers * track_weights.to(numbers)).sum()


def _mean(losses: Tensor, present: Tensor, track_weights: Tensor | None) -> Tensor:
    """Return the weighted mean of losses [..., T] where something is present; 0 where nothing is."""
    weights = present.float() if track_weights is None else present * track_weights.to(losses)
    return (torch.where(present, losses, 0.0) * weights).sum() / _at_least_some(weights.sum())


def _at_least_some(weight: Tensor) -> Tensor:
    """Replace a weight of zero, which only a sum of nothing has, by one to divide by."""
    return torch.where(weight > 0, weight, torch.ones_like(weight))


class Objective(NamedTuple):
    """Means that are minimised together, and how much each one counts."""

    terms: Callable[..., Tensor]
    """Of what a network returns, and targets: one mean, or several [P] whose sum is the loss."""
    weights: Callable[..., Tensor]
    """Of targets: a weight for each of the means, float64 of their shape."""


OBJECTIVES: dict[str, Objective] = {
    "poisson": Objective(poisson_loss, weigh_bins),
    "poisson_multinomial": Objective(poisson_multinomial_loss, weigh_windows),
    "profile_count": Objective(profile_count_terms, weigh_profiles),
    "binary_cross_entropy": Objective(binary_cross_entropy_loss, weigh_bins),
    "cross_entropy": Objective(cross_entropy_loss, weigh_classes),
    "squared_error": Objective(squared_error_loss, weigh_bins),
}
"""Every objective by the name that a job may give it."""
