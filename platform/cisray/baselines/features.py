"""Numbers that describe a sequence, for models that need a table: counts of k-mers, composition, motif scores.

Codes [B, L] become columns with names. What holds an N is not counted.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from cisray.baselines.gkm_filters import BASES, LONGEST
from cisray.baselines.gkm_lmers import Codes, other_strands, pack
from cisray.errors import InputError
from cisray.genome.motifs import Motif, scan_each
from cisray.genome.sequence import UNKNOWN

LETTERS = "ACGT"
MOST_COLUMNS = 1 << 22


class Counts(NamedTuple):
    """How often each word occurs in B sequences."""

    values: csr_array
    """Float32 [B, F]."""
    names: tuple[str, ...]
    """[F]."""


class Table(NamedTuple):
    """What is known of B sequences, number by number."""

    values: NDArray[np.float32]
    """[B, F]."""
    names: tuple[str, ...]
    """[F]."""


def count_kmers(codes: Codes, k: int, *, fold_strands: bool = True) -> Counts:
    """Count k-mers of codes [B, L]; with `fold_strands` a k-mer and its reverse complement are one, named by the first.

    Raises:
        InputError: there are too many k-mers, or the sequences are shorter than one.
    """
    return count_gapped_kmers(codes, k, k, fold_strands=fold_strands)


def count_gapped_kmers(codes: Codes, length_bp: int, k: int, *, fold_strands: bool = True) -> Counts:
    """Count words of `length_bp` bases of which k are read, at every choice of those, in codes [B, L].

    A name shows gaps as dots, A.G; with `fold_strands` a word and its reverse complement are one, as in `count_kmers`.

    Raises:
        InputError: there are too many such words, or the sequences are shorter than one.
    """
    _check(codes, length_bp, k, comb(length_bp, k) * BASES**k)
    columns_of = _gapped_columns(length_bp, k, fold_strands=fold_strands)
    words, _, known = pack(codes, length_bp)
    tallies = [
        _tally(columns_of.column_of[number * BASES**k + _read(words, places, length_bp)], known, len(columns_of.names))
        for number, places in enumerate(columns_of.choices)
    ]
    return Counts(sum(tallies[1:], tallies[0]), columns_of.names)


def place_kmers(codes: Codes, k: int) -> Counts:
    """Tell which k-mer begins at each base of codes [B, L]: 1 at `offset:kmer`, and 0 at all others of that offset.

    Raises:
        InputError: there are too many such columns, or the sequences are shorter than k.
    """
    num_offsets = codes.shape[-1] - k + 1
    _check(codes, k, k, max(0, num_offsets) * BASES**k)
    words, _, known = pack(codes, k)
    columns = words + BASES**k * np.arange(num_offsets)
    kmers = _names(tuple(range(k)), k)
    names = tuple(f"{offset}:{kmer}" for offset in range(num_offsets) for kmer in kmers)
    return Counts(_tally(columns, known, len(names)), names)


def composition(codes: Codes, regions: Mapping[str, tuple[int, int]] | None = None) -> Table:
    """Describe the bases of each region of codes [B, L]: shares of bases and dinucleotides, GC, and CpG.

    GC is a share of the known bases; CpG is what is observed over what the region's C and G lead to expect. A number
    that is not defined is NaN: all of a region of N, and CpG where C or G is missing.

    Args:
        codes: [B, L].
        regions: by name, offsets of the first base and behind the last; the whole sequence unless given.

    Raises:
        InputError: a region does not lie within the sequences, or is shorter than a dinucleotide.
    """
    _check(codes, 2, 2, BASES**2)
    blocks, names = [], []
    for region, (start, end) in (regions or {"whole": (0, codes.shape[1])}).items():
        if not 0 <= start < end - 1 < codes.shape[1]:
            raise InputError(
                f"region {region}: {start} to {end}; wanted at least two bases within a sequence's {codes.shape[1]}"
            )
        part = codes[:, start:end]
        bases = np.stack([(part == base).sum(axis=1) for base in range(BASES)], axis=1).astype(np.float64)
        words, _, known = pack(part, 2)
        pairs = np.asarray(_tally(words, known, BASES**2).todense(), np.float64)
        num_bases, num_pairs = (each.sum(axis=1, keepdims=True) for each in (bases, pairs))
        num_c, num_g = bases[:, 1:2], bases[:, 2:3]
        cpg = pairs[:, [1 * BASES + 2]]
        blocks += [
            _share(bases, num_bases),
            _share(pairs, num_pairs),
            _share(num_c + num_g, num_bases),
            _share(cpg * num_bases**2, num_c * num_g * num_pairs),
        ]
        kinds = [*LETTERS, *_names((0, 1), 2), "gc", "cpg_ratio"]
        names += [f"{region}.{kind}" for kind in kinds]
    return Table(np.hstack(blocks).astype(np.float32), tuple(names))


def motif_scores(codes: Codes, motifs: Sequence[Motif]) -> Table:
    """Score codes [B, L] by motifs: the best match, and all matches of a sequence together, on the better strand.

    Matches add up as odds: `sum` is the log2 of the summed 2^score, which a second site raises.

    Raises:
        InputError: a motif is longer than the sequences, or there is none.
    """
    if not motifs:
        raise InputError("no motif to score by; name at least one")
    _check(codes, 1, 1, 1)
    longest = max(motifs, key=lambda motif: motif.width)
    if longest.width > codes.shape[1]:
        raise InputError(f"motif {longest.name} has {longest.width} bases, more than the sequences' {codes.shape[1]}")
    columns, names = [], []
    for motif, scores in zip(motifs, scan_each(codes, motifs), strict=True):
        best = scores.max(axis=1)
        odds = np.exp2(scores - best[:, None]).astype(np.float64).sum(axis=1)  # of the best match, 1
        columns += [best, best + np.log2(odds)]
        names += [f"{motif.name}.best", f"{motif.name}.sum"]
    return Table(np.stack(columns, axis=1).astype(np.float32), tuple(names))


def _check(codes: Codes, length_bp: int, k: int, num_columns: int) -> None:
    if codes.dtype != np.uint8 or codes.ndim != 2 or (codes > UNKNOWN).any():
        raise InputError(f"codes are {codes.dtype} of shape {codes.shape}; wanted codes 0 to 4, uint8 [B, L]")
    if not 1 <= k <= length_bp <= LONGEST or num_columns > MOST_COLUMNS:
        raise InputError(
            f"words of {length_bp} bases of which {k} are read, in {num_columns} columns; wanted 1 to {LONGEST} bases "
            f"and at most {MOST_COLUMNS} columns"
        )
    if codes.shape[1] < length_bp:
        raise InputError(f"sequences of {codes.shape[1]} bases; wanted at least the {length_bp} of a word")


class _Columns(NamedTuple):
    """Where words of one length are counted."""

    choices: tuple[tuple[int, ...], ...]
    """The places that are read, for each block of 4^k words."""
    column_of: NDArray[np.int64]
    """By word of a block, blocks behind one another."""
    names: tuple[str, ...]
    """[F]."""


@lru_cache(maxsize=8)  # the same for every batch of a data set, and slow to write where words are long
def _gapped_columns(length_bp: int, k: int, *, fold_strands: bool) -> _Columns:
    choices = tuple(combinations(range(length_bp), k))
    names = [name for places in choices for name in _names(places, length_bp)]
    column_of = np.arange(len(names))
    if fold_strands:
        mirrored = [tuple(length_bp - 1 - place for place in reversed(places)) for places in choices]
        number_of = {places: number for number, places in enumerate(choices)}
        other = np.concatenate([number_of[places] * BASES**k + other_strands(k) for places in mirrored])
        kept, column_of = np.unique(np.minimum(column_of, other), return_inverse=True)
        names = [names[column] for column in kept]
    return _Columns(choices, column_of, tuple(names))


def _names(places: tuple[int, ...], length_bp: int) -> list[str]:
    """Write every word that is read at some places, in the order of their numbers, with dots between."""
    names = [""]
    for place in range(length_bp):
        letters = LETTERS if place in places else "."
        names = [name + letter for name in names for letter in letters]
    return names


def _read(words: NDArray[np.int32], places: tuple[int, ...], length_bp: int) -> NDArray[np.int64]:
    """Read some places of words of `length_bp` bases as shorter words."""
    read = np.zeros(words.shape, np.int64)
    for place in places:
        read = read << 2 | words >> 2 * (length_bp - 1 - place) & 3
    return read


def _tally(columns: NDArray[np.integer], known: NDArray[np.bool_], num_columns: int) -> csr_array:
    """Count columns [B, P] where they are known, row by row: [B, num_columns]."""
    rows = np.broadcast_to(np.arange(len(columns))[:, None], columns.shape)[known]
    ones = np.ones(len(rows), np.float32)
    counts = csr_array((ones, (rows, columns[known])), shape=(len(columns), num_columns))
    counts.sum_duplicates()
    return counts


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide; NaN where the whole is nothing."""
    return part / np.where(whole > 0, whole, np.nan)
