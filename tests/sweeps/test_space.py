import itertools
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cisray.errors import InputError
from cisray.sweeps.space import (
    MOST_COMBINATIONS,
    Choice,
    Integer,
    LogUniform,
    Uniform,
    check_space,
    contains,
    counts,
    draw_at_random,
    grid,
    settings_of,
)

NUMBERS = st.floats(1e-6, 1e6, allow_nan=False)
SORTED = st.tuples(NUMBERS, NUMBERS).filter(lambda pair: pair[0] < pair[1])
VALUES = st.lists(st.one_of(st.integers(-5, 5), st.text("ab", max_size=2)), min_size=1, max_size=4, unique=True)


@st.composite
def parameters(draw, earlier):
    when = {}
    if earlier and draw(st.booleans()):
        name = draw(st.sampled_from(sorted(earlier)))
        when = {name: tuple(draw(st.lists(st.sampled_from(earlier[name].values), min_size=1, unique=True)))}
    kind = draw(st.sampled_from(["choice", "uniform", "loguniform", "int"]))
    if kind == "choice":
        return Choice(values=tuple(draw(VALUES)), when=when)
    if kind == "int":
        low = draw(st.integers(-20, 20))
        return Integer(low=low, high=low + draw(st.integers(1, 30)), step=draw(st.integers(1, 7)), when=when)
    low, high = draw(SORTED)
    return (Uniform if kind == "uniform" else LogUniform)(low=low, high=high, points=draw(st.integers(2, 4)), when=when)


@st.composite
def spaces(draw):
    space = {}
    for number in range(draw(st.integers(1, 5))):
        choices = {name: one for name, one in space.items() if isinstance(one, Choice)}
        space[f"section.key{number}"] = draw(parameters(choices))
    return space


def check_lies_in(settings, space):
    """Every parameter whose condition holds has a value that it may have, and no other has one."""
    for name, parameter in space.items():
        holds = all(other in settings and settings[other] in values for other, values in parameter.when.items())
        assert (name in settings) == holds
        assert not holds or contains(parameter, settings[name])
    assert settings.keys() <= space.keys()


@given(spaces(), st.integers(0, 2**31), st.integers(0, 1000))
def test_what_is_drawn_lies_in_the_space_and_depends_on_seed_and_number_alone(space, seed, number):
    check_space(space)
    settings = draw_at_random(space, seed=seed, number=number)
    check_lies_in(settings, space)
    draw_at_random(space, seed=seed, number=number + 1)
    assert draw_at_random(space, seed=seed, number=number) == settings


@given(spaces())
def test_a_grid_holds_every_combination_that_counts_once(space):
    points = {}
    for name, parameter in space.items():
        values = [settings[name] for settings in grid({name: parameter.__class__(**unconditional(parameter))})]
        points[name] = values
    assume(math.prod(map(len, points.values())) <= MOST_COMBINATIONS)
    combinations = grid(space)
    for settings in combinations:
        check_lies_in(settings, space)
    assert len({str(sorted(settings.items())) for settings in combinations}) == len(combinations)
    # independently: the product of all values, of which those that do not count are struck out
    expected = set()
    for values in itertools.product(*points.values()):
        chosen = {}
        for (name, parameter), value in zip(space.items(), values, strict=True):
            if counts(parameter, chosen):
                chosen[name] = value
        expected.add(str(sorted(chosen.items())))
    assert {str(sorted(settings.items())) for settings in combinations} == expected


def unconditional(parameter):
    return {name: getattr(parameter, name) for name in parameter.__dataclass_fields__ if name not in ("when", "kind")}


def test_a_grid_without_conditions_is_the_product():
    space = {
        "a": Choice(values=("x", True, 3)),
        "b": Integer(low=1, high=6, step=2),
        "c": LogUniform(low=1e-4, high=1e-2, points=3),
        "d": Uniform(low=0.0, high=1.0, points=2),
    }
    expected = itertools.product(("x", True, 3), (1, 3, 5), (1e-4, 1e-3, 1e-2), (0.0, 1.0))
    for settings, (a, b, c, d) in zip(grid(space), expected, strict=True):
        assert settings == {"a": a, "b": b, "c": pytest.approx(c), "d": d}


def test_draws_have_the_distribution_that_they_are_named_after():
    space = {
        "flat": Uniform(low=2.0, high=4.0),
        "log": LogUniform(low=1e-4, high=1.0),
        "whole": Integer(low=0, high=9, step=3),
        "one": Choice(values=("a", "b")),
    }
    draws = [draw_at_random(space, seed=3, number=number) for number in range(4000)]
    assert sum(one["flat"] < 2.5 for one in draws) / 4000 == pytest.approx(0.25, abs=0.03)
    assert sum(one["log"] < 1e-3 for one in draws) / 4000 == pytest.approx(0.25, abs=0.03)
    for value in (0, 3, 6, 9):
        assert sum(one["whole"] == value for one in draws) / 4000 == pytest.approx(0.25, abs=0.03)
    assert sum(one["one"] == "a" for one in draws) / 4000 == pytest.approx(0.5, abs=0.03)
    assert {type(one["whole"]) for one in draws} == {int}
    assert {type(one["flat"]) for one in draws} | {type(one["log"]) for one in draws} == {float}


