"""The rows of a score table: one per (record, ALT), and one per (record, ALT, gene) for scores of genes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cisray.errors import InputError
from cisray.genome.variants import Variant
from cisray.scoring.alleles import SCORED, Status
from cisray.scoring.manifest import KEEP_ALL, Storage
from cisray.scoring.nulls import AgainstNull

ORDER_COLUMNS = ("record_index", "allele_index")
ALLELE_BITS = 16
"""Of the number that a row is ordered by; allele_index fills them."""
VARIANT_COLUMNS = {  # as `Variant` names a row's fields -> as the table does
    "contig": "chrom",
    "pos": "pos",
    "id": "id",
    "ref": "ref",
    "alt": "alt",
    "record_index": "record_index",
    "allele_index": "allele_index",
}
GENE_COLUMNS = ("record_index", "allele_index", "gene_id", "gene_name", "gene_strand", "tss_distance")


@dataclass(frozen=True, kw_only=True)
class ScoredRows:
    """What was found for the S rows of a block that have scores, in the block's order."""

    rows: NDArray[np.integer]
    """Which rows of the block these are, [S]."""
    norm_pos: NDArray[np.integer]
    """1-based, [S]."""
    norm_ref: Sequence[str]
    norm_alt: Sequence[str]
    flags: NDArray[np.integer]
    """[S]"""
    window_start: NDArray[np.integer]
    """0-based, [S]."""
    center_offset: NDArray[np.integer]
    """Bases from the window's middle to the variant, [S]."""
    n_passes: NDArray[np.integer]
    """Strands x shifts x models, [S]."""
    values: Mapping[str, NDArray[np.float32]]
    """Per score [S, T]."""
    quantiles: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """Per score that is calibrated, [S, T]."""
    nulls: Mapping[str, AgainstNull] = field(default_factory=dict)
    """Per score that has a null, [S, T] of both."""


def table_schema(
    scores: Sequence[str],
    tracks: Sequence[str],
    *,
    storage: Storage = KEEP_ALL,
    quantiles: Sequence[str] = (),
    nulls: Sequence[str] = (),
) -> pa.Schema:
    """Return the Arrow schema of the rows; each list's metadata name its tracks, tab-separated.

    Raises InputError for a track whose name holds a tab.
    """
    ranks = replace(storage, dtype="float32")  # which float16 would round to 1 where they matter most
    return pa.schema(
        [
            pa.field("chrom", pa.string(), nullable=False),
            pa.field("pos", pa.int64(), nullable=False),
            pa.field("id", pa.string(), nullable=False),
            pa.field("ref", pa.string(), nullable=False),
            pa.field("alt", pa.string(), nullable=False),
            pa.field("record_index", pa.uint32(), nullable=False),
            pa.field("allele_index", pa.uint16(), nullable=False),  # sites with over 255 ALTs exist
            pa.field("norm_pos", pa.int64()),
            pa.field("norm_ref", pa.string()),
            pa.field("norm_alt", pa.string()),
            pa.field("status", pa.string(), nullable=False),
            pa.field("flags", pa.uint16(), nullable=False),
            pa.field("window_start", pa.int32()),
            pa.field("center_offset", pa.int32()),
            pa.field("n_passes", pa.uint8()),
            *_score_fields(scores, tracks, storage),
            *_list_fields([quantile_column(name) for name in quantiles], tracks, ranks),
            *_list_fields([column for name in nulls for column in null_columns(name)], tracks, ranks),
        ]
    )


def gene_schema(
    scores: Sequence[str],
    tracks: Sequence[str],
    *,
    storage: Storage = KEEP_ALL,
) -> pa.Schema:
    """Return the Arrow schema of the rows in genes/; raise InputError for a track whose name holds a tab."""
    return pa.schema(
        [
            pa.field("record_index", pa.uint32(), nullable=False),
            pa.field("allele_index", pa.uint16(), nullable=False),
            pa.field("gene_id", pa.string(), nullable=False),
            pa.field("gene_name", pa.string()),
            pa.field("gene_strand", pa.string(), nullable=False),
            pa.field("tss_distance", pa.int32()),
            *_score_fields(scores, tracks, storage),
        ]
    )


