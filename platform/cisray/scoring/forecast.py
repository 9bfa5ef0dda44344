"""Say how large a score table will be, and how many times over variants are scored, before it is made."""

from cisray.scoring.manifest import Storage
from cisray.scoring.nulls import NullSpec
from cisray.scoring.windows import WindowSpec

ROW_BYTES = 24
"""Of a row's own columns, compressed."""
SUMMARY_BYTES = 6
"""Of a score's top track and its value, compressed."""
VALUE_BYTES = {"float32": 3.6, "float16": 1.8}
"""Of a value, compressed: the low bits of a score look random, and stay as they are."""


def forecast_size(rows: int, tracks: int, scores: int, storage: Storage, *, beside: int = 0) -> int:
    """Return about how many bytes of files a table of so many rows, tracks and scores will take.

    `beside` is how many lists stand beside those of the scores: quantiles and what is held against a null. Most tables
    are smaller: rows without scores take next to nothing.
    """
    listed = tracks if storage.values == "all" else len(storage.tracks)
    summary_bytes = scores * SUMMARY_BYTES if storage.values == "summary" else 0
    values_bytes = scores * VALUE_BYTES[storage.dtype] + beside * VALUE_BYTES["float32"]
    return round(rows * (ROW_BYTES + summary_bytes + listed * values_bytes))


def describe_size(rows: int, tracks: int, scores: int, storage: Storage, *, beside: int = 0) -> str:
    """Say in a sentence how large the table will be, and what would make it smaller."""
    listed = tracks if storage.values == "all" else len(storage.tracks)
    size = _in_words(forecast_size(rows, tracks, scores, storage, beside=beside))
    lists = f"{scores} scores and {beside} lists beside them" if beside else f"{scores} scores"
    what = f"{rows:,} rows x {listed:,} tracks x {lists} in {storage.dtype}"
    if not listed:
        return f"{rows:,} rows with the top track of {scores} scores: about {size}"
    smaller = []
    if storage.dtype == "float32":
        halved = Storage(values=storage.values, tracks=storage.tracks, dtype="float16")
        smaller.append(f"{_in_words(forecast_size(rows, tracks, scores, halved, beside=beside))} in float16")
    if storage.values == "all":
        summary = forecast_size(rows, tracks, scores, Storage(values="summary"))
        smaller.append(f"{_in_words(summary)} as a summary")
    hint = f" ({', '.join(smaller)})" if smaller else ""
    return f"{what}: about {size}{hint}"


def describe_work(rows: int, null: NullSpec, windows: WindowSpec) -> str:
    """Say in a sentence how many times the work of scoring a null makes; nothing without one."""
    if not null.number:
        return ""
    least = "" if windows.policy == "centered" else "at least "  # of a grid, genome windows are shared
    return (
        f"each variant is scored {null.number + 1} times, in its own window and in {null.number} shuffled ones: "
        f"{least}{null.number + 1} times the work, {rows * (null.number + 1):,} scorings"
    )


def _in_words(num_bytes: int) -> str:
    """Write a size in three digits, in powers of 1000."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"
