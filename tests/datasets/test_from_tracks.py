import math
import os
from pathlib import Path

import numpy as np
import pyBigWig
import pytest

from cisray.config import check_settings
from cisray.datasets.card import Inputs, Track, track_transforms
from cisray.datasets.from_tracks import TracksSource, TracksSpec, build_shard
from cisray.datasets.loci.regions import Masks, MaskSpec, Spans
from cisray.datasets.loci.tiling import Shard
from cisray.datasets.schema import Layout, decode_examples, to_float
from cisray.datasets.transforms import to_natural, to_target
from cisray.datasets.window_signal import Masking, OpenTrack
from cisray.errors import InputError
from cisray.genome.reference import Reference
from cisray.genome.sequence import decode
from cisray.genome.tracks import SignalFile, write_signal
from cisray.geometry import Geometry

DATA = os.environ.get("CISRAY_DATA")
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
        target.append(slow_transform([value for value in values if value is not None], track))
    return target


def slow_transform(values, track):
    """Turn the values of a bin's bases into its target."""
    if not values:
        return math.nan
    mean = math.fsum(values) / len(values)
    pooled = {"mean": mean, "max": max(values), "sum": mean * GEOMETRY.bin_bp, "median": float(np.median(values))}
    value = pooled[track.statistic.removesuffix("_sqrt")] * track.scale
    if track.statistic.endswith("_sqrt"):
        value = math.sqrt(1 + value) - 1
    if track.clip_soft is not None and value > track.clip_soft:
        value = track.clip_soft - 1 + math.sqrt(value - track.clip_soft + 1)
    return value if track.clip is None else min(value, track.clip)


TRACKS = [
    Track(name="mean", file="toy.bw"),
    Track(name="sum", file="toy.bw", statistic="sum", scale=0.5),
    Track(name="max", file="toy.bw", statistic="max", clip_soft=3.0),
    Track(name="zero", file="toy.bw", uncovered="zero", scale=3.0, clip_soft=5.0, clip=6.0),
    Track(name="zero sum", file="toy.bw", uncovered="zero", statistic="sum_sqrt"),
    Track(name="smooth", file="toy.bw", smooth_bp=7, statistic="median"),
    Track(name="smooth zero", file="toy.bw", smooth_bp=5, uncovered="zero", statistic="max"),
]


def build(shard, reference, sources, *, geometry=GEOMETRY, max_n_fraction=1.0, **more):
    layout = Layout(geometry, tuple(source.track.name for source in sources))
    return build_shard(shard, reference, sources, layout=layout, max_n_fraction=max_n_fraction, **more)


def opened(track, signal_file, contig="chr1"):
    return OpenTrack(track, signal_file, {contig: "1"}, {"1": CHR1_BP})


def targets_of(built, num_tracks):
    layout = Layout(GEOMETRY, tuple(f"t{index}" for index in range(num_tracks)))
    return to_float(decode_examples(built.rows, layout).targets)


@pytest.mark.parametrize(
    "shard",
    [
        Shard("chr1", 0, 7, 19, "train", 0),  # the first and the last base of the contig
        Shard("chr1", 0, 8, 16, "train", 0),  # windows that share their bins
        Shard("chr1", -GEOMETRY.crop_bp, GEOMETRY.target_bp, 10, "train", 0),  # padded at both ends
        Shard("chr1", 41, 5, 1, "train", 0),
        Shard("chr1", 2, 0, 4, "train", 0, offsets=(0, 3, 50, 118)),
    ],
)
def test_targets_are_those_of_a_computation_base_by_base(reference, signal_file, signal, shard):
    built = build(shard, reference, [opened(track, signal_file) for track in TRACKS])
    assert built.rows["start"].to_pylist() == shard.starts
    targets = targets_of(built, len(TRACKS))
    for row, start in enumerate(shard.starts):
        for index, track in enumerate(TRACKS):
            expected = slow_target(signal, track, start)
            np.testing.assert_allclose(targets[row, :, index], expected, rtol=2e-6, err_msg=f"{track.name} {start}")


