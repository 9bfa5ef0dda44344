import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.datasets.folds import FoldSpec, assign_regions
from cisray.errors import InputError

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
    marked = {contig: np.zeros(length, int) for contig, length in genome.items()}
    chosen = {"valid": [], "test": [], "exclude": []}
    for kind, (contig, start, end) in zip(kinds, spans, strict=True):
        chosen[kind].append(f"{contig}:{start}-{end}")
        wanted[contig][start:end] = [kind] * (end - start)
        marked[contig][start:end] += 1
    spec = FoldSpec(**{kind: tuple(regions) for kind, regions in chosen.items()})
    if any(counts.max() > 1 for counts in marked.values()):
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


def test_too_few_pieces_for_the_folds():
    with pytest.raises(InputError, match="3 pieces of at most 1000 bp cannot fill 4 folds"):
        assign_regions(FoldSpec(num_folds=4, break_bp=1000), GENOME)
