import numpy as np
import pytest

from cisray.datasets.tables import near_pairs
from cisray.datasets.tables.near_pairs import components, find_links, most_edits, other_strand


def test_all_pairs_of_a_small_table_are_compared():
    codes = np.array([[0, 1, 2, 3] * 3, [0, 1, 2, 3] * 2 + [0, 1, 2, 0], [3] * 12], np.uint8)
    links, search = find_links(codes, np.full(3, 12), min_identity=0.9, both_strands=False)
    assert links.tolist() == [[0], [1]]
    assert search == (0, 0, 1.0, 1.0)


def test_the_share_that_seeds_find_is_that_of_a_simulation(monkeypatch):
    monkeypatch.setattr(near_pairs, "ALL_PAIRS_WORK", 0)
    monkeypatch.setattr(near_pairs, "_EDIT_WORK", 1e4)  # so that seeds are long
    monkeypatch.setattr(near_pairs, "_WORK", 1e4)
    random = np.random.default_rng(6)
    codes = random.integers(0, 4, (1000, 40)).astype(np.uint8)
    _, search = find_links(codes, np.full(1000, 40), min_identity=0.8, both_strands=False)
    places = np.stack([random.permutation(40) < 8 for _ in range(4000)])  # 8 of 40 places substituted
    for seed, found in ((search.seed_bp, search.found_in_place), (search.shifted_seed_bp, search.found_shifted)):
        clean = np.lib.stride_tricks.sliding_window_view(~places, seed, axis=1).all(axis=2).any(axis=1)
        assert 0 < found < 1
        assert found == pytest.approx(clean.mean(), abs=0.03)


@pytest.mark.parametrize("all_pairs_work", [0, 1e10])
def test_a_family_costs_few_links_and_every_link_is_near(monkeypatch, all_pairs_work):
    monkeypatch.setattr(near_pairs, "ALL_PAIRS_WORK", all_pairs_work)
    random = np.random.default_rng(7)
    codes = np.tile(random.integers(0, 4, 80).astype(np.uint8), (300, 1))
    for row in codes:
        row[random.integers(80)] = random.integers(4)
    codes = np.unique(codes, axis=0)
    links, _ = find_links(codes, np.full(len(codes), 80), min_identity=0.9, both_strands=False)
    assert (codes[links[0]] != codes[links[1]]).sum(axis=1).max() <= 8
    assert links.shape[1] == len(codes) - 1
    assert components(len(codes), *links).max() == 0


def test_the_other_strand_begins_at_the_left():
    codes = np.array([[0, 1, 1, 4, 4], [0, 1, 2, 2, 2]], np.uint8)
    assert other_strand(codes, np.array([3, 5]))[0, :3].tolist() == [2, 2, 3]
    assert other_strand(codes, np.array([3, 5]))[1].tolist() == [1, 1, 1, 2, 3]


def test_the_most_edits_are_rounded_down_but_for_rounding_errors():
    assert most_edits(np.array([50, 49, 10, 4]), 0.8).tolist() == [10, 9, 2, 0]


def test_places_beyond_32767_are_places(monkeypatch):
    codes = np.random.default_rng(0).integers(0, 4, (2, 33_000)).astype(np.uint8)
    (part,) = near_pairs._seed_parts(codes, 12)
    assert part[2].max() == 33_000 - 12
    apart = near_pairs._differences(near_pairs._bit_planes(np.stack([codes[0], 3 - codes[0]]).repeat(2, axis=1)), 1, 2)
    assert apart.tolist() == [66_000]
