import gzip
import re

import pysam
import pytest

from cisray.errors import InputError
from cisray.genome.annotations import read_annotation

GTF = """#!genome-build toy
chrI\tme\tgene\t11\t60\t.\t+\t.\tgene_id "A"; gene_name "alpha"; gene_biotype "protein_coding";
chrI\tme\ttranscript\t11\t60\t.\t+\t.\tgene_id "A"; transcript_id "A.1";
chrI\tme\texon\t11\t20\t.\t+\t.\tgene_id "A"; transcript_id "A.1"; exon_number 1;
chrI\tme\tstart_codon\tnowhere\t0\t.\t+\t.\ttranscript_id "A.1";
chrI\tme\texon\t41\t60\t.\t+\t.\ttranscript_id "A.1"; gene_id "A";
chrII\tme\tCDS\t5\t9\t.\t-\t0\tgene_id B; gene_type lncRNA;
"""
GFF3 = """##gff-version 3
##sequence-region chrI 1 500
chrI\tme\tchromosome\t1\t500\t.\t.\t.\tID=chromosome:I
chrI\tme\texon\t11\t20\t.\t+\t.\tParent=t1,t2
chrI\tme\tgene\t11\t60\t.\t+\t.\tID=gene:A;Name=al%20pha;biotype=protein_coding
chrI\tme\tmRNA\t11\t60\t.\t+\t.\tID=t1;Parent=gene:A
chrI\tme\tmRNA\t11\t30\t.\t+\t.\tID=t2; Parent=gene:A
chrI\tme\texon\t41\t60\t.\t+\t.\tParent=t1
###
chrI\tme\tpolypeptide\t11\t60\t.\t+\t.\tID=p1;Derives_from=t1
chrI\tme\tCDS\t11\t18\t.\t+\t0\tParent=p1,t1
chrI\tme\tpseudogene\t90\t99\t.\t.\t.\tID=P
chrI\tme\texon\t1\t2\t.\t.\t.\tID=alone
##FASTA
>chrI
ACGT
"""


