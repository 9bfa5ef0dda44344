"""Read the peaks of many tracks, each file's contigs by the genome's names."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cisray.config import check_settings, data_path, data_root
from cisray.datasets.card import Track, check_tracks
from cisray.datasets.loci.regions import Spans, check_ends
from cisray.errors import InputError
from cisray.genome.bed import Bed, merge_intervals, read_bed, rows_by_contig
from cisray.genome.contigs import map_contigs
from cisray.genome.intervals import suggest_names
from cisray.remote import join, names_below

_NARROW_PEAK_SUMMIT = 10
_PACKED = re.compile(r"\.(gz|bgz)$", re.IGNORECASE)
_ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII", "XIII", "XIV", "XV", "XVI")
_LEAST_ROMAN = 3  # contigs numbered from I on without a gap, by which a genome is known to count in roman numbers
_GLUED_STARS = re.compile(r"[^/]\*\*|\*\*[^/]")
_OFFSET = re.compile(r" *-?[0-9]{1,18} *")
_NUMBERED = re.compile(r"(?:chromosome|chrom|chr)?[ _.-]?0*(\d+)", re.IGNORECASE)


class PeakFiles(NamedTuple):
    """Which files of peaks are tracks, beside those that `tracks` lists."""

    pattern: str
    """Files below data_dir, such as "peaks/*.narrowPeak.gz": a track each, named after the file."""
    strip_suffix: str = ""
    """What is cut from the end of a file's name, beyond its extension, to make the track's name."""
    name_column: int | None = None
    """The column, from 1, whose values are the tracks: several tracks per file."""


class ContigPeaks(NamedTuple):
    """The peaks of all tracks on one contig, sorted by start."""

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    summit: NDArray[np.int64]
    """Position of the summit on the contig, [M]."""
    track: NDArray[np.int64]
    """Index of the track, [M]."""


class Peaks(NamedTuple):
    """The tracks, their peaks by contig of the genome, and what their files call the contigs."""

    tracks: tuple[Track, ...]
    contigs: dict[str, ContigPeaks]
    paths: list[Path]
    contig_names: dict[str, dict[str, str]]
    """Per track, its file's contig names that differ from the genome's, and what they were mapped to."""
    absent_contigs: dict[str, list[str]]
    """Per track, contigs of the genome on which its file has no peak."""
    num_ignored: int
    """Peaks on contigs that were left out knowingly."""

    @property
    def num_peaks(self) -> int:
        """Peaks of all tracks."""
        return sum(len(peaks.start) for peaks in self.contigs.values())

    def spans(self, contig: str) -> Spans:
        """Return the stretches that any peak covers."""
        peaks = self.contigs.get(contig, NO_PEAKS)
        return Spans(*merge_intervals(peaks.start, peaks.end))


_NONE = np.zeros(0, np.int64)
NO_PEAKS = ContigPeaks(_NONE, _NONE, _NONE, _NONE)


def load_peaks(
    tracks: Sequence[Track],
    files: PeakFiles | None,
    contig_lengths: Mapping[str, int],
    *,
    data_dir: str | None,
    summit_column: int | None = None,
    ignore_contigs: Sequence[str] = (),
) -> Peaks:
    """Read every track's peaks, unsorted files too.

    Raises:
        InputError: no file is named or found; or a file is damaged, or a line has a contig that the genome lacks, a
            peak beyond its contig's end, or a summit outside its peak.
    """
    listed = [(track, data_path(track.file, data_dir)) for track in tracks]
    column = files.name_column if files is not None else None
    found = _find_files(files, data_dir) if files is not None else []
    if not listed and not found:
        raise InputError("tracks: none; list files in tracks, or name them by a pattern in tracks_from")
    all_tracks: list[Track] = []
    columns: dict[str, list[ContigPeaks]] = {contig: [] for contig in contig_lengths}
    names: dict[str, dict[str, str]] = {}
    absent: dict[str, list[str]] = {}
    num_ignored = 0
    for track, path, by_column in [(*one, None) for one in listed] + [(*one, column) for one in found]:
        bed = read_bed(path)
        mapped = map_bed(bed, contig_lengths, ignore_contigs)
        rows_of = rows_by_contig(bed, mapped)
        check_ends(bed, rows_of, contig_lengths)
        num_ignored += len(bed) - sum(map(len, rows_of.values()))
        summit = _summits(bed, summit_column)
        own, index = _own_tracks(bed, track, by_column)
        for contig, rows in rows_of.items():
            columns[contig].append(
                ContigPeaks(bed.start[rows], bed.end[rows], summit[rows], index[rows] + len(all_tracks))
            )
        for one in own:
            names[one.name] = {foreign: ours for foreign, ours in mapped.items() if foreign != ours}
            absent[one.name] = [contig for contig in contig_lengths if contig not in rows_of]
        all_tracks.extend(own)
    check_tracks(all_tracks)
    return Peaks(
        tracks=tuple(all_tracks),
        contigs={contig: _sorted(parts) for contig, parts in columns.items() if parts},
        paths=[path for _, path in listed + found],
        contig_names=names,
        absent_contigs=absent,
        num_ignored=num_ignored,
    )


def _find_files(files: PeakFiles, data_dir: str | None) -> list[tuple[Track, Path]]:
    if files.name_column is not None and files.name_column < 4:
        raise InputError(f"tracks_from: name_column={files.name_column}; a BED file's own columns begin with 4")
    if not files.pattern or Path(files.pattern).is_absolute() or _GLUED_STARS.search(files.pattern):
        raise InputError(
            f"tracks_from: {files.pattern!r} is no pattern below data_dir; wanted one such as peaks/*.bed, or "
            "peaks/**/*.bed, where ** stands alone for folders in folders"
        )
    root = data_root(data_dir)
    found = []
    for file in names_below(root, files.pattern):
        path = data_path(file, data_dir)
        name = _PACKED.sub("", path.name).rpartition(".")[0] or path.name
        if not name.endswith(files.strip_suffix):
            raise InputError(f"tracks_from: {path} does not end in {files.strip_suffix!r}, which strip_suffix names")
        name = name.removesuffix(files.strip_suffix)
        settings = {"name": name, "file": file}
        found.append((check_settings(settings, Track, source=str(path)), path))
    if not found:
        raise InputError(f"tracks_from: no file fits {join(root, files.pattern)}; check the pattern, or data_dir")
    return found


def _own_tracks(bed: Bed, track: Track, column: int | None) -> tuple[list[Track], NDArray[np.int64]]:
    """Return the tracks of a file, and the index of each row's: one track, or one per value of a column."""
    if column is None:
        return [track], np.zeros(len(bed), np.int64)
    values, index = np.unique(bed.column(column, called="track's name"), return_inverse=True)
    tracks = [{"name": str(value), "file": track.file} for value in values]
    return [check_settings(settings, Track, source=str(bed.path)) for settings in tracks], index


