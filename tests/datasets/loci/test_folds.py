import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.datasets.loci.dealing import ALWAYS_TRAIN
from cisray.datasets.loci.folds import SPLITS, FoldSpec, Region, assign_regions, write_regions
from cisray.datasets.loci.regions import Spans
from cisray.errors import InputError
from cisray.genome.intervals import Interval
from cisray.geometry import Geometry

DATA = os.environ.get("CISRAY_DATA")

GENOME = {"chr1": 1000, "chr2": 400, "chrM": 50}


def names(spec, genome=GENOME):
    return [f"{region.interval} {region.split} {region.fold}" for region in assign_regions(spec, genome)]


def test_named_regions_and_the_rest_is_train():
    spec = FoldSpec(valid=("chr2",), test=("chr1:600-700", "chr1:100-200"), exclude=("chrM", "chr1:700-750"))
    assert names(spec) == [
        "chr1:0-100 train 0",
        "chr1:100-200 test 2",
        "chr1:200-600 train 0",
        "chr1:600-700 test 2",
        "chr1:750-1000 train 0",
        "chr2:0-400 valid 1",
    ]


def test_folds_are_dealt_longest_piece_first_to_the_emptiest():
    spec = FoldSpec(num_folds=3, break_bp=400, exclude=("chrM",))
    # pieces 400 400 200 of chr1 and 400 of chr2; three folds get 400 each, and the first one the 200
    assert names(spec) == [
        "chr1:0-400 test 0",
        "chr1:400-800 valid 1",
        "chr1:800-1000 test 0",
        "chr2:0-400 train 2",
    ]


def test_pieces_of_one_fold_stay_apart_so_that_folds_change_alone():
    genome = {"x": 150, "a": 330, "y": 50, "z": 40}
    # longest first: x, a 0-150 and 150-300 to folds 0, 1, 2; then y, z and the end of a likewise
    assert names(FoldSpec(num_folds=3, break_bp=150), genome) == [
        "x:0-150 test 0",
        "a:0-150 valid 1",
        "a:150-300 train 2",
        "a:300-330 train 2",
        "y:0-50 test 0",
        "z:0-40 valid 1",
    ]


@st.composite
def genomes_with_spans(draw):
    """Draw contig lengths and some spans on them, which may touch, nest and overlap."""
    genome = {f"c{i}": draw(st.integers(1, 200)) for i in range(draw(st.integers(1, 3)))}
    spans = []
    for _ in range(draw(st.integers(2, 6))):
        contig = draw(st.sampled_from(sorted(genome)))
        start = draw(st.integers(0, genome[contig] - 1))
        end = draw(st.integers(start + 1, genome[contig]))
        spans.append((contig, start, end))
    return genome, spans


def roles(genome, regions):
    """Return per contig which regions hold each base."""
    held = {contig: [[] for _ in range(length)] for contig, length in genome.items()}
    for region in regions:
        for base in range(region.interval.start, region.interval.end):
            held[region.interval.contig][base].append((region.split, region.fold))
    return held


@given(genomes_with_spans(), st.data())
def test_named_regions_give_every_base_one_role(drawn, data):
    genome, spans = drawn
    kinds = ["valid", "test"] + [data.draw(st.sampled_from(["valid", "test", "exclude"])) for _ in spans[2:]]
    wanted = {contig: ["train"] * length for contig, length in genome.items()}
    claims = {contig: [set() for _ in range(length)] for contig, length in genome.items()}
    chosen = {"valid": [], "test": [], "exclude": []}
    for kind, (contig, start, end) in zip(kinds, spans, strict=True):
        chosen[kind].append(f"{contig}:{start}-{end}")
        wanted[contig][start:end] = [kind] * (end - start)
        for base in range(start, end):  # excluded regions play one role, and so may overlap one another
            claims[contig][base].add("exclude" if kind == "exclude" else (kind, len(chosen[kind])))
    spec = FoldSpec(**{kind: tuple(regions) for kind, regions in chosen.items()})
    if any(len(claim) > 1 for claimed in claims.values() for claim in claimed):
        with pytest.raises(InputError, match="overlap; a locus can play one role only"):
            assign_regions(spec, genome)
        return
    held = roles(genome, assign_regions(spec, genome))
    for contig, kinds_of in wanted.items():
        assert [tuple(split for split, _ in base) for base in held[contig]] == [
            () if kind == "exclude" else (kind,) for kind in kinds_of
        ]


