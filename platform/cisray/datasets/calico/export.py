"""Write what a dataset is in Calico's files, for tools that read those: targets.txt, sequences.bed, statistics.json."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow.parquet as pq

from cisray.datasets.calico.targets import write_targets
from cisray.datasets.card import Card, read_card
from cisray.datasets.loci.listed import label_of
from cisray.datasets.schema import split_files
from cisray.errors import InputError
from cisray.files import folder_written_whole, write_json, written_whole

Extent = Literal["input", "target"]
"""What an interval of sequences.bed is: what a model reads, or what it predicts."""
Labels = Literal["split", "fold"]
"""Whether a line is labelled train, valid and test, or fold0, fold1, ... and train where it is in no fold."""
NAMES = ("targets.txt", "sequences.bed", "statistics.json")
_COLUMNS = ["contig", "start", "end", "strand", "fold"]


class _Row(NamedTuple):
    contig: str
    start: int
    end: int
    strand: str
    label: str


def export_calico(dataset_dir: Path, out_dir: Path, *, extent: Extent = "target", labels: Labels = "split") -> None:
    """Write a dataset's targets.txt, sequences.bed and statistics.json to a folder, all of them or none.

    Raises:
        InputError: the dataset is not finished; its rows do not fit the form; or the folder holds other files.
    """
    card = read_card(dataset_dir)
    if card.genome is None and card.kind != "coverage":
        raise InputError(
            f"{dataset_dir}: rows of a table lie on no genome, which Calico's files want; give another dataset"
        )
    if out_dir.exists():
        foreign = sorted(path.name for path in out_dir.iterdir() if path.name not in NAMES)
        if foreign:
            raise InputError(f"{out_dir}: holds {foreign[0]}, which would go; wanted a new folder, or an older export")
    with folder_written_whole(out_dir) as aside:
        write_targets(aside / "targets.txt", card.tracks)
        write_sequences_bed(aside / "sequences.bed", dataset_dir, card, extent=extent, labels=labels)
        write_statistics_json(aside / "statistics.json", dataset_dir, card, labels=labels)


def write_sequences_bed(path: Path, dataset_dir: Path, card: Card, *, extent: Extent, labels: Labels) -> None:
    """Write contig, start, end and label of every row, split by split; in Calico's own files, `extent` is "target".

    Where rows lie on the minus strand, two more columns follow, as in BED: a score of 0 and the strand.
    """
    crop_bp = card.geometry.crop_bp if extent == "target" else 0
    rows = list(_rows(dataset_dir, card, labels))
    stranded = any(row.strand == "-" for row in rows)
    with written_whole(path) as aside, aside.open("w", encoding="utf-8", newline="") as handle:
        for row in rows:
            start = row.start + crop_bp
            if row.strand not in "+-":
                raise InputError(
                    f"{dataset_dir}: the row made of {row.contig}:{row.start}-{row.end} is shuffled and lies on no "
                    "strand, which sequences.bed cannot say; build it without negatives of kind shuffle"
                )
            if start < 0:
                raise InputError(
                    f"{dataset_dir}: the window {row.contig}:{row.start}-{row.end} starts before its contig, which BED "
                    'cannot say; write the extent "target"'
                )
            strand = ("0", row.strand) if stranded else ()
            print(row.contig, start, row.end - crop_bp, row.label, *strand, sep="\t", file=handle)


def write_statistics_json(path: Path, dataset_dir: Path, card: Card, *, labels: Labels) -> None:
    """Write the shape of a dataset's inputs and targets, and the rows of each label."""
    geometry = card.geometry
    counts: dict[str, int] = {}
    for row in _rows(dataset_dir, card, labels):
        counts[row.label] = counts.get(row.label, 0) + 1
    shape = {
        "num_targets": len(card.tracks),
        "seq_length": geometry.window_bp,
        "seq_1hot": True,  # in Calico's words: stored as codes, for the reader to encode
        "pool_width": geometry.bin_bp,
        "crop_bp": geometry.crop_bp,
        "target_length": geometry.num_bins,
    }
    write_json(path, shape | {f"{label}_seqs": count for label, count in counts.items()})


def _rows(dataset_dir: Path, card: Card, labels: Labels) -> Iterator[_Row]:
    for split, count in card.counts.items():
        if not count:
            continue
        for path in split_files(dataset_dir, card, split):
            table = pq.ParquetFile(path).read(columns=_COLUMNS)
            columns = [table[name].to_pylist() for name in _COLUMNS]
            for contig, start, end, strand, fold in zip(*columns, strict=True):
                yield _Row(contig, start, end, strand, label_of(split, fold, numbered=labels == "fold"))
