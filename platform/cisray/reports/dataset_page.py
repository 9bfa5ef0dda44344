"""A dataset as a page: what may be wrong with it first, then what it holds and how it was made."""

import functools
import json
import operator
from collections.abc import Mapping
from pathlib import Path

from cisray.datasets.folds import FoldSpec, Split
from cisray.datasets.schema import Card, Statistics, Track, read_card
from cisray.genome.intervals import parse_region
from cisray.geometry import Geometry
from cisray.reports.figures import MOST_CONTIGS, Stretch, contig_map, embed
from cisray.reports.page import (
    PAGE_NAME,
    Markup,
    Section,
    callout,
    facts,
    folded,
    number,
    share,
    table,
    text,
    write_page,
)

MOST_MASKED = 0.5
"""A larger share of bins without data is worth a note."""
FAR_OUT = 50
"""A largest value this many standard deviations above the mean is worth a note."""


def write_dataset_page(dataset_dir: Path) -> Path:
    """Write `report.html` into a dataset's folder and return its path.

    Raises:
        InputError: the folder is not a finished dataset.
    """
    card = read_card(dataset_dir)
    sections = [
        _suspicions(card),
        _description(card),
        _splits(card),
        _statistics(card),
        _dropped(card),
        _contigs(card),
        _transforms(card),
        _origin(card),
    ]
    subtitle = f"{len(card.tracks)} tracks over {card.genome.name}, {sum(card.counts.values()):,} examples"
    return write_page(dataset_dir / PAGE_NAME, title=f"Dataset {card.name}", subtitle=subtitle, sections=sections)


def find_suspicious(card: Card) -> tuple[list[str], list[str]]:
    """Return warnings (tracks that are empty or constant) and notes (much masked, far outliers), in words."""
    warnings, notes = [], []
    for track in card.track_names:
        of_splits = {split: of_tracks[track] for split, of_tracks in card.statistics.items()}
        whole = functools.reduce(operator.add, of_splits.values())
        if not whole.num_present:
            warnings.append(f"{track} is empty: it has no data in any split.")
            continue
        if whole.least == whole.greatest:
            warnings.append(f"{track} is constant: every bin with data is {number(whole.least)}.")
        for split, one in of_splits.items():
            if not one.num_present:
                warnings.append(f"{track} has no data in the {split} split.")
            elif one.least == one.greatest and whole.least != whole.greatest:
                warnings.append(
                    f"{track} is constant in the {split} split: every bin with data is {number(one.least)}."
                )
        notes += _note_masked(track, of_splits) + _note_outlier(track, whole)
    return warnings, notes


def _note_masked(track: str, of_splits: Mapping[Split, Statistics]) -> list[str]:
    masked = [
        f"{share(one.num_masked, one.num_bins)} of the {split} split's bins"
        for split, one in of_splits.items()
        if one.num_present and one.num_masked > MOST_MASKED * one.num_bins
    ]
    return [f"{track} has no data in {' and '.join(masked)}."] if masked else []


def _note_outlier(track: str, whole: Statistics) -> list[str]:
    if whole.greatest is None or whole.variance <= 0:
        return []
    deviations = (whole.greatest - whole.mean) / whole.variance**0.5
    if deviations <= FAR_OUT:
        return []
    reaches = f"{track} reaches {number(whole.greatest)}, {deviations:,.0f} standard deviations above its mean"
    return [f"{reaches}: a few bins may rule the loss; clip_soft would tame them."]


def describe_geometry(geometry: Geometry) -> list[tuple[str, str]]:
    """Say in words how a window becomes bins."""
    crop = (
        f"{geometry.crop_bins:,} bins ({geometry.crop_bp:,} bp) are cut from each end"
        if geometry.crop_bins
        else "none: every bin of the window is predicted"
    )
    margin = (
        f"{geometry.margin_bp:,} bp of real sequence are stored on each side, so that training can shift a window; "
        f"{geometry.stored_bp:,} bp an example"
        if geometry.margin_bp
        else "none: a window cannot be shifted"
    )
    return [
        ("window", f"a model reads {geometry.window_bp:,} bp"),
        ("bin", f"one value for {geometry.bin_bp:,} bp"),
        ("crop", crop),
        ("margin", margin),
        ("bins per example", f"{geometry.num_bins:,}, which cover {geometry.target_bp:,} bp"),
    ]


def describe_transform(track: Track) -> str:
    """Say in words how bases become the target that a model learns."""
    steps = []
    if track.uncovered == "zero":
        steps.append("bases without a value count as 0")
    else:
        steps.append("bases without a value are no data")
    if track.smooth_bp > 1:
        steps.append(f"running mean over {track.smooth_bp:,} bp")
    steps.append(f"{track.statistic} over the bases of a bin")
    if track.scale != 1:
        steps.append(f"times {track.scale:g}")
    if track.clip_soft is not None:
        c = track.clip_soft
        steps.append(f"what then exceeds {c:g} becomes {c - 1:g} + sqrt(x - {c - 1:g})")
    return "; ".join(steps)


def describe_inverse(track: Track) -> str:
    """Say in words how a target becomes the value of a bin again."""
    steps = []
    if track.clip_soft is not None:
        c = track.clip_soft
        steps.append(f"what exceeds {c:g} becomes (y - {c - 1:g})² + {c - 1:g}")
    if track.scale != 1:
        steps.append(f"divided by {track.scale:g}")
    return "; then ".join(steps) or "none: a target is the value of its bin"


