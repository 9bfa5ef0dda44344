"""Find duplicates that cross the splits that a table gives, say which they are, and settle what becomes of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from cisray.datasets.tables.duplicates import DuplicateSpec, Groups, Sequences
from cisray.datasets.tables.near_pairs import most_edits
from cisray.datasets.tables.row_splits import NO_SPLIT, TRAIN
from cisray.files import written_whole
from cisray.genome.sequence import decode

_MOST_COMPARED = 1000  # rows of its group that a row is compared with


class Crossing(NamedTuple):
    """A row of valid or test whose group has rows in an earlier split, and the nearest of those."""

    row: int
    other: int
    edits: int | None
    """None where the two are of one group only through others."""


class CrossingRecord(NamedTuple):
    """A crossing in words, as the list has it."""

    row: str
    split: str
    other: str
    other_split: str
    edits: int | None

    def __str__(self) -> str:
        told = "through others" if self.edits is None else f"{self.edits} edits"
        return f"{self.row} ({self.split}) and {self.other} ({self.other_split}), {told}"


def crosses(group: NDArray[np.int64], split: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Tell which rows [R] are of a group that is in more than one split; rows of split -1 are in none."""
    least, greatest = np.full(len(group), 127, np.int8), np.full(len(group), -1, np.int8)
    inside = split >= 0
    np.minimum.at(least, group[inside], split[inside])
    np.maximum.at(greatest, group[inside], split[inside])
    return inside & (least[group] < greatest[group])


def find_crossings(
    sequences: Sequences, groups: Groups, split: NDArray[np.int8], spec: DuplicateSpec
) -> list[Crossing]:
    """Return each row of valid and test whose group reaches into an earlier split, with its nearest row there.

    A row is compared with the first thousand such rows of its group at most.
    """
    found = []
    of_row = np.argsort(sequences.row, kind="stable")
    bounds = np.searchsorted(sequences.row[of_row], np.arange(len(split) + 1))
    texts: dict[int, list[str]] = {}

    def texts_of(row: int) -> list[str]:
        if row not in texts:
            members = of_row[bounds[row] : bounds[row + 1]]
            texts[row] = [decode(sequences.codes[each, : sequences.lengths[each]]) for each in members]
        return texts[row]

    crossing = np.flatnonzero(crosses(groups.group, split))
    crossing = crossing[np.argsort(groups.group[crossing], kind="stable")]
    for members in np.split(crossing, np.flatnonzero(np.diff(groups.group[crossing])) + 1):
        texts.clear()
        for row in members[split[members] > split[members].min(initial=127)].tolist():
            others = members[split[members] < split[row]][:_MOST_COMPARED].tolist()
            best = _nearest(texts_of(row), [texts_of(other) for other in others], both_strands=spec.both_strands)
            edits, allowed = best[1], most_edits(best[2], spec.min_identity)
            found.append(Crossing(row, others[best[0]], edits if edits <= allowed else None))
    return sorted(found)


def _nearest(texts: list[str], others: list[list[str]], *, both_strands: bool) -> tuple[int, int, int]:
    """Return the index of the nearest of `others`, its edits, and the longer's length, by edits per base."""
    strands = texts + [_other_text(text) for text in texts] if both_strands else texts
    flat = [(index, text) for index, each in enumerate(others) for text in each]
    letters = [text for _, text in flat]
    edits = process.cdist(strands, letters, scorer=Levenshtein.distance, dtype=np.int64, workers=1)
    longer = np.maximum.outer([len(text) for text in strands], [len(text) for text in letters])
    best = np.unravel_index(np.argmin(edits / longer), edits.shape)
    return flat[best[1]][0], int(edits[best]), int(longer[best])


def _other_text(text: str) -> str:
    return text[::-1].translate(str.maketrans("ACGT", "TGCA"))


def resolve(spec: DuplicateSpec, group: NDArray[np.int64], split: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return the splits after what is to become of groups that cross them."""
    if spec.across_splits not in ("group", "drop_from_train"):
        return split
    crossing = crosses(group, split)
    resolved = split.copy()
    if spec.across_splits == "group":
        resolved[crossing] = TRAIN
        return resolved
    last = np.full(int(group.max()) + 1, NO_SPLIT, np.int8)
    np.maximum.at(last, group, split)
    resolved[crossing & (split < last[group])] = NO_SPLIT
    return resolved


def write_crossings(path: Path, records: Iterable[CrossingRecord]) -> None:
    """Write crossings as TSV; edits are empty where two rows are akin through others only."""
    with written_whole(path) as aside, aside.open("w", encoding="utf-8") as handle:
        handle.write("\t".join(CrossingRecord._fields) + "\n")
        for record in records:
            handle.write("\t".join("" if value is None else str(value) for value in record) + "\n")
