"""Every kind of record in, the same rows out; and the scores that two forward passes and a pencil give."""

import json
import os
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pysam
import pytest
import torch
from safetensors.torch import load_file, save_file

from cisray.bundle import Predictor, bundle_digest
from cisray.errors import InputError
from cisray.flows import score as score_flow
from cisray.flows.calibrate import calibrate
from cisray.flows.cluster import ClusterSpec
from cisray.flows.score import score
from cisray.flows.score_job import ExportSpec, GeneSpec, ScoreJob
from cisray.flows.score_plan import plan_blocks, planned_path
from cisray.flows.score_worker import Scorer, ScorerPlan
from cisray.flows.shards import Receipt
from cisray.genome.variant_selection import SubsetSpec
from cisray.progress import silent
from cisray.scoring.alleles import Flag
from cisray.scoring.engine import EngineSpec
from cisray.scoring.manifest import ModelSource, Storage, read_manifest
from cisray.scoring.nulls import NullSpec, shuffled_windows
from cisray.scoring.run_record import read_run
from cisray.scoring.schema import read_genes, read_scores, verify
from cisray.scoring.windows import PlacedEdit, WindowEdits, WindowSpec
from whole_program import LENGTHS, read_fasta

pytestmark = pytest.mark.ray
MODEL = ModelSource(uri="models:/tiny/7", digest="d", version="7", held_out_contigs=("sim4",))
SCORES = ("delta_sum", "log2fc", "l2_log2")
ALL_TEXT = ExportSpec(vcf=True, tsv=True)
WINDOW_BP = 1024
LONGEST_BP = 12
MINIMAL = {"variants": "v.vcf", "fasta": "g.fa", "model": "m", "out": "o"}
COMPLEMENT = str.maketrans("ACGTN", "TGCAN")
DATA = os.environ.get("CISRAY_DATA")


def other(base, step=1):
    return "ACGT"[("ACGT".index(base) + step) % 4]


def hand_made_records(genome):
    """Return contig, position, id, REF, ALTs and the status expected of each ALT."""
    sim1, end = genome["sim1"], LENGTHS["sim4"]

    def at(pos, length=1, contig="sim1"):
        return genome[contig][pos - 1 : pos - 1 + length]

    snv, mnv = other(at(2000)), "".join(other(base) for base in at(3000, 3))
    return [
        ("sim1", 1, "first", at(1), [other(at(1))], ["OK"]),
        ("sim1", 2000, "snv", at(2000), [snv], ["OK"]),
        ("sim1", 2000, "lower", at(2000).lower(), [snv.lower()], ["OK"]),
        ("sim1", 2500, "wrong", other(at(2500)), [other(at(2500), 2)], ["REF_MISMATCH"]),
        ("sim1", 3000, "mnv", at(3000, 3), [mnv], ["OK"]),
        ("sim1", 3500, "insertion", at(3500), [at(3500) + "TGGCAGATCGT"], ["OK"]),
        ("sim1", 4000, "deletion", at(4000, 9), [at(4000)], ["OK"]),
        ("sim1", 4500, "indel", at(4500, 4), ["GATTACA"], ["OK"]),
        (
            "sim1",
            5000,
            "many;alleles",
            at(5000, 2),
            [other(at(5000)) + sim1[5000], "*", "<DEL>", at(5000), at(5000, 2) + "A"],
            ["OK", "STAR", "SYMBOLIC", "OK", "OK"],
        ),
        ("sim1", 5500, "breakend", at(5500), [f"{at(5500)}]sim2:700]"], ["SYMBOLIC"]),
        ("sim1", 6000, "none", at(6000), ["."], ["MISSING_ALT"]),
        ("sim1", 6500, "iupac", at(6500), ["R"], ["NON_ACGT"]),
        ("sim1", 6600, "n", "N", ["A"], ["NON_ACGT"]),
        ("sim1", 7000, "longest", at(7000), [at(7000) + "A" * (LONGEST_BP - 1)], ["OK"]),
        ("sim1", 7500, "long", at(7500), [at(7500) + "A" * LONGEST_BP], ["TOO_LONG"]),
        ("sim1", 8000, "longref", at(8000, LONGEST_BP + 1), [at(8000)], ["TOO_LONG"]),
        ("sim4", end, "last", at(end, contig="sim4"), [other(at(end, contig="sim4"))], ["OK"]),
        ("sim4", end, "over", at(end, contig="sim4") + "A", [at(end, contig="sim4")], ["OUT_OF_CONTIG"]),
        ("sim4", end + 1, "beyond", "A", ["C"], ["OUT_OF_CONTIG"]),
        ("chrSIM3", 900, "likename", at(900, contig="sim3"), [other(at(900, contig="sim3"))], ["OK"]),
        ("chrUn", 5, "unknown", "A", ["C", "<INS>"], ["CONTIG_UNKNOWN"] * 2),
    ]


@pytest.fixture(scope="module")
def genome(simulated):
    return read_fasta(simulated / "genome.fa")


@pytest.fixture(scope="module")
def records(genome):
    return hand_made_records(genome)


