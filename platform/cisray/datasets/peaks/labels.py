"""Say which bins of a window the peaks of each track label."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.datasets.peaks.peak_files import NO_PEAKS, ContigPeaks, Peaks
from cisray.datasets.schema import NO_LABEL
from cisray.errors import InputError
from cisray.genome.bed import merge_intervals
from cisray.genome.ranges import join_ranges
from cisray.geometry import Geometry


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LabelSpec:
    """When a bin has a track's label."""

    rule: Literal["overlap", "summit"] = "overlap"
    """"overlap": peaks cover enough of it; "summit": a peak's summit lies in it."""
    min_overlap_fraction: float = 0.5
    """A label needs more than this share to be covered; 0 asks for one base. DeepSEA's is half of a bin."""
    overlap_of: Literal["bin", "peak", "smaller"] = "bin"
    """What the share is of: the bin, by all peaks of the track together; or one peak; or the smaller of both."""
    summit_bp: int | None = None
    """With "summit": bases from a bin's centre within which a summit labels it; None asks for one within the bin."""
    summit_column: int | None = None
    """Column of the summit's offset from the start; None reads column 10 of files called narrowPeak, elsewhere the
    summit is the interval's middle."""
    partial: Literal["zero", "unknown"] = "zero"
    """What a bin is that peaks touch, but not enough for a label."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_overlap_fraction < 1:
            raise InputError(
                f"labels: min_overlap_fraction={self.min_overlap_fraction}; wanted 0 or more and less than 1, "
                "because a label needs more than this share"
            )
        if self.summit_bp is not None and (self.summit_bp < 0 or self.rule != "summit"):
            raise InputError(f'labels: summit_bp={self.summit_bp}; wanted 0 or more, and rule = "summit"')
        if self.summit_column is not None and self.summit_column < 4:
            raise InputError(f"labels: summit_column={self.summit_column}; a BED file's own columns begin with 4")


class Labels(NamedTuple):
    """The labels of B windows that are not 0, as sorted keys (window * N + bin) * T + track."""

    key: NDArray[np.int64]
    value: NDArray[np.uint8]
    """1, or 255 for one that is not known."""
    shape: tuple[int, int, int]
    """(B, N, T)."""

    def dense(self) -> NDArray[np.uint8]:
        """Return the labels of all bins, [B, N, T]."""
        labels = np.zeros(self.shape, np.uint8)
        labels.reshape(-1)[self.key] = self.value
        return labels

    def positive(self, track: int | None = None) -> NDArray[np.bool_]:
        """Tell for each window if it has the label of a track, or of any, [B]."""
        B, N, T = self.shape
        chosen = self.value == 1
        if track is not None:
            chosen &= self.key % T == track
        found = np.zeros(B, bool)
        found[self.key[chosen] // (N * T)] = True
        return found


class _Evidence(NamedTuple):
    """The stretches of one contig that may label a bin, sorted by start."""

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    summit: NDArray[np.int64]
    track: NDArray[np.int64]
    peak_start: NDArray[np.int64]
    """Where the peak itself begins and ends: a summit may label bins that lie beside its peak."""
    peak_end: NDArray[np.int64]
    reach: NDArray[np.int64]
    """The furthest end of all stretches so far."""


class _Meetings(NamedTuple):
    """Every stretch and bin that have a base in common, [P] each."""

    stretch: NDArray[np.int64]
    key: NDArray[np.int64]
    """The bin and the stretch's track, as in Labels."""
    bin_start: NDArray[np.int64]


