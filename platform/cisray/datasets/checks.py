"""What looks wrong in a dataset, going by its card alone: tracks from which little or nothing can be learned."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from cisray.datasets.card import Card, Statistics, Track
from cisray.datasets.loci.folds import Split

Severity = Literal["warning", "note"]

MOST_MASKED = 0.5
"""A larger share of bins without data leaves less to learn from than the track's name promises."""
MOST_ZERO = 0.99
"""With a larger share of zeros, a model that always answers 0 has nearly the least loss."""
FAR_OUT = 50
"""A largest value this many standard deviations above the mean has, squared, the weight of thousands of bins."""
MOST_SOFT_CLIPPED = 0.01
"""The soft clip is for outliers; one bin in a hundred is none."""
MOST_CLIPPED = 0.001
"""What is cut off cannot be restored, so that less of it is worth a note."""
SHIFT_RATIO = 2
"""Means of two splits that differ by more, of signal or of labels, are of different things."""
SHIFT_DEVIATIONS = 0.5
"""The same for measurements, whose mean may be 0: in standard deviations of the training split."""
SHIFT_ERRORS = 5
"""Standard errors that two means must be apart as well, so that a small split is not blamed for chance."""
FEW_LABELS = 10
"""With fewer positives, or negatives, one more or less moves every figure of a class."""
SURE_LABELS = 100
"""Two classes with fewer positives may have the same counts by chance."""
NEAR_END = 0.5
"""A target beyond this share of float16's largest number says that the next file may not fit."""

FEW_ALIKE = 3
"""Tracks of which the same is wrong that are shown before others."""


class Suspicion(NamedTuple):
    """One thing that looks wrong with one track."""

    track: str
    file: str
    severity: Severity
    check: str
    """What kind of thing it is, in a few words that all its tracks share."""
    text: str
    """What was found, with its figures."""
    cure: str


class _Finding(NamedTuple):
    severity: Severity
    check: str
    text: str
    cure: str


class _Seen(NamedTuple):
    """One track, and what it holds."""

    card: Card
    track: Track
    splits: Mapping[Split, Statistics]
    whole: Statistics

    @property
    def is_labels(self) -> bool:
        return self.card.kind == "labels"


def find_suspicions(card: Card) -> list[Suspicion]:
    """Return what looks wrong, warnings before notes, and within both in the order of the card's tracks."""
    found = []
    twins = _twins(card)
    for track in card.tracks:
        splits = {split: of_tracks[track.name] for split, of_tracks in card.statistics.items()}
        seen = _Seen(card, track, splits, _add_up(list(splits.values())))
        findings = [*_check(seen), *twins.get(track.name, [])]
        found += [Suspicion(track.name, track.file, *finding) for finding in findings]
    return sorted(found, key=lambda suspicion: suspicion.severity != "warning")


def rank_tracks(card: Card, suspicions: Sequence[Suspicion]) -> list[Track]:
    """Return the card's tracks, those with suspicions first, and a few of every check before many of one."""
    of_name = {track.name: track for track in card.tracks}
    few, _ = first_of_each(suspicions, most=FEW_ALIKE)
    return [of_name[name] for name in dict.fromkeys([*(one.track for one in [*few, *suspicions]), *of_name])]


def count_tracks(suspicions: Sequence[Suspicion], severity: Severity) -> dict[str, int]:
    """Return for each check how many tracks it found something in, most first."""
    counts = Counter(check for _, check in {(one.track, one.check) for one in suspicions if one.severity == severity})
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def first_of_each(suspicions: Sequence[Suspicion], *, most: int) -> tuple[list[Suspicion], dict[str, int]]:
    """Return the first `most` suspicions of every check, in order, and by check how many are left."""
    seen: Counter[str] = Counter()
    first = []
    for one in suspicions:
        seen[one.check] += 1
        if seen[one.check] <= most:
            first.append(one)
    return first, {check: count - most for check, count in seen.items() if count > most}


def describe_suspicions(suspicions: Sequence[Suspicion], *, most: int = FEW_ALIKE) -> list[str]:
    """Return one line for each of the first `most` suspicions of every check, and one that counts the others."""
    first, rest = first_of_each(suspicions, most=most)
    lines = [f"{one.severity}: {one.track} ({one.file}): {one.text}; {one.cure}" for one in first]
    if rest:
        listed = ", ".join(f"{check}: {count:,}" for check, count in rest.items())
        lines.append(f"and {sum(rest.values()):,} more ({listed}); see the report")
    return lines