def _summits(bed: Bed, column: int | None) -> NDArray[np.int64]:
    """Return the position of each interval's summit: its middle where the file has none, or -1 for it."""
    middle = bed.start + (bed.end - bed.start) // 2
    if column is None:
        if "narrowpeak" not in bed.path.name.lower():
            return middle
        column = _NARROW_PEAK_SUMMIT
    text = bed.column(column, called="summit's offset from the start")
    for wrong in (row for row, one in enumerate(text.tolist()) if not _OFFSET.fullmatch(one)):
        raise InputError(
            f"{bed.where(wrong)}: summit {str(text[wrong])!r} in column {column}; "
            "wanted an offset from the start, or -1"
        )
    offset = text.astype(np.int64)
    outside = np.flatnonzero((offset < -1) | (offset >= bed.end - bed.start))
    if len(outside):
        row = int(outside[0])
        raise InputError(
            f"{bed.where(row)}: summit {offset[row]} in column {column} lies outside the peak; wanted an offset from "
            "the start, or -1 where there is none"
        )
    return np.where(offset < 0, middle, bed.start + offset)


def map_bed(bed: Bed, contig_lengths: Mapping[str, int], ignore: Sequence[str]) -> dict[str, str]:
    """Return the genome's name for each of the file's contigs; raise InputError with the line of an unknown one."""
    numbered = _roman_series(contig_lengths)
    lengths: dict[str, int | None] = dict.fromkeys(bed.contigs)
    for name in bed.contigs:
        digits = _NUMBERED.fullmatch(name)
        if name not in contig_lengths and digits is not None and int(digits[1]) in numbered:
            lengths[name] = contig_lengths[numbered[int(digits[1])]]  # which lets arabic numbers mean roman ones
    mapped = map_contigs(lengths, contig_lengths, source=str(bed.path), ignore=ignore)
    if mapped.unmatched:
        name = mapped.unmatched[0]
        row = int(np.flatnonzero(bed.contig == bed.contigs.index(name))[0])
        raise InputError(
            f"{bed.where(row)}: the genome has no contig {name!r}{suggest_names(name, contig_lengths)}; give the file "
            "of the genome's own assembly, or list the contig in genome.ignore_contigs"
        )
    return mapped.names


def _roman_series(contig_lengths: Mapping[str, int]) -> dict[int, str]:
    """Return the contigs numbered I, II, III and on without a gap, by number; none if any has an arabic number.

    Without such a series X may be a sex chromosome and no ten, as it is in a genome of I to V and X.
    """
    if any(_NUMBERED.fullmatch(name) for name in contig_lengths):
        return {}
    bare = {re.sub("^(chromosome|chrom|chr)[ _.-]?", "", name, flags=re.IGNORECASE): name for name in contig_lengths}
    series = {}
    for number, roman in enumerate(_ROMAN, start=1):
        if roman not in bare:
            break
        series[number] = bare[roman]
    return series if len(series) >= _LEAST_ROMAN else {}


def _sorted(parts: Sequence[ContigPeaks]) -> ContigPeaks:
    joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.lexsort((joined[2], joined[3], joined[1], joined[0]))
    return ContigPeaks(*(column[order] for column in joined))
