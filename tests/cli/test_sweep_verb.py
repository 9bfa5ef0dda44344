import pytest

from cisray.cli.sweep_verb import TrackedTrials
from cisray.progress import Progress
from cisray.sweeps.leaderboard import Row

ROW = Row(1, 0, "finished", 0.5, None, [0.5], 3, 100, 1.0, {"a": 1}, [0.5], "")


class Run:
    """A tracked run that writes down what it is told."""

    def __init__(self):
        self.children, self.told = {}, []

    def child(self, name, *, settings):
        return self.children.setdefault(name, Run())

    def report(self, progress):
        self.told.append(progress.figures)

    def log_metrics(self, metrics):
        self.told.append(metrics)

    def end(self, *, failure=""):
        self.told.append(f"ended {failure}".strip())


def test_each_trial_reports_to_a_run_of_its_own_and_closes_it():
    parent = Run()
    with TrackedTrials(parent) as trials:
        trials.begin(0, {"a": 1})(Progress("train", 1, 2, "steps", {"loss": 2.0}))
        trials.begin(1, {"a": 2})
        trials.end(ROW)
        trials.end(ROW._replace(number=1, value=None, failure="out of memory", status="failed"))
    figures = {"best.valid.pearson": 0.5, "spread": None, "epochs": 3}
    assert parent.children["trial 0"].told == [{"loss": 2.0}, figures, "ended"]
    assert parent.children["trial 1"].told[-1] == "ended out of memory"
    assert not parent.told


def test_an_interrupted_sweep_leaves_no_run_open():
    parent = Run()

    def interrupted():
        with TrackedTrials(parent) as trials:
            trials.begin(0, {})
            trials.begin(1, {})
            trials.end(ROW)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        interrupted()
    assert parent.children["trial 0"].told[-1] == "ended"
    assert parent.children["trial 1"].told == ["ended the sweep was interrupted"]
