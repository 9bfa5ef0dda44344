"""Read what a folder of Calico's (Basenji2, Borzoi) holds, and one record of it.

    statistics.json             seq_length, pool_width, crop_bp, target_length, num_targets, seq_1hot, <label>_seqs
    sequences.bed               contig, start, end, label: train, valid and test, or fold0, fold1, ...
    targets.txt                 see datasets.calico.targets
    tfrecords/<label>-<i>.tfr   see datasets.calico.records

The records of a label's files, by number, are its lines in sequences.bed, in order. In a record, `sequence` is uint8:
codes [L] where seq_1hot is true (Calico's reader encodes those), else one-hot [L, 4], zeros for N. `target` is float16
[N, T], transformed already.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cisray.datasets.calico.records import parse_example
from cisray.errors import InputError
from cisray.files import read_json
from cisray.genome.bed import Bed, read_bed
from cisray.genome.sequence import UNKNOWN
from cisray.geometry import Geometry


class Folder(NamedTuple):
    """What a folder says of itself."""

    geometry: Geometry
    num_targets: int
    """Tracks in every record."""
    is_one_hot: bool
    statistics: dict[str, Any]
    bed: Bed
    labels: np.ndarray
    """Text of each line of sequences.bed, [M]."""
    lead_bp: int
    """Bases from a window's start to that of its interval: 0, or the crop where the interval is the target's."""
    files: dict[str, list[Path]]
    """Every label's files, by number."""
    paths: list[Path]
    """statistics.json and sequences.bed."""

    def lines_of(self, label: str) -> np.ndarray:
        """Return which lines of sequences.bed have a label, in order."""
        return np.flatnonzero(self.labels == label)

    def window_start(self, line: int) -> int:
        """Return where the window of a line starts; below 0 where it reaches beyond its contig."""
        return int(self.bed.start[line]) - self.lead_bp

    def miscounted(self) -> dict[str, int]:
        """Return the counts of statistics.json that are not those of sequences.bed; Calico's may precede a filter."""
        listed = {f"{label}_seqs": len(self.lines_of(label)) for label in self.files}
        return {key: count for key, count in self.statistics.items() if key in listed and count != listed[key]}


class Record(NamedTuple):
    """The arrays of one record."""

    codes: np.ndarray
    """uint8 [L]."""
    targets: np.ndarray
    """float16 [N, T]."""
    left_out: set[str]
    """Other features that it has."""


def read_folder(path: Path) -> Folder:
    """Read statistics.json and sequences.bed, and find the files of records.

    Raises:
        InputError: a file is missing, or they do not fit each other.
    """
    if not path.is_dir():
        raise InputError(
            f"{path}: not a folder; wanted one of Calico's, with statistics.json, sequences.bed and tfrecords"
        )
    statistics_path = path / "statistics.json"
    statistics = read_json(statistics_path, what="statistics.json of a Calico dataset")
    geometry = _read_geometry(statistics, source=statistics_path)
    bed = read_bed(path / "sequences.bed")
    labels = bed.column(4, called="label (train, valid, test, or fold0, fold1, ...)")
    return Folder(
        geometry=geometry,
        num_targets=_whole_number(statistics, "num_targets", source=statistics_path),
        is_one_hot=not statistics.get("seq_1hot", False),
        statistics=statistics,
        bed=bed,
        labels=labels,
        lead_bp=_lead_bp(bed, geometry),
        files=_find_files(path / "tfrecords", labels),
        paths=[statistics_path, bed.path],
    )


def decode_record(record: bytes, folder: Folder, *, where: str) -> Record:
    """Return a record's arrays; raise InputError that says `where` it stands if it is not as the folder says."""
    features = parse_example(record, where=where)
    for name in ("sequence", "target"):
        if name not in features:
            raise InputError(f"{where}: no feature {name}; it has {', '.join(sorted(features)) or 'none'}")
    shape = (folder.geometry.num_bins, folder.num_targets)
    wanted = 2 * shape[0] * shape[1]
    target = features["target"]
    if target.nbytes != wanted:
        raise InputError(
            f"{where}: a target of {target.nbytes} bytes; wanted {wanted}: by statistics.json, "
            f"{shape[0]} bins of {shape[1]} tracks in float16"
        )
    return Record(
        codes=_decode_codes(features["sequence"], folder, where=where),
        targets=np.frombuffer(target, "<f2").reshape(shape),
        left_out=features.keys() - {"sequence", "target"},
    )


