"""A dataset in a few lines, for the terminal that built it."""

from pathlib import Path

from rich.console import Console

from cisray.datasets.card import read_card
from cisray.datasets.checks import describe_suspicions, find_suspicions, summary_rows
from cisray.reports.console import print_table

# So many tracks are named where something is told of each; the report has all.
MOST_SHOWN = 8
MOST_PAIRS = 3


def print_dataset(console: Console, folder: Path) -> None:
    """Print what a dataset holds, what looks wrong in it first."""
    card = read_card(folder)
    for line in describe_suspicions(find_suspicions(card)):
        console.print(line, highlight=False, markup=False)
    header, *rows = summary_rows(card, most_tracks=MOST_SHOWN)
    level = "positives" if card.kind == "labels" else "mean"
    print_table(console, f"Examples, and per track its {level} and the share of bins with data", header, rows)
    of_names: dict[str, list[str]] = {}
    for track, names in card.contig_names.items():
        if names:
            pairs = [f"{old} is {new}" for old, new in sorted(names.items())]
            more = f" and {len(pairs) - MOST_PAIRS} more" if len(pairs) > MOST_PAIRS else ""
            of_names.setdefault(", ".join(pairs[:MOST_PAIRS]) + more, []).append(track)
    for told, tracks in list(of_names.items())[:MOST_SHOWN]:
        others = f" and {len(tracks) - 1:,} more" if len(tracks) > 1 else ""
        console.print(f"{tracks[0]}{others}: contigs renamed: {told}", highlight=False)
    for what, number in card.facts.get("duplicates", {}).items():
        if isinstance(number, int) and number:
            console.print(f"{number:,} {what}", highlight=False)
    for reason, count in card.dropped.items():
        if count:
            console.print(f"left out: {count:,} {reason}", highlight=False)
