"""A sweep without training: a trial's curve is a formula of its settings, and the order of events is drawn."""

import csv
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cisray.sweeps.folder import SweepFolder
from cisray.sweeps.leaderboard import rank, write_leaderboard
from cisray.sweeps.population import Population
from cisray.sweeps.schedule import Result, Rules, best_so_far, make_schedule, mean_curve
from cisray.sweeps.search import GridSearch, RandomSearch, TpeSearch
from cisray.sweeps.space import Choice, LogUniform, grid
from cisray.sweeps.stopping import Asha, MedianStopping, NoStopping

EPOCHS = 4
SPACE = {
    "training.learning_rate": LogUniform(low=1e-4, high=1e-1, points=4),
    "training.clip_norm": Choice(values=(0.5, 1.0, 2.0)),
}


def make_rules(**changes):
    rules = Rules(
        search=RandomSearch(),
        space=SPACE,
        stopping=Asha(method="asha", factor=2),
        seed=5,
        most_trials=9,
        most_examples=None,
        most_hours=None,
        width=3,
        epochs_of=lambda settings: EPOCHS,
        examples_of=lambda settings: EPOCHS * 100,
    )
    return rules._replace(**changes)


def do(step, history):
    """Train by a formula; one trial in five fails half-way, as its settings say."""
    rate = math.log10(step.settings["training.learning_rate"])
    before = history.get((step.origin, step.rung - 1), [])
    gain = 0.1 - 0.02 * (rate + 2) ** 2 + 0.005 * step.settings["training.clip_norm"]
    curve = list(before)
    while len(curve) < step.epoch:
        curve.append((curve[-1] if curve else 0.0) + gain / (len(curve) + 1))
    fails = step.rung == 1 and int(-rate * 1000) % 5 == 0
    if not fails:
        history[step.number, step.rung] = curve
    return Result(
        number=step.number,
        rung=step.rung,
        epoch=step.epoch,
        curve=[] if fails else best_so_far(curve),
        values=[] if fails else curve[-1:],
        latest=math.nan if fails else curve[-1],
        examples=100 * step.epoch,
        seconds=1800.0,
        settings=dict(step.settings),
        finished=not fails and step.epoch == EPOCHS,
        failure="the loss is nan" if fails else "",
    )


def run(rules, *, slots=1, order=None, killed_after=(), folder=None):
    """Run a sweep: steps end in the order that `order` draws; a kill forgets what is under way and all in memory."""
    order, killed_after, ended = order or random.Random(0), set(killed_after), 0
    kept, history = [], {}
    begun = {}
    while True:
        schedule = make_schedule(rules)
        for number, values in begun.items():
            if number not in schedule.settings:
                schedule.begin(number, values)
        schedule.tell(*sorted(kept, key=lambda result: (result.number, result.rung)))
        running = []
        while True:
            step = schedule.next_step({one.number for one in running}) if len(running) < slots else None
            if step is not None:
                begun[step.number] = dict(step.settings) if step.rung == 0 else begun[step.number]
                running.append(step)
            elif not running:
                return schedule
            else:
                result = do(running.pop(order.randrange(len(running))), history)
                kept.append(result)
                schedule.tell(result)
                ended += 1
                if ended in killed_after:
                    killed_after.discard(ended)
                    break


SEARCHES = {
    "random": make_rules(),
    "median": make_rules(stopping=MedianStopping(method="median", least_trials=2)),
    "to the end": make_rules(stopping=NoStopping()),
    "grid": make_rules(search=GridSearch(method="grid"), most_trials=12),
    "tpe": make_rules(search=TpeSearch(method="tpe", random_trials=2), most_trials=7),
    "examples": make_rules(most_examples=1500, most_trials=100),
    "population": make_rules(search=Population(method="population"), most_trials=6, stopping=NoStopping()),
}
UNDISTURBED = {}


@pytest.mark.parametrize("name", SEARCHES)
@settings(max_examples=15)
@given(data=st.data())
def test_kills_slots_and_the_order_of_events_change_nothing(name, data):
    if name not in UNDISTURBED:
        UNDISTURBED[name] = run(SEARCHES[name])
    undisturbed = UNDISTURBED[name]
    disturbed = run(
        SEARCHES[name],
        slots=data.draw(st.integers(1, 5)),
        order=random.Random(data.draw(st.integers(0, 1000))),
        killed_after=data.draw(st.lists(st.integers(1, 15), max_size=3)),
    )
    assert disturbed.settings == undisturbed.settings
    assert disturbed.status == undisturbed.status
    assert disturbed.results == undisturbed.results
    assert rank(disturbed) == rank(undisturbed)


