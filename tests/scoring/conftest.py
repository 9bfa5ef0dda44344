from collections import Counter

import numpy as np
import pytest

from cisray.files import file_digest
from cisray.genome.variants import Variant
from cisray.scoring.alleles import Flag, Status
from cisray.scoring.schema import (
    BLOCKS_DIR,
    Block,
    GenomeSource,
    Manifest,
    ModelSource,
    VariantSource,
    build_table,
    write_manifest,
    write_rows,
)

TRACKS = ("liver", "heart")
RECORDS = [  # contig, pos, id, ref, alts, status per alt
    ("1", 100, "rs1", "A", ("C",), (Status.OK,)),
    ("1", 100, ".", "AT", ("A", "*", "G"), (Status.OK, Status.STAR, Status.OK)),
    ("1", 250, "rs3;x", "g", (".",), (Status.MISSING_ALT,)),
    ("2", 7, ".", "T", ("<DEL>",), (Status.SYMBOLIC,)),
    ("2", 9, ".", "T", ("G",), (Status.OK,)),
]


def rows_of(records):
    """Return every (record, ALT), and its status."""
    return [
        (Variant(record, allele, contig, pos, name, ref, alt), status)
        for record, (contig, pos, name, ref, alts, statuses) in enumerate(records)
        for allele, (alt, status) in enumerate(zip(alts, statuses, strict=True))
    ]


@pytest.fixture
def rows():
    return rows_of(RECORDS)


def make_table(rows, tracks):
    """Give the OK row of record r and allele a the values r + a/10 and -r, and a window that starts at r."""
    scored = [variant for variant, status in rows if status is Status.OK]
    both = [(each.record_index + each.allele_index / 10, -each.record_index) for each in scored]
    log2fc = np.array(both, np.float32).reshape(-1, 2)
    return build_table(
        [variant for variant, _ in rows],
        [status for _, status in rows],
        flags=[Flag.INDEL | Flag.HAS_N] * len(scored),
        window_starts=[variant.record_index for variant in scored],
        values={"log2fc": log2fc, "l2_log2": log2fc**2},
        tracks=tracks,
    )


def make_manifest(rows, blocks, tracks):
    fields = {
        "cisray_version": "0.1.0",
        "model": ModelSource(uri="models:/yeast", version="3", digest="ab12"),
        "genome": GenomeSource(fasta="genome.fa", digest="cd34", contig_names={"1": "chr1", "2": "chr2"}),
        "variants": VariantSource(file="in.vcf", digest="ef56"),
        "tracks": tracks,
        "scores": {"log2fc": "log2(1 + a) - log2(1 + r)", "l2_log2": "norm2"},
        "window_bp": 8,
        "max_allele_bp": 4,
        "strands": "both",
        "precision": "float32",
        "counts": dict(Counter(status for _, status in rows)),
        "rows": len(rows),
        "records": len({variant.record_index for variant, _ in rows}),
        "noise_floor": {"log2fc": 0.0, "l2_log2": 1e-7},
        "blocks": tuple(blocks),
    }
    return Manifest(**fields)


def make_block(table, scores_dir, name):
    path = scores_dir / BLOCKS_DIR / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rows(table, path)
    order = table["record_index"].to_pylist()
    return Block(name=name, rows=len(table), sha256=file_digest(path), first=order[0], last=order[-1])


@pytest.fixture
def make_scores(tmp_path):
    """Write a score table with the given runs of rows as its blocks."""

    def make(*cuts, records=RECORDS, tracks=TRACKS):
        rows = rows_of(records)
        blocks = [
            make_block(make_table([rows[index] for index in cut], tracks), tmp_path / "scores", f"{number}.parquet")
            for number, cut in enumerate(cuts)
        ]
        covered = [rows[index] for cut in cuts for index in cut]
        write_manifest(tmp_path / "scores", make_manifest(covered, blocks, tracks))
        return tmp_path / "scores"

    return make
