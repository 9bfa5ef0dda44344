import json

import h5py
import numpy as np
import pytest

from cisray.errors import InputError
from cisray.scoring import schema
from cisray.scoring.exports.h5ad import write_h5ad
from cisray.scoring.manifest import Storage
from cisray.scoring.schema import read_scores

IN_ORDER = [range(4), range(4, 7)]


def read_column(thing):
    """Read a column as the description of the format says."""
    kind = thing.attrs["encoding-type"]
    if kind == "array":
        return thing[:].tolist()
    if kind == "string-array":
        return thing.asstr()[:].tolist()
    assert kind in ("nullable-integer", "nullable-string-array")
    values = thing["values"].asstr()[:] if kind == "nullable-string-array" else thing["values"][:]
    return [None if hidden else value for value, hidden in zip(values.tolist(), thing["mask"][:], strict=True)]


def read_frame(frame):
    assert frame.attrs["encoding-type"] == "dataframe"
    names = [frame.attrs["_index"], *frame.attrs["column-order"]]
    return {name: read_column(frame[name]) for name in names}


@pytest.mark.parametrize("slice_values", [1 << 18, 1])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_variants_are_observations_and_tracks_variables(make_scores, tmp_path, monkeypatch, slice_values, dtype):
    monkeypatch.setattr(schema, "SLICE_VALUES", slice_values)
    scores_dir = make_scores(*IN_ORDER, storage=Storage(dtype=dtype), quantiles=("log2fc",))
    write_h5ad(scores_dir, tmp_path / "scores.h5ad")
    table = read_scores(scores_dir)
    with h5py.File(tmp_path / "scores.h5ad") as file:
        assert file.attrs["encoding-type"] == "anndata"
        obs = read_frame(file["obs"])
        assert obs["_index"] == ["0.0", "1.0", "1.1", "1.2", "2.0", "3.0", "4.0"]
        assert obs["variant_id"][5] == "2:7:T><DEL>"
        for name in table.column_names[: table.column_names.index("log2fc")]:
            assert obs[name] == table[name].to_pylist()
        assert read_frame(file["var"]) == {"_index": ["liver", "heart"]}
        assert set(file["layers"]) == {"log2fc", "l2_log2", "log2fc.quantile"}
        for name, layer in file["layers"].items():
            kept = "float32" if name.endswith(".quantile") else dtype
            assert layer.dtype == kept
            expected = [values or [np.nan, np.nan] for values in table[name].to_pylist()]
            assert np.array_equal(layer[:], np.array(expected, kept), equal_nan=True)
        assert json.loads(file["uns/cisray_manifest"].asstr()[()])["model"]["digest"] == "ab12"


@pytest.mark.filterwarnings("ignore")
def test_anndata_reads_it(make_scores, tmp_path):
    anndata = pytest.importorskip("anndata")
    scores_dir = make_scores(*IN_ORDER, storage=Storage(values="summary", tracks=("heart",)))
    write_h5ad(scores_dir, tmp_path / "scores.h5ad")
    found = anndata.read_h5ad(tmp_path / "scores.h5ad")
    assert found.shape == (7, 1)
    assert found.var_names.tolist() == ["heart"]
    table = read_scores(scores_dir)
    assert found.obs["status"].tolist() == table["status"].to_pylist()
    assert found.obs["window_start"].isna().tolist() == [value is None for value in table["window_start"].to_pylist()]
    assert found.obs["norm_alt"].dropna().tolist() == ["C", "A", "G", "G"]
    np.testing.assert_array_equal(found.layers["log2fc"][:, 0], [0, -1, np.nan, -1, np.nan, np.nan, -4])
    np.testing.assert_allclose(found.obs["log2fc_top_value"], [0, 1, np.nan, 1.2, np.nan, np.nan, 4], rtol=1e-6)
    assert found[found.obs["status"] == "OK"].shape == (4, 1)


def test_a_summary_has_no_such_form(make_scores, tmp_path):
    with pytest.raises(InputError, match="no values per track of 'log2fc'"):
        write_h5ad(make_scores(*IN_ORDER, storage=Storage(values="summary")), tmp_path / "scores.h5ad")
    assert not list(tmp_path.glob("*h5ad*"))
