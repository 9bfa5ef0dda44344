import json

import pytest

from whole_program import JOBS

pytestmark = pytest.mark.ray


@pytest.fixture
def planned(cisray):
    """Plan a job, counting only, and return the one plan."""

    def plan(name, *settings):
        overrides = [word for one in settings for word in ("--set", one)]
        outcome = cisray("plan", JOBS / name, *overrides, "--probe", 0, "--json")
        assert outcome.code == 0, outcome.err
        (one,) = json.loads(outcome.out)
        return one["verb"], {figure["name"]: figure["value"] for figure in one["figures"]}

    return plan


def test_what_kind_of_job_it_is_stands_in_the_file(planned, simulated, dataset, bundle, tmp_path):
    out = f"out={tmp_path / 'out'}"
    verb, build = planned("dataset.toml", f"data_dir={simulated}", out)
    assert (verb, build["workers"] >= 1) == ("build", True)
    verb, train = planned("train.toml", f"dataset={dataset}", out)
    assert (verb, train["FLOP"] > 0) == ("train", True)
    verb, baseline = planned("baseline.toml", f"dataset={dataset}", out)
    assert (verb, "FLOP" in baseline) == ("train", False)
    assert train["rows"] % baseline["rows"] == 0
    verb, sweep = planned("sweep.toml", f"train.dataset={dataset}", out)
    assert (verb, sweep["trials"]) == ("sweep", 8)
    verb, score = planned("score.toml", f"data_dir={simulated}", f"model={bundle}", out)
    assert (verb, score["rows"]) == ("score", 615)
    assert not (tmp_path / "out").exists()


def test_a_person_reads_what_each_figure_rests_on(cisray, simulated, tmp_path):
    settings = ("--set", f"data_dir={simulated}", "--set", f"out={tmp_path / 'out'}")
    outcome = cisray("plan", JOBS / "dataset.toml", *settings, "--probe", 0, "--workers", 2)
    first, *lines = outcome.out.splitlines()
    assert first == "build tiny"
    assert {line.split()[0] for line in lines} == {"shards", "rows", "read", "workers", "written"}
    assert all("counted: " in line for line in lines)
    assert any(line.split()[:3] == ["workers", "2", "processes"] for line in lines)


def test_bad_input_ends_as_it_does_elsewhere(cisray, tmp_path):
    outcome = cisray("plan", tmp_path / "none.toml")
    assert outcome.code == 2
    assert "no such job file" in outcome.err
    outcome = cisray("plan", JOBS / "dataset.toml", "--workers", 0)
    assert outcome.code == 2
    assert "cisray plan: workers = 0: Input should be greater than or equal to 1" in outcome.err
    outcome = cisray("plan", JOBS / "train.toml", "--set", "training.epoch=3")
    assert outcome.code == 2
    assert "unknown key training.epoch" in outcome.err
