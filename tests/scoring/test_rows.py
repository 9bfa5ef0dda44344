import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cisray.errors import InputError
from cisray.genome.variants import Variant
from cisray.scoring.alleles import Flag, Status
from cisray.scoring.manifest import Storage, read_manifest
from cisray.scoring.nulls import AgainstNull, NullSpec
from cisray.scoring.rows import (
    ScoredRows,
    build_gene_rows,
    build_rows,
    count_underflows,
    gene_schema,
    score_values,
    table_schema,
    variants_table,
    write_rows,
)
from cisray.scoring.schema import read_scores, verify

IN_ORDER = [range(4), range(4, 7)]
SUMMARY = Storage(values="summary")


def test_an_empty_block_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"block 0\.parquet has no rows"):
        write_rows(table_schema([], []).empty_table(), tmp_path / "0.parquet")


def test_a_tab_in_a_track_name_is_refused():
    with pytest.raises(InputError, match="has a tab in its name"):
        table_schema(["log2fc"], ["liver", "a\tb"])


def test_score_values_gives_the_scored_rows(make_scores):
    table = read_scores(make_scores(*IN_ORDER), columns=["log2fc"])
    for part, scored_rows in ((table, [0, 1, 3, 6]), (table.slice(2, 3), [1]), (table.slice(4, 2), [])):
        values, scored = score_values(part, "log2fc")
        assert values.dtype == np.float32
        assert values.shape == (len(scored_rows), 2)
        assert np.flatnonzero(scored).tolist() == scored_rows
    assert score_values(table.slice(2, 3), "log2fc")[0].tolist() == [[np.float32(1.2), -1.0]]


ONE = Variant(5, 0, "1", 3, ".", "A", "C")


def scored_one(**changes):
    fields = {
        "rows": np.array([0]),
        "norm_pos": np.array([3]),
        "norm_ref": ["A"],
        "norm_alt": ["C"],
        "flags": np.array([8]),
        "window_start": np.array([-1]),
        "center_offset": np.array([-4]),
        "n_passes": np.array([6]),
        "values": {"log2fc": np.ones((1, 2), np.float32)},
    }
    return ScoredRows(**fields | changes)


@pytest.mark.parametrize(
    ("rows", "statuses", "changes", "message"),
    [
        ([ONE], [], {}, "1 rows and 0 statuses"),
        ([ONE], [Status.STAR], {}, "1 rows were scored and 0 have a status of scored rows"),
        ([ONE], [Status.OK], {"rows": np.array([1])}, "these are not the same ones in order"),
        ([ONE], [Status.OK], {"flags": np.array([], int)}, "flags: 0 for 1 scored rows"),
        ([ONE], [Status.OK], {"norm_alt": ["C", "C"]}, "norm_alt: 2 for 1 scored rows"),
        (
            [ONE],
            [Status.OK],
            {"values": {"log2fc": np.ones((1, 3))}},
            r"log2fc is \(1, 3\) for 1 scored rows and 2 tracks",
        ),
        ([ONE], [Status.OK], {"values": {"log2fc": np.array([[1, np.nan]])}}, "log2fc has values that are not finite"),
        (
            [ONE],
            [Status.OK],
            {"quantiles": {"log2fc": np.array([[1, np.inf]])}},
            r"log2fc\.quantile has values that are not finite",
        ),
        (
            [ONE],
            [Status.OK],
            {"nulls": {"log2fc": AgainstNull(np.array([[1, np.nan]]), np.ones((1, 2)))}},
            r"log2fc\.z_null has values that are not finite",
        ),
        ([ONE, ONE], [Status.OK, Status.STAR], {}, "not in input order"),
    ],
)
def test_build_rows_refuses_what_does_not_fit(rows, statuses, changes, message):
    with pytest.raises(InputError, match=message):
        build_rows(variants_table(rows), statuses, scored_one(**changes), tracks=["a", "b"])


def test_a_row_says_what_the_model_saw():
    table = build_rows(variants_table([ONE]), [Status.REF_FLIPPED], scored_one(), tracks=["a", "b"])
    assert table.schema.equals(table_schema(["log2fc"], ["a", "b"]), check_metadata=True)
    assert table.validate(full=True) is None
    (row,) = table.to_pylist()
    assert [row[name] for name in ("norm_pos", "norm_ref", "norm_alt")] == [3, "A", "C"]
    assert [row[name] for name in ("window_start", "center_offset", "n_passes")] == [-1, -4, 6]
    assert (row["status"], row["flags"]) == ("REF_FLIPPED", Flag.OFF_CENTRE)
    assert table["log2fc"].type == pa.list_(pa.float32())


