import numpy as np
import pytest

from cisray.reports.score_summary import GRID, main_score, pick_top, summarise
from cisray.scoring.manifest import read_manifest
from cisray.scoring.rows import score_values
from cisray.scoring.schema import read_scores


def ranked(scores_dir, score):
    """Sort the whole table plainly: largest absolute value first, then input order."""
    table = read_scores(scores_dir)
    values, scored = score_values(table, score)
    rows = [row for row, ok in zip(table.to_pylist(), scored, strict=True) if ok]
    order = sorted(range(len(rows)), key=lambda i: (-np.abs(values[i]).max(), i))
    return [(rows[i], values[i]) for i in order]


@pytest.mark.parametrize("block_rows", [7, 64, 1000])
def test_the_top_is_that_of_a_sort_of_the_whole_table(make_scores, block_rows):
    scores_dir, *_ = make_scores(300, block_rows=block_rows)
    top = summarise(scores_dir, read_manifest(scores_dir), num_top=25).top
    expected = ranked(scores_dir, "log2fc")[:25]
    assert [(one.row["record_index"], one.row["allele_index"]) for one in top] == [
        (row["record_index"], row["allele_index"]) for row, _ in expected
    ]
    for one, (row, values) in zip(top, expected, strict=True):
        assert one.largest == np.abs(values).max()
        assert np.array_equal(one.values, values)
        assert one.row["id"] == row["id"]


def test_a_top_larger_than_the_table_holds_every_scored_row(make_scores):
    scores_dir, *_ = make_scores(40)
    summary = summarise(scores_dir, read_manifest(scores_dir), num_top=1000)
    assert len(summary.top) == summary.num_scored == len(ranked(scores_dir, "log2fc"))


def test_extents_are_those_of_the_whole_table(make_scores):
    scores_dir, *_ = make_scores(300, block_rows=13)
    manifest = read_manifest(scores_dir)
    summary = summarise(scores_dir, manifest, num_top=5)
    for name, one in summary.extents.items():
        values, _ = score_values(read_scores(scores_dir), name)
        assert summary.num_scored == len(values)
        assert np.array_equal(one.lowest, values.min(axis=0))
        assert np.array_equal(one.highest, values.max(axis=0))
        assert np.array_equal(one.raised, (values > 0).sum(axis=0))
        assert np.array_equal(one.lowered, (values < 0).sum(axis=0))
        assert np.array_equal(one.above_noise, (np.abs(values) > manifest.noise_floor[name]).sum(axis=0))
        for track in range(values.shape[1]):
            expected, _ = np.histogram(values[:, track].astype(np.float64), one.edges)
            assert np.abs(one.counts[track] - expected).sum() <= 2  # a value on an edge
            assert one.counts[track].sum() == len(values)


def test_every_row_stands_in_the_picture_at_its_place_and_height(make_scores):
    scores_dir, *_ = make_scores(300, block_rows=50)
    summary = summarise(scores_dir, read_manifest(scores_dir), num_top=5)
    expected = np.zeros(GRID, bool)
    ends = {"1": 0, "2": 0}
    rows = ranked(scores_dir, "log2fc")
    for row, _ in rows:
        ends[row["chrom"]] = max(ends[row["chrom"]], row["pos"])
    total = sum(ends.values())
    for row, values in rows:
        place = row["pos"] - 1 + (ends["1"] if row["chrom"] == "2" else 0)
        height = float(np.abs(values).max()) / float(np.abs(rows[0][1]).max())
        expected[int(place / total * GRID[0]), min(int(height * GRID[1]), GRID[1] - 1)] = True
    assert summary.contig_ends == ends
    assert summary.spans == {"1": (0, ends["1"]), "2": (ends["1"], total)}
    assert np.array_equal(summary.occupied, expected)


def test_a_table_without_scores_has_an_empty_summary(make_scores):
    scores_dir, *_ = make_scores(20, all_bad=True)
    summary = summarise(scores_dir, read_manifest(scores_dir), num_top=5)
    assert (summary.num_scored, summary.top, summary.spans, summary.largest) == (0, [], {}, 0.0)
    assert not summary.occupied.any()


def test_rows_are_ranked_by_log2fc_or_else_by_the_first_score(make_scores):
    scores_dir, *_ = make_scores(20)
    manifest = read_manifest(scores_dir)
    assert main_score(manifest) == "log2fc"
    del manifest.scores["log2fc"]
    assert main_score(manifest) == "delta_sum"


@pytest.mark.parametrize("num_top", [1, 5, 50, 300])
def test_equal_values_are_picked_in_order(num_top):
    values = np.random.default_rng(0).integers(-4, 5, (200, 3)).astype(np.float32)
    largest = np.abs(values).max(axis=1)
    expected = sorted(range(200), key=lambda i: (-largest[i], i))[:num_top]
    assert pick_top(values, num_top).tolist() == expected
