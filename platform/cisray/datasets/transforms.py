"""Turn a track's natural values into targets, and back: each transform with its exact inverse beside it.

Both directions work on NumPy arrays and torch tensors alike, with one parameter per track on the last axis.
"""

from typing import TypeVar

import numpy as np
import torch

A = TypeVar("A", np.ndarray, torch.Tensor)


def to_target(natural: A, scale: A, clip_soft: A) -> A:
    """Scale, then replace what exceeds `clip_soft` by its square root: min(x,c) - 1 + sqrt(max(x-c,0) + 1).

    Args:
        natural: values as measured, [..., T]; NaN stays NaN.
        scale: multiplier per track, [T].
        clip_soft: threshold per track after scaling, [T]; infinity where there is none. Source: the
            `clip_soft` column of Calico's targets.txt.
    """
    x = natural * scale
    return x.clip(max=clip_soft) + (((x - clip_soft).clip(min=0) + 1) ** 0.5 - 1)  # the bracket is 0 up to c


def to_natural(target: A, scale: A, clip_soft: A) -> A:
    """Invert `to_target` exactly: min(y,c) + (max(y-c,0) + 1)^2 - 1, divided by the scale; shapes as there."""
    x = target.clip(max=clip_soft) + (((target - clip_soft).clip(min=0) + 1) ** 2 - 1)  # likewise
    return x / scale
