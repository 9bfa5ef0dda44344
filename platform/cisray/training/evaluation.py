"""What an evaluation adds up: the sums behind its metrics, of one file or of all, as plain numbers in between."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cisray.datasets.card import Card
from cisray.training.gene_metrics import GeneBins, GeneSums, score_genes
from cisray.training.metrics import ScoreHistogram, TrackSums

Sums = dict[str, TrackSums | ScoreHistogram]
CEILING_DEFINITION = (
    "the same correlation between a second measurement and the one that the model is measured on, over the bins that "
    "both have; the model's stand beside it, over those bins"
)


class EvaluationSums:
    """Sums of several models on the same bins, by role, with genes and second measurements where there are such."""

    def __init__(self, card: Card, roles: Sequence[str], *, num_genes: int = 0, ceiling: Sequence[str] = ()) -> None:
        """Begin at zero; `ceiling` are the tracks that have a second measurement."""
        self._tracks, self._ceiling = card.track_names, list(ceiling)
        self.models = {role: _new_sums(card) for role in roles}
        self.genes = {role: GeneSums(num_genes, len(card.tracks)) for role in roles} if num_genes else {}
        self._with_second = [card.track_names.index(name) for name in ceiling]
        self.ceiling: dict[str, Sums] = {}
        """Of the second measurements, and of each model on the same bins, [K] each."""
        if ceiling:
            kinds = [name for name in _new_sums(card) if name != "scores"]
            self.ceiling = {role: {kind: TrackSums(len(ceiling)) for kind in kinds} for role in ("second", *roles)}

    def update(self, role: str, predicted: Tensor, measured: Tensor, second: Tensor | None = None) -> None:
        """Add a model's predictions of windows, [B, N, T] as the measurements, and [B, N, K] of second ones."""
        _add(self.models[role], predicted, measured)
        if second is not None:
            first = measured[:, :, self._with_second]
            _add(self.ceiling[role], predicted[:, :, self._with_second], first.where(~torch.isnan(second), torch.nan))

    def update_ceiling(self, second: Tensor, measured: Tensor) -> None:
        """Add second measurements [B, N, K] of windows, beside all first ones [B, N, T]."""
        first = measured[:, :, self._with_second]
        present = ~torch.isnan(second)
        _add(self.ceiling["second"], second.where(present, 0), first.where(present, torch.nan))

    def update_genes(self, role: str, predicted: Tensor, measured: Tensor, bins: GeneBins) -> None:
        """Add a model's predictions of windows to the genes whose bins these are."""
        self.genes[role].update(predicted, measured, bins)

    def to_plain(self) -> dict[str, Any]:
        """Return all sums as values for JSON: what `add_plain` takes."""
        return {
            "models": {role: _all_plain(sums) for role, sums in self.models.items()},
            "ceiling": {role: _all_plain(sums) for role, sums in self.ceiling.items()},
            "genes": {role: _genes_plain(sums) for role, sums in self.genes.items()},
        }

    def add_plain(self, plain: Mapping[str, Any]) -> None:
        """Add what another's `to_plain` returned."""
        for mine, theirs in ((self.models, plain["models"]), (self.ceiling, plain["ceiling"])):
            for role, sums in mine.items():
                for name, one in sums.items():
                    _add_plain(one, theirs[role][name])
        for role, of_genes in self.genes.items():
            genes = np.array(plain["genes"][role]["genes"], np.int64)
            flat = np.frombuffer(base64.b64decode(plain["genes"][role]["sums"]), "<f8").copy()
            of_genes.add(
                genes, flat.reshape(3, len(genes), -1) if len(genes) else np.zeros((3, 0, of_genes.sums.shape[2]))
            )

    def metrics(self, role: str) -> dict[str, dict[str, float | None]]:
        """Return a model's metrics per track."""
        return _by_track(_metric_columns(self.models[role]), self._tracks)

    def ceiling_metrics(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Return the correlations of the tracks that have a second measurement: of it, and of each model."""
        return {
            role: _by_track({name: one for name, one in _metric_columns(sums).items() if name != "r2"}, self._ceiling)
            for role, sums in self.ceiling.items()
        }

    def gene_metrics(self, part_bp: NDArray[np.int64], *, least_covered: float) -> dict[str, dict[str, Any]]:
        """Return what each model's sums of genes with `part_bp` [G] bases come to."""
        found = {}
        for role, sums in self.genes.items():
            scores = score_genes(*sums.log_sums(part_bp, least_covered=least_covered))
            columns = {
                "num_genes": scores.num_genes,
                "gene_pearson": scores.pearson,
                "gene_spearman": scores.spearman,
                "gene_specificity": scores.specificity,
            }
            found[role] = {
                "tracks": _by_track(columns, self._tracks),
                "num_compared": scores.num_compared,
                "track_specificity": _plain(scores.across_tracks),
                "num_across": scores.num_across,
            }
        return found


def _by_track(columns: Mapping[str, Tensor], tracks: Sequence[str]) -> dict[str, dict[str, float | None]]:
    return {
        track: {name: _plain(values[index]) for name, values in columns.items()} for index, track in enumerate(tracks)
    }


def _plain(value: Tensor | float) -> float | None:
    """Return a number for JSON: NaN, which a track without data gives, is None."""
    number = float(value)
    return number if np.isfinite(number) else None


def _new_sums(card: Card) -> Sums:
    """Return what metrics of this kind of targets are made of: coverage has logarithms, labels are told apart."""
    sums: Sums = {"natural": TrackSums(len(card.tracks))}
    if card.kind == "coverage":
        sums["log1p"] = TrackSums(len(card.tracks))
    if card.kind == "labels":
        sums["scores"] = ScoreHistogram(len(card.tracks))
    return sums


def _metric_columns(sums: Sums) -> dict[str, Tensor]:
    """Return the metrics that sums come to, [T] each."""
    columns: dict[str, Tensor] = {}
    for name, one in sums.items():
        if isinstance(one, ScoreHistogram):
            columns |= {"auroc": one.auroc(), "average_precision": one.average_precision()}
        elif name == "log1p":
            columns["pearson_log1p"] = one.pearson()
        else:
            columns |= {"num_bins": one.num_bins(), "pearson": one.pearson(), "r2": one.r2()}
    return columns


def _add(sums: Mapping[str, TrackSums | ScoreHistogram], predicted: Tensor, measured: Tensor) -> None:
    sums["natural"].update(predicted, measured)
    if "log1p" in sums:
        sums["log1p"].update(torch.log1p(predicted.clamp(min=0)), torch.log1p(measured))
    if "scores" in sums:
        sums["scores"].update(torch.logit(predicted.double().clamp(0, 1), eps=1e-15), measured)


def _all_plain(sums: Sums) -> dict[str, list[list[float]]]:
    return {name: _to_plain(one) for name, one in sums.items()}


def _to_plain(sums: TrackSums | ScoreHistogram) -> list[list[float]]:
    """Return sums as plain numbers; of a histogram, where it is not 0 and how much it holds there."""
    if isinstance(sums, TrackSums):
        return sums.sums.tolist()
    flat = sums.counts.flatten()
    places = flat.nonzero()[:, 0]
    return [places.tolist(), flat[places].tolist()]


def _add_plain(sums: TrackSums | ScoreHistogram, plain: list[list[float]]) -> None:
    """Add what `_to_plain` returned."""
    if isinstance(sums, TrackSums):
        sums.sums += torch.tensor(plain, dtype=torch.float64)
    else:
        places, counts = (torch.tensor(column, dtype=torch.int64) for column in plain)
        sums.counts.view(-1).index_add_(0, places, counts)


def _genes_plain(sums: GeneSums) -> dict[str, Any]:
    """Return the sums of the genes that have any; packed, because there is a number per gene and track."""
    genes, values = sums.touched()
    return {"genes": genes.tolist(), "sums": base64.b64encode(values.astype("<f8").tobytes()).decode("ascii")}
