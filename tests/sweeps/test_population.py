import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.errors import InputError
from cisray.sweeps.population import Population, evolve
from cisray.sweeps.space import Choice, Integer, LogUniform, contains, draw_at_random

SPACE = {
    "training.learning_rate": LogUniform(low=1e-4, high=1e-1),
    "training.shift_bp": Integer(low=0, high=8, step=2),
    "training.reverse_complement": Choice(values=(False, True)),
}
RULES = Population(method="population", share=0.25, redraw=0.5)
VALUES = st.lists(st.one_of(st.floats(-1, 1), st.just(math.nan)), min_size=1, max_size=12)


def settings_of(number):
    return {index: draw_at_random(SPACE, seed=1, number=index) for index in range(number)}


@given(VALUES, st.integers(0, 100))
def test_the_worst_take_over_from_the_best_and_stay_in_the_space(values, seed):
    settings = settings_of(len(values))
    heirs = evolve(RULES, SPACE, seed=seed, generation=1, values=dict(enumerate(values)), settings=settings)
    assert sorted(heirs) == list(range(len(values)))
    sound = [-math.inf if math.isnan(value) else value for value in values]
    took_over = {number for number, heir in heirs.items() if heir.origin != number}
    assert len(took_over) == (max(1, len(values) // 4) if len(values) > 1 else 0)
    for number, heir in heirs.items():
        if number not in took_over:
            assert heir.settings == settings[number]
            continue
        assert sound[heir.origin] >= max(sound[other] for other in took_over)
        assert all(sound[number] <= sound[other] for other in heirs if other not in took_over)
        assert all(contains(parameter, heir.settings[name]) for name, parameter in SPACE.items())
    again = dict(reversed(list(enumerate(values))))
    assert evolve(RULES, SPACE, seed=seed, generation=1, values=again, settings=settings) == heirs


def test_without_redrawing_a_number_moves_by_a_factor_and_a_choice_to_its_neighbour():
    rules = Population(method="population", redraw=0.0, factors=(0.5, 2.0))
    best = {"training.learning_rate": 0.01, "training.shift_bp": 4, "training.reverse_complement": False}
    moved = {}
    for seed in range(30):
        values = {0: 1.0, 1: 0.0}
        heirs = evolve(rules, SPACE, seed=seed, generation=1, values=values, settings={0: best, 1: best})
        assert (heirs[0].origin, heirs[1].origin) == (0, 0)
        for name, value in heirs[1].settings.items():
            moved.setdefault(name, set()).add(value)
    assert moved == {
        "training.learning_rate": {0.005, 0.02},
        "training.shift_bp": {2, 6},
        "training.reverse_complement": {False, True},
    }


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"model.channels": Integer(low=1, high=2)}, "model.channels cannot change while a network learns"),
        ({"training.epochs": Integer(low=1, high=2)}, "training.epochs cannot change"),
        ({"training.shift_bp": Integer(low=1, high=2, setting="model.channels")}, "training.shift_bp cannot change"),
        (
            SPACE | {"training.clip_norm": Integer(low=1, high=2, when={"training.shift_bp": (0,)})},
            "training.clip_norm cannot change .* without conditions",
        ),
    ],
)
def test_what_cannot_change_on_the_way_is_refused(space, message):
    with pytest.raises(InputError, match=message):
        RULES.check(space)


def test_generations_end_with_the_last_epoch():
    assert Population(method="population", generation_epochs=3).generations(8) == [3, 6, 8]
    assert Population(method="population").generations(3) == [1, 2, 3]
    RULES.check(SPACE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 0.6}, "share=0.6, redraw=0.25; wanted at least 1, more than 0 and at most 0.5, and 0 to 1"),
        ({"generation_epochs": 0}, "generation_epochs=0"),
        ({"factors": (0.0, 1.2)}, r"factors=\[0.0, 1.2\]; wanted two positive numbers"),
    ],
)
def test_rules_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Population(method="population", **settings)
