import dataclasses
import json
import re
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.datasets.card import Genome, Inputs, SourceFile, Track, card_to_dict
from cisray.datasets.loci.folds import FoldSpec
from cisray.datasets.statistics import HISTOGRAM_BINS, TRACKS_NAME, Tally, write_tracks
from cisray.errors import InputError
from cisray.files import write_json
from cisray.geometry import Geometry
from cisray.reports import dataset_page
from cisray.reports.dataset_page import (
    describe_folds,
    describe_geometry,
    describe_inputs,
    join_stretches,
    shortened,
    write_dataset_page,
)
from cisray.reports.figures import Stretch

pytestmark = pytest.mark.usefixtures("unrendered")
EVIL = "<img src=x onerror=alert(1)>$_{"


def facts_of(page):
    """Return the names and values of a page's lists."""
    return dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", page.source))


def test_what_a_row_holds_is_told(card_of, make_dataset, read_page):
    inputs = Inputs(
        sequences=3,
        covariates=("tpm", "length"),
        channels=(Track(name="atac", file="atac.bw"),),
        channel_bp=16,
        weighted=True,
    )
    card = card_of(inputs=inputs, target_type="<f2")
    page = read_page(write_dataset_page(make_dataset(card)))
    said = facts_of(page)
    assert said["targets"] == "signal along the genome, 0 or more in every bin"
    assert said["stored as"] == "float16, NaN where there is no data"
    assert said["genome"] == "sim, 3 contigs, 170,000 bp"
    assert said["sequences"].startswith("3 per row")
    assert said["covariates"] == "tpm, length"
    assert said["channels"] == "one value for 16 bp of atac (atac.bw)"
    assert said["weight"] == "one per row"
    assert "sample" not in said
    assert describe_inputs(card_of()) == [("further inputs", "none")]


def test_splits_regions_and_losses_are_told(card_of, make_dataset, read_page):
    card = card_of()
    page = read_page(write_dataset_page(make_dataset(card)))
    assert page.table("split", "examples", "bases", "regions") == [
        ["train", "3", "120,000", "2"],
        ["valid", "1", "20,000", "1"],
        ["test", "1", "30,000", "1"],
    ]
    assert page.table("reason", "count") == [
        ["windows with too many N", "4"],
        ["test bases under no window", "1,328"],
    ]
    assert "valid is sim2:0-20000; test is sim3; the rest is train." in page.text
    assert card.digest in page.text
    assert page.source.count("<img") == 2


def test_a_dataset_without_a_genome_has_a_page(card_of, make_dataset, read_page):
    values = np.random.default_rng(0).normal(0, 2, 640)
    targets = {split: {"log2fc": values + index / 9} for index, split in enumerate(("train", "valid", "test"))}
    card = card_of(
        ("log2fc",),
        targets=targets,
        kind="measurements",
        genome=None,
        folds=None,
        regions={},
        dropped={},
        geometry=Geometry(window_bp=200, bin_bp=200),
    )
    page = read_page(write_dataset_page(make_dataset(card, targets)))
    assert "1 measurement of sequences that lie on no genome, 5 examples" in page.text
    assert facts_of(page)["genome"] == "none: each sequence is a contig of its own"
    assert page.table("split", "examples") == [["train", "3"], ["valid", "1"], ["test", "1"]]
    assert "Nothing was left out." in page.text
    assert "None: targets are numbers as they were measured." in page.text
    assert "All values below 0 make one bar." in page.text
    assert "Contig names" not in page.text
    assert "genome digest" not in page.text
    assert page.source.count("<img") == 1


def test_a_sample_and_source_files_are_told(card_of, make_dataset, read_page):
    genome = Genome(
        name="sim",
        fasta="g.fa",
        digest="ab",
        contig_lengths={"sim1": 80_000, "sim2": 60_000, "sim3": 30_000},
        contig_digests={},
        haplotype_digest="feed",
    )
    sources = (SourceFile(path="0.bw", num_bytes=12_345, sampled_digest="0123456789abcdef" * 4),)
    page = read_page(write_dataset_page(make_dataset(card_of(genome=genome, sources=sources))))
    assert facts_of(page)["sample"].endswith("digest feed")
    header = ("file", "bytes", "digest of samples, its beginning")
    assert page.table(*header) == [["0.bw", "12,345", "0123456789abcdef"]]


