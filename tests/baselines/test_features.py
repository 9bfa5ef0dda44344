from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cisray.baselines.features import (
    composition,
    count_gapped_kmers,
    count_kmers,
    motif_scores,
    place_kmers,
)
from cisray.baselines.gkm_filters import GkmSpec
from cisray.baselines.gkm_kernel import kernel_matrix
from cisray.genome.motifs import Motif, consensus_motif
from cisray.genome.sequence import encode, reverse_complement

OTHER = str.maketrans("ACGTN.", "TGCAN.")
SAME_LENGTH = st.integers(6, 25).flatmap(
    lambda length: st.lists(st.text("ACGTN", min_size=length, max_size=length), min_size=1, max_size=4)
)


def codes_of(texts):
    return np.stack([encode(text) for text in texts])


def windows(text, length):
    return [text[start : start + length] for start in range(len(text) - length + 1)]


def canonical(word, names):
    other = word.translate(OTHER)[::-1]
    return word if word in names else other


def dense(counts):
    return counts.values.toarray()


@given(SAME_LENGTH, st.integers(1, 4), st.booleans())
@settings(max_examples=30)
def test_kmers_are_counted_as_strings_are(texts, k, fold):
    counts = count_kmers(codes_of(texts), k, fold_strands=fold)
    places = {name: column for column, name in enumerate(counts.names)}
    expected = np.zeros((len(texts), len(places)))
    for row, text in enumerate(texts):
        for word in windows(text, k):
            if "N" not in word:
                expected[row, places[canonical(word, places)]] += 1
    np.testing.assert_array_equal(dense(counts), expected)
    assert counts.values.dtype == np.float32
    palindromes = 0 if k % 2 else 4 ** (k // 2)
    assert len(places) == ((4**k + palindromes) // 2 if fold else 4**k)


def test_the_folded_kmers_are_named_by_the_first_of_each_pair():
    assert count_kmers(codes_of(["ACGTA"]), 1).names == ("A", "C")
    assert count_kmers(codes_of(["ACGTA"]), 2).names == ("AA", "AC", "AG", "AT", "CA", "CC", "CG", "GA", "GC", "TA")


@given(SAME_LENGTH, st.sampled_from([(3, 2), (4, 2), (5, 3), (4, 4)]), st.booleans())
@settings(max_examples=30)
def test_gapped_kmers_are_counted_as_strings_are(texts, shape, fold):
    length, k = shape
    counts = count_gapped_kmers(codes_of(texts), length, k, fold_strands=fold)
    places = {name: column for column, name in enumerate(counts.names)}
    assert len(places) == len(counts.names)
    expected = np.zeros((len(texts), len(places)))
    for row, text in enumerate(texts):
        for window, read in product(windows(text, length), combinations(range(length), k)):
            if "N" not in window:
                word = "".join(letter if at in read else "." for at, letter in enumerate(window))
                expected[row, places[canonical(word, places)]] += 1
    np.testing.assert_array_equal(dense(counts), expected)


def test_gapped_counts_of_both_strands_give_the_gapped_kmer_kernel():
    codes = np.random.default_rng(0).integers(0, 4, (5, 40)).astype(np.uint8)
    both = sum(dense(count_gapped_kmers(each, 6, 4, fold_strands=False)) for each in (codes, reverse_complement(codes)))
    features = both / np.linalg.norm(both, axis=1, keepdims=True)
    kernel = kernel_matrix(list(codes), spec=GkmSpec(l=6, k=4, d=2, kernel="gkm_count"))
    np.testing.assert_allclose(features @ features.T, kernel, rtol=1e-5)


def test_folded_counts_are_the_same_on_both_strands():
    codes = np.random.default_rng(1).integers(0, 5, (4, 30)).astype(np.uint8)
    for count in (lambda each: count_kmers(each, 3), lambda each: count_gapped_kmers(each, 5, 3)):
        np.testing.assert_array_equal(dense(count(codes)), dense(count(reverse_complement(codes))))


@given(SAME_LENGTH, st.integers(1, 3))
@settings(max_examples=20)
def test_placed_kmers_say_what_begins_where(texts, k):
    counts = place_kmers(codes_of(texts), k)
    found = [{counts.names[column] for column in np.flatnonzero(row)} for row in dense(counts)]
    expected = [
        {f"{offset}:{word}" for offset, word in enumerate(windows(text, k)) if "N" not in word} for text in texts
    ]
    assert found == expected
    assert counts.values.data.max(initial=1) == 1
    assert len(counts.names) == (len(texts[0]) - k + 1) * 4**k


@given(SAME_LENGTH)
@settings(max_examples=30)
def test_composition_is_that_of_the_strings(texts):
    end = len(texts[0])
    table = composition(codes_of(texts), {"left": (0, 4), "right": (2, end)})
    assert len(table.names) == 2 * 22
    for row, text in zip(table.values, texts, strict=True):
        for region, part in (("left", text[:4]), ("right", text[2:])):
            got = {name.removeprefix(region + "."): value for name, value in zip(table.names, row, strict=True)}
            known = len(part) - part.count("N")
            pairs = [pair for pair in windows(part, 2) if "N" not in pair]
            for base in "ACGT":
                assert_share(got[base], part.count(base), known)
            for pair in map("".join, product("ACGT", repeat=2)):
                assert_share(got[pair], pairs.count(pair), len(pairs))
            assert_share(got["gc"], part.count("G") + part.count("C"), known)
            expected = part.count("C") * part.count("G") * len(pairs)
            assert_share(got["cpg_ratio"], pairs.count("CG") * known**2, expected)


def assert_share(value, part, whole):
    if whole == 0:
        assert np.isnan(value)
    else:
        assert value == pytest.approx(part / whole, rel=1e-6)


def test_composition_is_of_the_whole_unless_regions_are_named():
    table = composition(codes_of(["ACGCGT"]))
    assert table.names[0] == "whole.A"
    by_name = dict(zip(table.names, table.values[0].tolist(), strict=True))
    assert by_name["whole.gc"] == pytest.approx(4 / 6)
    assert by_name["whole.cpg_ratio"] == pytest.approx((2 / 5) / (2 / 6 * 2 / 6))
    assert table.values.dtype == np.float32


def test_motif_scores_are_of_the_best_match_and_of_all():
    motif = consensus_motif("TGAC")
    once, twice, none = "AATGACAAAAAA", "AATGACATGACA", "AAAAAAAAAAAA"
    table = motif_scores(codes_of([once, twice, none, once.translate(OTHER)[::-1]]), [motif, consensus_motif("CCC")])
    assert table.names == ("TGAC.best", "TGAC.sum", "CCC.best", "CCC.sum")
    assert table.values[:, 0].tolist() == [4, 4, 1, 4]
    assert table.values[1, 1] > table.values[0, 1] > table.values[2, 1]
    np.testing.assert_allclose(table.values[0], table.values[3], rtol=1e-6)
    # by hand, for the one that scores 1 (T on either strand: A.., of which each of nine places fits one base)
    assert table.values[2, 1] == pytest.approx(np.log2(9 * 2**1))


def test_what_cannot_be_counted_is_refused():
    codes = codes_of(["ACGTACGT"])
    for wrong in (codes.astype(np.int64), codes[0], codes + 3):
        with pytest.raises(ValueError, match=r"codes are u?int\d+ of shape .*; wanted codes 0 to 4, uint8 \[B, L\]"):
            count_kmers(wrong, 2)
    with pytest.raises(ValueError, match="sequences of 8 bases; wanted at least the 9 of a word"):
        count_kmers(codes, 9)
    with pytest.raises(ValueError, match="words of 12 bases of which 12 are read, in 16777216 columns; wanted 1 to 12"):
        count_kmers(codes, 12)
    with pytest.raises(ValueError, match="words of 4 bases of which 5 are read, in 0 columns; wanted"):
        count_gapped_kmers(codes, 4, 5)
    with pytest.raises(ValueError, match="sequences of 8 bases; wanted at least the 9 of a word"):
        place_kmers(codes, 9)
    for region in ((0, 9), (-1, 4), (3, 4), (5, 5)):
        with pytest.raises(ValueError, match=r"region core: .*; wanted at least two bases within a sequence's 8"):
            composition(codes, {"core": region})
    with pytest.raises(ValueError, match="no motif to score by; name at least one"):
        motif_scores(codes, [])
    with pytest.raises(ValueError, match="motif long has 9 bases, more than the sequences' 8"):
        motif_scores(codes, [Motif("long", np.zeros((9, 5), np.float32))])
