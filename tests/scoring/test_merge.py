from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cisray.genome.variants import Variant
from cisray.scoring import merge, schema
from cisray.scoring.alleles import Status
from cisray.scoring.merge import in_input_order
from cisray.scoring.schema import iter_blocks, read_scores


def make_rows(records, rng):
    """Draw 1 to 3 alleles for each record, with a list, a text and a null here and there."""
    keys = [(record, allele) for record in records for allele in range(1 + record % 3)]
    values = [None if record % 5 == 0 else rng.normal(size=4).astype(np.float32).tolist() for record, _ in keys]
    texts = [None if record % 7 == 0 else f"r{record}" for record, _ in keys]
    return pa.table(
        {
            "record_index": pa.array([record for record, _ in keys], pa.uint32()),
            "allele_index": pa.array([allele for _, allele in keys], pa.uint16()),
            "values": pa.array(values, pa.list_(pa.float32())),
            "text": pa.array(texts, pa.string()),
        }
    )


@settings(max_examples=30, deadline=None)
@given(
    num_records=st.integers(1, 120), num_blocks=st.integers(1, 9), seed=st.integers(0, 99), most=st.integers(100, 9000)
)
def test_rows_dealt_out_to_blocks_come_back_in_order(num_records, num_blocks, seed, most):
    rng = np.random.default_rng(seed)
    whole = make_rows(range(3, num_records + 3), rng)
    block_of = rng.integers(num_blocks, size=num_records)[whole["record_index"].to_numpy() - 3]
    parts = [whole.filter(pa.array(block_of == number)) for number in range(num_blocks)]
    parts = [part for part in parts if len(part)]
    limits = {"num_rows": len(whole), "first": 3, "last": num_records + 2, "most_bytes": most}
    merged = list(in_input_order(iter(parts), **limits))
    assert pa.concat_tables(merged).equals(whole)
    ends = [set(table["record_index"].to_pylist()) for table in merged]
    assert sum(map(len, ends)) == len(set().union(*ends))


def test_memory_is_bounded_and_no_file_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(merge.tempfile, "tempdir", str(tmp_path))
    rng = np.random.default_rng(0)
    whole = make_rows(range(6000), rng)
    order = rng.permutation(60)
    parts = [whole.filter(pa.array(whole["record_index"].to_numpy() % 60 == rest)) for rest in order]
    most = whole.nbytes // 10
    limits = {"num_rows": len(whole), "first": 0, "last": 5999, "most_bytes": most}
    held = [table.nbytes for table in in_input_order(iter(parts), **limits)]
    assert max(held) < most
    assert len(held) >= 10
    assert list(tmp_path.iterdir()) == []
    unfinished = in_input_order(iter(parts), **limits)
    next(unfinished)
    assert len(list(tmp_path.iterdir())) == 1
    unfinished.close()
    assert list(tmp_path.iterdir()) == []


def test_nothing_gives_nothing():
    assert list(in_input_order(iter([]), num_rows=0, first=0, last=0)) == []


@pytest.mark.parametrize("most_bytes", [1 << 27, 2000])
def test_a_table_of_interleaved_blocks_is_read_in_input_order(make_scores, monkeypatch, most_bytes):
    """Blocks by genomic place of a file whose records lie in any order."""
    monkeypatch.setattr(schema, "in_input_order", partial(in_input_order, most_bytes=most_bytes))
    rng = np.random.default_rng(1)
    places = (
        rng.permutation(
            1,
        )
        if False
        else rng.permutation(400)
    )
    rows = [
        (Variant(index, 0, "1", int(pos) + 1, f"rs{index}", "A", "C"), Status.STAR if pos % 9 == 0 else Status.OK)
        for index, pos in enumerate(places)
    ]
    by_place = np.argsort(places)
    cuts = [sorted(by_place[start : start + 50].tolist()) for start in range(0, 400, 50)]
    scores_dir = make_scores(*cuts, rows=rows)
    table = read_scores(scores_dir)
    assert table["record_index"].to_pylist() == list(range(400))
    assert table["pos"].to_pylist() == (places + 1).tolist()
    assert table["log2fc"].to_pylist() == [
        None if status is Status.STAR else [variant.record_index, -variant.record_index] for variant, status in rows
    ]
    assert (len(list(iter_blocks(scores_dir))) > 10) == (most_bytes == 2000)
