"""Cut sequences into l-mers, as words of two bits a base, and compare the l-mers of one sequence with each other.

An l-mer that holds an N counts nothing (LS-GKM reads every N as A).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cisray.baselines.gkm_filters import BASES, GkmSpec
from cisray.errors import InputError
from cisray.genome.sequence import UNKNOWN, reverse_complement

Codes = NDArray[np.uint8]
_BLOCK = 512  # l-mers compared with all others at once, so that memory grows with the length and not its square


class Lmers(NamedTuple):
    """All l-mers without N of B sequences, one sequence behind another."""

    words: NDArray[np.int32]
    """[M]; the first base has the highest bits."""
    other_strand: NDArray[np.int32]
    """Their reverse complements, [M]."""
    weights: NDArray[np.float32] | None
    """How much each counts, [M]; None where all count 1."""
    starts: NDArray[np.int64]
    """Where each sequence's l-mers begin, and where the last one's end, [B + 1]."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """L-mers of each sequence, [B]."""
        return np.diff(self.starts)


def check_sequences(sequences: Sequence[Codes], spec: GkmSpec) -> None:
    """Raise InputError unless every sequence holds codes [L] of at least l bases."""
    for number, codes in enumerate(sequences):
        if codes.dtype != np.uint8 or codes.ndim != 1 or (codes.size and codes.max() > UNKNOWN):
            raise InputError(
                f"sequence {number}: {codes.dtype} of shape {codes.shape}; wanted codes, uint8 from 0 to 4, of one axis"
            )
        if len(codes) < spec.l:
            raise InputError(
                f"sequence {number}: {len(codes)} bases, fewer than an l-mer's {spec.l}; leave it out or choose a "
                "smaller l"
            )


def find_lmers(sequences: Sequence[Codes], spec: GkmSpec) -> Lmers:
    """Cut sequences, each codes [L], into l-mers; raises InputError as `check_sequences`."""
    check_sequences(sequences, spec)
    apart = np.full(spec.l - 1, UNKNOWN, np.uint8)  # no l-mer spans two sequences
    joined = np.concatenate([apart[:0], *(part for codes in sequences for part in (codes, apart))])
    words, other_strand, known = pack(joined, spec.l)
    owner = np.repeat(np.arange(len(sequences)), [len(codes) + spec.l - 1 for codes in sequences])[: len(words)][known]
    starts = np.searchsorted(owner, np.arange(len(sequences) + 1))
    weights = None
    if spec.kernel == "wgkm":
        gaps = np.zeros(2 * (spec.l - 1))
        parts = [part for codes in sequences for part in (lmer_weights(len(codes), spec), gaps)]
        weights = np.concatenate([gaps[:0], *parts])[: len(words)][known].astype(np.float32)
    return Lmers(words[known], other_strand[known], weights, starts)


def pack(codes: Codes, lmer_bp: int) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
    """Pack codes [..., L] into l-mers, both strands, and tell which hold no N; each [..., L - l + 1].

    The word of an l-mer with N means nothing.
    """
    num = max(0, codes.shape[-1] - lmer_bp + 1)
    letters = codes.astype(np.int32) & 3
    unknown = codes == UNKNOWN
    words = np.zeros((*codes.shape[:-1], num), np.int32)
    other_strand = np.zeros_like(words)
    known = np.ones(words.shape, np.bool_)
    any_unknown = unknown.any()
    for offset in range(lmer_bp):
        piece = letters[..., offset : offset + num]
        words <<= 2
        words |= piece
        other_strand |= (3 - piece) << 2 * offset
        if any_unknown:
            known &= ~unknown[..., offset : offset + num]
    return words, other_strand, known


def other_strands(lmer_bp: int) -> NDArray[np.int64]:
    """Return the reverse complement of every l-mer, by word, [4^l]."""
    words = np.arange(BASES**lmer_bp)
    other = np.zeros(len(words), np.int64)
    for place in range(lmer_bp):
        other = other << 2 | 3 - (words >> 2 * place & 3)
    return other


def lmer_weights(length_bp: int, spec: GkmSpec) -> NDArray[np.float64]:
    """Return how much the l-mer that begins at each base counts, [L - l + 1]: 1, and more around the middle in wgkm.

    The extra weight halves every `half_life_bp` from the middle. That is what LS-GKM's options -M and -H say; no
    scores of its -t 4 have been compared with these.
    """
    num = length_bp - spec.l + 1
    if spec.kernel != "wgkm":
        return np.ones(num)
    from_middle_bp = np.abs(np.arange(num) - (num - 1) / 2)
    return 1 + spec.centre_weight * 2.0 ** (-from_middle_bp / spec.half_life_bp)


def self_products(sequences: Sequence[Codes], spec: GkmSpec, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each sequence's kernel with itself, not normalised, [B]; 0 where every l-mer holds an N.

    Raises:
        InputError: as `check_sequences`.
    """
    check_sequences(sequences, spec)
    return np.array([_self_product(codes, spec, coefficients) for codes in sequences], np.float64)