def test_what_a_null_says_stands_beside_its_score(make_scores):
    scores_dir = make_scores(*IN_ORDER, nulls=("log2fc",), quantiles=("l2_log2",), null=NullSpec(number=3))
    verify(scores_dir)
    table = read_scores(scores_dir)
    assert table.column_names[-5:] == ["log2fc", "l2_log2", "l2_log2.quantile", "log2fc.z_null", "log2fc.p_null"]
    values, scored = score_values(table, "log2fc")
    np.testing.assert_allclose(score_values(table, "log2fc.z_null")[0], 10 * values)
    assert (score_values(table, "log2fc.p_null")[0] == 0.25).all()
    assert (score_values(table, "log2fc.p_null")[1] == scored).all()
    assert read_manifest(scores_dir).null == NullSpec(number=3)


def test_a_row_without_scores_has_nulls(make_scores):
    row = read_scores(make_scores(*IN_ORDER, quantiles=("l2_log2",))).to_pylist()[2]
    assert row["status"] == "STAR"
    names = [name for name, value in row.items() if value is None]
    what_was_seen = ["norm_pos", "norm_ref", "norm_alt", "window_start", "center_offset", "n_passes"]
    assert names == [*what_was_seen, "log2fc", "l2_log2", "l2_log2.quantile"]


def test_a_summary_names_the_track_that_moves_most():
    values = {"log2fc": np.array([[1, -3, 2], [0, 0, 0]], np.float32)}
    rows = [ONE, ONE._replace(record_index=6), ONE._replace(record_index=7)]
    found = scored_one(rows=np.array([0, 2]), values=values)
    for name in ("norm_pos", "flags", "window_start", "center_offset", "n_passes"):
        object.__setattr__(found, name, np.repeat(getattr(found, name), 2))
    object.__setattr__(found, "norm_ref", ["A", "A"])
    object.__setattr__(found, "norm_alt", ["C", "C"])
    statuses = [Status.OK, Status.STAR, Status.OK]
    table = build_rows(variants_table(rows), statuses, found, tracks=["a", "b", "c"], storage=SUMMARY)
    assert table["log2fc_top_track"].to_pylist() == [1, None, 0]
    assert table["log2fc_top_value"].to_pylist() == [-3, None, 0]
    assert "log2fc" not in table.column_names
    with pytest.raises(InputError, match="no values per track of 'log2fc'"):
        score_values(table, "log2fc")
    named = Storage(values="summary", tracks=("c", "a"))
    table = build_rows(variants_table(rows), statuses, found, tracks=["a", "b", "c"], storage=named)
    assert table["log2fc"].to_pylist() == [[2, 1], None, [0, 0]]
    assert table["log2fc_top_track"].to_pylist() == [1, None, 0]
    assert table.schema.field("log2fc").metadata[b"tracks"] == b"c\ta"


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 6), st.just(3)), elements=st.floats(-100, 100, width=32)),
    st.data(),
)
def test_values_come_back_at_their_rows(tmp_path_factory, values, data):
    num_rows = len(values) + data.draw(st.integers(0 if len(values) else 1, 4))
    places = np.array(sorted(data.draw(st.permutations(range(num_rows)))[: len(values)]), np.int64)
    statuses = [Status.OK if row in places else Status.TOO_LONG for row in range(num_rows)]
    some = dict.fromkeys(("norm_pos", "flags", "window_start", "center_offset", "n_passes"), np.ones(len(values), int))
    letters = ["A"] * len(values)
    found = ScoredRows(rows=places, norm_ref=letters, norm_alt=letters, values={"s": values}, **some)
    rows = [ONE._replace(record_index=row) for row in range(num_rows)]
    for dtype, rounded in (("float32", values), ("float16", values.astype(np.float16))):
        storage = Storage(dtype=dtype)
        table = build_rows(variants_table(rows), statuses, found, tracks=["a", "b", "c"], storage=storage)
        path = tmp_path_factory.getbasetemp() / "0.parquet"
        write_rows(table, path)
        again = pq.ParquetFile(path).read()
        assert again.equals(table)
        assert again.schema.field("s").type == table_schema(["s"], ["a", "b", "c"], storage=storage).field("s").type
        read, scored = score_values(again, "s")
        assert read.dtype == np.float32
        assert np.array_equal(read, rounded.astype(np.float32))
        assert np.array_equal(np.flatnonzero(scored), places)