def test_rows_hold_the_bases_of_window_and_margins(reference, signal_file, bases):
    shard = Shard("chr1", 0, 21, 7, "valid", 4)
    rows = build(shard, reference, [opened(TRACKS[0], signal_file)]).rows
    codes = decode_examples(rows, Layout(GEOMETRY, ("mean",))).codes
    beyond = "N" * GEOMETRY.margin_bp
    padded = beyond + bases.upper() + beyond
    expected = [padded[start : start + GEOMETRY.stored_bp] for start in shard.starts]
    assert ["".join("ACGTN"[code] for code in row) for row in codes] == expected
    assert set(rows["contig"].to_pylist()) == {"chr1"}
    assert rows["end"].to_pylist() == [start + GEOMETRY.window_bp for start in shard.starts]
    assert set(rows["fold"].to_pylist()) == {4}


def test_windows_that_say_nothing_are_dropped_and_counted(reference, signal_file, bases, signal):
    shard = Shard("chr1", 0, 1, CHR1_BP - GEOMETRY.window_bp + 1, "train", 0)
    built = build(shard, reference, [opened(TRACKS[0], signal_file)], max_n_fraction=0.25)
    unknown = {start for start in shard.starts if bases[start : start + 24].count("N") > 6}
    empty = {start for start in shard.starts if np.isnan(slow_target(signal, TRACKS[0], start)).all()}
    assert empty - unknown
    assert unknown
    assert built.dropped == {
        "windows with too many N": len(unknown),
        "windows without data in any track": len(empty - unknown),
        "unmappable bins lowered to their window's quantile": 0,
    }
    assert built.rows["start"].to_pylist() == sorted(set(shard.starts) - unknown - empty)


def test_what_lies_beyond_a_contig_is_no_unknown_base(reference, signal_file):
    sources = [opened(TRACKS[0], signal_file)]
    shard = Shard("chr1", -8, 4, 3, "train", 0)  # windows of 24 bp, the first of which has 8 beyond
    assert build(shard, reference, sources, max_n_fraction=0.0).rows["start"].to_pylist() == [-8, -4, 0]
    last = Shard("chr1", CHR1_BP - 20, 4, 3, "train", 0)
    built = build(last, reference, sources, max_n_fraction=0.0)
    assert built.dropped["windows with too many N"] == 0


def test_a_channel_may_be_negative_where_a_target_may_not(tmp_path, reference):
    starts = np.arange(0, CHR1_BP, 10)
    write_signal(tmp_path / "lr.bw", {"1": CHR1_BP}, {"1": (starts, np.full(len(starts), -1.5))}, step_bp=10)
    write_signal(tmp_path / "ok.bw", {"1": CHR1_BP}, {"1": (starts, np.ones(len(starts)))}, step_bp=10)
    ratio = Track(name="ratio", file="lr.bw")
    layout = Layout(GEOMETRY, ("ok",), "<f4", Inputs(channels=(ratio,), channel_bp=3))
    built = build_shard(
        Shard("chr1", 0, 4, 5, "train", 0),
        reference,
        [opened(Track(name="ok", file="ok.bw"), SignalFile(tmp_path / "ok.bw"))],
        layout=layout,
        max_n_fraction=1.0,
        channels=[opened(ratio, SignalFile(tmp_path / "lr.bw"))],
    )
    channels = decode_examples(built.rows, layout).channels
    assert set(channels[~np.isnan(channels)].tolist()) == {-1.5}


def test_a_contig_that_the_track_lacks_is_masked_and_dropped_if_no_other_has_it(reference, signal_file):
    shard = Shard("chr2", 0, 16, 2, "train", 0)
    absent = opened(TRACKS[3], signal_file)
    built = build(shard, reference, [absent], max_n_fraction=0.0)
    assert len(built.rows) == 0
    assert built.dropped["windows without data in any track"] == 2
    assert built.tally.num_bins == 0
    built = build(shard, reference, [absent, opened(TRACKS[0], signal_file, "chr2")], max_n_fraction=0.0)
    targets = targets_of(built, 2)
    assert np.isnan(targets[:, :, 0]).all()
    assert np.isfinite(targets[:, :, 1]).any()
    assert built.tally.counts["num_masked"][0] == built.tally.num_bins == 8


def test_the_tally_is_that_of_the_kept_rows(reference, signal_file):
    built = build(Shard("chr1", 0, 7, 19, "train", 0), reference, [opened(t, signal_file) for t in TRACKS[:2]])
    targets = targets_of(built, 2).astype(np.float64)
    statistics = built.tally.statistics(["mean", "sum"])
    for index, name in enumerate(("mean", "sum")):
        values = targets[:, :, index]
        assert statistics[name].num_bins == values.size
        assert statistics[name].num_masked == np.isnan(values).sum() > 0
        assert statistics[name].mean == pytest.approx(np.nanmean(values))
        assert statistics[name].variance == pytest.approx(np.nanvar(values))


