"""How much two l-mers have in common: gapped k-mer kernels by number of mismatches, from their published formulas.

Ghandi, Lee, Mohammad-Noori and Beer (2014) count gapped k-mers: words of l bases of which k are read. Two l-mers with
m mismatches share C(l - m, k) of them. The same counts also estimate how often each l-mer occurs: of all l-mer counts
that explain them, the smallest in least squares. That estimate spreads an l-mer over its neighbours by a filter that
depends on mismatches alone, and the kernel of two l-mers is the inner product of their estimates.
"""

from functools import cache
from math import comb
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.errors import InputError

BASES = 4
LONGEST = 12
"""Bases of the longest l-mer; a table of all has 4^12 entries."""
MOST_MISMATCHES = 4
_ROUNDING = 1e-12  # smaller shares of the greatest are sums that should be zero


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GkmSpec:
    """Which gapped k-mers are compared, and how; the defaults are LS-GKM's."""

    l: int = 11  # noqa: E741 - the letter of all its papers
    """Bases of a word, gaps included; 3 to 12."""
    k: int = 7
    """Bases of a word that are read."""
    d: int = 3
    """Most mismatches at which two l-mers still count as alike; at most 4."""
    kernel: Literal["gkm_count", "gkm_full", "gkm", "wgkm"] = "gkm"
    """Counts of gapped k-mers; estimates of l-mer counts (full filter); the same with the filter cut before its first
    negative value; and that with l-mers near the middle of a sequence counted more. LS-GKM's -t 0, 1, 2 and 4."""
    reverse_complement: bool = True
    """Whether an l-mer and its reverse complement are one."""
    centre_weight: float = 50.0
    """Of wgkm: how much more an l-mer counts in the middle of its sequence than far from it."""
    half_life_bp: float = 50.0
    """Of wgkm: distance from the middle at which that has fallen to a half."""

    def __post_init__(self) -> None:
        if not 3 <= self.l <= LONGEST or not 1 <= self.k <= self.l:
            raise InputError(f"gkm: l={self.l}, k={self.k}; wanted l from 3 to {LONGEST} and k from 1 to l")
        if not 0 <= self.d <= min(MOST_MISMATCHES, self.l):
            raise InputError(f"gkm: d={self.d}; wanted from 0 to {min(MOST_MISMATCHES, self.l)} mismatches")
        if self.centre_weight < 0 or self.half_life_bp <= 0:
            raise InputError(
                f"gkm: centre_weight={self.centre_weight}, half_life_bp={self.half_life_bp}; wanted a weight of zero "
                "or more and a positive half-life"
            )


def mismatch_coefficients(spec: GkmSpec) -> NDArray[np.float64]:
    """Return the kernel of two l-mers with 0 to l mismatches, [l + 1]; zero beyond d."""
    if spec.kernel == "gkm_count":
        kernel = np.array([comb(spec.l - m, spec.k) for m in range(spec.l + 1)], np.float64)
    elif spec.kernel == "gkm_full":
        kernel = estimate_filter(spec.l, spec.k)  # a projection: applied twice it is itself
    else:
        spread = estimate_filter(spec.l, spec.k)
        negative = np.flatnonzero(spread < 0)
        spread[negative[0] if len(negative) else spec.l + 1 :] = 0.0
        kernel = spectrum(spectrum(spread) ** 2) / BASES**spec.l
        kernel[np.abs(kernel) < _ROUNDING * kernel[0]] = 0.0
    kernel[spec.d + 1 :] = 0.0
    return kernel


def estimate_filter(lmer_bp: int, k: int) -> NDArray[np.float64]:
    """Return how an l-mer counts in the estimate for one with 0 to l mismatches, [l + 1].

    Least squares projects onto what gapped k-mers can tell: all that depends on at most k bases at once. In the
    Hamming scheme that projection is a sum of Krawtchouk polynomials of degree 0 to k.
    """
    polynomials = krawtchouk(lmer_bp)[: k + 1]
    return polynomials.sum(axis=0).astype(np.float64) / BASES**lmer_bp


def spectrum(coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the eigenvalues [l + 1] of the kernel of all l-mers, by how many bases an eigenvector depends on.

    The spectrum of a spectrum is 4^l times what it was made of.
    """
    return coefficients @ krawtchouk(len(coefficients) - 1).astype(np.float64)


@cache
def krawtchouk(lmer_bp: int) -> NDArray[np.int64]:
    """Return the Krawtchouk polynomials of words of l letters out of 4: degree 0 to l at 0 to l, [l + 1, l + 1]."""
    steps = range(lmer_bp + 1)
    values = [[_krawtchouk(lmer_bp, degree, m) for m in steps] for degree in steps]
    table = np.array(values, np.int64)
    table.flags.writeable = False  # one table for everybody
    return table


def _krawtchouk(lmer_bp: int, degree: int, m: int) -> int:
    return sum(
        (-1) ** i * (BASES - 1) ** (degree - i) * comb(m, i) * comb(lmer_bp - m, degree - i) for i in range(degree + 1)
    )
