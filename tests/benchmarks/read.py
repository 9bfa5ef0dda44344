"""How fast does a dataset become batches of torch tensors, on one core and from the page cache?

The same rows lie in two folders: as cisray stores them, and with codes and targets as lists of uint8 and float16,
which is what Parquet makes of plain arrays. They are read by `datasets.streams.ExampleStream`, in order and shuffled
in pools; by Parquet alone, row group by row group, into Arrow and no further; and from the lists, in order. Arrow has
one thread.
"basenji" are rows of 131 kb and 1,024 bins x 512 tracks of float16, "basset" rows of 600 bp and 164 labels.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _table import Options, finish, interleave, print_rates, print_table, rates_of, read_options, significant

from cisray.datasets.card import (
    CARD_NAME,
    SCHEMA_VERSION,
    Card,
    DataFile,
    Genome,
    Kind,
    TargetType,
    Track,
    card_to_dict,
)
from cisray.datasets.loci.folds import FoldSpec
from cisray.datasets.schema import Examples, Layout, Loci, layout_of, make_rows, write_examples
from cisray.datasets.streams import ExampleStream
from cisray.files import write_json
from cisray.geometry import Geometry

FILES = 4


class Case(NamedTuple):
    """Rows of one form."""

    name: str
    rows: int
    batch_size: int
    geometry: Geometry
    tracks: int
    kind: Kind
    target_type: TargetType


CASES = (
    Case("basenji", 256, 4, Geometry(window_bp=131_072, bin_bp=128), 512, "coverage", "<f2"),
    Case("basset", 65_536, 64, Geometry(window_bp=600, bin_bp=600), 164, "labels", "u1"),
)


def make_targets(random: np.random.Generator, rows: int, case: Case) -> np.ndarray:
    """Draw labels, one in thirty positive; or coverage: fragments of two bins over a low background with peaks."""
    shape = (rows, case.geometry.num_bins, case.tracks)
    if case.kind == "labels":
        return (random.random(shape, np.float32) < 1 / 30).astype(np.float32)
    peaks = np.repeat(random.gamma(0.05, 20.0, (rows, shape[1] // 4, case.tracks)), 4, axis=1)
    counts = random.poisson(0.2 + peaks).astype(np.float32)
    spread = counts + np.roll(counts, 1, axis=1) / 2
    return (spread * random.uniform(0.1, 2.0, case.tracks)).astype(np.float16).astype(np.float32)


def write_dataset(folder: Path, case: Case, rows: int) -> Card:
    """Write the same rows in both ways, one folder each; return the card of the first."""
    random, files = np.random.default_rng(0), []
    tracks = tuple(Track(name=f"track{number}", file="") for number in range(case.tracks))
    layout = Layout(case.geometry, tuple(track.name for track in tracks), case.target_type)
    for number in range(FILES):
        count = rows // FILES
        codes = random.integers(0, 4, (count, case.geometry.stored_bp), np.uint8)
        targets = make_targets(random, count, case)
        starts = np.arange(count) * case.geometry.window_bp
        loci = Loci(["chr1"] * count, starts, starts + case.geometry.window_bp, ["+"] * count, np.zeros(count))
        name = f"examples/split=train/part-{number}.parquet"
        stored = targets.astype(np.uint8 if case.kind == "labels" else np.float16)
        tables = {
            "binary": make_rows(layout, loci, Examples(codes, targets)),
            "lists": pa.table({"sequence": list_rows(codes), "target": list_rows(stored)}),
        }
        for way, table in tables.items():
            (folder / way / name).parent.mkdir(parents=True, exist_ok=True)
            write_examples(table, folder / way / name)
        files.append(DataFile(path=name, rows=count, sha256=""))
    card = make_card(case, tracks, tuple(files))
    write_json(folder / "binary" / CARD_NAME, card_to_dict(card))
    return card


def list_rows(values: np.ndarray) -> pa.ListArray:
    """Wrap an array [B, ...] as a column of lists."""
    offsets = np.arange(0, values.size + 1, values[0].size, np.int64)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values.ravel()))


def make_card(case: Case, tracks: tuple[Track, ...], files: tuple[DataFile, ...]) -> Card:
    """Return a card that says where the rows are and how they decode."""
    return Card(
        schema_version=SCHEMA_VERSION,
        name=case.name,
        cisray_version="",
        kind=case.kind,
        genome=Genome(name="", fasta="", digest="", contig_lengths={}, contig_digests={}),
        geometry=case.geometry,
        tracks=tracks,
        target_type=case.target_type,
        contig_names={},
        absent_contigs={},
        folds=FoldSpec(num_folds=3),
        regions={},
        counts={"train": sum(file.rows for file in files)},
        dropped={},
        statistics={},
        files=files,
        job={},
    )


def read_stream(folder: Path, case: Case, seed: int | None) -> None:
    """Read all batches of tensors, and let each go."""
    for batch in ExampleStream(folder / "binary", "train", batch_size=case.batch_size, seed=seed):
        del batch


def row_groups(folder: Path, way: str) -> Iterator[pa.Table]:
    """Read every row group's codes and targets into Arrow."""
    for path in sorted((folder / way).rglob("*.parquet")):
        file = pq.ParquetFile(path)
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, columns=["sequence", "target"])


