import numpy as np
import pytest

from cisray.errors import InputError
from cisray.reports.truth import correlate, read_truth, separations
from cisray.scoring.alleles import Status
from cisray.scoring.schema import read_manifest


def pairwise_auroc(positive, negative):
    """Count the pairs in which the positive is larger; an equal pair counts half."""
    larger = (positive[:, None] > negative[None, :]).sum() + 0.5 * (positive[:, None] == negative[None, :]).sum()
    return larger / (len(positive) * len(negative))


def sizes(rows, values, kind, *, contigs=("1", "2")):
    """Return the largest |value| over tracks of the scored rows of a class."""
    return np.array(
        [
            np.abs(value).max()
            for (variant, status, of_row), value in zip(rows, values, strict=True)
            if status is Status.OK and of_row == kind and variant.contig in contigs
        ]
    )


def edit_truth(path, change):
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


@pytest.mark.parametrize("block_rows", [11, 1000])
def test_auroc_is_that_of_all_pairs(make_scores, block_rows):
    scores_dir, truth_path, rows, values = make_scores(300, block_rows=block_rows)
    truth = read_truth(truth_path, scores_dir, read_manifest(scores_dir))
    for one in separations(truth, held_out=()):
        positive = sizes(rows, values[one.score], "breaks_motif")
        negative = sizes(rows, values[one.score], "background")
        assert one.auroc == pytest.approx(pairwise_auroc(positive, negative), abs=1e-12)
        assert (one.num_positive, one.num_negative) == (len(positive), len(negative))
        assert one.num_unscored == 200 - len(positive) - len(negative)
        assert one.contigs == ""


@pytest.mark.parametrize("name", ["2", "chr2"])
def test_held_out_contigs_may_have_the_genomes_names_or_the_variants(make_scores, name):
    scores_dir, truth_path, rows, values = make_scores(300)
    truth = read_truth(truth_path, scores_dir, read_manifest(scores_dir), held_out=(name,))
    found = separations(truth, held_out=(name,))
    assert [one.contigs for one in found] == [f"held-out {name}", "all contigs"] * 3
    held, everywhere = found[2:4]
    kinds = ("breaks_motif", "background")
    positive, negative = (sizes(rows, values["log2fc"], kind, contigs=("2",)) for kind in kinds)
    assert held.auroc == pytest.approx(pairwise_auroc(positive, negative), abs=1e-12)
    assert held.num_positive == len(positive) < everywhere.num_positive


def test_a_contig_without_variants_separates_nothing(make_scores):
    scores_dir, truth_path, *_ = make_scores(60)
    truth = read_truth(truth_path, scores_dir, read_manifest(scores_dir), held_out=("chr9",))
    first = separations(truth, held_out=("chr9",))[0]
    assert first.auroc is None
    assert "held-out chr9: none (n=0 against 0)" in str(first)


def test_lines_read_as_sentences(make_scores):
    scores_dir, truth_path, *_ = make_scores(60)
    truth = read_truth(truth_path, scores_dir, read_manifest(scores_dir))
    one = separations(truth, held_out=())[1]._replace(auroc=0.97346, num_positive=812, num_negative=795)
    words = "AUROC of |log2fc| (largest over tracks), breaks_motif against background: 0.973 (n=812 against 795"
    assert str(one._replace(num_unscored=0)) == f"{words})"
    assert str(one._replace(num_unscored=7)) == f"{words}, 7 without a score)"


def test_effects_meet_the_scores_of_their_row_and_track_in_any_order(make_scores):
    scores_dir, truth_path, rows, values = make_scores(120, block_rows=10)
    edit_truth(truth_path, lambda lines: [lines[0], *lines[:0:-1]])
    manifest = read_manifest(scores_dir)
    truth = read_truth(truth_path, scores_dir, manifest)
    scored = np.array([status is Status.OK for _, status, _ in rows])
    for index, track in enumerate(manifest.tracks):
        assert np.array_equal(truth.predicted[track][scored], values["log2fc"][scored, index])
        assert np.isnan(truth.predicted[track][~scored]).all()
        expected = np.corrcoef(truth.effects[track][scored], values["log2fc"][scored, index])[0, 1]
        assert correlate(truth.effects[track][scored], truth.predicted[track][scored]) == pytest.approx(expected)
        assert expected > 0.8


def test_columns_may_name_a_track_after_a_colon_and_may_be_missing(make_scores):
    scores_dir, truth_path, *_ = make_scores(30, tracks=("a", "b"))
    edit_truth(
        truth_path, lambda lines: [lines[0].replace("log2fc_a", "log2fc:a").replace("log2fc_b", "x"), *lines[1:]]
    )
    truth = read_truth(truth_path, scores_dir, read_manifest(scores_dir))
    assert list(truth.effects) == ["a"]


def test_a_part_of_the_variants_is_enough(make_scores):
    scores_dir, truth_path, *_ = make_scores(90)
    edit_truth(truth_path, lambda lines: lines[:31])
    truth = read_truth(truth_path, scores_dir, read_manifest(scores_dir))
    assert len(truth.keys) == 30


def set_cell(row, column, value):
    def change(lines):
        cells = lines[row].split("\t")
        cells[column] = value
        return [*lines[:row], "\t".join(cells), *lines[row + 1 :]]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [lines[0].replace("class", "kind"), *lines[1:]], "no column 'class'"),
        (lambda lines: [*lines, lines[-1]], "stands there twice"),
        (set_cell(3, 0, "5000"), "record_index 5000, allele_index 0 is not in"),
        (set_cell(3, 3, "1"), "record_index 2 lies at 1, but at"),
        (set_cell(3, 0, "two"), "not a readable tab-separated table"),
        (set_cell(3, 0, ""), "1 rows have no 'record_index'"),
        (set_cell(3, 7, "much"), "wanted numbers"),
        (lambda lines: [lines[0], "1\t2"], "not a readable tab-separated table"),
    ],
)
def test_a_table_of_something_else_is_refused(make_scores, change, said):
    scores_dir, truth_path, *_ = make_scores(30)
    edit_truth(truth_path, change)
    with pytest.raises(InputError, match=said):
        read_truth(truth_path, scores_dir, read_manifest(scores_dir))


def test_a_missing_table_is_named(make_scores, tmp_path):
    scores_dir, *_ = make_scores(30)
    with pytest.raises(InputError, match=r"none\.tsv: no such file"):
        read_truth(tmp_path / "none.tsv", scores_dir, read_manifest(scores_dir))


def test_a_correlation_needs_two_values_that_differ():
    assert correlate(np.array([1.0]), np.array([2.0])) is None
    assert correlate(np.array([1.0, 2.0]), np.array([3.0, 3.0])) is None
    assert correlate(np.array([1.0, 2.0]), np.array([3.0, 2.0])) == pytest.approx(-1)