def _suspicions(card: Card) -> Section:
    warnings, notes = find_suspicious(card)
    content = []
    if warnings:
        content.append(callout("warning", "Look at these before training", warnings))
    else:
        content.append(callout("good", "Every track has data that vary in every split."))
    if notes:
        content.append(callout("note", "Good to know", notes))
    return Section("Suspicious tracks", "Tracks from which little or nothing can be learned or measured.", content)


def _description(card: Card) -> Section:
    genome_bp = sum(card.genome.contig_lengths.values())
    pairs: list[tuple[str, object]] = [
        ("name", card.name),
        ("genome", f"{card.genome.name}, {len(card.genome.contig_lengths):,} contigs, {genome_bp:,} bp"),
        ("FASTA", card.genome.fasta),
        *describe_geometry(card.geometry),
        ("tracks", len(card.tracks)),
    ]
    rows = [[track.name, track.description or "–", track.file, track.strand_pair or "–"] for track in card.tracks]
    return Section(
        "What was built",
        "Windows of the genome, and what every track measured over their bins.",
        [facts(pairs), table(["track", "what it is", "file", "other strand"], rows, caption="Tracks")],
    )


def _splits(card: Card) -> Section:
    stretches, rows = [], []
    for split, count in card.counts.items():
        intervals = [parse_region(region, card.genome.contig_lengths) for region in card.regions[split]]
        stretches += [Stretch(one.contig, one.start, one.end, split) for one in intervals]
        rows.append([split, count, sum(one.width for one in intervals), len(intervals)])
    shown = min(MOST_CONTIGS, len(card.genome.contig_lengths))
    hidden = len(card.genome.contig_lengths) - shown
    picture = embed(
        contig_map(card.genome.contig_lengths, stretches),
        alt="contigs as bars, coloured by the split that each stretch belongs to",
        caption=f"The {shown:,} longest contigs; {hidden:,} shorter ones are not drawn." if hidden else "",
        wide=True,
    )
    return Section(
        "Splits",
        "Every stretch of the genome belongs to one split, so that what is measured was never learned from.",
        [table(["split", "examples", "bases", "regions"], rows), text(_describe_folds(card.folds)), picture],
    )


def _describe_folds(folds: FoldSpec) -> str:
    excluded = f" {', '.join(folds.exclude)}: in no split." if folds.exclude else ""
    if folds.num_folds:
        return (
            f"Pieces of at most {folds.break_bp:,} bp were dealt out to {folds.num_folds} folds; "
            f"fold {folds.valid_fold} is valid, fold {folds.test_fold} is test, the others are train.{excluded}"
        )
    return (
        f"Named regions: valid is {', '.join(folds.valid)}; test is {', '.join(folds.test)}; "
        f"the rest is train.{excluded}"
    )


def _statistics(card: Card) -> Section:
    rows = [
        [
            track,
            split,
            one.num_bins,
            share(one.num_present, one.num_bins),
            one.mean,
            one.variance,
            one.least,
            one.greatest,
        ]
        for track in card.track_names
        for split, of_tracks in card.statistics.items()
        for one in [of_tracks[track]]
    ]
    header = ["track", "split", "bins", "with data", "mean", "variance", "min", "max"]
    return Section(
        "Tracks",
        "Targets as stored, after each track's transform; windows that overlap count a bin more than once.",
        [table(header, rows)],
    )


def _dropped(card: Card) -> Section:
    rows: list[list[object]] = [[reason, count] for reason, count in card.dropped.items()]
    content = [table(["reason", "count"], rows)] if rows else [text("Nothing was left out.")]
    return Section("Left out", "What is in the splits' regions but not in the examples, and why.", content)


def _contigs(card: Card) -> Section:
    lacking = _alike({track: ", ".join(contigs) for track, contigs in card.absent_contigs.items() if contigs})
    renamed = _alike(
        {
            track: ", ".join(f"{old} is {new}" for old, new in names.items())
            for track, names in card.contig_names.items()
            if names
        }
    )
    content: list[Markup] = []
    if lacking:
        content.append(table(["tracks", "contigs their files lack"], lacking, caption="Contigs without data"))
    else:
        content.append(text("Every track's file has every contig."))
    if renamed:
        header = ["tracks", "name in their files, and in the genome"]
        content.append(table(header, renamed, caption="Contig names that were mapped"))
    else:
        content.append(text("Every file names its contigs as the genome does."))
    return Section("Contig names", "How each track's file fits the genome; a contig that it lacks is no data.", content)


def _alike(words_of: Mapping[str, str]) -> list[list[object]]:
    """Return rows of the tracks of which the same is to be said, and what that is."""
    tracks_of: dict[str, list[str]] = {}
    for track, words in words_of.items():
        tracks_of.setdefault(words, []).append(track)
    return [[", ".join(tracks), words] for words, tracks in tracks_of.items()]


def _transforms(card: Card) -> Section:
    rows = [[track.name, describe_transform(track), describe_inverse(track)] for track in card.tracks]
    header = ["track", "from bases to target", "from target back to the bin's value"]
    return Section(
        "Transforms",
        "How each track's values become the targets that a model learns, and how predictions are turned back.",
        [table(header, rows)],
    )


def _origin(card: Card) -> Section:
    pairs = [
        ("digest", card.digest),
        ("genome digest", card.genome.digest),
        ("files", f"{len(card.files):,} Parquet files, {sum(file.rows for file in card.files):,} rows"),
        ("cisray", card.cisray_version),
        ("schema version", str(card.schema_version)),
    ]
    job = json.dumps(card.job, indent=2, ensure_ascii=False)
    return Section(
        "Where it comes from",
        "What identifies this dataset, and the job that makes it again.",
        [facts(pairs), folded("The job, with its overrides", job)],
    )
