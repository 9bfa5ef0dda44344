"""Cut a variants file into blocks of neighbouring rows, in memory that does not grow with the file."""

import heapq
import shutil
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from cisray.files import file_digest, full_disk_told, read_json, write_json, written_whole
from cisray.flows.shards import PLANNED
from cisray.genome.contigs import map_contigs
from cisray.genome.reference import Reference
from cisray.genome.variant_selection import SelectedVariants, contigs_of
from cisray.genome.variants import Variant
from cisray.progress import Progress, Report
from cisray.scoring.rows import variants_table
from cisray.scoring.windows import WindowSpec

SUMMARY_NAME = "summary.json"
# Rows of an unsorted file that are sorted in memory at once.
RUN_ROWS = 250_000
MOST_MERGED = 128
# Rows of a sorted part that are in memory while it is merged.
ROWS_READ = 4096
REPORT_ROWS = 100_000
# A block waits for the end of a window that its rows share, but not beyond so many times its size.
MOST_TIMES = 4


def plan_blocks(
    staging: Path, variants: SelectedVariants, *, block_rows: int, windows: WindowSpec, report: Report
) -> dict[str, Any]:
    """Write the wanted rows into one planned file per block, by contig and position, and return what they are.

    A record is never cut, nor are the rows of one window of a grid unless they are very many. The order of contigs is
    that in which the file first names them; a file whose rows are in order is read as it stands, and of another one
    sorted parts go to disk and are merged.

    Returns:
        blocks, rows, rows of the file, those left out by reason, contigs, and the file's digest.
    """
    path = staging / PLANNED / SUMMARY_NAME
    if path.exists():
        return read_json(path, what="score plan")
    contigs, num_rows, in_order = _look_through(variants, report)
    rows: Iterable[Variant] = variants if in_order else _sorted_rows(variants, contigs, staging / PLANNED / "runs")
    num_blocks = 0
    for block in _cut(rows, block_rows=block_rows, windows=windows):
        with written_whole(staging / PLANNED / f"{num_blocks:07d}.parquet") as aside:
            pq.write_table(variants_table(sorted(block)), aside)  # in a block, rows stand in the file's order
        num_blocks += 1
    left_out = dict(variants.left_out)
    summary = {
        "blocks": num_blocks,
        "rows": num_rows,
        "file_rows": num_rows + sum(left_out.values()),
        "left_out": left_out,
        "contigs": list(contigs),
        "digest": file_digest(variants.path),
    }
    write_json(path, summary)
    return summary


def planned_path(staging: Path, number: int) -> Path:
    """Return where a block's rows stand."""
    return staging / PLANNED / f"{number:07d}.parquet"


def _look_through(variants: SelectedVariants, report: Report) -> tuple[dict[str, int], int, bool]:
    """Read a file once: its contigs by their first row, its rows, and whether these are in order."""
    contigs: dict[str, int] = {}
    last = (0, 0)
    num_rows, in_order = 0, True
    for variant in variants:
        place = contigs.setdefault(variant.contig, len(contigs)), variant.pos
        in_order &= place >= last
        last = place
        num_rows += 1
        if num_rows % REPORT_ROWS == 0:
            report(Progress("read variants", num_rows, 0, "rows"))
    return contigs, num_rows, in_order


def _sorted_rows(variants: Iterable[Variant], contigs: dict[str, int], folder: Path) -> Iterator[Variant]:
    """Yield rows by contig and position: sorted parts of the file go to disk, and are merged."""

    def place(variant: Variant) -> tuple[int, int, int, int]:
        return contigs[variant.contig], variant.pos, variant.record_index, variant.allele_index

    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for number, part in _batched(variants, RUN_ROWS):
        path = folder / f"{number:05d}.parquet"
        with full_disk_told(path):
            pq.write_table(variants_table(sorted(part, key=place)), path, row_group_size=ROWS_READ)
        parts.append(path)
    while len(parts) > MOST_MERGED:  # of very many parts, some make one first, so that few files are open at once
        some, parts = parts[:MOST_MERGED], parts[MOST_MERGED:]
        parts.append(folder / f"merged-{some[0].name}")
        _write_rows(heapq.merge(*map(_read_rows, some), key=place), parts[-1])
        for path in some:
            path.unlink()
    yield from heapq.merge(*map(_read_rows, parts), key=place)
    shutil.rmtree(folder)


def _write_rows(rows: Iterable[Variant], path: Path) -> None:
    with full_disk_told(path), pq.ParquetWriter(path, variants_table([]).schema) as file:
        for _, some in _batched(rows, ROWS_READ):
            file.write_table(variants_table(some))


def _batched(rows: Iterable[Variant], size: int) -> Iterator[tuple[int, list[Variant]]]:
    for number, part in groupby(enumerate(rows), key=lambda numbered: numbered[0] // size):
        yield number, [row for _, row in part]


def _read_rows(path: Path) -> Iterator[Variant]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROWS_READ):
            columns = [batch.column(name).to_pylist() for name in Variant._fields]
            yield from map(Variant._make, zip(*columns, strict=True))


def _cut(rows: Iterable[Variant], *, block_rows: int, windows: WindowSpec) -> Iterator[list[Variant]]:
    """Cut rows in order into blocks of about so many."""
    cell_bp = windows.grid_bp if windows.policy == "grid" else 1
    block: list[Variant] = []
    cell: tuple[str, int] | None = None
    for _, record in groupby(rows, key=attrgetter("record_index")):
        alleles = list(record)
        here = alleles[0].contig, (alleles[0].pos - 1) // cell_bp
        at_edge = here != cell or len(block) >= MOST_TIMES * block_rows
        if block and at_edge and len(block) + len(alleles) > block_rows:
            yield block
            block = []
        block += alleles
        cell = here
    if block:
        yield block


def name_contigs(variants: SelectedVariants, reference: Reference, seen: Iterable[str]) -> dict[str, str]:
    """Map the contigs that occur in the variants to the genome's; those without a counterpart are left out."""
    lengths = contigs_of(variants.path)
    occurring = {name: lengths.get(name) for name in seen}
    return map_contigs(occurring, reference.contig_lengths, source=str(variants.path)).names
