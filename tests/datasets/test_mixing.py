from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cisray.datasets.mixing import Cursor, Mixture, interleave
from cisray.errors import InputError

NAMES = ("human", "mouse", "yeast", "fly", "worm", "fish")
SHARES = st.lists(st.floats(1e-3, 1e3) | st.integers(1, 40), min_size=1, max_size=6).map(
    lambda values: dict(zip(NAMES, values, strict=False))
)
# The steps of three own epochs of each dataset, which come again and again.
OWN_STEPS = st.lists(st.tuples(*[st.integers(1, 12)] * 3), min_size=1, max_size=4).map(
    lambda values: dict(zip(NAMES, values, strict=False))
)


def mixture_of(own_steps, weights=None):
    return Mixture({name: lambda epoch, steps=steps: steps[epoch % 3] for name, steps in own_steps.items()}, weights)


def readers_of(own_steps):
    """Return readers whose batches are (dataset, own epoch, number of the batch)."""

    def reader(name):
        return lambda epoch, batches: iter(
            [(name, epoch, number) for number in range(batches, own_steps[name][epoch % 3])]
        )

    return {name: reader(name) for name in own_steps}


def epoch_of(own_steps, weights, epoch, steps_done=0):
    """Read with a mixture of its own, as a run that was just started does."""
    return list(mixture_of(own_steps, weights).read(readers_of(own_steps), epoch, steps_done))


def test_equal_shares_alternate_and_others_come_as_evenly_as_can_be():
    assert interleave({"a": 1, "b": 1}, 6) == list("ababab")
    assert interleave({"a": 0.1, "b": 0.1, "c": 0.1}, 7) == list("abcabca")
    assert interleave({"a": 2, "b": 1}, 6) == list("abaaba")
    assert interleave({"a": 3, "b": 1}, 8) == list("aabaaaba")
    assert interleave({"a": 5, "b": 0}, 3) == list("aaa")
    assert interleave({"a": 1}, 0) == []


@given(SHARES, st.integers(0, 300))
def test_every_beginning_holds_each_name_by_its_share_to_less_than_a_step(shares, steps):
    order = interleave(shares, steps)
    total, bound = sum(map(Fraction, shares.values())), 1 - Fraction(1, max(2, 2 * len(shares) - 2))
    assert len(order) == steps
    seen = Counter()
    for done, name in enumerate(order, start=1):
        seen[name] += 1
        for one, share in shares.items():
            assert abs(Fraction(share) / total * done - seen[one]) <= bound
    assert interleave(dict(shares), steps) == order


@given(SHARES, st.integers(0, 100), st.integers(0, 100))
def test_a_longer_order_begins_like_a_shorter_one(shares, steps, more):
    assert interleave(shares, steps + more)[:steps] == interleave(shares, steps)


@pytest.mark.parametrize("shares", [{}, {"a": 0.0}, {"a": 1.0, "b": -1.0}, {"a": float("nan")}, {"a": float("inf")}])
def test_shares_that_are_none_are_told(shares):
    with pytest.raises(InputError, match=r"shares \{.*\}; wanted numbers of 0 or more, and one that is more than 0"):
        interleave(shares, 3)


