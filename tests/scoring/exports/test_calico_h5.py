import h5py
import numpy as np
import pytest

from cisray.errors import InputError
from cisray.scoring import schema
from cisray.scoring.effects import SCORES
from cisray.scoring.exports.calico_h5 import CALICO_NAMES, calico_name, write_calico_h5
from cisray.scoring.manifest import Storage
from cisray.scoring.schema import read_scores

IN_ORDER = [range(4), range(4, 7)]


@pytest.mark.parametrize("slice_values", [1 << 18, 1])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_notebook_finds_what_sad_h5_has(make_scores, tmp_path, monkeypatch, slice_values, dtype):
    monkeypatch.setattr(schema, "SLICE_VALUES", slice_values)
    scores_dir = make_scores(*IN_ORDER, storage=Storage(dtype=dtype))
    write_calico_h5(scores_dir, tmp_path / "sad.h5", labels={"liver": "CAGE:liver"})
    rows = read_scores(scores_dir).to_pylist()
    with h5py.File(tmp_path / "sad.h5") as file:
        assert set(file) == {
            *("snp", "chr", "pos", "ref_allele", "alt_allele", "target_ids", "target_labels", "status"),
            *("logSED", "logD2"),
        }
        for name, column in (("snp", "id"), ("chr", "chrom"), ("ref_allele", "ref"), ("alt_allele", "alt")):
            assert [text.decode() for text in file[name]] == [row[column] for row in rows]
        assert file["pos"][:].tolist() == [row["pos"] for row in rows]
        assert [text.decode() for text in file["target_ids"]] == ["liver", "heart"]
        assert [text.decode() for text in file["target_labels"]] == ["CAGE:liver", "heart"]
        for name, score in (("logSED", "log2fc"), ("logD2", "l2_log2")):
            assert file[name].shape == (7, 2)
            assert file[name].dtype == dtype
            assert file[name].attrs["cisray_score"] == score
            expected = [row[score] or [np.nan, np.nan] for row in rows]
            assert np.array_equal(file[name][:], np.array(expected, dtype), equal_nan=True)


def test_a_summary_has_no_such_form(make_scores, tmp_path):
    with pytest.raises(InputError, match="no values per track of 'log2fc'"):
        write_calico_h5(make_scores(*IN_ORDER, storage=Storage(values="summary")), tmp_path / "sad.h5")
    assert not list(tmp_path.glob("*sad*"))


def test_names_that_calico_has():
    assert [calico_name(score) for score in ("delta_sum", "log2fc", "jsd", "mine")] == ["SAD", "logSED", "jsd", "mine"]
    assert [calico_name(score) for score in ("max_gain", "delta_mean", "l2")] == ["max_gain", "delta_mean", "D2"]
    assert {calico_name(score) for score in SCORES} >= set(CALICO_NAMES)


def test_a_table_without_rows_gives_empty_datasets(make_scores, tmp_path):
    write_calico_h5(make_scores(), tmp_path / "sad.h5")
    with h5py.File(tmp_path / "sad.h5") as file:
        assert file["logSED"].shape == (0, 2)
