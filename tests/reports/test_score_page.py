import json
from collections import Counter

import numpy as np
import pytest

from cisray.errors import InputError
from cisray.reports.page import number, share
from cisray.reports.score_page import (
    FLAGS,
    NUM_TOP,
    REASONS,
    describe_flags,
    describe_moved,
    write_score_page,
)
from cisray.scoring.alleles import Flag, Status
from cisray.scoring.manifest import read_manifest
from cisray.scoring.rows import score_values
from cisray.scoring.schema import read_scores

pytestmark = pytest.mark.usefixtures("unrendered")
EVIL = "<script>alert('x')</script>&\"$x_1$"


def test_rows_by_status_are_those_of_the_table(make_scores, read_page):
    scores_dir, _, rows, _ = make_scores(300)
    page = read_page(write_score_page(scores_dir)[0])
    found = page.table("status", "rows", "share", "what it means")
    counts = Counter(status for _, status, _ in rows)
    assert sorted(found) == sorted(
        [status.value, str(count), share(count, 300), REASONS[status]] for status, count in counts.items()
    )
    assert "300 rows of 270 records" in page.text


def test_every_status_and_flag_has_words():
    assert set(REASONS) == set(Status)
    assert set(FLAGS) == set(Flag)
    assert describe_flags(0) == "–"
    both = int(Flag.INDEL | Flag.HAS_N)
    assert describe_flags(both) == "N in the window; changes length"


def test_how_the_scores_were_made_is_told(make_scores, read_page):
    scores_dir, *_ = make_scores(60)
    page = read_page(write_score_page(scores_dir)[0])
    for words in ("models:/sim, version 3", "ab12", "genome.fa, digest cd34", "in.vcf, digest ef56"):
        assert words in page.text
    assert "2,048 bp, centered: 1,024 bp stand before the variant's first base" in page.text
    assert "mean of both strands" in page.text
    assert "1 is chr1, 2 is chr2" in page.text
    assert page.table("score", "known as", "formula", "noise floor") == [
        ["delta_sum", "SAD, SUM, SED, DIFF_SUM", "sum(a) - sum(r)", "0.500"],
        ["log2fc", "logSED, DIFF_LOG2_SUM", "log2(1 + sum(a)) - log2(1 + sum(r))", "0.0200"],
        ["l2_log2", "logD2", "norm2", "0"],
    ]


def test_the_largest_effects_are_those_of_a_sort_of_the_whole_table(make_scores, read_page):
    scores_dir, *_ = make_scores(300)
    page = read_page(write_score_page(scores_dir)[0])
    found = page.table("variant", "id", "largest |log2fc|", "moves most (log2fc)", "to know")
    table = read_scores(scores_dir)
    values, scored = score_values(table, "log2fc")
    rows = [row for row, ok in zip(table.to_pylist(), scored, strict=True) if ok]
    order = sorted(range(len(rows)), key=lambda i: -np.abs(values[i]).max())[:NUM_TOP]
    tracks = read_manifest(scores_dir).tracks
    assert len(found) == NUM_TOP
    for cells, index in zip(found, order, strict=True):
        row, of_row = rows[index], values[index]
        assert cells[:2] == [f"{row['chrom']}:{row['pos']:,} {row['ref']}>{row['alt']}", row["id"]]
        assert cells[2] == number(float(np.abs(of_row).max()))
        first = int(np.abs(of_row).argmax())
        sign = "+" if of_row[first] > 0 else ""
        assert cells[3].startswith(f"{tracks[first]} {sign}{number(float(of_row[first]))}, {tracks[1 - first]} ")
        assert cells[4] == ("changes length" if row["record_index"] % 7 == 0 else "–")


def test_three_tracks_are_named_with_their_signs():
    words = describe_moved(np.array([0.1, -2, 0, 0.5, -0.2], np.float32), ["a", "b", "c", "d", "e"])
    assert words == "b -2.000, d +0.500, e -0.200"


def test_distributions_hold_the_tables_figures(make_scores, read_page):
    scores_dir, *_ = make_scores(300)
    page = read_page(write_score_page(scores_dir)[0])
    tables = [rows for rows in page.tables if rows[0][0] == "track"]
    manifest = read_manifest(scores_dir)
    for name, rows in zip(manifest.scores, tables, strict=True):
        values, _ = score_values(read_scores(scores_dir), name)
        for index, (track, *cells) in enumerate(rows[1:]):
            of_track = values[:, index]
            signs = [share((of_track > 0).sum(), len(of_track)), share((of_track < 0).sum(), len(of_track))]
            assert track == manifest.tracks[index]
            assert cells == [
                *(signs if name != "l2_log2" else []),
                share((np.abs(of_track) > manifest.noise_floor[name]).sum(), len(of_track)),
                number(float(of_track.min())),
                number(float(of_track.max())),
            ]


