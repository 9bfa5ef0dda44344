"""The dataset contract: a folder of Parquet rows and the card that says what they are.

    card.json                          written last: no card, no dataset
    examples/split=train/part-*.parquet

A row: contig, start, end (the window, 0-based half-open), strand, fold, `sequence` (fixed-size binary: uint8 codes
of the window and its margins, 0-3 = ACGT, 4 = N) and `target` (fixed-size binary: little-endian float32 [N, T],
NaN where a track has no data). The fields' metadata name dtype and shape: any Arrow reader can do without cisray.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.datasets.folds import FoldSpec, Split
from cisray.errors import InputError
from cisray.files import file_digest, read_json, value_digest
from cisray.geometry import Geometry

SCHEMA_VERSION = 1
CARD_NAME = "card.json"
# Rows of a Parquet row group: few enough to shuffle well, enough to read fast.
ROW_GROUP_ROWS = 32


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Track:
    """One assay: where its values come from and how they become targets."""

    name: str
    file: str
    """The bigWig, below data_dir."""
    description: str = ""
    statistic: Literal["sum", "mean", "max"] = "mean"
    """How the bases of a bin become one value."""
    uncovered: Literal["mask", "zero"] = "mask"
    """Bases without a value: no data, or a count of zero."""
    smooth_bp: int = 1
    """Width of a centred running mean over bases, before binning; 1 is none."""
    scale: float = 1.0
    """Multiplies a bin's value."""
    clip_soft: float | None = None
    """After scaling, values above this are replaced by their square root (see datasets.transforms)."""
    strand_pair: str | None = None
    """The track that holds the same assay on the other strand."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[^\s/\\.][^/\\\t\r\n]*", self.name):
            raise InputError(
                f"track {self.name!r}: a name becomes a column and a file; wanted no slash, tab or line end, "
                "and no dot or space at its beginning"
            )
        if self.smooth_bp < 1 or self.smooth_bp % 2 == 0:
            raise InputError(f"track {self.name}: smooth_bp={self.smooth_bp}; wanted an odd, positive width")
        if self.scale <= 0 or (self.clip_soft is not None and self.clip_soft < 1):
            raise InputError(
                f"track {self.name}: scale={self.scale}, clip_soft={self.clip_soft}; "
                "wanted a positive scale and a threshold of 1 or more"
            )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Genome:
    """The genome that a dataset's coordinates belong to."""

    name: str
    fasta: str
    digest: str
    """Digest over all contigs' names, lengths and bases; see genome.reference."""
    contig_lengths: dict[str, int]
    contig_digests: dict[str, str]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Statistics:
    """What one track holds in one split: running sums over bins, so that parts add up exactly."""

    num_bins: int
    num_masked: int
    """Bins without data."""
    total: float
    total_squares: float
    least: float | None
    """None where every bin is masked, as for `greatest`."""
    greatest: float | None

    @property
    def num_present(self) -> int:
        """Bins with data."""
        return self.num_bins - self.num_masked

    @property
    def mean(self) -> float:
        """Mean over bins with data; NaN where there is none."""
        return self.total / self.num_present if self.num_present else float("nan")

    @property
    def variance(self) -> float:
        """Variance over bins with data; NaN where there is none."""
        return self.total_squares / self.num_present - self.mean**2 if self.num_present else float("nan")

    def __add__(self, other: "Statistics") -> "Statistics":
        lows = [value for value in (self.least, other.least) if value is not None]
        highs = [value for value in (self.greatest, other.greatest) if value is not None]
        return Statistics(
            num_bins=self.num_bins + other.num_bins,
            num_masked=self.num_masked + other.num_masked,
            total=self.total + other.total,
            total_squares=self.total_squares + other.total_squares,
            least=min(lows, default=None),
            greatest=max(highs, default=None),
        )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataFile:
    """One Parquet file of a dataset."""

    path: str
    """Relative to the dataset's folder."""
    rows: int
    sha256: str

    def __post_init__(self) -> None:
        if Path(self.path).is_absolute() or ".." in Path(self.path).parts:
            raise InputError(f"file {self.path!r}: wanted a path inside the dataset's folder")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Card:
    """What a dataset is. Everything a model must know about its data is derived from here."""

    schema_version: int
    name: str
    cisray_version: str
    genome: Genome
    geometry: Geometry
    tracks: tuple[Track, ...]
    contig_names: dict[str, dict[str, str]]
    """Per track, the file's contig names that differ from the genome's, and what they were mapped to."""
    absent_contigs: dict[str, list[str]]
    """Per track, contigs of the genome that its file lacks: masked there."""
    folds: FoldSpec
    regions: dict[str, list[str]]
    """Per split, the regions of the genome it owns."""
    counts: dict[Split, int]
    """Examples per split."""
    dropped: dict[str, int]
    """Windows (or bases, as the key says) that are not in the dataset, by reason."""
    statistics: dict[Split, dict[str, Statistics]]
    files: tuple[DataFile, ...]
    job: dict[str, Any]
    """The job file that made it, with its overrides."""

    @property
    def digest(self) -> str:
        """Digest of the card, and so of every file's checksum in it."""
        return value_digest(dataclasses.asdict(self))

    @property
    def track_names(self) -> list[str]:
        """Names of the tracks, in the order of the target's last axis."""
        return [track.name for track in self.tracks]

    @property
    def target_shape(self) -> tuple[int, int]:
        """Bins and tracks of a target, (N, T)."""
        return self.geometry.num_bins, len(self.tracks)

    def strand_swap(self) -> list[int]:
        """Return for each track the index of the track that it becomes on the other strand, [T]."""
        index = {name: position for position, name in enumerate(self.track_names)}
        return [index[track.strand_pair or track.name] for track in self.tracks]

    def transform_parameters(self) -> tuple[np.ndarray, np.ndarray]:
        """Return scale and soft-clip threshold per track, float64 [T] each, for datasets.transforms."""
        scale = np.array([track.scale for track in self.tracks])
        clip_soft = np.array([np.inf if track.clip_soft is None else track.clip_soft for track in self.tracks])
        return scale, clip_soft