BLACK = Spans(np.array([20, 90]), np.array([33, 95]))


def masking(**spec):
    return Masking(MaskSpec(blacklist_pad_bp=0, **spec), Masks(blacklist={"chr1": BLACK}))


@pytest.mark.parametrize("stride_bp", [4, 7])
@pytest.mark.parametrize("track", TRACKS[:5], ids=lambda track: track.name)
def test_blacklisted_bases_are_masked_or_lowered_to_the_median_of_their_window(
    reference, signal_file, signal, track, stride_bp
):
    # eight bins, so that a window has a baseline of its own
    geometry = Geometry(window_bp=40, bin_bp=4, crop_bins=1)
    shard = Shard("chr1", 0, stride_bp, 16, "train", 0)
    is_black = [any(a <= base < b for a, b in zip(*BLACK, strict=True)) for base in range(CHR1_BP)]
    for action in ("mask", "clip"):
        how = masking(blacklist_values=action)
        built = build(shard, reference, [opened(track, signal_file)], geometry=geometry, masking=how)
        targets = to_float(decode_examples(built.rows, Layout(geometry, ("t",))).targets)[:, :, 0]
        for row, start in zip(targets, built.rows["start"].to_pylist(), strict=True):
            bases = range(start, start + 40)
            values = {base: slow_base(signal, track, base) for base in bases}
            present = [value for value in values.values() if value is not None]
            baseline = float(np.median(present)) if present else 0.0
            for base in bases:
                if is_black[base] and values[base] is not None:
                    values[base] = None if action == "mask" else min(values[base], baseline)
            expected = [
                slow_transform([values[b] for b in range(start + f, start + f + 4) if values[b] is not None], track)
                for f in range(4, 36, 4)
            ]
            np.testing.assert_allclose(row, expected, rtol=3e-6, err_msg=f"{action} {start}")


def test_a_window_of_few_bins_has_a_baseline_of_zero(reference, signal_file):
    how = masking(blacklist_values="clip")
    built = build(Shard("chr1", 20, 4, 1, "train", 0), reference, [opened(TRACKS[0], signal_file)], masking=how)
    assert targets_of(built, 1)[0, :2, 0].tolist() == [0.0, 0.0]  # bases 24 to 32


def test_unmappable_bins_are_lowered_to_the_quantile_of_their_window(reference, signal_file):
    masks = Masks(unmappable={"chr1": Spans(np.array([50]), np.array([58]))})
    how = Masking(MaskSpec(unmappable_clip_quantile=0.25), masks)
    shard, sources = Shard("chr1", 44, 4, 1, "train", 0), [opened(track, signal_file) for track in TRACKS[:2]]
    plain, lowered = build(shard, reference, sources), build(shard, reference, sources, masking=how)
    before, after = targets_of(plain, 2)[0], targets_of(lowered, 2)[0]
    bins = [0, 1, 2]  # bases 48 to 60; the third holds two unmappable bases of four
    assert lowered.dropped["unmappable bins lowered to their window's quantile"] == 3
    limit = np.sort(before, axis=0)[0]  # a quarter of the way over four values is the lowest
    assert np.array_equal(after[bins], np.minimum(before[bins], limit))
    assert np.array_equal(after[3], before[3])


def test_lowered_bins_of_windows_that_are_dropped_do_not_count(reference, signal_file):
    how = Masking(
        MaskSpec(unmappable_clip_quantile=0.5), Masks(unmappable={"chr1": Spans(np.array([0]), np.array([150]))})
    )
    shard = Shard("chr1", 0, 24, 5, "train", 0)  # of the second to fourth window a half, all and a third are N
    built = build(shard, reference, [opened(TRACKS[0], signal_file)], masking=how, max_n_fraction=0.3)
    assert built.dropped["windows with too many N"] == 5 - len(built.rows) == 2
    assert built.dropped["unmappable bins lowered to their window's quantile"] == len(built.rows) * GEOMETRY.num_bins


