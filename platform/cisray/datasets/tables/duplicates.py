"""Find rows whose sequences are the same or nearly so, and put them in groups that no split may cut.

A group is all that chains together: rows that share a sequence, or have near-duplicates (see near_pairs).
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.datasets.tables.near_pairs import NOTHING_MISSED, Search, components, find_links, other_strand
from cisray.errors import InputError


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DuplicateSpec:
    """Which sequences count as duplicates, and what becomes of them."""

    min_identity: float = 0.8
    """1 - edits / (length of the longer), from which on two sequences are near-duplicates; 1 means equal ones only."""
    both_strands: bool = False
    """Whether the reverse complement of a sequence counts as the same."""
    across_splits: Literal["refuse", "group", "drop_from_train", "keep"] = "refuse"
    """Groups that cross the splits that a table gives: an error; moved to train whole; kept only in the last of train,
    valid and test that they are in; or left as they are. Splits made here are never crossed."""
    list_path: str | None = None
    """Where to write the rows of groups that cross the table's splits, as TSV; None writes no list."""
    repeats: Literal["keep", "mean"] = "keep"
    """Rows with equal sequences: kept, each with its own measurement, or made one row of their mean."""

    def __post_init__(self) -> None:
        if not 0.5 <= self.min_identity <= 1:
            raise InputError(
                f"duplicates: min_identity={self.min_identity}; wanted a share from 0.5 to 1 "
                "(unrelated sequences agree in about half of their bases once gaps are allowed)"
            )


class Sequences(NamedTuple):
    """M sequences, and the row that each belongs to."""

    codes: NDArray[np.uint8]
    """[M, L], from the left, filled up with N."""
    lengths: NDArray[np.int64]
    """Bases of each, [M]."""
    row: NDArray[np.int64]
    """[M]; several sequences may belong to one row."""


class Groups(NamedTuple):
    """Which rows belong together."""

    same: NDArray[np.int64]
    """Per row, the number of its group of equal sequences, [R]; numbered by first row."""
    group: NDArray[np.int64]
    """Per row, the number of its group of near-duplicates, [R]."""
    search: Search


def find_groups(sequences: Sequences, num_rows: int, spec: DuplicateSpec) -> Groups:
    """Group rows by equal sequences and by near-duplicates; rows of one group share a sequence, or a chain of them."""
    codes, lengths = sequences.codes, sequences.lengths
    key = _as_text(codes, lengths)
    if spec.both_strands:
        other = _as_text(other_strand(codes, lengths), lengths)
        key = np.where(key <= other, key, other)
    _, first, number = np.unique(key, return_index=True, return_inverse=True)
    del key
    same = _joined(num_rows, len(first), sequences.row, number, np.empty((2, 0), np.int64))
    if spec.min_identity == 1:
        return Groups(same, same, NOTHING_MISSED)
    links, search = find_links(
        codes[first], lengths[first], min_identity=spec.min_identity, both_strands=spec.both_strands
    )
    return Groups(same, _joined(num_rows, len(first), sequences.row, number, links), search)


def _as_text(codes: NDArray[np.uint8], lengths: NDArray[np.int64]) -> NDArray[np.bytes_]:
    """Return sequences as fixed-width text, which sorts by base; zero, where one ends, ends the text too."""
    width = max(1, codes.shape[1])
    text = np.zeros((len(codes), width), np.uint8)
    text[:, : codes.shape[1]] = np.where(np.arange(codes.shape[1]) < lengths[:, None], codes + 1, 0)
    return text.view(f"S{width}")[:, 0]


def _joined(
    num_rows: int, num_unique: int, row: NDArray[np.int64], number: NDArray[np.int64], links: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the group of each row: rows meet through their unique sequences, and these through links [2, E]."""
    one = np.r_[row, num_rows + links[0]]
    other = np.r_[num_rows + number, num_rows + links[1]]
    label = components(num_rows + num_unique, one, other)[:num_rows]
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]
