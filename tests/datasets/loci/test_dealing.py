from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.datasets.loci.dealing import TEST, TRAIN, VALID, Shares, deal_by_share, deal_to_folds

sizes = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)).filter(any), min_size=1, max_size=30)


def test_one_genome_goes_to_the_emptiest_fold_longest_first():
    assert deal_to_folds(np.array([[3], [9], [5], [5], [1]]), 3).tolist() == [1, 0, 1, 2, 2]


def test_a_piece_goes_where_its_own_genome_is_lacking():
    # the first two fill fold 0 of genome A and fold 1 of genome B; the next of each goes to the other fold
    assert deal_to_folds(np.array([[10, 0], [0, 10], [4, 0], [0, 4]]), 2).tolist() == [0, 0, 1, 1]


def slow_folds(sizes, num_folds):
    """Give pieces, longest share first, to the fold that is least like them, in exact numbers."""
    totals = [max(1, sum(column)) for column in zip(*sizes, strict=True)]
    shares = [[Fraction(size, total) for size, total in zip(row, totals, strict=True)] for row in sizes]
    filled = [[Fraction(0)] * len(totals) for _ in range(num_folds)]
    folds = {}
    for piece in sorted(range(len(sizes)), key=lambda i: -sum(shares[i])):
        alike = [sum(a * b for a, b in zip(fold, shares[piece], strict=True)) for fold in filled]
        chosen = min(range(num_folds), key=lambda fold: alike[fold])
        filled[chosen] = [a + b for a, b in zip(filled[chosen], shares[piece], strict=True)]
        folds[piece] = chosen
    return [folds[piece] for piece in range(len(sizes))]


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(0, 3)), min_size=2, max_size=20), st.integers(2, 4))
def test_genomes_of_any_size_weigh_the_same(sizes, num_folds):
    # totals are powers of two, so that shares are exact and equal ones tie in both computations
    sizes += [(4096 - sum(a for a, _ in sizes), 64 - sum(b for _, b in sizes))]
    assert deal_to_folds(np.array(sizes), num_folds).tolist() == slow_folds(sizes, num_folds)


@given(sizes, st.integers(2, 5))
def test_no_fold_of_one_genome_exceeds_another_by_more_than_a_piece(sizes, num_folds):
    one = np.array(sizes)[:, :1]
    filled = np.bincount(deal_to_folds(one, num_folds), weights=one[:, 0], minlength=num_folds)
    assert filled.max() - filled.min() <= one.max()


def slow_shares(sizes, draws, shares):
    """Follow Calico's rule for one genome, a piece at a time."""
    total = sum(sizes)
    aim = {VALID: shares.valid * total, TEST: shares.test * total}
    aim[TRAIN] = total - aim[VALID] - aim[TEST]
    filled = dict.fromkeys(aim, 0)
    roles = {}
    for piece in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        gap = {role: max(0, aim[role] - filled[role]) for role in (TRAIN, VALID, TEST)}
        for role in (VALID, TEST):
            if sizes[piece] > shares.abstain * gap[role]:
                gap[role] = 0
        gap[TRAIN] = max(1, gap[TRAIN])
        point = draws[piece] * sum(gap.values())
        roles[piece] = TRAIN if point < gap[TRAIN] else VALID if point < gap[TRAIN] + gap[VALID] else TEST
        filled[roles[piece]] += sizes[piece]
    return [roles[piece] for piece in range(len(sizes))]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.data())
def test_shares_of_one_genome_follow_the_rule(sizes, data):
    # parts of a large prime are never the borders between roles, where rounding would decide
    parts = data.draw(st.lists(st.integers(1, 99_990), min_size=len(sizes), max_size=len(sizes)))
    draws = [part / 99_991 for part in parts]
    shares = Shares(*data.draw(st.sampled_from([(0.1, 0.2, 0.2), (0.3, 0.3, 1.0), (0.05, 0.05, 0.5)])))
    got = deal_by_share(np.array(sizes)[:, None], np.array(draws), shares).tolist()
    assert got == slow_shares(sizes, draws, shares)


@given(sizes, st.data())
def test_no_split_gets_more_than_its_share_of_any_genome(sizes, data):
    draws = np.array(data.draw(st.lists(st.floats(0, 0.9999), min_size=len(sizes), max_size=len(sizes))))
    shares = Shares(0.2, 0.3, 0.5)
    roles = deal_by_share(np.array(sizes), draws, shares)
    for role, share in ((VALID, 0.2), (TEST, 0.3)):
        got = np.array(sizes)[roles == role].sum(axis=0)
        assert (got <= share * np.array(sizes).sum(axis=0) + 1e-9).all()


def test_many_small_pieces_fill_the_shares():
    draws = np.random.default_rng(5).random(5000)
    roles = deal_by_share(np.ones((5000, 1), np.int64), draws, Shares(0.1, 0.2, 0.2))
    assert (roles == VALID).mean() == pytest.approx(0.1, abs=0.005)
    assert (roles == TEST).mean() == pytest.approx(0.2, abs=0.005)