@given(genomes_with_spans(), st.integers(3, 5), st.integers(1, 60))
def test_k_folds_give_every_base_that_is_not_excluded_one_fold(drawn, num_folds, break_bp):
    genome, spans = drawn
    exclude = tuple(f"{contig}:{start}-{end}" for contig, start, end in spans)
    spec = FoldSpec(num_folds=num_folds, break_bp=break_bp, exclude=exclude, valid_fold=2, test_fold=1)
    excluded = {contig: np.zeros(length, bool) for contig, length in genome.items()}
    for contig, start, end in spans:
        excluded[contig][start:end] = True
    runs = [
        len(run) for mask in excluded.values() for run in "".join("x."[int(free)] for free in ~mask).split("x") if run
    ]
    if sum(-(-run // break_bp) for run in runs) < num_folds:
        with pytest.raises(InputError, match="cannot fill"):
            assign_regions(spec, genome)
        return
    regions = assign_regions(spec, genome)
    held = roles(genome, regions)
    for contig, mask in excluded.items():
        assert [len(base) for base in held[contig]] == (~mask).astype(int).tolist()
    assert {region.fold for region in regions} == set(range(num_folds))
    assert {(region.split, region.fold) for region in regions if region.split != "train"} == {
        ("valid", 2),
        ("test", 1),
    }
    # the emptiest fold lacks at most one piece
    filled = [sum(r.interval.width for r in regions if r.fold == fold) for fold in range(num_folds)]
    assert max(filled) - min(filled) <= break_bp


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "both valid and test need at least one region"),
        ({"valid": ("chr1",)}, "both valid and test need at least one region"),
        ({"valid": ("chr1",), "test": ("chr2",), "num_folds": 5}, "not both"),
        ({"num_folds": 2}, "wanted at least 3 folds"),
        ({"num_folds": 4, "test_fold": 4}, "test_fold=4"),
        ({"num_folds": 4, "test_fold": 1, "valid_fold": 1}, "two different ones"),
        ({"num_folds": 4, "break_bp": 0}, "break_bp=0"),
        (
            {"num_folds": 4, "valid_fraction": 0.1},
            "num_folds, valid_fraction and test_fraction are set; choose one way",
        ),
        ({"sequences": "s.bed", "chromosomes": "c.json"}, "sequences, chromosomes are set; choose one way"),
        ({"valid_fraction": 0.1}, r"valid_fraction=0\.1, test_fraction=0\.0; wanted two shares above 0"),
        ({"valid_fraction": 0.5, "test_fraction": 0.5}, "leave some for train"),
        ({"valid_fraction": 0.1, "test_fraction": 0.1, "abstain_fraction": 0.0}, r"abstain_fraction=0\.0"),
        ({"sequences": "s.bed", "exclude": ("chr1",)}, "take the rows out of s.bed"),
        ({"sequences": "s.bed", "valid_fold": 3, "test_fold": 3}, "valid_fold and test_fold are both 3"),
    ],
)
def test_contradictory_choices_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):  # pydantic's, as these are built by hand
        FoldSpec(**fields)


@pytest.mark.parametrize(
    ("valid", "message"),
    [
        ("chrIX", "no such contig"),
        ("chr1:900-1001", "beyond chr1, which has 1000 bases"),
        ("chr2:10-20", "chr2:0-400 and chr2:10-20 overlap"),
    ],
)
def test_regions_that_the_genome_cannot_give_are_refused(valid, message):
    with pytest.raises(InputError, match=message):
        assign_regions(FoldSpec(valid=(valid,), test=("chr2",)), GENOME)


def test_excluded_regions_may_overlap():
    spec = FoldSpec(valid=("chr2:0-100",), test=("chr2:100-200",), exclude=("chr1:300-500", "chr1:0-400"))
    of_chr1 = [region for region in assign_regions(spec, GENOME) if region.interval.contig == "chr1"]
    assert [(str(region.interval), region.split) for region in of_chr1] == [("chr1:500-1000", "train")]


