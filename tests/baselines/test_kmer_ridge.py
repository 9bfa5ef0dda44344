from itertools import product

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import Ridge

from cisray.baselines.kmer_ridge import KmerRidge, KmerRidgeConfig, NormalEquations, fit_ridge
from cisray.geometry import Geometry


def make_model(*, k=2, contexts_bp=(4, 12), window_bp=40, bin_bp=4, crop_bins=1, num_tracks=1, penalties=(1e-2,)):
    geometry = Geometry(window_bp=window_bp, bin_bp=bin_bp, crop_bins=crop_bins)
    config = KmerRidgeConfig(k=k, contexts_bp=contexts_bp, penalties=penalties)
    return KmerRidge(config, geometry=geometry, num_tracks=num_tracks)


def random_codes(num_windows, window_bp=40, seed=0, *, letters=5):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, letters, (num_windows, window_bp), np.uint8))


def slow_features(bases, model):
    """Count k-mers of a string window by window, bin by bin, as the docstrings say."""
    k, geometry = model.config.k, model.geometry
    words = ["".join(word) for word in product("ACGT", repeat=k)]
    bins = geometry.window_bp // geometry.bin_bp
    rows = []
    for middle in range(geometry.crop_bins, bins - geometry.crop_bins):
        row = []
        for width_bp in model.config.contexts_bp:
            reach = round(width_bp / geometry.bin_bp / 2)
            first, last = max(0, middle - reach), min(bins, middle + reach + 1)
            found = [bases[start : start + k] for start in range(first * geometry.bin_bp, last * geometry.bin_bp)]
            row += [found.count(word) / ((last - first) * geometry.bin_bp) for word in words]
        rows.append(row)
    return rows


@pytest.mark.parametrize(
    ("k", "contexts_bp", "bin_bp", "crop_bins"), [(1, (4,), 4, 0), (2, (4, 12, 100), 4, 1), (3, (16, 24), 8, 1)]
)
def test_features_are_the_counts_of_strings(k, contexts_bp, bin_bp, crop_bins):
    model = make_model(k=k, contexts_bp=contexts_bp, bin_bp=bin_bp, crop_bins=crop_bins)
    codes = random_codes(3)
    expected = [slow_features("".join("ACGTN"[code] for code in row), model) for row in codes]
    features = model.features(codes)
    assert features.shape == (3, model.geometry.num_bins, len(contexts_bp) * 4**k)
    np.testing.assert_allclose(features, expected, rtol=1e-12, atol=1e-12)
    assert features.max() > 0


def test_a_window_of_n_has_no_kmer():
    model = make_model()
    assert (model.features(torch.full((1, 40), 4, dtype=torch.uint8)) == 0).all()


def test_the_fit_is_sklearns_ridge_per_track_over_its_own_bins():
    random = np.random.default_rng(1)
    features = random.gamma(1.0, 1.0, (30, 5, 6)) * [1, 2, 3, 4, 5, 6]
    targets = random.normal(size=(30, 5, 3)) + features[:, :, :3] + 7
    targets[random.random(targets.shape) < 0.3] = np.nan
    targets[:, :, 2] = np.where(np.isnan(targets[:, :, 1]), np.nan, targets[:, :, 2])  # a mask that two tracks share
    equations = NormalEquations(6, 3)
    for part in np.split(np.arange(30), [4, 5, 19]):
        equations.update(torch.from_numpy(features[part]), torch.from_numpy(targets[part]))
    for penalty in (1e-3, 0.5, 20.0):
        coefficients, intercepts = equations.solve(penalty)
        for track in range(3):
            present = ~np.isnan(targets[:, :, track])
            x, y = features[present], targets[:, :, track][present]
            ridge = Ridge(alpha=penalty * x.var(axis=0).mean() * len(x)).fit(x, y)
            np.testing.assert_allclose(coefficients[:, track], ridge.coef_, rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(intercepts[track], ridge.intercept_, rtol=1e-6)


def test_planted_effects_of_letters_are_found():
    model = make_model(k=1, contexts_bp=(4,), num_tracks=2, penalties=(1e-6,))
    codes = random_codes(200, letters=4)
    effects = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, -3.0], [4.0, 0.5]], dtype=torch.float64)
    targets = model.features(codes) @ effects + 5
    fit_ridge(model, iter([(codes[:90], targets[:90]), (codes[90:], targets[90:])]), score=lambda _: torch.ones(2))
    # the densities of a bin sum to 1, so effects are known but for a constant: A's is taken as 0
    found = (model.coefficients - model.coefficients[0]).detach()
    torch.testing.assert_close(found, effects - effects[0], rtol=1e-3, atol=1e-3)
    fresh = random_codes(5, seed=9, letters=4)
    torch.testing.assert_close(model(fresh).detach(), model.features(fresh) @ effects + 5, rtol=1e-3, atol=1e-3)


def test_each_track_keeps_the_penalty_that_scores_best_for_it():
    penalties = (1e-3, 1.0, 10.0)
    model = make_model(num_tracks=3, penalties=penalties)
    codes = random_codes(40)
    targets = torch.rand(40, 8, 3, generator=torch.Generator().manual_seed(0))
    scores = iter([[0.1, 0.9, 0.5], [0.3, 0.2, torch.nan], [0.2, 0.95, 0.5]])
    tried = fit_ridge(model, iter([(codes, targets)]), score=lambda _: torch.tensor(next(scores)))
    equations = NormalEquations(*model.coefficients.shape)
    equations.update(model.features(codes), targets)
    for track, best in enumerate((1.0, 10.0, 1e-3)):
        coefficients, intercepts = equations.solve(best)
        assert torch.equal(model.coefficients[:, track], coefficients[:, track])
        assert torch.equal(model.intercepts[track], intercepts[track])
    assert [row["penalty"] for row in tried] == list(penalties)
    assert tried[0]["valid.pearson"] == pytest.approx(0.5)


def test_a_track_without_data_predicts_nothing_and_harms_no_other():
    model = make_model(num_tracks=2)
    codes = random_codes(40)
    targets = torch.rand(40, 8, 2)
    targets[:, :, 1] = torch.nan
    fit_ridge(model, iter([(codes, targets)]), score=lambda _: torch.tensor([0.5, torch.nan]))
    assert (model.coefficients[:, 1] == 0).all()
    assert torch.isfinite(model(codes)).all()
    assert model.coefficients[:, 0].abs().max() > 0


@pytest.mark.parametrize("fields", [{"k": 0}, {"k": 7}, {"contexts_bp": ()}, {"penalties": ()}])
def test_settings_that_cannot_be_are_refused(fields):
    with pytest.raises(ValidationError, match="wanted k from 1 to 6, and at least one context and penalty"):
        KmerRidgeConfig(**fields)
