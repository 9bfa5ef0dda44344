import gzip
import math
import pickle
import warnings
from statistics import median

import numpy as np
import pyBigWig
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cisray.errors import InputError
from cisray.genome.tracks import CoverageFile, SignalFile, bin_values, open_signal, smooth, write_signal

NAN = np.nan
STATISTICS = ["sum", "mean", "max", "median"]
FLOATS = st.floats(-1000, 1000, width=32)
signals = arrays.arrays(
    np.float32,
    st.integers(0, 80),
    elements=st.one_of(st.just(NAN), st.floats(-1000, 1000, width=32), st.integers(0, 5).map(float)),
)


def write(path, entries, lengths=(("c1", 1000), ("c2", 500))):
    file = pyBigWig.open(str(path), "w")
    file.addHeader(list(lengths))
    for contig, start, values in entries:
        file.addEntries(contig, start, values=list(values), span=1, step=1)
    file.close()
    return path


def test_values_are_those_of_the_file_and_nan_elsewhere(tmp_path):
    path = write(tmp_path / "f.bw", [("c1", 3, [1.5, 0.0, 2.0]), ("c1", 997, [7.0, 8.0, 9.0])])
    with SignalFile(path) as signal:
        assert signal.contig_lengths == {"c1": 1000, "c2": 500}
        values = signal.values("c1", -1, 8)
        assert values.dtype == np.float32
        assert np.array_equal(values, [NAN, NAN, NAN, NAN, 1.5, 0, 2, NAN, NAN], equal_nan=True)
        assert np.array_equal(signal.values("c1", 998, 1002), [8, 9, NAN, NAN], equal_nan=True)
        assert np.isnan(signal.values("c2", -5, 505)).all()
        assert np.isnan(signal.values("c1", 1005, 1010)).all()
        assert signal.values("c1", 5, 5).shape == (0,)


def test_a_file_without_values_is_uncovered(tmp_path):
    path = write(tmp_path / "f.bw", [])
    assert list(pyBigWig.open(str(path)).values("c1", 0, 10)) == []  # not ten times NaN
    with SignalFile(path) as signal:
        assert np.isnan(signal.values("c1", 0, 10)).all()


def test_an_unknown_contig_and_a_turned_interval_are_refused(tmp_path):
    with SignalFile(write(tmp_path / "f.bw", [("c1", 3, [1.0])])) as signal:
        with pytest.raises(InputError, match=r"f\.bw: no contig 'chr1'; (the nearest|there) are c"):
            signal.values("chr1", 0, 10)
        with pytest.raises(InputError, match="c1:10-9 starts after its end"):
            signal.values("c1", 10, 9)
        with pytest.raises(InputError, match=r"f\.bw: no contig 'chr1'"):
            signal.bins("chr1", 0, 1, 8, statistic="sum", uncovered="zero")
        with pytest.raises(InputError, match="'least' is not one of sum"):
            signal.bins("c1", 0, 1, 8, statistic="least", uncovered="zero")


def test_a_missing_or_other_file_is_refused(tmp_path):
    (tmp_path / "f.bw").write_text("chr1\t0\t100\t5\n")
    with pytest.raises(InputError, match=r"f\.bw: not a bigWig file"):
        SignalFile(tmp_path / "f.bw")
    with pytest.raises(InputError, match=r"g\.bw: no such file"):
        SignalFile(tmp_path / "g.bw")


def test_a_file_is_sent_to_another_process_as_its_name(tmp_path):
    (tmp_path / "f.bdg").write_text("c1\t3\t5\t2.5\n" * 1)
    for signal in (SignalFile(write(tmp_path / "f.bw", [("c1", 3, [2.5, 2.5])])), CoverageFile(tmp_path / "f.bdg")):
        sent = pickle.dumps(signal)
        assert len(sent) < 1000
        assert np.array_equal(pickle.loads(sent).values("c1", 2, 6), [NAN, 2.5, 2.5, NAN], equal_nan=True)


def test_the_format_is_told_by_content_and_name(tmp_path):
    (tmp_path / "f.bed").write_bytes(write(tmp_path / "f.bw", [("c1", 3, [1.0])]).read_bytes())
    (tmp_path / "g.BED.gz").write_bytes(gzip.compress(b"c1\t3\t5\n"))
    (tmp_path / "h.bedGraph").write_text("c1\t3\t5\t7\n")
    (tmp_path / "i.wig").write_text("fixedStep chrom=c1 start=1 step=1\n1\n")
    for name, kind in [("f.bw", SignalFile), ("f.bed", SignalFile), ("g.BED.gz", CoverageFile)]:
        with open_signal(tmp_path / name) as signal:
            assert type(signal) is kind
            assert signal.path == tmp_path / name
            assert signal.values("c1", 3, 4).tolist() == [1]
    assert open_signal(str(tmp_path / "h.bedGraph")).values("c1", 3, 4).tolist() == [7]
    with pytest.raises(InputError, match=r"i\.wig: not a bigWig file, .*\.bedgraph and \.bed"):
        open_signal(tmp_path / "i.wig")
    with pytest.raises(InputError, match=r"j\.bed: no such file, but a bedGraph or BED"):
        open_signal(tmp_path / "j.bed")