def test_too_few_pieces_for_the_folds():
    with pytest.raises(InputError, match="3 pieces of at most 1000 bp cannot fill 4 folds"):
        assign_regions(FoldSpec(num_folds=4, break_bp=1000), GENOME)


def shares_of(regions):
    total = sum(region.interval.width for region in regions)
    return {split: sum(r.interval.width for r in regions if r.split == split) / total for split in SPLITS}


HUMAN = {"chr1": 248_956_422, "chr8": 145_138_636, "chr21": 46_709_983, "chrM": 16_569}


@pytest.mark.parametrize("seed", range(5))
def test_fractions_are_reached_within_a_few_pieces(seed):
    spec = FoldSpec(valid_fraction=0.05, test_fraction=0.1, break_bp=786_432, seed=seed, exclude=("chrM",))
    regions = assign_regions(spec, HUMAN)
    assert regions == assign_regions(spec, HUMAN)
    shares = shares_of(regions)
    # a split stops when it lacks less than five pieces
    tolerance = 6 * spec.break_bp / (sum(HUMAN.values()) - HUMAN["chrM"])
    assert 0.05 - tolerance < shares["valid"] <= 0.05
    assert 0.1 - tolerance < shares["test"] <= 0.1
    held = [(r.interval.contig, r.interval.start, r.interval.end) for r in regions]
    assert held[0][:2] == ("chr1", 0)
    assert held[-1][::2] == ("chr21", HUMAN["chr21"])
    for (one, _, end), (other, start, _) in pairwise(held):
        assert (one, end) == (other, start) or (start == 0 and end == HUMAN[one])
    for first, second in pairwise(regions):  # pieces that touch were joined again
        assert first.interval.contig != second.interval.contig or first.split != second.split
    assert regions != assign_regions(FoldSpec(**{**vars(spec), "seed": seed + 1}), HUMAN)


def test_fractions_need_pieces_that_are_small_enough():
    spec = FoldSpec(valid_fraction=0.1, test_fraction=0.2, break_bp=1000)
    with pytest.raises(InputError, match=r"valid_fraction=0\.1 takes pieces of at most 29 bp .* lower break_bp=1000"):
        assign_regions(spec, GENOME)


def spans(*pairs):
    return Spans(*np.array(pairs, np.int64).T)


@pytest.mark.parametrize(
    "spec",
    [
        FoldSpec(valid=("chr2",), test=("chr1:100-300",)),
        FoldSpec(num_folds=3, break_bp=70),
        FoldSpec(valid_fraction=0.2, test_fraction=0.3, break_bp=17, abstain_fraction=1.0),
    ],
)
def test_no_region_holds_an_assembly_gap_and_nothing_else_is_lost(spec):
    gaps = {"chr1": spans((0, 10), (250, 350), (990, 1000)), "chr2": spans((40, 41))}
    regions = assign_regions(spec, GENOME, gaps=gaps)
    held = roles(GENOME, regions)
    for contig, length in GENOME.items():
        gap = np.zeros(length, bool)
        for start, end in zip(*gaps.get(contig, spans((0, 0))), strict=True):
            gap[start:end] = True
        assert [len(base) for base in held[contig]] == (~gap).astype(int).tolist()
    if spec.num_folds:  # contigs were broken at the gaps first: 10-80 and so on, 350-420 and so on
        assert {region.interval.start for region in regions} >= {10, 80, 150, 220, 350, 420, 41}


def test_chromosomes_are_read_by_any_of_their_names(tmp_path):
    (tmp_path / "f.json").write_text(json.dumps({"train": ["1"], "valid": ["chrM"], "test": ["chr2"]}))
    spec = FoldSpec(chromosomes="f.json", exclude=("chr1:100-150",))
    assert spec.files == ("f.json",)
    genome = {**GENOME, "chr3": 70}
    regions = assign_regions(spec, genome, data_dir=str(tmp_path))
    assert [f"{region.interval} {region.split} {region.fold}" for region in regions] == [
        "chr1:0-100 train 0",
        "chr1:150-1000 train 0",
        "chr2:0-400 test 2",
        "chrM:0-50 valid 1",
    ]


def write_rows(folder, *rows):
    (folder / "s.bed").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    return str(folder)


