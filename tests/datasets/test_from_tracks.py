import math

import numpy as np
import pyBigWig
import pytest

from cisray.datasets.from_tracks import TrackSource, build_shard, summarise
from cisray.datasets.schema import Track, decode_rows
from cisray.datasets.tiling import Shard
from cisray.genome.reference import Reference
from cisray.genome.tracks import SignalFile
from cisray.geometry import Geometry

GEOMETRY = Geometry(window_bp=24, bin_bp=4, crop_bins=1, margin_bp=3)
CHR1_BP = 150


@pytest.fixture
def bases():
    letters = "".join(np.random.default_rng(3).choice(list("ACGTacgt"), CHR1_BP))
    return letters[:60] + "N" * 20 + letters[80:]


@pytest.fixture
def signal():
    """One value per base of chr1, None where the track has none: at an edge, inside, and over whole bins."""
    values = np.random.default_rng(4).gamma(1.0, 4.0, CHR1_BP).astype(np.float32).tolist()
    for gap in (range(2), range(9, 10), range(30, 47), range(100, 103), range(144, 148)):
        for base in gap:
            values[base] = None
    return values


@pytest.fixture
def reference(tmp_path, bases):
    (tmp_path / "toy.fa").write_text(f">chr1\n{bases}\n>chr2\n{'ACGT' * 10}\n")
    return Reference(tmp_path / "toy.fa", tmp_path / "cache")


@pytest.fixture
def signal_file(tmp_path, signal):
    """The signal as a bigWig that calls chr1 "1" and lacks chr2."""
    path = tmp_path / "toy.bw"
    writer = pyBigWig.open(str(path), "w")
    writer.addHeader([("1", CHR1_BP)])
    covered = [base for base, value in enumerate(signal) if value is not None]
    values = [signal[base] for base in covered]
    writer.addEntries(["1"] * len(covered), covered, ends=[base + 1 for base in covered], values=values)
    writer.close()
    with SignalFile(path) as opened:
        yield opened


def slow_base(signal, track, base):
    """Return the value of one base after filling and smoothing; None where it has none."""
    if not 0 <= base < len(signal):
        return None
    flank = track.smooth_bp // 2
    near = [signal[each] for each in range(max(0, base - flank), min(len(signal), base + flank + 1))]
    if track.uncovered == "zero":
        near = [0.0 if value is None else value for value in near]
    near = [value for value in near if value is not None]
    return math.fsum(near) / len(near) if near else None


def slow_target(signal, track, window_start):
    """Compute the target of one window base by base."""
    target = []
    for number in range(GEOMETRY.num_bins):
        first = window_start + GEOMETRY.crop_bp + number * GEOMETRY.bin_bp
        values = [slow_base(signal, track, base) for base in range(first, first + GEOMETRY.bin_bp)]
        values = [value for value in values if value is not None]
        if not values:
            target.append(math.nan)
            continue
        mean = math.fsum(values) / len(values)
        statistics = {"mean": mean, "max": max(values), "sum": mean * GEOMETRY.bin_bp}
        value = statistics[track.statistic] * track.scale
        if track.clip_soft is not None and value > track.clip_soft:
            value = track.clip_soft - 1 + math.sqrt(value - track.clip_soft + 1)
        target.append(value)
    return target


def built_targets(built, num_tracks):
    return decode_rows(built.rows["target"], "<f4", (GEOMETRY.num_bins, num_tracks))


TRACKS = [
    Track(name="mean", file="toy.bw"),
    Track(name="sum", file="toy.bw", statistic="sum", scale=0.5),
    Track(name="max", file="toy.bw", statistic="max", clip_soft=3.0),
    Track(name="zero", file="toy.bw", uncovered="zero", scale=3.0, clip_soft=5.0),
    Track(name="zero sum", file="toy.bw", uncovered="zero", statistic="sum"),
    Track(name="smooth", file="toy.bw", smooth_bp=7),
    Track(name="smooth zero", file="toy.bw", smooth_bp=5, uncovered="zero", statistic="max"),
]


@pytest.mark.parametrize(
    "shard",
    [
        Shard("chr1", 0, 7, 19, "train", 0),  # the first and the last base of the contig
        Shard("chr1", -GEOMETRY.crop_bp, GEOMETRY.target_bp, 10, "train", 0),  # padded at both ends
        Shard("chr1", 41, 5, 1, "train", 0),
    ],
)
def test_targets_are_those_of_a_computation_base_by_base(reference, signal_file, signal, shard):
    sources = [TrackSource(track, signal_file, {"chr1": "1"}) for track in TRACKS]
    built = build_shard(shard, reference, sources, geometry=GEOMETRY, max_n_fraction=1.0)
    assert built.rows["start"].to_pylist() == shard.starts
    targets = built_targets(built, len(TRACKS))
    for row, start in enumerate(shard.starts):
        for index, track in enumerate(TRACKS):
            expected = slow_target(signal, track, start)
            np.testing.assert_allclose(targets[row, :, index], expected, rtol=2e-6, err_msg=f"{track.name} {start}")


