"""Import a dataset of Calico's (Basenji2, Borzoi) as it was shipped: rows from TFRecords, targets as they are stored.

The tracks carry the transform that the targets were made with, so that its inverse applies. A window is the record's
input, without margins; see datasets.calico.folder for the files.
"""

import functools
import itertools
import operator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic.dataclasses import dataclass

from cisray.config import STRICT, data_path
from cisray.datasets.calico.folder import Record, decode_record, read_folder
from cisray.datasets.calico.records import read_records, record_name
from cisray.datasets.calico.targets import AS_WRITTEN, Relocation, Targets, read_targets
from cisray.datasets.card import Genome, Kind
from cisray.datasets.loci.folds import SPLITS, Split
from cisray.datasets.loci.listed import check_folds, fold_of
from cisray.datasets.schema import Examples, Layout, Loci, make_rows
from cisray.datasets.source import (
    BuiltShard,
    GenomeSpec,
    Plan,
    PlannedShard,
    describe_genome,
    genome_paths,
    open_genome,
)
from cisray.datasets.statistics import Tally
from cisray.datasets.transforms import Order
from cisray.errors import InputError
from cisray.genome.bed import merge_intervals, rows_by_contig
from cisray.genome.contigs import map_contigs
from cisray.genome.intervals import Interval, suggest_names
from cisray.genome.sequence import UNKNOWN

# Share of a record's bases that must be the FASTA's: major alleles differ from it at one in a thousand, chance at three
# in four.
_LEAST_AGREEMENT = 0.95


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CalicoSpec:
    """Which of Calico's datasets, and what of it plays which role."""

    folder: str
    """Folder below data_dir that holds statistics.json, sequences.bed, targets.txt and tfrecords."""
    targets: str | None = None
    """A targets.txt below data_dir in place of the folder's: its indices say which of the records' tracks to take."""
    relocate: Relocation = AS_WRITTEN
    """Where the tracks' files lie here; said in the card, and none is read."""
    order: Order = "new"
    """The order of the transform that the targets were made with; "old" for the data of the Borzoi manuscript."""
    valid: tuple[str, ...] = ("valid",)
    """Labels of the validation split; those in neither list are train."""
    test: tuple[str, ...] = ("test",)
    genome: GenomeSpec | None = None
    """The genome of the coordinates, which scoring needs; the first record of each label is compared with it."""

    def __post_init__(self) -> None:
        if not (self.valid and self.test) or set(self.valid) & set(self.test):
            raise InputError(
                f"valid={list(self.valid)}, test={list(self.test)}; wanted at least one label in each, and none in both"
            )
        if self.genome is not None and self.genome.haplotype is not None:
            raise InputError("genome.haplotype: records hold the sequence they were made with; leave it out")


