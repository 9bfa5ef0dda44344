"""Ridge regression on k-mer counts around each bin: the linear baseline that a network has to beat."""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.genome.sequence import UNKNOWN
from cisray.geometry import Geometry


@dataclass(frozen=True, kw_only=True, config=STRICT)
class KmerRidgeConfig:
    """Which k-mers are counted, how far around a bin, and which penalties are tried on the validation split."""

    architecture: Literal["kmer_ridge"] = "kmer_ridge"
    k: int = 4
    contexts_bp: tuple[int, ...] = (64, 256, 1024)
    """Widths around the bin's centre in which k-mers are counted, each a block of features."""
    penalties: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
    """Ridge penalties, as shares of the mean feature variance."""

    def __post_init__(self) -> None:
        if not 1 <= self.k <= 6 or not self.contexts_bp or not self.penalties:
            raise InputError(f"kmer_ridge: k={self.k}; wanted k from 1 to 6, and at least one context and penalty")


class KmerRidge(nn.Module):
    """A linear model of k-mer counts: codes uint8 [B, L] to predictions [B, N, T]."""

    least_squares = True
    """Whether its outputs are the numbers themselves, whatever the kind of targets."""

    def __init__(self, config: KmerRidgeConfig, *, geometry: Geometry, num_tracks: int) -> None:
        super().__init__()
        self.config = config
        self.geometry = geometry
        num_features = len(config.contexts_bp) * 4**config.k
        self.coefficients = nn.Parameter(torch.zeros(num_features, num_tracks, dtype=torch.float64))
        self.intercepts = nn.Parameter(torch.zeros(num_tracks, dtype=torch.float64))

    def features(self, codes: Tensor) -> Tensor:
        """Count k-mers around every bin, as densities per base: codes [B, L] to float64 [B, N, F].

        A k-mer belongs to the bin its first base lies in; one that holds an N is not counted.
        """
        k, geometry = self.config.k, self.geometry
        bins = geometry.window_bp // geometry.bin_bp
        words = codes.long().unfold(1, k, 1)  # [B, L - k + 1, k]
        known = (words < UNKNOWN).all(dim=2)
        places = 4 ** torch.arange(k - 1, -1, -1, device=codes.device)
        index = torch.where(known, (words.clamp(max=3) * places).sum(dim=2), 4**k)
        bin_of = torch.arange(index.shape[1], device=codes.device) // geometry.bin_bp
        flat = bin_of[None, :] * (4**k + 1) + index
        counts = torch.zeros(len(codes), bins * (4**k + 1), dtype=torch.float64, device=codes.device)
        counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float64))
        counts = counts.view(len(codes), bins, -1)[:, :, :-1].transpose(1, 2)  # [B, 4^k, bins]
        blocks = [self._around(counts, width_bp) for width_bp in self.config.contexts_bp]
        features = torch.cat(blocks, dim=1).transpose(1, 2)
        return features[:, geometry.crop_bins : bins - geometry.crop_bins]

    def _around(self, counts: Tensor, width_bp: int) -> Tensor:
        """Average counts [B, K, bins] over the bins within `width_bp` around each, per base; edges have fewer."""
        reach = round(width_bp / self.geometry.bin_bp / 2)
        if reach == 0:
            return counts / self.geometry.bin_bp
        pooled = F.avg_pool1d(counts, 2 * reach + 1, stride=1, padding=reach, count_include_pad=False)
        return pooled / self.geometry.bin_bp

    def forward(self, codes: Tensor) -> Tensor:
        """Predict every bin of every track from codes [B, L]: [B, N, T]."""
        return self.features(codes) @ self.coefficients + self.intercepts


class NormalEquations:
    """Sums that ridge regression needs, per track over its bins with data, in memory that does not grow with bins."""

    def __init__(self, num_features: int, num_tracks: int) -> None:
        size = num_features + 1  # the last feature is 1, for the intercept
        self.gram = torch.zeros(num_tracks, size, size, dtype=torch.float64)
        self.moment = torch.zeros(num_tracks, size, dtype=torch.float64)

    def update(self, features: Tensor, targets: Tensor) -> None:
        """Add the bins of features [B, N, F] and targets [B, N, T]; NaN targets are left out."""
        flat = F.pad(features.flatten(0, 1), (0, 1), value=1.0)
        measured = targets.flatten(0, 1).double()
        masks, track_mask = torch.unique((~torch.isnan(measured)).T, dim=0, return_inverse=True)
        for number, mask in enumerate(masks):  # tracks with the same gaps share one matrix product
            rows = flat[mask]
            gram = rows.T @ rows
            for track in torch.nonzero(track_mask == number)[:, 0]:
                self.gram[track] += gram
                self.moment[track] += rows.T @ measured[mask, track]

    def solve(self, penalty: float) -> tuple[Tensor, Tensor]:
        """Return coefficients [F, T] and intercepts [T] at a penalty relative to the mean feature variance."""
        solutions = []
        for gram, moment in zip(self.gram, self.moment, strict=True):
            num_bins = gram[-1, -1].clamp(min=1)
            means = gram[-1, :-1] / num_bins
            variance = gram.diagonal()[:-1] / num_bins - means**2
            ridge = torch.zeros(len(gram), dtype=torch.float64)
            ridge[:-1] = penalty * variance.mean().clamp(min=1e-12) * num_bins
            solutions.append(torch.linalg.solve(gram + torch.diag(ridge + 1e-9), moment))
        solution = torch.stack(solutions, dim=1)
        return solution[:-1], solution[-1]


def fit_ridge(
    model: KmerRidge, train: Iterator[tuple[Tensor, Tensor]], *, score: Callable[[nn.Module], Tensor]
) -> list[dict[str, float]]:
    """Fit `model` to training batches, keep for each track the penalty that scores best, and return all scores.

    Args:
        model: changed in place.
        train: batches of codes [B, L] and targets [B, N, T].
        score: validation metric per track of the model as it stands, [T].
    """
    equations = NormalEquations(*model.coefficients.shape)
    with torch.no_grad():
        for codes, targets in train:
            equations.update(model.features(codes), targets)
        best = torch.full((model.coefficients.shape[1],), -torch.inf, dtype=torch.float64)
        chosen: tuple[Tensor, Tensor] = (model.coefficients.clone(), model.intercepts.clone())
        tried = []
        for penalty in model.config.penalties:
            coefficients, intercepts = equations.solve(penalty)
            model.coefficients.copy_(coefficients)
            model.intercepts.copy_(intercepts)
            metric = torch.nan_to_num(score(model), nan=-1.0)
            better = metric > best
            best = torch.where(better, metric, best)
            chosen[0][:, better] = coefficients[:, better]
            chosen[1][better] = intercepts[better]
            tried.append({"penalty": penalty, "valid.pearson": float(metric.mean())})
        model.coefficients.copy_(chosen[0])
        model.intercepts.copy_(chosen[1])
    return tried
