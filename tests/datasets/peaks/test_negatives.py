import numpy as np
import pytest

from cisray.config import check_settings
from cisray.datasets.loci.folds import FoldSpec, assign_regions
from cisray.datasets.loci.regions import Masks, Spans
from cisray.datasets.loci.tiling import WindowSpec
from cisray.datasets.peaks.negatives import NegativeSpec, Scene, choose_negatives, distance, gc_histogram, unpeaked
from cisray.datasets.peaks.placement import Ground, Windows, join_spans
from cisray.errors import InputError
from cisray.genome.reference import Reference
from cisray.geometry import Geometry

WINDOW_BP = 100
LENGTHS = {"chr1": 60_000, "chr2": 30_000, "chr3": 30_000}
MOTIF = "GATTACAGGA"
GEOMETRY = Geometry(window_bp=WINDOW_BP, bin_bp=20, crop_bins=1)
DECOY_STEP, PEAK_STEP = 700, 1000  # bases between motifs without a peak, and between peaks


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    """GC content that waves along each contig, motifs without a peak, and a motif 60 bases into every second peak."""
    random, folder, text = np.random.default_rng(5), tmp_path_factory.mktemp("genome"), ""
    for contig, length in LENGTHS.items():
        gc = 0.5 + 0.25 * np.sin(np.arange(length) / 400)
        strong = random.random(length) < gc
        letters = np.where(strong, random.choice(["G", "C"], length), random.choice(["A", "T"], length))
        for start in range(430, length - 100, DECOY_STEP):
            letters[start : start + 10] = list(MOTIF)
        for number, start in enumerate(range(200, length - 200, PEAK_STEP)):
            letters[start : start + 10] = list(MOTIF) if number % 2 else list("TTTTTTTTTT")
        letters[20_000:20_300] = "N"
        text += f">{contig}\n{''.join(letters)}\n"
    (folder / "g.fa").write_text(text)
    return Reference(folder / "g.fa", folder / "cache")


@pytest.fixture(scope="module")
def scene(genome):
    folds = FoldSpec(valid=("chr2",), test=("chr3",), exclude=("chr1:50000-60000",))
    ground = Ground(assign_regions(folds, LENGTHS), LENGTHS, geometry=GEOMETRY, spec=WindowSpec())
    peaks = {}
    for contig, length in LENGTHS.items():
        middle = np.arange(200, length - 200, PEAK_STEP) + 5
        peaks[contig] = Spans(middle - 30, middle + 30)
    return Scene(ground, genome, Masks(), peaks, 0.1, 0, None)


@pytest.fixture(scope="module")
def positives(scene):
    """A window per peak, which begins 60 bases before the motif."""
    found = []
    for contig, spans in scene.peaks.items():
        region = scene.ground.locate(contig, spans.start)
        found.append(Windows(region[region >= 0], spans.start[region >= 0] + 25 - 60))
    windows = Windows.of(*(np.concatenate(column) for column in zip(*found, strict=True)))
    return windows.pick(scene.ground.composition(windows, scene.reference).n_fraction == 0)


@pytest.fixture(scope="module")
def taken(scene, positives):
    return join_spans(scene.peaks, scene.ground.spans(positives))


@pytest.fixture
def choose(scene, positives, taken):
    def choose(kind, scene=scene, positives=positives, **settings):
        spec = check_settings({"kind": kind, **settings}, NegativeSpec, source="job")
        return choose_negatives(spec, scene, positives, taken=taken)

    return choose


def sequences(scene, windows):
    return [
        scene.reference.bases(scene.ground.regions[region].interval.contig, start, start + WINDOW_BP)
        for region, start in zip(windows.region.tolist(), windows.start.tolist(), strict=True)
    ]


def complement(bases):
    return bases[::-1].translate(str.maketrans("ACGT", "TGCA"))


def holds(bases):
    return MOTIF in bases or MOTIF in complement(bases)


def are_apart(windows, other=WINDOW_BP):
    return all(
        (np.diff(windows.start[windows.region == region]) >= other).all() for region in np.unique(windows.region)
    )


