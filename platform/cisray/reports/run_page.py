"""A trained model as a page: its metrics beside another's, how it learned, and what it predicts along held-out DNA."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cisray.datasets.card import Card, Track, read_card
from cisray.datasets.predictions import EVALUATION_NAME, Predicted, read_predicted
from cisray.errors import InputError
from cisray.files import read_json
from cisray.reports.evaluation_sections import ceiling_section, gene_section
from cisray.reports.figures import Panel, density, embed, learning_curves, penalty_curve, signal_view
from cisray.reports.page import (
    PAGE_NAME,
    Markup,
    Section,
    Tile,
    facts,
    grid,
    number,
    table,
    text,
    tiles,
    write_page,
)

METRICS = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "pearson": "Pearson",
    "pearson_log1p": "Pearson of log(1 + x)",
    "r2": "R²",
}
REGION_BP = 20_480
MOST_BINS = 2048
"""Bins of a region that a page's width can show; finer bins show a shorter region."""
PANELS_PER_FIGURE = 12


class View(NamedTuple):
    """A region of one contig, bin by bin."""

    contig: str
    starts: NDArray[np.integer]
    """Start of each bin in bases, without gaps, [M]."""
    predicted: NDArray[np.floating]
    """[M, T]; NaN where nothing was predicted."""
    measured: NDArray[np.floating]
    """[M, T]; NaN where there is no data."""


def write_run_page(evaluation_dir: Path) -> Path:
    """Write `report.html` into the folder of an evaluation and return its path.

    Raises:
        InputError: the folder is not a finished evaluation.
    """
    results = read_json(evaluation_dir / EVALUATION_NAME, what="model's evaluation")
    card = read_card(evaluation_dir)
    _check(results, card, source=evaluation_dir / EVALUATION_NAME)
    models = label_models(results["models"])
    sections = [_headline(models, results, card), _metrics(models, results["definitions"], card)]
    if "ceiling" in results:
        sections.append(ceiling_section(list(models), results))
    if "genes" in results:
        sections.append(gene_section(evaluation_dir, list(models), results, card))
    sections.append(_learning(models))
    if card.kind == "coverage":  # labels and measurements do not lie side by side along a genome
        contigs = [_without_repeats(one) for one in read_predicted(evaluation_dir, card)]
        view = choose_view(contigs, bin_bp=card.geometry.bin_bp)
        sections.append(_along(view, card, split=results["split"]))
        sections.append(_densities(contigs, next(iter(models.values())), card))
    sections.append(_origin(models, results, card))
    title = f"{next(iter(models))} on {card.name}"
    genome = f" ({card.genome.name})" if card.genome else ""
    head = f", head {results['head']}" if "head" in results else ""
    subtitle = f"measured on the {results['split']} split of {card.name}{genome}{head}, {_strands(results)}"
    return write_page(evaluation_dir / PAGE_NAME, title=title, subtitle=subtitle, sections=sections)