def test_lengths_are_checked_and_taken(tmp_path):
    bigwig = SignalFile(write(tmp_path / "f.bw", [("c1", 3, [1.0])]))
    bigwig.check_lengths({"c1": 1000, "c9": 5})
    with pytest.raises(InputError, match=r"f\.bw: contig 'c2' has 500 bases there and 501 in the genome"):
        bigwig.check_lengths({"c1": 1000, "c2": 501})
    (tmp_path / "f.bed").write_text("c1\t0\t4\nc1\t3\t5\nc2\t0\t9\n")
    bed = open_signal(tmp_path / "f.bed")
    assert bed.contig_lengths == {"c1": None, "c2": None}
    assert bed.values("c1", -2, 8).tolist()[2:] == [1, 1, 1, 2, 1, 0, 0, 0]
    assert np.isnan(bed.values("c1", -2, 8)[:2]).all()
    with pytest.raises(InputError, match=r"f\.bed: line 3 \('c2\\t0\\t9'\) ends beyond c2, which has 8 bases"):
        bed.check_lengths({"c1": 6, "c2": 8})
    bed.check_lengths({"c1": 6})
    assert bed.contig_lengths == {"c1": 6, "c2": None}
    assert np.array_equal(bed.values("c1", 3, 8), [2, 1, 0, NAN, NAN], equal_nan=True)


def test_steps_are_written_as_they_stand(tmp_path):
    path = tmp_path / "f.bw"
    starts, values = np.array([0, 4, 8, 20, 24, 28]), np.array([1, 2, NAN, 3, 4, 5])
    write_signal(
        path, {"c1": 30, "c2": 5, "c3": 9}, {"c1": (starts, values), "c3": (starts[:0], values[:0])}, step_bp=4
    )
    with SignalFile(path) as signal:
        assert signal.contig_lengths == {"c1": 30, "c2": 5, "c3": 9}
        expected = np.repeat([1, 2, NAN, 3, 4, 5], [4, 4, 12, 4, 4, 2])
        assert np.array_equal(signal.values("c1", 0, 30), expected, equal_nan=True)
        assert np.isnan(signal.values("c2", 0, 5)).all()
    assert [file.name for file in tmp_path.iterdir()] == ["f.bw"]


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arrays.arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([NAN, 0.0, 1.5, 2.0])),
    st.integers(1, 5),
    st.data(),
)
def test_written_steps_are_read_back(tmp_path, values, step_bp, data):
    gaps = data.draw(arrays.arrays(np.int64, len(values), elements=st.integers(0, 3)))
    starts = np.arange(len(values)) * step_bp + gaps.cumsum()
    length = int(starts[-1]) + data.draw(st.integers(1, 9))
    write_signal(tmp_path / "f.bw", {"c": length}, {"c": (starts, values)}, step_bp=step_bp)
    expected = np.full(length, NAN, np.float32)
    for start, value in zip(starts, values, strict=True):
        expected[start : start + step_bp] = value
    with SignalFile(tmp_path / "f.bw") as signal:
        assert np.array_equal(signal.values("c", 0, length), expected, equal_nan=True)


@pytest.mark.parametrize(
    ("contig", "starts", "match"),
    [
        ("d", [0], "signal to write lies on contig 'd'; there are c"),
        ("c", [0, 4], "2 starts and 1 values"),
        ("c", [10], "steps from 10 to 10 lie outside its 10 bases"),
        ("c", [-1], "steps from -1 to -1 lie outside"),
    ],
)
def test_steps_that_do_not_fit_are_refused(tmp_path, contig, starts, match):
    with pytest.raises(InputError, match=match):
        write_signal(tmp_path / "f.bw", {"c": 10}, {contig: (np.array(starts), np.ones(1))}, step_bp=4)
    with pytest.raises(InputError, match="steps of 4 bp overlap or are out of order"):
        write_signal(tmp_path / "f.bw", {"c": 10}, {"c": (np.array([0, 3]), np.ones(2))}, step_bp=4)
    assert list(tmp_path.iterdir()) == []


