"""Which features a shallow model reads, by name and settings, and the making of them from codes."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy.sparse import csr_array, hstack, vstack
from torch import Tensor, nn

from cisray.baselines.features import Counts, composition, count_gapped_kmers, count_kmers, motif_scores, place_kmers
from cisray.baselines.gkm_lmers import Codes
from cisray.baselines.passes import Pass, Sums
from cisray.baselines.region_kmers import (
    check_region_kmers,
    count_region_kmers,
    name_region_kmers,
    select_region_kmers,
)
from cisray.baselines.windows import Windows
from cisray.config import STRICT, data_path
from cisray.errors import InputError
from cisray.genome.motifs import Motif, read_motifs

_WINDOWS_AT_ONCE = 1024  # what is made of these stays small


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Kmers:
    """Counts of k-mers."""

    name: Literal["kmers"] = "kmers"
    k: int = 6
    fold_strands: bool = True
    """Whether a k-mer and its reverse complement are one."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GappedKmers:
    """Counts of words with gaps, at every choice of the bases that are read."""

    name: Literal["gapped_kmers"] = "gapped_kmers"
    length_bp: int = 6
    k: int = 4
    """Bases of a word that are read."""
    fold_strands: bool = True
    """Whether a word and its reverse complement are one."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PlacedKmers:
    """Which k-mer begins at each base of the window."""

    name: Literal["placed_kmers"] = "placed_kmers"
    k: int = 1


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Composition:
    """Shares of bases and dinucleotides, GC and CpG, of regions of the window (after Bessière et al. 2018)."""

    name: Literal["composition"] = "composition"
    regions: dict[str, tuple[int, int]] = Field(default_factory=dict)
    """By name, offsets of the first base and behind the last; the whole window unless given."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Motifs:
    """Best match and summed odds of motifs."""

    name: Literal["motifs"] = "motifs"
    path: str
    """A MEME or JASPAR file below $CISRAY_DATA; a trained model holds the matrices itself and asks for no file."""
    names: tuple[str, ...] = ()
    """Identifiers or names of motifs in the file; all of them unless given."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RegionKmers:
    """Counts of k-mers, each in the part of the window where it tells most; chosen on the training split (DExTER)."""

    name: Literal["region_kmers"] = "region_kmers"
    longest: int = 5
    """Bases of the longest k-mer."""
    num_parts: int = 8
    """Equal parts that the window is cut into; a region is a run of these."""
    num_kept: int = 200
    """K-mers that are chosen at most."""

    def __post_init__(self) -> None:
        if not 2 <= self.longest <= 8 or not 1 <= self.num_parts <= 64 or self.num_kept < 1:
            raise InputError(
                f"features: region_kmers: longest={self.longest}, num_parts={self.num_parts}, "
                f"num_kept={self.num_kept}; wanted 2 to 8 bases, 1 to 64 parts, and at least one k-mer"
            )


FeatureSet = Annotated[
    Kmers | GappedKmers | PlacedKmers | Composition | Motifs | RegionKmers, Field(discriminator="name")
]
"""A set of features, told apart by its `name` key."""


def check_sets(sets: Sequence[FeatureSet]) -> None:
    """Raise InputError where there is no set, or two of a kind of which a model holds one."""
    if not sets:
        raise InputError('features: none; name at least one set, such as [{name = "kmers", k = 6}]')
    for kind in (Composition, Motifs, RegionKmers):
        if sum(isinstance(each, kind) for each in sets) > 1:
            raise InputError(f"features: {kind.name} stands there twice; put both into one")


class FeatureColumns(NamedTuple):
    """Columns of one set."""

    values: csr_array
    """Float32 [B, F]."""
    names: tuple[str, ...]


class FeatureMaker(nn.Module):
    """Turns codes into columns: what it has learned of training data (chosen k-mers, motifs, means) are its buffers."""

    regions: Tensor
    """Chosen k-mers of regions, int64 [S, 4]."""
    motif_scores: Tensor
    """Float32 [M, W, 5]; what lies behind a motif's width is 0."""
    motif_widths: Tensor
    """Int64 [M]."""
    motif_names: Tensor
    """Bytes of the motifs' names, one a line, uint8."""
    fill: Tensor
    """What a composition that is not defined counts as, its mean over the training windows, float32 [C]."""

    def __init__(self, sets: Sequence[FeatureSet], *, window_bp: int) -> None:
        super().__init__()
        self.sets = tuple(sets)
        self.window_bp = window_bp
        kinds = {type(each) for each in self.sets}
        if RegionKmers in kinds:
            self.register_buffer("regions", torch.zeros(0, 4, dtype=torch.int64))
        if Motifs in kinds:
            self.register_buffer("motif_scores", torch.zeros(0, 0, 5))
            self.register_buffer("motif_widths", torch.zeros(0, dtype=torch.int64))
            self.register_buffer("motif_names", torch.zeros(0, dtype=torch.uint8))
        if Composition in kinds:
            (one,) = (each for each in self.sets if isinstance(each, Composition))
            self.register_buffer("fill", torch.zeros(22 * max(1, len(one.regions))))
        self._names: tuple[str, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, [F]; each begins with that of its set."""
        if self._names is None:
            blank = np.zeros((1, self.window_bp), np.uint8)
            made = [(each.name, self._make(each, blank).names) for each in self.sets]
            self._names = tuple(f"{kind}:{name}" for kind, names in made for name in names)
        return self._names

    def forward(self, codes: Codes) -> csr_array:
        """Describe codes [B, L]: float32 [B, F]."""
        parts = [csr_array((0, len(self.names)), dtype=np.float32)]
        for start in range(0, len(codes), _WINDOWS_AT_ONCE):
            part = codes[start : start + _WINDOWS_AT_ONCE]
            parts.append(hstack([self._make(each, part).values for each in self.sets], format="csr"))
        rows = csr_array(vstack(parts, format="csr"))
        if rows.nnz < np.iinfo(np.int32).max:  # scikit-learn's trees read no other
            rows.indices, rows.indptr = rows.indices.astype(np.int32), rows.indptr.astype(np.int32)
        return rows

    @property
    def learns(self) -> bool:
        """Whether it must see the training windows before it can describe any."""
        return any(isinstance(each, RegionKmers | Composition) for each in self.sets)

    def read_files(self) -> None:
        """Read the motifs; raises InputError as `read_motifs`."""
        self._names = None
        for each in self.sets:
            if isinstance(each, Motifs):
                self._keep_motifs(read_motifs(data_path(each.path, None), each.names))

    def learn(self, windows: Pass) -> None:
        """Choose k-mers of regions, and take the means that fill in, from passes over the training windows."""
        self._names = None
        for each in self.sets:
            if isinstance(each, RegionKmers):
                settings = {"longest": each.longest, "num_parts": each.num_parts, "num_kept": each.num_kept}
                self.regions = torch.from_numpy(select_region_kmers(windows, **settings))
            elif isinstance(each, Composition):
                sums = windows(partial(_sum_composition, each.regions))
                self.fill = torch.from_numpy((sums["total"] / sums["number"].clip(min=1)).astype(np.float32))

    def adopt(self, state: Mapping[str, Tensor]) -> None:
        """Take the sizes that stored buffers, by their names here, have: those of what was learned."""
        for name in ("regions", "motif_scores", "motif_widths", "motif_names"):
            if name in state and name in self._buffers:
                self._buffers[name] = torch.empty_like(state[name])

    def check(self) -> None:
        """Raise InputError where loaded buffers do not belong together."""
        self._names = None
        for each in self.sets:
            if isinstance(each, RegionKmers):
                chosen = self.regions
                if chosen.ndim != 2 or chosen.shape[1] != 4 or chosen.dtype != torch.int64:
                    raise InputError(
                        f"features.regions: {chosen.dtype} of shape {tuple(chosen.shape)}; wanted int64 [k-mers, 4]"
                    )
                check_region_kmers(chosen.cpu().numpy(), longest=each.longest, num_parts=each.num_parts)
            if isinstance(each, Motifs):
                self._check_motifs(len(each.names) or len(self.motif_widths))

    def _check_motifs(self, num_motifs: int) -> None:
        scores, widths = self.motif_scores, self.motif_widths
        right = scores.ndim == 3 and scores.shape[0] == num_motifs and scores.shape[2] == 5
        right = right and widths.shape == (num_motifs,) and bool((widths >= 1).all())
        if not right or bool((widths > scores.shape[1]).any()) or len(self._motif_names()) != num_motifs:
            raise InputError(
                f"features.motif_scores: shape {tuple(scores.shape)}, with widths {widths.tolist()[:10]} and "
                f"{len(self._motif_names())} names; wanted {num_motifs} motifs [motifs, bases, 5], each with its width "
                "and name; this model was damaged, make it again"
            )

    def _make(self, each: FeatureSet, codes: Codes) -> FeatureColumns:
        if isinstance(each, Kmers):
            return _columns(count_kmers(codes, each.k, fold_strands=each.fold_strands))
        if isinstance(each, GappedKmers):
            return _columns(count_gapped_kmers(codes, each.length_bp, each.k, fold_strands=each.fold_strands))
        if isinstance(each, PlacedKmers):
            return _columns(place_kmers(codes, each.k))
        if isinstance(each, Composition):
            described = composition(codes, each.regions or None)
            filled = np.where(np.isnan(described.values), self.fill.cpu().numpy(), described.values)
            return FeatureColumns(csr_array(filled.astype(np.float32)), described.names)
        if isinstance(each, Motifs):
            scores = motif_scores(codes, self._motifs())
            return FeatureColumns(csr_array(scores.values), scores.names)
        chosen = self.regions.cpu().numpy()
        names = name_region_kmers(chosen, window_bp=self.window_bp, num_parts=each.num_parts)
        return FeatureColumns(count_region_kmers(codes, chosen, each.num_parts), names)

    def _keep_motifs(self, motifs: Sequence[Motif]) -> None:
        widths = [motif.width for motif in motifs]
        scores = np.zeros((len(motifs), max(widths), 5), np.float32)
        for number, motif in enumerate(motifs):
            scores[number, : motif.width] = motif.scores
        names = "\n".join(motif.name for motif in motifs).encode()
        self.motif_scores = torch.from_numpy(scores)
        self.motif_widths = torch.tensor(widths, dtype=torch.int64)
        self.motif_names = torch.frombuffer(bytearray(names), dtype=torch.uint8)

    def _motif_names(self) -> list[str]:
        return self.motif_names.cpu().numpy().tobytes().decode(errors="replace").split("\n")

    def _motifs(self) -> list[Motif]:
        scores = self.motif_scores.cpu().numpy().astype(np.float32)
        widths = self.motif_widths.tolist()
        named = zip(self._motif_names(), widths, scores, strict=True)
        return [Motif(name, table[:width]) for name, width, table in named]


def _sum_composition(regions: Mapping[str, tuple[int, int]], windows: Windows) -> Sums:
    """Add up what is defined of the composition, and how often it is, [C] each."""
    table = composition(windows.codes, regions or None).values.astype(np.float64)
    known = ~np.isnan(table)
    return {"total": np.where(known, table, 0).sum(axis=0), "number": known.sum(axis=0).astype(np.float64)}


def _columns(counts: Counts) -> FeatureColumns:
    return FeatureColumns(counts.values, counts.names)
