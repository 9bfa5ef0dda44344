import re
from itertools import product

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from cisray.baselines.feature_sets import FeatureMaker, Kmers
from cisray.baselines.linear import LinearConfig
from cisray.baselines.linear_fit import column_deviations, linear_candidates

K = 2


def random_codes(num, length=50, seed=0):
    return np.random.default_rng(seed).integers(0, 4, (num, length), np.uint8)


def string_counts(codes):
    """Count k-mers by hand, overlapping, as Python finds them in strings."""
    words = ["".join(word) for word in product("ACGT", repeat=K)]
    texts = ["".join("ACGT"[code] for code in row) for row in codes]
    return np.array([[len(re.findall(f"(?={word})", text)) for word in words] for text in texts], float)


def rows_of(codes):
    return FeatureMaker((Kmers(k=K, fold_strands=False),), window_bp=codes.shape[1])(codes)


def fit(penalty, *, labels, penalties, target, codes, **settings):
    config = LinearConfig(penalty=penalty, penalties=penalties, max_rounds=50_000, **settings)
    return list(linear_candidates(config, rows_of(codes), target, labels=labels))


@pytest.fixture(scope="module")
def data():
    codes = random_codes(300)
    counts = string_counts(codes)
    signal = counts[:, 3] - 0.5 * counts[:, 9] + np.random.default_rng(1).normal(size=300)
    return codes, counts, signal.astype(np.float32)


def by_hand(make, counts, y, alpha):
    """Fit scikit-learn to standardised counts, and return what it predicts of them."""
    scaled = StandardScaler().fit_transform(counts)
    return make(alpha).fit(scaled, y), scaled


@pytest.mark.parametrize("penalty", ["l1", "l2", "elastic_net"])
def test_numbers_are_fitted_as_by_hand_on_strings(data, penalty):
    codes, counts, signal = data
    share = {"l1": 1.0, "l2": 0.0, "elastic_net": 0.5}[penalty]
    scaled = StandardScaler().fit_transform(counts)
    y = signal.astype(float)
    least = np.abs(scaled.T @ (y - y.mean())).max() / len(y) / share if share else 1.0
    found = fit(penalty, labels=False, penalties=(0.02, 0.3), target=signal, codes=codes)
    assert [setting for setting, _ in found] == [0.3, 0.02]
    for setting, model in found:
        if penalty == "l2":
            hand = Ridge(alpha=setting * len(y)).fit(scaled, y)
        elif penalty == "l1":
            hand = Lasso(alpha=setting * least, max_iter=10_000).fit(scaled, y)
        else:
            hand = ElasticNet(alpha=setting * least, l1_ratio=0.5, max_iter=10_000).fit(scaled, y)
        np.testing.assert_allclose(model.decide(rows_of(codes)), hand.predict(scaled), atol=0.02)
        np.testing.assert_allclose(model.coefficients * counts.std(axis=0), hand.coef_, atol=0.01)
        assert model.converged


@pytest.mark.parametrize("penalty", ["l1", "l2", "elastic_net"])
def test_labels_are_fitted_as_by_hand_on_strings(data, penalty):
    codes, counts, signal = data
    labels = (signal > np.median(signal)).astype(np.float32)
    share = {"l1": 1.0, "l2": 0.0, "elastic_net": 0.5}[penalty]
    scaled = StandardScaler().fit_transform(counts)
    least = np.abs(scaled.T @ (labels - labels.mean())).max() / len(labels) / share if share else 1.0
    for setting, model in fit(penalty, labels=True, penalties=(0.05, 0.4), target=labels, codes=codes):
        hand = LogisticRegression(
            C=1 / (setting * least * len(labels)),
            l1_ratio=share,
            solver="saga" if share else "lbfgs",
            tol=1e-8,
            max_iter=20_000,
        ).fit(scaled, labels)
        np.testing.assert_allclose(model.decide(rows_of(codes)), hand.decision_function(scaled), atol=0.005)
        np.testing.assert_allclose(model.coefficients * counts.std(axis=0), hand.coef_[0], atol=0.01)


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("penalty", ["l1", "elastic_net"])
def test_a_penalty_of_one_leaves_nothing_and_a_little_less_leaves_something(data, penalty, labels):
    codes, _, signal = data
    target = (signal > 0).astype(np.float32) if labels else signal
    found = dict(fit(penalty, labels=labels, penalties=(1.001, 0.95), target=target, codes=codes))
    assert np.count_nonzero(found[1.001].coefficients) == 0
    assert 1 <= np.count_nonzero(found[0.95].coefficients) <= 3
    mean = np.log(target.mean() / (1 - target.mean())) if labels else target.mean()
    assert found[1.001].intercept == pytest.approx(mean, abs=0.01)


def test_fits_that_end_early_say_so(data):
    codes, _, signal = data
    config = LinearConfig(penalty="l1", penalties=(1e-4,), max_rounds=1)
    ((_, model),) = linear_candidates(config, rows_of(codes), signal, labels=False)
    assert not model.converged


def test_a_constant_column_harms_nothing():
    random = np.random.default_rng(0)
    dense = np.c_[np.full(50, 3.0), random.normal(size=(50, 2)), np.zeros(50)].astype(np.float32)
    rows = csr_array(dense)
    np.testing.assert_allclose(column_deviations(rows), dense.astype(float).std(axis=0), atol=1e-6)
    config = LinearConfig(penalty="l2", penalties=(1e-6,))
    ((_, model),) = linear_candidates(config, rows, dense[:, 1] * 2 + 5, labels=False)
    np.testing.assert_allclose(model.decide(rows), dense[:, 1] * 2 + 5, atol=1e-3)
    assert np.isfinite(model.coefficients).all()
