import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.special import expit
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)

from cisray.baselines import trees_fit
from cisray.baselines.trees import GradientBoostingConfig, RandomForestConfig
from cisray.baselines.trees_fit import tree_candidates
from cisray.errors import InputError


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    dense = random.poisson(1.0, (240, 12)).astype(np.float32)
    signal = dense[:, 2] * (dense[:, 5] > 0) + random.normal(0, 0.3, 240)
    return csr_array(dense), dense, signal.astype(np.float32)


@pytest.mark.parametrize("most_dense", [trees_fit.MOST_DENSE_BYTES, 0], ids=["dense", "sparse"])
@pytest.mark.parametrize("labels", [True, False])
def test_forests_are_those_of_scikit_learn(data, labels, most_dense, monkeypatch):
    monkeypatch.setattr(trees_fit, "MOST_DENSE_BYTES", most_dense)
    rows, dense, signal = data
    target = (signal > 1).astype(np.float32) if labels else signal
    config = RandomForestConfig(num_trees=20, leaf_sizes=(2, 10))
    found = list(tree_candidates(config, rows, target, labels=labels, seed=3))
    assert [setting for setting, _ in found] == [10, 2]
    for leaf_size, model in found:
        settings = {"n_estimators": 20, "min_samples_leaf": int(leaf_size), "random_state": 3}
        if labels:
            hand = RandomForestClassifier(max_features="sqrt", **settings).fit(rows, target.astype(int))
            share = hand.predict_proba(dense)[:, 1]
            np.testing.assert_allclose((20 * share + 0.5) / 21, expit(model.decide(rows)), rtol=1e-9)
        else:
            hand = RandomForestRegressor(max_features=1 / 3, **settings).fit(rows, target)
            np.testing.assert_allclose(model.decide(rows), hand.predict(dense), rtol=1e-6)


@pytest.mark.parametrize("labels", [True, False])
def test_boosted_trees_are_those_of_scikit_learn_at_each_number_of_rounds(data, labels):
    rows, dense, signal = data
    target = (signal > 1).astype(np.float32) if labels else signal
    config = GradientBoostingConfig(rounds=(12, 3), max_leaves=5, learning_rate=0.2, leaf_size=10)
    seen = []
    for rounds, model in tree_candidates(config, rows, target, labels=labels, seed=3):
        kind = HistGradientBoostingClassifier if labels else HistGradientBoostingRegressor
        hand = kind(
            max_iter=int(rounds),
            max_leaf_nodes=5,
            learning_rate=0.2,
            min_samples_leaf=10,
            early_stopping=False,
            random_state=3,
        ).fit(dense, target.astype(int) if labels else target)
        expected = hand.decision_function(dense) if labels else hand.predict(dense)
        np.testing.assert_allclose(model.decide(rows), expected, rtol=1e-5, atol=1e-6)
        seen.append(rounds)
    assert seen == [3, 12]


@pytest.mark.parametrize(
    "config", [RandomForestConfig(num_trees=7, leaf_sizes=(2,)), GradientBoostingConfig(rounds=(5,))]
)
def test_equal_seeds_give_equal_trees_whatever_the_threads(data, config):
    rows, _, signal = data
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            ((_, model),) = tree_candidates(config, rows, signal, labels=False, seed=1)
            found.append(model.decide(rows))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*found)


def test_a_table_too_wide_to_be_held_dense_is_refused():
    rows = csr_array((3, (1 << 14) + 1), dtype=np.float32)
    candidates = tree_candidates(GradientBoostingConfig(), rows, np.arange(3.0), labels=False, seed=0)
    with pytest.raises(
        InputError, match=r"gradient_boosting: 16385 features; wanted at most 16384, .*choose smaller k"
    ):
        next(candidates)
