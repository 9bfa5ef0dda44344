import gzip
import json

import numpy as np
import pytest

from cisray.errors import InputError
from cisray.files import file_digest
from cisray.flows import score_export
from cisray.flows.score_export import EXPORTS_NAME, export
from cisray.flows.score_job import ExportSpec, ScoreJob
from cisray.genome.variants import Variant
from cisray.scoring.alleles import Status
from cisray.scoring.manifest import Block, GenomeSource, Manifest, ModelSource, VariantSource, write_manifest
from cisray.scoring.rows import ScoredRows, build_rows, variants_table, write_rows
from cisray.scoring.schema import BLOCKS_DIR

pytestmark = pytest.mark.ray  # not started, but imported
TABLE = "chrom\tpos\tref\talt\n" + "".join(f"1\t{pos}\tA\tC\n" for pos in (100, 200, 300))


@pytest.fixture
def scores_dir(tmp_path):
    """A score table of three variants, two tracks and one score."""
    folder, tracks = tmp_path / "scores", ("liver", "heart")
    variants = variants_table(Variant(record, 0, "1", 100 * record + 100, ".", "A", "C") for record in range(3))
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    one = np.ones(3, np.int64)
    scored = ScoredRows(
        rows=np.arange(3),
        norm_pos=variants["pos"].to_numpy(),
        norm_ref=["A"] * 3,
        norm_alt=["C"] * 3,
        flags=0 * one,
        window_start=one,
        center_offset=one,
        n_passes=one,
        values={"log2fc": values},
    )
    path = folder / BLOCKS_DIR / "0.parquet"
    path.parent.mkdir(parents=True)
    write_rows(build_rows(variants, [Status.OK] * 3, scored, tracks=tracks), path)
    manifest = Manifest(
        cisray_version="0.1.0",
        model=ModelSource(uri="models:/yeast", digest="ab12"),
        genome=GenomeSource(fasta="genome.fa", digest="cd34", contig_names={"1": "1"}),
        variants=VariantSource(file="variants.tsv", digest="ef56"),
        tracks=tracks,
        scores={"log2fc": "log2"},
        window_bp=8,
        max_allele_bp=4,
        strands="both",
        precision="float32",
        counts={Status.OK: 3},
        rows=3,
        records=3,
        noise_floor={"log2fc": 0.0},
        blocks=(Block(name="0.parquet", rows=3, sha256=file_digest(path), first=0, last=2),),
    )
    write_manifest(folder, manifest)
    return folder


@pytest.fixture
def job_of(tmp_path):
    (tmp_path / "variants.tsv").write_text(TABLE)
    (tmp_path / "genome.fa").write_text(">1\nACGT\n")

    def make(**wanted):
        paths = {"variants": str(tmp_path / "variants.tsv"), "fasta": str(tmp_path / "genome.fa")}
        return ScoreJob(**paths, model="m", out=str(tmp_path / "scores"), export=ExportSpec(**wanted))

    return make


def lines_of(path):
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode().splitlines()


def test_a_file_of_other_settings_is_written_again(scores_dir, job_of):
    (top,) = export(job_of(top=1), scores_dir)
    assert len(lines_of(top)) == 1 + 2  # of two tracks
    export(job_of(top=3), scores_dir)
    assert len(lines_of(top)) == 1 + 6
    (vcf,) = export(job_of(vcf=True), scores_dir)
    packed = lines_of(vcf)
    export(job_of(vcf=True, vcf_numbers=True), scores_dir)
    assert lines_of(vcf) != packed
    assert any("LOG2FC,Number=" in line for line in lines_of(vcf))


def test_what_is_there_as_asked_is_not_written_again(scores_dir, job_of, monkeypatch):
    written = []
    inner = score_export.write_tsv

    def write(*arguments):
        written.append(arguments)
        return inner(*arguments)

    monkeypatch.setattr(score_export, "write_tsv", write)
    assert export(job_of(tsv=True), scores_dir) == export(job_of(tsv=True), scores_dir) == [scores_dir / "scores.tsv"]
    assert len(written) == 1
    (scores_dir / "scores.tsv").unlink()
    export(job_of(tsv=True), scores_dir)
    assert len(written) == 2


def test_a_file_that_was_left_before_it_was_whole_is_written_again(scores_dir, job_of, monkeypatch):
    """A VCF stands under its name before its index does."""

    def die(scores_dir, path, **_):
        path.write_bytes(b"without an index")
        raise InputError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(score_export, "export_vcf", die)
        with pytest.raises(InputError, match="killed here"):
            export(job_of(vcf=True), scores_dir)
    assert not (scores_dir / EXPORTS_NAME).exists()
    (vcf,) = export(job_of(vcf=True), scores_dir)
    assert lines_of(vcf)[0].startswith("##fileformat")
    assert json.loads((scores_dir / EXPORTS_NAME).read_text()) == {"scores.vcf.gz": {"per_score": False}}
