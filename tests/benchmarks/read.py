"""What do fixed-size binary rows, and a shuffle in pools, do to the rate at which a dataset is read?

The same rows lie in three folders: as cisray stores them, and with codes and targets as lists of uint8 and of float32
or float16, which is what Parquet makes of plain arrays. Compression and row groups are the same. All are read in one
process in batches of 32 and decoded to NumPy arrays; MB are those of the decoded codes and float32 targets.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _table import Options, finish, interleave, print_rates, print_table, rates_of, read_options, significant

from cisray.datasets.folds import FoldSpec
from cisray.datasets.reading import Order, read_epoch, read_order
from cisray.datasets.schema import (
    ROW_GROUP_ROWS,
    SCHEMA_VERSION,
    Card,
    DataFile,
    Genome,
    Track,
    decode_examples,
    encode_rows,
    example_schema,
    iter_examples,
    write_examples,
)
from cisray.geometry import Geometry

ROWS = 16_384
FILES = 8
BATCH_SIZE = 32
TRACKS = 16
GEOMETRY = Geometry(window_bp=2048, bin_bp=16, margin_bp=16)
Arrays = tuple[np.ndarray, np.ndarray]
"""Codes uint8 [B, L] and targets [B, N, T]."""


def make_rows(random: np.random.Generator, rows: int) -> Arrays:
    """Draw bases, and targets like normalised coverage: many zeros, few peaks."""
    codes = random.integers(0, 4, (rows, GEOMETRY.stored_bp), np.uint8)
    levels = random.gamma(0.3, 8.0, (rows, GEOMETRY.num_bins, TRACKS))
    return codes, (random.poisson(levels) * np.linspace(0.1, 0.9, TRACKS)).astype(np.float32)


def write_dataset(folder: Path, rows: int) -> Card:
    """Write the same rows in all three ways, one folder each; return the card of the first."""
    random, files = np.random.default_rng(0), []
    tracks = tuple(Track(name=f"track{number}", file="") for number in range(TRACKS))
    schema = example_schema(GEOMETRY, [track.name for track in tracks])
    for number in range(FILES):
        codes, targets = make_rows(random, rows // FILES)
        starts = np.arange(len(codes)) * GEOMETRY.window_bp
        keys = [
            pa.array(["chr1"] * len(codes)),
            pa.array(starts),
            pa.array(starts + GEOMETRY.window_bp),
            pa.array(["+"] * len(codes)),
            pa.array(np.zeros(len(codes), np.int16)),
        ]
        tables = {
            "binary": pa.table([*keys, encode_rows(codes), encode_rows(targets)], schema=schema),
            "float32": pa.table([*keys, list_rows(codes), list_rows(targets)], names=schema.names),
            "float16": pa.table([*keys, list_rows(codes), list_rows(targets.astype(np.float16))], names=schema.names),
        }
        name = f"examples/split=train/part-{number}.parquet"
        for way, table in tables.items():
            path = folder / way / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_examples(table, path)
        files.append(DataFile(path=name, rows=len(codes), sha256=""))
    return make_card(tracks, tuple(files))


def list_rows(values: np.ndarray) -> pa.ListArray:
    """Wrap an array [B, ...] as a column of lists."""
    width = values[0].size
    offsets = np.arange(0, values.size + 1, width, np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel()))


def make_card(tracks: tuple[Track, ...], files: tuple[DataFile, ...]) -> Card:
    """Return a card that says where the rows are and how they decode."""
    return Card(
        schema_version=SCHEMA_VERSION,
        name="read",
        cisray_version="",
        genome=Genome(name="", fasta="", digest="", contig_lengths={}, contig_digests={}),
        geometry=GEOMETRY,
        tracks=tracks,
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


def read_pools(order: Order, decode: Callable[[pa.Table], Arrays]) -> Iterator[Arrays]:
    """Read one epoch in pools, in the order's own order."""
    return map(decode, read_epoch(order, 0, batch_size=BATCH_SIZE))


def read_in_order(dataset_dir: Path, card: Card, decode: Callable[[pa.Table], Arrays]) -> Iterator[Arrays]:
    """Read one epoch from the first row to the last."""
    return map(decode, iter_examples(dataset_dir, card, "train", batch_size=BATCH_SIZE))


def decode_lists(rows: pa.Table) -> Arrays:
    """Return the codes and targets of a table whose columns are lists."""
    codes, targets = (rows[name].combine_chunks().flatten().to_numpy() for name in ("sequence", "target"))
    return codes.reshape(len(rows), -1), targets.reshape(len(rows), GEOMETRY.num_bins, TRACKS)