def read_raw(folder: Path) -> None:
    """Let Parquet read what cisray wrote, and go no further."""
    for table in row_groups(folder, "binary"):
        del table


def read_lists(folder: Path, case: Case) -> None:
    """Read lists and view them as arrays."""
    for table in row_groups(folder, "lists"):
        codes, targets = (table[name].combine_chunks().flatten().to_numpy() for name in ("sequence", "target"))
        codes.reshape(len(table), -1)
        targets.reshape(len(table), case.geometry.num_bins, case.tracks)


def compare(folder: Path, case: Case, card: Card, options: Options) -> dict[str, float]:
    """Time all ways of reading the same rows."""
    ways: dict[str, Callable[[], None]] = {
        "tensors, shuffled in pools": partial(read_stream, folder, case, 0),
        "tensors, in order": partial(read_stream, folder, case, None),
        "Parquet alone": partial(read_raw, folder),
        "lists, in order": partial(read_lists, folder, case),
    }
    seconds = interleave(ways, repeats=options.repeats)
    rows, layout = card.counts["train"], layout_of(card)
    title = f"{case.name}: {rows} rows of {layout.row_bytes / 1e3:.0f} kB, batches of {case.batch_size}, one core"
    rates = rates_of(seconds, dict.fromkeys(seconds, rows))
    medians = print_rates(title, rates, unit="rows", against="Parquet alone", megabytes=layout.row_bytes / 1e6)
    target_bytes = int(np.prod(layout.target_shape)) * np.dtype(case.target_type).itemsize
    shuffled = medians["tensors, shuffled in pools"]
    figures = {
        f"{case.name}.examples_per_second": shuffled,
        f"{case.name}.gigabytes_per_second_per_core": shuffled * target_bytes / 1e9,
        f"{case.name}.parquet_alone.gigabytes_per_second": medians["Parquet alone"] * target_bytes / 1e9,
        f"{case.name}.share_of_parquet_alone": shuffled / medians["Parquet alone"],
        f"{case.name}.ratio_to_lists": shuffled / medians["lists, in order"],
        f"{case.name}.shuffled_to_in_order": shuffled / medians["tensors, in order"],
    }
    print(f"  targets alone, shuffled: {figures[f'{case.name}.gigabytes_per_second_per_core']:.2f} GB/s")
    return figures


def print_sizes(folder: Path, case: Case, card: Card) -> dict[str, float]:
    """Print how many bytes of file a window takes, each way, against its raw arrays."""
    raw = layout_of(card).row_bytes
    sizes = {
        way: sum(path.stat().st_size for path in (folder / way).rglob("*.parquet")) / card.counts["train"]
        for way in ("binary", "lists")
    }
    rows = [[way, significant(size), f"{size / raw:.2f}"] for way, size in sizes.items()]
    print_table(f"{case.name}: bytes on disk per window; raw arrays {raw:,}", ["", "bytes", "of raw"], rows)
    return {f"{case.name}.{way}.bytes_to_raw": size / raw for way, size in sizes.items()}


def main() -> None:
    """Run the benchmark."""
    options = read_options(__doc__, repeats=5)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    figures: dict[str, float] = {}
    for case in CASES:
        with tempfile.TemporaryDirectory() as name:
            card = write_dataset(Path(name), case, options.scaled(case.rows, at_least=8 * FILES))
            figures |= compare(Path(name), case, card, options)
            figures |= print_sizes(Path(name), case, card)
    finish("read", {f"read.{key}": value for key, value in figures.items()})


if __name__ == "__main__":
    main()
