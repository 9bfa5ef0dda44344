"""The table of an importance: a row per measure, feature and track, and what every row says of itself.

    importance.json       what was measured, how, on what, and how accurate the whole model is
    importance.csv        by, sort, feature, track, value, deviation, frequency, windows: what matters most comes first

`sort` says of every row whether it is objective, accuracy lost on measured data, or subjective, what the model does.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cisray.baselines.importance import Importance
from cisray.baselines.stability import Stability
from cisray.errors import InputError
from cisray.files import read_json, written_whole

IMPORTANCE_NAME = "importance.json"
TABLE_NAME = "importance.csv"
COLUMNS = ("by", "sort", "feature", "track", "value", "deviation", "frequency", "windows")
KEYS = {"model", "dataset", "measures", "num_windows", "settings", "unseen"}


def write_table(path: Path, parts: Mapping[str, Sequence[Path]]) -> None:
    """Write the rows of all tasks as CSV: by measure and track, what matters most first; no number is left empty."""
    with written_whole(path) as aside, aside.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(COLUMNS)
        for files in parts.values():
            rows = pa.concat_tables([pq.read_table(file) for file in files]).to_pylist()
            tracks = {name: place for place, name in enumerate(dict.fromkeys(row["track"] for row in rows))}
            for row in sorted(rows, key=lambda row: (tracks[row["track"]], -_weight(row))):
                writer.writerow("" if row[name] is None else row[name] for name in COLUMNS)


def _weight(row: Mapping[str, Any]) -> float:
    """Say how much a row's feature matters: a loss by its value, what a model does by its size."""
    if row["value"] is None:
        return -np.inf
    return float(row["value"] if row["sort"] == "objective" else abs(row["value"]))


def importance_rows(by: str, found: Importance, tracks: Sequence[str]) -> pa.Table:
    """Return a row per feature and track of an importance."""
    rows = []
    for track, name in enumerate(tracks):
        for place, feature in enumerate(found.names):
            rows.append(
                dict.fromkeys(COLUMNS)
                | {"by": by, "sort": found.sort, "feature": feature, "track": name}
                | {"value": _plain(found.values[place, track])}
                | {"deviation": None if found.deviations is None else _plain(found.deviations[place, track])}
                | {"windows": None if found.num_windows is None else int(found.num_windows[place])}
            )
    return _table(rows)


def stability_rows(found: Stability, tracks: Sequence[str]) -> pa.Table:
    """Return a row per feature and track of how stable fits are."""
    rows = [
        dict.fromkeys(COLUMNS)
        | {"by": "stability", "sort": found.sort, "feature": feature, "track": name}
        | {"value": float(found.mean[place, track]), "deviation": float(found.deviation[place, track])}
        | {"frequency": float(found.frequency[place, track])}
        for track, name in enumerate(tracks)
        for place, feature in enumerate(found.names)
    ]
    return _table(rows)


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    text, number = pa.string(), pa.float64()
    types = [text, text, text, text, number, number, number, pa.int64()]
    return pa.Table.from_pylist(rows, schema=pa.schema(list(zip(COLUMNS, types, strict=True))))


def _plain(value: float) -> float | None:
    """Return a number for a file; NaN, which a track of one class or a word that is nowhere gives, is None."""
    return float(value) if np.isfinite(value) else None


def plain_values(values: NDArray[np.float64] | None) -> list[float | None] | None:
    """Return values [T] for a file, None for NaN."""
    return None if values is None else [_plain(value) for value in values]


def read_importance(folder: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Read what was measured, and all rows.

    Raises:
        InputError: the folder holds no finished table.
    """
    results = read_json(folder / IMPORTANCE_NAME, what="importance table's description")
    if not results.keys() >= KEYS:
        raise InputError(f"{folder / IMPORTANCE_NAME}: not of an importance table; run cisray importance again")
    try:
        with (folder / TABLE_NAME).open(newline="", encoding="utf-8") as handle:
            return results, list(csv.DictReader(handle))
    except FileNotFoundError:
        raise InputError(f"{folder / TABLE_NAME}: no such file; run cisray importance again") from None