@pytest.fixture(scope="module")
def rows(records):
    """One entry per record and ALT, in order."""
    return [
        {
            "chrom": contig,
            "pos": pos,
            "id": name,
            "ref": ref,
            "alt": alt,
            "record_index": index,
            "allele_index": allele,
            "status": status,
        }
        for index, (contig, pos, name, ref, alts, statuses) in enumerate(records)
        for allele, (alt, status) in enumerate(zip(alts, statuses, strict=True))
    ]


@pytest.fixture(scope="module")
def vcf_path(records, tmp_path_factory):
    path = tmp_path_factory.mktemp("variants") / "hand-made.vcf"
    contigs = [f"##contig=<ID={name},length={length}>" for name, length in LENGTHS.items()]
    lines = ["##fileformat=VCFv4.2", *contigs, "##contig=<ID=chrSIM3>", "##contig=<ID=chrUn>"]
    lines += ['##ALT=<ID=DEL,Description="d">', '##ALT=<ID=INS,Description="i">']
    lines += [
        '##INFO=<ID=AC,Number=1,Type=Integer,Description="kept">',
        "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO",
    ]
    for contig, pos, name, ref, alts, _ in records:
        lines.append(f"{contig}\t{pos}\t{name}\t{ref}\t{','.join(alts)}\t.\t.\tAC={pos}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def score_job(simulated, vcf_path):
    def make(out, **changes):
        values = {
            "variants": str(vcf_path),
            "fasta": str(simulated / "genome.fa"),
            "model": "models:/tiny/7",
            "scores": SCORES,
            "max_allele_bp": LONGEST_BP,
            "engine": EngineSpec(strands="both", batch_size=16, indel_align="none"),
            "out": str(out),
            "cluster": ClusterSpec(actors=1),
        }
        return ScoreJob(**(values | changes))

    return make


@pytest.fixture(scope="module")
def scores_dir(ray_here, score_job, bundle, tmp_path_factory):
    job = score_job(tmp_path_factory.mktemp("scores") / "scores", export=ALL_TEXT)
    return score(job, models={bundle: MODEL})


@pytest.fixture(scope="module")
def table(scores_dir):
    return read_scores(scores_dir)


@pytest.fixture(scope="module")
def predictor(bundle):
    return Predictor(bundle)


def test_rows_out_are_rows_in_each_with_its_status(table, rows):
    assert table.select(list(rows[0])).to_pylist() == rows


def test_the_manifest_counts_the_rows(scores_dir, rows, records, simulated):
    manifest = json.loads((scores_dir / "manifest.json").read_text())
    statuses = [row["status"] for row in rows]
    assert manifest["counts"] == {status: statuses.count(status) for status in set(statuses)}
    assert (manifest["rows"], manifest["records"]) == (len(rows), len(records))
    assert manifest["genome"]["contig_names"] == {"sim1": "sim1", "sim4": "sim4", "chrSIM3": "sim3"}
    assert manifest["model"]["version"] == "7"
    assert list(manifest["scores"]) == list(SCORES)
    assert all(0 <= floor < 1e-3 for floor in manifest["noise_floor"].values())
    verify(scores_dir)


def normal_by_hand(bases, pos, ref, alt):
    """Move an allele as far left as it goes, as Tan et al. 2015 say it, on strings."""
    ref, alt = ref.upper(), alt.upper()
    if ref == alt:
        return pos, ref[:1], alt[:1]
    while ref[-1] == alt[-1]:
        ref, alt = ref[:-1], alt[:-1]
        if not ref or not alt:
            pos -= 1
            ref, alt = bases[pos - 1] + ref, bases[pos - 1] + alt
    while len(ref) > 1 and len(alt) > 1 and ref[0] == alt[0]:
        pos, ref, alt = pos + 1, ref[1:], alt[1:]
    return pos, ref, alt


def windows_by_hand(bases, pos, ref, alt):
    """Edit a contig as a string: 512 bases before the variant, and what follows it."""
    padded, first = "N" * WINDOW_BP + bases + "N" * WINDOW_BP, pos - 1 + WINDOW_BP
    left = padded[first - WINDOW_BP // 2 : first]
    reference = left + padded[first:]
    alternate = left + alt.upper() + padded[first + len(ref) :]
    return reference[:WINDOW_BP], alternate[:WINDOW_BP]


def predict_one(predictor, window):
    """Predict one window given as letters: bins by tracks, in float64."""
    return predictor.predict(np.array([["ACGTN".index(base) for base in window]], np.uint8))[0].astype(np.float64)


def scores_by_hand(predictor, reference, alternate):
    """Two forward passes for each strand, the formulas as the manifest quotes them, the mean of both strands."""
    of_strands = []
    for turned in (False, True):
        r, a = (
            predict_one(predictor, window.translate(COMPLEMENT)[::-1] if turned else window)
            for window in (reference, alternate)
        )
        of_strands.append(
            {
                "delta_sum": a.sum(axis=0) - r.sum(axis=0),
                "log2fc": np.log2(1 + a.sum(axis=0)) - np.log2(1 + r.sum(axis=0)),
                "l2_log2": np.sqrt(((np.log2(1 + a) - np.log2(1 + r)) ** 2).sum(axis=0)),
            }
        )
    tracks_of_other_strand = [0, 1, 3, 2]
    return {name: (of_strands[0][name] + of_strands[1][name][tracks_of_other_strand]) / 2 for name in SCORES}


# Rounding of float32 in the forward passes: of sums of 64 bins of some units, of their logarithms.
ROUNDING = {"delta_sum": 1e-3, "log2fc": 2e-6, "l2_log2": 2e-6}


def test_scores_are_those_of_two_forward_passes_on_strings(table, rows, genome, predictor):
    names = {"chrSIM3": "sim3"}
    largest = dict.fromkeys(SCORES, 0.0)
    for row, found in zip(rows, table.to_pylist(), strict=True):
        if row["status"] != "OK":
            continue
        bases = genome[names.get(row["chrom"], row["chrom"])]
        normal = normal_by_hand(bases, row["pos"], row["ref"], row["alt"])
        assert tuple(found[name] for name in ("norm_pos", "norm_ref", "norm_alt")) == normal
        windows = windows_by_hand(bases, *normal)
        assert found["window_start"] == normal[0] - 1 - WINDOW_BP // 2
        for name, expected in scores_by_hand(predictor, *windows).items():
            np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=ROUNDING[name], err_msg=row["id"])
            largest[name] = max(largest[name], np.abs(expected).max())
    assert all(largest[name] > 1000 * ROUNDING[name] for name in SCORES)  # the comparison says something


def test_what_is_not_scored_has_nulls_and_never_zeros(table):
    for row in table.to_pylist():
        for name in (*SCORES, "window_start"):
            assert (row[name] is None) == (row["status"] != "OK")
        if row["status"] == "OK":
            assert all(len(row[name]) == 4 and np.isfinite(row[name]).all() for name in SCORES)
        else:
            assert row["flags"] == 0


def test_flags_tell_of_edges_and_indels(table):
    flags = {row["id"]: Flag(row["flags"]) for row in table.to_pylist() if row["id"] != "many;alleles"}
    assert flags["first"] == flags["last"] == Flag.EDGE_PADDED | Flag.HAS_N
    assert flags["snv"] == flags["mnv"] == Flag(0)
    assert flags["insertion"] == flags["deletion"] == flags["indel"] == flags["longest"] == Flag.INDEL
    many = [row["flags"] for row in table.to_pylist() if row["id"] == "many;alleles"]
    assert many == [0, 0, 0, Flag.INDEL, Flag.INDEL]


def test_letter_case_does_not_count(table):
    by_id = {row["id"]: row for row in table.to_pylist()}
    for name in SCORES:
        np.testing.assert_allclose(by_id["lower"][name], by_id["snv"][name], rtol=1e-5, atol=ROUNDING[name])


def test_pysam_reads_the_scored_vcf_back(scores_dir, table, records):
    by_record = {}
    for row in table.to_pylist():
        by_record.setdefault(row["record_index"], []).append(row)
    with pysam.VariantFile(str(scores_dir / "scores.vcf.gz")) as file:
        described = file.header.info["CISRAY"].description
        assert described.endswith("Format: ALLELE|Consequence|TRACK|DELTA_SUM|LOG2FC|L2_LOG2")
        found = list(file)
    assert len(found) == len(records)
    for index, record in enumerate(found):
        alleles = by_record[index]
        assert (record.contig, record.pos, record.id, record.info["AC"]) == (*records[index][:3], records[index][1])
        # htslib reads "." in ALT as no allele at all, so that a value per ALT is one of none
        assert record.info["CISRAY_STATUS"] == tuple(row["status"] for row in alleles)
        entries = [text.split("|") for text in record.info.get("CISRAY", ())]
        scored = [row for row in alleles if row["status"] == "OK"]
        assert [entry[0].upper() for entry in entries] == [row["alt"].upper() for row in scored for _ in range(4)]
        assert [entry[2] for entry in entries] == ["strength", "spacing", "plus", "minus"] * len(scored)
        found_values = np.array([entry[3:] for entry in entries], float).reshape(len(scored), 4, 3)
        expected = np.array([[row[name] for name in SCORES] for row in scored]).reshape(len(scored), 3, 4)
        np.testing.assert_allclose(found_values, expected.transpose(0, 2, 1), rtol=6e-4)


def test_the_tsv_holds_a_line_per_row(scores_dir, table):
    header, *lines = (scores_dir / "scores.tsv").read_text().splitlines()
    assert len(lines) == len(table)
    column = header.split("\t").index("log2fc:plus")
    for line, row in zip(lines, table.to_pylist(), strict=True):
        text = line.split("\t")[column]
        assert (text == "") == (row["status"] != "OK")
        assert text == "" or float(text) == pytest.approx(row["log2fc"][2], rel=1e-6)


def test_blocks_and_batches_leave_no_trace(ray_here, score_job, table, bundle, tmp_path):
    job = score_job(
        tmp_path / "small",
        block_rows=3,
        engine=EngineSpec(strands="both", batch_size=5, indel_align="none"),
    )
    folder = score(job, models={bundle: MODEL})
    assert len(list((folder / "blocks").iterdir())) > 5
    again = read_scores(folder)
    kept = [name for name in table.column_names if name not in SCORES]
    assert again.select(kept).equals(table.select(kept))
    for row, other_row in zip(table.to_pylist(), again.to_pylist(), strict=True):
        for name in SCORES:
            if row[name] is not None:
                np.testing.assert_allclose(other_row[name], row[name], rtol=1e-5, atol=ROUNDING[name])


def test_a_finished_table_is_not_made_again(score_job, scores_dir, bundle, bytes_of):
    told, before = [], bytes_of(scores_dir)
    job = score_job(scores_dir, export=ALL_TEXT)
    assert score(job, models={bundle: MODEL}, report=told.append) == scores_dir
    assert told == []
    with pytest.raises(InputError, match="was not made by this job"):
        score(score_job(scores_dir, max_allele_bp=7), models={bundle: MODEL})
    assert bytes_of(scores_dir) == before


def test_an_export_can_be_made_of_a_finished_table(score_job, scores_dir, bundle, bytes_of):
    before = bytes_of(scores_dir)
    (scores_dir / "scores.tsv").unlink()
    score(score_job(scores_dir, export=ALL_TEXT), models={bundle: MODEL})
    assert bytes_of(scores_dir) == before


def test_a_file_without_records_gives_a_table_without_rows(ray_here, score_job, vcf_path, bundle, tmp_path):
    header = "".join(line for line in vcf_path.open() if line.startswith("#"))
    (tmp_path / "empty.vcf").write_text(header)
    job = score_job(tmp_path / "scores", variants=str(tmp_path / "empty.vcf"), export=ALL_TEXT)
    folder = score(job, models={bundle: MODEL})
    assert read_manifest(folder).rows == len(read_scores(folder)) == 0
    with pysam.VariantFile(str(folder / "scores.vcf.gz")) as file:
        assert list(file) == []


def test_alleles_that_no_window_can_hold_are_refused_before_anything_is_scored(score_job, bundle, tmp_path):
    job = score_job(tmp_path / "scores", max_allele_bp=513)
    with pytest.raises(
        InputError, match=r"max_allele_bp=513, but a window of 1024 bp .* set max_allele_bp to 512 or less"
    ):
        score(job, models={bundle: MODEL})
    assert list(tmp_path.iterdir()) == []


def scored_rows(folder):
    """Return the rows of a table by the record's id and the allele."""
    return {(row["id"], row["allele_index"]): row for row in read_scores(folder).to_pylist()}


def test_a_grid_shares_windows_and_a_run_tells_what_it_took(ray_here, score_job, bundle, table, tmp_path):
    job = score_job(tmp_path / "grid", windows=WindowSpec(policy="grid", grid_bp=256), mask="center(64)")
    folder = score(job, models={bundle: MODEL})
    manifest, record = read_manifest(folder), read_run(folder)
    assert (manifest.window_policy, manifest.masks["log2fc"]) == ("grid=256", "center(64)")
    assert manifest.guard.recomputed > 0
    assert manifest.guard.largest_difference <= manifest.guard.tolerance
    assert record.rows_per_s > 0
    assert 0 < record.engine_share <= 1
    for row in read_scores(folder).to_pylist():
        if row["status"] == "OK":
            middle = (row["norm_pos"] - 1) // 256 * 256 + 128
            assert row["window_start"] == middle - 512
            assert row["center_offset"] == row["norm_pos"] - 1 - middle
    assert [row["status"] for row in read_scores(folder).to_pylist()] == table["status"].to_pylist()


def test_the_order_of_rows_changes_nothing(ray_here, score_job, bundle, vcf_path, table, tmp_path):
    lines = vcf_path.read_text().splitlines()
    header, body = [line for line in lines if line.startswith("#")], [line for line in lines if line[0] != "#"]
    (tmp_path / "turned.vcf").write_text("\n".join(header + body[::-1]) + "\n")
    job = score_job(tmp_path / "turned", variants=str(tmp_path / "turned.vcf"), block_rows=4)
    folder = score(job, models={bundle: MODEL})
    turned = scored_rows(folder)
    for row in table.to_pylist():
        other_row = turned[row["id"], row["allele_index"]]
        assert other_row["status"] == row["status"]
        for name in SCORES:
            if row[name] is not None:
                np.testing.assert_allclose(other_row[name], row[name], rtol=1e-5, atol=ROUNDING[name])
    assert [row["id"] for row in read_scores(folder).to_pylist() if row["allele_index"] == 0] == [
        line.split("\t")[2] for line in body[::-1]
    ]


def test_part_of_the_rows_tracks_and_values(ray_here, score_job, bundle, rows, table, tmp_path):
    job = score_job(
        tmp_path / "part",
        subset=SubsetSpec(regions=("sim1:0-4000",)),
        tracks=("minus", "strength"),
        storage=Storage(values="summary", tracks=("minus",)),
        export=ExportSpec(top=2, calico_h5=True),
    )
    folder = score(job, models={bundle: MODEL})
    manifest = read_manifest(folder)
    assert manifest.tracks == ("minus", "strength")
    assert manifest.selection.file_rows == len(rows)
    assert manifest.selection.left_out == len(rows) - manifest.rows
    whole = scored_rows_of(table)
    found = scored_rows(folder)
    assert set(found) == {(row["id"], row["allele_index"]) for row in rows if inside(row)}
    for key, row in found.items():
        if row["status"] == "OK":
            both = np.array(whole[key]["log2fc"])[[3, 0]]  # minus and strength
            np.testing.assert_allclose(row["log2fc"], both[:1], rtol=1e-4, atol=1e-6)
            assert row["log2fc_top_track"] == np.abs(both).argmax()
    assert {"top.tsv", "scores.h5"} <= {path.name for path in folder.iterdir()}


def scored_rows_of(table):
    return {(row["id"], row["allele_index"]): row for row in table.to_pylist()}


def inside(row):
    return row["chrom"] == "sim1" and row["pos"] - 1 < 4000


def test_genes_have_a_table_of_their_own(ray_here, score_job, bundle, table, tmp_path):
    gtf = [
        'sim1\tt\texon\t1901\t1964\t.\t+\t.\tgene_id "near";',
        'sim1\tt\texon\t2101\t2164\t.\t-\t.\tgene_id "other";',
        'sim4\tt\texon\t101\t164\t.\t+\t.\tgene_id "far";',
    ]
    (tmp_path / "genes.gtf").write_text("\n".join(gtf) + "\n")
    genes = GeneSpec(annotation=str(tmp_path / "genes.gtf"))
    folder = score(score_job(tmp_path / "scores", genes=genes, block_rows=4), models={bundle: MODEL})
    verify(folder)
    rows = read_genes(folder).to_pylist()
    of_snv = [row for row in rows if row["record_index"] == 1]
    assert [row["gene_id"] for row in of_snv] == ["near", "other"]
    assert [row["tss_distance"] for row in of_snv] == [2000 - 1901, 2164 - 2000]
    assert all(len(row["gene_log2fc"]) == 4 for row in rows)
    assert "far" not in {row["gene_id"] for row in rows if row["record_index"] < 15}
    assert read_scores(folder).select(["status", "id"]).equals(table.select(["status", "id"]))


def test_a_table_of_variants_is_scored_like_a_vcf(ray_here, score_job, bundle, rows, table, tmp_path):
    lines = ["chrom\tpos\tid\tref\talt"]
    kept = [row for row in rows if row["id"] not in ("none", "breakend", "many;alleles", "unknown")]
    lines += ["\t".join(str(row[name]) for name in ("chrom", "pos", "id", "ref", "alt")) for row in kept]
    (tmp_path / "variants.tsv").write_text("\n".join(lines) + "\n")
    job = score_job(tmp_path / "scores", variants=str(tmp_path / "variants.tsv"), export=ALL_TEXT)
    found = scored_rows(score(job, models={bundle: MODEL}))
    whole = scored_rows_of(table)
    for row in kept:
        key = row["id"], 0
        assert found[key]["status"] == row["status"]
        if row["status"] == "OK":
            np.testing.assert_allclose(found[key]["log2fc"], whole[key]["log2fc"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tracks": ("nothing",)}, "the model has no track 'nothing'; it has strength, spacing, plus, minus"),
        ({"scores": ("logit_diff",)}, "logit_diff"),
        ({"windows": WindowSpec(policy="grid", grid_bp=2048)}, "grid_bp=2048"),
        (
            {"ref_mismatch": "flip", "scores": ("ndi",)},
            "and ndi of exchanged alleles is another number",
        ),
        ({"ref_mismatch": "flip", "scores": ("DS_AG",)}, "exchanges the alleles, and max_gain of exchanged alleles"),
        ({"calibration": "background"}, "no such calibration"),
        (
            {"storage": Storage(values="summary", tracks=("nothing",))},
            "storage names the track 'nothing', which is not scored",
        ),
        (
            {"scores": ("log2fc",), "genes": GeneSpec(scores=("logSED",), annotation="genome.fa")},
            "genes: log2fc is among",
        ),
        ({"genes": GeneSpec(annotation="nothing.gtf")}, r"nothing\.gtf: no such input file"),
        ({"mask": "bed(nothing.bed)"}, r"nothing\.bed: no such input file"),
        (
            {"mask": "center(1041)"},
            r"center\(1041\) takes 1056 bp, and the model predicts .*; wanted a narrower mask$",
        ),
        (
            {"mask": "center(501)", "windows": WindowSpec(policy="grid", grid_bp=800)},
            r"center\(501\) takes 512 bp around variants anywhere in 800 bp of a grid, and .* a finer windows",
        ),
        ({"subset": SubsetSpec(regions_bed="nothing.bed")}, r"nothing\.bed: no such input file"),
        (
            {"engine": EngineSpec(shifts=(0, 600))},
            r"shifts=\(0, 600\) move a variant out of its window of 1024 bp; wanted shifts from -500 to 512 bp",
        ),
        ({"ensemble": ("models:/tiny/7",)}, "ensemble: 2 models are named, and 1 of them differ; name each once"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(score_job, bundle, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        score(score_job(tmp_path / "scores", **changes), models={bundle: MODEL})
    assert list(tmp_path.iterdir()) == []


def test_a_calibration_ranks_scores_among_the_background(ray_here, score_job, bundle, table, tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    model = MODEL.__class__(uri="here", digest=bundle_digest(copy))
    card_path = calibrate(score_job(tmp_path / "background"), "hand", models={copy: model})
    assert card_path == copy / "calibration/hand.json"
    assert bundle_digest(copy) == model.digest
    job = score_job(tmp_path / "scores", calibration="hand")
    folder = score(job, models={copy: model})
    verify(folder)
    manifest = read_manifest(folder)
    assert manifest.quantiles == SCORES
    scored = [row for row in read_scores(folder).to_pylist() if row["status"] == "OK"]
    for track in range(4):
        for name in SCORES:
            values = np.array([row[name][track] for row in scored])
            ranks = [((values < one).sum() + (values == one).sum() / 2) / len(values) for one in values]
            expected = np.array(ranks) if name == "l2_log2" else 2 * np.array(ranks) - 1
            found = [row[f"{name}.quantile"][track] for row in scored]
            np.testing.assert_allclose(found, expected, atol=2e-6)
    told = json.loads(card_path.read_text())
    card_path.write_text(json.dumps(told | {"background": "another.vcf"}))  # as a calibration made anew would be
    with pytest.raises(InputError, match="scores: exists, and was not made by this job as it stands now"):
        score(job, models={copy: model})
    card_path.write_text(json.dumps(told))
    other_reading = score_job(tmp_path / "other", calibration="hand", mask="center(64)")
    with pytest.raises(InputError, match="mask of delta_sum = crop, and these scores with center"):
        score(other_reading, models={copy: model})


NULL = NullSpec(number=4, seed=3)


@pytest.fixture(scope="module")
def with_null(ray_here, score_job, bundle, tmp_path_factory):
    told = []
    job = score_job(tmp_path_factory.mktemp("null") / "scores", null=NULL)
    return score(job, models={bundle: MODEL}, report=told.append), told


def test_a_null_says_what_the_bases_around_each_variant_add(with_null, table, predictor, genome):
    folder, told = with_null
    verify(folder)
    manifest = read_manifest(folder)
    assert (manifest.nulls, manifest.null) == (SCORES, NULL)
    (forecast,) = [each.note for each in told if "rows x" in each.note]
    assert "3 scores and 6 lists beside them" in forecast
    assert forecast.endswith(f"5 times the work, {5 * manifest.rows} scorings")
    found = {row["id"]: row for row in read_scores(folder).to_pylist()}
    for row in table.to_pylist():
        for name in SCORES:
            assert (found[row["id"]][f"{name}.z_null"] is None) == (found[row["id"]][name] is None)
    for name in ("snv", "deletion", "likename"):
        row = found[name]
        contig = "sim3" if name == "likename" else "sim1"
        expected = null_by_hand(predictor, genome[contig], contig, row)
        for score_name in SCORES:
            null = np.array([each[score_name] for each in expected])
            value = np.array(row[score_name])
            z = (value - null.mean(axis=0)) / null.std(axis=0, ddof=1)
            np.testing.assert_allclose(row[f"{score_name}.z_null"], z, rtol=2e-3, atol=2e-3, err_msg=name)
            p = (1 + (np.abs(null) >= np.abs(value)).sum(axis=0)) / 5
            np.testing.assert_allclose(row[f"{score_name}.p_null"], p, rtol=1e-6)


def null_by_hand(predictor, bases, contig, row):
    """Score a row's alleles in its shuffled windows by two forward passes on strings."""
    first, ref, alt = row["norm_pos"] - 1, row["norm_ref"], row["norm_alt"]
    if len(ref) > len(alt) == 1:  # the base before a deletion is no part of it
        first, ref, alt = first + 1, ref[1:], ""
    inserted = np.array(["ACGT".index(base) for base in alt], np.uint8)
    begin, flank = row["window_start"], LONGEST_BP
    padded = "N" * WINDOW_BP + bases + "N" * WINDOW_BP
    window = padded[begin - flank + WINDOW_BP : begin + 2 * flank + 2 * WINDOW_BP - flank]
    codes = np.array(["ACGTN".index(base) for base in window], np.uint8)
    edit = PlacedEdit(first - begin, len(ref), inserted, np.ones((1, 64), bool))
    made = shuffled_windows(WindowEdits(begin, codes, flank, (edit,)), edit, NULL, contig=contig)
    texts = ["".join("ACGTN"[code] for code in each.bases) for each in made]
    at = flank + first - begin
    return [
        scores_by_hand(
            predictor,
            text[flank : flank + WINDOW_BP],
            (text[:at] + alt + text[at + len(ref) :])[flank : flank + WINDOW_BP],
        )
        for text in texts
    ]


def test_a_null_leaves_the_scores_as_they_are_and_knows_no_order(ray_here, with_null, score_job, bundle, tmp_path):
    job = score_job(tmp_path / "blocks", null=NULL, block_rows=3)
    again = scored_rows(score(job, models={bundle: MODEL}))
    for key, row in scored_rows(with_null[0]).items():
        for name in SCORES:
            if row[name] is not None:
                np.testing.assert_allclose(again[key][name], row[name], rtol=1e-5, atol=ROUNDING[name])
                z, z_again = row[f"{name}.z_null"], again[key][f"{name}.z_null"]
                np.testing.assert_allclose(z_again, z, rtol=1e-2, atol=1e-2)


def test_gains_and_losses_stand_with_their_distance_from_the_variant(
    ray_here, score_job, bundle, predictor, genome, tmp_path
):
    splicing = ("DS_AG", "DS_AL", "DP_AG", "DP_AL")
    job = score_job(
        tmp_path / "gains",
        scores=splicing,
        mask="center(161)",
        engine=EngineSpec(batch_size=16, indel_align="none"),
        null=NullSpec(number=2),
    )
    folder = score(job, models={bundle: MODEL})
    manifest = read_manifest(folder)
    assert list(manifest.scores) == ["max_gain", "max_loss", "gain_offset", "loss_offset"]
    assert manifest.nulls == ("max_gain", "max_loss")  # a place has none
    assert manifest.noise_floor["gain_offset"] is None
    compared = 0
    for row in read_scores(folder).to_pylist():
        if row["status"] != "OK" or row["id"] == "likename":
            continue
        windows = windows_by_hand(genome[row["chrom"]], row["norm_pos"], row["norm_ref"], row["norm_alt"])
        r, a = (predict_one(predictor, window) for window in windows)
        bin_bp = predictor.card.geometry.bin_bp
        first_bp = row["window_start"] + predictor.card.geometry.crop_bp + bin_bp * np.arange(len(r)) + 1
        is_kept = np.isin(np.arange(len(r)), kept_around(row["norm_pos"], first_bp, bin_bp, width_bp=161))
        for change, gained, offset in ((a - r, "max_gain", "gain_offset"), (r - a, "max_loss", "loss_offset")):
            for track in range(4):
                by_bin = dict(zip(first_bp[is_kept].tolist(), change[is_kept, track].tolist(), strict=True))
                assert row[gained][track] == pytest.approx(max(0, *by_bin.values()), rel=1e-3, abs=1e-4)
                there = row["norm_pos"] + row[offset][track]
                assert by_bin[int(there)] == pytest.approx(max(by_bin.values()), rel=1e-3, abs=1e-4)
                compared += max(by_bin.values()) > 1e-2
    assert compared > 20


def kept_around(pos, first_bp, bin_bp, *, width_bp):
    """Return the bins that center(width) keeps, found by their first bases."""
    (middle,) = np.flatnonzero((first_bp <= pos) & (pos < first_bp + bin_bp))
    number = -(-width_bp // bin_bp)
    return range(middle - number // 2, middle - number // 2 + number)


@pytest.fixture
def other_bundle(bundle, tmp_path):
    """The same network with other weights."""
    folder = tmp_path / "other"
    shutil.copytree(bundle, folder)
    weights = load_file(folder / "weights.safetensors")
    floats = {name: 0.9 * values if values.is_floating_point() else values for name, values in weights.items()}
    save_file(floats, folder / "weights.safetensors")
    return folder


def test_models_of_an_ensemble_are_alike(score_job, bundle, other_bundle, tmp_path):
    job = score_job(tmp_path / "scores", ensemble=("other",))
    card = json.loads((other_bundle / "card.json").read_text())
    assert card["tracks"][0]["strand_pair"] is None
    renamed = {"tracks": [card["tracks"][0] | {"name": "another"}, *card["tracks"][1:]]}
    turned = {"geometry": card["geometry"] | {"crop_bins": card["geometry"]["crop_bins"] + 1}}
    for changes, message in ((renamed, "has other tracks than the model"), (turned, "wanted models of one geometry")):
        (other_bundle / "card.json").write_text(json.dumps(card | changes))
        with pytest.raises(InputError, match=message):
            score(job, models={bundle: MODEL, other_bundle: MODEL})
    assert not (tmp_path / "scores.unfinished").exists()


def test_of_several_heads_the_one_that_is_named_scores(ray_here, score_job, two_heads, table, genome, tmp_path):
    predictor = Predictor(two_heads, head="mouse")
    folder = score(score_job(tmp_path / "scores", head="mouse"), models={two_heads: MODEL})
    assert read_manifest(folder).head == "mouse"
    found, expected = [], []
    for row in read_scores(folder).to_pylist():
        if row["status"] == "OK" and row["id"] != "likename":
            windows = windows_by_hand(genome[row["chrom"]], row["norm_pos"], row["norm_ref"], row["norm_alt"])
            expected.append(scores_by_hand(predictor, *windows)["log2fc"])
            found.append(row["log2fc"])
    assert len(found) > 10
    assert np.abs(expected).max() > 10 * ROUNDING["log2fc"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=ROUNDING["log2fc"])
    alone = score(score_job(tmp_path / "alone", head="human"), models={two_heads: MODEL})
    assert read_manifest(alone).tracks == ("strength",)


def test_where_all_scores_may_jump_their_predictions_are_held_against_full_forwards(
    ray_here, score_job, bundle, tmp_path
):
    job = score_job(tmp_path / "scores", scores=("SAX",))
    manifest = read_manifest(score(job, models={bundle: MODEL}))
    assert list(manifest.noise_floor) == ["max_signed"]
    assert manifest.guard.recomputed == 2
    rough = EngineSpec(batch_size=16, indel_align="none", precision="bf16", tolerance=1e-9)
    with pytest.raises(InputError, match=r"two full forwards score delta_sum .* apart from what was found"):
        score(score_job(tmp_path / "rough", scores=("SAX",), engine=rough), models={bundle: MODEL})


def test_a_model_of_one_strand_is_not_averaged_over_both(score_job, bundle, tmp_path, of_one_strand):
    job = score_job(tmp_path / "scores", engine=EngineSpec(strands="both"))
    with pytest.raises(InputError, match=r'learned to read the forward strand only .* set engine.strands = "forward"'):
        score(job, models={of_one_strand(bundle): MODEL})


def test_an_ensemble_averages_its_models(ray_here, score_job, bundle, other_bundle, table, tmp_path):
    both = score(score_job(tmp_path / "both", ensemble=("other",)), models={bundle: MODEL, other_bundle: MODEL})
    alone = scored_rows(score(score_job(tmp_path / "alone"), models={other_bundle: MODEL}))
    first = scored_rows_of(table)
    assert len(read_manifest(both).ensemble) == 2
    for key, row in scored_rows(both).items():
        if row["status"] == "OK":
            assert row["n_passes"] == 4
            mean = (np.array(first[key]["delta_sum"]) + np.array(alone[key]["delta_sum"])) / 2
            np.testing.assert_allclose(row["delta_sum"], mean, rtol=1e-4, atol=ROUNDING["delta_sum"])


def test_a_memory_that_is_too_small_is_one_clear_error(score_job, bundle, tmp_path, monkeypatch):
    staging = tmp_path / "staging"
    job = score_job(tmp_path / "scores")
    run = score_flow._check(job, {bundle: MODEL})
    plan_blocks(staging, run.variants, block_rows=8, windows=job.windows, report=silent)
    worker = Scorer(ScorerPlan(job=job, bundle_dirs=(bundle,), contig_names={"sim1": "sim1"}, staging=staging))

    def fail(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(worker._engine, "score", fail)
    message = r"engine: batches of 16 windows do not fit into the memory of cpu \(CUDA out of memory\); set a smaller"
    with pytest.raises(InputError, match=message):
        worker.work({"planned": str(planned_path(staging, 0))})


def test_a_run_that_goes_on_counts_only_what_it_did_itself():
    receipts = {name: Receipt(name, "f", rows, "", 2.0, {"engine_s": 1.0}) for name, rows in (("0", 1000), ("1", 30))}
    record = score_flow._run_record(ScoreJob(**MINIMAL), receipts, earlier={"0"}, seconds=10.0)
    assert (record.rows_per_s, record.engine_s, record.engine_share) == (3.0, 2.0, 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"null": NULL}, "leave out ensemble, calibration, null, tracks and storage.values"),
        ({"scores": ("DP_AG",), "engine": EngineSpec()}, "a calibration ranks scores, and gain_offset is a place"),
        ({"storage": Storage(dtype="float16")}, "storage: dtype=float16 makes small scores 0, .* calibrate in float32"),
        ({"name": "by/hand"}, "calibration 'by/hand': a name becomes a file"),
    ],
)
def test_a_calibration_that_cannot_be_is_refused_before_anything_is_scored(
    score_job, bundle, tmp_path, changes, message
):
    name = changes.pop("name", "hand")
    with pytest.raises(InputError, match=message):
        calibrate(score_job(tmp_path / "background", **changes), name, models={bundle: MODEL})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(DATA is None, reason="CISRAY_DATA names no folder")
def test_variants_of_another_genome_are_refused_with_that_genome(score_job, bundle, tmp_path):
    source = Path(DATA) / "yeast/sacCer3_sample_variants.vcf.gz"
    with pysam.VariantFile(str(source)) as file, (tmp_path / "v.vcf").open("w") as out:
        out.write(str(file.header))
        out.writelines(str(record) for record in islice(file, 2000))
    fasta = Path(DATA) / "yeast/sacCer3.fa.gz"
    job = score_job(tmp_path / "scores", variants=str(tmp_path / "v.vcf"), fasta=str(fasta))
    with pytest.raises(InputError, match=r"sacCer3\.fa\.gz is not the genome of the model .*sim1 is missing; .*give"):
        score(job, models={bundle: MODEL})
    assert not (tmp_path / "scores").exists()


@pytest.mark.skipif(DATA is None, reason="CISRAY_DATA names no folder")
def test_variants_of_another_genome_are_all_of_unknown_contigs(ray_here, score_job, bundle, tmp_path):
    job = score_job(tmp_path / "scores", variants=str(Path(DATA) / "yeast/natural_variants.vcf"))
    manifest = read_manifest(score(job, models={bundle: MODEL}))
    assert dict(manifest.counts) == {"CONTIG_UNKNOWN": manifest.rows}
    assert manifest.rows >= manifest.records > 5000
