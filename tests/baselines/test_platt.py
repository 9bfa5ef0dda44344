import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from cisray.baselines.fitted import Line
from cisray.baselines.platt import calibrate


def test_the_line_is_the_most_likely_one_for_platts_targets():
    random = np.random.default_rng(0)
    scores = random.normal(3, 20, 200)
    labels = random.random(200) < expit((scores - 3) / 10)
    num_true, num_false = labels.sum(), (~labels).sum()
    wanted = np.where(labels, (num_true + 1) / (num_true + 2), 1 / (num_false + 2))

    def loss(line):
        logits = line[0] * scores + line[1]
        return (np.logaddexp(0, logits) - wanted * logits).mean()

    best = minimize(loss, [0.0, 0.0], method="BFGS", options={"gtol": 1e-9}).x
    line = calibrate(scores, labels)
    assert line.calibrated
    assert (line.slope, line.offset) == pytest.approx(tuple(best), rel=1e-3)
    assert loss(line[:2]) == pytest.approx(loss(best), rel=1e-8)


def test_scores_that_are_log_odds_stay_as_they_are():
    random = np.random.default_rng(1)
    scores = random.normal(-0.5, 2, 40_000)
    line = calibrate(scores, random.random(40_000) < expit(scores))
    assert (line.slope, line.offset) == (pytest.approx(1, abs=0.05), pytest.approx(0, abs=0.05))


def test_scores_that_tell_classes_apart_have_an_end():
    line = calibrate(np.arange(10.0), np.arange(10) >= 5)
    assert 0 < line.slope < 10
    assert expit(line.slope * 9 + line.offset) < 0.95


@pytest.mark.parametrize(
    ("scores", "labels"),
    [([], []), ([1.0, 2.0], [True, True]), ([1.0, 2.0], [False, False]), ([3.0, 3.0], [True, False])],
)
def test_what_tells_nothing_changes_nothing(scores, labels):
    assert calibrate(np.array(scores), np.array(labels, bool)) == Line(1.0, 0.0, calibrated=False)
