"""Write a score table as .h5ad, the file of AnnData: variants are observations, tracks variables, scores layers.

The file is written with h5py, row by row, after the published description of the format: anndata itself would have to
hold the whole table. https://anndata.readthedocs.io/en/stable/fileformat-prose.html
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cisray.files import written_whole
from cisray.scoring.manifest import read_manifest
from cisray.scoring.rows import score_values, track_names
from cisray.scoring.schema import block_schema, iter_blocks, iter_slices

INDEX = "_index"


def write_h5ad(scores_dir: Path, out_path: Path) -> None:
    """Write obs (a row's columns, named record.allele), var (the tracks), a layer per list, and the manifest in uns.

    A row without scores has NaN in the layers, and its reason in obs["status"]. There is no X: no score is the main
    one. Raises InputError where the values per track were not kept.
    """
    manifest = read_manifest(scores_dir)
    schema = block_schema(manifest)
    for score in manifest.scores:
        score_values(schema.empty_table(), score)  # tells where values were not kept
    lists = [column for column in schema if pa.types.is_list(column.type)]
    fixed = [column for column in schema if not pa.types.is_list(column.type)]
    with written_whole(out_path) as aside, h5py.File(aside, "w") as file:
        _mark(file, "anndata", "0.1.0")
        for name in ("obsm", "varm", "obsp", "varp", "layers", "uns"):
            _mark(file.create_group(name), "dict", "0.1.0")
        var = _frame(file, "var", [])
        _text(var, INDEX, len(manifest.listed_tracks))[:] = list(manifest.listed_tracks)
        obs = _frame(file, "obs", ["variant_id", *(column.name for column in fixed)])
        for name in (INDEX, "variant_id"):
            _text(obs, name, manifest.rows)
        for column in fixed:
            _column(obs, column, manifest.rows)
        for column in lists:
            dtype = np.float16 if pa.types.is_float16(column.type.value_type) else np.float32
            shape = (manifest.rows, len(track_names(column)))
            _mark(file["layers"].create_dataset(column.name, shape, dtype), "array", "0.2.0")
        _text(file["uns"], "cisray_manifest", None)[()] = json.dumps(manifest.to_dict() | {"blocks": [], "genes": []})
        first = 0
        for table in iter_slices(iter_blocks(scores_dir)):
            rows = slice(first, first + table.num_rows)
            obs[INDEX][rows] = _joined(table, ("record_index", "allele_index"), "{}.{}")
            obs["variant_id"][rows] = _joined(table, ("chrom", "pos", "ref", "alt"), "{}:{}:{}>{}")
            for column in fixed:
                _fill(obs[column.name], rows, table[column.name])
            for column in lists:
                file["layers"][column.name][rows] = _with_gaps(table, column.name)
            first += table.num_rows


def _mark(thing: Any, encoding: str, version: str) -> Any:
    """Say in a thing's attributes how it is to be read."""
    thing.attrs.update({"encoding-type": encoding, "encoding-version": version})
    return thing


def _frame(file: h5py.File, name: str, columns: Sequence[str]) -> h5py.Group:
    frame = _mark(file.create_group(name), "dataframe", "0.2.0")
    frame.attrs["_index"] = INDEX
    frame.attrs.create("column-order", list(columns), (len(columns),), h5py.string_dtype("utf-8"))
    return frame


def _text(group: h5py.Group, name: str, length: int | None) -> h5py.Dataset:
    """Make an array of text, or a single text where `length` is None."""
    dataset = group.create_dataset(name, () if length is None else (length,), h5py.string_dtype("utf-8"))
    return _mark(dataset, "string" if length is None else "string-array", "0.2.0")


def _column(frame: h5py.Group, column: pa.Field, length: int) -> None:
    """Make a column; one that may have nulls is a group of values and a mask."""
    is_text = pa.types.is_string(column.type)
    if not column.nullable or pa.types.is_floating(column.type):  # which has NaN
        if is_text:
            _text(frame, column.name, length)
        else:
            _mark(frame.create_dataset(column.name, (length,), column.type.to_pandas_dtype()), "array", "0.2.0")
        return
    kind = "nullable-string-array" if is_text else "nullable-integer"
    group = _mark(frame.create_group(column.name), kind, "0.1.0")
    if is_text:
        _text(group, "values", length)
    else:
        _mark(group.create_dataset("values", (length,), column.type.to_pandas_dtype()), "array", "0.2.0")
    _mark(group.create_dataset("mask", (length,), bool), "array", "0.2.0")


def _fill(target: h5py.Dataset | h5py.Group, rows: slice, column: pa.ChunkedArray) -> None:
    """Write some rows of a column."""
    is_text = pa.types.is_string(column.type)
    if isinstance(target, h5py.Dataset):
        target[rows] = column.to_pylist() if is_text else column.to_numpy()
        return
    filled = column.fill_null("" if is_text else 0)  # under the mask
    target["values"][rows] = filled.to_pylist() if is_text else filled.to_numpy()
    target["mask"][rows] = column.is_null().to_numpy()


def _joined(table: pa.Table, columns: Sequence[str], pattern: str) -> list[str]:
    rows = zip(*(table[name].to_pylist() for name in columns), strict=True)
    return [pattern.format(*row) for row in rows]


def _with_gaps(table: pa.Table, name: str) -> NDArray[np.float32]:
    """Return a column of lists as [R, T], NaN where a row has none."""
    values, scored = score_values(table, name)
    spread = np.full((table.num_rows, values.shape[1]), np.nan, np.float32)
    spread[scored] = values
    return spread
