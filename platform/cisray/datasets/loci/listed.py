"""Read which stretches of the genome play which role from another project's file: sequences.bed, chromosome JSON."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cisray.datasets.loci.dealing import ALWAYS_TRAIN
from cisray.datasets.loci.regions import check_ends
from cisray.errors import InputError
from cisray.files import read_json
from cisray.genome.bed import Bed, read_bed, rows_by_contig
from cisray.genome.contigs import map_contigs
from cisray.genome.intervals import suggest_names
from cisray.geometry import Geometry

Extent = Literal["input", "target", "region"]
"""What an interval of a file is: what a model reads, what it predicts, or a stretch to lay windows over."""
_FOLD = re.compile(r"fold(\d+)")
_LARGEST_FOLD = int(np.iinfo(np.int16).max)  # what a row's fold is stored in


class ListedRun(NamedTuple):
    """Rows of one label that hang together: their union, and where each row's window starts."""

    contig: str
    start: int
    end: int
    label: str
    starts: tuple[int, ...] | None
    """None where the rows are regions."""


def read_runs(
    path: Path, contig_lengths: Mapping[str, int], *, extent: Extent, geometry: Geometry | None
) -> list[ListedRun]:
    """Read a BED file of intervals and labels as runs of predicted parts (or of regions), sorted by contig and start.

    Raises:
        InputError: a contig is unknown, an interval is not as wide as the geometry wants, is listed twice, predicts
            nothing of its contig or, as a region, reaches beyond it; or two labels claim one base.
    """
    bed = read_bed(path)
    labels = bed.column(4, called="split or fold")
    check_folds(bed, labels)
    names = map_contigs(dict.fromkeys(bed.contigs), contig_lengths, source=str(path))
    if names.unmatched:
        lost = names.unmatched[0]
        raise InputError(
            f"{path}: no contig {lost!r} in the genome{suggest_names(lost, contig_lengths)}; "
            "use the FASTA of its assembly, or take its rows out"
        )
    rows_of = rows_by_contig(bed, names.names)
    if extent == "region":
        check_ends(bed, rows_of, contig_lengths)
        return [
            run._replace(starts=None)
            for contig, rows in rows_of.items()
            for run in _runs(bed, rows, labels, contig=contig)
        ]
    if geometry is None:
        raise ValueError("windows are listed, so the geometry must be given")
    _check_widths(bed, geometry, extent)
    crop_bp = geometry.crop_bp if extent == "input" else 0
    runs = []
    for contig, rows in rows_of.items():
        beyond = rows[bed.start[rows] + crop_bp >= contig_lengths[contig]]
        if len(beyond):
            raise InputError(
                f"{bed.where(int(beyond[0]))} predicts no base of {contig}, which has {contig_lengths[contig]} bases; "
                "give the file of the same assembly"
            )
        for run in _runs(bed, rows, labels, contig=contig, crop_bp=crop_bp):
            starts = tuple(start - geometry.crop_bp for start in run.starts or ())
            runs.append(run._replace(end=min(run.end, contig_lengths[contig]), starts=starts))
    return runs


def fold_of(label: str) -> int | None:
    """Return the number of a label foldN; None for a label train, valid or test."""
    found = _FOLD.fullmatch(label)
    return int(found[1]) if found else None


def check_folds(bed: Bed, labels: NDArray[np.str_]) -> None:
    """Raise InputError for the first label foldN [M] whose number is larger than rows can hold."""
    texts, first = np.unique(labels, return_index=True)
    for label, row in sorted(zip(texts.tolist(), first.tolist(), strict=True), key=lambda each: each[1]):
        if (fold_of(label) or 0) > _LARGEST_FOLD:
            raise InputError(f"{bed.where(row)} is of {label}; wanted fold{_LARGEST_FOLD} at most, so number them anew")


def label_of(split: str, fold: int, *, numbered: bool) -> str:
    """Return the label that `fold_of` reads back."""
    return f"fold{fold}" if numbered and fold != ALWAYS_TRAIN else split


def read_chromosomes(path: Path, contig_lengths: Mapping[str, int], *, splits: Sequence[str]) -> dict[str, list[str]]:
    """Read a JSON file that lists the contigs of every split, as the genome calls them.

    Raises:
        InputError: a split is missing, empty or unknown, a contig is unknown or listed twice.
    """
    listed = read_json(path, what="chromosome JSON")
    wanted = ", ".join(splits)
    for split in listed:
        if split not in splits:
            raise InputError(f"{path}: lists contigs of {split!r}; wanted {wanted}")
    split_of: dict[str, str] = {}
    for split in splits:
        contigs = listed.get(split)
        if not isinstance(contigs, list) or not contigs or not all(isinstance(name, str) for name in contigs):
            raise InputError(
                f"{path}: {split} is {contigs!r}; wanted a list of at least one contig for each of {wanted}"
            )
        for name in contigs:
            if name in split_of:
                raise InputError(
                    f"{path}: contig {name!r} is listed in {split_of[name]} and again in {split}; "
                    "a locus can play one role only"
                )
            split_of[name] = split
    names = map_contigs(dict.fromkeys(split_of), contig_lengths, source=str(path))
    if names.unmatched:
        lost = names.unmatched[0]
        raise InputError(f"{path}: no contig {lost!r} in the genome{suggest_names(lost, contig_lengths)}")
    return {split: [names.names[name] for name in listed[split]] for split in splits}


def _check_widths(bed: Bed, geometry: Geometry, extent: Extent) -> None:
    """Raise InputError for the first interval of another width, and say which extent it looks like."""
    widths = bed.end - bed.start
    wanted = {"input": geometry.window_bp, "target": geometry.target_bp}
    wrong = np.flatnonzero(widths != wanted[extent])
    if not len(wrong):
        return
    row, kind = int(wrong[0]), "windows" if extent == "input" else "predicted parts"
    likely = [other for other, width in wanted.items() if widths[row] == width]
    advice = (
        f'that is the {likely[0]} extent: set folds.sequences_are = "{likely[0]}"'
        if likely
        else f"change geometry: its windows have {wanted['input']} bp and predict {wanted['target']} bp"
    )
    raise InputError(f"{bed.where(row)} has {widths[row]} bp, but {kind} have {wanted[extent]} bp; {advice}")


def _runs(
    bed: Bed, rows: NDArray[np.int64], labels: NDArray[np.str_], *, contig: str, crop_bp: int = 0
) -> list[ListedRun]:
    """Join rows (sorted by start) of one label that overlap or touch; `crop_bp` is cut from both ends of each."""
    runs: list[ListedRun] = []
    starts: list[int] = []
    previous = -1
    for row in rows.tolist():
        start, end = int(bed.start[row]) + crop_bp, int(bed.end[row]) - crop_bp
        label = str(labels[row])
        last = runs[-1] if runs else None
        if last is not None and start < last.end and (label != last.label or (start, end) == (starts[-1], last.end)):
            both = "are listed twice" if label == last.label else "overlap; a locus can play one role only"
            raise InputError(f"{bed.where(row)} {label} and line {bed.line[previous]} {last.label} {both}")
        if last is not None and label == last.label and start <= last.end:
            runs[-1] = last._replace(end=max(end, last.end))
            starts.append(start)
        else:
            if last is not None:
                runs[-1] = last._replace(starts=tuple(starts))
            starts = [start]
            runs.append(ListedRun(contig, start, end, label, None))
        previous = row
    if runs:
        runs[-1] = runs[-1]._replace(starts=tuple(starts))
    return runs
