import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cisray.errors import InputError
from cisray.genome.variants import Variant
from cisray.scoring.alleles import Flag, Status
from cisray.scoring.schema import (
    Manifest,
    build_table,
    iter_blocks,
    read_manifest,
    read_scores,
    score_values,
    table_schema,
    verify,
    write_manifest,
    write_rows,
)

IN_ORDER = [range(4), range(4, 7)]
ALTS = ["C", "A", "*", "G", ".", "<DEL>", "G"]


def test_rows_in_are_rows_out_verbatim(make_scores, rows):
    table = read_scores(make_scores(*IN_ORDER))
    verbatim = zip(*(table[name].to_pylist() for name in ("chrom", "pos", "id", "ref", "alt")), strict=True)
    assert list(verbatim) == [variant[2:] for variant, _ in rows]
    assert table["record_index"].to_pylist() == [0, 1, 1, 1, 2, 3, 4]
    assert table["allele_index"].to_pylist() == [0, 0, 1, 2, 0, 0, 0]
    assert table["status"].to_pylist() == ["OK", "OK", "STAR", "OK", "MISSING_ALT", "SYMBOLIC", "OK"]


def test_rows_without_a_score_are_null_and_never_zero(make_scores):
    table = read_scores(make_scores(*IN_ORDER))
    expected = [[0.0, 0.0], [1.0, -1.0], None, [np.float32(1.2), -1.0], None, None, [4.0, -4.0]]
    assert table["log2fc"].to_pylist() == expected
    assert table["window_start"].to_pylist() == [0, 1, None, 1, None, None, 4]
    assert table["flags"].to_pylist() == [6, 6, 0, 6, 0, 0, 6]
    assert Flag(6) == Flag.INDEL | Flag.HAS_N


def test_other_readers_need_no_cisray(make_scores):
    scores_dir = make_scores(*IN_ORDER)
    frame = pd.read_parquet(scores_dir / "blocks")
    assert frame["alt"].tolist() == ALTS
    assert frame["log2fc"][6].tolist() == [4.0, -4.0]
    assert frame["log2fc"].isna().tolist() == [False, False, True, False, True, True, False]
    field = pq.read_schema(scores_dir / "blocks" / "0.parquet").field("log2fc")
    assert field.metadata[b"tracks"] == b"liver\theart"
    assert field.metadata[b"shape"] == b"[2]"


def test_score_values_gives_the_scored_rows(make_scores):
    table = read_scores(make_scores(*IN_ORDER), columns=["log2fc"])
    for part, scored_rows in ((table, [0, 1, 3, 6]), (table.slice(2, 3), [1]), (table.slice(4, 2), [])):
        values, scored = score_values(part, "log2fc")
        assert values.dtype == np.float32
        assert values.shape == (len(scored_rows), 2)
        assert np.flatnonzero(scored).tolist() == scored_rows
    assert score_values(table.slice(2, 3), "log2fc")[0].tolist() == [[np.float32(1.2), -1.0]]


def test_sites_may_have_more_than_255_alternates():
    rows = [Variant(2**32 - 1, allele, "1", 2**31 - 1, ".", "A", "C" * (allele + 1)) for allele in range(300)]
    table = build_table(rows, [Status.TOO_LONG] * 300, flags=[], window_starts=[], values={}, tracks=["t"])
    assert table["allele_index"].to_pylist() == list(range(300))
    assert table["record_index"][0].as_py() == 2**32 - 1


def test_equal_rows_give_equal_bytes(make_scores):
    first = make_scores(*IN_ORDER)
    contents = {path.name: path.read_bytes() for path in first.rglob("*.*")}
    shutil.rmtree(first)
    again = make_scores(*IN_ORDER)
    assert {path.name: path.read_bytes() for path in again.rglob("*.*")} == contents
    assert set(contents) == {"0.parquet", "1.parquet", "manifest.json"}


def test_blocks_come_in_input_order_whatever_their_names(make_scores):
    scores_dir = make_scores(range(4, 7), range(4))
    assert [table.num_rows for table in iter_blocks(scores_dir)] == [4, 3]
    assert read_scores(scores_dir, columns=["alt"])["alt"].to_pylist() == ALTS


@pytest.mark.parametrize("cuts", [([0, 4, 6], [1, 2, 3, 5]), ([0, 1], [2, 3, 4, 5, 6]), ([1, 3], [0, 2, 4], [5], [6])])
def test_blocks_that_interleave_are_merged_and_no_record_is_cut(make_scores, cuts):
    scores_dir = make_scores(*cuts)
    assert read_scores(scores_dir, columns=["alt"])["alt"].to_pylist() == ALTS
    assert read_scores(scores_dir, columns=["alt"]).column_names == ["alt"]
    ends = [table["record_index"].to_pylist() for table in iter_blocks(scores_dir)]
    assert not any(set(one) & set(other) for one in ends for other in ends if one is not other)


def test_a_table_without_rows_can_be_read(make_scores):
    scores_dir = make_scores()
    verify(scores_dir)
    assert read_scores(scores_dir).schema.equals(table_schema(["log2fc", "l2_log2"], ["liver", "heart"]))
    assert read_scores(scores_dir, columns=["pos"]).num_rows == 0


