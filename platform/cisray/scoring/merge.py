"""Bring rows into input order in bounded memory, whatever order their blocks have."""

import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from cisray.scoring.rows import ORDER_COLUMNS

MERGE_BYTES = 64 << 20
"""Rows that are held at once before they go to disk; sorting them takes as much a few times over."""


def in_input_order(
    tables: Iterable[pa.Table], *, num_rows: int, first: int, last: int, most_bytes: int = MERGE_BYTES
) -> Iterator[pa.Table]:
    """Yield the rows of tables sorted by record and allele, some at a time, a record never cut in two.

    Up to `most_bytes` are sorted in memory. More are dealt out to files in the folder for temporary files (set
    TMPDIR for another), each for one range of records, and these sorted one after the other.

    Args:
        tables: the rows, with record_index and allele_index among their columns.
        num_rows: how many rows all of them have.
        first: the smallest record_index.
        last: the largest.
        most_bytes: how much is held at once, about.
    """
    with tempfile.TemporaryDirectory(prefix="cisray-merge-") as folder:
        held: list[pa.Table] = []
        num_bytes = 0
        piles: _Piles | None = None
        for table in tables:
            held.append(table)
            num_bytes += table.nbytes
            if num_bytes > most_bytes:
                if piles is None:
                    row_bytes = num_bytes / sum(one.num_rows for one in held)
                    num_piles = math.ceil(num_rows * row_bytes / most_bytes * 2)  # records have more or fewer rows
                    piles = _Piles(Path(folder), np.linspace(first, last + 1, num_piles + 1).astype(np.int64))
                piles.add(_sorted(held))
                held, num_bytes = [], 0
        if piles is None:
            if held:
                yield _sorted(held)
            return
        if held:
            piles.add(_sorted(held))
        yield from piles.take()


def _sorted(tables: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables).sort_by([(name, "ascending") for name in ORDER_COLUMNS])


class _Piles:
    """Rows on disk, one file per range of records."""

    def __init__(self, folder: Path, edges: np.ndarray) -> None:
        self._folder = folder
        self._edges = edges
        self._schema: pa.Schema | None = None

    def add(self, table: pa.Table) -> None:
        """Deal out sorted rows."""
        self._schema = table.schema
        cuts = np.searchsorted(table["record_index"].to_numpy(), self._edges)
        for number in np.flatnonzero(np.diff(cuts)).tolist():
            part = table.slice(cuts[number], cuts[number + 1] - cuts[number]).combine_chunks()
            with self._path(number).open("ab") as handle:  # opened each time: a process may open 1,024 files or so
                for batch in part.to_batches():
                    handle.write(batch.serialize())

    def take(self) -> Iterator[pa.Table]:
        """Yield each range's rows in order, and remove its file."""
        for number in range(len(self._edges) - 1):
            path = self._path(number)
            if not path.exists():
                continue
            with pa.OSFile(str(path)) as handle:
                batches = []
                while handle.tell() < handle.size():
                    batches.append(pa.ipc.read_record_batch(pa.ipc.read_message(handle), self._schema))
            path.unlink()
            yield _sorted([pa.Table.from_batches(batches)])

    def _path(self, number: int) -> Path:
        return self._folder / str(number)
