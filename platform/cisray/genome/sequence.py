"""Turn letters into codes and back: 0-3 = ACGT, 4 = N."""

import numpy as np
from numpy.typing import NDArray

from cisray.errors import InputError

UNKNOWN = 4
"""The code of N, and of every letter that is not one base."""


def _base_codes() -> NDArray[np.uint8]:
    table = np.full(256, UNKNOWN, np.uint8)
    for letters, code in (("Aa", 0), ("Cc", 1), ("Gg", 2), ("TtUu", 3)):
        table[[ord(letter) for letter in letters]] = code
    table.flags.writeable = False  # one table for everybody
    return table


BASE_CODES = _base_codes()
"""The code of each of the 256 bytes, uint8 [256]."""
_LETTERS = np.frombuffer(b"ACGTN", np.uint8)
_COMPLEMENT = np.array([3, 2, 1, 0, UNKNOWN], np.uint8)


def encode(bases: bytes | str) -> NDArray[np.uint8]:
    """Return the codes [L] of letters: either case, U as T, every other letter as N."""
    if isinstance(bases, str):
        bases = bases.encode("ascii", "replace")
    return BASE_CODES[np.frombuffer(bases, np.uint8)]


def decode(codes: NDArray[np.uint8]) -> str:
    """Return the letters of codes [L]; raises InputError for a code above 4."""
    _check_codes(codes)
    return _LETTERS[codes].tobytes().decode("ascii")


def reverse_complement(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the other strand of codes [..., L], read along the last axis; raises InputError as `decode`."""
    _check_codes(codes)
    return _COMPLEMENT[codes[..., ::-1]]


def _check_codes(codes: NDArray[np.uint8]) -> None:
    if codes.dtype != np.uint8 or (codes.size and codes.max() > UNKNOWN):
        highest = codes.max() if codes.size else "none"
        raise InputError(f"codes must be uint8 from 0 to 4, got {codes.dtype} up to {highest}; make them with encode")
