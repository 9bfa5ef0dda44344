"""The score table contract: a folder of Parquet rows and the manifest that says how they were made.

    manifest.json                      written last: no manifest, no score table
    blocks/*.parquet                   one file per genomic block; nothing else is in there

A row is a (record, ALT) of the input: chrom, pos (1-based), id, ref, alt as written, record_index and
allele_index to join back, status, flags (the bits of `alleles.Flag`), window_start (0-based), then one list
of float32 per score, with one value per track. A row that is not OK has nulls there, never zeros or NaN.

The lists are of one length, but not of Arrow's fixed-size type: Parquet has no such type, and Arrow's reader
refuses a null in one (https://github.com/apache/arrow/issues/35692). Any Parquet reader can do
without cisray.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.files import file_digest, read_json, write_json
from cisray.genome.variants import Variant
from cisray.scoring.alleles import Flag, Status

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
BLOCKS_DIR = "blocks"
ORDER_COLUMNS = ("record_index", "allele_index")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelSource:
    """The model that made the scores."""

    uri: str
    """Path of a bundle, or its address in a registry."""
    digest: str
    version: str | None = None
    """The registry's version; None for a path."""
    held_out_contigs: tuple[str, ...] = ()
    """Contigs of the genome that the model has neither learned from nor been selected on."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GenomeSource:
    """The genome that the windows were cut from."""

    fasta: str
    digest: str
    contig_names: dict[str, str]
    """Names in the variants file -> names in the FASTA, for every contig that was found."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VariantSource:
    """The variants file."""

    file: str
    digest: str


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Block:
    """One Parquet file of a score table."""

    name: str
    """File name within blocks/."""
    rows: int
    sha256: str
    first: int
    """record_index of the first row."""
    last: int
    """record_index of the last row."""

    def __post_init__(self) -> None:
        if Path(self.name).name != self.name or not self.name.endswith(".parquet"):
            raise InputError(f"block name {self.name!r}; wanted a plain file name that ends with .parquet")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Manifest:
    """How a score table was made. It holds no time and no place: the same run gives the same bytes."""

    schema_version: int = SCHEMA_VERSION
    cisray_version: str
    model: ModelSource
    genome: GenomeSource
    variants: VariantSource
    tracks: tuple[str, ...]
    """Names, in the order of the values in a score's list."""
    scores: dict[str, str]
    """Name -> formula, in the order of the columns."""
    window_bp: int
    window_policy: Literal["centered"] = "centered"
    """The window starts window_bp // 2 bases before the variant's first base."""
    indel_align: Literal["none"] = "none"
    """Bins are compared by index: bases right of an indel are shifted, and a part of its effect is shift."""
    max_allele_bp: int
    strands: Literal["forward", "both"]
    precision: str
    counts: dict[Status, int]
    """Rows per status; they add up to `rows`."""
    rows: int
    records: int
    noise_floor: dict[str, float]
    """Per score, the largest |score| of a variant that changes nothing."""
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        in_blocks, in_counts = sum(block.rows for block in self.blocks), sum(self.counts.values())
        if not self.rows == in_blocks == in_counts:
            raise InputError(f"rows={self.rows}, but blocks hold {in_blocks} and the counts per status {in_counts}")
        if self.noise_floor.keys() != self.scores.keys():
            raise InputError(f"noise floor of {sorted(self.noise_floor)} for scores {sorted(self.scores)}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return TypeAdapter(Manifest).dump_python(self, mode="json")

    @staticmethod
    def from_dict(values: Any, *, source: Path) -> "Manifest":
        """Check plain values and return them as a manifest; raise InputError that names `source`."""
        version = values.get("schema_version") if isinstance(values, Mapping) else None
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{source}: score manifest of schema version {version}, but this cisray reads version "
                f"{SCHEMA_VERSION}; score again"
            )
        try:
            return TypeAdapter(Manifest).validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{source}: not a valid score manifest: {where}: {first['msg']}; score again") from None