class Labeler:
    """Labels windows; the time it takes goes with the peaks in them, however many tracks there are."""

    def __init__(self, peaks: Peaks, spec: LabelSpec, geometry: Geometry) -> None:
        self._num_tracks = len(peaks.tracks)
        self._spec, self._geometry = spec, geometry
        self._evidence = {contig: _evidence(one, spec) for contig, one in peaks.contigs.items()}

    def labels(self, contig: str, starts: NDArray[np.int64]) -> Labels:
        """Return the labels of windows that begin at `starts` [B], in rising order."""
        spec, bin_bp = self._spec, self._geometry.bin_bp
        shape = (len(starts), self._geometry.num_bins, self._num_tracks)
        if contig not in self._evidence or not len(starts):
            return Labels(NO_PEAKS.track, np.zeros(0, np.uint8), shape)
        evidence = self._evidence[contig]
        met = self._meetings(evidence, starts)
        bin_end = met.bin_start + bin_bp
        start, end, summit = (part[met.stretch] for part in evidence[:3])
        if spec.rule == "overlap":
            bases = np.minimum(end, bin_end) - np.maximum(start, met.bin_start)
            of_bp = {"bin": bin_bp, "peak": end - start, "smaller": np.minimum(end - start, bin_bp)}[spec.overlap_of]
            counted = bases if spec.overlap_of == "bin" else bases > spec.min_overlap_fraction * of_bp
        elif spec.summit_bp is None:
            counted = (met.bin_start <= summit) & (summit < bin_end)
        else:
            counted = np.abs(summit - met.bin_start - bin_bp // 2) <= spec.summit_bp
        # the stretches of a track do not overlap where its bases are counted together
        together = spec.rule == "overlap" and spec.overlap_of == "bin"
        needed = spec.min_overlap_fraction * bin_bp if together else 0
        key, which = np.unique(met.key, return_inverse=True)
        has_label = np.bincount(which, weights=counted, minlength=len(key)) > needed
        if spec.partial == "zero":
            return Labels(key[has_label], np.ones(int(has_label.sum()), np.uint8), shape)
        peak_start, peak_end = evidence.peak_start[met.stretch], evidence.peak_end[met.stretch]
        touches = (peak_start < bin_end) & (met.bin_start < peak_end)
        kept = has_label | (np.bincount(which, weights=touches, minlength=len(key)) > 0)
        return Labels(key[kept], np.where(has_label[kept], 1, NO_LABEL).astype(np.uint8), shape)

    def _meetings(self, evidence: _Evidence, starts: NDArray[np.int64]) -> _Meetings:
        geometry = self._geometry
        target_start = starts + geometry.crop_bp
        first = int(np.searchsorted(evidence.reach, target_start[0], side="right"))
        last = int(np.searchsorted(evidence.start, target_start[-1] + geometry.target_bp))
        start, end = evidence.start[first:last], evidence.end[first:last]
        stretch, window = _expand(
            np.searchsorted(target_start, start - geometry.target_bp, side="right"), np.searchsorted(target_start, end)
        )
        from_start, to_end = start[stretch] - target_start[window], end[stretch] - target_start[window]
        pair, number = _expand(
            np.maximum(0, from_start // geometry.bin_bp), np.minimum(geometry.num_bins, -(-to_end // geometry.bin_bp))
        )
        stretch, window = stretch[pair] + first, window[pair]
        key = (window * geometry.num_bins + number) * self._num_tracks + evidence.track[stretch]
        return _Meetings(stretch, key, target_start[window] + number * geometry.bin_bp)


def _evidence(peaks: ContigPeaks, spec: LabelSpec) -> _Evidence:
    start, end, summit, track = peaks
    peak_start, peak_end = start, end
    if spec.rule == "summit":
        near = spec.summit_bp or 0
        at_least = spec.partial == "zero"  # else the rest of a peak is needed too, to know what it touches
        start = summit - near if at_least else np.minimum(start, summit - near)
        end = summit + near + 1 if at_least else np.maximum(end, summit + near + 1)
    elif spec.overlap_of == "bin":
        start, end, track = _merge_by_track(start, end, track)
        summit = peak_start = start
        peak_end = end
    order = np.argsort(start, kind="stable")
    end = end[order]
    return _Evidence(
        start[order],
        end,
        summit[order],
        track[order],
        peak_start[order],
        peak_end[order],
        reach=np.maximum.accumulate(end),
    )


def _merge_by_track(
    start: NDArray[np.int64], end: NDArray[np.int64], track: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Join the stretches of each track that overlap or touch: all tracks at once, laid behind one another."""
    apart = int(end.max(initial=0)) + 1
    order = np.lexsort((start, track))
    shift = track[order] * apart
    first, last = merge_intervals(start[order] + shift, end[order] + shift)
    owner = first // apart
    return first - owner * apart, last - owner * apart, owner


def _expand(first: NDArray[np.int64], last: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for ranges [first, last) which range each number belongs to, and the numbers, one after another."""
    count = np.maximum(0, last - first)
    which = np.repeat(np.arange(len(count)), count)
    return which, join_ranges(first, count)