class CalicoSource:
    """Makes rows of a folder of TFRecords."""

    kind: Kind = "coverage"

    def __init__(self, spec: CalicoSpec, data_dir: str | None) -> None:
        self._spec = spec
        root = data_path(spec.folder, data_dir)
        self._folder = read_folder(root)
        check_folds(self._folder.bed, self._folder.labels)
        targets_path = root / "targets.txt" if spec.targets is None else data_path(spec.targets, data_dir)
        targets = read_targets(targets_path, relocate=spec.relocate, order=spec.order)
        num_targets = self._folder.num_targets
        # the folder's own lines are the records' columns in order, whatever whole their indices are of
        is_own = spec.targets is None and len(targets.tracks) == num_targets
        self._columns = None if is_own else _columns(targets, num_targets, source=targets_path)
        self.tracks = targets.tracks
        self.layout = Layout(self._folder.geometry, tuple(track.name for track in self.tracks), "<f2")
        self._labels = self._split_labels()
        self._bases = None if spec.genome is None else open_genome(spec.genome, data_dir)
        self.genome: Genome | None = None
        contigs = self._folder.bed.contigs
        self._contigs = dict(zip(contigs, contigs, strict=True))
        self.paths: list[Path] = [*self._folder.paths, targets_path, *itertools.chain(*self._folder.files.values())]
        if spec.genome is not None and self._bases is not None:
            self.genome = describe_genome(spec.genome, self._bases)
            self._contigs = self._map_contigs(self.genome)
            self.paths += genome_paths(self._bases)
        renamed = {theirs: ours for theirs, ours in self._contigs.items() if theirs != ours}
        self.contig_names: dict[str, dict[str, str]] = {self._folder.bed.path.name: renamed}
        self.absent_contigs: dict[str, list[str]] = {}

    def plan(self) -> Plan:
        """Make one shard of every file; the first file of each label is read, to see how many records a file holds."""
        shards = []
        left_out: set[str] = set()
        for split, labels in self._labels.items():
            for label in labels:
                counts, others = self._count_records(label)
                left_out |= others
                first = 0
                for number, count in enumerate(counts):
                    values = {"label": label, "file": number, "first": first, "num_rows": count}
                    if count:
                        shards.append(PlannedShard(f"part-{label}-{number:06d}", split, count, values))
                    first += count
        folder = self._folder
        is_target = folder.lead_bp > 0 or folder.geometry.crop_bp == 0
        facts = {
            "intervals of sequences.bed": "target" if is_target else "input",
            "labels": self._labels,
            "tracks left out": folder.num_targets - len(self.tracks),
            "features left out": sorted(left_out),
            "other counts in statistics.json": folder.miscounted(),
        }
        return Plan(shards, {}, {split: self._regions(split) for split in SPLITS}, facts)

    def build(self, values: dict[str, Any]) -> BuiltShard:
        """Make the rows of one file in one pass over it."""
        label, first, num_rows = values["label"], values["first"], values["num_rows"]
        path = self._folder.files[label][values["file"]]
        lines = self._folder.lines_of(label)[first : first + num_rows]
        rows, tallies = [], []
        num_records = 0
        for record in read_records(path):
            if num_records < num_rows:
                decoded = self._decode(record, where=record_name(path, num_records))
                rows.append(self._row(int(lines[num_records]), decoded))
                tallies.append(Tally.of(decoded.targets[None], self.tracks))
            num_records += 1
        if num_records != num_rows:
            raise InputError(
                f"{path}: {num_records} records; by {self._folder.bed.path} and the number in {label}-0.tfr, "
                f"wanted {num_rows}; copy the file, or that sequences.bed, again"
            )
        return BuiltShard(pa.concat_tables(rows), functools.reduce(operator.add, tallies), {})

    def _decode(self, record: bytes, *, where: str) -> Record:
        decoded = decode_record(record, self._folder, where=where)
        return decoded if self._columns is None else decoded._replace(targets=decoded.targets[:, self._columns])

    def _row(self, line: int, record: Record) -> pa.Table:
        label = str(self._folder.labels[line])
        number = fold_of(label)
        fold = SPLITS.index(self._split_of(label)) if number is None else number
        window = self._window(line)
        loci = Loci([window.contig], np.array([window.start]), np.array([window.end]), ["+"], np.array([fold]))
        return make_rows(self.layout, loci, Examples(record.codes[None], record.targets[None]))

    def _window(self, line: int) -> Interval:
        bed, start = self._folder.bed, self._folder.window_start(line)
        contig = self._contigs[bed.contigs[bed.contig[line]]]
        return Interval(contig, start, start + self.layout.geometry.window_bp)

    def _split_of(self, label: str) -> Split:
        if label in self._spec.valid:
            return "valid"
        return "test" if label in self._spec.test else "train"

    def _split_labels(self) -> dict[Split, list[str]]:
        present, path = list(self._folder.files), self._folder.bed.path
        for label in (*self._spec.valid, *self._spec.test):
            if label not in present:
                raise InputError(
                    f"{path}: no line is labelled {label}; say in valid and test which are: {', '.join(present)}"
                )
        labels: dict[Split, list[str]] = {
            split: [label for label in present if self._split_of(label) == split] for split in SPLITS
        }
        if not labels["train"]:
            raise InputError(f"{path}: valid and test take every label ({', '.join(present)}); leave one for train")
        return labels

    def _count_records(self, label: str) -> tuple[list[int], set[str]]:
        """Return the records of each of a label's files, and the features of the first that rows do not hold."""
        paths, lines = self._folder.files[label], self._folder.lines_of(label)
        left_out: set[str] = set()
        per_file = 0
        for record in read_records(paths[0]):
            if per_file == 0:
                where = record_name(paths[0], 0)
                decoded = self._decode(record, where=where)
                left_out = decoded.left_out
                self._compare(decoded.codes, self._window(int(lines[0])), where=where)
            per_file += 1
        # Calico's builder fills files evenly; where that leaves nothing for the last, it writes an empty one
        counts = [min(per_file, max(0, len(lines) - number * per_file)) for number in range(len(paths))]
        is_even = counts[0] == per_file and sum(counts) == len(lines) and 0 not in counts[:-1]
        if not is_even or (counts[-1] == 0 and any(True for _ in read_records(paths[-1]))):
            raise InputError(
                f"{paths[0].parent}: {len(paths)} files of {label}, the first of {per_file} records, are not the "
                f"{len(lines)} lines of {self._folder.bed.path}; copy all files, or that sequences.bed, again"
            )
        return counts, left_out

    def _map_contigs(self, genome: Genome) -> dict[str, str]:
        bed = self._folder.bed
        names = map_contigs(dict.fromkeys(bed.contigs), genome.contig_lengths, source=str(bed.path))
        for lost in names.unmatched:
            raise InputError(
                f"{bed.path}: no contig {lost!r} in {genome.fasta}{suggest_names(lost, genome.contig_lengths)}; "
                "use the FASTA of its assembly"
            )
        return names.names

    def _compare(self, codes: np.ndarray, window: Interval, *, where: str) -> None:
        if self._bases is None:
            return
        ours = self._bases.codes(window.contig, window.start, window.end)
        known = (ours != UNKNOWN) & (codes != UNKNOWN)
        agreement = float((ours == codes)[known].mean()) if known.any() else 1.0
        if agreement < _LEAST_AGREEMENT:
            raise InputError(
                f"{where}: {agreement:.0%} of its bases are those of {window} in the FASTA; use that of its assembly"
            )

    def _regions(self, split: Split) -> list[str]:
        """Return the stretches of the genome that a split's targets cover; none without a genome."""
        if self.genome is None:
            return []
        bed, geometry = self._folder.bed, self.layout.geometry
        is_in_split = np.isin(self._folder.labels, self._labels[split])
        regions = []
        for contig, rows in rows_by_contig(bed, self._contigs).items():
            rows = rows[is_in_split[rows]]
            start = bed.start[rows] - self._folder.lead_bp + geometry.crop_bp
            length = self.genome.contig_lengths[contig]
            merged = merge_intervals(start, np.minimum(start + geometry.target_bp, length))
            regions += [str(Interval(contig, *ends)) for ends in zip(*(part.tolist() for part in merged), strict=True)]
        return regions


def _columns(targets: Targets, num_targets: int, *, source: Path) -> list[int]:
    """Return which column of the records each track is, by its index."""
    if not all(0 <= index < num_targets for index in targets.indices):
        raise InputError(
            f"{source}: indices from {min(targets.indices)} to {max(targets.indices)}, but the records hold "
            f"{num_targets} tracks; wanted the index of each in the folder's targets.txt, from 0"
        )
    return list(targets.indices)