def table_schema(scores: Sequence[str], tracks: Sequence[str]) -> pa.Schema:
    """Return the Arrow schema of the rows; each score's metadata name its tracks, tab-separated.

    Raises InputError for a track whose name holds a tab.
    """
    for track in tracks:
        if "\t" in track:
            raise InputError(f"track {track!r} has a tab in its name; rename it")
    metadata = {
        "dtype": "float32",
        "shape": f"[{len(tracks)}]",
        "axes": "tracks",
        "tracks": "\t".join(tracks),
    }
    return pa.schema(
        [
            pa.field("chrom", pa.string(), nullable=False),
            pa.field("pos", pa.int64(), nullable=False),
            pa.field("id", pa.string(), nullable=False),
            pa.field("ref", pa.string(), nullable=False),
            pa.field("alt", pa.string(), nullable=False),
            pa.field("record_index", pa.uint32(), nullable=False),
            pa.field("allele_index", pa.uint16(), nullable=False),  # sites with over 255 ALTs exist
            pa.field("status", pa.string(), nullable=False),
            pa.field("flags", pa.uint16(), nullable=False),
            pa.field("window_start", pa.int32()),
            *(pa.field(score, pa.list_(pa.float32()), metadata=metadata) for score in scores),
        ]
    )


def build_table(
    rows: Sequence[Variant],
    statuses: Sequence[Status],
    *,
    flags: Sequence[Flag],
    window_starts: Sequence[int],
    values: Mapping[str, NDArray[np.float32]],
    tracks: Sequence[str],
) -> pa.Table:
    """Make a score table [R] of all rows, in input order, and what was found for the S of them that are OK.

    `statuses` is [R]; `flags` and `window_starts` are [S] and `values` per score float32 [S, T], for the rows
    whose status is OK, in order. Raises InputError where lengths do not agree, a value is not finite, or rows
    are not in input order.
    """
    scored = np.array([status is Status.OK for status in statuses], bool)  # [R]
    _check_lengths(rows, scored, flags=flags, window_starts=window_starts)
    order = [(row.record_index, row.allele_index) for row in rows]
    if any(later <= earlier for earlier, later in pairwise(order)):
        raise InputError("rows are not in input order; sort them by record_index and allele_index")
    all_flags = np.zeros(len(rows), np.uint16)
    all_flags[scored] = [int(flag) for flag in flags]
    all_starts = np.zeros(len(rows), np.int32)
    all_starts[scored] = window_starts
    columns = [
        pa.array([row.contig for row in rows], pa.string()),
        pa.array([row.pos for row in rows], pa.int64()),
        pa.array([row.id for row in rows], pa.string()),
        pa.array([row.ref for row in rows], pa.string()),
        pa.array([row.alt for row in rows], pa.string()),
        pa.array([row.record_index for row in rows], pa.uint32()),
        pa.array([row.allele_index for row in rows], pa.uint16()),
        pa.array([status.value for status in statuses], pa.string()),
        pa.array(all_flags),
        pa.array(all_starts, mask=~scored),
        *(_score_column(matrix, scored, name=name, num_tracks=len(tracks)) for name, matrix in values.items()),
    ]
    return pa.Table.from_arrays(columns, schema=table_schema(list(values), tracks))


def score_values(table: pa.Table, score: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return one score's values float32 [S, T] of the scored rows, and which rows these are, bool [R]."""
    column = table[score].combine_chunks()
    tracks = table.schema.field(score).metadata[b"tracks"].decode().split("\t")
    scored = column.is_valid().to_numpy(zero_copy_only=False)
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, len(tracks)), scored


def write_rows(table: pa.Table, path: Path) -> None:
    """Write one block's rows to `path`; equal tables give equal bytes. Raises InputError where there are none."""
    if not table.num_rows:
        raise InputError(f"block {path.name} has no rows; leave it out of the score table")
    lists = [field.name for field in table.schema if pa.types.is_list(field.type)]
    pq.write_table(
        table,
        path,
        compression="zstd",
        use_dictionary=[field.name for field in table.schema if pa.types.is_string(field.type)],
        use_byte_stream_split=[f"{name}.list.element" for name in lists],
    )


def write_manifest(scores_dir: Path, manifest: Manifest) -> None:
    """Write the manifest, which makes the folder a score table."""
    write_json(scores_dir / MANIFEST_NAME, manifest.to_dict())


def read_manifest(scores_dir: Path) -> Manifest:
    """Read a score table's manifest; raise InputError where the folder is not a finished score table."""
    path = scores_dir / MANIFEST_NAME
    if not path.exists():
        raise InputError(
            f"{scores_dir}: no {MANIFEST_NAME} in it, so it is not a finished score table; run cisray score first"
        )
    return Manifest.from_dict(read_json(path, what="score manifest"), source=path)


