import math

import pytest

from cisray.sweeps.search import Known, RandomSearch, TpeSearch, propose
from cisray.sweeps.space import Choice, Integer, LogUniform, Uniform, draw_at_random

SPACE = {
    "kind": Choice(values=("a", "b")),
    "rate": LogUniform(low=1e-4, high=1.0),
    "layers": Integer(low=1, high=8, step=2, when={"kind": ("a",)}),
    "share": Uniform(low=0.0, high=1.0, when={"kind": ("b",)}),
    "widths": Choice(values=((16, 32), (64,)), when={"kind": ("a",)}),
}


def worth(settings):
    """Best at kind a, rate 0.01, five layers."""
    value = -abs(math.log10(settings["rate"]) + 2)
    return value - 3 if settings["kind"] == "b" else value - abs(settings["layers"] - 5) / 4


def sweep_with(search, number, seed=0):
    known = []
    for index in range(number):
        settings = propose(search, SPACE, seed=seed, number=index, known=known)
        known.append(Known(index, settings, worth(settings)))
    return known


def test_a_random_search_asks_nothing_of_earlier_trials():
    known = [Known(0, draw_at_random(SPACE, seed=4, number=0), 1.0)]
    for number in range(20):
        drawn = draw_at_random(SPACE, seed=4, number=number)
        assert propose(RandomSearch(), SPACE, seed=4, number=number, known=known) == drawn
        assert propose(RandomSearch(), SPACE, seed=4, number=number, known=[]) == drawn


def test_tpe_draws_near_what_did_well():
    tpe, random = (sweep_with(search, 40) for search in (TpeSearch(method="tpe"), RandomSearch()))
    late = [one.value for one in tpe[20:]]
    assert sum(late) / 20 > sum(one.value for one in random[20:]) / 20 + 0.5
    assert sum(one.settings["kind"] == "a" for one in tpe[20:]) > 14


def test_what_tpe_asks_depends_on_what_is_known_and_not_on_its_order():
    search = TpeSearch(method="tpe", random_trials=4)
    known = sweep_with(search, 12)
    known[3] = known[3]._replace(value=None)
    known[5] = known[5]._replace(stopped_at=2)
    first = propose(search, SPACE, seed=7, number=12, known=known)
    assert propose(search, SPACE, seed=7, number=12, known=known[::-1]) == first
    assert propose(search, SPACE, seed=8, number=12, known=known) != first
    assert propose(search, SPACE, seed=7, number=13, known=known) != first
    assert first.keys() == set(draw_at_random(SPACE, seed=0, number=0)) or first["kind"] in ("a", "b")


def test_tpe_draws_at_random_first():
    search = TpeSearch(method="tpe", random_trials=4)
    known = sweep_with(search, 4)
    assert [one.settings for one in known] == [draw_at_random(SPACE, seed=0, number=number) for number in range(4)]


def test_tpe_needs_a_random_trial():
    with pytest.raises(ValueError, match="random_trials=0; wanted at least 1"):
        TpeSearch(method="tpe", random_trials=0)
