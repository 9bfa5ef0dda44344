"""What the numbers that a network returns mean, and how they become predictions.

A network returns what its objective wants: rates for a Poisson loss, logits for cross-entropy, logits of a profile and
the logarithm of its count for BPNet's. Its attribute `link` says which, and `apply_link` makes predictions of them.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Link = Literal["identity", "sigmoid", "softplus", "profile"]
"""From outputs to predictions: nothing to do, a probability, a rate, or a count spread along a profile."""


class ProfileAndCount(NamedTuple):
    """How a signal lies along a window, and how much of it there is."""

    profile: Tensor
    """Logits of a distribution over the bins of the window, [B, N, T]; a number added to all of a track is nothing."""
    log_counts: Tensor
    """log(1 + total over the window), [B, T]."""


def apply_link(outputs: Tensor | ProfileAndCount, link: Link, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn a network's outputs into predictions [B, N, T]: rates, probabilities, or expected counts per bin."""
    if isinstance(outputs, ProfileAndCount):
        assert link == "profile"
        totals = torch.expm1(outputs.log_counts.to(dtype)).clamp(min=0)
        return torch.softmax(outputs.profile.to(dtype), dim=1) * totals[:, None, :]
    assert link != "profile"
    outputs = outputs.to(dtype)
    if link == "identity":
        return outputs
    return torch.sigmoid(outputs) if link == "sigmoid" else F.softplus(outputs)
