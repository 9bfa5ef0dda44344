"""The rows of a dataset, and the Parquet files that hold them: the one form that every source makes.

    card.json                          see datasets.card
    tracks.parquet                     one row per track and split, with its statistics: see datasets.statistics
    examples/split=train/part-*.parquet

A row: contig, start, end (the window, 0-based half-open), strand, fold, `sequence` and `target`. Arrays are fixed-size
binary, little-endian; the fields' metadata name dtype and shape, so that any Arrow reader can do without cisray.

    sequence     uint8 codes [L] of the window and its margins, 0-3 = ACGT, 4 = N; [S, L] with several sequences a row
    target       float32 or float16 [N, T], NaN where a track has no data; or labels uint8 [N, T], 255 where none
    present      uint8 [S], 1 for each sequence that the row has; only with several sequences
    channels     float32 [L / channel_bp, C], NaN where there is no data; only with channels
    covariates   float32 [K], NaN where one is missing; only with covariates
    weight       float32; only with weights
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cisray.datasets.card import CARD_NAME, Card, Inputs, TargetType
from cisray.errors import InputError
from cisray.files import file_digest, within
from cisray.geometry import Geometry

# A row group is what is read at once: rows enough to read fast, bytes few enough to shuffle well and stay small.
GROUP_ROWS = 256
GROUP_BYTES = 16 << 20
# Targets make up most of what a training reads, and LZ4 unpacks them twice as fast as zstd packs them tighter.
COMPRESSION = {"target": "lz4", "channels": "lz4"}
NO_LABEL = 255
SHUFFLED = "."
"""The strand of rows whose sequence was shuffled: it lies on none, while contig and start say what it was made of."""


class Layout(NamedTuple):
    """What a row holds, and in which form."""

    geometry: Geometry
    tracks: tuple[str, ...]
    target_type: TargetType = "<f4"
    inputs: Inputs = Inputs()

    @property
    def target_shape(self) -> tuple[int, int]:
        """Bins and tracks of a target, (N, T)."""
        return self.geometry.num_bins, len(self.tracks)

    @property
    def sequence_shape(self) -> tuple[int, ...]:
        """Codes of a row: (L,), or (S, L) with several sequences."""
        length = self.geometry.stored_bp
        return (length,) if self.inputs.sequences == 1 else (self.inputs.sequences, length)

    @property
    def channel_shape(self) -> tuple[int, int]:
        """Values of a row's channels, (L / channel_bp, C)."""
        return self.geometry.stored_bp // self.inputs.channel_bp, len(self.inputs.channels)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row's arrays, not packed."""
        channels = int(np.prod(self.channel_shape)) + len(self.inputs.covariates)
        target = int(np.prod(self.target_shape)) * np.dtype(self.target_type).itemsize
        return int(np.prod(self.sequence_shape)) + target + 4 * channels


class Loci(NamedTuple):
    """Where rows lie, one entry per row."""

    contig: Sequence[str]
    start: np.ndarray
    end: np.ndarray
    strand: Sequence[str]
    fold: np.ndarray


class Examples(NamedTuple):
    """The arrays of B rows; what a dataset does not have is None."""

    codes: np.ndarray
    """uint8 [B, L], or [B, S, L]."""
    targets: np.ndarray
    """[B, N, T], as stored: float32, float16, or uint8 labels."""
    present: np.ndarray | None = None
    """uint8 [B, S]."""
    channels: np.ndarray | None = None
    """float32 [B, M, C]."""
    covariates: np.ndarray | None = None
    """float32 [B, K]."""
    weights: np.ndarray | None = None
    """float32 [B]."""


def layout_of(card: Card) -> Layout:
    """Return what a dataset's rows hold."""
    return Layout(card.geometry, tuple(card.track_names), card.target_type, card.inputs)


def example_schema(layout: Layout) -> pa.Schema:
    """Return the Arrow schema of a dataset's rows."""
    inputs = layout.inputs
    fields = [
        pa.field("contig", pa.string()),
        pa.field("start", pa.int64()),
        pa.field("end", pa.int64()),
        pa.field("strand", pa.string()),
        pa.field("fold", pa.int16()),
        _array_field("sequence", "|u1", layout.sequence_shape, axes="bases", codes="ACGTN"),
        _array_field(
            "target", layout.target_type, layout.target_shape, axes="bins,tracks", tracks="\t".join(layout.tracks)
        ),
    ]
    if inputs.sequences > 1:
        fields.append(_array_field("present", "|u1", (inputs.sequences,), axes="sequences"))
    if inputs.channels:
        names = "\t".join(channel.name for channel in inputs.channels)
        fields.append(_array_field("channels", "<f4", layout.channel_shape, axes="steps,channels", channels=names))
    if inputs.covariates:
        names = "\t".join(inputs.covariates)
        fields.append(_array_field("covariates", "<f4", (len(inputs.covariates),), axes="covariates", covariates=names))
    if inputs.weighted:
        fields.append(pa.field("weight", pa.float32()))
    return pa.schema(fields)


def _array_field(name: str, dtype: str, shape: tuple[int, ...], **more: str) -> pa.Field:
    width = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return pa.field(name, pa.binary(width), metadata={"dtype": dtype, "shape": str(list(shape)), **more})


