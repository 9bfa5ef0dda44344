"""Find the rows that score highest, per score and track, in memory that does not grow with the table."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cisray.errors import InputError
from cisray.files import written_whole
from cisray.scoring.effects import is_place
from cisray.scoring.exports.tsv import OPTIONS, plain_text
from cisray.scoring.manifest import read_manifest
from cisray.scoring.rows import score_values, track_names
from cisray.scoring.schema import block_schema, iter_blocks

ROW_COLUMNS = ("chrom", "pos", "id", "ref", "alt", "record_index", "allele_index", "status", "flags")
MOST_ROWS = 1 << 31


def write_top(scores_dir: Path, out_path: Path, *, num_top: int) -> None:
    """Write the `num_top` rows with the largest |value| of each score but places, and track, strongest first.

    A row of the file is a score, track, rank (from 1) and value, then the row's own columns. Of equal values the row
    that comes first in the input comes first. The file is Parquet or tab-separated text, as its name ends.

    Raises:
        InputError: the name ends otherwise, `num_top` is below 1, or the values per track were not kept.
    """
    if out_path.suffix not in (".tsv", ".parquet"):
        raise InputError(f"{out_path}: wanted a name that ends with .tsv or .parquet")
    if num_top < 1:
        raise InputError(f"num_top={num_top}; wanted at least one row per track")
    manifest = read_manifest(scores_dir)
    ranked = [name for name in manifest.scores if not is_place(name)]
    if not ranked:
        raise InputError(f"{scores_dir}: scores of genes or places only; there is no score of a row to rank rows by")
    empty = block_schema(manifest).empty_table()
    for name in ranked:
        score_values(empty, name)  # tells where values were not kept
    strongest = {name: np.empty((len(manifest.listed_tracks), 0), np.uint64) for name in ranked}
    first = 0
    for block in iter_blocks(scores_dir, list(strongest)):
        for name, keys in strongest.items():
            values, scored = score_values(block, name)
            strongest[name] = merge_keys(keys, make_keys(values, first + np.flatnonzero(scored)), num_top)
        first += block.num_rows
    tracks = {name: track_names(empty.schema.field(name)) for name in strongest}
    _write(_with_rows(scores_dir, strongest, tracks), out_path)


def make_keys(values: NDArray[np.float32], numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return for values [S, T] of the rows `numbers` [S] keys [T, S] that are larger the stronger a value is.

    Above stands |value|, whose bits grow with it; then the row's number, an earlier row's being larger; the lowest bit
    is the sign.
    """
    sizes = np.abs(values).view(np.uint32).astype(np.uint64)
    earlier = (MOST_ROWS - 1 - numbers).astype(np.uint64)[:, None]
    return np.ascontiguousarray((sizes << 32 | earlier << 1 | np.signbit(values)).T)


def merge_keys(kept: NDArray[np.uint64], keys: NDArray[np.uint64], num_top: int) -> NDArray[np.uint64]:
    """Return the `num_top` largest keys of each track of two arrays [T, K] and [T, S], in no order."""
    both = np.concatenate([kept, keys], axis=1)
    if both.shape[1] <= num_top:
        return both
    return np.partition(both, both.shape[1] - num_top, axis=1)[:, -num_top:].copy()


def read_keys(keys: NDArray[np.uint64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the values and the rows' numbers that keys were made of."""
    sizes = (keys >> 32).astype(np.uint32).view(np.float32)
    values = np.where(keys & 1, -sizes, sizes)
    return values, MOST_ROWS - 1 - (keys >> 1 & (MOST_ROWS - 1)).astype(np.int64)


def _with_rows(scores_dir: Path, strongest: dict[str, NDArray[np.uint64]], tracks: dict[str, list[str]]) -> pa.Table:
    """Read the strongest rows' own columns, and put both together."""
    parts, found = [], []
    for name, keys in strongest.items():
        num_tracks, num_kept = keys.shape
        values, numbers = read_keys(np.sort(keys, axis=1)[:, ::-1])
        found.append(numbers.ravel())
        parts.append(
            pa.table(
                {
                    "score": pa.array([name] * keys.size, pa.string()),
                    "track": pa.array(np.repeat(np.array(tracks[name], object), num_kept), pa.string()),
                    "rank": pa.array(np.tile(np.arange(1, num_kept + 1), num_tracks), pa.int32()),
                    "value": pa.array(values.ravel(), pa.float32()),
                }
            )
        )
    heads, order = pa.concat_tables(parts), np.concatenate(found)
    wanted = np.unique(order)
    rows = block_schema(read_manifest(scores_dir)).empty_table().select(ROW_COLUMNS)
    first = 0
    for block in iter_blocks(scores_dir, ROW_COLUMNS):
        inside = wanted[np.searchsorted(wanted, first) : np.searchsorted(wanted, first + block.num_rows)]
        rows = pa.concat_tables([rows, block.take(pa.array(inside - first))])
        first += block.num_rows
    own = rows.take(pa.array(np.searchsorted(wanted, order)))
    for name in ROW_COLUMNS:
        heads = heads.append_column(own.schema.field(name), own[name])
    return heads


def _write(table: pa.Table, out_path: Path) -> None:
    with written_whole(out_path) as aside:
        if out_path.suffix == ".parquet":
            pq.write_table(table, aside, compression="zstd")
        else:
            columns = [plain_text(column) for column in table.columns]
            plain = pa.Table.from_arrays(columns, names=table.column_names)
            pyarrow.csv.write_csv(plain, aside, write_options=OPTIONS)