def write(tmp_path, text, name="genes.gtf"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_gtf_lines_go_to_their_gene(tmp_path):
    genes, contigs = read_annotation(write(tmp_path, GTF))
    assert list(genes) == ["A", "B"]
    ((a,), (b,)) = genes.values()
    assert (a.contig, a.strand, a.start, a.end, a.name, a.biotype) == ("chrI", "+", 10, 60, "alpha", "protein_coding")
    assert (a.exons, a.coding) == ([(10, 20), (40, 60)], [])
    assert (b.strand, b.exons, b.coding, b.name, b.biotype) == ("-", [], [(4, 9)], "", "lncRNA")
    assert contigs == {"chrI": None, "chrII": None}


def test_gff3_lines_go_to_the_gene_above_them_wherever_it_stands(tmp_path):
    genes, contigs = read_annotation(write(tmp_path, GFF3))
    assert list(genes) == ["gene:A", "P"]
    ((a,), (p,)) = genes.values()
    assert (a.start, a.end, a.strand, a.name, a.biotype) == (10, 60, "+", "al pha", "protein_coding")
    assert a.exons == [(10, 20), (40, 60)]  # the first once, though two transcripts of one gene share it
    assert a.coding == [(10, 18)]
    assert (p.start, p.end, p.strand, p.exons) == (89, 99, ".", [])
    assert contigs == {"chrI": 500}


def test_every_packing_and_line_end_is_read_alike(tmp_path):
    for name, text in (("gtf", GTF), ("gff3", GFF3)):
        write(tmp_path, text, f"plain.{name}")
        write(tmp_path, text.replace("\n", "\r\n"), f"dos.{name}")
        (tmp_path / f"packed.{name}.gz").write_bytes(gzip.compress(text.encode()))
        with pysam.BGZFile(str(tmp_path / f"blocks.{name}.gz"), "wb") as file:
            file.write(text.encode())
        told = [
            [
                (one.id, one.start, one.end, one.exons)
                for places in read_annotation(path).genes.values()
                for one in places
            ]
            for path in tmp_path.glob(f"*.{name}*")
        ]
        assert len(told) == 4
        assert all(each == told[0] for each in told)


def test_a_gene_in_two_places_is_kept_apart(tmp_path):
    lines = [f'{contig}\tme\texon\t1\t9\t.\t{strand}\t.\tgene_id "A";\n' for contig, strand in ("x+", "x-", "y+", "x+")]
    places = read_annotation(write(tmp_path, "".join(lines))).genes["A"]
    assert [(one.contig, one.strand, len(one.exons)) for one in places] == [("x", "+", 2), ("x", "-", 1), ("y", "+", 1)]


GENE = "chrI\tme\tgene\t1\t9\t.\t+\t.\t"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", r"genes\.gtf: holds no line of an annotation; wanted GTF or GFF3"),
        ("# nothing\n\n", r"holds no line of an annotation"),
        ("chrI\t1\t9\n", r"line 1: 3 columns; wanted the nine of GTF or GFF3, parted by tabs"),
        (f'#\n{GENE}gene_id "A";\tmore\n', r"line 2: 10 columns"),
        (
            f"{GENE}A\n",
            r"line 1: 'A' are the attributes neither of GTF \(gene_id \"\.\.\.\";\) nor of GFF3 \(ID=\.\.\.\)",
        ),
        (GTF + GENE + "\n", r"line 8: this gene names no gene; wanted gene_id \"\.\.\.\" among its attributes"),
        (GTF + f'{GENE}gene_id "";\n', r"line 8: this gene names no gene"),
        (
            GTF.replace("\t11\t20\t", "\t11\t2e1\t"),
            r"line 4: '11' to '2e1' are not positions; wanted first and last base",
        ),
        (GTF.replace("\t11\t20\t", "\t0\t20\t"), r"line 4: chrI:0-20 holds no base; .*counted from 1"),
        (GTF.replace("\t11\t20\t", "\t21\t20\t"), r"line 4: chrI:21-20 holds no base"),
        (GFF3.replace("ID=t2;", "ID=t3;"), r"line 4: its parent 't2' stands nowhere in the file; give the whole"),
        (GFF3.replace("Parent=gene:A", "Parent=p1"), r"line 4: its parents, from 't1' on, have no end; mend the file"),
        ("chrI\tme\tregion\t1\t9\t.\t.\t.\tID=r\n", r"holds no gene; wanted lines of genes, transcripts or exons"),
        ('chrI\tme\tmiRNA\t1\t9\t.\t.\t.\tgene_id "A";\n', r"holds no gene"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path, text, match):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=match) as error:
        read_annotation(path)
    assert str(error.value).startswith(f"{path}: ")


def test_a_file_that_is_none_or_is_cut_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no such file, but a gene annotation \(GTF or GFF3\) was expected here"):
        read_annotation(tmp_path / "nowhere.gtf")
    (tmp_path / "cut.gtf.gz").write_bytes(gzip.compress(GTF.encode())[:-9])
    with pytest.raises(InputError, match=r"cut\.gtf\.gz: truncated or damaged gzip file .*; copy or make it again"):
        read_annotation(tmp_path / "cut.gtf.gz")
    with pysam.BGZFile(str(tmp_path / "blocks.gtf.gz"), "wb") as file:
        file.write(GTF.encode())
    whole = (tmp_path / "blocks.gtf.gz").read_bytes()
    (tmp_path / "blocks.gtf.gz").write_bytes(whole[:-28])
    with pytest.raises(InputError, match="the block that ends a bgzip file is missing"):
        read_annotation(tmp_path / "blocks.gtf.gz")
    (tmp_path / "other.gtf").write_bytes(GTF.encode() + b"\xff\xfe\n")
    with pytest.raises(InputError, match=re.escape("not a text file; wanted a gene annotation, GTF or GFF3")):
        read_annotation(tmp_path / "other.gtf")
