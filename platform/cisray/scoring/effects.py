"""Say how far apart two predictions are: score them by name, over the bins that masks keep."""

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from cisray.datasets.card import Kind
from cisray.errors import InputError
from cisray.models.outputs import Link
from cisray.scoring.definitions import DEFINED, Score
from cisray.scoring.formulas import KeptBins

PSEUDOCOUNT = 1.0
# Values of one prediction that are held in float64 at once: what a core's cache holds, or what keeps a GPU busy.
VALUES_AT_ONCE_CPU = 1 << 17
VALUES_AT_ONCE_GPU = 1 << 24
FEWEST_TRACKS = 32  # a chunk of fewer would read scattered memory


class Measure:
    """Scores of one pseudocount: two predictions and masks in, a number per mask and track out."""

    def __init__(self, scores: Mapping[str, Score], *, pseudocount: float) -> None:
        self.scores = dict(scores)
        self.pseudocount = pseudocount

    @property
    def formulas(self) -> dict[str, str]:
        """What the manifest quotes for each score."""
        usual, own = (f"log2({pseudocount:.17g} + sum(" for pseudocount in (PSEUDOCOUNT, self.pseudocount))
        return {name: score.formula.replace(usual, own) for name, score in self.scores.items()}

    @torch.no_grad()
    def __call__(self, reference: Tensor, alternate: Tensor, masks: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Score pairs of predictions [B, N, T] over the bins that each mask keeps; float32 [R, T] per score.

        Args:
            reference: natural scale; an expanded view of one prediction will do.
            alternate: natural scale.
            masks: bool [R, N]; best on the host, where they are made: on a device they are copied back first.
            rows: int [R], the pair that each mask belongs to.

        What a mask leaves out is not looked at. A prediction in it that is not a finite number makes scores that
        are none. The sums are made in float64, over some tracks at a time.

        Raises:
            InputError: shapes do not agree, a row has no pair, or a mask keeps no bin.
        """
        masks, rows = masks.cpu(), rows.cpu().long()
        _check_shapes(reference, alternate, masks, rows)
        num_tracks, device = reference.shape[2], reference.device
        values = {name: torch.empty(len(masks), num_tracks, device=device) for name in self.scores}
        for part in _parts(masks, num_tracks=num_tracks, on_cpu=device.type == "cpu"):
            pairs, where = rows[part.rows], part.rows.to(device, non_blocking=True)
            kept = part.kept.to(device, non_blocking=True)
            for first in range(0, num_tracks, part.tracks_at_once):
                tracks = slice(first, first + part.tracks_at_once)
                sides = [_take(side[:, :, tracks], pairs, part) for side in (reference, alternate)]
                if not part.is_full:
                    sides = [torch.where(kept[:, :, None], side, 0) for side in sides]
                bins = KeptBins(sides[0], sides[1], kept, pseudocount=self.pseudocount)
                for name, score in self.scores.items():
                    values[name][where, tracks] = score.of_bins(bins).float()
        return values


class _Part(NamedTuple):
    """Some masks that are scored together."""

    rows: Tensor
    """Their places among all masks, [r]."""
    bins: Tensor
    """The bins they keep in ascending order, filled up with others, [r, K]."""
    kept: Tensor
    """Which of these they do keep, bool [r, K]."""
    is_full: bool
    """Whether they keep them all."""
    tracks_at_once: int


def _parts(masks: Tensor, *, num_tracks: int, on_cpu: bool) -> Iterator[_Part]:
    """Cut masks [R, N] into parts of like numbers of bins, as many as may be held at once."""
    at_once = VALUES_AT_ONCE_CPU if on_cpu else VALUES_AT_ONCE_GPU
    counts = masks.sum(dim=1)
    order = counts.argsort(descending=True, stable=True)
    start = 0
    while start < len(order):
        most = int(counts[order[start]])
        tracks_at_once = min(num_tracks, max(FEWEST_TRACKS, at_once // most))
        rows = order[start : start + max(1, at_once // (most * tracks_at_once))]
        bins = masks[rows].byte().argsort(dim=1, descending=True, stable=True)[:, :most]
        kept = torch.arange(most) < counts[rows][:, None]
        yield _Part(rows, bins, kept, bool(kept.all()), tracks_at_once)
        start += len(rows)


def _take(predictions: Tensor, pairs: Tensor, part: _Part) -> Tensor:
    """Return a part's bins of predictions [B, N, T], float64 [r, K, T]."""
    first, last = int(part.bins[0, 0]), int(part.bins[0, -1])
    if len(pairs) == 1 and part.is_full and last - first + 1 == part.bins.shape[1]:  # one run: nothing to gather
        return predictions[int(pairs[0]), first : last + 1].double()[None]
    places = (each.to(predictions.device, non_blocking=True) for each in (pairs[:, None], part.bins))
    return predictions[tuple(places)].double()


def _check_shapes(reference: Tensor, alternate: Tensor, masks: Tensor, rows: Tensor) -> None:
    if reference.ndim != 3 or reference.shape != alternate.shape:
        raise InputError(
            f"reference predictions are {tuple(reference.shape)} and alternate {tuple(alternate.shape)}; "
            "wanted [pairs, bins, tracks] of both"
        )
    num_pairs, num_bins, _ = reference.shape
    if masks.dtype != torch.bool or masks.ndim != 2 or masks.shape[1] != num_bins or rows.shape != masks.shape[:1]:
        raise InputError(
            f"masks are {masks.dtype} {tuple(masks.shape)} with rows {tuple(rows.shape)}; "
            f"wanted bool [masks, {num_bins}] and one row per mask"
        )
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < num_pairs:
        raise InputError(f"rows reach from {int(rows.min())} to {int(rows.max())}; wanted 0 to {num_pairs - 1}")
    empty = (~masks.any(dim=1)).nonzero()
    if len(empty):
        raise InputError(
            f"mask {int(empty[0])} of {len(masks)} keeps no bin; leave it out, and give its variant a status instead"
        )


def _over_all_bins(name: str, reference: Tensor, alternate: Tensor) -> Tensor:
    """Score pairs of predictions [B, N, T] over all their bins, float32 [B, T]."""
    masks = torch.ones(reference.shape[:2], dtype=torch.bool)
    return make_measure([name])(reference, alternate, masks, torch.arange(len(masks)))[name]


SCORES: Mapping[str, Score] = {
    name: score._replace(function=partial(_over_all_bins, name)) for name, score in DEFINED.items()
}


USUAL_SCORES: Mapping[Kind, tuple[str, ...]] = {
    "coverage": ("delta_sum", "log2fc", "l2_log2"),
    "labels": ("logit_diff", "prob_diff"),
    "measurements": ("delta_mean", "l2"),
}
"""What is scored where a job names no score."""


def resolve_scores(names: Iterable[str]) -> dict[str, Score]:
    """Look scores up by name or alias, in the order asked for; a score named twice comes once.

    Raises InputError for an unknown name and for no name at all.
    """
    own_names = {alias: name for name, score in SCORES.items() for alias in (name, *score.aliases)}
    known = ", ".join(f"{name} ({score.alias})" if score.aliases else name for name, score in SCORES.items())
    resolved: dict[str, Score] = {}
    for name in names:
        if name not in own_names:
            raise InputError(f"unknown score {name!r}; choose from {known}")
        resolved[own_names[name]] = SCORES[own_names[name]]
    if not resolved:
        raise InputError(f"no score asked for; choose one or more from {known}")
    return resolved


def make_measure(names: Iterable[str], *, pseudocount: float = PSEUDOCOUNT) -> Measure:
    """Return what scores by the given names or aliases; `pseudocount` is what log2 fold changes add to a sum.

    Raises InputError for an unknown name, and for a pseudocount that is not above 0.
    """
    if not 0 < pseudocount < math.inf:
        raise InputError(f"pseudocount={pseudocount}; wanted a number above 0")
    return Measure(resolve_scores(names), pseudocount=pseudocount)


def check_scores(scores: Mapping[str, Score], *, kind: Kind, link: Link, of_genes: bool) -> None:
    """Raise InputError for a score that does not suit a model's targets, its link or the masks it is read over."""
    suiting = ", ".join(name for name, one in SCORES.items() if _misfit(one, kind, link, of_genes=of_genes) is None)
    for name, score in scores.items():
        misfit = _misfit(score, kind, link, of_genes=of_genes)
        if misfit is not None:
            raise InputError(f"score {name} {misfit}; choose from {suiting}")


def _misfit(score: Score, kind: Kind, link: Link, *, of_genes: bool) -> str | None:
    if kind not in score.kinds:
        return f"suits {' and '.join(score.kinds)}, and the model's targets are {kind}"
    if score.of_probabilities and link != "sigmoid":
        return "reads probabilities, and this model's predictions have no sigmoid"
    if score.of_genes and not of_genes:
        return "is read over genes: give it the mask gene(exon) or gene(span), or"
    return None


def is_place(score: str) -> bool:
    """Say whether a score is a place; one that this version does not know is taken for none."""
    return score in SCORES and SCORES[score].is_place