def _decode_codes(sequence: memoryview, folder: Folder, *, where: str) -> np.ndarray:
    window_bp = folder.geometry.window_bp
    wanted = 4 * window_bp if folder.is_one_hot else window_bp
    if sequence.nbytes != wanted:
        form = "one-hot, since seq_1hot is false" if folder.is_one_hot else "as codes, since seq_1hot is true"
        raise InputError(
            f"{where}: a sequence of {sequence.nbytes} bytes; wanted {wanted}: by statistics.json, "
            f"{window_bp} bases {form}"
        )
    values = np.frombuffer(sequence, np.uint8)
    if not folder.is_one_hot:
        if values.max() > UNKNOWN:
            raise InputError(f"{where}: a base of code {values.max()}; wanted 0 to 3 for ACGT and 4 for N")
        return values
    table = values.reshape(window_bp, 4)
    present = table.sum(axis=1)
    if table.max() > 1 or present.max() > 1:
        raise InputError(f"{where}: a base that is no one-hot row; wanted one 1, or zeros for N")
    return np.where(present == 1, table.argmax(axis=1), UNKNOWN).astype(np.uint8)


def _read_geometry(statistics: dict[str, Any], *, source: Path) -> Geometry:
    """Return the geometry of a statistics.json; without crop_bp, that is what the target leaves on both sides."""
    window_bp, bin_bp, num_bins = (
        _whole_number(statistics, key, source=source) for key in ("seq_length", "pool_width", "target_length")
    )
    crop_bp = statistics.get("crop_bp", (window_bp - num_bins * bin_bp) // 2)
    if not isinstance(crop_bp, int) or crop_bp < 0 or crop_bp % bin_bp or num_bins * bin_bp + 2 * crop_bp != window_bp:
        raise InputError(
            f"{source}: seq_length {window_bp}, pool_width {bin_bp}, crop_bp {crop_bp}, target_length {num_bins}; "
            "wanted a seq_length of target_length bins and of whole bins cut from both ends"
        )
    return Geometry(window_bp=window_bp, bin_bp=bin_bp, crop_bins=crop_bp // bin_bp)


def _whole_number(statistics: dict[str, Any], key: str, *, source: Path) -> int:
    value = statistics.get(key)
    if not isinstance(value, int) or value < 1:
        raise InputError(f"{source}: {key} is {value!r}; wanted a positive whole number")
    return value


def _lead_bp(bed: Bed, geometry: Geometry) -> int:
    lead_of = {geometry.target_bp: geometry.crop_bp, geometry.window_bp: 0}
    widths = bed.end - bed.start
    width = int(widths[0])
    for row in np.flatnonzero((widths != width) | (width not in lead_of)).tolist():
        raise InputError(
            f"{bed.where(row)}: {widths[row]} bases; by statistics.json, wanted {geometry.window_bp} on every line "
            f"(the input) or {geometry.target_bp} on every line (the target)"
        )
    return lead_of[width]


def _find_files(folder: Path, labels: np.ndarray) -> dict[str, list[Path]]:
    """Return the files of every label, by number."""
    found: dict[str, dict[int, Path]] = {label: {} for label in dict.fromkeys(labels.tolist())}
    for path in sorted(folder.glob("*.tfr")):
        label, _, number = path.stem.rpartition("-")
        if label not in found or not number.isdecimal():
            raise InputError(
                f"{path}: sequences.bed has no line of this label; wanted <label>-<number>.tfr of {', '.join(found)}"
            )
        found[label][int(number)] = path
    for label, paths in found.items():
        missing = [number for number in range(max(paths, default=0) + 1) if number not in paths]
        if missing:
            raise InputError(
                f"{folder}: no {label}-{missing[0]}.tfr, but sequences.bed has lines of {label}; copy all files"
            )
    return {label: [paths[number] for number in sorted(paths)] for label, paths in found.items()}
