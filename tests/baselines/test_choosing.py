import numpy as np
import pytest

from cisray.baselines.choosing import choose_best, constant
from cisray.baselines.fitted import Line
from cisray.baselines.platt import calibrate


class Column:
    """Scores by one column of its rows."""

    def __init__(self, number):
        self.number = number

    def decide(self, rows):
        return rows[:, self.number]


def changing(numbers):
    """Yield one object that changes from turn to turn, as estimators that go on from where they were do."""
    model = Column(None)
    for number in numbers:
        model.number = number
        yield float(number), model


def test_the_most_accurate_candidate_is_kept_as_it_was():
    random = np.random.default_rng(0)
    target = random.normal(size=50)
    rows = target[:, None] + random.normal(size=(50, 4)) * [3, 0.5, 2, 4]
    target[0] = np.nan
    fitted = choose_best(changing(range(4)), rows, target, kind="measurements")
    assert (fitted.setting, fitted.model.number) == (1.0, 1)
    expected = [np.corrcoef(rows[1:, column], target[1:])[0, 1] for column in range(4)]
    assert fitted.tried == pytest.approx(tuple(expected))
    assert fitted.line == Line()


def test_the_first_of_equal_ones_is_kept_and_the_first_where_nothing_is_measured():
    rows = np.stack([np.arange(6.0), np.arange(6.0)], axis=1)
    assert choose_best(changing([1, 0]), rows, np.arange(6.0), kind="coverage").setting == 1
    assert choose_best(changing([1, 0]), rows, np.full(6, np.nan), kind="coverage").setting == 1
    rows[:, 1] = 0  # a constant score has no correlation, and any other is better
    assert choose_best(changing([1, 0]), rows, -np.arange(6.0), kind="coverage").setting == 0


def test_labels_get_the_line_of_the_validation_split():
    random = np.random.default_rng(1)
    rows, target = random.normal(size=(40, 1)), (random.random(40) < 0.5).astype(float)
    target[5] = np.nan
    known = ~np.isnan(target)
    fitted = choose_best(changing([0]), rows, target, kind="labels")
    assert fitted.line == calibrate(rows[known, 0], target[known] == 1)
    assert fitted.line.calibrated


def test_targets_from_which_nothing_can_be_learned():
    nan = np.nan
    fitted = constant(np.array([2.0, nan, 2.0]), 3, kind="measurements")
    assert (fitted.model, fitted.line) == (None, Line(0.0, 2.0))
    assert np.isnan(fitted.tried).tolist() == [True] * 3
    assert constant(np.array([nan, nan]), 1, kind="coverage").line == Line(0.0, 0.0)
    assert constant(np.array([1.0, 1.0, nan]), 1, kind="labels").line == Line(0.0, pytest.approx(np.log(3)))
    assert constant(np.array([nan]), 1, kind="labels").line == Line(0.0, 0.0)
    assert constant(np.array([1.0, 0.0, nan]), 1, kind="labels") is None
    assert constant(np.array([1.0, 1.5]), 1, kind="measurements") is None
