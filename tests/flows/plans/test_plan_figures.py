import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.config import check_settings
from cisray.errors import InputError
from cisray.flows.plans.figures import Figure, JobPlan, Phase, PlanSpec, makespan_s, time_figure

pytestmark = pytest.mark.ray  # not started, but imported


def by_the_clock(pieces, workers):
    """Let time pass in whole seconds, and count how many have."""
    waiting, left, clock = list(pieces), [0] * workers, 0
    while waiting or any(left):
        for worker in range(workers):
            while waiting and not left[worker]:
                left[worker] = waiting.pop(0)
        clock += bool(any(left))
        left = [max(0, one - 1) for one in left]
    return clock


@given(st.lists(st.integers(0, 6), max_size=12), st.integers(1, 4))
def test_workers_take_the_next_piece_when_they_are_free(pieces, workers):
    assert makespan_s(pieces, workers) == by_the_clock(pieces, workers)


def test_a_long_piece_that_comes_last_is_waited_for():
    assert makespan_s([1, 1, 1, 1, 8], 4) == 9
    assert makespan_s([8, 1, 1, 1, 1], 4) == 8


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"workers": 0}, r"workers = 0: Input should be greater than or equal to 1"),
        ({"speed": 0.0}, r"speed = 0.0: Input should be greater than 0"),
        ({"probe_s": -1.0}, r"probe_s = -1.0: Input should be greater than or equal to 0"),
    ],
)
def test_what_no_cluster_can_be_is_refused(settings, told):
    with pytest.raises(InputError, match=told):
        check_settings(settings, PlanSpec, source="cisray plan")


def test_the_whole_time_is_that_of_its_parts_which_it_names():
    figure = time_figure([Phase("to start", 2.5, "assumed"), Phase("of work", 40)], "by ten rows")
    assert (figure.value, figure.unit) == (42.5, "seconds")
    assert figure.why == "2.5 s to start (assumed), 40 s of work; by ten rows"
    plan = JobPlan("build", "tiny", [Figure("shards", 3, "shards", "counted", "as laid out"), figure])
    assert plan.value("time") == 42.5
    assert plan.to_plain()["figures"][0] == {
        "name": "shards",
        "value": 3,
        "unit": "shards",
        "basis": "counted",
        "why": "as laid out",
    }
