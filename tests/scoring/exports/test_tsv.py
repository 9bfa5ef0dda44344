import csv

import pytest

from cisray.errors import InputError
from cisray.scoring.alleles import Status
from cisray.scoring.exports.tsv import write_kipoi_tsv, write_tsv
from cisray.scoring.manifest import ModelSource, Storage

IN_ORDER = [range(4), range(4, 7)]


def read_rows(path):
    with path.open() as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def test_tsv_has_a_row_per_allele_and_a_column_per_value(make_scores, tmp_path):
    write_tsv(make_scores(*IN_ORDER, quantiles=("log2fc",)), tmp_path / "out.tsv")
    rows = read_rows(tmp_path / "out.tsv")
    assert list(rows[0])[:5] == ["chrom", "pos", "id", "ref", "alt"]
    assert list(rows[0])[-4:] == ["l2_log2:liver", "l2_log2:heart", "log2fc.quantile:liver", "log2fc.quantile:heart"]
    assert [row["alt"] for row in rows] == ["C", "A", "*", "G", ".", "<DEL>", "G"]
    assert [row["log2fc:liver"] for row in rows] == ["0", "1", "", "1.2", "", "", "4"]
    assert [row["window_start"] for row in rows] == ["0", "1", "", "1", "", "", "4"]
    assert [row["norm_ref"] for row in rows] == ["A", "AT", "", "AT", "", "", "T"]
    assert (tmp_path / "out.tsv").read_text().startswith("chrom\tpos")


def test_a_summary_can_be_written(make_scores, tmp_path):
    write_tsv(make_scores(*IN_ORDER, storage=Storage(values="summary")), tmp_path / "out.tsv")
    assert [row["log2fc_top_value"] for row in read_rows(tmp_path / "out.tsv")] == ["0", "1", "", "1.2", "", "", "4"]


def test_tsv_has_no_quotes_and_keeps_its_columns(make_scores, tmp_path):
    records = [("1", 3, 'rs"1', "A", ("C",), (Status.OK,))]
    write_tsv(make_scores([0], records=records, tracks=("CAGE:adrenal gland", 'a"b')), tmp_path / "out.tsv")
    header, row = (line.split("\t") for line in (tmp_path / "out.tsv").read_text().splitlines())
    assert header[-4:-2] == ["log2fc:CAGE:adrenal gland", "log2fc:a%22b"]
    assert row[:5] == ["1", "3", "rs%221", "A", "C"]
    assert len(row) == len(header)


def test_tsv_of_no_rows_has_a_header(make_scores, tmp_path):
    write_tsv(make_scores(), tmp_path / "out.tsv")
    assert (tmp_path / "out.tsv").read_text().count("\n") == 1


def test_the_form_of_kipoi(make_scores, tmp_path):
    model = ModelSource(uri="runs/{yeast}", digest="1")
    write_kipoi_tsv(make_scores(*IN_ORDER, model=model), tmp_path / "out.tsv")
    rows = read_rows(tmp_path / "out.tsv")
    assert list(rows[0]) == [
        *("#CHROM", "POS", "ID", "REF", "ALT"),
        *("{yeast}/liver/log2fc", "{yeast}/heart/log2fc", "{yeast}/liver/l2_log2", "{yeast}/heart/l2_log2"),
    ]
    assert list(rows[3].values()) == ["1", "100", ".", "AT", "G", "1.2", "-1", "1.44", "1"]
    assert list(rows[2].values()) == ["1", "100", ".", "AT", "*", "", "", "", ""]
    with pytest.raises(InputError, match="no values per track of 'log2fc'"):
        write_kipoi_tsv(make_scores(*IN_ORDER, storage=Storage(values="summary")), tmp_path / "out.tsv")