def summary_rows(card: Card, *, most_tracks: int = 8) -> list[list[str]]:
    """Return rows for a terminal, its heading first: examples per split, then each track's mean and share with data.

    Of labels, the positives and the share of examples with a label; tracks beyond `most_tracks` are counted.
    """
    rows = [["", *card.statistics], ["examples", *(f"{card.counts[split]:,}" for split in card.statistics)]]
    for name in card.track_names[:most_tracks]:
        cells = []
        for of_tracks in card.statistics.values():
            one = of_tracks[name]
            level = f"{round(one.total):,}" if card.kind == "labels" else f"{one.mean:.3g}"
            known = one.num_present / one.num_bins if one.num_bins else 0.0
            cells.append(f"{level} ({known:.0%})" if one.num_present else "no data")
        rows.append([name, *cells])
    more = len(card.tracks) - most_tracks
    if more > 0:
        rows.append([f"and {more:,} more", *("" for _ in card.statistics)])
    return rows


def _add_up(parts: Sequence[Statistics]) -> Statistics:
    """Return what a track holds in all splits together."""
    sums = {
        name: sum(getattr(part, name) for part in parts)
        for name in (
            "num_bins",
            "num_masked",
            "num_zero",
            "num_soft_clipped",
            "num_clipped",
            "total",
            "total_squares",
        )
    }
    return Statistics(
        **sums,
        least=min((part.least for part in parts if part.least is not None), default=None),
        greatest=max((part.greatest for part in parts if part.greatest is not None), default=None),
    )


def _check(seen: _Seen) -> Iterator[_Finding]:
    """Give every finding about one track; one without data that vary has no others."""
    whole = seen.whole
    if not whole.num_present:
        yield _Finding(
            "warning", "empty", "no data in any split", "see whether its file is of this genome, or leave it out"
        )
    elif not math.isfinite(whole.total_squares) or whole.least is None or whole.greatest is None:
        yield _Finding("warning", "infinite", "holds infinite values", "mend its file: every sum over it is infinite")
    elif whole.least == whole.greatest:
        yield _describe_constant(seen)
    else:
        yield from _check_splits(seen)
        yield from _check_few_labels(seen) if seen.is_labels else _check_values(seen)
        yield from _check_shift(seen)
        yield from _check_clipped(seen)


def _describe_constant(seen: _Seen) -> _Finding:
    value = seen.whole.least
    if seen.is_labels:
        words = "no positive in any split" if value == 0 else "every example is positive"
        return _Finding("warning", "constant", words, "see whether its file is the right one, or leave it out")
    return _Finding(
        "warning",
        "constant",
        f"every bin with data is {_write(value)}",
        "see whether its file is right, or leave it out",
    )


def _check_splits(seen: _Seen) -> Iterator[_Finding]:
    """Tell of splits in which the track has no data, none that vary, or little of it."""
    masked = []
    for split, one in seen.splits.items():
        if not one.num_present:
            yield _Finding(
                "warning", "empty in a split", f"no data in the {split} split", "choose folds on contigs that it has"
            )
        elif one.least == one.greatest:
            level = f"every bin with data of the {split} split is {_write(one.least)}"
            if seen.is_labels:
                level = f"no {'negative' if one.least else 'positive'} in the {split} split"
            yield _Finding(
                "warning",
                "constant in a split",
                level,
                "nothing can be measured there: choose other folds, or more data",
            )
        if one.num_present and one.num_masked > MOST_MASKED * one.num_bins:
            masked.append(f"{one.num_masked / one.num_bins:.1%} of the {split} split")
    if masked:
        cure = (
            "fine where few examples were labelled"
            if seen.is_labels
            else 'set uncovered = "zero" if a base without a value is a count of 0'
        )
        yield _Finding("note", "mostly without data", f"no data in {_join(masked)}", cure)


def _check_few_labels(seen: _Seen) -> Iterator[_Finding]:
    few = []
    for split, one in seen.splits.items():
        positives = round(one.total)
        for number, kind in ((positives, "positive"), (one.num_present - positives, "negative")):
            if one.least != one.greatest and number < FEW_LABELS:
                few.append(f"{number} {kind}{'s' if number > 1 else ''} in {split}")
    if few:
        cure = "one more or less moves every figure there: choose larger splits, or do without the class"
        yield _Finding("note", "few labels of a kind", f"only {_join(few)}", cure)


