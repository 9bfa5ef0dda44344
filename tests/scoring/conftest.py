from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from cisray.files import file_digest
from cisray.genome.variants import Variant
from cisray.scoring.alleles import SCORED, Flag, Status
from cisray.scoring.manifest import Block, GenomeSource, Manifest, ModelSource, Storage, VariantSource, write_manifest
from cisray.scoring.nulls import AgainstNull
from cisray.scoring.rows import ScoredRows, build_gene_rows, build_rows, variants_table, write_rows
from cisray.scoring.schema import BLOCKS_DIR, GENES_DIR

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


def find_values(scored, tracks):
    """Give the row of record r and allele a the values r + a/10 and -r on two tracks, and so on by turns."""
    both = [(each.record_index + each.allele_index / 10, -each.record_index) for each in scored]
    return np.array(both, np.float32).reshape(-1, 2)[:, np.arange(len(tracks)) % 2]


def make_table(rows, tracks, *, storage=None, quantiles=(), nulls=()):
    """Make the rows of a block; the window of record r starts at r, and allele a is a off its middle."""
    storage = storage or Storage()
    places = [index for index, (_, status) in enumerate(rows) if status in SCORED]
    scored = [rows[index][0] for index in places]
    log2fc = find_values(scored, tracks)
    return build_rows(
        variants_table([variant for variant, _ in rows]),
        [status for _, status in rows],
        ScoredRows(
            rows=np.array(places, np.int64),
            norm_pos=np.array([each.pos for each in scored], np.int64),
            norm_ref=[each.ref.upper() for each in scored],
            norm_alt=[each.alt.upper() for each in scored],
            flags=np.full(len(scored), int(Flag.INDEL | Flag.HAS_N)),
            window_start=np.array([each.record_index for each in scored], np.int64),
            center_offset=np.array([each.allele_index for each in scored], np.int64),
            n_passes=np.full(len(scored), 2),
            values={"log2fc": log2fc, "l2_log2": log2fc**2},
            quantiles={name: (log2fc if name == "log2fc" else log2fc**2) / 100 for name in quantiles},
            nulls={name: AgainstNull(10 * log2fc, np.full_like(log2fc, 0.25)) for name in nulls},
        ),
        tracks=tracks,
        storage=storage,
    )


def make_gene_table(rows, genes, tracks, *, storage=None):
    """Make the rows of genes: `genes` are (record_index, allele_index, id, name, strand, distance to the start)."""
    inside = {variant[:2] for variant, _ in rows}
    found = [gene for gene in genes if gene[:2] in inside]
    names = ["record_index", "allele_index", "gene_id", "gene_name", "gene_strand", "tss_distance"]
    table = pa.table({name: [gene[index] for gene in found] for index, name in enumerate(names)})
    values = np.array([[gene[0] + len(gene[2]) / 100] for gene in found], np.float32).reshape(-1, 1)
    values = np.repeat(values, len(tracks), axis=1) * np.array([1, -1], np.float32)[np.arange(len(tracks)) % 2]
    return build_gene_rows(table, {"gene_log2fc": values}, tracks=tracks, storage=storage or Storage())


def make_manifest(rows, blocks, tracks, **changes):
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
    return Manifest(**fields | changes)


def make_block(table, scores_dir, name, folder=BLOCKS_DIR):
    path = scores_dir / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rows(table, path)
    order = table["record_index"].to_pylist()
    return Block(name=name, rows=len(table), sha256=file_digest(path), first=order[0], last=order[-1])


@pytest.fixture
def make_scores(tmp_path):
    """Write a score table with the given runs of rows as its blocks."""

    def make(*cuts, records=RECORDS, rows=None, tracks=TRACKS, genes=(), storage=None, **changes):
        folder = tmp_path / "scores"
        rows = rows or rows_of(records)
        parts = [[rows[index] for index in cut] for cut in cuts]
        beside = {name: changes.get(name, ()) for name in ("quantiles", "nulls")}
        blocks = [
            make_block(make_table(part, tracks, storage=storage, **beside), folder, f"{number}.parquet")
            for number, part in enumerate(parts)
        ]
        if genes:
            tables = [make_gene_table(part, genes, tracks, storage=storage) for part in parts]
            changes["genes"] = tuple(
                make_block(table, folder, f"{number}.parquet", GENES_DIR)
                for number, table in enumerate(tables)
                if len(table)
            )
            changes["gene_scores"] = {"gene_log2fc": "log2 of exons"}
            changes["noise_floor"] = {"log2fc": 0.0, "l2_log2": 1e-7, "gene_log2fc": 0.0}
        covered = [row for part in parts for row in part]
        manifest = make_manifest(covered, blocks, tracks, storage=storage or Storage(), **changes)
        write_manifest(folder, manifest)
        return folder

    return make