def quantile_column(score: str) -> str:
    """Name the column of a score's quantiles."""
    return f"{score}.quantile"


def null_columns(score: str) -> tuple[str, str]:
    """Name the columns of where a score stands among those of shuffled windows."""
    return f"{score}.z_null", f"{score}.p_null"


def top_columns(score: str) -> tuple[str, str]:
    """Name the columns of the track that a row moves most, and of its value."""
    return f"{score}_top_track", f"{score}_top_value"


def build_rows(
    variants: pa.Table,
    statuses: Sequence[Status] | Sequence[str],
    scored: ScoredRows,
    *,
    tracks: Sequence[str],
    storage: Storage = KEEP_ALL,
) -> pa.Table:
    """Make a block's rows [R], in input order, of what was read and what was found for the scored ones.

    Args:
        variants: [R], with the columns of `Variant`.
        statuses: [R].
        scored: what was found.
        tracks: names of the T tracks.
        storage: what is kept of it.

    Raises:
        InputError: lengths do not agree, a value is not finite or does not fit into float16, or rows are not in
            input order.
    """
    if variants.num_rows != len(statuses):
        raise InputError(f"{variants.num_rows} rows and {len(statuses)} statuses; wanted one status per row")
    check_order(variants)
    has_scores = np.array([status in SCORED for status in statuses], bool)
    _check_scored(scored, np.flatnonzero(has_scores))
    ranks = replace(storage, dtype="float32")
    schema = table_schema(
        list(scored.values), tracks, storage=storage, quantiles=list(scored.quantiles), nulls=list(scored.nulls)
    )
    to_rows = _places(has_scores)
    flags = np.zeros(variants.num_rows, np.uint16)
    flags[scored.rows] = scored.flags
    columns = {ours: variants[theirs].cast(schema.field(ours).type) for theirs, ours in VARIANT_COLUMNS.items()}
    columns |= {"status": pa.array(statuses, pa.string()), "flags": pa.array(flags)}
    for name in ("norm_pos", "norm_ref", "norm_alt", "window_start", "center_offset", "n_passes"):
        columns[name] = pa.array(getattr(scored, name), schema.field(name).type).take(to_rows)
    for name, values in scored.values.items():
        columns |= _score_columns(name, values, has_scores, tracks=tracks, storage=storage)
    beside = {quantile_column(name): values for name, values in scored.quantiles.items()}
    for name, against in scored.nulls.items():
        beside |= dict(zip(null_columns(name), against, strict=True))
    for column, values in beside.items():
        _check_values(values, name=column, num_rows=len(scored.rows), num_tracks=len(tracks))
        columns |= _list_column(column, values, has_scores, tracks=tracks, storage=ranks)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def build_gene_rows(
    genes: pa.Table,
    values: Mapping[str, NDArray[np.float32]],
    *,
    tracks: Sequence[str],
    storage: Storage = KEEP_ALL,
) -> pa.Table:
    """Make a block's rows of genes [G]: `genes` has the columns GENE_COLUMNS, `values` per score [G, T].

    Raises InputError where lengths do not agree, a value is not finite or does not fit, rows are not in input
    order, or a row has a gene twice.
    """
    check_order(genes, distinct=False)
    keys = genes.group_by([*ORDER_COLUMNS, "gene_id"], use_threads=False).aggregate([([], "count_all")])
    if keys.num_rows < genes.num_rows:
        twice = keys.filter(pc.field("count_all") > 1).slice(0, 1).to_pylist()[0]
        raise InputError(f"record {twice['record_index']} has the gene {twice['gene_id']!r} twice; wanted each once")
    schema = gene_schema(list(values), tracks, storage=storage)
    columns = {name: genes[name].cast(schema.field(name).type) for name in GENE_COLUMNS}
    everywhere = np.ones(genes.num_rows, bool)
    for name, matrix in values.items():
        columns |= _score_columns(name, matrix, everywhere, tracks=tracks, storage=storage)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def variants_table(rows: Iterable[Variant]) -> pa.Table:
    """Return rows as an Arrow table with the columns of `Variant`."""
    columns = list(zip(*rows, strict=True)) or [()] * len(Variant._fields)
    types = {"record_index": pa.uint32(), "allele_index": pa.uint16(), "pos": pa.int64()}
    return pa.table(
        {
            name: pa.array(values, types.get(name, pa.string()))
            for name, values in zip(Variant._fields, columns, strict=True)
        }
    )