def test_smoothing_takes_the_mean_of_the_bases_that_are_there():
    values = np.array([1, NAN, 4, NAN, NAN, NAN, 6], np.float32)
    assert np.array_equal(smooth(values, 3), [1, 2.5, 4, 4, NAN, 6, 6], equal_nan=True)
    assert np.array_equal(smooth(values, 2), [1, 1, 4, 4, NAN, NAN, 6], equal_nan=True)
    assert np.array_equal(smooth(values, 1), values, equal_nan=True)
    assert np.array_equal(smooth(values[:1], 99), [1])


@settings(deadline=None, max_examples=50)
@given(signals, st.integers(1, 120))
def test_smoothing_is_a_slow_loop(values, width):
    expected = []
    for base in range(len(values)):
        window = values[max(0, base - width // 2) : max(0, base - width // 2 + width)]
        present = window[~np.isnan(window)].astype(np.float64)
        expected.append(present.mean() if len(present) else NAN)
    np.testing.assert_allclose(smooth(values, width), np.array(expected, np.float32), rtol=1e-5, atol=1e-4)


def test_smoothing_carries_no_error_from_afar():
    values = np.concatenate([np.full(500, 1e7), np.zeros(500), np.full(500, 0.1)]).astype(np.float32)
    means = smooth(values, 51)
    assert (means[530:970] == 0).all()  # a running difference leaves a rest here
    assert (means[1030:] == np.float32(0.1)).all()


@pytest.mark.parametrize(
    ("statistic", "uncovered", "expected"),
    [
        ("sum", "zero", [6, 6, 0]),
        ("mean", "zero", [1.5, 1.5, 0]),
        ("max", "zero", [3, 6, 0]),
        ("sum", "mask", [6, 12, NAN]),
        ("mean", "mask", [1.5, 3, NAN]),
        ("max", "mask", [3, 6, NAN]),
        ("median", "zero", [1.5, 0, 0]),
        ("median", "mask", [1.5, 3, NAN]),
    ],
)
def test_bins_by_eye(statistic, uncovered, expected):
    values = np.array([0, 1, 2, 3, 0, 6, NAN, NAN, NAN, NAN, NAN, NAN], np.float32)
    binned = bin_values(values, 4, statistic, uncovered)
    assert binned.dtype == np.float32
    assert np.array_equal(binned, expected, equal_nan=True)


def test_the_greatest_of_negative_values_is_negative_unless_uncovered_bases_are_zero():
    values = np.array([-3, -2, NAN, NAN], np.float32)
    assert bin_values(values, 4, "max", "mask").tolist() == [-2]
    assert bin_values(values, 4, "max", "zero").tolist() == [0]


def slow_bins(values, bin_bp, statistic, uncovered):
    expected = []
    for start in range(0, len(values), bin_bp):
        bases = [float(value) for value in values[start : start + bin_bp]]
        if uncovered == "zero":
            bases = [0.0 if np.isnan(value) else value for value in bases]
        bases = [value for value in bases if not np.isnan(value)]
        if not bases:
            expected.append(NAN)
        elif statistic == "max":
            expected.append(max(bases))
        elif statistic == "median":
            expected.append(median(bases))
        else:
            mean = math.fsum(bases) / len(bases)
            expected.append(mean * bin_bp if statistic == "sum" else mean)
    return np.array(expected, np.float32)


@settings(deadline=None, max_examples=60)
@given(signals, st.integers(1, 40), st.sampled_from(STATISTICS), st.sampled_from(["zero", "mask"]))
@example(np.full(4, 16_777_217, np.float32), 4, "sum", "mask")
def test_bins_are_a_slow_loop(values, bin_bp, statistic, uncovered):
    values = values[: len(values) // bin_bp * bin_bp]
    found = bin_values(values, bin_bp, statistic, uncovered)
    np.testing.assert_allclose(found, slow_bins(values, bin_bp, statistic, uncovered), rtol=1e-6, atol=1e-6)


def test_a_sum_beyond_float32_is_infinite():
    assert bin_values(np.full(4, 3e38, np.float32), 2, "sum", "mask").tolist() == [np.inf, np.inf]
    assert bin_values(np.full(4, 3e38, np.float32), 2, "mean", "mask").tolist() == [np.float32(3e38)] * 2


@pytest.mark.parametrize("bin_bp", [1, 2, 32, 33, 128, 40_000])
def test_bins_of_long_stretches_are_numpys(bin_bp):
    random = np.random.default_rng(bin_bp)
    values = random.normal(0, 100, 120_000 // bin_bp * bin_bp).astype(np.float32)
    values[random.random(len(values)) < 0.001] = NAN
    values[50_000:70_000] = NAN
    table = values.reshape(-1, bin_bp).astype(np.float64)
    zeros = np.nan_to_num(table)
    for statistic, reduce in [("sum", np.sum), ("mean", np.mean), ("max", np.max), ("median", np.median)]:
        found = bin_values(values, bin_bp, statistic, "zero")
        np.testing.assert_allclose(found, reduce(zeros, axis=1).astype(np.float32), rtol=2e-7, atol=1e-12)
    with warnings.catch_warnings(action="ignore"):  # of empty rows
        expected = np.nanmean(table, axis=1).astype(np.float32)
    np.testing.assert_allclose(bin_values(values, bin_bp, "mean", "mask"), expected, rtol=2e-7, atol=1e-12)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9), st.one_of(st.just(NAN), FLOATS)), max_size=30),
    st.integers(1, 20),
    st.integers(-30, 120),
    st.integers(0, 12),
    st.sampled_from(STATISTICS),
    st.sampled_from(["zero", "mask"]),
)
def test_bins_of_a_file_are_those_of_its_values(tmp_path, runs, bin_bp, start, bins, statistic, uncovered):
    starts, ends, values, position = [], [], [], 0
    for gap, width, value in runs:
        starts.append(position + gap)
        ends.append(position := position + gap + width)
        values.append(value)
    truth = np.full(max(position, 1), NAN, np.float32)  # a contig that may end inside the interval
    for first, last, value in zip(starts, ends, values, strict=True):
        truth[first:last] = value
    file = pyBigWig.open(str(tmp_path / "f.bw"), "w")
    file.addHeader([("other", 5), ("c", len(truth))])
    if runs:
        file.addEntries(["c"] * len(runs), starts, ends=ends, values=values)
    file.close()
    kept = [row for row in zip(starts, ends, values, strict=True) if not np.isnan(row[2])]
    (tmp_path / "f.bdg").write_text(
        "".join(f"c {first} {last} {value!r}\n" for first, last, value in kept) or "d 1 2 3\n"
    )
    read = [SignalFile(tmp_path / "f.bw")]
    if kept:
        read.append(CoverageFile(tmp_path / "f.bdg"))
        read[1].check_lengths({"c": len(truth)})
    end = start + bins * bin_bp
    padded = np.full(end - start, NAN, np.float32)
    inside = slice(max(start, 0), max(min(end, len(truth)), 0))
    covered = truth[inside]
    padded[inside.start - start :][: len(covered)] = covered
    expected = padded.copy()
    if uncovered == "zero":
        expected[inside.start - start :][: len(covered)] = np.nan_to_num(covered)
    for signal in read:
        assert np.array_equal(signal.values("c", start, end), padded, equal_nan=True)
        found = signal.bins("c", start, bins, bin_bp, statistic=statistic, uncovered=uncovered)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, slow_bins(expected, bin_bp, statistic, "mask"), rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.just(NAN), st.integers(0, 50).map(float)), min_size=1, max_size=60), st.integers(1, 6))
