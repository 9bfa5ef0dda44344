import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.sweeps.stopping import Asha, MedianStopping, NoStopping, Rung, value_at


def goes_on(stopping, own, earlier, *, epoch):
    rung = Rung()
    for curve in earlier:
        rung.add(stopping.standing(curve, epoch))
    return stopping.goes_on(own, rung, epoch=epoch)


@pytest.mark.parametrize(
    ("stopping", "epochs", "rungs"),
    [
        (NoStopping(), 10, [10]),
        (Asha(method="asha", factor=3), 10, [1, 3, 9, 10]),
        (Asha(method="asha", first_epochs=2, factor=2), 8, [2, 4, 8]),
        (Asha(method="asha", first_epochs=20), 8, [8]),
        (MedianStopping(method="median", first_epochs=2, every_epochs=3), 9, [2, 5, 8, 9]),
    ],
)
def test_rungs_rise_to_the_last_epoch(stopping, epochs, rungs):
    assert stopping.rungs(epochs) == rungs


def test_asha_lets_the_best_third_pass():
    asha = Asha(method="asha", factor=3)
    earlier = [[0.1], [0.2], [0.3], [0.4], [0.5]]
    assert not goes_on(asha, [0.35], earlier, epoch=1)  # two of six may pass, and two are better
    assert goes_on(asha, [0.45], earlier, epoch=1)
    assert goes_on(asha, [0.4], earlier, epoch=1)  # an equal is not better
    assert goes_on(asha, [-1.0], [], epoch=1)
    assert not goes_on(asha, [0.3], [[0.4]], epoch=1)


@given(st.lists(st.floats(0, 1), max_size=30), st.floats(0, 1), st.integers(2, 5))
def test_asha_passes_no_more_than_its_share_of_distinct_trials(earlier, own, factor):
    asha = Asha(method="asha", factor=factor)
    distinct = sorted({*earlier, own})
    others = [[value] for value in distinct if value != own]
    passing = [
        value
        for value in distinct
        if goes_on(asha, [value], [[other] for other in distinct if other != value], epoch=1)
    ]
    assert len(passing) == max(1, len(distinct) // factor)
    assert passing == distinct[-len(passing) :]
    assert goes_on(asha, [own], others, epoch=1) == (own in passing)


def test_the_median_is_of_running_means():
    median = MedianStopping(method="median", least_trials=3)
    earlier = [[0.0, 0.2], [0.2, 0.6], [0.4, 1.0]]  # running means 0.1, 0.4, 0.7
    assert goes_on(median, [0.1, 0.4], earlier, epoch=2)
    assert not goes_on(median, [0.1, 0.39], earlier, epoch=2)
    assert goes_on(median, [0.1, 0.1], earlier[:2], epoch=2)  # too few to tell


def test_what_is_no_number_is_given_up_and_compared_with_nothing():
    median, asha = MedianStopping(method="median", least_trials=1), Asha(method="asha")
    for stopping in (median, asha):
        assert not goes_on(stopping, [math.nan], [[0.5]], epoch=1)
        assert goes_on(stopping, [0.1], [[math.nan]], epoch=1)
    assert goes_on(NoStopping(), [math.nan], [[0.5]], epoch=1)


def test_a_curve_that_ended_keeps_its_last_value():
    assert [value_at([0.1, 0.3], epoch) for epoch in (1, 2, 3, 9)] == [0.1, 0.3, 0.3, 0.3]
    assert math.isnan(value_at([], 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Asha(method="asha", factor=1), "first_epochs=1, factor=1; wanted at least 1 and at least 2"),
        (lambda: Asha(method="asha", first_epochs=0), "first_epochs=0, factor=3; wanted"),
        (lambda: MedianStopping(method="median", every_epochs=0), "every_epochs=0, .*wanted at least 1 of each"),
    ],
)
def test_rules_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
