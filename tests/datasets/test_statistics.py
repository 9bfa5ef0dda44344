import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cisray.datasets.card import Track
from cisray.datasets.statistics import (
    HISTOGRAM_BINS,
    TRACKS_NAME,
    Tally,
    histogram_edges,
    read_histograms,
    write_tracks,
)

TRACKS = (
    Track(name="plain", file="plain.bw"),
    Track(name="soft", file="soft.bw", clip_soft=4.0, clip=6.0),
    Track(name="old", file="old.bw", clip_soft=4.0, clip=6.0, scale=0.5, order="old"),
)
values = arrays.arrays(
    np.float32,
    st.tuples(st.integers(0, 6), st.integers(1, 4), st.just(3)),
    elements=st.one_of(st.just(math.nan), st.just(0.0), st.floats(-8, 200_000, width=32)),
)


def slow(column, cut_soft, cut):
    """Count one track's bins one by one."""
    present = [value for value in column.tolist() if not math.isnan(value)]
    return {
        "num_bins": len(column),
        "num_masked": len(column) - len(present),
        "num_zero": sum(value == 0 for value in present),
        "num_soft_clipped": sum(value > cut_soft for value in present),
        "num_clipped": sum(value >= cut for value in present),
        "least": min(present, default=None),
        "greatest": max(present, default=None),
    }


@given(values)
def test_a_tally_counts_what_a_count_one_by_one_does(targets):
    statistics = Tally.of(targets, TRACKS).statistics([track.name for track in TRACKS])
    cuts = {"plain": (math.inf, math.inf), "soft": (4.0, 6.0), "old": (2.0, 3.0)}
    for index, track in enumerate(TRACKS):
        one, column = statistics[track.name], targets[:, :, index].ravel()
        for field, expected in slow(column, *cuts[track.name]).items():
            assert getattr(one, field) == expected, field
        present = column[~np.isnan(column)].astype(np.float64)
        assert one.num_present == len(present)
        if len(present):
            assert one.mean == pytest.approx(present.mean())
            assert one.variance == pytest.approx(present.var(), rel=1e-6, abs=1e-5 * max(1, np.abs(present).max() ** 2))
        else:
            assert math.isnan(one.mean)


@given(values, values)
def test_tallies_of_parts_add_up_to_that_of_the_whole(one, other):
    width = min(one.shape[1], other.shape[1])
    parts = [Tally.of(part[:, :width], TRACKS) for part in (one, other)]
    both = parts[0] + parts[1]
    whole = Tally.of(np.concatenate([one[:, :width], other[:, :width]]), TRACKS)
    assert both.num_bins == whole.num_bins
    for name, counts in whole.counts.items():
        assert np.array_equal(both.counts[name], counts)
    assert np.array_equal(both.histogram, whole.histogram)
    assert np.array_equal(both.least, whole.least)
    assert np.allclose(both.total, whole.total)


@given(values)
def test_a_tally_comes_back_from_json_to_the_last_bit(targets):
    tally = Tally.of(targets, TRACKS)
    again = Tally.from_dict(json.loads(json.dumps(tally.to_dict(), allow_nan=False)))
    assert again.to_dict() == tally.to_dict()
    for name in ("total", "total_squares", "least", "greatest"):
        assert getattr(again, name).tobytes() == getattr(tally, name).tobytes()


def test_a_histogram_holds_each_value_between_its_edges():
    edges = np.r_[histogram_edges(), np.inf]
    assert len(edges) == HISTOGRAM_BINS + 1
    targets = [-3.0, 0.0, 1e-9, 2.0**-10, 0.999, 1.0, 1.5, 2.0, 65504.0, 2.0**17, 1e30, math.nan]
    histogram = Tally.of(np.array(targets, np.float32).reshape(-1, 1, 1), TRACKS[:1]).histogram[0]
    assert histogram.sum() == 11
    expected = np.zeros(HISTOGRAM_BINS, int)
    for value in targets[:-1]:
        if value == 0:
            expected[1] += 1
        elif 0 < value < 2.0**-10:
            expected[2] += 1  # all that is smaller lies in the least power
        else:
            expected[np.searchsorted(edges, np.float32(value), side="right") - 1] += 1
    assert histogram.tolist() == expected.tolist()


def test_tracks_are_written_for_any_reader(tmp_path, make_card):
    random = np.random.default_rng(0)
    tallies = {split: Tally.of(random.random((4, 2, 3), np.float32) * 8, TRACKS) for split in ("train", "test")}
    write_tracks(tmp_path / TRACKS_NAME, TRACKS, tallies)
    rows = pq.read_table(tmp_path / TRACKS_NAME).to_pylist()
    assert [(row["name"], row["file"], row["split"]) for row in rows] == [
        (track.name, track.file, split) for split in ("train", "test") for track in TRACKS
    ]
    soft = tallies["test"].statistics(["plain", "soft", "old"])["soft"]
    assert (rows[4]["mean"], rows[4]["num_clipped"]) == (soft.mean, soft.num_clipped)
    found = read_histograms(tmp_path, make_card(counts={"train": 4, "test": 4}))
    assert np.array_equal(found["train"]["old"], tallies["train"].histogram[2])
