from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cisray.baselines.gkm_filters import GkmSpec, mismatch_coefficients
from cisray.baselines.gkm_lmers import (
    check_sequences,
    count_mismatches,
    find_lmers,
    lmer_weights,
    norms,
    other_strands,
    pack,
    self_products,
)
from cisray.genome.sequence import encode

OTHER = str.maketrans("ACGTN", "TGCAN")


def other_strand(text):
    return text.translate(OTHER)[::-1]


def word_of(text):
    return int("".join(str("ACGT".index(letter)) for letter in text), 4)


def lmers_of(text, length):
    return [text[start : start + length] for start in range(len(text) - length + 1)]


def slow_self_product(text, spec, coefficients, weights):
    """Sum over pairs of strings, as the definition says."""
    total = 0.0
    lmers = lmers_of(text, spec.l)
    for one, weight in zip(lmers, weights, strict=True):
        for two, other_weight in zip(lmers, weights, strict=True):
            for strand in (two, other_strand(two)) if spec.reverse_complement else (two,):
                if "N" not in one + two:
                    apart = sum(a != b for a, b in zip(one, strand, strict=True))
                    total += weight * other_weight * coefficients[apart]
    return total


@given(st.lists(st.text("ACGTN", min_size=5, max_size=30), max_size=5), st.integers(3, 5))
@settings(max_examples=40)
def test_lmers_are_the_words_of_the_strings(texts, length):
    lmers = find_lmers([encode(text) for text in texts], GkmSpec(l=length, k=2, d=1))
    known = [[word for word in lmers_of(text, length) if "N" not in word] for text in texts]
    assert lmers.counts.tolist() == [len(words) for words in known]
    assert lmers.words.tolist() == [word_of(word) for words in known for word in words]
    assert lmers.other_strand.tolist() == [word_of(other_strand(word)) for words in known for word in words]
    assert lmers.weights is None


def test_the_other_strand_of_every_word():
    words = ["".join(word) for word in product("ACGT", repeat=3)]
    assert other_strands(3).tolist() == [word_of(other_strand(word)) for word in words]


def test_weights_follow_their_lmers_past_n():
    spec = GkmSpec(l=3, k=2, d=1, kernel="wgkm", centre_weight=8, half_life_bp=1)
    lmers = find_lmers([encode("ACNGTACG"), encode("ACGTA")], spec)
    # six l-mers, of which the first three hold the N; the middle lies between the third and the fourth
    np.testing.assert_allclose(lmers.weights, [1 + 8 * 2**-0.5, 1 + 8 * 2**-1.5, 1 + 8 * 2**-2.5, 5, 9, 5], rtol=1e-6)
    assert lmers.counts.tolist() == [3, 3]
    assert lmer_weights(5, GkmSpec(l=3, k=2, d=1)).tolist() == [1, 1, 1]


def test_windows_pack_as_their_rows_do():
    codes = np.random.default_rng(0).integers(0, 5, (2, 4, 20)).astype(np.uint8)
    words, other, known = pack(codes, 7)
    for place in np.ndindex(2, 4):
        row = pack(codes[place], 7)
        for whole, part in zip((words, other, known), row, strict=True):
            np.testing.assert_array_equal(whole[place], part)
    assert words.shape == (2, 4, 14)


@given(st.integers(3, 12), st.integers(0, 20), st.integers(0, 20), st.integers(0, 999))
@settings(max_examples=40)
def test_mismatches_are_counted_along_diagonals(length, more_rows, more_columns, seed):
    random = np.random.default_rng(seed)
    one, other = (random.integers(0, 4, length + more).astype(np.uint8) for more in (more_rows, more_columns))
    windows = [np.lib.stride_tricks.sliding_window_view(each, length) for each in (one, other)]
    expected = (windows[0][:, None] != windows[1]).sum(axis=2)
    np.testing.assert_array_equal(count_mismatches(one, other, length), expected)


@pytest.mark.parametrize("kernel", ["gkm_count", "gkm_full", "gkm", "wgkm"])
@pytest.mark.parametrize("reverse_complement", [True, False])
def test_self_products_sum_over_all_pairs(kernel, reverse_complement):
    spec = GkmSpec(l=5, k=3, d=2, kernel=kernel, reverse_complement=reverse_complement, half_life_bp=7)
    coefficients = mismatch_coefficients(spec)
    texts = ["ACGTACGTNACGTTTGACA", "ACGTT", "NNNNN", "TTTTTTTTNTTTT"]
    found = self_products([encode(text) for text in texts], spec, coefficients)
    expected = [slow_self_product(text, spec, coefficients, lmer_weights(len(text), spec)) for text in texts]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[2] == 0


@pytest.mark.parametrize("kernel", ["gkm", "wgkm"])
def test_a_sequence_of_several_blocks_gives_the_same(kernel, monkeypatch):
    spec = GkmSpec(l=6, k=4, d=2, kernel=kernel)
    codes = np.random.default_rng(3).integers(0, 4, 700).astype(np.uint8)
    codes[[5, 600]] = 4
    coefficients = mismatch_coefficients(spec)
    blocks = self_products([codes], spec, coefficients)
    monkeypatch.setattr("cisray.baselines.gkm_lmers._BLOCK", 10_000)
    np.testing.assert_allclose(blocks, self_products([codes], spec, coefficients), rtol=1e-12)


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([encode("ACGTACGTACG"), encode("ACGT")], "sequence 1: 4 bases, fewer than an l-mer's 11; leave it out or"),
        ([np.full(20, 5, np.uint8)], r"sequence 0: uint8 of shape \(20,\); wanted codes, uint8 from 0 to 4"),
        ([np.zeros(20, np.int64)], r"sequence 0: int64 of shape \(20,\); wanted codes"),
        ([np.zeros((2, 20), np.uint8)], r"sequence 0: uint8 of shape \(2, 20\); wanted codes, .* of one axis"),
    ],
)
def test_what_is_no_sequence_is_refused(sequences, message):
    for check in (check_sequences, find_lmers, lambda *given: self_products(*given, np.ones(12))):
        with pytest.raises(ValueError, match=message):
            check(sequences, GkmSpec())


def test_a_sequence_without_an_lmer_has_no_length():
    spec = GkmSpec(l=5, k=3, d=1)
    sequences = [encode("ACGTACGT"), encode("ACGTNACGT"), encode("NNNNNN")]
    with pytest.raises(ValueError, match="sequence 1 holds no 5-mer without N, as 2 of 3; leave them out"):
        norms(sequences, spec, mismatch_coefficients(spec))
    with pytest.raises(ValueError, match="sequence 0 has no length in gkm_full, as 1 of 1"):
        norms(sequences[:1], GkmSpec(l=5, k=3, d=1, kernel="gkm_full"), np.array([-1.0, 0, 0, 0, 0, 0]))