def test_a_condition_on_a_parameter_that_does_not_count_does_not_hold():
    space = {
        "architecture": Choice(values=("basenji", "bpnet")),
        "channels": Choice(values=(16, 32), when={"architecture": ("basenji",)}),
        "wide": Choice(values=(1, 2), when={"channels": (32,)}),
    }
    check_space(space)
    assert grid(space) == [
        {"architecture": "basenji", "channels": 16},
        {"architecture": "basenji", "channels": 32, "wide": 1},
        {"architecture": "basenji", "channels": 32, "wide": 2},
        {"architecture": "bpnet"},
    ]


@pytest.mark.parametrize(
    ("parameter", "value", "may"),
    [
        (Choice(values=(1, 2)), 1, True),
        (Choice(values=(1, 2)), True, False),
        (Choice(values=("1",)), 1, False),
        (Integer(low=0, high=7, step=2), 6, True),
        (Integer(low=0, high=7, step=2), 7, False),
        (Uniform(low=0, high=1), 0.5, True),
        (Uniform(low=0, high=1), True, False),
        (Uniform(low=0, high=1), 1.5, False),
        (Uniform(low=0, high=1), "0.5", False),
    ],
)
def test_values_that_a_parameter_may_have(parameter, value, may):
    assert contains(parameter, value) is may


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Choice(values=()), "a choice of no values; wanted at least one"),
        (lambda: Uniform(low=1, high=1), r"uniform: low=1.0, high=1.0; wanted two numbers, low below high"),
        (lambda: Uniform(low=0, high=math.inf), "wanted two numbers, low below high"),
        (lambda: Uniform(low=0, high=1, points=1), "uniform: points=1; wanted at least 2"),
        (lambda: LogUniform(low=0.0, high=1), "loguniform: low=0.0; wanted a positive number"),
        (lambda: Integer(low=3, high=3), "int: low=3, high=3, step=1; wanted low below high and a positive step"),
        (lambda: Integer(low=1, high=3, step=0), "step=0; wanted low below high and a positive step"),
    ],
)
def test_a_parameter_without_values_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "the space is empty; name a setting to try"),
        (
            {"a": Choice(values=(1,), when={"b": (1,)}), "b": Choice(values=(1,))},
            "a depends on b, which is no parameter",
        ),
        (
            {"a": Choice(values=(1,)), "b": Choice(values=(1,), when={"a": (1, 2)})},
            r"b depends on a being \[1, 2\]; it",
        ),
        ({"a": Choice(values=(1,)), "b": Choice(values=(1,), when={"a": ()})}, r"b depends on a being \[\]"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(space, message):
    with pytest.raises(InputError, match=message):
        check_space(space)


def test_a_grid_of_a_range_without_points_is_refused():
    with pytest.raises(InputError, match=r"training.rate is a range, and a grid tries points; give it points = N"):
        grid({"training.rate": Uniform(low=0, high=1)})


def test_a_grid_without_end_is_refused_before_it_is_written_down():
    space = {f"model.sizes.{name}": Integer(low=1, high=10**9) for name in "ab"}
    with pytest.raises(InputError, match=r"a grid of this space has more than 100,000 combinations; give its param"):
        grid(space)


ARCHITECTURE = Choice(values=("basset", "danq", "deepbind"))


def of(*architectures, **fields):
    return Choice(when={"model.architecture": architectures}, setting="model.channels", **fields)


def test_parameters_that_set_the_same_take_turns_by_their_conditions():
    space = {
        "model.architecture": ARCHITECTURE,
        "basset.channels": of("basset", values=([8, 8, 8], [16, 16, 16])),
        "danq.channels": of("danq", values=(8, 16)),
        "training.learning_rate": LogUniform(low=1e-3, high=1e-2, points=2),
    }
    check_space(space)
    found = [settings_of(space, each) for each in grid(space)]
    assert len(found) == (2 + 2 + 1) * 2
    for settings in found:
        kind = {"basset": list, "danq": int, "deepbind": type(None)}[settings["model.architecture"]]
        assert isinstance(settings.get("model.channels"), kind)
        assert settings.keys() <= {"model.architecture", "model.channels", "training.learning_rate"}


@pytest.mark.parametrize(
    "second",
    [of("danq", "basset", values=(1, 2)), Choice(values=(1,), setting="model.channels")],
)
def test_parameters_that_set_the_same_at_once_are_refused(second):
    space = {"model.architecture": ARCHITECTURE, "basset.channels": of("basset", values=(1,)), "danq.channels": second}
    with pytest.raises(InputError, match=r"basset\.channels and danq\.channels both set model\.channels; give them"):
        check_space(space)


def test_a_parameter_may_not_set_what_another_is_named_after():
    space = {"model.channels": Choice(values=(1,)), "wide": Choice(values=(2,), setting="model.channels")}
    with pytest.raises(InputError, match=r"model\.channels and wide both set model\.channels"):
        check_space(space)