def iter_blocks(scores_dir: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the rows in input order, one block at a time, a record never cut in two.

    Blocks of a sorted variants file follow one another. Where the records of some lie between one another's,
    these come as one table.

    Raises InputError for an unknown column and a missing file.
    """
    manifest = read_manifest(scores_dir)
    schema = table_schema(list(manifest.scores), manifest.tracks)
    wanted = schema.names if columns is None else list(columns)
    unknown = [name for name in wanted if name not in schema.names]
    if unknown:
        raise InputError(f"{scores_dir}: no column {unknown[0]!r}; it has {', '.join(schema.names)}")
    for group in _overlapping(manifest.blocks):
        if len(group) == 1:
            yield _read_block(scores_dir, group[0], wanted)
        else:
            needed = list(dict.fromkeys([*wanted, *ORDER_COLUMNS]))
            rows = pa.concat_tables([_read_block(scores_dir, block, needed) for block in group])
            yield rows.sort_by([(name, "ascending") for name in ORDER_COLUMNS]).select(wanted)


def read_scores(scores_dir: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a whole score table, or some columns of it, in input order."""
    manifest = read_manifest(scores_dir)
    tables = list(iter_blocks(scores_dir, columns))
    if tables:
        return pa.concat_tables(tables)
    empty = table_schema(list(manifest.scores), manifest.tracks).empty_table()
    return empty if columns is None else empty.select(list(columns))


def verify(scores_dir: Path) -> None:
    """Hold every file against the manifest; raise InputError naming the first that differs."""
    manifest = read_manifest(scores_dir)
    schema = table_schema(list(manifest.scores), manifest.tracks)
    for block in manifest.blocks:
        path = _block_path(scores_dir, block)
        if file_digest(path) != block.sha256:
            raise InputError(f"{path}: its checksum is not the one in {MANIFEST_NAME}; score again")
        rows, found = pq.read_metadata(path).num_rows, pq.read_schema(path)
        if rows != block.rows:
            raise InputError(f"{path}: {rows} rows, but {MANIFEST_NAME} says {block.rows}; score again")
        if not found.equals(schema) or _track_metadata(found) != _track_metadata(schema):
            raise InputError(f"{path}: its columns or tracks are not those of {MANIFEST_NAME}; score again")
    listed = {block.name for block in manifest.blocks}
    for path in sorted((scores_dir / BLOCKS_DIR).glob("*")):
        if path.name not in listed:
            raise InputError(f"{path}: not listed in {MANIFEST_NAME}; remove it, other readers would take it for rows")


def _check_lengths(
    rows: Sequence[Variant], scored: NDArray[np.bool_], *, flags: Sequence[Flag], window_starts: Sequence[int]
) -> None:
    num_scored = int(scored.sum())
    if len(rows) != len(scored):
        raise InputError(f"{len(rows)} rows and {len(scored)} statuses; wanted one status per row")
    if len(flags) != num_scored or len(window_starts) != num_scored:
        raise InputError(
            f"{num_scored} rows are OK, but {len(flags)} have flags and {len(window_starts)} a window; "
            "wanted one of each per OK row"
        )


def _score_column(
    matrix: NDArray[np.float32], scored: NDArray[np.bool_], *, name: str, num_tracks: int
) -> pa.ListArray:
    """Turn values [S, T] into a list column [R], null where a row is not scored."""
    num_scored = int(scored.sum())
    if num_scored and matrix.shape != (num_scored, num_tracks):
        raise InputError(f"{name} is {matrix.shape} for {num_scored} OK rows and {num_tracks} tracks")
    if not np.isfinite(matrix).all():
        raise InputError(f"{name} has values that are not finite; a row without a score has a status instead")
    offsets = np.concatenate([[0], np.cumsum(scored)]) * num_tracks
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(matrix.ravel(), pa.float32()), mask=pa.array(~scored)
    )


def _overlapping(blocks: Sequence[Block]) -> list[list[Block]]:
    """Order blocks by their first record, and group those that share a range of records."""
    groups: list[list[Block]] = []
    end = -1
    for block in sorted(blocks, key=lambda block: (block.first, block.last, block.name)):
        if groups and block.first <= end:
            groups[-1].append(block)
        else:
            groups.append([block])
        end = max(end, block.last)
    return groups


def _track_metadata(schema: pa.Schema) -> list[bytes | None]:
    """Return each column's track names; Parquet adds metadata of its own beside them."""
    return [(field.metadata or {}).get(b"tracks") for field in schema]


def _block_path(scores_dir: Path, block: Block) -> Path:
    path = scores_dir / BLOCKS_DIR / block.name
    if not path.exists():
        raise InputError(f"{path}: listed in {MANIFEST_NAME} but missing; score again")
    return path


def _read_block(scores_dir: Path, block: Block, columns: Sequence[str]) -> pa.Table:
    return pq.ParquetFile(_block_path(scores_dir, block)).read(columns=list(columns)).select(list(columns))