def test_the_manifest_survives_json(make_scores):
    scores_dir = make_scores(*IN_ORDER)
    manifest = read_manifest(scores_dir)
    assert Manifest.from_dict(json.loads(json.dumps(manifest.to_dict())), source=scores_dir) == manifest
    assert manifest.counts == {Status.OK: 4, Status.STAR: 1, Status.MISSING_ALT: 1, Status.SYMBOLIC: 1}
    assert [(block.rows, block.first, block.last) for block in manifest.blocks] == [(4, 0, 1), (3, 2, 4)]
    written = json.loads((scores_dir / "manifest.json").read_text())
    assert written["schema_version"] == 1
    assert written["scores"] == {"log2fc": "log2(1 + a) - log2(1 + r)", "l2_log2": "norm2"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema version 2, but this cisray reads version 1"),
        ({"colour": "red"}, "not a valid score manifest: colour"),
        ({"rows": 8}, "rows=8, but blocks hold 7 and the counts per status 7"),
        ({"noise_floor": {"log2fc": 0.0}}, "noise floor of"),
        ({"window_policy": "left"}, "not a valid score manifest: window_policy"),
    ],
)
def test_a_wrong_manifest_is_told_with_its_file(make_scores, changes, message):
    path = make_scores(*IN_ORDER) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=rf"manifest\.json: .*{message}"):
        read_manifest(path.parent)


def test_a_block_lies_in_the_folder(make_scores):
    path = make_scores(*IN_ORDER) / "manifest.json"
    path.write_text(path.read_text().replace("0.parquet", "../0.parquet"))
    with pytest.raises(InputError, match="wanted a plain file name"):
        read_manifest(path.parent)


def test_a_folder_without_manifest_is_no_score_table(tmp_path):
    with pytest.raises(InputError, match=r"no manifest\.json in it"):
        read_scores(tmp_path)


def test_an_unknown_column_is_told(make_scores):
    with pytest.raises(InputError, match="no column 'qual'; it has chrom, pos"):
        read_scores(make_scores(*IN_ORDER), columns=["qual"])


def test_verify_passes_what_was_written(make_scores):
    verify(make_scores(*IN_ORDER))


def test_verify_names_the_file_that_differs(make_scores, rows):
    scores_dir = make_scores(*IN_ORDER)
    block = scores_dir / "blocks" / "1.parquet"
    good = block.read_bytes()

    block.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    with pytest.raises(InputError, match=r"1\.parquet: its checksum"):
        verify(scores_dir)
    block.unlink()
    with pytest.raises(InputError, match=r"1\.parquet: listed in manifest\.json but missing"):
        verify(scores_dir)
    block.write_bytes(good)
    (scores_dir / "blocks" / "2.parquet").write_bytes(good)
    with pytest.raises(InputError, match=r"2\.parquet: not listed"):
        verify(scores_dir)


def test_verify_counts_rows_and_compares_tracks(make_scores):
    scores_dir = make_scores(*IN_ORDER)
    manifest = json.loads((scores_dir / "manifest.json").read_text())
    swapped = manifest | {"tracks": ["heart", "liver"]}
    write_manifest(scores_dir, Manifest.from_dict(swapped, source=scores_dir))
    with pytest.raises(InputError, match=r"0\.parquet: its columns or tracks"):
        verify(scores_dir)
    manifest["blocks"][0]["rows"] = 3
    manifest["blocks"][1]["rows"] = 4
    write_manifest(scores_dir, Manifest.from_dict(manifest, source=scores_dir))
    with pytest.raises(InputError, match=r"0\.parquet: 4 rows, but manifest\.json says 3"):
        verify(scores_dir)


def test_an_empty_block_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"block 0\.parquet has no rows"):
        write_rows(table_schema([], []).empty_table(), tmp_path / "0.parquet")


def test_a_tab_in_a_track_name_is_refused():
    with pytest.raises(InputError, match="has a tab in its name"):
        table_schema(["log2fc"], ["liver", "a\tb"])


ONE = Variant(5, 0, "1", 3, ".", "A", "C")
GOOD = {"flags": [Flag(0)], "window_starts": [-1], "values": {"log2fc": np.ones((1, 2), np.float32)}}


@pytest.mark.parametrize(
    ("rows", "statuses", "changes", "message"),
    [
        ([ONE], [], {}, "1 rows and 0 statuses"),
        ([ONE], [Status.STAR], {}, "0 rows are OK, but 1 have flags and 1 a window"),
        ([ONE], [Status.OK], {"flags": []}, "1 rows are OK, but 0 have flags"),
        (
            [ONE],
            [Status.OK],
            {"values": {"log2fc": np.ones((1, 3))}},
            r"log2fc is \(1, 3\) for 1 OK rows and 2 tracks",
        ),
        ([ONE], [Status.OK], {"values": {"log2fc": np.array([[1, np.nan]])}}, "not finite"),
        ([ONE, ONE], [Status.OK, Status.STAR], {}, "not in input order"),
    ],
)
def test_build_table_refuses_what_does_not_fit(rows, statuses, changes, message):
    with pytest.raises(InputError, match=message):
        build_table(rows, statuses, **GOOD | changes, tracks=["a", "b"])


def test_build_table_fits_the_schema():
    table = build_table([ONE], [Status.OK], **GOOD, tracks=["a", "b"])
    assert table.schema.equals(table_schema(["log2fc"], ["a", "b"]), check_metadata=True)
    assert table.validate(full=True) is None
    assert table["window_start"].to_pylist() == [-1]
    assert table.schema.field("log2fc").type == pa.list_(pa.float32())