@pytest.mark.parametrize("name", ["asha", "median"])
@given(seed=st.integers(0, 1000), slots=st.integers(1, 6))
@settings(max_examples=20)
def test_each_decision_is_that_of_a_look_at_all_trials_before(name, seed, slots):
    rules = make_rules(seed=seed, most_trials=25)
    if name == "median":
        rules = rules._replace(stopping=MedianStopping(method="median", least_trials=2))
    schedule = run(rules, slots=slots, order=random.Random(seed))
    looked_at = 0
    for number, results in schedule.results.items():
        for result in results:
            if result.failure or result.finished:
                continue
            before = [
                next((one for one in schedule.results[other] if one.epoch >= result.epoch or one.failure), None)
                for other in range(number)
            ]
            curves = [one.curve[: result.epoch] for one in before if one is not None and not one.failure]
            value = result.curve[-1]
            if name == "median":
                passes = len(curves) < 2 or value >= np.median([np.mean(curve) for curve in curves])
            else:
                passes = sum(curve[-1] > value for curve in curves) < max(1, (len(curves) + 1) // 2)
            assert passes == (result is not results[-1])
            looked_at += 1
    assert looked_at > 25


def test_asha_gives_most_trials_up_and_keeps_the_best():
    whole, halved = run(make_rules(stopping=NoStopping(), most_trials=30)), run(make_rules(most_trials=30))
    assert halved.settings == whole.settings
    assert sum(len(one[-1].curve) for one in halved.results.values()) < 0.7 * sum(
        len(one[-1].curve) for one in whole.results.values()
    )
    assert rank(halved)[0].number == rank(whole)[0].number
    assert {row.status for row in rank(halved)} == {"finished", "stopped", "failed"}


def test_a_trial_with_a_failure_ends_with_its_reason_and_the_others_go_on():
    rows = rank(run(make_rules(most_trials=30)))
    failed = [row for row in rows if row.status == "failed"]
    assert failed
    assert {row.failure for row in failed} == {"the loss is nan"}
    assert rows[-len(failed) :] == failed
    assert [row.rank for row in rows] == list(range(1, 31))


def test_budgets_end_a_sweep():
    assert len(run(make_rules(most_trials=4)).settings) == 4
    hours = run(make_rules(most_trials=100, most_hours=3.0, stopping=NoStopping()))
    assert len(hours.settings) == 6  # half an hour each
    examples = run(make_rules(most_trials=100, most_examples=1500, stopping=NoStopping()))
    # a trial reads 400; the fifth would begin after 1,600
    assert len(examples.settings) == 4
    whole_grid = run(make_rules(search=GridSearch(method="grid"), most_trials=100))
    assert list(whole_grid.settings.values()) == grid(SPACE)
    assert len(whole_grid.settings) == 12


def test_examples_that_were_saved_let_more_trials_begin():
    saved = run(make_rules(most_trials=100, most_examples=4000))
    whole = run(make_rules(most_trials=100, most_examples=4000, stopping=NoStopping()))
    assert len(saved.settings) > len(whole.settings)


def test_a_population_ends_better_than_the_same_trials_alone():
    rules = SEARCHES["population"]
    together = run(rules)
    alone = run(make_rules(most_trials=6, stopping=NoStopping()))
    assert together.settings == alone.settings  # as they begin
    means = [sum(row.value or 0.0 for row in rank(one)) / 6 for one in (together, alone)]
    assert means[0] > means[1]
    began = {number: results[0].settings for number, results in together.results.items()}
    ended = {number: results[-1].settings for number, results in together.results.items()}
    assert began != ended


def test_a_population_copies_who_is_best_now_and_not_who_was():
    schedule = make_schedule(make_rules(search=Population(method="population"), most_trials=4, stopping=NoStopping()))
    decayed, latest = 2, [0.5, 0.6, 0.1, 0.4]
    for number in range(4):
        result = do(schedule.next_step(range(number)), {})._replace(failure="", finished=False, latest=latest[number])
        schedule.tell(result._replace(curve=[0.9 if number == decayed else latest[number]]))
    steps = [schedule.next_step(range(number)) for number in range(4)]
    assert [step.origin for step in steps] == [0, 1, 1, 3]


def test_a_schedule_refuses_what_is_out_of_order():
    schedule = make_schedule(make_rules())
    with pytest.raises(ValueError, match="trial 1 begins after 0 others"):
        schedule.begin(1, {})
    step = schedule.next_step(())
    result = do(step, {})
    with pytest.raises(ValueError, match="trial 0 has 0 rungs"):
        schedule.tell(result._replace(rung=1))


@given(st.lists(st.one_of(st.floats(-1, 1), st.just(math.nan)), max_size=8))
def test_the_best_so_far_is_the_running_maximum(values):
    curve = best_so_far(values)
    for index, value in enumerate(curve):
        seen = [one for one in values[: index + 1] if not math.isnan(one)]
        assert (math.isnan(value) and not seen) or value == max(seen)


def test_runs_of_different_length_are_averaged_to_the_end():
    assert mean_curve([[0.1, 0.3], [0.2, 0.4, 0.6]]) == pytest.approx([0.15, 0.35, 0.45])


def test_a_folder_gives_back_what_was_kept(tmp_path):
    schedule = run(make_rules())
    folder = SweepFolder(tmp_path)
    for number, values in schedule.settings.items():
        folder.begin(number, values)
        folder.begin(number, {"something": "else"})  # has begun
        for result in schedule.results[number]:
            folder.keep(result)
    begun, results = folder.read()
    assert begun == schedule.settings
    assert results == [result for number in begun for result in schedule.results[number]]
    lost = folder.trial(0) / "rung-01.json"
    lost.write_text("")
    assert [one.rung for one in folder.read()[1] if one.number == 0] == [0]


def test_more_than_a_hundred_rungs_are_read_in_order(tmp_path):
    folder = SweepFolder(tmp_path)
    folder.begin(0, {})
    result = do(make_schedule(make_rules()).next_step(()), {})
    for rung in range(102):
        folder.keep(result._replace(rung=rung))
    assert [one.rung for one in folder.read()[1]] == list(range(102))


def test_a_receipt_keeps_what_is_no_number(tmp_path):
    folder = SweepFolder(tmp_path)
    folder.begin(0, {"training.learning_rate": 0.1, "model.widths": (1, 2)})
    result = do(make_schedule(make_rules()).next_step(()), {})
    folder.keep(result._replace(curve=[math.nan, 0.5], values=[math.nan], latest=math.nan))
    ((read,),) = [folder.read()[1]]
    assert math.isnan(read.curve[0])
    assert read.curve[1] == 0.5
    assert math.isnan(read.values[0])
    assert math.isnan(read.latest)


def test_checkpoints_go_when_nobody_goes_on_from_them(tmp_path):
    folder = SweepFolder(tmp_path)
    for name in ("seed-0", "seed-0.unfinished", "run-generation-00.unfinished", "run-generation-01.unfinished"):
        (folder.trial(3) / name / "ray").mkdir(parents=True)
    folder.drop_generations(3, before=1)
    assert {path.name for path in folder.trial(3).iterdir()} == {
        "seed-0",
        "seed-0.unfinished",
        "run-generation-01.unfinished",
    }
    folder.drop_checkpoints(3)
    assert {path.name for path in folder.trial(3).iterdir()} == {"seed-0"}


def test_the_leaderboard_file_has_a_row_per_trial(tmp_path):
    rows = rank(run(make_rules(most_trials=30)))
    finished = [row.value for row in rows if row.status == "finished"]
    middle = (finished[0] + finished[1]) / 2
    one = {"architecture": "linear", "spread": None, "values": [middle]}
    results = {
        "trials": [row._asdict() for row in rows],
        "winner": {"trial": rows[0].number},
        "baselines": {
            "kmers": one | {"value": middle, "failure": ""},
            "wrong": one | {"value": None, "failure": "fell over"},
        },
        "test": {"winner": {"": {"auroc": 0.8}}, "kmers": {"": {"auroc": 0.9}}},
    }
    write_leaderboard(tmp_path / "leaderboard.csv", results)
    with (tmp_path / "leaderboard.csv").open() as handle:
        told = list(csv.DictReader(handle))
    assert [one["rank"] for one in told] == [str(place) for place in range(1, len(rows) + 3)]
    assert [told[1]["model"], told[-1]["model"]] == ["kmers", "wrong"]
    assert [told[1]["status"], told[1]["model.architecture"], told[1]["epochs"]] == ["baseline", "linear", ""]
    assert [one["test.auroc"] for one in told[:3]] == ["0.8", "0.9", ""]
    assert told[-1]["failure"] == "fell over"
    table = [one for one in told if one["status"] != "baseline"]
    assert [int(one["model"]) for one in table] == [row.number for row in rows]
    assert [one["status"] for one in table] == [row.status for row in rows]
    best = table[0]
    assert float(best["valid.pearson"]) == rows[0].value == max(row.value for row in rows if row.status == "finished")
    assert float(best["training.learning_rate"]) == rows[0].settings["training.learning_rate"]
    assert best["spread"] == ""
    assert table[-1]["failure"] == "the loss is nan"


def test_the_spread_is_over_a_trials_runs():
    schedule = make_schedule(make_rules(stopping=NoStopping(), most_trials=1))
    step = schedule.next_step(())
    schedule.tell(do(step, {})._replace(curve=[0.1, 0.4], values=[0.3, 0.5], finished=True, failure=""))
    (row,) = rank(schedule)
    assert (row.value, row.spread) == (0.4, pytest.approx(0.1 * math.sqrt(2)))
    assert row.status == "finished"


def test_a_run_without_a_value_leaves_no_mean_and_no_spread():
    schedule = make_schedule(make_rules(stopping=NoStopping(), most_trials=1))
    result = do(schedule.next_step(()), {})._replace(finished=True, failure="")
    schedule.tell(result._replace(curve=[math.nan], values=[math.nan, 0.4]))
    (row,) = rank(schedule)
    assert (row.value, row.spread, row.values) == (None, None, [None, 0.4])
