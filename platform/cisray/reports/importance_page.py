"""The page of an importance table: what matters most by each measure, and whether that is of accuracy or of output."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cisray.baselines.importance_table import TABLE_NAME, read_importance
from cisray.reports.page import (
    NO_VALUE,
    PAGE_NAME,
    Markup,
    Section,
    callout,
    facts,
    number,
    table,
    text,
    write_page,
)

MOST_ROWS = 25
MOST_TRACKS = 12
SORTS = {
    "objective": "accuracy lost on measured windows that the model has not learned from",
    "subjective": "what the model does, right or wrong; nothing measured stands behind it",
}
_HEADS = {"deviation": "deviation", "frequency": "share of fits", "windows": "windows"}

Row = Mapping[str, str]


def rows_of(rows: Sequence[Row], by: str, *, most: int) -> tuple[list[str], list[list[object]]]:
    """Lay out what matters most by a measure, at most so many rows of each track; columns without a value are left out.

    The share of fits and the windows are those of the rows that have them.
    """
    own = [row for row in rows if row["by"] == by]
    named = [name for name in _HEADS if any(row[name] for row in own)]
    tracks = list(dict.fromkeys(row["track"] for row in own))
    laid_out: list[list[object]] = []
    for track in tracks:
        first = [row for row in own if row["track"] == track][:most]
        for row in first:
            values = [_written(name, row[name]) for name in ("value", *named)]
            laid_out.append([row["feature"], *([track] if len(tracks) > 1 else []), *values])
    return ["feature", *(["track"] if len(tracks) > 1 else []), "value", *(_HEADS[name] for name in named)], laid_out


def _written(name: str, text: str) -> str:
    if not text:
        return NO_VALUE
    return number(int(text) if name == "windows" else float(text))


def write_importance_page(folder: Path) -> Path:
    """Write `report.html` into the folder of an importance table and return its path."""
    results, rows = read_importance(folder)
    sections = [_measure(by, taken, rows) for by, taken in results["measures"].items()]
    sections.append(_origin(results))
    split = results["settings"]["split"]
    title = f"What matters to {results['model']['architecture']} of {results['model']['path']}"
    subtitle = f"{results['num_windows']:,} windows of the {split} split of {results['dataset']}"
    return write_page(folder / PAGE_NAME, title=title, subtitle=subtitle, sections=sections)


def _measure(by: str, taken: Mapping[str, Any], rows: Sequence[Row]) -> Section:
    told = f"{taken['sort']}: {SORTS[taken['sort']]}"
    content: list[Markup] = [callout("good" if taken["sort"] == "objective" else "note", told)]
    tracks = list(dict.fromkeys(row["track"] for row in rows if row["by"] == by))
    shown = [row for row in rows if row["track"] in tracks[:MOST_TRACKS]]
    content.append(table(*rows_of(shown, by, most=MOST_ROWS)))
    per_track = max(1, taken["num_rows"] // max(1, len(tracks)))
    if per_track > MOST_ROWS or len(tracks) > MOST_TRACKS:
        content.append(
            text(
                f"Shown are at most {MOST_ROWS} of {per_track:,} rows of a track, and "
                f"{min(len(tracks), MOST_TRACKS)} of {len(tracks)} tracks; all stand in {TABLE_NAME}."
            )
        )
    for name, words in (("accuracy", "accuracy of the whole model"), ("rank_correlation", "rank correlation of fits")):
        if name in taken:
            content.append(facts([(f"{words}, {track}", value) for track, value in taken[name].items()][:MOST_TRACKS]))
    return Section(by.capitalize(), f"{taken['measure']}; what matters most comes first.", content)


def _origin(results: Mapping[str, Any]) -> Section:
    settings = dict(results["settings"])
    digests = settings.pop("digests")
    pairs: list[tuple[str, object]] = [(f"{name}'s digest", digest) for name, digest in digests.items()]
    pairs.append(("windows that were not learned", results["unseen"]))
    pairs += [(name, str(value)) for name, value in settings.items()]
    pairs += list(results.get("definitions", {}).items())
    return Section("Where it comes from", "What was measured, and how.", [facts(pairs)])
