import pytest

from cisray.datasets.card import read_card
from cisray.flows.plans import build as module
from cisray.flows.plans.build import plan_build
from cisray.flows.plans.figures import COMMAND_S, SHARD_S, PlanSpec

pytestmark = pytest.mark.ray
COUNT_ONLY = PlanSpec(probe_s=0)


def test_what_is_counted_is_what_the_build_made(dataset, build_job, simulated, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "probe_workers", None)  # nothing is timed
    plan = plan_build(build_job(tmp_path / "out"), COUNT_ONLY)
    card = read_card(dataset)
    assert plan.value("shards") == len(list((dataset / "examples").rglob("*.parquet")))
    assert plan.value("rows") >= sum(card.counts.values())
    assert plan.value("rows") <= sum(card.counts.values()) + sum(card.dropped.values())
    assert plan.value("read") == sum((simulated / one.path).stat().st_size for one in card.sources)
    assert {figure.basis for figure in plan.figures} == {"counted"}
    assert not (tmp_path / "out").exists()


def test_workers_are_those_asked_for_but_no_more_than_shards(build_job, tmp_path):
    job = build_job(tmp_path / "out")
    assert plan_build(job, PlanSpec(probe_s=0, workers=3)).value("workers") == 3
    whole = plan_build(job, PlanSpec(probe_s=0, workers=1000))
    assert whole.value("workers") == whole.value("shards") < 1000


def test_a_probe_says_what_the_files_and_the_time_come_to(ray_here, dataset, build_job, tmp_path):
    job = build_job(tmp_path / "out")
    plan = plan_build(job, PlanSpec(probe_s=30))
    size = sum(path.stat().st_size for path in (dataset / "examples").rglob("*.parquet"))
    assert plan.value("written") == pytest.approx(size, rel=0.1)
    assert plan.value("memory") > 100e6
    work_s, shards = plan.value("work"), plan.value("shards")
    assert work_s > 0
    assert plan.value("time") >= COMMAND_S["build"] + work_s / plan.value("workers") + SHARD_S * shards
    assert not list(tmp_path.iterdir())
    timed = {figure.name: figure.basis for figure in plan.figures}
    assert timed["time"] == timed["memory"] == timed["written"] == "measured"


def test_faster_workers_take_less(ray_here, build_job, tmp_path, monkeypatch):
    probed = []
    real = module.probe_workers

    def once(*args, **kwargs):
        if not probed:
            probed.append(real(*args, **kwargs))
        return probed[0]

    monkeypatch.setattr(module, "probe_workers", once)
    job = build_job(tmp_path / "out")
    here = plan_build(job, PlanSpec(probe_s=0.1, workers=2)).value("work")
    assert plan_build(job, PlanSpec(probe_s=0.1, workers=2, speed=20)).value("work") == pytest.approx(here / 20)
