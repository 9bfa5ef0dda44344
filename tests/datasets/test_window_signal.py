"""Signal over windows, held against a plain NumPy computation on random files."""

from itertools import pairwise

import numpy as np
import pyBigWig
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cisray.datasets.card import Track
from cisray.datasets.window_signal import NO_MASKING, OpenTrack, Part, read_tracks
from cisray.genome.tracks import open_signal


@st.composite
def files(draw):
    """Draw a contig's length and the intervals of a track on it, sorted; none of them at all is a track too."""
    length = draw(st.integers(1, 400))
    kind = draw(st.sampled_from(["bigWig", "bedGraph", "BED"]))
    edges = draw(st.lists(st.integers(0, length), max_size=40, unique=True).map(sorted))
    spans = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=False) if a < b]
    if draw(st.booleans()):  # side by side, as coverage is written
        spans = list(pairwise(edges))
    if kind == "BED":
        starts = draw(st.lists(st.integers(0, length - 1), max_size=20))
        spans = sorted((a, min(length, a + draw(st.integers(1, 60)))) for a in starts)
    values = [float(np.float32(draw(st.floats(0, 1e4, width=32)))) for _ in spans]
    return length, kind, spans, values


def write(path, length, kind, spans, values):
    """Write a track; return its values base by base as float64 [length], NaN where it has none."""
    dense = np.full(length, 0.0 if kind == "BED" else np.nan)
    if kind == "bigWig":
        file = pyBigWig.open(str(path), "w")
        file.addHeader([("c", length), ("empty", 7)])
        if spans:
            starts, ends = zip(*spans, strict=True)
            file.addEntries(["c"] * len(spans), list(starts), ends=list(ends), values=values)
        file.close()
    else:
        lines = [
            f"c\t{a}\t{b}" + ("" if kind == "BED" else f"\t{v!r}") for (a, b), v in zip(spans, values, strict=True)
        ]
        path.write_text("".join(f"{line}\n" for line in lines))
    for (start, end), value in zip(spans, values, strict=True):
        dense[start:end] = dense[start:end] + 1 if kind == "BED" else value
    return dense


def plain(dense, track, first, bins, bin_bp):
    """Compute bins in float64 from a contig's values base by base."""
    values = np.where(np.isnan(dense), 0.0, dense) if track.uncovered == "zero" else dense
    flank = track.smooth_bp // 2
    if flank:
        near = [values[max(0, base - flank) : base + flank + 1] for base in range(len(values))]
        values = np.array([np.nan if np.isnan(one).all() else np.nanmean(one) for one in near])
    found = []
    for number in range(bins):
        start = first + number * bin_bp
        bases = values[max(0, start) : max(0, start + bin_bp)]
        bases = bases[~np.isnan(bases)]
        if not len(bases):
            found.append(np.nan)
        elif track.statistic == "sum":
            found.append(bases.mean() * bin_bp)  # of what is covered, as if all of the bin were
        else:
            found.append({"mean": np.mean, "max": np.max, "median": np.median}[track.statistic](bases))
    return found


tracks = st.builds(
    lambda statistic, uncovered, smooth_bp: Track(
        name="t", file="f", statistic=statistic, uncovered=uncovered, smooth_bp=smooth_bp
    ),
    st.sampled_from(["sum", "mean", "max", "median"]),
    st.sampled_from(["mask", "zero"]),
    st.sampled_from([1, 1, 3, 9]),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files(), tracks, st.data())
def test_bins_are_those_of_numpy_on_any_file_and_any_windows(tmp_path, file, track, data):
    length, kind, spans, values = file
    if kind != "bigWig" and not spans:
        return  # a text file without a line is refused
    path = tmp_path / f"{abs(hash((length, kind, tuple(spans), tuple(values))))}.{kind.lower()}"
    dense = write(path, *file)
    bin_bp, bins = data.draw(st.integers(1, 16)), data.draw(st.integers(1, 6))
    offset = data.draw(st.integers(-20, 20))
    window_bp = data.draw(st.integers(1, 40))
    gaps = data.draw(st.lists(st.integers(1, 50), max_size=5))
    starts = np.cumsum([data.draw(st.integers(-60, length)), *gaps])
    if data.draw(st.booleans()):
        starts = starts[0] + (starts - starts[0]) // bin_bp * bin_bp  # windows that share their bins
    signal = open_signal(path)
    signal.check_lengths({"c": length})
    source = OpenTrack(track, signal, {"chr": "c"}, {"c": length})
    part = Part(offset, bins * bin_bp, bin_bp, window_bp)
    found = read_tracks([source], "chr", starts, part=part, masking=NO_MASKING)
    assert found.shape == (len(starts), bins, 1)
    expected = [plain(dense, track, start + offset, bins, bin_bp) for start in starts.tolist()]
    np.testing.assert_allclose(found[:, :, 0], expected, rtol=1e-6, atol=1e-9)


def test_a_contig_without_a_counterpart_is_all_missing(tmp_path):
    write(tmp_path / "f.bigwig", 30, "bigWig", [], [])
    signal = open_signal(tmp_path / "f.bigwig")
    source = OpenTrack(Track(name="t", file="f"), signal, {"chr": "c"}, {"c": 30})
    part = Part(0, 8, 4, 8)
    for contig in ("chr", "other"):
        assert np.isnan(read_tracks([source], contig, np.array([0, 8]), part=part, masking=NO_MASKING)).all()
