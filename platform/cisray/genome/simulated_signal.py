"""Say what signal a sequence of the simulated genome has: its motifs, how well bound, and what they raise.

All numbers are multiples of a small power of two, so that sums are exact in float64 whatever their order:
a signal is the same to the bit for both strands, for a window and for the whole contig.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

TRACKS = ("strength", "spacing", "plus", "minus")
"""Sites of motif A; pairs of A and B; sites of C on the plus strand, and on the minus strand."""
REACH_BP = 320
"""A base says nothing about the signal farther away than this: kernel, pair and motif taken together."""
_GRID = 2.0**16
_BASELINE = 1.5
_SITE, _PART, _PAIR = 40.0, 4.0, 80.0  # what a site raises its track by, at the kernel's peak
_GAPS_BP = np.arange(10, 31)  # from the end of A to the start of B
_LETTER_SHARES = {"A": "A", "C": "C", "G": "G", "T": "T", "R": "AG", "Y": "CT", "W": "AT", "K": "GT"}
_BACKGROUND = np.array([0.31, 0.19, 0.19, 0.31])


class Motif(NamedTuple):
    """A weight matrix, of odd width so that both strands have one centre."""

    name: str
    probabilities: NDArray[np.float64]
    """[width, 4]"""
    scores: NDArray[np.float64]
    """Log odds against the background [width, 5], in nats; N is worse than any base."""
    threshold: float
    """The score at which half of the sites are bound."""

    @property
    def half(self) -> int:
        """Bases on each side of the centre."""
        return len(self.probabilities) // 2


def _motif(name: str, consensus: str) -> Motif:
    """Make a motif of a consensus: 0.94 for a base; of two letters, 0.75 and 0.21."""
    probabilities = np.full((len(consensus), 4), 0.02)
    for position, letter in enumerate(consensus):
        bases = ["ACGT".index(base) for base in _LETTER_SHARES[letter]]
        probabilities[position, bases] = [0.94] if len(bases) == 1 else [0.75, 0.21]
    scores = np.full((len(consensus), 5), -64.0)
    scores[:, :4] = _on_grid(np.log(probabilities / _BACKGROUND))
    return Motif(name, probabilities, scores, threshold=float(scores.max(axis=1).sum()) - 3.0)


def _on_grid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.rint(values * _GRID) / _GRID


MOTIFS = (_motif("A", "RCCGATTAWGC"), _motif("B", "TTGYACGCA"), _motif("C", "TGGCARATCGT"))
# Around a site of A; downstream of a site of C.
_AROUND_BP = np.arange(-120, 121)
_AROUND = _on_grid(np.exp(-0.5 * (_AROUND_BP / 35.0) ** 2))
_DOWNSTREAM_BP = np.arange(10, 251)
_DOWNSTREAM = _on_grid(np.exp(-(_DOWNSTREAM_BP - 10) / 70.0))


def expected_signal(codes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return what each track expects at each base [T, L], in the order of TRACKS.

    The reverse complement has the same signal, flipped, and with `plus` and `minus` exchanged.
    """
    (a_plus, a_minus), (b_plus, b_minus), (c_plus, c_minus) = (occupancy(codes, motif) for motif in MOTIFS)
    a, b, _ = MOTIFS
    step = a.half + 1 + b.half + _GAPS_BP  # from centre to centre
    pairs = _pairs(a_plus, b_plus, step) + _pairs(a_minus, b_minus, -step)
    around_a = _spread(a_plus + a_minus, _AROUND_BP, _AROUND)
    around_b = _spread(b_plus + b_minus, _AROUND_BP, _AROUND)
    return _BASELINE + np.stack(
        [
            _SITE * around_a,
            _PART * (around_a + around_b) + _PAIR * _spread(pairs, _AROUND_BP, _AROUND),
            _SITE * _spread(c_plus, _DOWNSTREAM_BP, _DOWNSTREAM),
            _SITE * _spread(c_minus, -_DOWNSTREAM_BP, _DOWNSTREAM),
        ]
    )


def occupancy(codes: NDArray[np.uint8], motif: Motif) -> NDArray[np.float64]:
    """Return the bound share of each site, by strand and by the base in its centre [2, L]."""
    bound = np.zeros((2, len(codes)))
    sites = len(codes) - 2 * motif.half
    if sites < 1:
        return bound
    # A=0 pairs with T=3 and C=1 with G=2, N stays
    other_strand = motif.scores[::-1, [3, 2, 1, 0, 4]]
    for strand, scores in enumerate((motif.scores, other_strand)):
        total = np.zeros(sites)
        for position, column in enumerate(scores):
            total += column[codes[position : position + sites]]
        bound[strand, motif.half : motif.half + sites] = _on_grid(expit(total - motif.threshold))
    return bound


def _pairs(first: NDArray[np.float64], second: NDArray[np.float64], steps: NDArray[np.int_]) -> NDArray[np.float64]:
    """Return the share of first sites [L] that are bound together with a second one some step away."""
    sites = np.flatnonzero(first)
    reach = int(np.abs(steps).max())
    partners = np.pad(second, reach)[sites[:, None] + reach + steps].sum(axis=1)
    pairs = np.zeros_like(first)
    pairs[sites] = _on_grid(first[sites] * partners)
    return pairs


def _spread(bound: NDArray[np.float64], offsets: NDArray[np.int_], kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum [L] of a kernel laid over every site; few bases are sites at all."""
    sites = np.flatnonzero(bound)
    where = sites[:, None] + offsets
    inside = (where >= 0) & (where < len(bound))
    weights = bound[sites, None] * kernel
    total = np.zeros_like(bound)
    np.add.at(total, where[inside], weights[inside])
    return total
