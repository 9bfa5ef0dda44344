import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.errors import InputError
from cisray.genome.genes import Gene, Genes, read_genes

LENGTHS = {"chrI": 1000, "chrII": 600}
CONTIGS = {"I": "chrI", "chrII": "chrII", "scaffold_7": None}


def exon(contig, first, last, gene, *, strand="+", kind="exon", more=""):
    return f'{contig}\tme\t{kind}\t{first}\t{last}\t.\t{strand}\t.\tgene_id "{gene}"; {more}\n'


LINES = [
    exon("chrII", 301, 400, "late", strand="-", more='gene_biotype "lncRNA"'),
    exon("I", 11, 20, "early", more='gene_name "EARLY"; gene_type "protein_coding"'),
    exon("I", 18, 30, "early"),
    exon("I", 31, 35, "early"),
    exon("I", 61, 70, "early"),
    exon("scaffold_7", 1, 9, "elsewhere"),
    exon("I", 1, 5, "both"),
    exon("I", 1, 5, "both", strand="-"),
    exon("I", 501, 509, "coding", kind="CDS", strand="?"),
    exon("I", 521, 529, "coding", kind="CDS", strand="?"),
    exon("I", 701, 800, "bare", kind="gene"),
    exon("I", 991, 1000, "also elsewhere"),
    exon("scaffold_7", 1, 9, "also elsewhere"),
]


@pytest.fixture
def annotation(tmp_path):
    path = tmp_path / "genes.gtf"
    path.write_text("".join(LINES))
    return path


def test_genes_come_in_genome_order_with_merged_exons(annotation):
    genes = read_genes(annotation, LENGTHS)
    assert [gene.id for gene in genes.genes] == ["early", "coding", "bare", "also elsewhere", "late"]
    early, coding, bare, _, late = genes.genes
    assert early[:7] == ("early", "EARLY", "chrI", 10, 70, "+", "protein_coding")
    assert early.exons.tolist() == [[10, 35], [60, 70]]
    assert (early.exon_bp, early.tss) == (35, 10)
    assert early.intervals("span").tolist() == [[10, 70]]
    assert coding.exons.tolist() == [[500, 509], [520, 529]]
    assert (coding.name, coding.strand, coding.biotype) == ("coding", ".", "")
    assert bare.exons.tolist() == [[700, 800]]
    assert (late.contig, late.strand, late.tss) == ("chrII", "-", 399)
    assert genes.part_bp("exons").tolist() == [35, 18, 100, 10, 100]
    assert genes.part_bp("span").tolist() == [60, 29, 100, 10, 100]


def test_what_was_left_out_is_counted(annotation):
    assert read_genes(annotation, LENGTHS).facts == {
        "genes read": 7,
        "genes kept": 5,
        "genes left out: on contigs that the genome lacks": 1,
        "genes left out: on several contigs or both strands": 1,
        "genes whose exons are their CDS": 1,
        "genes whose exon is their span": 1,
    }


def test_genes_are_chosen_by_biotype_and_contig(annotation):
    chosen = read_genes(annotation, LENGTHS, biotypes=["lncRNA", "protein_coding"])
    assert [gene.id for gene in chosen.genes] == ["early", "late"]
    assert chosen.facts["genes left out: of biotypes that were not asked for"] == 3
    chosen = read_genes(annotation, LENGTHS, contigs=["chrII"])
    assert [gene.id for gene in chosen.genes] == ["late"]
    assert chosen.facts["genes left out: on contigs that were not asked for"] == 4


@pytest.mark.parametrize(
    ("lengths", "options", "match"),
    [
        (
            {"7": 10},
            {},
            r"genes\.gtf: none of the 3 contigs that its genes lie on is in the genome; the first is 'chrII'",
        ),
        (
            LENGTHS,
            {"biotypes": ["tRNA"]},
            r"none of its 7 genes is left \(of biotypes that were not asked for: 5; .*\); its biotypes are none, ",
        ),
        (LENGTHS, {"contigs": ["chr2"]}, r"genes on contig 'chr2': not in the genome; "),
        (
            {"chrI": 999, "chrII": 600},
            {},
            r"genes\.gtf: line 12: gene also elsewhere ends at 1000, beyond chrI, which has 999 bases; give the annot",
        ),
    ],
)
def test_an_annotation_that_does_not_fit_is_refused(annotation, lengths, options, match):
    with pytest.raises(InputError, match=match):
        read_genes(annotation, lengths, **options)


