"""The page of a sweep: its leaderboard, what its settings did, how its trials learned, and the test split."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cisray.errors import InputError
from cisray.files import read_json
from cisray.reports.figures import embed
from cisray.reports.page import (
    PAGE_NAME,
    Markup,
    Section,
    Tile,
    callout,
    facts,
    number,
    table,
    text,
    tiles,
    write_page,
)
from cisray.reports.run_page import METRICS
from cisray.reports.sweep_figures import Axis, parallel_coordinates, trial_curves
from cisray.sweeps.leaderboard import LEADERBOARD_NAME, SWEEP_NAME, standings

STATUSES = {"finished": "came to their end", "stopped": "were given up", "failed": "failed"}
RANGES = ("uniform", "loguniform", "int")
MOST_AXES = 9  # of one figure, or their labels would meet
MOST_ROWS = 1000
"""Of the table and of what failed; leaderboard.csv has all."""
MOST_LINES = 400
"""Of a figure."""
KEYS = {"name", "trials", "winner", "baselines", "test", "space", "search", "stopping", "datasets", "runs", "seed"}


def write_sweep_page(sweep_dir: Path) -> Path:
    """Write `report.html` into the folder of a sweep and return its path.

    Raises:
        InputError: the folder is not a finished sweep.
    """
    results = read_json(sweep_dir / SWEEP_NAME, what="sweep")
    if not results.keys() >= KEYS or not results["trials"]:
        raise InputError(f"{sweep_dir / SWEEP_NAME}: not the results of a sweep; run cisray sweep again")
    sections = [_headline(results), _leaderboard(results), _settings(results), _learning(results), _origin(results)]
    names = ", ".join(one["name"] for one in results["datasets"].values())
    title = f"{results['name']}: {len(results['trials'])} trials on {names}"
    subtitle = "compared on the validation split; the test split was read once, for the winner and the baselines"
    return write_page(sweep_dir / PAGE_NAME, title=title, subtitle=subtitle, sections=sections)


def leaderboard_rows(results: Mapping[str, Any]) -> tuple[list[str], list[list[object]]]:
    """Lay out a row per trial and baseline, the best first: what it came to, then its settings.

    What all trials have is a column each; what counts for some only stands in the last one.
    """
    shared = [name for name, one in results["space"].items() if not one["when"]]
    of_some = [name for name in results["space"] if name not in shared]
    spread = ["spread"] if len(results["runs"]) > 1 else []
    short = [name.rpartition(".")[2] for name in shared]
    names = short if len(set(short)) == len(short) else shared
    header = ["model", "status", "valid r", *spread, "epochs", *names, *(["other settings"] if of_some else [])]
    rows = []
    for one in standings(results):
        settings = one["settings"]
        row = [one["name"], one["status"], one["value"], *(one[name] for name in spread), one["epochs"]]
        row += [_word(settings.get(name)) for name in shared]
        if of_some:
            others = [f"{name.rpartition('.')[2]} {_word(settings[name])}" for name in of_some if name in settings]
            row.append(", ".join(others) or None)
        rows.append(row)
    return header, rows


def rows_of_test(results: Mapping[str, Any]) -> tuple[list[str], list[list[object]]]:
    """Lay out a row for the winner and for each baseline, and for each head; none where there was no test split."""
    metrics = list(dict.fromkeys(name for heads in results["test"].values() for one in heads.values() for name in one))
    rows: list[list[object]] = []
    for name, heads in results["test"].items():
        best = results["trials"][0] if name == "winner" else results["baselines"][name]
        label = f"winner, trial {best['number']}" if name == "winner" else f"{name} ({best['architecture']})"
        for head, one in heads.items():
            shown = f"{label}, head {head}" if head else label
            rows.append([shown, best["value"], best["spread"], *(one.get(metric) for metric in metrics)])
    return ["model", "validation Pearson", "spread", *(METRICS.get(metric, metric) for metric in metrics)], rows


def _word(value: object) -> object:
    """Write a setting for a table: lists and flags as in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, list | dict) else value


def _headline(results: Mapping[str, Any]) -> Section:
    best, *_ = results["trials"]
    counts = {status: sum(row["status"] == status for row in results["trials"]) for status in STATUSES}
    spread = "" if best["spread"] is None else f"± {number(best['spread'])} over {len(best['values'])} runs"
    numbers = [Tile(best["value"], f"validation Pearson of trial {best['number']}, the winner", spread)]
    for name, one in results["baselines"].items():
        numbers.append(Tile(one["value"], f"validation Pearson of {name}, {one['architecture']}", one["failure"]))
    told = "; ".join(f"{count} {STATUSES[status]}" for status, count in counts.items() if count)
    numbers.append(Tile(len(results["trials"]), "trials", told))
    hours = sum(row["seconds"] for row in results["trials"]) / 3600
    numbers.append(Tile(hours, "hours of training, added up over trials"))
    header, rows = rows_of_test(results)
    content = [tiles(numbers)]
    if rows:
        content.append(table(header, rows, caption="Test split, means over tracks, read once after the search"))
    else:
        content.append(text("The dataset has no test split."))
    if others := results["other_tests"]:
        content.append(
            callout(
                "warning",
                "The test split is that of the first dataset. Others have another, so that trials may have learned "
                "from its loci, and the winner was chosen by all of them; for a figure without that, build the "
                "datasets with one test split:",
                others,
            )
        )
    if results["winner"]["trained_anew"]:
        content.append(callout("note", "The winner was trained anew after the search: its test figures are of that."))
    return Section("In short", "The winner of the search beside the baselines.", content)


