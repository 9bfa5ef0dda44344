"""What a gapped k-mer SVM has learned as one weight for each l-mer: scores by look-up, and deltaSVM.

The kernel is linear in the counts of l-mers, so all support vectors add up to one table of 4^l weights. A sequence's
score is the sum of its l-mers' weights over the length of its feature vector, less rho.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cisray.baselines.gkm_filters import BASES, GkmSpec, mismatch_coefficients, spectrum
from cisray.baselines.gkm_lmers import Codes, check_sequences, find_lmers, norms, other_strands, pack, self_products
from cisray.errors import InputError
from cisray.genome.sequence import UNKNOWN

# Four functions of a base, the first of them constant, each orthogonal to the others.
_CHARACTERS = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], np.float64)
_BASE_BITS = 0x555555  # the lower bit of each of 12 bases
_SEQUENCES_AT_ONCE = 256  # what is computed of these stays small
_VARIANTS_AT_ONCE = 4096  # and of these in the cache


class GkmTable(NamedTuple):
    """A trained gapped k-mer SVM: one weight for each l-mer."""

    spec: GkmSpec
    weights: NDArray[np.float32]
    """[4^l], by word; the same for both strands."""
    rho: float
    """What is taken off every score."""

    def score(self, sequences: Sequence[Codes]) -> NDArray[np.float64]:
        """Score sequences, each codes [L]: [B]; positive is the positive class. NaN where every l-mer holds an N.

        Raises:
            InputError: a sequence is shorter than l.
        """
        check_sequences(sequences, self.spec)
        kernel = mismatch_coefficients(self.spec)
        parts = range(0, len(sequences), _SEQUENCES_AT_ONCE)
        scores = [self._score(sequences[start : start + _SEQUENCES_AT_ONCE], kernel) for start in parts]
        return np.concatenate([np.empty(0), *scores])

    def _score(self, sequences: Sequence[Codes], kernel: NDArray[np.float64]) -> NDArray[np.float64]:
        squares = self_products(sequences, self.spec, kernel)
        return self.sum_weights(sequences) / np.sqrt(np.where(squares > 0, squares, np.nan)) - self.rho

    def sum_weights(self, sequences: Sequence[Codes]) -> NDArray[np.float64]:
        """Sum the weights of each sequence's l-mers, codes [L] each: [B]; 0 where every l-mer holds an N.

        Raises:
            InputError: a sequence is shorter than l.
        """
        lmers = find_lmers(sequences, self.spec)
        weights = self.weights[lmers.words].astype(np.float64)
        if lmers.weights is not None:
            weights *= lmers.weights
        before = np.concatenate([[0.0], np.cumsum(weights)])
        sums: NDArray[np.float64] = before[lmers.starts[1:]] - before[lmers.starts[:-1]]
        return sums

    def delta_svm(self) -> "DeltaSvm":
        """Return the scores of single l-mers that deltaSVM sums."""
        coefficients = mismatch_coefficients(self.spec)
        words = np.arange(len(self.weights))
        squares = np.full(len(words), coefficients[0])
        if self.spec.reverse_complement:
            squares += coefficients[_count_bases(words ^ other_strands(self.spec.l))]
        return DeltaSvm(self.spec.l, (self.weights / np.sqrt(squares)).astype(np.float32))

    def state(self) -> dict[str, NDArray]:
        """Return all arrays, as safetensors stores them."""
        return {"gkm.weights": self.weights, "gkm.rho": np.array([self.rho])}

    @classmethod
    def from_state(cls, spec: GkmSpec, state: Mapping[str, NDArray]) -> "GkmTable":
        """Make a table from the arrays of `state`; raises InputError where they are not those of `spec`."""
        weights, rho = take_arrays(state, ("gkm.weights", "gkm.rho"))
        if weights.shape != (BASES**spec.l,) or rho.shape != (1,):
            raise InputError(f"gkm.weights has shape {weights.shape}; wanted 4^{spec.l} weights, and one rho")
        return cls(spec, weights.astype(np.float32), float(rho[0]))


class DeltaSvm(NamedTuple):
    """The score of each l-mer by itself, less the intercept, and sums of them: the deltaSVM of Lee et al. (2015)."""

    lmer_bp: int
    scores: NDArray[np.float32]
    """[4^l], by word."""

    def sums(self, codes: Codes) -> NDArray[np.float64]:
        """Sum the scores of all l-mers without N of each window, [B, L] to [B]; NaN for a window that has none."""
        if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] < self.lmer_bp or (codes > UNKNOWN).any():
            raise InputError(
                f"windows are {codes.dtype} of shape {codes.shape}; wanted codes 0 to 4, uint8 [B, L], of at least "
                f"{self.lmer_bp} bases"
            )
        total = np.empty(len(codes), np.float64)
        for start in range(0, len(codes), _VARIANTS_AT_ONCE):
            words, _, known = pack(codes[start : start + _VARIANTS_AT_ONCE], self.lmer_bp)
            scores = self.scores.take(words)
            if not known.all():
                scores[~known] = 0.0
            sums = scores.sum(axis=1, dtype=np.float64)
            total[start : start + len(sums)] = np.where(known.any(axis=1), sums, np.nan)
        return total

    def delta(self, reference: Codes, alternate: Codes) -> NDArray[np.float64]:
        """Return how much each variant adds: windows [V, L1] and [V, L2] that differ by it alone, to [V].

        With at least l - 1 bases on either side of the variant this is the sum over the l-mers that overlap it, as
        the others cancel. Windows of several lengths are filled up with N at the end.
        """
        if len(reference) != len(alternate):
            raise InputError(f"{len(reference)} reference and {len(alternate)} alternate windows; wanted pairs")
        return self.sums(alternate) - self.sums(reference)


def weight_table(
    sequences: Sequence[Codes], coefficients: NDArray[np.float64], *, rho: float, spec: GkmSpec
) -> GkmTable:
    """Add support vectors, each codes [L] with a coefficient [S], up to one weight for each l-mer.

    The kernel of all l-mers is diagonal in products of `_CHARACTERS`, so that 4^l weights cost a few passes over
    them, however many support vectors there are.

    Raises:
        InputError: a sequence is shorter than l, or holds no l-mer without N.
    """
    kernel = mismatch_coefficients(spec)
    lmers = find_lmers(sequences, spec)
    given = np.repeat(coefficients / norms(sequences, spec, kernel), lmers.counts)
    if lmers.weights is not None:
        given = given * lmers.weights
    strands = [lmers.words, lmers.other_strand] if spec.reverse_complement else [lmers.words]
    counts = np.sum([np.bincount(words, weights=given, minlength=BASES**spec.l) for words in strands], axis=0)
    weights = _transform(_transform(counts) * spectrum(kernel)[_count_bases(np.arange(BASES**spec.l))])
    return GkmTable(spec, (weights / BASES**spec.l).astype(np.float32), rho)


def take_arrays(state: Mapping[str, NDArray], names: Sequence[str]) -> list[NDArray]:
    """Return arrays by name; raise InputError that names those that are missing."""
    missing = [name for name in names if name not in state]
    if missing:
        raise InputError(f"a gapped k-mer model lacks {', '.join(missing)}; it has {', '.join(state) or 'nothing'}")
    return [state[name] for name in names]


def _transform(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take the products with all characters, [4^l]: base by base, each turn bringing the last one to the front."""
    for _ in range(round(np.log2(len(values)) / 2)):
        values = (values.reshape(-1, BASES) @ _CHARACTERS).T.ravel()
    return values


def _count_bases(words: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Count the bases of words that are not A: the mismatches of two words, where these are what differs."""
    return np.bitwise_count((words | words >> 1) & _BASE_BITS)