def test_channels_are_read_over_window_and_margins(reference, signal_file, signal):
    channel = Track(name="open", file="toy.bw", uncovered="zero", scale=2.0)
    layout = Layout(GEOMETRY, ("mean",), "<f4", Inputs(channels=(channel,)))
    shard = Shard("chr1", -4, 7, 5, "train", 0)
    built = build_shard(
        shard,
        reference,
        [opened(TRACKS[0], signal_file)],
        layout=layout,
        max_n_fraction=1.0,
        channels=[opened(channel, signal_file)],
    )
    channels = decode_examples(built.rows, layout).channels
    assert channels.shape == (5, GEOMETRY.stored_bp, 1)
    for row, start in enumerate(shard.starts):
        for index, base in enumerate(range(start - 3, start + 27)):
            expected = slow_base(signal, channel, base)
            value = channels[row, index, 0]
            assert np.isnan(value) if expected is None else value == pytest.approx(2 * expected, rel=1e-6)


@pytest.mark.parametrize(
    ("value", "message"), [(-1.0, "is -4; a Poisson rate is zero or more"), (3e38, "is infinite; make the file again")]
)
def test_values_that_no_poisson_rate_can_have_are_refused(tmp_path, reference, value, message):
    starts = np.arange(0, CHR1_BP, 10)
    values = np.where(starts == 50, value, 1.0)
    write_signal(tmp_path / "bad.bw", {"1": CHR1_BP}, {"1": (starts, values)}, step_bp=10)
    with pytest.raises(InputError, match=rf"bad\.bw: a bin of the window at 1:3[26] {message}"):
        build(
            Shard("chr1", 0, 4, 20, "train", 0),
            reference,
            [opened(Track(name="a", file="", statistic="sum", scale=4), SignalFile(tmp_path / "bad.bw"))],
        )


def spec_values():
    return {
        "genome": {"name": "toy", "fasta": "toy.fa"},
        "geometry": {"window_bp": 24, "bin_bp": 4, "crop_bins": 1, "margin_bp": 3},
        "folds": {"valid": ["chr1:0-40"], "test": ["chr1:110-150"]},
        "tracks": [{"name": "mean", "file": "toy.bw"}],
    }


@pytest.fixture
def source(tmp_path, reference, signal_file):
    """Open a job's source with some settings changed."""

    def make(**changes):
        return TracksSource(check_settings(spec_values() | changes, TracksSpec, source="job"), str(tmp_path))

    return make


def test_a_source_plans_its_shards_and_builds_them(source, signal, bases):
    made = source(store="float16")
    plan = made.plan()
    assert made.contig_names == {"mean": {"1": "chr1"}}
    assert made.absent_contigs == {"mean": ["chr2"]}
    assert [path.name for path in made.paths] == ["toy.fa", "toy.bw"]
    # by split, and else in genome order: in the genome, the validation split comes first
    places = [(shard.split, shard.values["contig"], shard.values["start"]) for shard in plan.shards]
    assert places == [("train", "chr1", 43), ("train", "chr2", 0), ("valid", "chr1", 0), ("test", "chr1", 113)]
    assert plan.regions["test"] == ["chr1:110-150"]
    assert plan.dropped["bases in no split"] == 0
    for shard in plan.shards:
        built = made.build(shard.values)
        assert len(built.rows) <= shard.num_rows
        targets = decode_examples(built.rows, made.layout).targets
        assert targets.dtype == np.float16
        for row, start in enumerate(built.rows["start"].to_pylist()):
            np.testing.assert_allclose(targets[row, :, 0], slow_target(signal, TRACKS[0], start), rtol=1e-3)


def test_a_smoothed_channel_holds_no_signal_of_another_split(source):
    channel = {"name": "open", "file": "toy.bw", "smooth_bp": 9}
    for made, reach_bp in ((source(), 3), (source(channels=[channel]), 3 + 4)):
        (shard,) = [each for each in made.plan().shards if (each.split, each.values["contig"]) == ("train", "chr1")]
        starts = Shard(**shard.values).starts
        assert starts[0] == 40 + reach_bp  # where the validation split ends, and no base of it is read
        assert starts[-1] + 24 <= 110 - reach_bp