def test_bins_are_those_of_the_library(tmp_path, values, bin_bp):
    values = np.array(values * bin_bp)
    if np.isnan(values).all():
        return
    entries = [("c1", int(base), [values[base]]) for base in np.flatnonzero(~np.isnan(values))]
    path = write(tmp_path / "f.bw", entries, [("c1", len(values))])
    library = pyBigWig.open(str(path))
    with SignalFile(path) as signal:
        read = signal.values("c1", 0, len(values))
    for statistic, uncovered in [("mean", "mask"), ("max", "mask"), ("sum", "zero")]:
        expected = library.stats("c1", 0, len(values), type=statistic, nBins=len(values) // bin_bp, exact=True)
        empty = 0.0 if uncovered == "zero" else NAN
        expected = np.array([empty if value is None else value for value in expected], np.float32)
        np.testing.assert_allclose(bin_values(read, bin_bp, statistic, uncovered), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((8, "least", "zero"), "'least' is not one of sum, mean, max, median"),
        ((8, "mean", "skip"), "'skip' is not one of zero, mask"),
        ((7, "mean", "zero"), "16 bases do not fill bins of 7 bp"),
        ((0, "mean", "zero"), "16 bases do not fill bins of 0 bp"),
    ],
)
def test_bad_binning_is_refused(arguments, match):
    with pytest.raises(InputError, match=match):
        bin_values(np.zeros(16, np.float32), *arguments)


def test_bad_smoothing_is_refused():
    with pytest.raises(InputError, match="cannot smooth over 0 bp"):
        smooth(np.zeros(16, np.float32), 0)
