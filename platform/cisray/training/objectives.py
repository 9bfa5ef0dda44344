"""What training minimises."""

import torch
from torch import Tensor

# Keeps the logarithm finite where a rate underflows to zero.
LEAST_RATE = 1e-6


def poisson_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the mean Poisson negative log-likelihood over bins with data, less its constant term.

    Args:
        predictions: rates, [B, N, T].
        targets: counts or coverage, [B, N, T]; NaN where a track has no data. Such bins weigh nothing.
    """
    present = ~torch.isnan(targets)
    counts = torch.where(present, targets, 0.0)
    rates = predictions.float()
    losses = rates - counts * torch.log(rates + LEAST_RATE)
    return (losses * present).sum() / present.sum().clamp(min=1)
