"""The parts of a dataset's page that say something of every track: what looks wrong, statistics, histograms, files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cisray.datasets.card import Card, Statistics, Track
from cisray.datasets.checks import Suspicion, count_tracks, first_of_each, rank_tracks
from cisray.datasets.statistics import TRACKS_NAME, read_histograms
from cisray.datasets.transforms import describe, describe_inverse
from cisray.reports.figures import embed
from cisray.reports.histograms import histogram_panels
from cisray.reports.page import NO_VALUE, Markup, Section, callout, share, table, text

MOST_ROWS = 100
"""Tracks in one table: more are not read, and thousands would make a page of many megabytes."""
MOST_ALIKE = 10
"""Tracks of which the same is wrong."""
MOST_PANELS = 24
MOST_NAMES = 12
"""Names in one cell."""


def suspicions_section(card: Card, suspicions: Sequence[Suspicion]) -> Section:
    """Show what looks wrong: in short, then with file and cure, warnings before notes."""
    warnings = [one for one in suspicions if one.severity == "warning"]
    notes = [one for one in suspicions if one.severity == "note"]
    content = []
    if warnings:
        content.append(callout("warning", "Look at these before training", _counted(warnings)))
        content += _listed(warnings, "Warnings")
    else:
        content.append(callout("good", "Every track has data that vary in every split."))
    if notes:
        content.append(callout("note", "Good to know", _counted(notes)))
        content += _listed(notes, "Notes")
    return Section("Suspicious tracks", "Tracks from which little or nothing can be learned or measured.", content)


def _counted(suspicions: Sequence[Suspicion]) -> list[str]:
    counts = count_tracks(suspicions, suspicions[0].severity)
    return [f"{check}: {count:,} track{'s' if count > 1 else ''}" for check, count in counts.items()]


def _listed(suspicions: Sequence[Suspicion], caption: str) -> list[Markup]:
    shown, rest = first_of_each(suspicions, most=MOST_ALIKE)
    rows = [[one.track, one.file, one.text, one.cure] for one in shown]
    content = [table(["track", "file", "what was found", "what to do"], rows, caption=caption)]
    if rest:
        counted = ", ".join(f"{check}: {count:,}" for check, count in rest.items())
        content.append(text(f"And {sum(rest.values()):,} more ({counted}); {TRACKS_NAME} has the figures of all."))
    return content


def shown_tracks(card: Card, suspicions: Sequence[Suspicion]) -> list[Track]:
    """Return the tracks for a table: all in the card's order, or, of too many, the first with suspicious ones ahead."""
    return list(card.tracks) if len(card.tracks) <= MOST_ROWS else rank_tracks(card, suspicions)[:MOST_ROWS]


def hidden_tracks(card: Card, *, where: str) -> list[Markup]:
    """Say how many tracks a table leaves out, and where all of them are."""
    if len(card.tracks) <= MOST_ROWS:
        return []
    return [
        text(
            f"{MOST_ROWS:,} of {len(card.tracks):,} tracks, suspicious ones first; "
            f"the other {len(card.tracks) - MOST_ROWS:,} are in {where}, in the dataset's folder."
        )
    ]


def files_section(card: Card, suspicions: Sequence[Suspicion]) -> Section:
    """List the tracks with their files."""
    shown = shown_tracks(card, suspicions)
    rows = [[track.name, track.description or NO_VALUE, track.file, track.strand_pair or NO_VALUE] for track in shown]
    columns = [index for index in range(4) if index in (0, 2) or any(row[index] != NO_VALUE for row in rows)]
    header = ["track", "what it is", "file", "other strand"]
    listed = table([header[index] for index in columns], [[row[index] for index in columns] for row in rows])
    return Section(
        "Tracks and their files",
        "Where every track comes from.",
        [listed, *hidden_tracks(card, where="card.json")],
    )


def statistics_section(card: Card, suspicions: Sequence[Suspicion]) -> Section:
    """Show what every track holds in every split."""
    shown = shown_tracks(card, suspicions)
    more = hidden_tracks(card, where=TRACKS_NAME)
    if card.kind == "labels":
        return Section(
            "Labels",
            "Positives in every split, and their share of what has a label.",
            [_positives(card, shown), *more],
        )
    rows = [
        _statistics_row(track, split, of_tracks[track.name])
        for track in shown
        for split, of_tracks in card.statistics.items()
    ]
    header = ["track", "split", "bins", "with data", "zero", "soft-clipped", "cut off"]
    header += ["mean", "variance", "min", "max"]
    return Section(
        "Tracks",
        "Targets as stored, after each track's transform; windows that overlap count a bin more than once.",
        [table(header, rows), *more],
    )


def _statistics_row(track: Track, split: str, one: Statistics) -> list[object]:
    has_clip = track.clip is not None or track.statistic == "peak"
    return [
        track.name,
        split,
        one.num_bins,
        share(one.num_present, one.num_bins),
        share(one.num_zero, one.num_present),
        one.num_soft_clipped if track.clip_soft is not None else None,
        one.num_clipped if has_clip else None,
        one.mean,
        one.variance,
        one.least,
        one.greatest,
    ]


