"""Draw numbers from a seed and a locus alone, so that who draws, in which order and in how many shards is no matter."""

import hashlib

import numpy as np
from numpy.typing import NDArray


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return 64 well-mixed bits of each number (the finaliser of splitmix64): a bijection, equal on every machine."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def locus_draws(contig: str, positions: NDArray[np.int64], *, seed: int) -> NDArray[np.float64]:
    """Return one number in [0, 1) for each position of a contig, as good as independent of one another."""
    digest = hashlib.blake2b(f"{seed}:{contig}".encode(), digest_size=8).digest()
    stream = np.uint64(int.from_bytes(digest, "little"))
    return (mix(mix(positions.astype(np.uint64)) ^ stream) >> np.uint64(11)).astype(np.float64) * 2.0**-53
