from pathlib import Path

import pytest

from cisray.config import check_settings
from cisray.errors import InputError
from cisray.flows.swap_job import Run, SwapJob

pytestmark = pytest.mark.ray
SETTINGS = {
    "name": "stress",
    "out": "any",
    "conditions": {"heat": {"dataset": "a"}, "cold": {"dataset": "b"}},
    "train": {"model": {"architecture": "linear"}, "training": {"batch_size": 7}},
}


def swap_job(**changes):
    return check_settings(SETTINGS | changes, SwapJob, source="swap.toml")


def test_every_seed_is_trained_on_every_fold():
    job = swap_job(seeds=[3, 5], loci={"num_folds": 3})
    names = [run.name for run in job.runs]
    assert names[:3] == ["fold-0.seed-3", "fold-0.seed-5", "fold-1.seed-3"]
    assert len(names) == 6
    assert [run.name for run in swap_job().runs] == ["splits"]


def test_a_training_has_its_conditions_dataset_and_its_runs_seed():
    training = swap_job().train_job(Run(0, 5), "cold", dataset=Path("d"), out=Path("o"))
    assert (training.name, training.dataset, training.out) == ("stress-cold", "d", "o")
    assert (training.training.seed, training.training.batch_size) == (5, 7)
    assert swap_job().example.training.seed == 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"conditions": {"heat": {"dataset": "a"}}}, "conditions: heat; wanted two or more to swap between"),
        (
            {"conditions": {"a/b": {"dataset": "a"}, "c": {"dataset": "b"}}},
            "conditions: 'a/b': wanted a name of letters",
        ),
        ({"train": {"out": "x"}}, "train: out belongs to the swap itself"),
        ({"train": {"model": {"architecture": "linear", "k": 3}}}, r"swap stress: train: unknown key model.*k"),
        ({"seeds": [1, 1]}, r"seeds=\[1, 1\]; wanted each once"),
        ({"batch_size": 0}, "batch_size=0; wanted at least one window"),
        ({"loci": {"num_folds": 1}}, "num_folds=1; wanted 3 or more"),
        ({"metric": "mse"}, "metric = 'mse'"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, told):
    with pytest.raises(InputError, match=told):
        swap_job(**changes)
