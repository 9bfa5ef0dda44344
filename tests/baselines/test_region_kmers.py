from itertools import combinations, pairwise

import numpy as np
import pytest

from cisray.baselines.passes import pass_over
from cisray.baselines.region_kmers import (
    check_region_kmers,
    count_region_kmers,
    name_region_kmers,
    select_region_kmers,
)
from cisray.baselines.windows import Windows
from cisray.errors import InputError
from cisray.genome.sequence import encode

LETTERS = "ACGTN"


def random_codes(num, length=40, seed=0, *, letters=5):
    return np.random.default_rng(seed).integers(0, letters, (num, length), np.uint8)


def number_of(word):
    return int(sum(4**place * "ACGT".index(letter) for place, letter in enumerate(reversed(word))))


def slow_count(text, word, first, last, num_parts):
    """Count a word that begins in a run of parts, as the docstring says."""
    return sum(
        text[start : start + len(word)] == word and first <= start * num_parts // len(text) < last
        for start in range(len(text) - len(word) + 1)
    )


def texts_of(codes):
    return ["".join(LETTERS[code] for code in row) for row in codes]


@pytest.mark.parametrize(("length", "num_parts"), [(40, 4), (41, 3), (30, 30)])
def test_counts_are_those_of_strings(length, num_parts):
    codes = random_codes(6, length)
    chosen = [("AC", 0, 1), ("AC", 1, num_parts), ("T", 0, num_parts), ("GGA", num_parts - 1, num_parts)]
    rows = np.array([(len(word), number_of(word), first, last) for word, first, last in chosen])
    expected = [[slow_count(text, *each, num_parts) for each in chosen] for text in texts_of(codes)]
    counts = count_region_kmers(codes, rows, num_parts)
    np.testing.assert_array_equal(counts.toarray(), expected)
    assert counts.dtype == np.float32
    assert np.sum(expected) > 20
    assert count_region_kmers(codes, rows[:0], num_parts).shape == (6, 0)


def test_names_tell_the_word_and_where_it_may_begin():
    rows = np.array([(3, number_of("ACG"), 0, 2), (1, number_of("T"), 3, 4)])
    assert name_region_kmers(rows, window_bp=100, num_parts=4) == ("ACG@0-50", "T@75-100")
    # parts that do not fill the window evenly: a base at offset o lies in part o * parts // length
    (name,) = name_region_kmers(np.array([(1, 0, 1, 2)]), window_bp=10, num_parts=3)
    assert name == "A@4-7"
    assert [offset for offset in range(10) if offset * 3 // 10 == 1] == [4, 5, 6]


def test_words_of_one_length_are_chosen_by_the_best_correlation_of_all_runs():
    codes = random_codes(60, 24, seed=1)
    random = np.random.default_rng(2)
    targets = random.normal(size=(60, 2)).astype(np.float32)
    targets[random.random(targets.shape) < 0.3] = np.nan
    chosen = select_region_kmers(pass_over(Windows(codes, targets)), longest=2, num_parts=3, num_kept=16)
    texts, found = texts_of(codes), {}
    for number in range(16):
        word = "ACGT"[number // 4] + "ACGT"[number % 4]
        for first, last in combinations(range(4), 2):
            counts = np.array([slow_count(text, word, first, last, 3) for text in texts], float)
            for track in range(2):
                known = ~np.isnan(targets[:, track])
                if counts[known].std() > 0:
                    value = abs(np.corrcoef(counts[known], targets[known, track])[0, 1])
                    found.setdefault(number, []).append((value, first, last))
    best = {number: max(values) for number, values in found.items()}
    order = sorted(best, key=lambda number: -best[number][0])
    assert chosen[:, 1].tolist() == order
    for _, word, first, last in chosen.tolist():
        (equal,) = {value for value, *run in found[word] if run == [first, last] and value == best[word][0]}
        assert equal == pytest.approx(best[word][0])


def planted(num=400, seed=0):
    """Make windows of 60 bases, half of which hold TGACTC at bases 36 to 44, and tell which."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 4, (num, 60), np.uint8)
    has = np.arange(num) % 2 == 0
    for row in np.flatnonzero(has):
        start = random.integers(36, 45)
        codes[row, start : start + 6] = encode("TGACTC")
    return codes, has


def test_a_planted_word_is_found_whole_and_where_it_stands():
    codes, has = planted()
    chosen = select_region_kmers(
        pass_over(Windows(codes, has[:, None].astype(float))), longest=6, num_parts=5, num_kept=10
    )
    assert name_region_kmers(chosen, window_bp=60, num_parts=5)[0] == "TGACTC@36-48"
    assert len(chosen) == 10
    assert chosen[:, 0].max() == 6


def test_a_longer_word_stays_only_where_it_tells_more():
    codes = random_codes(500, 30, seed=3, letters=4)
    texts = texts_of(codes)
    signal = np.array([slow_count(text, "CG", 0, 3, 3) for text in texts], float)
    chosen = select_region_kmers(pass_over(Windows(codes, signal[:, None])), longest=4, num_parts=3, num_kept=300)
    assert chosen[0].tolist() == [2, number_of("CG"), 0, 3]
    longer = [name.partition("@")[0] for name in name_region_kmers(chosen, window_bp=30, num_parts=3)]
    assert not [word for word in longer if len(word) == 3 and "CG" in word]  # nothing tells more than the truth
    assert [word for word in longer if len(word) == 3]


def test_windows_may_come_in_parts():
    codes, has = planted(300)
    targets = np.stack([has, np.random.default_rng(1).random(300)], axis=1).astype(np.float32)
    targets[::7, 0] = np.nan
    settings = {"longest": 5, "num_parts": 4, "num_kept": 40}
    borders = [0, 1, 120, 300]
    parts = [Windows(codes[a:b], targets[a:b]) for a, b in pairwise(borders)]
    whole = select_region_kmers(pass_over(Windows(codes, targets)), **settings)
    np.testing.assert_array_equal(select_region_kmers(pass_over(*parts), **settings), whole)


def test_targets_that_are_all_alike_choose_nothing():
    assert select_region_kmers(
        pass_over(Windows(random_codes(20), np.ones((20, 1)))), longest=3, num_parts=2, num_kept=5
    ).shape == (0, 4)


@pytest.mark.parametrize("row", [(9, 0, 0, 1), (0, 0, 0, 1), (2, 16, 0, 1), (2, -1, 0, 1), (2, 1, 1, 1), (2, 1, 0, 5)])
def test_stored_rows_that_are_none_are_refused(row):
    check_region_kmers(np.array([(2, 15, 0, 4)]), longest=4, num_parts=4)
    with pytest.raises(
        InputError, match=r"1 of 2 stored k-mers of regions are longer than 4 bases, no words or beyond 4"
    ):
        check_region_kmers(np.array([(2, 15, 0, 4), row]), longest=4, num_parts=4)
