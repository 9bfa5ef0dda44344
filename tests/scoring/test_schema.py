import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cisray.errors import InputError
from cisray.scoring import schema
from cisray.scoring.alleles import Flag
from cisray.scoring.manifest import Manifest, Storage, write_manifest
from cisray.scoring.rows import table_schema
from cisray.scoring.schema import iter_blocks, iter_slices, read_genes, read_scores, verify

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


GENES = [
    (0, 0, "ENSG1", "A", "+", -1000),
    (1, 0, "ENSG1", "A", "+", 10),
    (1, 0, "ENSG22", None, "-", None),
    (1, 2, "ENSG1", "A", "+", 10),
    (4, 0, "ENSG333", "C", "-", 5),
]


@pytest.mark.parametrize("cuts", [IN_ORDER, [[4, 5], [0, 1, 2, 3, 6]], [[0, 6], [1, 2, 3], [4, 5]]])
def test_rows_of_genes_come_in_input_order(make_scores, cuts):
    scores_dir = make_scores(*cuts, genes=GENES)
    verify(scores_dir)
    table = read_genes(scores_dir)
    names = ["record_index", "allele_index", "gene_id", "gene_name", "gene_strand", "tss_distance"]
    assert [tuple(row[name] for name in names) for row in table.to_pylist()] == GENES
    expected = [[gene[0] + len(gene[2]) / 100, -gene[0] - len(gene[2]) / 100] for gene in GENES]
    np.testing.assert_allclose(table["gene_log2fc"].to_pylist(), expected, rtol=1e-6)
    assert read_genes(scores_dir, ["gene_id"])["gene_id"].to_pylist() == [gene[2] for gene in GENES]
    with pytest.raises(InputError, match="no column 'log2fc'; it has record_index, allele_index, gene_id"):
        read_genes(scores_dir, ["log2fc"])


def test_a_table_without_genes_has_no_rows_of_them(make_scores):
    assert read_genes(make_scores(*IN_ORDER)).num_rows == 0


def test_files_of_genes_are_verified_too(make_scores):
    scores_dir = make_scores(*IN_ORDER, genes=GENES)
    path = scores_dir / "genes" / "1.parquet"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + b"x")
    with pytest.raises(InputError, match=r"genes/1\.parquet: its checksum"):
        verify(scores_dir)
    path.write_bytes(good)
    (path.parent / "2.parquet").write_bytes(good)
    with pytest.raises(InputError, match=r"genes/2\.parquet: not listed"):
        verify(scores_dir)


def test_other_readers_read_float16(make_scores):
    scores_dir = make_scores(*IN_ORDER, storage=Storage(dtype="float16"))
    verify(scores_dir)
    frame = pd.read_parquet(scores_dir / "blocks")
    assert frame["log2fc"][6].dtype == np.float16
    assert frame["log2fc"][6].tolist() == [4.0, -4.0]


def test_slices_hold_every_row_in_order(make_scores, monkeypatch):
    monkeypatch.setattr(schema, "SLICE_VALUES", 45)
    scores_dir = make_scores(*IN_ORDER)
    slices = list(iter_slices(iter_blocks(scores_dir)))
    assert [table.num_rows for table in slices] == [2, 2, 2, 1]
    assert pa.concat_tables(slices).equals(read_scores(scores_dir))
