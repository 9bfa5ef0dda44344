"""Write a score table as tab-separated text: every column and value of it, or in the form that Kipoi writes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from cisray.files import written_whole
from cisray.scoring.exports.escapes import RESERVED_IN_TSV, percent_encoded
from cisray.scoring.manifest import read_manifest
from cisray.scoring.rows import score_values, track_names
from cisray.scoring.schema import block_schema, iter_blocks, iter_slices

KIPOI_COLUMNS = {"chrom": "#CHROM", "pos": "POS", "id": "ID", "ref": "REF", "alt": "ALT"}
OPTIONS = pyarrow.csv.WriteOptions(delimiter="\t", quoting_style="none", quoting_header="none")


def write_tsv(scores_dir: Path, out_path: Path) -> None:
    """Write one row per (record, ALT), with one column `score:track` per value; empty where there is none.

    Nothing is quoted: a tab, a line end or a quotation mark in a name is percent-encoded.
    """
    manifest = read_manifest(scores_dir)
    _write(scores_dir, out_path, {name: name for name in block_schema(manifest).names}, value_name="{column}:{track}")


def write_kipoi_tsv(scores_dir: Path, out_path: Path) -> None:
    """Write the five columns of a VCF, then one column `model/track/score` per value; empty where there is none.

    Why a row has no scores stands in no column of this form; `write_tsv` tells. Nothing is quoted, as there.

    Raises InputError where the values per track were not kept.
    """
    manifest = read_manifest(scores_dir)
    model = Path(manifest.model.uri).name.replace("{", "{{").replace("}", "}}")
    columns = KIPOI_COLUMNS | {name: name for name in manifest.scores}
    _write(scores_dir, out_path, columns, value_name=model + "/{track}/{column}")


def plain_text(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """Percent-encode what would break a line of text; a column of numbers stays as it is."""
    if not pa.types.is_string(column.type):
        return column
    return pa.array([None if text is None else _plain(text) for text in column.to_pylist()], pa.string())


def _write(scores_dir: Path, out_path: Path, names: Mapping[str, str], *, value_name: str) -> None:
    """Write columns by their new names; `value_name` says how a value of a column of lists is called."""
    empty = block_schema(read_manifest(scores_dir)).empty_table()
    for column in names:
        if column not in empty.column_names:
            score_values(empty, column)  # tells why there is none
    head = _flat(empty.select(list(names)), names, value_name)
    with (
        written_whole(out_path) as aside,
        pyarrow.csv.CSVWriter(str(aside), head.schema, write_options=OPTIONS) as writer,
    ):
        for table in iter_slices(iter_blocks(scores_dir, list(names))):
            writer.write_table(_flat(table, names, value_name))


def _plain(text: str) -> str:
    return percent_encoded(text, reserved=RESERVED_IN_TSV)


def _flat(table: pa.Table, names: Mapping[str, str], value_name: str) -> pa.Table:
    """Spread each column of lists over columns of numbers, and make the text plain."""
    columns: list[tuple[str, pa.ChunkedArray | pa.Array]] = []
    for column in table.schema:
        if pa.types.is_list(column.type):
            matrix, scored = score_values(table, column.name)
            for track, values in zip(track_names(column), matrix.T, strict=True):
                spread = np.zeros(table.num_rows, np.float32)  # its own memory each time: Arrow does not copy
                spread[scored] = values
                name = _plain(value_name.format(column=column.name, track=track))
                columns.append((name, pa.array(spread, mask=~scored)))
        else:
            columns.append((names[column.name], plain_text(table[column.name])))
    return pa.Table.from_arrays([values for _, values in columns], names=[name for name, _ in columns])