@pytest.mark.parametrize("kind", ["unpeaked", "gc_matched", "motif_matched"])
def test_unpeaked_negatives_touch_no_peak_and_no_positive(choose, scene, taken, kind):
    chosen = choose(kind, ratio=0.8, **({"motif": MOTIF} if kind == "motif_matched" else {}))
    assert len(chosen.windows.start) > 50
    assert (scene.ground.overlap_bp(chosen.windows, taken) == 0).all()
    assert scene.ground.fit(chosen.windows).all()
    assert are_apart(chosen.windows)
    assert max(bases.count("N") for bases in sequences(scene, chosen.windows)) <= 10
    assert chosen.copy is None


@pytest.mark.parametrize("ratio", [0.3, 1.0, 2.0])
def test_every_split_gets_its_own_number(choose, scene, positives, ratio):
    chosen = choose("unpeaked", ratio=ratio)
    of_positives, got = (scene.ground.by_split(scene.ground.counts(some)) for some in (positives, chosen.windows))
    assert got == {split: int(ratio * count + 0.5) for split, count in of_positives.items()}
    assert chosen.facts["asked"] == chosen.facts["got"] == got
    assert chosen.facts["short"] == 0


def test_only_the_named_splits_get_negatives(choose, scene):
    for kind in ("unpeaked", "shuffle"):
        chosen = choose(kind, splits=["train"])
        counts = scene.ground.by_split(scene.ground.counts(chosen.windows))
        assert counts["valid"] == counts["test"] == 0 < counts["train"]


def test_gc_content_is_matched_class_by_class(choose, scene, positives):
    gc_of = {
        name: scene.ground.composition(windows, scene.reference).gc_fraction
        for name, windows in (
            ("positives", positives),
            ("matched", choose("gc_matched", gc_bin=0.05, stride_bp=10).windows),
            ("unmatched", choose("unpeaked").windows),
        )
    }
    # a window of the lattice at 10 bp may overlap the next: distributions, not places, are looked at here
    histograms = {name: np.histogram(gc, bins=20, range=(0, 1))[0] for name, gc in gc_of.items()}
    assert histograms["matched"].sum() == histograms["positives"].sum()
    np.testing.assert_array_equal(histograms["matched"], histograms["positives"])
    assert distance(histograms["unmatched"], histograms["positives"]) > 0.1


def test_what_was_matched_is_measured_before_and_after(choose):
    told = choose("gc_matched", gc_bin=0.05, stride_bp=10).facts["gc_distance"]
    assert told["chosen"] <= 0.02 < told["candidates"]
    told = choose("unpeaked").facts
    assert sum(told["gc_histogram"]) == sum(told["got"].values())


def test_too_few_are_counted_and_told(choose):
    chosen = choose("unpeaked", ratio=50.0)
    assert chosen.facts["short"] == sum(chosen.facts["asked"].values()) - len(chosen.windows.start) > 1000
    assert sum(chosen.facts["got"].values()) == len(chosen.windows.start) == chosen.facts["candidates"]


def test_motif_matched_negatives_hold_the_motif_where_the_positives_do(choose, scene, positives):
    chosen = choose("motif_matched", motif=MOTIF, ratio=0.5)
    assert all(holds(bases) for bases in sequences(scene, chosen.windows))
    offsets, of_positives = (
        [bases.find(MOTIF) for bases in sequences(scene, windows) if MOTIF in bases]
        for windows in (chosen.windows, positives)
    )
    assert set(offsets) <= set(of_positives)  # 60, and where a motif of another place happens to lie in a positive
    assert offsets.count(60) > 0.6 * len(offsets) > 20
    assert chosen.facts["motif_in_positives"] == sum(holds(bases) for bases in sequences(scene, positives))
    assert chosen.facts["position_distance"]["chosen"] < 0.15


def test_match_scores_are_matched(choose, tmp_path, scene, positives):
    rows = "".join(" ".join(str(int(letter == base)) for base in "ACGT") + "\n" for letter in MOTIF)
    (tmp_path / "m.meme").write_text(
        f"MEME version 4\nMOTIF toy\nletter-probability matrix: alength= 4 w= {len(MOTIF)}\n{rows}"
    )
    chosen = choose(
        "motif_matched",
        scene=scene._replace(data_dir=str(tmp_path)),
        motif_file="m.meme",
        threshold=-8.0,
        score_bin=4.0,
        ratio=0.5,
    )
    told = chosen.facts["score_distance"]
    assert told["chosen"] < told["candidates"]
    assert told["chosen"] < 0.1
    with pytest.raises(InputError, match=r"threshold=99\.0 is beyond the best match of toy, 19\."):
        choose("motif_matched", scene=scene._replace(data_dir=str(tmp_path)), motif_file="m.meme", threshold=99.0)