def _positives(card: Card, shown: Sequence[Track]) -> Markup:
    """Lay out positives and their share per class, and how many have a label where some have none."""
    some_unknown = any(one.num_masked for of_tracks in card.statistics.values() for one in of_tracks.values())
    columns = ["positives", "share", *(["labelled"] if some_unknown else [])]
    rows: list[list[object]] = []
    for track in shown:
        row: list[object] = [track.name]
        for of_tracks in card.statistics.values():
            one = of_tracks[track.name]
            row += [round(one.total), share(one.total, one.num_present), *([one.num_present] if some_unknown else [])]
        rows.append(row)
    groups = [("", 1), *((split, len(columns)) for split in card.statistics)]
    return table(["class", *(columns * len(card.statistics))], rows, groups=groups)


def histograms_section(dataset_dir: Path, card: Card, suspicions: Sequence[Suspicion]) -> Section:
    """Draw how the targets of some tracks are spread, the most suspicious first."""
    drawn = [track.name for track in rank_tracks(card, suspicions)[:MOST_PANELS]]
    of_splits = read_histograms(dataset_dir, card)
    counts: dict[str, np.ndarray] = {
        split: np.stack([of_splits[split][name] for name in drawn]) for split in card.statistics
    }
    hidden = len(card.tracks) - len(drawn)
    said = f"{len(drawn)} of {len(card.tracks):,} tracks, suspicious ones first; the other {hidden:,} are in"
    caption = f"{said} {TRACKS_NAME}, in the dataset's folder." if hidden else ""
    picture = embed(
        histogram_panels(drawn, counts),
        alt="for every track, the share of bins by the size of their target, one line per split",
        caption=caption,
        wide=True,
    )
    below = " All values below 0 make one bar." if card.kind == "measurements" else ""
    return Section(
        "Histograms",
        f"Share of each split's bins with data by the size of their target; both axes are logarithmic.{below}",
        [picture],
    )


def contigs_section(card: Card) -> Section:
    """Show how each track's file fits the genome."""
    lacking = _alike({track: _few(contigs) for track, contigs in card.absent_contigs.items() if contigs})
    renamed = _alike(
        {
            track: _few([f"{old} is {new}" for old, new in names.items()])
            for track, names in card.contig_names.items()
            if names
        }
    )
    content: list[Markup] = []
    if lacking:
        content += _cut(["tracks", "contigs their files lack"], lacking, caption="Contigs without data")
    else:
        content.append(text("Every track's file has every contig."))
    if renamed:
        header = ["tracks", "name in their files, and in the genome"]
        content += _cut(header, renamed, caption="Contig names that were mapped")
    else:
        content.append(text("Every file names its contigs as the genome does."))
    return Section("Contig names", "How each track's file fits the genome; a contig that it lacks is no data.", content)


def describe_bases(track: Track) -> str:
    """Say in words how bases become the target that a model learns."""
    steps = ["bases without a value are no data" if track.uncovered == "mask" else "bases without a value count as 0"]
    if track.smooth_bp > 1:
        steps.append(f"running mean over {track.smooth_bp:,} bp")
    return "; ".join([*steps, describe(track)])


def transforms_section(card: Card) -> Section:
    """Show how each track's values become targets, and predictions values."""
    header = ["tracks", "from bases to target", "from target back to the bin's value"]
    if card.kind == "coverage" or any(track.scale != 1 or track.clip is not None for track in card.tracks):
        ways: dict[tuple[str, str], list[str]] = {}
        for track in card.tracks:
            ways.setdefault((describe_bases(track), describe_inverse(track)), []).append(track.name)
        content = _cut(header, [[_few(names), *way] for way, names in ways.items()])
    else:
        kind = "labels, 0 or 1" if card.kind == "labels" else "numbers as they were measured"
        content = [text(f"None: targets are {kind}.")]
    return Section(
        "Transforms",
        "How each track's values become the targets that a model learns, and how predictions are turned back.",
        content,
    )


def _alike(words_of: Mapping[str, str]) -> list[list[object]]:
    """Return rows of the tracks of which the same is to be said, and what that is."""
    tracks_of: dict[str, list[str]] = {}
    for track, words in words_of.items():
        tracks_of.setdefault(words, []).append(track)
    return [[_few(tracks), words] for words, tracks in tracks_of.items()]


def _few(names: Sequence[str]) -> str:
    """Join names, and count those beyond the first."""
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def _cut(header: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str = "") -> list[Markup]:
    content = [table(header, rows[:MOST_ROWS], caption=caption)]
    if len(rows) > MOST_ROWS:
        content.append(text(f"{len(rows) - MOST_ROWS:,} more rows are in card.json, in the dataset's folder."))
    return content