def test_facts_become_lists_and_tables(card_of, make_dataset, read_page, monkeypatch):
    monkeypatch.setattr(dataset_page, "MOST_ROWS", 2)
    facts = {
        "is_exact": True,
        "left_alone": [],
        "files_read": ["a.bed", "b.bed"],
        "negatives": {"per_positive": 1.5, "without_a_match": 17, "seed": None, "chrUn_1": "x_y"},
        "intervals_on_other_contigs": {"blacklist": {}, "gaps": {"chrM": 2, "chrUn_1": 3}},
        "leakage": {
            "k": 31,
            "pairs": [{"split": "train", "other": "test", "shared_bp": 1200 + i, "fraction": 0.25} for i in range(3)],
            "deep": {"a": {"b": {"c": 1}}},
        },
        "many": {"contigs": {f"chr{index}": index for index in range(12)}},
        "mixed": [1, {"a": [[2]]}],
    }
    page = read_page(write_dataset_page(make_dataset(card_of(facts=facts))))
    said = facts_of(page)
    assert (said["is exact"], said["left alone"], said["files read"]) == ("yes", "none", "a.bed, b.bed")
    assert page.table("negatives", "value") == [["per positive", "1.500"], ["without a match", "17"]]
    assert page.table("", "chrM", "chrUn_1") == [["blacklist", "–", "–"], ["gaps", "2", "3"]]
    assert page.table("leakage", "value") == [["k", "31"]]
    assert page.table("split", "other", "shared bp", "fraction") == [
        ["train", "test", "1,200", "0.250"],
        ["train", "test", "1,201", "0.250"],
    ]
    assert "1 more rows are in card.json" in page.text
    assert page.table("many: contigs", "value") == [["chr0", "0"], ["chr1", "1"]]
    assert "leakage: pairs" in page.text
    assert "<summary>mixed</summary>" in page.source


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**9), 10**9), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.from_regex("[a-z]{1,4}(_[a-z]{1,3})?", fullmatch=True), plain, max_size=4))
def test_any_facts_are_laid_out_and_none_is_lost(values):
    marked = values | {"deep": {"one": [{"two": {"three": "needle"}}]}, "flat": {"row": {"cell": "thread"}}}
    source = "\n".join(dataset_page.lay_out(marked))
    assert "needle" in source
    assert "thread" in source
    assert source.count("<table") == source.count("</table>")


@pytest.mark.parametrize(
    ("folds", "words"),
    [
        (
            FoldSpec(num_folds=5, test_fold=3, break_bp=50_000, exclude=("chrM",)),
            r"50,000 bp were dealt out to 5 folds; fold 1 is valid, fold 3 is test, .* chrM: in no split\.$",
        ),
        (
            FoldSpec(valid_fraction=0.1, test_fraction=0.125, seed=7),
            r" drawn with seed 7: up to 10\.0% of the bases for valid, 12\.5% for test; the rest is train\.$",
        ),
        (
            FoldSpec(sequences="sequences.bed", valid_fold=3, test_fold=4),
            r"^sequences\.bed lists predicted parts of windows and their splits; .* fold 3 is valid, fold 4 is test",
        ),
        (FoldSpec(chromosomes="splits.json"), r"^splits\.json lists the contigs of every split\.$"),
        (FoldSpec(valid=("a",), test=("b", "c")), r"^Named regions: valid is a; test is b, c; the rest is train\.$"),
    ],
)
def test_every_way_to_divide_a_genome_is_described(folds, words):
    assert re.search(words, describe_folds(folds))


def test_geometry_in_words_holds_every_number():
    said = dict(describe_geometry(Geometry(window_bp=131_072, bin_bp=128, crop_bins=64, margin_bp=16)))
    assert "131,072 bp" in said["window"]
    assert "128 bp" in said["bin"]
    assert "64 bins (8,192 bp)" in said["crop"]
    assert "16 bp" in said["margin"]
    assert "131,104 bp" in said["margin"]
    assert said["bins per example"] == "896, which cover 114,688 bp"
    plain = dict(describe_geometry(Geometry(window_bp=256, bin_bp=16)))
    assert plain["crop"].startswith("none")
    assert plain["margin"].startswith("none")


