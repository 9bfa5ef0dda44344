from pathlib import Path

import pytest

from cisray.flows import sweep_end
from cisray.flows.sweep_job import SweepJob
from cisray.flows.sweep_trial import Trials
from cisray.sweeps.folder import SweepFolder
from cisray.sweeps.space import LogUniform

pytestmark = pytest.mark.ray


@pytest.mark.parametrize(("learned", "read"), [(True, "both"), (False, "forward")])
def test_the_test_split_is_read_on_the_strands_that_were_learned(make_card, monkeypatch, tmp_path, learned, read):
    model = {"architecture": "basenji"}
    train = {"dataset": "data", "model": model, "training": {"reverse_complement": learned}}
    space = {"training.learning_rate": LogUniform(low=1e-3, high=1e-2)}
    job = SweepJob(name="study", out=str(tmp_path), train=train, space=space)
    asked = []

    def evaluate(one, *, report):
        asked.append(one)
        return Path(one.out)

    monkeypatch.setattr(sweep_end, "read_card", lambda path: make_card(counts={"train": 9, "valid": 3, "test": 2}))
    monkeypatch.setattr(sweep_end, "evaluate", evaluate)
    monkeypatch.setattr(sweep_end, "_means", lambda folder: {"auroc": 0.5})
    trials = Trials(job, SweepFolder(tmp_path), None, 9)
    bundles = {"winner": tmp_path / "winner", "kmers": tmp_path / "kmers"}
    found = sweep_end.measure_on_test(trials, bundles, report=lambda progress: None)
    assert found == {"winner": {"": {"auroc": 0.5}}, "kmers": {"": {"auroc": 0.5}}}
    assert [(one.strands, one.split) for one in asked] == [(read, "test")] * 2