def row_order(table: pa.Table) -> NDArray[np.int64]:
    """Return the numbers that rows are ordered by, [R], made of record_index and allele_index."""
    record, allele = (table[name].to_numpy().astype(np.int64) for name in ORDER_COLUMNS)
    return record << ALLELE_BITS | allele


def check_order(table: pa.Table, *, distinct: bool = True) -> None:
    """Raise InputError unless rows are in input order, each (record, ALT) once where `distinct`."""
    steps = np.diff(row_order(table))
    if (steps < (1 if distinct else 0)).any():
        raise InputError("rows are not in input order; sort them by record_index and allele_index")


def count_underflows(
    values: Mapping[str, NDArray[np.float32]], tracks: Sequence[str], storage: Storage
) -> dict[str, int]:
    """Count per score the values [S, T] other than 0 that storing them makes 0; scores without any are left out."""
    if storage.dtype == "float32":
        return {}
    listed = [tracks.index(track) for track in storage.listed(tracks)]
    with np.errstate(over="ignore", under="ignore"):
        kept = {name: matrix[:, listed] for name, matrix in values.items()}
        lost = {name: int(((matrix.astype(np.float16) == 0) & (matrix != 0)).sum()) for name, matrix in kept.items()}
    return {name: count for name, count in lost.items() if count}


