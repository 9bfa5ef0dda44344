"""Every kind of record in, the same rows out; and the scores that two forward passes and a pencil give."""

import json
import os
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pysam
import pytest

from cisray.bundle import Predictor, bundle_digest
from cisray.errors import InputError
from cisray.flows.calibrate import calibrate
from cisray.flows.cluster import ClusterSpec
from cisray.flows.score import score
from cisray.flows.score_job import ExportSpec, GeneSpec, ScoreJob
from cisray.genome.variant_selection import SubsetSpec
from cisray.scoring.alleles import Flag
from cisray.scoring.engine import EngineSpec
from cisray.scoring.manifest import ModelSource, Storage, read_manifest
from cisray.scoring.run_record import read_run
from cisray.scoring.schema import read_genes, read_scores, verify
from cisray.scoring.windows import WindowSpec
from whole_program import LENGTHS, read_fasta

pytestmark = pytest.mark.ray
MODEL = ModelSource(uri="models:/tiny/7", digest="d", version="7", held_out_contigs=("sim4",))
SCORES = ("delta_sum", "log2fc", "l2_log2")
ALL_TEXT = ExportSpec(vcf=True, tsv=True)
WINDOW_BP = 1024
LONGEST_BP = 12
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
        ({"ref_mismatch": "flip", "scores": ("ndi",)}, "ref_mismatch=flip exchanges the alleles, and ndi takes"),
        ({"calibration": "background"}, "no such calibration"),
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
    other_reading = score_job(tmp_path / "other", calibration="hand", mask="center(64)")
    with pytest.raises(InputError, match="mask of delta_sum = crop, and these scores with center"):
        score(other_reading, models={copy: model})


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