@settings(max_examples=50)
@given(OWN_STEPS)
def test_without_weights_an_epoch_reads_every_batch_of_its_number_once_and_evenly(own_steps):
    for epoch in range(4):
        read = epoch_of(own_steps, None, epoch)
        assert len(read) == mixture_of(own_steps).steps(epoch) == sum(steps[epoch % 3] for steps in own_steps.values())
        for name, steps in own_steps.items():
            of_one = [batch for whose, batch in read if whose == name]
            assert of_one == [(name, epoch, number) for number in range(steps[epoch % 3])]
        half = read[: len(read) // 2]
        for name, steps in own_steps.items():
            assert abs(sum(whose == name for whose, _ in half) - steps[epoch % 3] * len(half) / len(read)) < 1


@settings(max_examples=50)
@given(OWN_STEPS, st.data())
def test_with_weights_each_dataset_goes_on_where_it_was_from_epoch_to_epoch(own_steps, data):
    weights = {name: data.draw(st.floats(0.1, 10)) for name in own_steps}
    read = [batch for epoch in range(4) for batch in epoch_of(own_steps, weights, epoch)]
    for name, steps in own_steps.items():
        of_one = [batch for whose, batch in read if whose == name]
        expected = [(name, epoch, number) for epoch in range(200) for number in range(steps[epoch % 3])]
        assert of_one == expected[: len(of_one)]
        share = weights[name] / sum(weights.values())
        assert abs(len(of_one) - share * len(read)) < 4  # less than one step per epoch


@settings(max_examples=50)
@given(OWN_STEPS, st.booleans(), st.data())
def test_a_run_that_goes_on_from_any_step_reads_what_an_undisturbed_one_does(own_steps, weighted, data):
    weights = {name: data.draw(st.floats(0.1, 10)) for name in own_steps} if weighted else None
    epoch = data.draw(st.integers(0, 3))
    whole = epoch_of(own_steps, weights, epoch)
    steps_done = data.draw(st.integers(0, len(whole)))
    rest = mixture_of(own_steps, weights).remaining(epoch, steps_done)
    assert rest.names == [name for name, _ in whole[steps_done:]]
    assert epoch_of(own_steps, weights, epoch, steps_done) == whole[steps_done:]
    for name, cursor in rest.cursors.items():  # by hand: one batch after the last that was read
        before = [
            batch
            for earlier in range(epoch + 1)
            for whose, batch in epoch_of(own_steps, weights, earlier)[: steps_done if earlier == epoch else None]
            if whose == name and (weighted or earlier == epoch)
        ]
        own_epoch, number = (before[-1][1], before[-1][2] + 1) if before else (0 if weighted else epoch, 0)
        at_end = weighted and number == own_steps[name][own_epoch % 3]
        assert cursor == (Cursor(own_epoch + 1, 0) if at_end else Cursor(own_epoch, number))


def test_a_reader_is_opened_when_its_first_batch_is_due():
    own_steps, opened = {"a": (4, 4, 4), "b": (1, 1, 1)}, []

    def told(name):
        def open_reader(epoch, batches):
            opened.append((name, epoch, batches))
            return readers_of(own_steps)[name](epoch, batches)

        return open_reader

    reading = mixture_of(own_steps).read({name: told(name) for name in own_steps}, 2, 1)
    assert opened == []
    assert [next(reading)[0], next(reading)[0]] == ["a", "b"]
    assert opened == [("a", 2, 1), ("b", 2, 0)]


def test_a_reader_that_ends_too_early_is_noticed():
    own_steps = {"a": (4, 4, 4)}
    with pytest.raises(AssertionError, match="a: 2 batches in an epoch of 4"):
        list(mixture_of(own_steps).read({"a": lambda epoch, batches: iter([1, 2])}, 0))


@pytest.mark.parametrize("weights", [{"a": 1.0}, {"a": 1.0, "b": 0.0}, {"a": 1.0, "b": float("nan")}, {}])
def test_weights_that_do_not_fit_are_told(weights):
    with pytest.raises(InputError, match=r"weights \{.*\} for the datasets a, b; wanted a positive number for each"):
        mixture_of({"a": (1, 1, 1), "b": (1, 1, 1)}, weights)


def test_a_mixture_of_nothing_is_told():
    with pytest.raises(InputError, match="a mixture of no datasets; wanted at least one"):
        Mixture({})


@pytest.mark.parametrize("weights", [None, {"a": 1.0, "b": 1.0}])
def test_a_dataset_that_fills_no_batch_is_told_and_not_passed_over(weights):
    mixture = Mixture({"a": lambda _: 3, "b": lambda epoch: int(epoch == 0)}, weights)
    assert mixture.steps(0) == 4
    for ask in (mixture.steps, mixture.remaining):
        with pytest.raises(InputError, match="dataset b: its rows fill no batch for every reader of epoch 1; use"):
            ask(1)