def label_models(models: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Name the model, then the one beside it, by architecture, and by folder too where these are the same."""
    ordered = [models[role] for role in ("model", "beside") if role in models]
    names = [one["architecture"] for one in ordered]
    if len(set(names)) < len(names):
        names = [f"{one['architecture']} ({one['path']})" for one in ordered]
    if len(set(names)) < len(names):
        names = [f"{name}, {role}" for name, role in zip(names, ("model", "beside"), strict=True)]
    return dict(zip(names, ordered, strict=True))


def choose_view(contigs: Sequence[Predicted], *, bin_bp: int) -> View | None:
    """Choose the region with much data in which the measured signal varies most; None without predictions.

    Variation is the standard deviation of asinh(x) in the region, as a share of the whole split's, averaged over
    tracks and weighted by the bins with data.
    """
    num_bins = int(np.clip(REGION_BP // bin_bp, 1, MOST_BINS))
    if not any(len(one.starts) for one in contigs):
        return None
    whole = _spread(np.concatenate([one.measured for one in contigs]))  # [T]
    best, best_value = (contigs[0], 0, 0), -1.0
    for one in contigs:
        for first, last in _candidates(one.starts, width_bp=num_bins * bin_bp, bin_bp=bin_bp):
            measured = one.measured[first:last]
            varies = np.divide(_spread(measured), whole, out=np.zeros_like(whole), where=whole > 0)
            present = (~np.isnan(measured)).sum(axis=0) / num_bins  # [T]
            if (value := float((varies * present).mean())) > best_value:
                best, best_value = (one, first, last), value
    return _on_grid(*best, bin_bp=bin_bp)


def _candidates(starts: NDArray[np.integer], *, width_bp: int, bin_bp: int) -> Iterator[tuple[int, int]]:
    """Give the ranges of bins [M] in stretches of `width_bp` side by side, the last of which reaches back."""
    end = int(starts[-1]) + bin_bp
    begins = np.arange(starts[0], end, width_bp)
    begins[-1] = max(int(starts[0]), end - width_bp)
    firsts, lasts = np.searchsorted(starts, begins), np.searchsorted(starts, begins + width_bp)
    for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
        if first < last:
            yield first, last


def _spread(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the standard deviation of asinh(values [M, T]) over the bins with data, [T]; 0 where there are none."""
    present = ~np.isnan(values)
    flat = np.arcsinh(np.where(present, values, 0).astype(np.float64))
    num = np.maximum(present.sum(axis=0), 1)
    mean = flat.sum(axis=0) / num
    return np.sqrt(np.maximum((flat**2).sum(axis=0) / num - mean**2, 0))


def _on_grid(one: Predicted, first: int, last: int, *, bin_bp: int) -> View:
    """Lay bins out one after the other, with NaN where there are none."""
    places = (one.starts[first:last] - one.starts[first]) // bin_bp
    shape = (int(places[-1]) + 1, one.measured.shape[1])
    predicted, measured = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    predicted[places], measured[places] = one.predicted[first:last], one.measured[first:last]
    return View(one.contig, one.starts[first] + np.arange(shape[0]) * bin_bp, predicted, measured)


def _without_repeats(one: Predicted) -> Predicted:
    """Keep the first of the predictions of each bin; windows that overlap give several."""
    starts, rows = np.unique(one.starts, return_index=True)
    return Predicted(one.contig, starts, one.predicted[rows], one.measured[rows])


def _check(results: Any, card: Card, *, source: Path) -> None:
    """Raise InputError unless the metrics are those of the card's tracks."""
    wanted = {"models", "definitions", "split", "strands"}
    if not isinstance(results, dict) or not wanted <= results.keys() or "model" not in results["models"]:
        raise InputError(f"{source}: not an evaluation of a model; run cisray evaluate again")
    for role, one in results["models"].items():
        if list(one["tracks"]) != card.track_names:
            raise InputError(
                f"{source}: {role} has metrics of the tracks {list(one['tracks'])}, the card beside it has "
                f"{card.track_names}; run cisray evaluate again"
            )


def _headline(models: Mapping[str, Mapping[str, Any]], results: Mapping[str, Any], card: Card) -> Section:
    (_, model), *others = models.items()
    numbers = []
    for metric, label in _shown(results["definitions"]).items():
        note = "; ".join(f"{name}: {number(_mean(other, metric))}" for name, other in others)
        numbers.append(Tile(_mean(model, metric), f"{label}, mean over tracks", note))
    counts = "; ".join(f"{name}: {number(other['num_parameters'])}" for name, other in others)
    numbers.append(Tile(model["num_parameters"], "parameters", counts))
    bins = max(int(one["num_bins"]) for one in model["tracks"].values())
    numbers.append(Tile(bins, f"bins of {card.geometry.bin_bp:,} bp measured", "in the fullest track"))
    return Section(
        "In short",
        f"How well the model predicts the {results['split']} split, means over {len(card.tracks)} tracks.",
        [tiles(numbers)],
    )


def _mean(model: Mapping[str, Any], metric: str) -> float | None:
    """Average a metric over the tracks that have it."""
    values = [one[metric] for one in model["tracks"].values() if one[metric] is not None]
    return float(np.mean(values)) if values else None


def _shown(definitions: Mapping[str, str]) -> dict[str, str]:
    """Return the metrics that were measured, with their labels."""
    return {metric: label for metric, label in METRICS.items() if metric in definitions}


def _metrics(models: Mapping[str, Mapping[str, Any]], definitions: Mapping[str, str], card: Card) -> Section:
    (_, model), *_ = models.items()
    shown = _shown(definitions)
    rows = [
        [
            track,
            int(model["tracks"][track]["num_bins"]),
            *(one["tracks"][track][metric] for metric in shown for one in models.values()),
        ]
        for track in card.track_names
    ]
    header = ["track", "bins with data", *(name for _ in shown for name in models)]
    groups = [("", 2), *((label, len(models)) for label in shown.values())]
    sizes = [(name, f"{number(one['num_parameters'])} parameters") for name, one in models.items()]
    meanings = [(METRICS.get(name, name), words) for name, words in definitions.items()]
    return Section(
        "Metrics",
        "Per track, over the same bins for every model; values on the tracks' natural scale.",
        [table(header, rows, groups=groups), facts([*sizes, *meanings])],
    )


def _learning(models: Mapping[str, Mapping[str, Any]]) -> Section:
    return Section(
        "Learning",
        "What was measured on the validation split while the model learned.",
        [part for name, one in models.items() for part in _history(name, one)],
    )


def _history(name: str, model: Mapping[str, Any]) -> list[Markup]:
    """Draw what a bundle remembers of its training: epochs of a network, or penalties of a ridge regression."""
    rows = model["history"]
    if not rows:
        return [text(f"{name}: its bundle holds no history.")]
    metric = _column(rows, "valid.pearson")
    if np.isnan(metric).all() and np.isnan(_column(rows, "train.loss")).all():
        return [text(f"{name}: nothing was measured while it learned.")]
    if "num_chosen" in rows[0]:
        return [_settings_tried(name, rows)]
    if "penalty" in rows[0]:
        figure = penalty_curve([row["penalty"] for row in rows], metric)
        caption = f"{name}: a linear model has no epochs; each track keeps the penalty that suits it best."
        return [embed(figure, alt=f"validation Pearson of {name} by penalty", caption=caption)]
    epochs = [int(row["epoch"]) + 1 for row in rows]
    losses = {
        label: values
        for key, label in (("train.loss", "train"), ("valid.loss", "validation"))
        if not np.isnan(values := _column(rows, key)).all()
    }
    of_tracks = [[np.nan if v is None else v for v in row.get("valid.pearson_per_track", [])] for row in rows]
    per_track = np.array(of_tracks, np.float64).reshape(len(rows), -1)  # [E, T]
    best = model["best_epoch"]
    best_epoch = None if best is None or best < 0 else int(best) + 1
    figure = learning_curves(epochs, losses=losses, metric=metric, per_track=per_track, best_epoch=best_epoch)
    kept = "" if best_epoch is None else f" The weights of epoch {best_epoch} were kept."
    caption = f"{name}: {len(rows)} epochs; loss and Pearson are of targets as stored (scaled, soft-clipped).{kept}"
    return [embed(figure, alt=f"loss and validation Pearson of {name} by epoch", caption=caption, wide=True)]


def _settings_tried(name: str, rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Tell what settings of a baseline were tried, how well each did, and for how many tracks it was the best."""
    (setting,) = [key for key in rows[0] if not key.startswith(("valid.", "num_"))]
    (metric,) = [key for key in rows[0] if key.startswith("valid.")]
    told = [
        f"{setting.replace('_', ' ')} {row[setting]:g}: "
        + ("not measured" if row[metric] is None else f"{metric.removeprefix('valid.')} {row[metric]:.3f}")
        + f", chosen for {row['num_chosen']:g}"
        for row in rows
    ]
    return text(f"{name}: each track keeps the setting that suits it best on the validation split. {'; '.join(told)}.")


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> NDArray[np.float64]:
    """Return a history's figure per row, [E]; NaN where a row has none."""
    return np.array([np.nan if row.get(key) is None else row[key] for row in rows], np.float64)


def _along(view: View | None, card: Card, *, split: str) -> Section:
    explains = f"Measured and predicted along a region of the {split} split, bin by bin, on the natural scale."
    if view is None:
        return Section("Along the genome", explains, [text("Nothing was predicted.")])
    end = int(view.starts[-1]) + card.geometry.bin_bp
    where = f"{view.contig}:{int(view.starts[0]):,}-{end:,}"
    ordered = pair_up(card.tracks)
    content = [text(f"{where} (0-based, half-open): the region whose measured signal varies most.")]
    for first, last in pairwise(_cuts(ordered)):
        panels = [
            Panel(track.name, view.measured[:, index], view.predicted[:, index], track.strand_pair)
            for index, track in ordered[first:last]
        ]
        figure = signal_view(view.contig, view.starts, panels, bin_bp=card.geometry.bin_bp)
        names = ", ".join(panel.name for panel in panels)
        content.append(embed(figure, alt=f"measured and predicted {names} along {where}", wide=True))
    return Section("Along the genome", explains, content)


def pair_up(tracks: Sequence[Track]) -> list[tuple[int, Track]]:
    """Return the tracks with their indices, each strand pair together, otherwise in order."""
    index_of = {track.name: index for index, track in enumerate(tracks)}
    order: dict[int, None] = {}
    for index, track in enumerate(tracks):
        order.setdefault(index)
        if track.strand_pair is not None:
            order.setdefault(index_of[track.strand_pair])
    return [(index, tracks[index]) for index in order]


def _cuts(ordered: Sequence[tuple[int, Track]]) -> list[int]:
    """Return where figures start and end in a list of tracks, so that no strand pair is cut in two."""
    cuts = [0]
    while cuts[-1] < len(ordered):
        cut = min(cuts[-1] + PANELS_PER_FIGURE, len(ordered))
        if cut < len(ordered) and ordered[cut][1].strand_pair == ordered[cut - 1][1].name:
            cut -= 1
        cuts.append(cut)
    return cuts


def _densities(contigs: Sequence[Predicted], model: Mapping[str, Any], card: Card) -> Section:
    small = []
    for index, track in enumerate(card.track_names):
        measured = np.concatenate([one.measured[:, index] for one in contigs])
        predicted = np.concatenate([one.predicted[:, index] for one in contigs])
        present = ~np.isnan(measured)
        if not present.any():
            continue
        figure = density(measured[present], predicted[present], title=track)
        correlation = number(model["tracks"][track]["pearson_log1p"])
        small.append(
            embed(
                figure,
                alt=f"density of bins by measured and predicted {track}",
                caption=f"{METRICS['pearson_log1p']} {correlation}",
            )
        )
    return Section(
        "Predicted against measured",
        "Darker is more bins; on the dashed line both are equal. Values below 0 are drawn at 0.",
        [grid(small) if small else text("No track has data in this split.")],
    )


def _origin(models: Mapping[str, Mapping[str, Any]], results: Mapping[str, Any], card: Card) -> Section:
    pairs = [(name, f"{one['path']}, digest {one['digest']}") for name, one in models.items()]
    pairs += [
        ("dataset", f"{card.name}, digest {card.digest}"),
        ("split", f"{results['split']}: {', '.join(card.regions.get(results['split'], ['rows of a table']))}"),
        ("strands", _strands_of(models, results)),
        ("cisray", str(results.get("cisray_version", "–"))),
    ]
    return Section("Where it comes from", "What was measured, on what.", [facts(pairs)])


def _strands_of(models: Mapping[str, Mapping[str, Any]], results: Mapping[str, Any]) -> str:
    """Say which strands were read, once where all models read alike."""
    words = {name: _strands({"strands": one.get("strands", results["strands"])}) for name, one in models.items()}
    if len(set(words.values())) == 1:
        return _strands(results)
    return ", ".join(f"{name}: {word}" for name, word in words.items())


def _strands(results: Mapping[str, Any]) -> str:
    return "mean of both strands" if results["strands"] == "both" else "forward strand only"
