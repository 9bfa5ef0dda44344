import io
import json
import pickle
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import skops.io
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression

from cisray.baselines.trees_file import gains, pack_trees, unpack_trees
from cisray.errors import InputError

X = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
Y = X[:, 1] + (X[:, 4] > 0) * X[:, 2]
ESTIMATORS = [
    ("random_forest", RandomForestClassifier(n_estimators=3, random_state=0)),
    ("random_forest", RandomForestRegressor(n_estimators=3, random_state=0)),
    ("gradient_boosting", HistGradientBoostingClassifier(max_iter=3, random_state=0)),
    ("gradient_boosting", HistGradientBoostingRegressor(max_iter=3, random_state=0)),
]
GAINS_OF = {1, 2, 4}


def fitted(estimator):
    labels = "Classifier" in type(estimator).__name__
    return estimator.fit(X, Y > 0 if labels else Y)


def outputs(estimator):
    return getattr(estimator, "predict_proba", estimator.predict)(X)


@pytest.mark.parametrize(("family", "estimator"), ESTIMATORS)
def test_trees_come_back_as_they_were(family, estimator):
    estimator = fitted(estimator)
    packed = pack_trees([estimator, None, estimator])
    first, none, last = unpack_trees(packed, family=family, num_features=6)
    assert none is None
    for one in (first, last):
        assert type(one) is type(estimator)
        np.testing.assert_array_equal(outputs(one), outputs(estimator))
        np.testing.assert_array_equal(gains(one, 6), gains(estimator, 6))


@pytest.mark.parametrize(("family", "estimator"), ESTIMATORS)
def test_equal_trees_give_equal_bytes(family, estimator):
    packed = pack_trees([fitted(estimator)])
    assert pack_trees([fitted(type(estimator)(**estimator.get_params()))]) == packed
    assert pack_trees([estimator.set_params(random_state=1).fit(X, Y > 1)]) != packed
    estimator.set_params(random_state=0)
    assert unpack_trees(packed, family=family, num_features=6)


@pytest.mark.parametrize(("family", "estimator"), ESTIMATORS)
def test_gains_are_shares_and_stand_where_the_signal_is(family, estimator):
    shares = gains(fitted(estimator), 6)
    assert shares.sum() == pytest.approx(1)
    assert set(np.argsort(-shares)[:3]) == GAINS_OF
    assert gains(None, 6).tolist() == [0] * 6


@pytest.mark.parametrize("foreign", [partial(Path.touch, Path("harmed")), partial(print), Path("x")])
def test_a_file_with_another_kind_in_it_is_not_opened(foreign, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    estimator = fitted(RandomForestRegressor(n_estimators=2, random_state=0))
    estimator.criterion = foreign
    with pytest.raises(
        InputError, match=r"trees\.skops holds .*(Path|print|partial|touch).*; wanted scikit-learn's trees alone"
    ):
        unpack_trees(skops.io.dumps([estimator]), family="random_forest", num_features=6)
    assert not (tmp_path / "harmed").exists()


def test_what_is_no_file_of_trees_is_refused():
    whole = pack_trees([fitted(RandomForestRegressor(n_estimators=2, random_state=0))])
    for packed in (b"", b"no archive", pickle.dumps([1]), whole[:-40]):
        with pytest.raises(InputError, match=r"trees\.skops: not a readable file of trees \(.*\); copy it again"):
            unpack_trees(packed, family="random_forest", num_features=6)
    with pytest.raises(InputError, match=r"trees\.skops holds a dict; wanted a list of estimators"):
        unpack_trees(skops.io.dumps({"a": 1}), family="random_forest", num_features=6)


def test_estimators_of_another_kind_or_width_are_refused():
    forest = fitted(RandomForestRegressor(n_estimators=2, random_state=0))
    with pytest.raises(
        InputError, match=r"estimator 1 is a RandomForestRegressor; wanted HistGradientBoostingClassifier or"
    ):
        unpack_trees(pack_trees([None, forest]), family="gradient_boosting", num_features=6)
    with pytest.raises(InputError, match=r"estimator 0 is a LinearRegression; wanted RandomForestClassifier or"):
        unpack_trees(pack_trees([LinearRegression().fit(X, Y)]), family="random_forest", num_features=6)
    with pytest.raises(InputError, match=r"estimator 0 reads 6 features; wanted the 5 of model\.json"):
        unpack_trees(pack_trees([forest]), family="random_forest", num_features=5)
    with pytest.raises(InputError, match=r"estimator 0 reads no features; wanted the 6"):
        unpack_trees(pack_trees([RandomForestRegressor()]), family="random_forest", num_features=6)


def test_an_estimator_that_is_not_whole_is_refused():
    forest = fitted(RandomForestRegressor(n_estimators=2, random_state=0))
    del forest.estimators_
    with pytest.raises(InputError, match=r"estimator 0 is not whole \(.*estimators_.*\); copy it again"):
        unpack_trees(pack_trees([forest]), family="random_forest", num_features=6)


def with_changed_nodes(packed, change):
    """Change the arrays of nodes in a file of trees, as a stranger could."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(packed)) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith(".npy"):
                array = np.load(io.BytesIO(data))
                if array.dtype.names:
                    change(array)
                    held = io.BytesIO()
                    np.save(held, array)
                    data = held.getvalue()
            target.writestr(name, data)
    return changed.getvalue()


def put(name, value):
    def change(nodes):
        nodes[name][0] = value

    return change


@pytest.mark.parametrize(
    ("family", "estimator", "change"),
    [
        ("random_forest", ESTIMATORS[0][1], put("left_child", 10**6)),
        ("random_forest", ESTIMATORS[1][1], put("right_child", 0)),
        ("random_forest", ESTIMATORS[1][1], put("right_child", -7)),
        ("random_forest", ESTIMATORS[1][1], put("feature", 6)),
        ("random_forest", ESTIMATORS[1][1], put("feature", -9)),
        ("gradient_boosting", ESTIMATORS[2][1], put("left", 10**6)),
        ("gradient_boosting", ESTIMATORS[3][1], put("right", 0)),
        ("gradient_boosting", ESTIMATORS[3][1], put("feature_idx", 6)),
    ],
)
def test_trees_that_lead_out_of_themselves_are_refused(family, estimator, change):
    packed = pack_trees([fitted(estimator)])
    assert unpack_trees(with_changed_nodes(packed, lambda _: None), family=family, num_features=6)
    with pytest.raises(InputError, match=r"estimator 0: a tree's branches lead out of it; this file was damaged"):
        unpack_trees(with_changed_nodes(packed, change), family=family, num_features=6)


def test_a_split_by_categories_is_refused():
    packed = pack_trees([fitted(HistGradientBoostingRegressor(max_iter=2, random_state=0))])
    with pytest.raises(InputError, match=r"estimator 0 is not whole \(a split by categories\)"):
        unpack_trees(with_changed_nodes(packed, put("is_categorical", 1)), family="gradient_boosting", num_features=6)


def test_a_schema_that_leads_nowhere_is_refused():
    packed = pack_trees([fitted(RandomForestRegressor(n_estimators=1, random_state=0))])
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(packed)) as source, zipfile.ZipFile(changed, "w") as target:
        schema = json.loads(source.read("schema.json"))
        schema["content"] = "nothing"
        target.writestr("schema.json", json.dumps(schema))
    with pytest.raises(InputError, match="not a readable file of trees"):
        unpack_trees(changed.getvalue(), family="random_forest", num_features=6)