def test_a_motif_that_no_positive_holds_is_refused(choose):
    with pytest.raises(InputError, match=r"none of .* positives holds motif ACGTACGTACGTACGT with a score of 16"):
        choose("motif_matched", motif="ACGTACGTACGTACGT")


def test_random_negatives_may_lie_on_peaks(choose, scene):
    chosen = choose("random", ratio=4.0)
    on_peaks = scene.ground.overlap_bp(chosen.windows, scene.peaks) > 0
    share = on_peaks.mean()
    assert 0.05 < share < 0.25  # (60 + 100) of 1,000 bases


@pytest.mark.parametrize("jitter_bp", [0, 30, 5000])
def test_accessible_negatives_are_centred_on_sites_without_a_peak(choose, scene, taken, tmp_path, jitter_bp):
    (tmp_path / "open.bed").write_text(
        "".join(f"chr1\t{start}\t{start + 140}\n" for start in range(190, 59_000, 500))
        + "chr2\t3300\t3900\nchrUn\t3\t9\n"
    )
    there = scene._replace(data_dir=str(tmp_path), jitter_bp=jitter_bp)
    chosen = choose("accessible", scene=there, file="open.bed", ratio=5.0)
    middle = chosen.windows.start + WINDOW_BP // 2
    on_chr1 = [scene.ground.regions[region].interval.contig == "chr1" for region in chosen.windows.region]
    inside = [(m - 190) % 500 < 140 for m in middle[on_chr1]]
    assert all(inside)
    assert len(inside) > 40
    on_chr2 = middle[~np.array(on_chr1)]
    assert ((on_chr2 >= 3300) & (on_chr2 < 3900)).all()
    assert len(on_chr2) > 1  # a long site holds several windows
    dropped = chosen.facts["dropped_candidates"]
    assert dropped["sites on contigs that the genome lacks"] == 1
    assert dropped["windows on a peak, a positive or a negative"] > 5
    assert dropped["windows outside the splits"] == 18
    assert (scene.ground.overlap_bp(chosen.windows, taken) == 0).all()
    assert chosen.facts["short"] > 0


def test_mined_negatives_are_those_of_the_file_off_the_positives(choose, scene, positives, tmp_path):
    lines = ["chr1\t600\t700\tround1\t0.9", "chr1\t1450\t1550\tround2\t0.8", "chr2\t600\t700\tround1\t0.7"]
    lines += ["chr1\t1190\t1290\tround1\t0.6", "chr1\t55000\t55100\tround1\t0.6", "chr1\t0\t20\tround1\t0.6"]
    lines += ["chr1\t20040\t20140\tround1\t0.6", "chr1\t600\t700\tround2\t0.9"]
    (tmp_path / "mined.bed").write_text("\n".join(lines) + "\n")
    chosen = choose("mined", scene=scene._replace(data_dir=str(tmp_path)), file="mined.bed", splits=["train"])
    assert chosen.windows.start.tolist() == [600, 1450]
    assert chosen.facts["dropped_candidates"] == {
        "loci outside the splits, or named twice": 3,
        "windows beyond the ends of their region": 1,
        "windows on a peak, a positive or a negative": 1,
        "windows with too many N": 1,
        "windows that touch the blacklist": 0,
        "windows with too many unmappable bins": 0,
    }
    assert chosen.facts["short"] == 3


@pytest.mark.parametrize(("ratio", "copies"), [(1.0, {1}), (2.0, {2}), (0.5, {0, 1}), (1.5, {1, 2})])
def test_shuffles_are_of_the_positives_as_often_as_asked(choose, positives, ratio, copies):
    chosen = choose("shuffle", ratio=ratio)
    found = [
        int(((chosen.windows.region == region) & (chosen.windows.start == start)).sum())
        for region, start in zip(positives.region, positives.start, strict=True)
    ]
    assert set(found) == copies
    assert sum(found) == len(chosen.copy) == sum(chosen.facts["got"].values())
    assert abs(sum(found) - ratio * len(positives.start)) <= 1.5  # each split is rounded by itself
    assert chosen.copy.max() == max(copies) - 1