def test_intervals_of_the_limit_on_other_contigs_are_told(source, tmp_path):
    (tmp_path / "limit.bed").write_text("chr1\t0\t150\nchrUn\t0\t9\nchrUn\t20\t29\n")
    plan = source(windows={"limit": "limit.bed"}).plan()
    assert plan.facts["intervals_on_other_contigs"] == {"limit": {"chrUn": 2}}
    assert source().plan().facts["intervals_on_other_contigs"] == {}


def test_a_sample_whose_variants_are_applied_changes_the_bases_alone(source, tmp_path, bases):
    position = next(base for base in range(115, 135) if bases[base].upper() == "A")
    (tmp_path / "one.vcf").write_text(
        "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
        f"chr1\t{position + 1}\t.\tA\tC\t.\tPASS\t.\n"
    )
    plain = source()
    own = source(genome={"name": "toy", "fasta": "toy.fa", "haplotype": {"variants": "one.vcf"}})
    assert own.genome.digest == plain.genome.digest
    assert own.genome.haplotype_digest not in (None, plain.genome.digest)
    assert own.plan().facts["variants_applied"]
    assert own.paths[1].name == "one.vcf"
    differ = 0
    for shard in plain.plan().shards:
        one, other = plain.build(shard.values).rows, own.build(shard.values).rows
        assert one["target"].equals(other["target"])
        codes = [decode_examples(rows, plain.layout).codes for rows in (one, other)]
        for row, at in zip(*np.nonzero(codes[0] != codes[1]), strict=True):
            assert one["start"][row].as_py() - 3 + at == position
            assert (codes[0][row, at], codes[1][row, at]) == (0, 1)
            differ += 1
    assert differ


