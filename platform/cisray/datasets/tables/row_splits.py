"""Give every row of a table to one split: by a column, by shares, or by k folds; groups of duplicates stay whole.

Shares and folds are dealt to groups in the order of a seeded digest of their sequences: neither the order of a table's
rows nor their names change where one goes.
"""

import hashlib
import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.datasets.loci.dealing import TEST, TRAIN, VALID
from cisray.datasets.loci.folds import SPLITS
from cisray.errors import InputError
from cisray.genome.intervals import suggest_names

NO_SPLIT = -1


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SplitSpec:
    """Which rows are train, valid and test: a column says it, or shares are drawn, or k folds."""

    column: str | None = None
    """A column whose texts `train`, `valid` and `test` name: a split that the table gives, or a library held out."""
    train: tuple[str, ...] = ()
    """Empty: whatever valid and test do not name."""
    valid: tuple[str, ...] = ()
    """Empty: see valid_fraction."""
    test: tuple[str, ...] = ()
    valid_fraction: float = 0.0
    """Share of all rows (with a column: of its train rows) drawn for a split that no text names."""
    test_fraction: float = 0.0
    num_folds: int = 0
    """k of a k-fold cut; 0 means that shares are drawn."""
    valid_fold: int = 1
    test_fold: int = 0
    seed: int = 0
    """Of what is drawn."""

    def __post_init__(self) -> None:
        named = {"valid": bool(self.valid), "test": bool(self.test)}
        drawn = {"valid": self.valid_fraction, "test": self.test_fraction}
        if self.column is None and (self.train or self.valid or self.test):
            raise InputError("split: train, valid and test name texts of a column; set column too")
        if self.num_folds:
            if self.column is not None or any(drawn.values()):
                raise InputError("split: set num_folds alone, without a column or shares")
            folds = range(self.num_folds)
            if self.num_folds < 3 or self.valid_fold == self.test_fold or {self.valid_fold, self.test_fold} - {*folds}:
                raise InputError(
                    f"split: num_folds={self.num_folds}, valid_fold={self.valid_fold}, test_fold={self.test_fold}; "
                    "wanted at least 3 folds and two different ones below that number"
                )
            return
        for split, share in drawn.items():
            if named[split] == bool(share) or not 0 <= share < 1:
                raise InputError(
                    f"split: {split} has {'texts' if named[split] else 'no text'} and {split}_fraction={share}; "
                    f"wanted one of them: texts of a column, or a share between 0 and 1, or num_folds instead"
                )
        if sum(drawn.values()) >= 1:
            raise InputError(
                f"split: valid_fraction and test_fraction make {sum(drawn.values()):g}; leave some to train"
            )
        texts = [*self.train, *self.valid, *self.test]
        if len(set(texts)) < len(texts):
            raise InputError(
                f"split: column {self.column}: a text is named in two splits; a row can play one role only"
            )


class Roles(NamedTuple):
    """What each row is, [R]."""

    split: NDArray[np.int8]
    """A number of SPLITS, or NO_SPLIT."""
    fold: NDArray[np.int16]


def given_splits(spec: SplitSpec, role: pa.Array | None) -> NDArray[np.int8] | None:
    """Return the split that each row's text names, [R]; None where the table gives none."""
    if role is None:
        return None
    texts = role.to_pylist()
    present = set(texts)
    for split, names in (("train", spec.train), ("valid", spec.valid), ("test", spec.test)):
        for name in names:
            if name not in present:
                raise InputError(
                    f"split.{split}: no row has {name!r} in column {spec.column}{suggest_names(name, sorted(present))}"
                )
    other = NO_SPLIT if spec.train else TRAIN
    number = dict.fromkeys(spec.train, TRAIN) | dict.fromkeys(spec.valid, VALID) | dict.fromkeys(spec.test, TEST)
    return np.array([number.get(text, other) for text in texts], np.int8)


def deal(spec: SplitSpec, group: NDArray[np.int64], digest: Sequence[bytes], given: NDArray[np.int8] | None) -> Roles:
    """Give groups to the splits or folds that are drawn.

    Args:
        spec: how.
        group: the group of each row, [R].
        digest: of each row's sequences, [R]; see `row_digest`.
        given: splits that the table gives, [R]; only groups that lie in train whole are drawn from.
    """
    if spec.num_folds:
        return _deal_folds(spec, _ordered_groups(group, digest, np.arange(len(group))), len(group))
    split = np.zeros(len(group), np.int8) if given is None else given.copy()
    free = split == TRAIN
    if given is not None:
        outside = np.zeros(int(group.max(initial=-1)) + 1, bool)
        outside[group[(given == VALID) | (given == TEST)]] = True
        free &= ~outside[group]
    num_train = int((split == TRAIN).sum())
    room = {TEST: round(spec.test_fraction * num_train), VALID: round(spec.valid_fraction * num_train)}
    for members in _ordered_groups(group, digest, np.flatnonzero(free)):
        role = next((role for role, places in room.items() if len(members) <= places), TRAIN)
        split[members] = role
        if role != TRAIN:
            room[role] -= len(members)
    return Roles(split, split.astype(np.int16))


def row_digest(seed: int, sequences: bytes) -> bytes:
    """Return what orders a row among the others: it depends on its sequences and the seed alone."""
    return hashlib.blake2b(sequences, digest_size=16, key=str(seed).encode()).digest()


def check_filled(split: NDArray[np.int8]) -> None:
    """Raise InputError where a split has no row."""
    for number, name in enumerate(SPLITS):
        if not (split == number).any():
            counts = ", ".join(f"{other} {int((split == index).sum())}" for index, other in enumerate(SPLITS))
            raise InputError(f"the {name} split has no row ({counts}); name other texts, or set other shares")


def _ordered_groups(
    group: NDArray[np.int64], digest: Sequence[bytes], rows: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """Return the rows of each group, in the order of a digest of all of them: by the least, large ones came first."""
    if not len(rows):
        return []
    rows = rows[np.argsort(group[rows], kind="stable")]
    members = np.split(rows, np.flatnonzero(np.diff(group[rows])) + 1)
    return sorted(members, key=lambda each: hashlib.blake2b(b"".join(sorted(digest[row] for row in each))).digest())


def _deal_folds(spec: SplitSpec, groups: list[NDArray[np.int64]], num_rows: int) -> Roles:
    """Give each group, largest first, to the emptiest fold."""
    fold = np.zeros(num_rows, np.int16)
    filled = [(0, number) for number in range(spec.num_folds)]
    for members in sorted(groups, key=len, reverse=True):  # stable: equal sizes keep the order of their digests
        size, number = filled[0]
        heapq.heapreplace(filled, (size + len(members), number))
        fold[members] = number
    split = np.full(num_rows, TRAIN, np.int8)
    split[fold == spec.valid_fold] = VALID
    split[fold == spec.test_fold] = TEST
    return Roles(split, fold)