def test_rows_hold_the_bases_of_window_and_margins(reference, signal_file, bases):
    shard = Shard("chr1", 0, 21, 7, "valid", 4)
    source = TrackSource(TRACKS[0], signal_file, {"chr1": "1"})
    rows = build_shard(shard, reference, [source], geometry=GEOMETRY, max_n_fraction=1.0).rows
    codes = decode_rows(rows["sequence"], "u1", (GEOMETRY.stored_bp,))
    beyond = "N" * GEOMETRY.margin_bp
    padded = beyond + bases.upper() + beyond
    expected = [padded[start : start + GEOMETRY.stored_bp] for start in shard.starts]
    assert ["".join("ACGTN"[code] for code in row) for row in codes] == expected
    assert set(rows["contig"].to_pylist()) == {"chr1"}
    assert rows["end"].to_pylist() == [start + GEOMETRY.window_bp for start in shard.starts]
    assert set(rows["fold"].to_pylist()) == {4}


def test_windows_that_say_nothing_are_dropped_and_counted(reference, signal_file, bases, signal):
    shard = Shard("chr1", 0, 1, CHR1_BP - GEOMETRY.window_bp + 1, "train", 0)
    source = TrackSource(TRACKS[0], signal_file, {"chr1": "1"})
    built = build_shard(shard, reference, [source], geometry=GEOMETRY, max_n_fraction=0.25)
    unknown = {start for start in shard.starts if bases[start : start + 24].count("N") > 6}
    empty = {start for start in shard.starts if np.isnan(slow_target(signal, TRACKS[0], start)).all()}
    assert empty - unknown
    assert unknown
    assert built.dropped == {
        "windows with too many N": len(unknown),
        "windows without data in any track": len(empty - unknown),
    }
    assert built.rows["start"].to_pylist() == sorted(set(shard.starts) - unknown - empty)


def test_a_contig_that_the_track_lacks_is_masked_and_dropped_if_no_other_has_it(reference, signal_file):
    shard = Shard("chr2", 0, 16, 2, "train", 0)
    absent = TrackSource(TRACKS[3], signal_file, {"chr1": "1"})
    built = build_shard(shard, reference, [absent], geometry=GEOMETRY, max_n_fraction=0.0)
    assert len(built.rows) == 0
    assert built.dropped["windows without data in any track"] == 2
    assert built.statistics["zero"].num_bins == 0
    elsewhere = TrackSource(TRACKS[0], signal_file, {"chr2": "1"})
    built = build_shard(shard, reference, [absent, elsewhere], geometry=GEOMETRY, max_n_fraction=0.0)
    targets = built_targets(built, 2)
    assert np.isnan(targets[:, :, 0]).all()
    assert np.isfinite(targets[:, :, 1]).any()
    assert built.statistics["zero"].num_masked == built.statistics["zero"].num_bins == 8


def test_statistics_are_those_of_the_kept_rows_and_add_up(reference, signal_file):
    sources = [TrackSource(track, signal_file, {"chr1": "1"}) for track in TRACKS[:2]]
    parts = [Shard("chr1", 0, 7, 8, "train", 0), Shard("chr1", 56, 7, 11, "train", 0)]
    built = [build_shard(part, reference, sources, geometry=GEOMETRY, max_n_fraction=0.3) for part in parts]
    targets = np.concatenate([built_targets(one, 2) for one in built]).astype(np.float64)
    for index, name in enumerate(("mean", "sum")):
        total, values = built[0].statistics[name] + built[1].statistics[name], targets[:, :, index]
        assert total.num_bins == values.size
        assert total.num_masked == np.isnan(values).sum() > 0
        assert total.mean == pytest.approx(np.nanmean(values))
        assert total.variance == pytest.approx(np.nanvar(values))
        assert (total.least, total.greatest) == (np.nanmin(values), np.nanmax(values))


def test_statistics_of_nothing_add_up_to_the_other():
    nothing, some = summarise(np.full(3, np.nan)), summarise(np.array([2.0, np.nan, 4.0]))
    assert math.isnan(nothing.mean)
    assert nothing.least is None
    both = nothing + some
    assert (both.num_bins, both.num_masked, both.mean, both.variance) == (6, 4, 3.0, 1.0)
    assert (both.least, both.greatest) == (2.0, 4.0)