def test_others_adds_nothing(choose):
    chosen = choose("others")
    assert len(chosen.windows.start) == 0
    assert chosen.facts["short"] == 0


def test_the_blacklist_and_unmappable_bins_are_kept_off(choose, scene):
    masks = Masks(
        blacklist={"chr1": Spans(np.array([0]), np.array([40_000]))},
        unmappable={"chr2": Spans(np.array([0]), np.array([20_000]))},
    )
    chosen = choose("unpeaked", scene=scene._replace(masks=masks), ratio=9.0)
    contigs = np.array([scene.ground.regions[region].interval.contig for region in chosen.windows.region])
    assert (chosen.windows.start[contigs == "chr1"] >= 40_000).all()
    assert (chosen.windows.start[contigs == "chr2"] > 19_900).all()
    assert chosen.facts["dropped_candidates"]["windows that touch the blacklist"] > 100


def test_the_seed_and_nothing_else_decides(choose):
    one, again, other = choose("unpeaked"), choose("unpeaked"), choose("unpeaked", seed=1)
    np.testing.assert_array_equal(one.windows.start, again.windows.start)
    assert set(one.windows.start) != set(other.windows.start)


def test_candidates_may_be_laid_closer(scene, taken):
    near = unpeaked(scene.ground, taken=taken, stride_bp=10, seed=0)
    far = unpeaked(scene.ground, taken=taken, stride_bp=None, seed=0)
    assert len(near.start) > 8 * len(far.start)
    assert are_apart(far)
    assert are_apart(near, 10)


def test_distances_run_from_0_to_1():
    assert distance(np.array([2, 2]), np.array([1, 1])) == 0
    assert distance(np.array([2, 0]), np.array([0, 5])) == 1
    assert distance(np.array([0, 0]), np.array([0, 5])) == 1
    assert distance(np.array([3, 1]), np.array([1, 1])) == 0.25
    assert gc_histogram(np.array([0.0, 0.011, 0.03, 1.0])).tolist() == [2, 1, *[0] * 46, 0, 1]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kind": "unpeaked", "ratio": 0}, r"ratio=0\.0, .*wanted a ratio above 0"),
        ({"kind": "unpeaked", "ratio": float("inf")}, "ratio = inf; wanted a finite number"),
        ({"kind": "unpeaked", "ratio": float("nan")}, "ratio = nan; wanted a finite number"),
        (
            {"kind": "motif_matched", "motif": "ACG", "score_bin": float("nan")},
            "score_bin = nan; wanted a finite number",
        ),
        ({"kind": "unpeaked", "splits": []}, "and a split"),
        ({"kind": "gc_matched", "gc_bin": 0}, r"gc_bin=0\.0, .*wanted widths above 0"),
        ({"kind": "unpeaked", "stride_bp": 0}, "stride_bp=0; wanted widths above 0"),
        ({"kind": "accessible"}, "file=None; accessible and mined need a BED file"),
        ({"kind": "unpeaked", "file": "a.bed"}, "file='a.bed'; accessible and mined need"),
        ({"kind": "unpeaked", "motif": "ACG"}, "motif is for motif_matched alone"),
        ({"kind": "motif_matched"}, "wanted a consensus in motif, or a file in motif_file"),
        ({"kind": "motif_matched", "motif": "ACG", "motif_file": "m"}, "not both"),
        ({"kind": "motif_matched", "motif_file": "m"}, "motif_file needs a threshold"),
        ({"kind": "motif_matched", "motif": "AXQ"}, "wanted letters of the IUPAC code"),
        ({"kind": "motif_matched", "motif": "ACG", "motif_name": "x"}, "motif_name names one of motif_file"),
        ({"kind": "anything"}, "kind = 'anything'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, told):
    with pytest.raises(InputError, match=told):
        check_settings(settings, NegativeSpec, source="job")