def test_float16_refuses_what_it_cannot_hold_and_counts_what_it_loses():
    half = Storage(dtype="float16")
    large = scored_one(values={"log2fc": np.array([[65504, -65600]], np.float32)})
    with pytest.raises(InputError, match="1 of 2 values of log2fc are beyond 65504"):
        build_rows(variants_table([ONE]), [Status.OK], large, tracks=["a", "b"], storage=half)
    values = {"one": np.array([[1e-9, 0.0, 1e-3]], np.float32), "two": np.array([[0.5]], np.float32)}
    values["two"] = np.array([[0.5, 0.0, 0.0]], np.float32)
    assert count_underflows(values, "abc", half) == {"one": 1}
    assert count_underflows(values, "abc", Storage()) == {}
    assert count_underflows(values, "abc", Storage(values="summary", dtype="float16")) == {}
    assert count_underflows(values, "abc", Storage(values="summary", tracks=("c",), dtype="float16")) == {}


def test_ranks_are_never_rounded_to_one():
    schema = table_schema(["s"], ["a"], storage=Storage(dtype="float16"), quantiles=["s"], nulls=["s"])
    types = {name: schema.field(name).type.value_type for name in ("s", "s.quantile", "s.z_null", "s.p_null")}
    assert types == {"s": pa.float16(), "s.quantile": pa.float32(), "s.z_null": pa.float32(), "s.p_null": pa.float32()}


def make_genes(**changes):
    columns = {
        "record_index": [5, 5, 6],
        "allele_index": [0, 0, 1],
        "gene_id": ["g1", "g2", "g1"],
        "gene_name": ["A", None, "A"],
        "gene_strand": ["+", "-", "+"],
        "tss_distance": [-10, None, 2000],
    }
    return pa.table(columns | changes)


def test_rows_of_genes_fit_their_schema():
    values = {"gene_log2fc": np.arange(6, dtype=np.float32).reshape(3, 2)}
    table = build_gene_rows(make_genes(), values, tracks=["a", "b"])
    assert table.schema.equals(gene_schema(["gene_log2fc"], ["a", "b"]), check_metadata=True)
    assert table["gene_log2fc"].to_pylist() == [[0, 1], [2, 3], [4, 5]]
    assert table["tss_distance"].to_pylist() == [-10, None, 2000]
    summary = build_gene_rows(make_genes(), values, tracks=["a", "b"], storage=SUMMARY)
    assert summary["gene_log2fc_top_value"].to_pylist() == [1, 3, 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"record_index": [5, 7, 6]}, "not in input order"),
        ({"gene_id": ["g1", "g1", "g1"]}, "record 5 has the gene 'g1' twice"),
    ],
)
def test_rows_of_genes_are_in_order_and_each_once(changes, message):
    values = {"gene_log2fc": np.zeros((3, 2), np.float32)}
    with pytest.raises(InputError, match=message):
        build_gene_rows(make_genes(**changes), values, tracks=["a", "b"])


def test_many_rows_are_made_without_a_loop():
    num_rows, rng = 100_000, np.random.default_rng(0)
    numbers = pa.array(np.arange(num_rows))
    letters = pa.array(["A"] * num_rows)
    columns = {"record_index": numbers, "allele_index": pa.array(np.zeros(num_rows, np.uint16)), "contig": letters}
    variants = pa.table(columns | {"pos": numbers, "id": letters, "ref": letters, "alt": letters})
    zeros = np.zeros(num_rows, np.int64)
    found = ScoredRows(
        rows=np.arange(num_rows),
        norm_ref=["A"] * num_rows,
        norm_alt=["C"] * num_rows,
        values={name: rng.normal(size=(num_rows, 6)).astype(np.float32) for name in "xyz"},
        **dict.fromkeys(("norm_pos", "flags", "window_start", "center_offset", "n_passes"), zeros),
    )
    started = time.process_time()
    build_rows(variants, [Status.OK] * num_rows, found, tracks=list("abcdef"))
    assert time.process_time() - started < 1
