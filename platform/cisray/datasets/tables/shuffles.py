"""Make negatives of a table's positives: their own sequences shuffled, every count of two neighbouring bases kept."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.datasets.loci.draws import locus_draws
from cisray.datasets.loci.folds import SPLITS, Split
from cisray.datasets.tables.table_rows import Letters, Rows
from cisray.errors import InputError
from cisray.genome.sequence import decode
from cisray.genome.shuffle import shuffle_dinucleotides

_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ShuffleSpec:
    """Negatives for a table that lists positives alone; a row is positive where one of its labels is true."""

    kind: Literal["shuffle"] = "shuffle"
    """The sequences of a positive row, dinucleotides kept; they stay in its split."""
    ratio: int = 1
    """Negatives per positive."""
    splits: tuple[Split, ...] = SPLITS
    """The splits that get such negatives; not those whose negatives the table lists."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.ratio < 1 or not self.splits:
            raise InputError(
                f"negatives: ratio={self.ratio}, splits={list(self.splits)}; wanted at least one negative per positive "
                "and a split"
            )


def positives(rows: Rows) -> NDArray[np.bool_]:
    """Tell which rows have a label that is true, [R]."""
    return np.asarray((rows.targets == 1).any(axis=1))


def shuffled(rows: Rows, copy: NDArray[np.int64], *, seed: int) -> tuple[Rows, int]:
    """Return rows with shuffled sequences and no true label, and how many were left out, for lack of another order.

    Args:
        rows: positive rows, R of them.
        copy: the number of each row's negative among those of its positive, [R].
        seed: with a sequence and its copy's number it decides what becomes of it.
    """
    letters = rows.letters
    of_sequence = np.repeat(copy, np.diff(rows.first))
    codes = np.empty(int(letters.length.sum()), np.uint8)
    start = np.cumsum(letters.length) - letters.length
    same = np.ones(len(letters.length), bool)
    for length in np.unique(letters.length).tolist():
        of_length = np.flatnonzero(letters.length == length)
        for first in range(0, len(of_length), _AT_ONCE):
            some = of_length[first : first + _AT_ONCE]
            before = letters.codes[letters.start[some][:, None] + np.arange(length)]
            draws = [
                locus_draws(f"{decode(bases)}\tcopy {number}", np.arange(length), seed=seed)
                for bases, number in zip(before, of_sequence[some].tolist(), strict=True)
            ]
            after = shuffle_dinucleotides(before, np.array(draws).reshape(before.shape))
            codes[start[some][:, None] + np.arange(length)] = after
            same[some] = (before == after).all(axis=1)
    changed = ~np.logical_and.reduceat(same, rows.first[:-1])
    negatives = rows._replace(
        letters=Letters(codes, start, letters.length), targets=np.where(np.isnan(rows.targets), np.nan, np.float32(0))
    )
    return negatives.pick(np.flatnonzero(changed)), int((~changed).sum())
