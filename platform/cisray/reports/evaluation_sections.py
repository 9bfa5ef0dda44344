"""What an evaluation's page shows beside metrics over bins: second measurements of tracks, and sums over genes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cisray.datasets.card import Card
from cisray.datasets.gene_sums import GENES_NAME, read_gene_sums
from cisray.reports.figures import density, embed
from cisray.reports.page import Markup, Section, Tile, facts, grid, number, table, text, tiles

CEILING_METRICS = {"pearson": "Pearson", "pearson_log1p": "Pearson of log(1 + x)"}
GENE_METRICS = {
    "gene_pearson": "Pearson across genes",
    "gene_spearman": "Spearman across genes",
    "gene_specificity": "specificity across genes",
}
ACROSS_TRACKS = "specificity across tracks"


def ceiling_section(names: Sequence[str], results: Mapping[str, Any]) -> Section:
    """Lay out how far second measurements agree with the first, and how far the models do; `names` are theirs."""
    ceiling = results["ceiling"]
    of_roles = ceiling["models"]
    shown = {metric: label for metric, label in CEILING_METRICS.items() if metric in results["definitions"]}
    rows = [
        [
            track,
            ceiling["seconds"][track],
            int(of_track["num_bins"]),
            *(of_role[track][metric] for metric in shown for of_role in of_roles.values()),
        ]
        for track, of_track in of_roles["second"].items()
    ]
    header = ["track", "second measurement", "bins of both", *(name for _ in shown for name in ("ceiling", *names))]
    groups = [("", 3), *((label, len(of_roles)) for label in shown.values())]
    return Section(
        "Ceiling",
        "How far a second measurement of a track, such as a replicate, agrees with the one that models predict. Both "
        "have noise, so that a model may come above it.",
        [table(header, rows, groups=groups), facts([("ceiling", ceiling["definition"])])],
    )


def gene_section(evaluation_dir: Path, names: Sequence[str], results: Mapping[str, Any], card: Card) -> Section:
    """Show how well models tell genes apart, and tracks; `names` are the models'."""
    genes = results["genes"]
    of_models = list(genes["models"].values())
    model = of_models[0]
    rows = [
        [
            track,
            int(model["tracks"][track]["num_genes"]),
            *(one["tracks"][track][metric] for metric in GENE_METRICS for one in of_models),
        ]
        for track in card.track_names
    ]
    header = ["track", "genes", *(name for _ in GENE_METRICS for name in names)]
    groups = [("", 2), *((label, len(of_models)) for label in GENE_METRICS.values())]
    labels = GENE_METRICS | {"track_specificity": ACROSS_TRACKS}
    counts = [(reason, count) for reason, count in genes["counts"].items() if count]
    counts.append((f"genes that all tracks have, {_share(genes['least_covered'])} covered", model["num_compared"]))
    biotypes = ", ".join(genes["biotypes"]) or "all"
    return Section(
        "Genes",
        f"What the bins of each gene's {genes['part']} sum up to, predicted against measured, across genes and across "
        f"tracks; genes of {genes['file']}, biotypes: {biotypes}.",
        [
            _headline(names, of_models),
            table(header, rows, groups=groups),
            facts([(labels[name], words) for name, words in genes["definitions"].items()]),
            _densities(evaluation_dir, genes, card),
            facts(counts),
        ],
    )


def _share(share: float) -> str:
    return "wholly" if share == 1 else f"at least {share:.0%}"


def _headline(names: Sequence[str], of_models: Sequence[Mapping[str, Any]]) -> Markup:
    """Show means over tracks, each with that of the model beside as its note."""
    numbers = []
    for metric, label in GENE_METRICS.items():
        first, *others = (_mean(one, metric) for one in of_models)
        note = "; ".join(f"{name}: {number(value)}" for name, value in zip(names[1:], others, strict=True))
        numbers.append(Tile(first, f"{label}, mean over tracks", note))
    first, *others = (one["track_specificity"] for one in of_models)
    note = "; ".join(f"{name}: {number(value)}" for name, value in zip(names[1:], others, strict=True))
    numbers.append(Tile(first, f"{ACROSS_TRACKS}, mean over {of_models[0]['num_across']:,} genes", note))
    return tiles(numbers)


def _mean(model: Mapping[str, Any], metric: str) -> float | None:
    """Average a metric over the tracks that have it."""
    values = [one[metric] for one in model["tracks"].values() if one[metric] is not None]
    return float(np.mean(values)) if values else None


def _densities(evaluation_dir: Path, genes: Mapping[str, Any], card: Card) -> Markup:
    sums = read_gene_sums(evaluation_dir / GENES_NAME, num_tracks=len(card.tracks))
    small = []
    for index, track in enumerate(card.track_names):
        enough = sums.covered[:, index] >= np.float32(genes["least_covered"])
        if not enough.any():
            continue
        correlation = number(next(iter(genes["models"].values()))["tracks"][track]["gene_pearson"])
        figure = density(sums.measured[enough, index], sums.prediction[enough, index], title=track)
        caption = f"{enough.sum():,} genes; {GENE_METRICS['gene_pearson']} {correlation}"
        small.append(embed(figure, alt=f"density of genes by measured and predicted {track}", caption=caption))
    return grid(small) if small else text("No gene is covered enough in any track.")
