"""Hold a variant's scores against those that the same alleles have among shuffled bases.

The bases on both sides of an edit are shuffled a number of times, with their dinucleotides kept, and the edit is scored
in each of these windows n as in the genome s:

    z_null = (s - mean(n)) / sd(n)                       sd(n) with N - 1 below, and at least 2^-14 of the largest size
    p_null = (1 + number of |n| >= |s|) / (1 + N)        no less than 1 / (1 + N)

per track, as the scorers of ChromBPNet and gReLU have it. It tells what the bases around a variant add to what its
alleles do anywhere. The shuffles of a variant depend on its contig, position and alleles, and on nothing beside it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.files import value_digest
from cisray.genome.shuffle import shuffle_dinucleotides
from cisray.scoring.windows import Placed, PlacedEdit, WindowEdits

LEAST_DEVIATION = 2.0**-14
"""Of a null, as a share of the largest size in it or held against it: a null without spread then gives numbers still,
none of them beyond float16."""
SHUFFLED_AT_ONCE = 1 << 21
"""Bases: 16 MB of random numbers."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NullSpec:
    """Windows of shuffled bases that each variant is scored in beside its own."""

    number: int = 0
    """How many per variant; 0 for none. The work of scoring grows by as many times."""
    kept_bp: int = 1
    """Bases that stay on each side of the alleles: at least the one whose dinucleotide with them is kept."""
    seed: int = 0
    """Of the shuffles."""

    def __post_init__(self) -> None:
        if self.number < 0 or self.number == 1 or self.kept_bp < 1 or self.seed < 0:
            raise InputError(
                f"null: number={self.number}, kept_bp={self.kept_bp}, seed={self.seed}; wanted a number of 0, or of at "
                "least 2, which have a deviation, at least 1 bp, and a seed of 0 or more"
            )


NO_NULL = NullSpec()


class AgainstNull(NamedTuple):
    """Where scores stand among those of shuffled windows."""

    z: NDArray[np.float32]
    """[..., T]"""
    p: NDArray[np.float32]
    """[..., T]"""


def shuffled_windows(window: WindowEdits, edit: PlacedEdit, spec: NullSpec, *, contig: str) -> Iterator[WindowEdits]:
    """Yield an edit in windows whose other bases are shuffled; N is shuffled like a base."""
    at = window.flank_bp + edit.start
    left, right = max(0, at - spec.kept_bp + 1), at + edit.removed_bp + spec.kept_bp - 1
    num_bases = len(window.bases)
    variant = [contig, window.window_start + edit.start, edit.removed_bp, edit.inserted.tolist()]
    key = int(value_digest([spec.seed, *variant]), 16)
    at_once = max(1, SHUFFLED_AT_ONCE // num_bases)
    for first in range(0, spec.number, at_once):
        numbers = range(first, min(first + at_once, spec.number))
        draws = np.stack([np.random.default_rng((key, number)).random(num_bases) for number in numbers])
        rows = np.tile(window.bases, (len(numbers), 1))
        rows[:, :left] = shuffle_dinucleotides(rows[:, :left], draws[:, :left])
        rows[:, right:] = shuffle_dinucleotides(rows[:, right:], draws[:, right:])
        for bases in rows:
            yield window._replace(bases=bases, edits=(edit,))


def windows_with_nulls(placed: Placed, spec: NullSpec) -> Iterator[WindowEdits]:
    """Yield every window of variants, and behind it those of the null of each of its edits, one by one.

    A null is that of an edit's first mask alone: genes have none.
    """
    for held, window in zip(placed.held, placed.windows(), strict=True):
        yield window
        for edit in window.edits:
            yield from shuffled_windows(window, edit._replace(masks=edit.masks[:1]), spec, contig=held.contig)


def hold_against(values: NDArray[np.float32], null: NDArray[np.float32]) -> AgainstNull:
    """Hold scores [T] against those of N shuffled windows, [N, T]."""
    number = len(null)
    largest = np.maximum(np.abs(null).max(axis=0), np.abs(values)).astype(np.float64)
    deviation = np.maximum(null.std(axis=0, ddof=1, dtype=np.float64), LEAST_DEVIATION * largest)
    away = values - null.mean(axis=0, dtype=np.float64)
    z = np.divide(away, deviation, out=np.zeros_like(away), where=deviation > 0)
    as_large = (np.abs(null) >= np.abs(values)).sum(axis=0)
    return AgainstNull(z.astype(np.float32), ((1 + as_large) / (1 + number)).astype(np.float32))
