import numpy as np
import pytest

from cisray.baselines.gkm_estimator import GkmSvmConfig, decide_by_tables
from cisray.baselines.gkm_filters import GkmSpec
from cisray.baselines.gkm_fit import fit_gkm
from cisray.baselines.gkm_svm import SvmSpec, train_gkm
from cisray.baselines.held_out import accuracy
from cisray.baselines.platt import calibrate
from cisray.baselines.windows import Windows

SPEC = GkmSpec(l=5, k=3, d=2)


def make_windows(num, seed=0, *, length=40):
    """Make windows of which those with GATAA are labelled in the first track, and the second counts G and C."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 4, (num, length), np.uint8)
    for row in range(0, num, 2):
        start = random.integers(0, length - 5)
        codes[row, start : start + 5] = [2, 0, 3, 0, 0]
    text = ["".join("ACGT"[code] for code in row) for row in codes]
    targets = np.array([["GATAA" in row or "TTATC" in row, 0] for row in text], np.float32)
    targets[:, 1] = ((codes == 1) | (codes == 2)).mean(axis=1)
    return Windows(codes, targets)


def of_track(windows, track):
    return Windows(windows.codes, windows.targets[:, [track]])


@pytest.mark.parametrize(("kind", "track"), [("labels", 0), ("measurements", 1)])
def test_each_price_is_the_machine_of_that_price(kind, track):
    train, valid = of_track(make_windows(60), track), of_track(make_windows(40, seed=1), track)
    config = GkmSvmConfig(gkm=SPEC, prices=(2.0, 0.2), epsilon=0.01, positive_weight=2.0)
    (fitted,) = fit_gkm(config, train, valid, kind=kind, seed=0).tracks
    task = "classes" if kind == "labels" else "values"
    scores = {}
    for price in (0.2, 2.0):
        svm = SvmSpec(task=task, c=price, epsilon=0.01, positive_weight=2.0)
        model = train_gkm(list(train.codes), train.targets[:, 0], spec=SPEC, svm=svm)
        scores[price] = model.table().score(list(valid.codes))
    expected = [accuracy(kind, scores[price], valid.targets[:, 0]) for price in (0.2, 2.0)]
    assert fitted.tried == pytest.approx(tuple(expected), abs=0.01)
    np.testing.assert_allclose(decide_by_tables([fitted.model], valid.codes)[:, 0], scores[fitted.setting], atol=1e-4)
    if kind == "labels":
        assert fitted.line.slope == pytest.approx(
            calibrate(scores[fitted.setting], valid.targets[:, 0] == 1).slope, rel=0.01
        )


def test_a_planted_word_is_told_from_none():
    config = GkmSvmConfig(gkm=SPEC, prices=(1.0,))
    fitted = fit_gkm(config, of_track(make_windows(200), 0), of_track(make_windows(100, 1), 0), kind="labels", seed=0)
    fresh = make_windows(150, seed=9)
    found = accuracy("labels", decide_by_tables([fitted.tracks[0].model], fresh.codes)[:, 0], fresh.targets[:, 0])
    assert found > 0.85
    assert (fitted.num_blank, fitted.num_thinned) == (0, 0)


def test_missing_targets_and_blank_windows_are_as_if_they_were_not_there():
    train, valid = of_track(make_windows(60), 0), of_track(make_windows(40, seed=1), 0)
    config = GkmSvmConfig(gkm=SPEC, prices=(1.0,))
    (alone,) = fit_gkm(config, Windows(train.codes[:50], train.targets[:50]), valid, kind="labels", seed=0).tracks
    targets = train.targets.copy()
    targets[50:] = np.nan
    blank = np.full((3, 40), 4, np.uint8)
    more = Windows(np.concatenate([train.codes, blank]), np.concatenate([targets, np.ones((3, 1), np.float32)]))
    found = fit_gkm(config, more, valid, kind="labels", seed=0)
    np.testing.assert_allclose(found.tracks[0].model.weights, alone.model.weights, atol=1e-6)
    assert found.num_blank == 3
    with_blank = Windows(
        np.concatenate([valid.codes, blank]), np.concatenate([valid.targets, np.ones((3, 1), np.float32)])
    )
    (same,) = fit_gkm(config, Windows(train.codes[:50], train.targets[:50]), with_blank, kind="labels", seed=0).tracks
    assert same.tried == alone.tried


def test_too_many_windows_are_thinned_out_by_the_seed_and_counted():
    train, valid = of_track(make_windows(60), 0), of_track(make_windows(20, seed=1), 0)
    config = GkmSvmConfig(gkm=SPEC, prices=(1.0,), most_windows=30)
    found = [fit_gkm(config, train, valid, kind="labels", seed=seed) for seed in (0, 0, 1)]
    assert [each.num_thinned for each in found] == [30] * 3
    weights = [each.tracks[0].model.weights for each in found]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


def test_a_window_without_an_lmer_scores_what_is_left():
    train = of_track(make_windows(60), 0)
    (fitted,) = fit_gkm(GkmSvmConfig(gkm=SPEC, prices=(1.0,)), train, train, kind="labels", seed=0).tracks
    codes = train.codes[:2].copy()
    codes[0] = 4
    scores = decide_by_tables([fitted.model, fitted.model._replace(rho=3.0)], codes)
    assert scores[0].tolist() == [-fitted.model.rho, -3.0]
    np.testing.assert_allclose(scores[1, 0], fitted.model.score([codes[1]])[0], rtol=1e-12)


def test_a_track_of_one_class_gets_its_mean():
    train, valid = make_windows(20), make_windows(10, seed=1)
    train.targets[:, 1] = 1
    found = fit_gkm(GkmSvmConfig(gkm=SPEC, prices=(1.0,)), train, valid, kind="labels", seed=0).tracks
    assert found[0].model is not None
    assert (found[1].model, found[1].line.offset) == (None, pytest.approx(np.log(21)))


def test_splits_of_n_alone_leave_nothing_to_learn():
    blank = Windows(np.full((4, 40), 4, np.uint8), np.array([[0], [1], [0], [1]], np.float32))
    found = fit_gkm(GkmSvmConfig(gkm=SPEC), blank, blank, kind="labels", seed=0)
    assert found.num_blank == 4
    assert found.tracks[0].model is None