def score_values(table: pa.Table, score: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return one score's listed values float32 [S, T] of the scored rows, and which rows these are, bool [R].

    Raises InputError for a score whose values per track were not kept.
    """
    if score not in table.column_names:
        raise InputError(
            f'no values per track of {score!r}: the table was stored with values = "summary"; score again with '
            "the tracks named that are wanted, or with all"
        )
    column = table[score].combine_chunks()
    num_tracks = len(track_names(table.schema.field(score)))
    scored = column.is_valid().to_numpy(zero_copy_only=False)
    values = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, num_tracks)
    return values.astype(np.float32, copy=False), scored


def track_names(column: pa.Field) -> list[str]:
    """Return the tracks that a column of lists has values for."""
    return str(column.metadata[b"tracks"].decode()).split("\t")


def write_rows(table: pa.Table, path: Path) -> None:
    """Write one block's rows to `path`; equal tables give equal bytes. Raises InputError where there are none."""
    if not table.num_rows:
        raise InputError(f"block {path.name} has no rows; leave it out of the score table")
    lists = [column.name for column in table.schema if pa.types.is_list(column.type)]
    pq.write_table(
        table,
        path,
        compression="zstd",
        use_dictionary=[column.name for column in table.schema if pa.types.is_string(column.type)],
        use_byte_stream_split=[f"{name}.list.element" for name in lists],
    )


def _score_fields(scores: Sequence[str], tracks: Sequence[str], storage: Storage) -> list[pa.Field]:
    fields = _list_fields(scores, tracks, storage)
    if storage.values == "summary":
        for score in scores:
            track, value = top_columns(score)
            fields += [pa.field(track, pa.int32()), pa.field(value, pa.float32())]
    return fields


def _list_fields(columns: Sequence[str], tracks: Sequence[str], storage: Storage) -> list[pa.Field]:
    for track in tracks:
        if "\t" in track:
            raise InputError(f"track {track!r} has a tab in its name; rename it")
    listed = storage.listed(tracks)
    if not listed and storage.values == "summary":
        return []
    metadata = {
        "dtype": storage.dtype,
        "shape": f"[{len(listed)}]",
        "axes": "tracks",
        "tracks": "\t".join(listed),
    }
    return [pa.field(name, pa.list_(_value_type(storage)), metadata=metadata) for name in columns]


def _value_type(storage: Storage) -> pa.DataType:
    return pa.float16() if storage.dtype == "float16" else pa.float32()


def _check_scored(scored: ScoredRows, have_scores: NDArray[np.intp]) -> None:
    """Raise InputError unless there is one of everything for each row whose status says that it has scores."""
    if not np.array_equal(scored.rows, have_scores):
        raise InputError(
            f"{len(scored.rows)} rows were scored and {len(have_scores)} have a status of scored rows, and these are "
            "not the same ones in order"
        )
    for name in ("norm_pos", "norm_ref", "norm_alt", "flags", "window_start", "center_offset", "n_passes"):
        found = len(getattr(scored, name))
        if found != len(have_scores):
            raise InputError(f"{name}: {found} for {len(have_scores)} scored rows; wanted one per row")


def _places(scored: NDArray[np.bool_]) -> pa.Array:
    """Return where each row [R] stands among the scored ones, null where it is not one of them."""
    return pa.array(np.cumsum(scored) - 1, mask=~scored)


def _check_values(values: NDArray[np.float32], *, name: str, num_rows: int, num_tracks: int) -> None:
    if num_rows and values.shape != (num_rows, num_tracks):
        raise InputError(f"{name} is {values.shape} for {num_rows} scored rows and {num_tracks} tracks")
    if not np.isfinite(values).all():
        raise InputError(f"{name} has values that are not finite; a row without a score has a status instead")


def _score_columns(
    name: str,
    values: NDArray[np.float32],
    scored: NDArray[np.bool_],
    *,
    tracks: Sequence[str],
    storage: Storage,
) -> dict[str, pa.Array]:
    """Turn values [S, T] into the columns [R] that are kept of them, null where a row is not scored."""
    _check_values(values, name=name, num_rows=int(scored.sum()), num_tracks=len(tracks))
    columns = _list_column(name, values, scored, tracks=tracks, storage=storage)
    if storage.values == "summary":
        to_rows = _places(scored)
        top = np.abs(values).argmax(axis=1) if values.size else np.zeros(0, np.int64)
        track_column, value_column = top_columns(name)
        columns[track_column] = pa.array(top, pa.int32()).take(to_rows)
        columns[value_column] = pa.array(values[np.arange(len(top)), top], pa.float32()).take(to_rows)
    return columns


def _list_column(
    name: str,
    values: NDArray[np.float32],
    scored: NDArray[np.bool_],
    *,
    tracks: Sequence[str],
    storage: Storage,
) -> dict[str, pa.Array]:
    """Turn values [S, T] into a column [R] of lists; none where no track is listed."""
    listed = storage.listed(tracks)
    if storage.values == "summary":
        if not listed:
            return {}
        index_of = {track: index for index, track in enumerate(tracks)}
        values = values.reshape(-1, len(tracks))[:, [index_of[track] for track in listed]]
    flat: NDArray[np.floating] = np.ascontiguousarray(values).ravel()
    if storage.dtype == "float16":
        flat = _halved(flat, name)
    offsets = np.concatenate([[0], np.cumsum(scored)]) * len(listed)
    elements = pa.array(flat, _value_type(storage))
    return {name: pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), elements, mask=pa.array(~scored))}


def _halved(values: NDArray[np.floating], name: str) -> NDArray[np.float16]:
    """Return values as float16; raise InputError where one is too large for that."""
    with np.errstate(over="ignore", under="ignore"):
        halved = values.astype(np.float16)
    too_large = int((~np.isfinite(halved)).sum())
    if too_large:
        raise InputError(
            f"{too_large} of {values.size} values of {name} are beyond 65504, the largest number in float16; "
            'store with dtype = "float32"'
        )
    return halved
