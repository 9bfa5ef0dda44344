"""Read a dataset in a reproducible random order, from any position of any epoch.

The order is a function of (seed, epoch, rank) alone. An epoch's row groups are shuffled and dealt to the ranks;
a rank joins its groups into pools of about `pool_rows` rows, and shuffles the rows of each pool. So a run that
is stopped and resumed sees each example once per epoch, and going to a position reads no pool before it.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cisray.datasets.card import Card
from cisray.datasets.schema import Examples, Layout, array_columns, decode_examples, layout_of, split_files
from cisray.errors import InputError

# A pool is what a reader holds at once: enough rows to shuffle well, few enough bytes to stay small.
POOL_ROWS = 1024
POOL_BYTES = 128 << 20
# What says where a row lies.
LOCI = ["contig", "start", "end"]
# Rows as large as this are copied one by one; smaller ones many at a time.
LARGE_ROW_BYTES = 8 << 10


class RowGroup(NamedTuple):
    """A row group of one file: the smallest part of a dataset that is read at once."""

    path: str
    number: int
    rows: int


class Pool(NamedTuple):
    """Row groups that are read together, and the seed that shuffles their rows; None leaves them in order."""

    groups: list[RowGroup]
    seed: list[int] | None

    @property
    def rows(self) -> int:
        """Rows of all its groups."""
        return sum(group.rows for group in self.groups)


class Order(NamedTuple):
    """How one rank of `world` reads a split: in file order, or shuffled by seed and epoch."""

    groups: tuple[RowGroup, ...]
    pool_rows: int
    rank: int = 0
    world: int = 1
    seed: int | None = None
    """None keeps the order of the files."""

    def dealt(self, epoch: int) -> list[list[RowGroup]]:
        """Return the row groups of every rank in this epoch."""
        order = np.arange(len(self.groups))
        if self.seed is not None:
            np.random.default_rng((self.seed, epoch)).shuffle(order)
        return [[self.groups[index] for index in order[rank :: self.world]] for rank in range(self.world)]

    def pools(self, epoch: int) -> list[Pool]:
        """Join this rank's row groups into pools."""
        pools: list[Pool] = []
        rows = self.pool_rows
        for group in self.dealt(epoch)[self.rank]:
            if rows >= self.pool_rows:
                seed = None if self.seed is None else [self.seed, epoch, self.rank, len(pools)]
                pools.append(Pool([], seed))
                rows = 0
            pools[-1].groups.append(group)
            rows += group.rows
        return pools

    def steps(self, epoch: int, batch_size: int) -> int:
        """Return the batches per rank in this epoch: all rows of a single rank, or what each of several can fill."""
        rows = [sum(group.rows for group in groups) for groups in self.dealt(epoch)]
        return -(-rows[0] // batch_size) if self.world == 1 else min(rows) // batch_size


def read_order(
    dataset_dir: Path, card: Card, split: str, *, rank: int = 0, world: int = 1, seed: int | None = None
) -> Order:
    """List a split's row groups and say in which order this rank reads them."""
    groups = []
    for path in split_files(dataset_dir, card, split):
        metadata = open_rows(path).metadata
        groups += [RowGroup(str(path), i, metadata.row_group(i).num_rows) for i in range(metadata.num_row_groups)]
    pool_rows = min(POOL_ROWS, max(1, POOL_BYTES // layout_of(card).row_bytes))
    return Order(tuple(groups), pool_rows, rank, world, seed)


def open_rows(path: Path | str) -> pq.ParquetFile:
    """Open a file of a dataset's rows; raise InputError where it is gone or damaged."""
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, but rows of a dataset were expected here; put it back") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: rows of a dataset that cannot be read ({error}); build the dataset again") from error


def read_groups(pool: Pool) -> list[pa.Table]:
    """Read the arrays of one pool's row groups, each file opened once."""
    files = {path: open_rows(path) for path in {group.path for group in pool.groups}}
    return [
        files[group.path].read_row_group(group.number, columns=array_columns(files[group.path].schema_arrow))
        for group in pool.groups
    ]


def read_pool(pool: Pool) -> pa.Table:
    """Read one pool's rows in its own order."""
    rows = pa.concat_tables(read_groups(pool))
    return rows if pool.seed is None else rows.take(np.random.default_rng(pool.seed).permutation(len(rows)))


def name_windows(order: Order, epoch: int, rows: range) -> list[str]:
    """Name the windows of some rows of this rank's epoch, as contig:start-end, 0-based and half-open."""
    names: list[str] = []
    start = find_position(order, epoch, rows.start)
    for pool in order.pools(epoch)[start.pool :]:
        loci = pa.concat_tables(
            [open_rows(group.path).read_row_group(group.number, columns=LOCI) for group in pool.groups]
        )
        if pool.seed is not None:
            loci = loci.take(np.random.default_rng(pool.seed).permutation(len(loci)))
        names += [f"{row['contig']}:{row['start']}-{row['end']}" for row in loci.to_pylist()]
        if len(names) >= start.rows + len(rows):
            break
    return names[start.rows : start.rows + len(rows)]


class Position(NamedTuple):
    """Where to go on in an epoch: the first pool to read, and the rows to leave out of it."""

    pool: int
    rows: int


def find_position(order: Order, epoch: int, rows_seen: int) -> Position:
    """Return where the row after the first `rows_seen` of this rank's epoch stands."""
    pools = order.pools(epoch)
    for index, pool in enumerate(pools):
        if rows_seen < pool.rows:
            return Position(index, rows_seen)
        rows_seen -= pool.rows
    return Position(len(pools), 0)


def cut_batches(tables: Iterable[pa.Table], batch_size: int, *, skip: int = 0) -> Iterator[pa.Table]:
    """Cut a stream of tables into batches of `batch_size` rows, the last one smaller, after leaving out `skip` rows."""
    waiting: list[pa.Table] = []
    num_waiting = 0
    for table in tables:
        left_out = min(skip, len(table))
        skip -= left_out
        waiting.append(table.slice(left_out))
        num_waiting += len(waiting[-1])
        if num_waiting < batch_size:
            continue
        joined = pa.concat_tables(waiting)
        full = num_waiting - num_waiting % batch_size
        for start in range(0, full, batch_size):
            yield joined.slice(start, batch_size)
        waiting, num_waiting = [joined.slice(full)], num_waiting - full
    if num_waiting:
        yield pa.concat_tables(waiting)


def read_epoch(order: Order, epoch: int, layout: Layout, *, batch_size: int, rows_seen: int = 0) -> Iterator[Examples]:
    """Yield one epoch's batches in this process, as arrays that may be written to, after the first `rows_seen` rows."""
    start = find_position(order, epoch, rows_seen)
    skip = start.rows
    parts: list[Examples] = []  # the row groups that rows still to come lie in
    waiting = np.empty(0, np.int64)  # those rows, as positions in the parts taken together
    for pool in order.pools(epoch)[start.pool :]:
        if not len(waiting):
            parts = []
        first = sum(len(part.codes) for part in parts)
        parts += [decode_examples(rows, layout) for rows in read_groups(pool)]
        rows = np.arange(pool.rows) if pool.seed is None else np.random.default_rng(pool.seed).permutation(pool.rows)
        waiting = np.concatenate([waiting, first + rows[skip:]])
        skip = 0
        full = len(waiting) - len(waiting) % batch_size
        for step in range(0, full, batch_size):
            yield gather(parts, waiting[step : step + batch_size])
        waiting = waiting[full:]
        if len(waiting):  # copied, so that the pool they come from can go
            parts, waiting = [gather(parts, waiting)], np.arange(len(waiting))
    if len(waiting):
        yield gather(parts, waiting)


def gather(parts: Sequence[Examples], rows: np.ndarray) -> Examples:
    """Copy rows, told by their positions in the parts taken together, into arrays of their own."""
    ends = np.cumsum([len(part.codes) for part in parts])
    part_of = np.searchsorted(ends, rows, side="right")
    within = rows - np.r_[0, ends][part_of]
    fields: dict[str, Any] = {
        name: _gather_field([getattr(part, name) for part in parts], part_of, within) for name in Examples._fields
    }
    return Examples(**fields)


def _gather_field(arrays: Sequence[np.ndarray | None], part_of: np.ndarray, within: np.ndarray) -> np.ndarray | None:
    if arrays[0] is None:
        return None
    found = [array for array in arrays if array is not None]
    out = np.empty((len(within), *found[0].shape[1:]), found[0].dtype)
    if out.nbytes > LARGE_ROW_BYTES * len(out):
        for row, (part, position) in enumerate(zip(part_of.tolist(), within.tolist(), strict=True)):
            out[row] = found[part][position]
        return out
    for part in np.unique(part_of):
        chosen = part_of == part
        out[chosen] = found[part][within[chosen]]
    return out
