"""The score table contract: a folder of Parquet rows and the manifest that says how they were made.

    manifest.json                      written last: no manifest, no score table
    blocks/*.parquet                   one file per block of rows; nothing else is in there
    genes/*.parquet                    for scores of genes, one file per block that has some
    run.json                           what depends on the clock and the machine; nothing compares it

A row is a (record, ALT) of the input: chrom, pos (1-based), id, ref, alt as written, record_index and
allele_index to join back, norm_pos (1-based), norm_ref and norm_alt as they were scored, status, flags (the bits of
`alleles.Flag`), window_start (0-based), center_offset (bases from the window's middle to the variant), n_passes,
then one list of float32 or float16 per score, with one value per track; lists of float32, `<score>.quantile` for those
that are calibrated, and `<score>.z_null` and `<score>.p_null` for those held against shuffled windows. Where the
manifest's storage says "summary", there stand `<score>_top_track` (index into the manifest's tracks) and
`<score>_top_value`, and lists hold the tracks that storage names, if any. A row without scores has nulls there, never
zeros or NaN.

A row of genes/ is a (record, ALT, gene): record_index, allele_index, gene_id, gene_name, gene_strand, tss_distance
in bases, and the scores of genes as above.

Within a block rows are in input order; blocks may lie in any order, and their records between one another's:
`iter_blocks` brings them into input order.

The lists are of one length, but not of Arrow's fixed-size type: Parquet has no such type, and Arrow's reader
refuses a null in one (https://github.com/apache/arrow/issues/35692). Any Parquet reader can do
without cisray.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cisray.errors import InputError
from cisray.files import file_digest, within
from cisray.scoring.manifest import (
    MANIFEST_NAME,
    Block,
    Manifest,
    read_manifest,
)
from cisray.scoring.merge import in_input_order
from cisray.scoring.rows import (
    ORDER_COLUMNS,
    gene_schema,
    table_schema,
)

BLOCKS_DIR = "blocks"
GENES_DIR = "genes"
SLICE_VALUES = 1 << 18
"""Values of lists in one table of `iter_slices`, at most, but for a single row with more."""


def block_schema(manifest: Manifest) -> pa.Schema:
    """Return the Arrow schema of a score table's rows."""
    return table_schema(
        list(manifest.scores),
        manifest.tracks,
        storage=manifest.storage,
        quantiles=manifest.quantiles,
        nulls=manifest.nulls,
    )


def iter_blocks(scores_dir: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the rows in input order, one block at a time, a record never cut in two.

    Blocks of a sorted variants file follow one another. Where the records of some lie between one another's,
    these are merged, and come in tables of bounded size.

    Raises InputError for an unknown column and a missing file.
    """
    manifest = read_manifest(scores_dir)
    return _in_order(scores_dir / BLOCKS_DIR, manifest.blocks, block_schema(manifest), columns)


def iter_genes(scores_dir: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the rows of genes/ in input order, as `iter_blocks` does; nothing where there are none."""
    manifest = read_manifest(scores_dir)
    schema = gene_schema(list(manifest.gene_scores), manifest.tracks, storage=manifest.storage)
    return _in_order(scores_dir / GENES_DIR, manifest.genes, schema, columns)


def iter_slices(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Cut tables into short ones, for those who turn values into Python's numbers and text."""
    for table in tables:
        lists = [column for column in table.schema if pa.types.is_list(column.type)]
        per_row = sum(int(column.metadata[b"shape"][1:-1]) for column in lists)
        num_rows = max(1, SLICE_VALUES // (per_row + len(table.column_names)))
        for start in range(0, table.num_rows, num_rows):
            yield table.slice(start, num_rows)


def read_scores(scores_dir: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a whole score table, or some columns of it, in input order."""
    schema = block_schema(read_manifest(scores_dir))
    return _read_whole(iter_blocks(scores_dir, columns), schema, columns)


def read_genes(scores_dir: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read all rows of genes/, or some columns of them, in input order."""
    manifest = read_manifest(scores_dir)
    schema = gene_schema(list(manifest.gene_scores), manifest.tracks, storage=manifest.storage)
    return _read_whole(iter_genes(scores_dir, columns), schema, columns)


def verify(scores_dir: Path) -> None:
    """Hold every file against the manifest; raise InputError naming the first that differs."""
    manifest = read_manifest(scores_dir)
    _verify_files(scores_dir / BLOCKS_DIR, manifest.blocks, block_schema(manifest))
    schema = gene_schema(list(manifest.gene_scores), manifest.tracks, storage=manifest.storage)
    _verify_files(scores_dir / GENES_DIR, manifest.genes, schema)


def _in_order(
    folder: Path, blocks: Sequence[Block], schema: pa.Schema, columns: Sequence[str] | None
) -> Iterator[pa.Table]:
    """Yield the rows of all blocks in input order."""
    wanted = schema.names if columns is None else list(columns)
    unknown = [name for name in wanted if name not in schema.names]
    if unknown:
        raise InputError(f"{folder.parent}: no column {unknown[0]!r}; it has {', '.join(schema.names)}")
    for group in _overlapping(blocks):
        if len(group) == 1:
            yield _read_block(folder, group[0], wanted)
        else:
            needed = list(dict.fromkeys([*wanted, *ORDER_COLUMNS]))
            merged = in_input_order(
                (_read_block(folder, block, needed) for block in group),
                num_rows=sum(block.rows for block in group),
                first=min(block.first for block in group),
                last=max(block.last for block in group),
            )
            for table in merged:
                yield table.select(wanted)


def _read_whole(tables: Iterator[pa.Table], schema: pa.Schema, columns: Sequence[str] | None) -> pa.Table:
    found = list(tables)
    if found:
        return pa.concat_tables(found)
    return schema.empty_table() if columns is None else schema.empty_table().select(list(columns))


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


def _verify_files(folder: Path, blocks: Sequence[Block], schema: pa.Schema) -> None:
    for block in blocks:
        path = _block_path(folder, block)
        if file_digest(path) != block.sha256:
            raise InputError(f"{path}: its checksum is not the one in {MANIFEST_NAME}; score again")
        rows, found = pq.read_metadata(path).num_rows, pq.read_schema(path)
        if rows != block.rows:
            raise InputError(f"{path}: {rows} rows, but {MANIFEST_NAME} says {block.rows}; score again")
        if not found.equals(schema) or _track_metadata(found) != _track_metadata(schema):
            raise InputError(f"{path}: its columns or tracks are not those of {MANIFEST_NAME}; score again")
    listed = {block.name for block in blocks}
    for path in sorted(folder.glob("*")):
        if path.name not in listed:
            raise InputError(f"{path}: not listed in {MANIFEST_NAME}; remove it, other readers would take it for rows")


def _track_metadata(schema: pa.Schema) -> list[bytes | None]:
    """Return each column's track names; Parquet adds metadata of its own beside them."""
    return [(field.metadata or {}).get(b"tracks") for field in schema]


def _block_path(folder: Path, block: Block) -> Path:
    path = within(folder, block.name, what="score table")
    if not path.exists():
        raise InputError(f"{path}: listed in {MANIFEST_NAME} but missing; score again")
    return path


def _read_block(folder: Path, block: Block, columns: Sequence[str]) -> pa.Table:
    return pq.ParquetFile(_block_path(folder, block)).read(columns=list(columns)).select(list(columns))
