import numpy as np
import pytest

from cisray.genome.variants import Variant
from cisray.scoring.alleles import Status
from cisray.scoring.forecast import describe_size, describe_work, forecast_size
from cisray.scoring.manifest import Storage
from cisray.scoring.nulls import NO_NULL, NullSpec
from cisray.scoring.rows import ScoredRows, build_rows, variants_table, write_rows
from cisray.scoring.windows import CENTERED, WindowSpec


@pytest.mark.parametrize(
    ("num_tracks", "storage"),
    [
        (200, Storage()),
        (200, Storage(dtype="float16")),
        (200, Storage(values="summary")),
        (200, Storage(values="summary", tracks=("3", "7"))),
        (6, Storage()),
    ],
)
def test_a_table_is_about_as_large_as_forecast(tmp_path, num_tracks, storage):
    num_rows, rng = 2000, np.random.default_rng(0)
    pos = np.cumsum(rng.integers(1, 2000, num_rows))
    alts = rng.choice(list("CGT"), num_rows).tolist()
    rows = [Variant(i, 0, "1", int(p), f"rs{rng.integers(1e9)}", "A", alts[i]) for i, p in enumerate(pos)]
    values = {name: (0.01 * rng.standard_normal((num_rows, num_tracks))).astype(np.float32) for name in "ab"}
    found = ScoredRows(
        rows=np.arange(num_rows),
        norm_pos=pos,
        norm_ref=["A"] * num_rows,
        norm_alt=alts,
        flags=np.zeros(num_rows, int),
        window_start=pos - 1000,
        center_offset=np.zeros(num_rows, int),
        n_passes=np.full(num_rows, 2),
        values=values,
    )
    tracks = [str(number) for number in range(num_tracks)]
    table = build_rows(variants_table(rows), [Status.OK] * num_rows, found, tracks=tracks, storage=storage)
    write_rows(table, tmp_path / "0.parquet")
    assert 0.8 < forecast_size(num_rows, num_tracks, 2, storage) / (tmp_path / "0.parquet").stat().st_size < 1.3


def test_lists_beside_the_scores_are_counted():
    assert forecast_size(1000, 200, 1, Storage(), beside=2) == forecast_size(1000, 200, 3, Storage())
    told = describe_size(1000, 200, 1, Storage(), beside=2)
    assert told.startswith(
        "1,000 rows x 200 tracks x 1 scores and 2 lists beside them in float32: about 2.18 MB (1.82 MB"
    )


def test_the_work_of_a_null_is_told():
    assert describe_work(1000, NO_NULL, CENTERED) == ""
    assert describe_work(1000, NullSpec(number=20), CENTERED) == (
        "each variant is scored 21 times, in its own window and in 20 shuffled ones: 21 times the work, 21,000 scorings"
    )
    on_a_grid = describe_work(1000, NullSpec(number=20), WindowSpec(policy="grid"))
    assert on_a_grid.endswith("shuffled ones: at least 21 times the work, 21,000 scorings")


def test_the_sentence_says_what_would_be_smaller():
    all_of_it = describe_size(1_000_000, 5313, 3, Storage())
    assert all_of_it == (
        "1,000,000 rows x 5,313 tracks x 3 scores in float32: about 57.4 GB (28.7 GB in float16, 42 MB as a summary)"
    )
    half = describe_size(1_000_000, 5313, 3, Storage(dtype="float16"))
    assert half == "1,000,000 rows x 5,313 tracks x 3 scores in float16: about 28.7 GB (42 MB as a summary)"
    summary = describe_size(1000, 5313, 3, Storage(values="summary"))
    assert summary == "1,000 rows with the top track of 3 scores: about 42 kB"
    named = describe_size(1000, 5313, 3, Storage(values="summary", tracks=("a",), dtype="float16"))
    assert named == "1,000 rows x 1 tracks x 3 scores in float16: about 47.4 kB"
    assert describe_size(1, 1, 1, Storage()).endswith("about 28 B (26 B in float16, 30 B as a summary)")
    assert describe_size(10**9, 10**5, 3, Storage()).split("about ")[1].startswith("1.08e+03 TB")