def _check_values(seen: _Seen) -> Iterator[_Finding]:
    """Tell of signs, zeros and sizes that do not go with what the track is said to hold."""
    whole, track, card = seen.whole, seen.track, seen.card
    assert whole.least is not None
    assert whole.greatest is not None
    if card.kind == "coverage" and whole.least < 0:
        cure = "a root takes it for 0, and so does a count's likelihood: turn its sign, or store it as measurements"
        yield _Finding("warning", "below zero", f"goes down to {_write(whole.least)}, but signal is 0 or more", cure)
    if card.kind == "coverage" and whole.num_zero > MOST_ZERO * whole.num_present:
        share = whole.num_zero / whole.num_present
        cure = "fine for a sparse assay; otherwise see whether its file is right, or widen the bins"
        # an ordinary rounding would call the last bins that are not 0 none
        yield _Finding("note", "nearly all zero", f"{math.floor(share * 1e4) / 1e4:.2%} of bins with data are 0", cure)
    deviation = _variance(whole) ** 0.5
    if deviation > 0 and (whole.greatest - whole.mean) / deviation > FAR_OUT:
        many = (whole.greatest - whole.mean) / deviation
        text = (
            f"reaches {_write(whole.greatest)}, {many:,.0f} standard deviations above its mean of {_write(whole.mean)}"
        )
        tamed = "set clip_soft" if track.clip_soft is None else "lower clip_soft, or set clip"
        cure = f"a few bins may rule the loss: {tamed}" if card.kind == "coverage" else "look at that row"
        yield _Finding("note", "far outlier", text, cure)
    end, extreme = float(np.finfo(np.float16).max), max(whole.least, whole.greatest, key=abs)
    if card.target_type == "<f2" and abs(extreme) > NEAR_END * end:
        text = f"reaches {_write(extreme)}; float16 ends at {end:,.0f}"
        yield _Finding("note", "near the end of float16", text, "lower its scale or clip_soft, or store float32")


def _check_shift(seen: _Seen) -> Iterator[_Finding]:
    """Compare the means of other splits with that of training."""
    train, far = seen.splits.get("train"), []
    if train is None or not train.num_present:
        return
    for split, one in seen.splits.items():
        if split == "train" or not one.num_present or one.least == one.greatest:
            continue
        apart = abs(one.mean - train.mean)
        error = (_variance(one) / one.num_present + _variance(train) / train.num_present) ** 0.5
        if apart <= SHIFT_ERRORS * error:
            continue
        if seen.card.kind == "measurements":
            deviation = _variance(train) ** 0.5
            if apart > SHIFT_DEVIATIONS * deviation:
                words = f" ({apart / deviation:.1f} standard deviations)" if deviation else ""
                far.append(f"{one.mean:.3g} in {split}{words}")
        else:
            low, high = sorted((one.mean, train.mean))
            if high > SHIFT_RATIO * low:
                words = f" ({high / low:.1f} times {'more' if one.mean == high else 'less'})" if low > 0 else ""
                far.append(f"{one.mean:.3g} in {split}{words}")
    if far:
        text = f"mean {_join(far)}, against {train.mean:.3g} in train"
        cure = "figures of one split say little of the others: see what is special there, or choose other splits"
        yield _Finding("note", "another mean in a split", text, cure)


def _check_clipped(seen: _Seen) -> Iterator[_Finding]:
    """Count what the clips bent or cut off; a peak ends at 1 by definition."""
    whole, track = seen.whole, seen.track
    if track.clip is not None and whole.num_clipped > MOST_CLIPPED * whole.num_present:
        share = whole.num_clipped / whole.num_present
        text = f"{whole.num_clipped:,} bins ({share:.2%}) were cut off at {track.clip:g}"
        yield _Finding("note", "many bins cut off", text, "raise clip, or lower scale")
    if track.clip_soft is not None and whole.num_soft_clipped > MOST_SOFT_CLIPPED * whole.num_present:
        share = whole.num_soft_clipped / whole.num_present
        text = f"{whole.num_soft_clipped:,} bins ({share:.2%}) are above clip_soft, {track.clip_soft:g}"
        yield _Finding("note", "many bins soft-clipped", text, "raise clip_soft, or lower scale")


def _twins(card: Card) -> dict[str, list[_Finding]]:
    """Tell of each track that has the very statistics of another one in all splits."""
    groups: dict[tuple[object, ...], list[Track]] = {}
    for track in card.tracks:
        splits = [of_tracks[track.name] for of_tracks in card.statistics.values()]
        whole = _add_up(splits)
        enough = card.kind != "labels" or min(whole.total, whole.num_present - whole.total) >= SURE_LABELS
        if whole.num_present and whole.least != whole.greatest and enough:
            same = tuple((one.num_masked, one.total, one.total_squares, one.least, one.greatest) for one in splits)
            groups.setdefault(same, []).append(track)
    found = {}
    for group in groups.values():
        for track in group if len(group) > 1 else []:
            other = next(one for one in group if one is not track)
            more = f" and {len(group) - 2:,} more" if len(group) > 2 else ""
            text = f"the same statistics in every split as {other.name} ({other.file}){more}"
            cure = "see whether one file is listed twice, or is a copy of the other"
            found[track.name] = [_Finding("warning", "same as another track", text, cure)]
    return found


def _variance(one: Statistics) -> float:
    """Return the variance, 0 where rounding makes it less."""
    return max(one.variance, 0.0)


def _write(value: float | None) -> str:
    """Write a number in four digits, or more before the point."""
    return "nothing" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _join(parts: Sequence[str]) -> str:
    return " and ".join(parts)