def test_many_stretches_are_joined_for_the_map():
    rng = np.random.default_rng(0)
    stretches = [
        Stretch(contig, start, start + 70, ("train", "valid", "test")[int(rng.integers(3))])
        for contig, end in (("a", 700_000), ("b", 70_000))
        for start in (*range(0, end // 2, 70), *range(end * 3 // 4, end, 70))
    ]
    assert join_stretches(stretches[:100], most=100) == stretches[:100]
    joined = join_stretches(stretches, most=200)
    assert 100 < len(joined) <= 400 + 2
    dot_bp = -(-770_000 // 200)
    for one, other in pairwise(joined):
        assert one.contig != other.contig or one.end <= other.start
        assert one.end - one.start < 3 * dot_bp or one.split == "train"
    for contig, end in (("a", 700_000), ("b", 70_000)):
        mine = [one for one in joined if one.contig == contig]
        assert (mine[0].start, mine[-1].end) == (0, end)
        assert sum(one.end - one.start for one in mine) == end * 3 // 4  # the gap stays one
    whole = [Stretch("a", start, start + 1, "train") for start in range(500)]
    assert join_stretches(whole, most=10) == [Stretch("a", 0, 500, "train")]


def test_a_map_that_is_not_exact_says_so(card_of, make_dataset, read_page, monkeypatch):
    monkeypatch.setattr(dataset_page, "MOST_STRETCHES", 3)
    regions = {"train": [f"sim1:{start}-{start + 100}" for start in range(0, 3000, 100)], "valid": ["sim2"], "test": []}
    page = read_page(write_dataset_page(make_dataset(card_of(regions=regions))))
    assert "31 stretches are too many to draw" in page.text
    assert page.table("split", "examples", "bases", "regions")[0] == ["train", "3", "3,000", "30"]


def test_long_lists_of_a_job_are_cut_and_counted():
    job = {"tracks": [{"name": f"t{index}"} for index in range(25)], "folds": {"valid": ["a"] * 20}, "seed": 1}
    short = shortened(job)
    assert short["tracks"][:20] == job["tracks"][:20]
    assert short["tracks"][20:] == ["... and 5 more, in card.json"]
    assert (short["folds"], short["seed"]) == (job["folds"], 1)


def test_thousands_of_tracks_make_a_small_page_soon(card_of, read_page, tmp_path, rendered):
    num_tracks, rng = 5313, np.random.default_rng(0)
    tracks = tuple(
        Track(name=f"ENCFF{index:06}", file=f"tracks/ENCFF{index:06}.bw", description="DNASE: a tissue", clip_soft=32)
        for index in range(num_tracks)
    )
    tallies = {}
    for split in ("train", "valid", "test"):
        histogram = rng.integers(0, 9, (num_tracks, HISTOGRAM_BINS))
        counts = {name: np.zeros(num_tracks, np.int64) for name in ("num_zero", "num_soft_clipped", "num_clipped")}
        counts["num_masked"] = np.where(np.arange(num_tracks) % 7 == 0, 1000, 0)
        total = np.where(counts["num_masked"] > 0, 0, rng.gamma(100, 20, num_tracks))
        ends = np.where(counts["num_masked"] > 0, np.inf, 0.0), np.where(counts["num_masked"] > 0, -np.inf, 60.0)
        tallies[split] = Tally(1000, counts, total, 40 * total, *ends, histogram)
    statistics = {split: tally.statistics([track.name for track in tracks]) for split, tally in tallies.items()}
    job = {"tracks": [{"name": track.name, "file": track.file} for track in tracks]}
    sources = tuple(SourceFile(path=track.file, num_bytes=1, sampled_digest="ab" * 32) for track in tracks)
    changes = {"contig_names": {}, "absent_contigs": {track.name: ["sim3"] for track in tracks}}
    card = card_of(("a",), statistics=statistics, sources=sources, job=job, **changes)
    write_json(tmp_path / "card.json", card_to_dict(dataclasses.replace(card, tracks=tracks)))
    write_tracks(tmp_path / TRACKS_NAME, tracks, tallies)
    begun = time.perf_counter()
    path = write_dataset_page(tmp_path)
    assert time.perf_counter() - begun < 60  # some 4 s; the machine may be busy
    assert path.stat().st_size < 2 << 20
    page = read_page(path)
    assert "empty: 759 tracks" in page.text
    assert "And 749 more (empty: 749)" in page.text
    assert "100 of 5,313 tracks, suspicious ones first; the other 5,213 are in tracks.parquet" in page.text
    assert "24 of 5,313 tracks" in page.text
    assert "and 5,301 more" in page.text
    assert "5,213 more rows are in card.json" in page.text
    assert "and 5,293 more, in card.json" in page.text


def test_names_from_outside_are_escaped(card_of, make_dataset, read_page):
    facts = {EVIL: {EVIL: EVIL}, "list": [{EVIL: EVIL}]}
    page = read_page(write_dataset_page(make_dataset(card_of((EVIL, "b"), name=EVIL, facts=facts))))
    assert EVIL in page.text
    assert EVIL not in page.source
    assert "</pre><b>" not in page.source


def test_a_folder_that_is_no_dataset_is_refused(tmp_path, card_of, make_dataset):
    with pytest.raises(InputError, match="not a finished dataset"):
        write_dataset_page(tmp_path)
    assert not list(tmp_path.iterdir())
    folder = make_dataset(card_of())
    (folder / TRACKS_NAME).unlink()
    with pytest.raises(InputError, match=r"no tracks\.parquet beside the card; copy the whole folder, or build it"):
        write_dataset_page(folder)


def test_the_page_lies_in_the_dataset_and_is_the_same_each_time(card_of, make_dataset, rendered):
    folder = make_dataset(card_of())
    path = write_dataset_page(folder)
    assert path == folder / "report.html"
    before = path.read_bytes()
    assert write_dataset_page(folder).read_bytes() == before
    assert sorted(one.name for one in folder.iterdir()) == ["card.json", "report.html", "tracks.parquet"]
    assert json.loads((folder / "card.json").read_text())["name"] == "simulated"
