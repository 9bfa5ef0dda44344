"""Where the genome does not count: assembly gaps, blacklisted stretches, and what no read can be mapped to."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from cisray.config import STRICT, data_path
from cisray.errors import InputError
from cisray.genome.bed import Bed, merge_intervals, overlap_bp, read_bed, rows_by_contig
from cisray.genome.contigs import map_contigs
from cisray.genome.intervals import suggest_names
from cisray.geometry import Geometry

# A bin of which less than this is unmappable counts as mappable, as in Calico's builder.
_LEAST_UNMAPPABLE_SHARE = 0.1
_MOST_EDGES = 1 << 22  # bin edges looked up at once, which bounds memory


class Spans(NamedTuple):
    """Stretches of one contig that neither overlap nor touch, in order."""

    start: NDArray[np.int64]
    end: NDArray[np.int64]


NO_SPANS = Spans(np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MaskSpec:
    """Which stretches of the genome do not count, and what becomes of values and windows there."""

    gaps: str | None = None
    """BED of assembly gaps; regions end there, so that no window crosses one."""
    blacklist: str | None = None
    """BED of stretches whose signal is an artefact."""
    blacklist_pad_bp: int = 20
    """Bases added on both sides of every blacklisted stretch."""
    blacklist_values: Literal["clip", "mask"] = "clip"
    """"clip" lowers values there to the window's baseline; "mask" makes them missing."""
    blacklist_quantile: float = 0.5
    """Quantile of a window's values that is its baseline."""
    unmappable: str | None = None
    """BED of stretches that no read can be mapped to."""
    max_unmappable_fraction: float = 0.5
    """Windows with a larger share of unmappable bins in their predicted part are dropped, and counted."""
    unmappable_clip_quantile: float = 1.0
    """Unmappable bins are clipped to this quantile of their window; 1 leaves them as they are."""

    def __post_init__(self) -> None:
        if self.blacklist_pad_bp < 0:
            raise InputError(f"masks: blacklist_pad_bp={self.blacklist_pad_bp}; wanted 0 or more bases")
        for name in ("blacklist_quantile", "max_unmappable_fraction", "unmappable_clip_quantile"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"masks: {name}={getattr(self, name)}; wanted a share from 0 to 1")

    @property
    def files(self) -> tuple[str, ...]:
        """The input files it names."""
        return tuple(name for name in (self.gaps, self.blacklist, self.unmappable) if name is not None)


class LoadedSpans(NamedTuple):
    """A BED file's intervals by the genome's contigs, merged, and what of the file was left out."""

    spans: dict[str, Spans]
    left_out: dict[str, int]
    """Intervals per contig that the genome lacks, by the file's own name."""