def test_a_length_in_the_file_tells_numbered_contigs_apart(tmp_path):
    path = tmp_path / "genes.gff3"
    gene = "2\tme\tgene\t1\t9\t.\t+\t.\tID=gene-A;Name=alpha;gene_biotype=tRNA\n"
    path.write_text(f"##gff-version 3\n##sequence-region 2 1 600\n{gene}")
    (found,) = read_genes(path, LENGTHS).genes
    assert found[:7] == ("A", "alpha", "chrII", 0, 9, "+", "tRNA")
    path.write_text(f"##sequence-region chrII 1 700\n{gene.replace('2', 'chrII')}")
    with pytest.raises(InputError, match=r"contig 'chrII' has 700 bases there and 600 in the genome; another assembly"):
        read_genes(path, LENGTHS)


intervals = st.tuples(st.sampled_from("ab"), st.integers(0, 60), st.integers(1, 25))


def make_gene(number, contig, blocks):
    """Make a gene of (gap, width) blocks, side by side with gaps of at least one base."""
    edges = np.cumsum([[gap + 1, width] for gap, width in blocks]).reshape(-1, 2)
    ends = edges[-1, 1]
    return Gene(f"g{number}", "", contig, int(edges[0, 0]), int(ends), "+", "", edges)


genes_of = st.lists(
    st.tuples(
        st.sampled_from("ab"), st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), min_size=1, max_size=4)
    ),
    max_size=8,
)


@given(genes_of, st.lists(intervals, max_size=6), st.sampled_from(["exons", "span"]))
def test_overlaps_are_those_of_every_base(specs, queries, part):
    genes = Genes(make_gene(number, contig, blocks) for number, (contig, blocks) in enumerate(specs))
    for contig in "ab":
        start = np.array([first for name, first, _ in queries if name == contig], np.int64)
        end = start + np.array([width for name, _, width in queries if name == contig], np.int64)
        expected = []
        for query, (first, last) in enumerate(zip(start, end, strict=True)):
            for number, gene in enumerate(genes.genes):
                bases = (
                    {base for a, b in gene.intervals(part) for base in range(a, b)} if gene.contig == contig else set()
                )
                if shared := len(bases & set(range(first, last))):
                    expected.append((query, number, shared))
        assert (
            list(zip(*(column.tolist() for column in genes.overlaps(contig, start, end, part=part)), strict=True))
            == expected
        )


def test_an_interval_is_asked_for_by_itself(annotation):
    genes = read_genes(annotation, LENGTHS)
    assert [gene.id for gene in genes.overlapping("chrI", 34, 505)] == ["early", "coding"]
    assert genes.overlapping("chrI", 35, 60) == []
    assert [gene.id for gene in genes.overlapping("chrI", 35, 60, part="span")] == ["early"]
    assert genes.overlapping("chrII", 0, 300) == genes.overlapping("nowhere", 0, 9) == []
    assert len(genes.overlaps("chrI", np.array([5]), np.array([5])).gene) == 0
    again = pickle.loads(pickle.dumps(genes))
    assert [gene.id for gene in again.overlapping("chrI", 34, 505)] == ["early", "coding"]
    assert again.facts == genes.facts


@pytest.mark.skipif("CISRAY_DATA" not in os.environ, reason="CISRAY_DATA names no folder of real data")
def test_the_genes_of_yeast_are_read():
    folder = Path(os.environ["CISRAY_DATA"]) / "yeast"
    lengths = dict(line.split() for line in (folder / "sacCer3.chrom.sizes").read_text().splitlines())
    lengths = {name: int(length) for name, length in lengths.items()}
    genes = read_genes(folder / "sacCer3.ensGene.gtf.gz", lengths)
    assert len(genes) == 7127
    act1 = next(gene for gene in genes.genes if gene.name == "YFL039C")
    assert (act1.contig, act1.start, act1.end, act1.strand) == ("chrVI", 53259, 54696, "-")
    assert act1.exons.tolist() == [[53259, 54377], [54686, 54696]]  # the intron near its start, which lies on the right
    assert [gene.name for gene in genes.overlapping("chrVI", 54400, 54500)] == []
    assert [gene.name for gene in genes.overlapping("chrVI", 54400, 54500, part="span")] == ["YFL039C"]
