"""The studies of measured sequences: each job is read as its verb reads it, and fits its data and its dataset."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cisray.bundle import build_network
from cisray.config import load_job
from cisray.datasets.from_table import TableSource
from cisray.datasets.loci.folds import SPLITS
from cisray.flows.build import TableJob
from cisray.flows.swap_job import SwapJob
from cisray.flows.sweep_job import SweepJob
from cisray.flows.train_job import TrainJob
from cisray.geometry import Geometry
from cisray.sweeps.space import draw_at_random

pytestmark = pytest.mark.ray
JOBS = Path(__file__).parents[2] / "jobs"
DATA = os.environ.get("CISRAY_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="CISRAY_DATA names no folder")
EQUAL_ONLY = ["duplicates.min_identity=1"]
"""The search for sequences that are nearly alike takes seconds a study."""
FACTORS = {  # the files of jobs/encode_tf, and the peaks that train
    "ARID3A_K562_ARID3A_(sc-8821)_Stanford": 8526,
    "CTCFL_K562_CTCFL_(SC-98982)_HudsonAlpha": 11033,
    "ELK1_GM12878_ELK1_(1277-1)_Stanford": 5084,
    "FOXA1_HepG2_FOXA1_(SC-101058)_HudsonAlpha": 42614,
    "GABPA_GM12878_GABP_HudsonAlpha": 6066,
    "REST_GM12878_NRSF_HudsonAlpha": 6406,
}
# A dataset's job, what learns from it, the window, and rows of the files with the share that is tested.
STUDIES = [
    ("optimus5prime/dataset.toml", ["baseline.toml", "train.toml"], 50, 25_000, 0.2),
    ("cnnprom/ecoli/dataset.toml", ["baseline.toml", "train.toml"], 81, 3839, 0.2),
    ("cnnprom/bsubtilis/dataset.toml", ["baseline.toml", "train.toml"], 81, 1373, 0.2),
    ("cnnprom/arabidopsis/dataset.toml", ["baseline.toml", "train.toml"], 251, 4376, 0.2),
    ("ecoli_promoters/dataset.toml", ["baseline.toml"], 150, 17_667, 4549 / 17_667),
    ("ecoli_promoters/dataset_active.toml", ["baseline_active.toml", "train_active.toml"], 150, 17_667, 4549 / 17_667),
]


def rows_of(plan):
    return {split: sum(shard.num_rows for shard in plan.shards if shard.split == split) for split in SPLITS}


def network_of(job, window_bp):
    geometry = Geometry(window_bp=window_bp, bin_bp=window_bp)
    return build_network(job.model, geometry=geometry, num_tracks=1)


@pytest.mark.parametrize(("dataset", "learners", "window_bp"), [each[:3] for each in STUDIES])
def test_what_learns_reads_the_dataset_beside_it(dataset, learners, window_bp):
    folder = (JOBS / dataset).parent
    made = load_job(JOBS / dataset, TableJob)
    jobs = [load_job(folder / name, TrainJob) for name in learners]
    assert {job.dataset for job in jobs} == {made.out}
    assert len({job.out for job in jobs} | {made.out}) == len(jobs) + 1
    for name, job in zip(learners, jobs, strict=True):
        network = network_of(job, window_bp)
        assert not job.training.reverse_complement  # these have a direction, and so have the features
        if name.startswith("train"):
            with torch.no_grad():
                assert network.eval()(torch.zeros(2, window_bp, dtype=torch.uint8)).shape == (2, 1, 1)


@needs_data
@pytest.mark.parametrize(("dataset", "window_bp", "num_rows", "tested"), [(one[0], *one[2:]) for one in STUDIES])
def test_a_study_reads_its_files_and_tests_what_it_says(dataset, window_bp, num_rows, tested):
    source = TableSource(load_job(JOBS / dataset, TableJob, EQUAL_ONLY), DATA)
    assert (source.layout.geometry.window_bp, len(source.tracks)) == (window_bp, 1)
    plan = source.plan()
    rows = rows_of(plan)
    left_out = sum(count for reason, count in plan.dropped.items() if "limit_rows" not in reason)
    assert sum(rows.values()) + left_out == num_rows
    assert rows["test"] == round(tested * num_rows)
    assert 0 < rows["valid"] < rows["train"]


@needs_data
def test_promoters_are_active_above_the_authors_threshold():
    names = ("ecoli_promoters/dataset.toml", "ecoli_promoters/dataset_active.toml")
    measured, labelled = (TableSource(load_job(JOBS / name, TableJob, EQUAL_ONLY), DATA) for name in names)
    plan = measured.plan()
    assert plan.shards == labelled.plan().shards
    for shard in plan.shards:
        expression, active = (source.build(shard.values) for source in (measured, labelled))
        values = np.array([np.frombuffer(each, "<f4")[0] for each in expression.rows["target"].to_pylist()])
        labels = np.array([each[0] for each in active.rows["target"].to_pylist()])
        assert labels.tolist() == (values > np.float32(0.246)).astype(int).tolist()


@needs_data
@pytest.mark.parametrize("name", sorted(FACTORS))
def test_a_factor_is_named_on_the_command_line(name):
    paths = [
        f"files.{number}.path=tf_binding/encode_chipseq/{name}_{part}.seq.gz" for number, part in enumerate(("AC", "B"))
    ]
    source = TableSource(load_job(JOBS / "encode_tf/dataset.toml", TableJob, [*paths, *EQUAL_ONLY]), DATA)
    plan = source.plan()
    assert (source.layout.geometry.window_bp, source.kind) == (101, "labels")
    rows = rows_of(plan)
    assert rows["test"] == 1000
    peaks = FACTORS[name] - sum(plan.dropped.values())
    assert rows["train"] + rows["valid"] == 2 * peaks
    assert plan.facts["shuffled_rows"] == peaks


def test_every_trial_of_the_sweep_is_a_network_of_its_architecture():
    job = load_job(JOBS / "encode_tf/sweep.toml", SweepJob)
    made = load_job(JOBS / "encode_tf/dataset.toml", TableJob)
    assert (job.name, job.train["dataset"]) == (made.name, made.out)
    assert job.num_trials >= 20
    assert job.stopping.method == "asha"
    seen = set()
    for number in range(40):
        settings = draw_at_random(job.space, seed=job.seed, number=number)
        trial = job.train_job(settings, Path("any"), job.runs[0])
        assert trial.training.reverse_complement
        assert {name.split(".")[0] for name in settings} <= {"model", "training", trial.model.architecture}
        network_of(trial, 101)
        seen.add(trial.model.architecture)
    assert seen == {"deepbind", "basset", "danq"}
    baselines = {job.baseline_job(name, Path("any"), job.runs[0]).model.architecture for name in job.baselines}
    assert baselines == {"linear", "gkm_svm", "random_forest", "gradient_boosting"}


def test_the_swap_is_of_datasets_that_are_built():
    job = load_job(JOBS / "cnnprom/swap.toml", SwapJob)
    for name, condition in job.conditions.items():
        assert condition.dataset == load_job(JOBS / "cnnprom" / name / "dataset.toml", TableJob).out
    assert not job.example.training.reverse_complement
