"""The page of a swap experiment: what models of one condition make of the loci of another."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cisray.baselines.swap_table import TABLE_NAME, read_swap
from cisray.reports.page import (
    NO_VALUE,
    PAGE_NAME,
    Markup,
    Section,
    facts,
    folded,
    number,
    table,
    text,
    write_page,
)
from cisray.reports.run_page import METRICS

READINGS = {"learned": "as the models learned", "both": "mean of both strands", "forward": "forward strand only"}
MOST_TRACKS = 25


def write_swap_page(folder: Path) -> Path:
    """Write `report.html` into the folder of a swap experiment and return its path.

    Raises:
        InputError: the folder is not a finished swap experiment.
    """
    results = read_swap(folder)
    sections = [_table(results), _tracks(results), _loci(results), _origin(results)]
    names = ", ".join(results["conditions"])
    runs = len(results["runs"])
    subtitle = f"{results['architecture']}, trained on each of {names} and tested on all, {runs} run{'s' * (runs > 1)}"
    return write_page(
        folder / PAGE_NAME, title=f"{results['name']}: swapped conditions", subtitle=subtitle, sections=sections
    )


def swap_rows(results: Mapping[str, Any], *, lost: bool = False) -> tuple[list[str], list[list[object]]]:
    """Lay out the table: each cell's mean and, of several runs, its spread; or what is lost against the own model."""
    conditions = list(results["conditions"])
    at = {(cell["trained_on"], cell["tested_on"]): cell for cell in results["cells"]}
    names = ("lost", "lost_spread") if lost else ("mean", "spread")
    rows: list[list[object]] = [
        [trained, *(_with_spread(*(at[trained, tested][name] for name in names)) for tested in conditions)]
        for trained in conditions
    ]
    heads = [f"{name} ({at[name, name]['num_loci']:,} loci)" for name in conditions]
    return ["trained on", *heads], rows


def _with_spread(mean: float | None, spread: float | None) -> str:
    return number(mean) if mean is None or spread is None else f"{number(mean)} ± {number(spread)}"


def _table(results: Mapping[str, Any]) -> Section:
    metric = METRICS.get(results["metric"], results["metric"])
    groups = [("", 1), ("tested on", len(results["conditions"]))]
    header, rows = swap_rows(results)
    content = [table(header, rows, caption=f"{metric}, mean over tracks", groups=groups)]
    header, rows = swap_rows(results, lost=True)
    content.append(table(header, rows, caption="Lost against the tested condition's own model", groups=groups))
    pairs = [(METRICS.get(name, name), words) for name, words in results["definitions"].items()]
    content.append(facts(pairs))
    spread = "± is the standard deviation over runs" if len(results["runs"]) > 1 else "One run: no spread is known"
    return Section(
        "The table",
        f"Rows: what a model was trained on; columns: the test loci it met, which no model has learned from. {spread}.",
        content,
    )


def _tracks(results: Mapping[str, Any]) -> Section:
    metrics = sorted({name for cell in results["cells"] for name in cell["metrics"]})
    rows = [
        [f"{cell['trained_on']} on {cell['tested_on']}", *(cell["metrics"].get(name) for name in metrics)]
        for cell in results["cells"]
    ]
    content: list[Markup] = [table(["trained on, tested on", *(METRICS.get(name, name) for name in metrics)], rows)]
    rows = [
        [f"{cell['trained_on']} on {cell['tested_on']}", track, value]
        for cell in results["cells"]
        for track, value in list(cell["tracks"].items())[:MOST_TRACKS]
    ]
    if len(rows) > len(results["cells"]):
        content.append(table(["trained on, tested on", "track", results["metric"]], rows))
        left = max(len(cell["tracks"]) for cell in results["cells"]) - MOST_TRACKS
        if left > 0:
            content.append(text(f"{left} more tracks of each stand in swap.json; their means are in {TABLE_NAME}."))
    return Section("All metrics", "Of every cell, means over tracks and runs.", content)


def _loci(results: Mapping[str, Any]) -> Section:
    reasons = list(
        dict.fromkeys(
            reason for fold in results["loci"]["runs"].values() for one in fold.values() for reason in one["left_out"]
        )
    )
    rows: list[Sequence[object]] = [
        [name, fold, one["train"], one["valid"], one["test"], *(one["left_out"].get(reason) for reason in reasons)]
        for fold, conditions in results["loci"]["runs"].items()
        for name, one in conditions.items()
    ]
    words = {"place": "where they lie on the genome", "sequence": "their sequences, on both strands"}
    how = f"Loci of different conditions were compared by {words[results['loci']['compared_by']]}."
    search = results["loci"]["search"]
    if search["seed_bp"]:  # not all pairs were compared
        how += (
            f" Of those that are just alike enough, {search['found_in_place']:.1%} were found, or "
            f"{search['found_shifted']:.1%} where gaps have moved one against the other."
        )
    header = ["condition", "fold", "train", "valid", "test", *(f"left out: {reason}" for reason in reasons)]
    return Section("Loci", f"{how} What any condition is tested on, none learns from.", [table(header, rows)])


def _origin(results: Mapping[str, Any]) -> Section:
    pairs: list[tuple[str, object]] = [
        (name, f"{one['dataset']}: {', '.join(one['tracks'][:MOST_TRACKS])}; digest {one['digest']}")
        for name, one in results["conditions"].items()
    ]
    loci = {name: value for name, value in results["loci"].items() if name != "runs"}
    pairs += [(f"loci.{name}", str(value)) for name, value in loci.items()]
    pairs += [("strands", READINGS[results["strands"]]), ("cisray", results.get("cisray_version", NO_VALUE))]
    settings = "\n".join(f"{name} = {value}" for name, value in results["train"].items())
    return Section("Where it comes from", "What was compared, and how.", [facts(pairs), folded("Training", settings)])