def test_without_a_truth_there_is_nothing_to_print(make_scores, read_page):
    scores_dir, *_ = make_scores(60)
    path, lines = write_score_page(scores_dir)
    assert path == scores_dir / "report.html"
    assert lines == []
    assert "Against the truth" not in read_page(path).text


def test_the_truth_is_told_on_the_page_as_it_is_printed(make_scores, read_page):
    scores_dir, truth_path, *_ = make_scores(300)
    path, lines = write_score_page(scores_dir, truth_path=truth_path, held_out=("chr2",))
    page = read_page(path)
    rows = page.table("score", "rows on", "AUROC", "breaks_motif", "background", "without a score")
    assert len(lines) == len(rows) == 6
    for line, (score, place, auroc, positive, negative, unscored) in zip(lines, rows, strict=True):
        assert line == (
            f"AUROC of {score} (largest over tracks), breaks_motif against background, {place}: "
            f"{auroc} (n={positive} against {negative}, {unscored} without a score)"
        )
    alts = [value for _, name, value in page.attributes if name == "alt"]
    assert f"predicted against true log2fc of {EVIL}" in alts


def test_the_printed_lines_without_held_out_contigs(make_scores):
    scores_dir, truth_path, *_ = make_scores(60)
    _, lines = write_score_page(scores_dir, truth_path=truth_path)
    assert len(lines) == 3
    assert lines[1].startswith("AUROC of |log2fc| (largest over tracks), breaks_motif against background: 0.")


def test_a_table_without_a_scored_row_is_a_page_too(make_scores, read_page):
    scores_dir, truth_path, *_ = make_scores(20, all_bad=True)
    path, lines = write_score_page(scores_dir, truth_path=truth_path)
    page = read_page(path)
    assert "Less than half of the rows were scored" in page.text
    assert page.text.count("No row was scored.") == 3
    assert "none (n=0 against 0, 14 without a score)" in lines[0]


def test_names_from_outside_are_escaped(make_scores, read_page, rendered):
    scores_dir, truth_path, *_ = make_scores(60)
    page = read_page(write_score_page(scores_dir, truth_path=truth_path)[0])
    assert EVIL in page.text or any(EVIL in cell for rows in page.tables for row in rows for cell in row)
    assert "<script" not in page.source


def test_the_page_is_the_same_each_time(make_scores, rendered):
    scores_dir, truth_path, *_ = make_scores(60)
    before = write_score_page(scores_dir, truth_path=truth_path)[0].read_bytes()
    assert write_score_page(scores_dir, truth_path=truth_path)[0].read_bytes() == before


def test_a_folder_that_is_no_score_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a finished score table"):
        write_score_page(tmp_path)


def change_manifest(scores_dir, **changes):
    path = scores_dir / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_how_variants_were_read_is_told(make_scores, read_page):
    scores_dir, *_ = make_scores(60)
    model = {"uri": "models:/sim", "version": "3", "digest": "ab12"}
    change_manifest(
        scores_dir,
        ensemble=[model, {"uri": "models:/other", "digest": "9"}],
        window_policy="grid=512",
        indel_align="stitch",
        shifts=[-1, 1],
        ref_mismatch="flip",
        noise_floor={"delta_sum": 0.5, "log2fc": 0.02, "l2_log2": None},
    )
    page = read_page(write_score_page(scores_dir)[0])
    for words in (
        "models:/sim, version 3, and 1 more",
        "2,048 bp, grid=512: variants of a cell of the grid share the window around it",
        "come from two readings, each aligned with the reference",
        "shifts -1 bp, 1 bp",
        "REF unlike the genome flip",
    ):
        assert words in page.text
    assert page.table("score", "known as", "formula", "noise floor")[2][3] == "–"


def test_a_summary_has_no_page(make_scores):
    scores_dir, *_ = make_scores(60)
    change_manifest(scores_dir, storage={"values": "summary"})
    with pytest.raises(InputError, match="no values per track in it, which a page is made of"):
        write_score_page(scores_dir)
