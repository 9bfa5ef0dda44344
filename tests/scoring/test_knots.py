import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cisray.errors import InputError
from cisray.scoring.knots import KNOTS, TAIL, KnotCollector, collect


@settings(max_examples=40, deadline=None)
@given(num_variants=st.integers(1, 3000), buffer_rows=st.sampled_from([256, 1024, None]), seed=st.integers(0, 9))
def test_knots_are_the_backgrounds_own_scores_no_further_off_than_is_said(num_variants, buffer_rows, seed):
    background = np.random.default_rng(seed).permutation(num_variants).astype(np.float32)[:, None]
    collector = KnotCollector(1, buffer_rows=buffer_rows)
    collector.add(background)
    ranks, knots = collector.knots()
    assert len(ranks) == min(num_variants, KNOTS)
    off = np.abs(knots[0] - ranks)  # a score is its own rank here
    assert off.max() <= collector.rank_error * num_variants
    assert (off[:TAIL] == 0).all()
    assert (off[-TAIL:] == 0).all()
    assert buffer_rows is not None or collector.rank_error == 0


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 3000), max_size=5), buffer_rows=st.sampled_from([64, 512, 4096]))
def test_how_the_background_is_cut_into_blocks_changes_nothing(cuts, buffer_rows):
    background = np.random.default_rng(1).normal(size=(3000, 2)).astype(np.float32)
    whole = KnotCollector(2, buffer_rows=buffer_rows)
    whole.add(background)
    parts = KnotCollector(2, buffer_rows=buffer_rows)
    for block in np.split(background, sorted(cuts)):
        parts.add(block)
    for one, other in zip(whole.knots(), parts.knots(), strict=True):
        assert (one == other).all()
    assert whole.rank_error == parts.rank_error


def test_a_collector_holds_little_of_a_large_background():
    collector = KnotCollector(2, buffer_rows=128)
    for number in range(200):
        collector.add(np.random.default_rng(number).normal(size=(300, 2)).astype(np.float32))
    held = sum(level.nbytes for level in collector._levels if level is not None)
    assert held <= 10 * 128 * 2 * 4
    assert collector.num_variants == 60_000
    ranks, knots = collector.knots()
    assert ranks.shape == (KNOTS,)
    assert knots.shape == (2, KNOTS)
    assert (np.diff(ranks) > 0).all()
    assert (np.diff(knots, axis=1) >= 0).all()


def test_a_background_without_use_is_told():
    with pytest.raises(InputError, match="the background has no scored variant; give one whose variants lie on"):
        KnotCollector(2).knots()
    with pytest.raises(InputError, match="the background has scores that are not finite; leave out rows"):
        KnotCollector(1).add(np.array([[np.inf]], np.float32))
    with pytest.raises(InputError, match=r"scores are \(2, 3\); wanted \[variants, 2\]"):
        KnotCollector(2).add(np.zeros((2, 3), np.float32))


def test_blocks_are_collected_by_name():
    found = collect(({"l1": np.full((2, 3), number, np.float32)} for number in range(3)), num_tracks=3)
    assert list(found) == ["l1"]
    assert found["l1"].knots()[1].tolist() == [[0, 0, 1, 1, 2, 2]] * 3