LISTED = Geometry(window_bp=20, bin_bp=5, crop_bins=1)


def test_listed_windows_keep_their_places_and_labels(tmp_path):
    rows = [("2", 30, 40, "test"), ("chr1", 45, 55, "train"), ("chr1", 40, 50, "train"), ("chr1", 60, 70, "valid")]
    folder = write_rows(tmp_path, *rows, ("chr1", 70, 80, "train"), ("chr1", 80, 90, "train"))
    regions = assign_regions(FoldSpec(sequences="s.bed"), GENOME, geometry=LISTED, data_dir=folder)
    assert regions == [
        Region(Interval("chr1", 40, 55), "train", 0, (35, 40)),
        Region(Interval("chr1", 60, 70), "valid", 1, (55,)),
        Region(Interval("chr1", 70, 90), "train", 0, (65, 75)),
        Region(Interval("chr2", 30, 40), "test", 2, (25,)),
    ]
    # a predicted part may reach beyond its contig, what is given to the split may not
    over = write_rows(tmp_path, *rows, ("chrM", 45, 55, "test"))
    last = assign_regions(FoldSpec(sequences="s.bed"), GENOME, geometry=LISTED, data_dir=over)[-1]
    assert last == Region(Interval("chrM", 45, 50), "test", 2, (40,))
    # the same windows, told by what they read
    folder = write_rows(tmp_path, *[(contig, start - 5, end + 5, label) for contig, start, end, label in rows])
    spec = FoldSpec(sequences="s.bed", sequences_are="input")
    regions = assign_regions(spec, GENOME, geometry=LISTED, data_dir=folder)
    assert [region.starts for region in regions] == [(35, 40), (55,), (25,)]


def test_numbered_folds_of_a_file_play_the_roles_that_are_asked_for(tmp_path):
    rows = [("chr1", 10 * number, 10 * number + 10, f"fold{number}") for number in range(4)]
    folder = write_rows(tmp_path, *rows, ("chr2", 0, 10, "train"))
    spec = FoldSpec(sequences="s.bed", valid_fold=2, test_fold=3)
    regions = assign_regions(spec, GENOME, geometry=LISTED, data_dir=folder)
    assert [(region.split, region.fold) for region in regions] == [
        ("train", 0),
        ("train", 1),
        ("valid", 2),
        ("test", 3),
        ("train", ALWAYS_TRAIN),
    ]


@pytest.mark.parametrize(
    ("fields", "rows", "message"),
    [
        ({}, [("chr1", 0, 10)], r"3 columns; wanted the split or fold in column 4"),
        ({}, [("chrX", 0, 10, "train")], "no contig 'chrX' in the genome.*take its rows out"),
        (
            {},
            [("chr1", 0, 20, "train")],
            r'line 1 \(chr1:0-20\) has 20 bp, but predicted parts have 10 bp; .* set folds.sequences_are = "input"',
        ),
        ({"sequences_are": "input"}, [("chr1", 0, 10, "train")], "windows have 20 bp; that is the target extent"),
        ({}, [("chr1", 0, 12, "train")], "change geometry: its windows have 20 bp and predict 10 bp"),
        ({}, [("chr1", 0, 10, "train"), ("chr1", 5, 15, "test")], "line 2 .* test and line 1 train overlap"),
        ({}, [("chr1", 0, 10, "train"), ("1", 0, 10, "train")], "no contig '1' in the genome; the nearest are chr1"),
        ({}, [("chr1", 0, 10, "train"), ("chr1", 0, 10, "train")], "line 2 .* train are listed twice"),
        ({}, [("chr2", 400, 410, "train")], "predicts no base of chr2, which has 400 bases"),
        ({}, [("chr1", 0, 10, "training")], "label 'training' in column 4; wanted train, valid, test"),
        ({}, [("chr1", 0, 10, "fold1"), ("chr1", 10, 20, "test")], "label 'test' in column 4; wanted fold0, fold1"),
        ({}, [("chr1", 0, 10, "train")], "no interval for the valid split; its labels are train"),
        ({"test_fold": 7}, [("chr1", 0, 10, "fold1")], r"for the train split \(valid_fold=1, test_fold=7\)"),
        ({"sequences_are": "region"}, [("chr2", 0, 401, "train")], "reaches beyond chr2, which has 400 bases"),
        ({}, [("chr1", 0, 10, "fold40000")], r"line 1 \(chr1:0-10\) is of fold40000; wanted fold32767 at most"),
    ],
)
def test_lists_that_do_not_fit_are_refused(tmp_path, fields, rows, message):
    spec = FoldSpec(sequences="s.bed", **fields)
    with pytest.raises(InputError, match=message):
        assign_regions(spec, GENOME, geometry=LISTED, data_dir=write_rows(tmp_path, *rows))


