import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.genome.runs import RunBins, Runs

NAN = np.nan


@st.composite
def some_runs(draw, widest=9):
    gaps = draw(st.lists(st.one_of(st.just(0), st.integers(0, 60)), max_size=40))
    widths = draw(st.lists(st.integers(1, widest), min_size=len(gaps), max_size=len(gaps)))
    values = draw(st.lists(st.one_of(st.just(NAN), st.integers(-9, 9)), min_size=len(gaps), max_size=len(gaps)))
    dtype = draw(st.sampled_from([np.int32, np.int64]))
    ends = np.cumsum(np.array(gaps, dtype) + np.array(widths, dtype), dtype=dtype)
    return Runs(ends - np.array(widths, dtype), ends, np.array(values, np.float32))


def slow_spread(runs, length):
    values = np.full(length, NAN, np.float32)
    for start, end, value in zip(*runs, strict=True):
        values[start:end] = value
    return values


@given(st.one_of(some_runs(), some_runs(widest=1)), st.integers(0, 300), st.integers(0, 300))
def test_runs_within_an_interval_are_spread_over_its_bases(runs, start, width):
    cut = runs.within(start, start + width)
    assert (cut.start >= start).all()
    assert (cut.end <= start + width).all()
    assert (cut.start < cut.end).all()
    values = np.full(width, NAN, np.float32)
    cut.spread(values, start)
    assert np.array_equal(values, slow_spread(runs, 5000)[start : start + width], equal_nan=True)


@pytest.mark.parametrize("covered", [0.02, 0.9, 1.0])
def test_many_runs_are_spread_in_pieces(covered):
    random = np.random.default_rng(0)
    ends = np.cumsum(random.integers(1, 60, 5000))
    starts = np.concatenate([[0], ends[:-1]])
    kept = random.random(5000) < covered
    runs = Runs(starts[kept], ends[kept], random.random(kept.sum()).astype(np.float32))
    for empty in (NAN, 0.0):
        values = np.full(ends[-1], empty, np.float32)
        runs.spread(values, 0, empty=empty)
        expected = np.nan_to_num(slow_spread(runs, ends[-1]), nan=empty)
        assert np.array_equal(values, expected, equal_nan=True)


def test_runs_of_four_byte_positions_are_not_widened_to_be_cut():
    runs = Runs(np.array([2], np.int32), np.array([9], np.int32), np.array([1.0], np.float32))
    assert runs.within(0, 99).start.dtype == np.int32
    assert runs.within(0, 99).end.tolist() == [9]


@given(st.one_of(some_runs(), some_runs(widest=1)), st.integers(1, 40), st.integers(0, 50), st.integers(0, 40))
def test_runs_are_binned_as_their_bases(runs, bin_bp, start, parts):
    num_bins = 2 + (int(runs.end[-1]) if len(runs.end) else 0) // bin_bp
    runs = runs.within(start, start + num_bins * bin_bp)
    table = slow_spread(Runs(runs.start - start, runs.end - start, runs.value), num_bins * bin_bp).reshape(-1, bin_bp)
    sums, greatest = (RunBins(start, num_bins, bin_bp, greatest=flag) for flag in (False, True))
    cut = min(parts, len(runs.start))
    for some in (slice(None, cut), slice(cut, None)):  # a bin may be filled by two batches
        for bins in (sums, greatest):
            bins.add(Runs(*(column[some] for column in runs)))
    assert np.array_equal(sums.number, np.nansum(table.astype(np.float64), axis=1))
    assert np.array_equal(sums.covered_bp, (~np.isnan(table)).sum(axis=1))
    assert np.array_equal(greatest.number, np.where(np.isnan(table), -np.inf, table).max(axis=1))
    assert np.array_equal(greatest.covered_bp, sums.covered_bp)


def test_sums_of_bins_are_exact_in_float64():
    runs = Runs(np.array([0, 3]), np.array([3, 7]), np.array([16_777_217, 0.1], np.float32))
    bins = RunBins(0, 1, 8, greatest=False)
    bins.add(runs)
    assert bins.number.tolist() == [3 * float(runs.value[0]) + 4 * float(np.float32(0.1))]