def norms(sequences: Sequence[Codes], spec: GkmSpec, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the length of each sequence's feature vector, [B].

    Raises:
        InputError: as `check_sequences`, or a sequence holds no l-mer without N.
    """
    squares = self_products(sequences, spec, coefficients)
    wrong = np.flatnonzero(squares <= 0)
    if len(wrong):
        told = f"holds no {spec.l}-mer without N" if squares[wrong[0]] == 0 else f"has no length in {spec.kernel}"
        raise InputError(f"sequence {wrong[0]} {told}, as {len(wrong)} of {len(squares)}; leave them out")
    return np.sqrt(squares)


def _self_product(codes: Codes, spec: GkmSpec, coefficients: NDArray[np.float64]) -> float:
    """Sum the kernel over all pairs of an l-mer and an l-mer of either strand."""
    known = _without_unknown(codes, spec.l)
    weights = lmer_weights(len(codes), spec) if spec.kernel == "wgkm" else None
    strands = [codes, reverse_complement(codes)] if spec.reverse_complement else [codes]
    counted = np.flatnonzero(coefficients)
    total = 0.0
    for start in range(0, len(known), _BLOCK):
        stop = min(start + _BLOCK, len(known))
        for number, other in enumerate(strands):
            # the other strand's l-mers come in reverse order
            order = slice(None, None, -1 if number else None)
            mismatches = count_mismatches(codes[start : stop + spec.l - 1], other, spec.l)
            if not known.all():
                mismatches[~known[start:stop]] = spec.l + 1
                mismatches[:, ~known[order]] = spec.l + 1
            for m in counted:
                alike = mismatches == m
                if weights is None:
                    total += coefficients[m] * np.count_nonzero(alike)
                else:
                    total += coefficients[m] * float(weights[start:stop] @ (alike @ weights[order]))
    return total


def count_mismatches(one: Codes, other: Codes, lmer_bp: int) -> NDArray[np.uint8]:
    """Count the mismatches of each l-mer of one sequence with each of another: [L1], [L2] to [L1-l+1, L2-l+1].

    Sums along diagonals over 1, 2, 4, ... bases add up to those over l: fewer passes than l.
    """
    rows, columns = len(one) - lmer_bp + 1, len(other) - lmer_bp + 1
    run, width = (one[:, None] != other).view(np.uint8), 1
    total = np.zeros((rows, columns), np.uint8)
    done = 0
    while True:
        if lmer_bp & width:
            total += run[done : done + rows, done : done + columns]
            done += width
        if done == lmer_bp:
            return total
        run = run[:-width, :-width] + run[width:, width:]
        width *= 2


def _without_unknown(codes: Codes, lmer_bp: int) -> NDArray[np.bool_]:
    """Tell which l-mers hold no N, [L - l + 1]."""
    before = np.concatenate([[0], np.cumsum(codes == UNKNOWN)])
    return before[lmer_bp:] == before[:-lmer_bp]
