"""What is learned from what: a goal per head, batches from one or more datasets, and this worker's place among all."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cisray.errors import InputError
from cisray.training.batches import Batch
from cisray.training.objectives import poisson_loss, weigh_bins
from cisray.training.spec import TrainSpec


class Goal(NamedTuple):
    """What a network's outputs mean, and what is minimised."""

    terms: Callable[[Any, Tensor], Tensor] = poisson_loss
    """Of outputs and targets [B, N, T], NaN where nothing was measured: means whose sum is the loss."""
    weights: Callable[[Tensor], Tensor] = weigh_bins
    """Of targets: how much each of the means counts beside those of other batches."""
    predict: Callable[[Any], Tensor] = Tensor.float
    """Turns outputs into predictions [B, N, T]: rates, probabilities or numbers."""
    labels: bool = False
    """Whether targets are labels: validation then measures how well they are told apart, too."""


class Task(NamedTuple):
    """What one head learns from its dataset."""

    swap: Tensor
    """For each track its partner on the other strand, [T]."""
    margin_bp: int = 0
    """Bases stored beyond each end of the window."""
    goal: Goal = Goal()
    weight: float = 1.0
    """Of its loss beside those of other heads."""


class Feed(NamedTuple):
    """Where batches come from, and what is learned from each."""

    train: Callable[[int, int], Iterator[Batch]]
    """Batches of an epoch, one for each step, from after a number of steps."""
    valid: Callable[[], Iterator[Batch]]
    steps: Callable[[int], int]
    """Steps of an epoch."""
    tasks: Mapping[str | None, Task]
    """By the head that a batch names; None where a network has one."""
    windows: Callable[[int, int], str] | None = None
    """Names the windows of a step of an epoch, for a person."""


class Workers(NamedTuple):
    """This worker among all: its rank, its device, a sum over workers, and their number."""

    rank: int = 0
    device: torch.device = torch.device("cpu")
    add: Callable[[Tensor], Tensor] = lambda value: value
    world: int = 1


ALONE = Workers()


def check_shift(spec: TrainSpec, margin_bp: int) -> None:
    """Raise InputError where examples would be shifted by more than the margin that the dataset stores."""
    if spec.shift_bp > margin_bp:
        raise InputError(
            f"training: shift_bp={spec.shift_bp}, but the dataset stores a margin of {margin_bp} bp; "
            "lower the shift, or build the dataset with a larger geometry.margin_bp"
        )