def _leaderboard(results: Mapping[str, Any]) -> Section:
    header, rows = leaderboard_rows(results)
    content = [table(header, rows[:MOST_ROWS])]
    if len(rows) > MOST_ROWS:
        content.append(text(f"The first {MOST_ROWS:,} of {len(rows):,}; all stand in {LEADERBOARD_NAME}."))
    failed = [f"trial {row['number']}: {row['failure']}" for row in results["trials"] if row["failure"]]
    failed += [f"{name}: {one['failure']}" for name, one in results["baselines"].items() if one["failure"]]
    if len(failed) > MOST_ROWS:
        failed = [*failed[:MOST_ROWS], f"and {len(failed) - MOST_ROWS:,} more"]
    if failed:
        content.append(callout("warning", "Failed", failed))
    return Section(
        "Leaderboard",
        "Every trial, by its number, and every baseline, the best first: those that came to their end, then those "
        "given up, by how far they came. Spread is the standard deviation over a trial's runs.",
        content,
    )


def _drawn(rows: Sequence[Mapping[str, Any]]) -> tuple[Sequence[Mapping[str, Any]], list[Markup]]:
    """Return ranked trials as far as a figure can show them, from the first to the last, and what it leaves out."""
    if len(rows) <= MOST_LINES:
        return rows, []
    places = [round(number * (len(rows) - 1) / (MOST_LINES - 1)) for number in range(MOST_LINES)]
    told = f"Drawn are {MOST_LINES:,} of {len(rows):,} trials, evenly from the best to the worst."
    return [rows[place] for place in places], [text(told)]


def _settings(results: Mapping[str, Any]) -> Section:
    rows, left_out = _drawn([row for row in results["trials"] if row["value"] is not None])
    figures = []
    for when, names in _groups(results["space"]).items():
        of_group = [row for row in rows if not when or any(name in row["settings"] for name in names)]
        if not of_group:
            continue
        axes = [_axis(name, results["space"][name], [row["settings"].get(name) for row in of_group]) for name in names]
        figure = parallel_coordinates(
            axes,
            values=[row["value"] for row in of_group],
            finished=[row["status"] == "finished" for row in of_group],
            winner=0 if of_group[0] is rows[0] else None,
        )
        alt = f"parallel coordinates of trials' settings and validation metric, {when or 'all trials'}"
        figures.append(embed(figure, alt=alt, caption=when, wide=True))
    return Section(
        "Settings",
        "A line per trial that was measured, through its settings to its validation metric; the winner's is orange, "
        "those of trials given up are dashed. A line is broken where a setting does not count.",
        [*figures, *left_out] or [text("No trial was measured.")],
    )


def _groups(space: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the settings that are drawn together: all of a few; of many those that count for the same trials."""
    if len(space) <= MOST_AXES:
        return {"": list(space)}
    groups: dict[str, list[str]] = {}
    for name, parameter in space.items():
        when = "; ".join(f"{other}: {', '.join(map(str, values))}" for other, values in parameter["when"].items())
        groups.setdefault(when, []).append(name)
    return groups


def _axis(name: str, parameter: Mapping[str, Any], settings: list[Any]) -> Axis:
    """Return a parameter's axis, and where each trial crosses it."""
    if parameter["kind"] in RANGES:
        return Axis(
            name, settings, is_log=parameter["kind"] == "loguniform", low=parameter["low"], high=parameter["high"]
        )
    labels = [str(_word(value)) for value in parameter["values"]]
    places = [None if value is None else labels.index(str(_word(value))) for value in settings]
    return Axis(name, places, labels=labels, low=0, high=max(1, len(labels) - 1))


def _learning(results: Mapping[str, Any]) -> Section:
    explains = "Best validation metric so far after each epoch, a line per trial, mean over its runs."
    rows, left_out = _drawn([row for row in results["trials"] if row["curve"]])
    curves = {row["number"]: row["curve"] for row in rows}
    if not curves:
        return Section("Learning", explains, [text("No trial was measured.")])
    levels = {name: one["value"] for name, one in results["baselines"].items() if one["value"] is not None}
    winner = results["winner"]["trial"]
    stopped = {row["number"] for row in results["trials"] if row["status"] == "stopped"}
    figure = trial_curves(curves, winner=winner, stopped=stopped, levels=levels)
    return Section("Learning", explains, [embed(figure, alt="learning curves of trials", wide=True), *left_out])


def _origin(results: Mapping[str, Any]) -> Section:
    pairs: list[tuple[str, object]] = [
        (f"dataset {head}".strip(), f"{one['name']}, digest {one['digest']}")
        for head, one in results["datasets"].items()
    ]
    pairs += [
        ("search", _settings_in_words(results["search"])),
        ("stopping", _settings_in_words(results["stopping"])),
        ("seed", str(results["seed"])),
        ("runs of a trial", ", ".join(results["runs"])),
        ("winner's bundle", f"winner, digest {results['winner']['digest']}"),
        ("cisray", str(results.get("cisray_version", "–"))),
    ]
    spaces = [[name, _settings_in_words(parameter)] for name, parameter in results["space"].items()]
    meanings = [(METRICS.get(name, name), words) for name, words in results.get("definitions", {}).items()]
    content: list[Markup] = [
        facts(pairs),
        table(["setting", "values"], spaces, caption="Search space"),
        facts(meanings),
    ]
    return Section("Where it comes from", "What was searched, and how.", content)


def _settings_in_words(settings: Mapping[str, Any]) -> str:
    """Write what a search or a parameter is set to, without what was left open."""
    kind = settings.get("method") or settings["kind"]
    rest = [
        f"{name} {_word(value)}"
        for name, value in settings.items()
        if name not in ("method", "kind") and value not in (None, {})
    ]
    return ", ".join([kind, *rest])
