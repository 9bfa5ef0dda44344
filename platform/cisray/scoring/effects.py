"""Say how far apart two predictions are: the scores, their formulas and their names."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from cisray.errors import InputError


def delta_sum(reference: Tensor, alternate: Tensor) -> Tensor:
    """Sum alternate less reference over the bins; Basenji's SAD.

    Takes predictions [B, N, T], gives [B, T]. Kelley et al. 2018, doi:10.1101/gr.227819.117.
    """
    return (alternate.double() - reference.double()).sum(dim=1).float()  # [B, T]


def log2fc(reference: Tensor, alternate: Tensor) -> Tensor:
    """Take the log2 fold change of the sums over the bins, with a pseudocount of one; Calico's logSED.

    Takes predictions [B, N, T], gives [B, T]. A prediction below zero counts as zero.
    Linder et al. 2025, doi:10.1038/s41588-024-02053-6.
    """
    return (_log2_of_sum(alternate) - _log2_of_sum(reference)).float()  # [B, T]


def l2_log2(reference: Tensor, alternate: Tensor) -> Tensor:
    """Take the Euclidean norm over the bins of the difference in log2(1 + x); Calico's logD2.

    Takes predictions [B, N, T], gives [B, T], never below zero. A prediction below zero counts as zero.
    Linder et al. 2025, doi:10.1038/s41588-024-02053-6.
    """
    return torch.linalg.vector_norm(_log2_of_bins(alternate) - _log2_of_bins(reference), dim=1).float()  # [B, T]


def _log2_of_sum(predictions: Tensor) -> Tensor:
    """Give log2(1 + sum over the bins) [B, T]; float32 would lose digits over thousands of bins."""
    return torch.log2(1 + predictions.double().clamp(min=0).sum(dim=1))


def _log2_of_bins(predictions: Tensor) -> Tensor:
    """Give log2(1 + x) of each bin [B, N, T]."""
    return torch.log2(1 + predictions.double().clamp(min=0))


class Score(NamedTuple):
    """One number per track made of two predictions."""

    function: Callable[[Tensor, Tensor], Tensor]
    """From reference and alternate [B, N, T] to [B, T] in float32, computed in float64."""
    formula: str
    """What the manifest quotes: r reference, a alternate, both on the natural scale; sums over bins."""
    signed: bool
    """Whether the sign says which allele is higher."""
    alias: str
    """The name the score has elsewhere."""


SCORES: Mapping[str, Score] = {
    "delta_sum": Score(delta_sum, "sum(a) - sum(r)", signed=True, alias="SAD"),
    "log2fc": Score(log2fc, "log2(1 + sum(max(a, 0))) - log2(1 + sum(max(r, 0)))", signed=True, alias="logSED"),
    "l2_log2": Score(l2_log2, "norm2(log2(1 + max(a, 0)) - log2(1 + max(r, 0)))", signed=False, alias="logD2"),
}


def resolve_scores(names: Iterable[str]) -> dict[str, Score]:
    """Look scores up by name or alias, in the order asked for; a score named twice comes once.

    Raises InputError for an unknown name and for no name at all.
    """
    own_names = {score.alias: name for name, score in SCORES.items()} | {name: name for name in SCORES}
    known = ", ".join(f"{name} ({score.alias})" for name, score in SCORES.items())
    resolved: dict[str, Score] = {}
    for name in names:
        if name not in own_names:
            raise InputError(f"unknown score {name!r}; choose from {known}")
        resolved[own_names[name]] = SCORES[own_names[name]]
    if not resolved:
        raise InputError(f"no score asked for; choose one or more from {known}")
    return resolved