class Masks(NamedTuple):
    """The stretches that a MaskSpec names, per contig; small to pickle, the same in every process."""

    gaps: Mapping[str, Spans] = {}
    blacklist: Mapping[str, Spans] = {}
    """Padded."""
    unmappable: Mapping[str, Spans] = {}
    max_unmappable_fraction: float = 0.5
    left_out: Mapping[str, Mapping[str, int]] = {}
    """Per file, its intervals on contigs that the genome lacks."""

    def blacklisted(self, contig: str, start: int, end: int) -> NDArray[np.bool_]:
        """Tell for every base [end-start] of an interval, which may reach beyond its contig, if it is blacklisted."""
        return covered(self.blacklist.get(contig, NO_SPANS), start, end)

    def unmappable_bins(self, contig: str, starts: NDArray[np.int64], geometry: Geometry) -> NDArray[np.bool_]:
        """Tell for every predicted bin [B, N] of windows that begin at `starts` [B] if it is unmappable."""
        spans = self.unmappable.get(contig, NO_SPANS)
        first = starts[:, None] + geometry.crop_bp + np.arange(geometry.num_bins) * geometry.bin_bp  # [B, N]
        bases = overlap_bp(*spans, of_start=first.ravel(), of_end=first.ravel() + geometry.bin_bp)
        return (bases >= max(1.0, _LEAST_UNMAPPABLE_SHARE * geometry.bin_bp)).reshape(first.shape)

    def unmappable_fraction(self, contig: str, starts: NDArray[np.int64], geometry: Geometry) -> NDArray[np.float64]:
        """Return the share of unmappable bins in the predicted part of windows that begin at `starts` [B]."""
        fraction = np.zeros(len(starts))
        spans = self.unmappable.get(contig, NO_SPANS)
        first = starts + geometry.crop_bp
        touched = np.flatnonzero(overlap_bp(*spans, of_start=first, of_end=first + geometry.target_bp))
        at_once = max(1, _MOST_EDGES // geometry.num_bins)
        for row in range(0, len(touched), at_once):
            rows = touched[row : row + at_once]
            fraction[rows] = self.unmappable_bins(contig, starts[rows], geometry).mean(axis=1)
        return fraction


def load_masks(spec: MaskSpec, contig_lengths: Mapping[str, int], *, data_dir: str | None = None) -> Masks:
    """Read the BED files of a MaskSpec.

    Raises:
        InputError: a file is missing or damaged, has no contig in common with the genome, or an interval reaches
            beyond its contig's end.
    """
    loaded = {
        kind: load_spans(name, contig_lengths, pad_bp=pad_bp, data_dir=data_dir)
        for kind, name, pad_bp in (
            ("gaps", spec.gaps, 0),
            ("blacklist", spec.blacklist, spec.blacklist_pad_bp),
            ("unmappable", spec.unmappable, 0),
        )
        if name is not None
    }
    return Masks(
        **{kind: one.spans for kind, one in loaded.items()},
        max_unmappable_fraction=spec.max_unmappable_fraction,
        left_out={kind: one.left_out for kind, one in loaded.items() if one.left_out},
    )


def load_spans(
    name: str, contig_lengths: Mapping[str, int], *, pad_bp: int = 0, data_dir: str | None = None
) -> LoadedSpans:
    """Read a BED file below the data root as merged stretches of each contig, widened by `pad_bp` within the contig.

    Raises:
        InputError: the file is missing or damaged, has no contig in common with the genome, or an interval reaches
            beyond its contig's end.
    """
    bed = read_bed(data_path(name, data_dir))
    names = map_contigs(dict.fromkeys(bed.contigs), contig_lengths, source=str(bed.path)).names
    if not names:
        raise InputError(
            f"{bed.path}: none of its {len(bed.contigs)} contigs is in the genome; the first is {bed.contigs[0]!r}"
            f"{suggest_names(bed.contigs[0], contig_lengths)}; give the file of the same assembly"
        )
    rows_of = rows_by_contig(bed, names)
    check_ends(bed, rows_of, contig_lengths)
    spans = {}
    for contig, rows in rows_of.items():
        start = np.maximum(bed.start[rows] - pad_bp, 0)
        end = np.minimum(bed.end[rows] + pad_bp, contig_lengths[contig])
        spans[contig] = Spans(*merge_intervals(start, end))
    counts = np.bincount(bed.contig, minlength=len(bed.contigs))
    return LoadedSpans(
        spans, {foreign: int(counts[i]) for i, foreign in enumerate(bed.contigs) if foreign not in names}
    )


def check_ends(bed: Bed, rows_of: Mapping[str, NDArray[np.int64]], contig_lengths: Mapping[str, int]) -> None:
    """Raise InputError for the first of a file's intervals that reaches beyond its contig's end."""
    for contig, rows in rows_of.items():
        beyond = rows[bed.end[rows] > contig_lengths[contig]]
        if len(beyond):
            raise InputError(
                f"{bed.where(int(beyond.min()))} reaches beyond {contig}, which has {contig_lengths[contig]} bases; "
                "give the file of the same assembly"
            )


def covered(spans: Spans, start: int, end: int) -> NDArray[np.bool_]:
    """Tell for every base [end-start] of an interval if it lies in one of the stretches."""
    inside = np.zeros(end - start, bool)
    first, last = np.searchsorted(spans.end, start, side="right"), np.searchsorted(spans.start, end, side="left")
    for one in range(int(first), int(last)):
        inside[max(0, int(spans.start[one]) - start) : int(spans.end[one]) - start] = True
    return inside