def check_tracks(tracks: tuple[Track, ...]) -> None:
    """Raise InputError unless names are unique and strand pairs name each other."""
    names = [track.name for track in tracks]
    if not tracks or len(set(names)) < len(names):
        raise InputError(f"tracks: {names}; wanted at least one, and each name once")
    partner = {track.name: track.strand_pair for track in tracks}
    for name, other in partner.items():
        if other is not None and (partner.get(other) != name or other == name):
            raise InputError(f"tracks: {name} names {other} as its strand pair; {other} must name {name} in return")


def card_to_dict(card: Card) -> dict[str, Any]:
    """Return the card as plain values, ready for JSON."""
    return dataclasses.asdict(card)


def card_from_dict(values: Mapping[str, Any], *, source: Path) -> Card:
    """Check plain values and return them as a card; raise InputError naming `source` where they are not one."""
    version = values.get("schema_version") if isinstance(values, Mapping) else None
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{source}: card of schema version {version}; this cisray reads version {SCHEMA_VERSION}; build it again"
        )
    try:
        return TypeAdapter(Card).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{source}: not a valid card: {where}: {first['msg']}; build it again") from None


def read_card(dataset_dir: Path) -> Card:
    """Read a dataset's card; raise InputError where the folder is not a finished dataset."""
    path = dataset_dir / CARD_NAME
    if not path.exists():
        raise InputError(
            f"{dataset_dir}: no {CARD_NAME} in it, so this is not a finished dataset; run cisray build first"
        )
    return card_from_dict(read_json(path, what="dataset card"), source=path)


def example_schema(geometry: Geometry, track_names: list[str]) -> pa.Schema:
    """Return the Arrow schema of a dataset's rows."""
    shape = f"[{geometry.num_bins},{len(track_names)}]"
    width = geometry.num_bins * len(track_names) * 4
    return pa.schema(
        [
            pa.field("contig", pa.string()),
            pa.field("start", pa.int64()),
            pa.field("end", pa.int64()),
            pa.field("strand", pa.string()),
            pa.field("fold", pa.int16()),
            pa.field(
                "sequence",
                pa.binary(geometry.stored_bp),
                metadata={"dtype": "uint8", "shape": f"[{geometry.stored_bp}]", "codes": "ACGTN"},
            ),
            pa.field(
                "target",
                pa.binary(width),
                metadata={
                    "dtype": "<f4",
                    "shape": shape,
                    "axes": "bins,tracks",
                    "tracks": "\t".join(track_names),
                },
            ),
        ]
    )


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


def decode_examples(rows: pa.Table, card: Card) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes uint8 [B, stored_bp] and targets float32 [B, N, T] of a table of rows."""
    codes = decode_rows(rows["sequence"], "u1", (card.geometry.stored_bp,))
    return codes, decode_rows(rows["target"], "<f4", card.target_shape)


def write_examples(rows: pa.Table, path: Path) -> None:
    """Write rows as one Parquet file; equal rows give equal bytes."""
    pq.write_table(
        rows,
        path,
        row_group_size=ROW_GROUP_ROWS,
        compression="zstd",
        compression_level=1,
        use_dictionary=False,
    )


def verify_dataset(dataset_dir: Path, card: Card) -> None:
    """Compare every file with its checksum in the card; raise InputError naming the first that differs."""
    for file in card.files:
        path = dataset_dir / file.path
        if not path.exists():
            raise InputError(f"{path}: listed in {CARD_NAME} but missing; build the dataset again")
        if file_digest(path) != file.sha256:
            raise InputError(f"{path}: its checksum is not the one in {CARD_NAME}; build the dataset again")


def split_files(dataset_dir: Path, card: Card, split: str) -> list[Path]:
    """Return the Parquet files of one split, in the card's order; raise InputError where one is missing."""
    paths = [dataset_dir / file.path for file in card.files if f"split={split}/" in file.path]
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