def test_deletions_of_a_sample_draw_in_no_base_of_another_split(source, tmp_path, bases):
    deleted = bases[80:91].upper()
    (tmp_path / "one.vcf").write_text(
        "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
        f"chr1\t81\t.\t{deleted}\t{deleted[0]}\t.\tPASS\t.\n"
    )
    variants = {"variants": "one.vcf", "indels": "apply"}
    made = source(
        genome={"name": "toy", "fasta": "toy.fa", "haplotype": variants},
        folds={"valid": ["chr2"], "test": ["chr1:91-150"]},
        geometry={"window_bp": 16, "bin_bp": 4},
        windows={"stride_bp": 1, "max_n_fraction": 1.0},
    )
    plan = made.plan()
    assert plan.facts["kept_from_borders_bp"] == 10
    haplotype = bases.upper()[:81] + bases.upper()[91:]
    of_test = {haplotype[at : at + 8] for at in range(81, len(haplotype) - 7)}
    assert of_test
    for shard in plan.shards:
        if (shard.split, shard.values["contig"]) == ("train", "chr1"):
            codes = decode_examples(made.build(shard.values).rows, made.layout).codes
            assert not any(decode(row[at : at + 8]) in of_test for row in codes for at in range(9))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tracks": []}, "list them as .*, or name a targets.txt"),
        ({"targets": "targets.txt"}, "one of the two"),
        ({"relocate": {"suffix": {".w5": ".bw"}}}, "relocate and targets_order belong to a targets.txt; name it"),
        ({"targets_order": "old"}, "relocate and targets_order belong to a targets.txt; name it"),
        ({"channel_bp": 5}, "channel_bp=5; wanted a length that divides window_bp=24 and margin_bp=3"),
        ({"tracks": [{"name": "a", "file": "x.bw"}, {"name": "a", "file": "y.bw"}]}, "two are called a"),
        ({"tracks": [{"name": "a", "file": "missing.bw"}]}, r"missing\.bw: no such input file"),
        ({"genome": {"name": "toy", "fasta": "none.fa"}}, r"none\.fa: no such input file"),
        ({"geometry": {"window_bp": 400, "bin_bp": 4}}, "the train split has no window of 400 bp"),
        ({"folds": {"valid": ["chr7"], "test": ["chr1"]}}, "no such contig; there are chr1, chr2"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(source, changes, message):
    with pytest.raises(InputError, match=message):
        source(**changes).plan()


@pytest.mark.parametrize(
    ("contig", "length", "message"),
    [
        ("chr9", 150, r"other\.bw: holds contig chr9 which .*toy\.fa lacks; use the FASTA"),
        ("chr1", 151, r"other\.bw: contig 'chr1' has 151 bases there and 150 in the genome"),
        ("1", 151, r"other\.bw: holds contig 1 which .*toy\.fa lacks"),
    ],
)
def test_a_track_of_another_assembly_is_refused(source, tmp_path, contig, length, message):
    write_signal(tmp_path / "other.bw", {contig: length}, {contig: (np.array([0]), np.array([1.0]))}, step_bp=10)
    with pytest.raises(InputError, match=message):
        source(tracks=[{"name": "a", "file": "other.bw"}])


def test_a_contig_may_be_ignored_knowingly(source, tmp_path):
    lengths = {"chr1": 150, "chrUn": 40}
    write_signal(tmp_path / "other.bw", lengths, {"chr1": (np.array([0]), np.array([1.0]))}, step_bp=100)
    genome = {"name": "toy", "fasta": "toy.fa", "ignore_contigs": ["chrUn"]}
    made = source(tracks=[{"name": "a", "file": "other.bw", "uncovered": "zero"}], genome=genome)
    assert made.absent_contigs == {"a": ["chr2"]}


def test_tracks_may_come_from_a_targets_file(source, tmp_path):
    columns = ["", "identifier", "file", "clip", "clip_soft", "scale", "sum_stat", "strand_pair", "description"]
    row = ["7", "one", "/elsewhere/toy.w5", "384", "64", "0.5", "sum_sqrt", "7", "CAGE:toy"]
    (tmp_path / "targets.txt").write_text("\t".join(columns) + "\n" + "\t".join(row) + "\n")
    relocate = {"prefix": {"/elsewhere/": ""}, "suffix": {".w5": ".bw"}}
    made = source(tracks=[], targets="targets.txt", relocate=relocate)
    assert made.layout.tracks == ("one",)
    assert (made.tracks[0].statistic, made.tracks[0].scale, made.tracks[0].clip) == ("sum_sqrt", 0.5, 384)
    assert tmp_path / "targets.txt" in made.paths


@pytest.mark.skipif(DATA is None, reason="CISRAY_DATA names no folder")
def test_a_dataset_of_published_targets_is_those_targets_exactly():
    """Build from bigWigs of 65 windows, 74 tracks; their values are what the shipped targets are."""
    folder = Path(DATA) / "human_tiny/hg38"
    shipped = np.load(folder / "targets_f16.npz")
    windows = [line.split("\t") for line in (folder / "windows.tsv").read_text().splitlines()[1:]]
    of_split = {split: tuple(row[0] for row in windows if row[6] == split) for split in ("train", "valid", "test")}
    values = {
        "genome": {"name": "windows", "fasta": "windows.fa.gz"},
        "geometry": {"window_bp": 131_072, "bin_bp": 32, "crop_bins": 1024},
        "folds": {"valid": of_split["valid"], "test": of_split["test"]},
        "targets": "targets.txt",
        "relocate": {"template": "bigwig/{index:02}_{identifier}.bw"},
        "store": "float16",
        "windows": {"max_n_fraction": 1.0},
    }
    as_shipped = TracksSource(check_settings(values, TracksSpec, source="job"), str(folder))
    assert {track.statistic for track in as_shipped.tracks} == {"sum_sqrt", "mean"}
    assert as_shipped.tracks[0].strand_pair == as_shipped.layout.tracks[1]
    # the files hold targets, so that nothing is left to be transformed
    tracks = [
        {"name": track.name, "file": track.file, "uncovered": "zero", "description": track.description}
        for track in as_shipped.tracks
    ]
    del values["targets"], values["relocate"]
    source = TracksSource(check_settings(values | {"tracks": tracks}, TracksSpec, source="job"), str(folder))
    plan = source.plan()
    number = {str(name): row for row, name in enumerate(shipped["names"])}
    seen = set()
    for shard in plan.shards:
        built = source.build(shard.values)
        found = decode_examples(built.rows, source.layout).targets
        for contig, targets in zip(built.rows["contig"].to_pylist(), found, strict=True):
            assert targets.tobytes() == shipped["targets"][number[contig]].tobytes(), contig
            assert contig in of_split[shard.split]
            seen.add(contig)
    assert len(seen) == len(plan.shards) == 65
    target = shipped["targets"].astype(np.float64)
    natural = to_natural(target, track_transforms(as_shipped.tracks))
    np.testing.assert_allclose(to_target(natural, track_transforms(as_shipped.tracks)), target, rtol=1e-12, atol=1e-12)