def test_listed_windows_want_a_geometry(tmp_path):
    folder = write_rows(tmp_path, ("chr1", 0, 10, "train"))
    with pytest.raises(ValueError, match="the geometry must be given"):
        assign_regions(FoldSpec(sequences="s.bed"), GENOME, data_dir=folder)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({"train": ["chr1"], "valid": ["chr2"]}, "test is None; wanted a list of at least one contig"),
        ({"train": ["chr1"], "valid": [], "test": ["chr2"]}, r"valid is \[\]; wanted a list"),
        ({"train": ["chr1"], "valid": ["chr2"], "test": ["chr2"]}, "'chr2' is listed in valid and again in test"),
        ({"train": ["chr1"], "valid": ["chr2"], "test": ["2"]}, "no contig '2' in the genome; the nearest are chr2"),
        ({"train": ["chr1"], "valid": ["chr2"], "test": ["chrN"]}, "no contig 'chrN' in the genome; there are chr1"),
        ({"train": ["chr1"], "held_out": ["chr2"]}, "lists contigs of 'held_out'; wanted train, valid, test"),
    ],
)
def test_chromosome_lists_that_do_not_fit_are_refused(tmp_path, listed, message):
    (tmp_path / "f.json").write_text(json.dumps(listed))
    with pytest.raises(InputError, match=message):
        assign_regions(FoldSpec(chromosomes="f.json"), GENOME, data_dir=str(tmp_path))


@pytest.mark.parametrize(
    "spec",
    [
        FoldSpec(valid=("chr2",), test=("chr1:100-300",)),
        FoldSpec(num_folds=5, break_bp=50, valid_fold=4, test_fold=2),
        FoldSpec(valid_fraction=0.2, test_fraction=0.3, break_bp=17, abstain_fraction=1.0),
    ],
)
def test_regions_that_were_written_are_read_back(tmp_path, spec):
    regions = [*assign_regions(spec, GENOME), Region(Interval("extra", 5, 9), "train", ALWAYS_TRAIN)]
    regions = regions if spec.num_folds else regions[:-1]
    write_regions(tmp_path / "regions.bed", regions)
    again = FoldSpec(sequences="regions.bed", sequences_are="region", valid_fold=4, test_fold=2)
    genome = {**GENOME, "extra": 20}
    read = assign_regions(again, genome, data_dir=str(tmp_path))
    assert roles(genome, read) == roles(genome, regions)
    assert {region.starts for region in read} == {None}


@pytest.mark.skipif(DATA is None, reason="CISRAY_DATA names no folder")
def test_a_shipped_list_of_targets_gives_the_windows_it_was_made_from():
    lines = (Path(DATA) / "human_tiny/hg38/windows.tsv").read_text().splitlines()
    header, *rows = [line.split("\t") for line in lines]
    windows = [dict(zip(header, row, strict=True)) for row in rows]
    genome = {window["chrom"]: 250_000_000 for window in windows}
    spec = FoldSpec(sequences="human_tiny/hg38/sequences.bed")
    geometry = Geometry(window_bp=131_072, bin_bp=32, crop_bins=1024)
    regions = assign_regions(spec, genome, geometry=geometry, data_dir=DATA)
    found = {(r.interval.contig, start, r.split) for r in regions for start in r.starts}
    assert found == {(window["chrom"], int(window["start"]), window["split"]) for window in windows}
    assert len(found) == 65
    wrong = FoldSpec(sequences=spec.sequences, sequences_are="input")
    with pytest.raises(InputError, match=r'has 65536 bp.* set folds.sequences_are = "target"'):
        assign_regions(wrong, genome, geometry=geometry, data_dir=DATA)