def make_rows(layout: Layout, loci: Loci, examples: Examples) -> pa.Table:
    """Join loci and arrays to a table of rows; targets are floats with NaN where there is no data.

    Raises:
        InputError: a target is too large for the type it is to be stored in, or is no label.
    """
    schema = example_schema(layout)
    arrays = {
        "contig": pa.array(loci.contig, pa.string()),
        "start": pa.array(loci.start, pa.int64()),
        "end": pa.array(loci.end, pa.int64()),
        "strand": pa.array(loci.strand, pa.string()),
        "fold": pa.array(loci.fold, pa.int16()),
        "sequence": encode_rows(examples.codes),
        "target": encode_rows(store_targets(examples.targets, layout)),
    }
    for name, values in (
        ("present", examples.present),
        ("channels", examples.channels),
        ("covariates", examples.covariates),
    ):
        if values is not None:
            arrays[name] = encode_rows(values)
    if examples.weights is not None:
        arrays["weight"] = pa.array(examples.weights, pa.float32())
    return pa.table([arrays[name] for name in schema.names], schema=schema)


def store_targets(targets: np.ndarray, layout: Layout) -> np.ndarray:
    """Return targets [B, N, T], floats with NaN where there is no data, in the type they are stored in."""
    if layout.target_type == "u1":
        missing = np.isnan(targets)
        labels = np.where(missing, NO_LABEL, targets)
        if not (missing | (targets == 0) | (targets == 1)).all():
            raise InputError("a label is neither 0, nor 1, nor missing; store numbers as measurements")
        return labels.astype(np.uint8)
    if layout.target_type == "<f4":
        return targets.astype("<f4", copy=False)
    with np.errstate(over="ignore"):  # what overflows is refused below
        stored = targets.astype("<f2")
    lost = np.isinf(stored).any(axis=(0, 1))
    if lost.any():
        track = int(np.flatnonzero(lost)[0])
        raise InputError(
            f"track {layout.tracks[track]}: a target of {np.nanmax(np.abs(targets[:, :, track])):g} is beyond float16, "
            f"which ends at {np.finfo(np.float16).max:g}; set its scale, clip_soft or clip, or store float32"
        )
    return stored


def encode_rows(values: np.ndarray) -> pa.FixedSizeBinaryArray:
    """Wrap an array [B, ...] as fixed-size binary, one value per row, without a copy where it is contiguous."""
    rows = np.ascontiguousarray(values)
    width = rows[0].nbytes if len(rows) else int(np.prod(rows.shape[1:])) * rows.itemsize
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(rows), [None, pa.py_buffer(rows)])


def decode_rows(column: pa.ChunkedArray | pa.Array, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Read a fixed-size binary column as an array [B, *shape], without a copy where it is one chunk."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # an empty column has no chunk to combine
        return np.empty((0, *shape), dtype)
    width = array.type.byte_width
    flat = np.frombuffer(
        array.buffers()[1],
        dtype,
        count=len(array) * width // np.dtype(dtype).itemsize,
        offset=array.offset * width,
    )
    return flat.reshape(len(array), *shape)


def decode_examples(rows: pa.Table, layout: Layout) -> Examples:
    """Return the arrays of a table of rows, without a copy where the table is one chunk: then they are read-only."""

    def array(name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray | None:
        return decode_rows(rows[name], dtype, shape) if name in rows.column_names else None

    inputs = layout.inputs
    return Examples(
        codes=decode_rows(rows["sequence"], "u1", layout.sequence_shape),
        targets=decode_rows(rows["target"], layout.target_type, layout.target_shape),
        present=array("present", "u1", (inputs.sequences,)),
        channels=array("channels", "<f4", layout.channel_shape),
        covariates=array("covariates", "<f4", (len(inputs.covariates),)),
        weights=rows["weight"].to_numpy() if inputs.weighted else None,
    )


def array_columns(schema: pa.Schema) -> list[str]:
    """Return the columns of a row that a model reads: all but its locus."""
    return [name for name in schema.names if name not in Loci._fields]


def to_float(targets: np.ndarray) -> np.ndarray:
    """Return stored targets as float32, NaN where there is no data or no label."""
    if targets.dtype == np.uint8:
        return np.where(targets == NO_LABEL, np.nan, targets).astype(np.float32)
    return targets.astype(np.float32, copy=False)


def write_examples(rows: pa.Table, path: Path) -> None:
    """Write rows as one Parquet file; equal rows give equal bytes."""
    row_bytes = max(1, rows.nbytes // max(1, len(rows)))
    pq.write_table(
        rows,
        path,
        row_group_size=max(1, min(GROUP_ROWS, GROUP_BYTES // row_bytes)),
        compression={name: COMPRESSION.get(name, "zstd") for name in rows.column_names},
        use_dictionary=False,
        write_statistics=False,  # of no use on packed arrays, and the largest would be copied whole
    )


def verify_dataset(dataset_dir: Path, card: Card) -> None:
    """Compare every file with its checksum in the card; raise InputError naming the first that differs."""
    for file in card.files:
        path = within(dataset_dir, file.path, what="dataset")
        if not path.exists():
            raise InputError(f"{path}: listed in {CARD_NAME} but missing; build the dataset again")
        if file_digest(path) != file.sha256:
            raise InputError(f"{path}: its checksum is not the one in {CARD_NAME}; build the dataset again")


def split_files(dataset_dir: Path, card: Card, split: str) -> list[Path]:
    """Return the Parquet files of one split, in the card's order; raise InputError where one is missing or outside."""
    names = [file.path for file in card.files if f"split={split}/" in file.path]
    paths = [within(dataset_dir, name, what="dataset") for name in names]
    if not paths:
        raise InputError(f"{dataset_dir}: the card lists no file of split {split!r}; it has {sorted(card.counts)}")
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: listed in {CARD_NAME} but missing; build the dataset again")
    return paths


def iter_examples(dataset_dir: Path, card: Card, split: str, *, batch_size: int) -> Iterator[pa.Table]:
    """Yield one split's rows in genome order, at most `batch_size` at a time."""
    for path in split_files(dataset_dir, card, split):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=batch_size):
            yield pa.Table.from_batches([batch])