def consume(read: Callable[[], Iterator[Arrays]]) -> None:
    """Read all batches, and let each go."""
    for _ in read():
        pass


def largest_difference(one: Callable[[], Iterator[Arrays]], other: Callable[[], Iterator[Arrays]]) -> float:
    """Compare two ways of reading the same rows, relative to the largest value."""
    difference = largest = 0.0
    for (codes, targets), (other_codes, other_targets) in zip(one(), other(), strict=True):
        difference = max(difference, float(np.abs(targets - other_targets).max()), float((codes != other_codes).any()))
        largest = max(largest, float(targets.max()))
    return difference / largest


def compare(folder: Path, card: Card, options: Options) -> dict[str, float]:
    """Time all ways of reading the same rows."""
    shuffled = read_order(folder / "binary", card, "train", seed=0)
    # the same row groups in the same order, of the other folders
    float32, float16 = (read_order(folder / way, card, "train", seed=0) for way in ("float32", "float16"))
    decode_binary = partial(decode_examples, card=card)
    ways = {
        "binary, pools": partial(read_pools, shuffled, decode_binary),
        "binary, not shuffled": partial(read_in_order, folder / "binary", card, decode_binary),
        "lists of float32, not shuffled": partial(read_in_order, folder / "float32", card, decode_lists),
        "lists of float32, pools": partial(read_pools, float32, decode_lists),
        "lists of float16, pools": partial(read_pools, float16, decode_lists),
    }
    seconds = interleave({name: partial(consume, way) for name, way in ways.items()}, repeats=options.repeats)
    rows = card.counts["train"]
    row_mb = (GEOMETRY.stored_bp + 4 * GEOMETRY.num_bins * TRACKS) / 1e6
    title = f"{rows} rows of {1000 * row_mb:.1f} kB, {FILES} files, row groups of {ROW_GROUP_ROWS}"
    medians = print_rates(
        title,
        rates_of(seconds, dict.fromkeys(seconds, rows)),
        unit="rows",
        against="lists of float32, pools",
        megabytes=row_mb,
    )
    binary = ways["binary, pools"]
    for name in ("lists of float32, pools", "lists of float16, pools"):
        print(f"  largest difference of {name}, of the largest value: {largest_difference(binary, ways[name]):.1e}")
    pools = medians["binary, pools"]
    return {
        "pools.rows_per_s": pools,
        "pools.mb_per_s": pools * row_mb,
        "pools_to_lists_of_float32.ratio": pools / medians["lists of float32, pools"],
        "pools_to_lists_of_float16.ratio": pools / medians["lists of float16, pools"],
        "not_shuffled_to_lists_of_float32.ratio": (
            medians["binary, not shuffled"] / medians["lists of float32, not shuffled"]
        ),
        "pools_to_not_shuffled.ratio": pools / medians["binary, not shuffled"],
    }


def print_sizes(folder: Path, card: Card) -> dict[str, float]:
    """Print how large the files of each way are."""
    decoded = card.counts["train"] * (GEOMETRY.stored_bp + 4 * GEOMETRY.num_bins * TRACKS) / 1e6
    columns = ("sequence", "target")
    sizes = {way: [column_mb(folder / way, column) for column in columns] for way in ("binary", "float32", "float16")}
    rows = [[way, *(significant(size) for size in sizes[way]), f"{sum(sizes[way]) / decoded:.2f}"] for way in sizes]
    print_table(f"MB on disk; decoded {decoded:.0f} MB", ["", *columns, "of decoded"], rows)
    return {f"{way}.disk_share": sum(sizes[way]) / decoded for way in sizes}


def column_mb(folder: Path, column: str) -> float:
    """Add up the compressed size of a column over all files of a folder."""
    total = 0
    for path in sorted(folder.rglob("*.parquet")):
        metadata = pq.ParquetFile(path).metadata
        for group in range(metadata.num_row_groups):
            chunks = (metadata.row_group(group).column(index) for index in range(metadata.num_columns))
            total += sum(
                chunk.total_compressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] == column
            )
    return total / 1e6


def main() -> None:
    """Run the benchmark."""
    options = read_options(__doc__, repeats=5)
    with tempfile.TemporaryDirectory() as name:
        card = write_dataset(Path(name), options.scaled(ROWS, at_least=FILES * ROW_GROUP_ROWS))
        figures = compare(Path(name), card, options)
        figures |= print_sizes(Path(name), card)
    finish("read", {f"read.{key}": value for key, value in figures.items()})


if __name__ == "__main__":
    main()
