from collections import Counter
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from cisray.errors import InputError
from cisray.genome.sequence import decode, encode
from cisray.genome.shuffle import shuffle_dinucleotides


def dinucleotides(codes):
    letters = decode(codes)
    return Counter(letters[first : first + 2] for first in range(len(letters) - 1))


def draws(shape, seed=1):
    return np.random.default_rng(seed).random(shape)


@given(
    st.integers(1, 60).flatmap(
        lambda length: st.lists(st.text("ACGTN", min_size=length, max_size=length), min_size=1, max_size=4)
    ),
    st.integers(0, 1000),
)
def test_neighbours_and_both_ends_are_kept(sequences, seed):
    codes = np.stack([encode(sequence) for sequence in sequences])
    shuffled = shuffle_dinucleotides(codes, draws(codes.shape, seed))
    for before, after in zip(codes, shuffled, strict=True):
        assert dinucleotides(before) == dinucleotides(after)
        assert (before[0], before[-1]) == (after[0], after[-1])


@pytest.mark.parametrize("sequence", ["ACAACGAC", "AAACAAGA", "ANACAGNA"])
def test_every_other_order_is_equally_likely(sequence):
    codes = encode(sequence)
    possible = {
        "".join(order) for order in permutations(sequence) if Counter(pairwise(order)) == Counter(pairwise(sequence))
    }
    rows = np.tile(codes, (4000, 1))
    found = Counter(decode(row) for row in shuffle_dinucleotides(rows, draws(rows.shape)))
    assert set(found) == possible
    assert len(possible) > 2
    assert chisquare(list(found.values())).pvalue > 1e-3


def test_a_step_that_is_rare_among_its_like_needs_no_retries():
    # the one way out of a long repeat: an algorithm that draws and rejects would all but never end here
    codes = encode("AC" * 2000 + "AGT")[None]
    shuffled = shuffle_dinucleotides(codes, draws(codes.shape))
    assert dinucleotides(shuffled[0]) == dinucleotides(codes[0])


def test_a_row_depends_on_its_own_draws_alone():
    codes = np.random.default_rng(2).integers(0, 4, (6, 50), np.uint8)
    numbers = draws(codes.shape)
    together = shuffle_dinucleotides(codes, numbers)
    alone = np.concatenate([shuffle_dinucleotides(codes[i : i + 1], numbers[i : i + 1]) for i in range(6)])
    np.testing.assert_array_equal(together, alone)
    assert (together != codes).any(axis=1).all()


def test_draws_of_another_shape_are_refused():
    with pytest.raises(InputError, match="wanted one draw per base"):
        shuffle_dinucleotides(np.zeros((2, 5), np.uint8), np.zeros((2, 4)))
