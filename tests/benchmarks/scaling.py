"""What does a shard cost, and a trial, as there are more of them: in seconds, in the driver's memory, in bytes?

`shards` runs tasks that do nothing through `flows.shards`, by two actors: that is what a shard costs beside its work.
`receipts` takes finished tasks, written directly, through what a restarted run and its end do with all of them: the
scan that verifies, the walk that makes a manifest, the renaming. `trials` takes a sweep's search through trials
that return at once. `page` writes the leaderboard and the page of a sweep of so many trials, `mlflow` their
runs into a store of its own. Every part grows by tens; a cost per piece that grows with their number is worse than
linear.
"""

import hashlib
import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from _genome import JOBS, scratch_folder
from _table import Options, finish, print_table, read_options, seconds_of, significant

from cisray.config import load_job
from cisray.files import write_json
from cisray.flows import sweep as sweep_flow
from cisray.flows.cluster import ClusterSpec, cluster
from cisray.flows.shards import RECEIPTS, Receipt, Task, open_staging, run_tasks
from cisray.flows.sweep_job import SweepJob
from cisray.flows.sweep_trial import Trials
from cisray.progress import Report, silent
from cisray.reports.sweep_page import write_sweep_page
from cisray.sweeps.folder import SweepFolder
from cisray.sweeps.leaderboard import LEADERBOARD_NAME, SWEEP_NAME, Row, write_leaderboard
from cisray.sweeps.schedule import Result, Step
from cisray.tracking import tracked_run

PARTS = ("shards", "receipts", "trials", "page", "mlflow")
WITH_RAY = ("shards", "trials")
SIZES = {
    "shards": (100, 1000, 10_000, 100_000),
    "receipts": (1000, 10_000, 100_000),
    "trials": (100, 1000, 10_000, 100_000),
    "page": (100, 1000, 10_000, 100_000),
    "mlflow": (10, 100, 1000),
}
ROW = pa.table({"shard": [0]})
SPACE = 'space={training.learning_rate={kind="loguniform",low=1e-4,high=1e-2}}'
CURVE_EPOCHS = 10


class Nothing:
    """A worker that does nothing, and writes a row about it."""

    def work(self, values: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        """Return the one row."""
        return ROW, {"number": values["number"]}

    def write(self, table: pa.Table, path: Path) -> None:
        """Write it."""
        pq.write_table(table, path)


def tasks_of(count: int) -> list[Task]:
    """Return so many tasks."""
    return [Task(f"{number:07d}", f"rows/{number:07d}.parquet", {"number": number}) for number in range(count)]


def resident() -> int:
    """Return the bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run_shards(folder: Path, count: int) -> dict[str, float]:
    """Do so many tasks by two actors."""
    staging = open_staging(folder / f"shards-{count}", {"count": count})
    assert staging is not None
    before = resident()
    seconds = seconds_of(
        lambda: run_tasks(
            tasks_of(count),
            Nothing,
            staging=staging,
            cluster=ClusterSpec(actors=2, cpus_per_actor=0.5),
            stage="shards",
            report=silent,
        )
    )
    return {"s": seconds, "ms_each": 1e3 * seconds / count, "shards_per_s": count / seconds} | _grown(before)


def finish_shards(folder: Path, count: int) -> dict[str, float]:
    """Scan, walk and rename the receipts of so many tasks that were done before."""
    out, plan = folder / f"receipts-{count}", {"count": count}
    staging = open_staging(out, plan)
    assert staging is not None
    tasks = tasks_of(count)
    (staging.path / RECEIPTS).mkdir()
    (staging.path / "rows").mkdir()
    pq.write_table(ROW, staging.path / "row")
    data = (staging.path / "row").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    for task in tasks:  # renamed and synced by nobody: that is no part of what is asked
        (staging.path / task.file).write_bytes(data)
        receipt = Receipt(task.name, task.file, 1, digest, 0.0, task.values)
        (staging.path / RECEIPTS / f"{task.name}.json").write_text(json.dumps(receipt._asdict()), encoding="utf-8")
    staging.lock.close()
    before = resident()
    opening_s = seconds_of(lambda: _reopened(out, plan))
    staging = open_staging(out, plan)
    assert staging is not None
    found: list[Any] = []
    spec = ClusterSpec(actors=2)
    scan_s = seconds_of(
        lambda: found.append(run_tasks(tasks, Nothing, staging=staging, cluster=spec, stage="shards", report=silent))
    )
    (receipts,) = found
    walk_s = seconds_of(
        lambda: write_json(
            staging.path / "manifest.json",
            {"blocks": [(one.file, one.rows, one.sha256) for one in receipts.values()]},
        )
    )
    finish_s = seconds_of(staging.finish)
    whole = opening_s + scan_s + walk_s + finish_s
    return {
        "open_s": opening_s,
        "scan_s": scan_s,
        "manifest_s": walk_s,
        "finish_s": finish_s,
        "ms_each": 1e3 * whole / count,
    } | _grown(before)


def _reopened(out: Path, plan: dict[str, int]) -> None:
    staging = open_staging(out, plan)
    assert staging is not None
    staging.lock.close()


def _grown(before: int) -> dict[str, float]:
    return {"driver_mb": (resident() - before) / 1e6}


@contextmanager
def returning_at_once() -> Iterator[None]:
    """Let trials come to something at once: the worse, the higher their number's last digits."""

    def step_at_once(trials: Trials, step: Step, report: Report) -> Result:
        curve = [0.9 - (step.number * 7919 % 1000) / 2000] * step.epoch
        ends = trials.job.train_job(step.settings, Path("any"), trials.job.runs[0]).training.epochs
        return Result(
            number=step.number,
            rung=step.rung,
            epoch=step.epoch,
            curve=curve,
            values=curve[-1:],
            latest=curve[-1],
            examples=step.epoch * trials.epoch_examples,
            seconds=0.0,
            settings=dict(step.settings),
            finished=step.epoch >= ends,
        )

    real, sweep_flow.take_step = sweep_flow.take_step, step_at_once
    try:
        yield
    finally:
        sweep_flow.take_step = real


def search_trials(folder: Path, count: int) -> dict[str, float]:
    """Take so many trials of a random search with successive halving through a sweep."""
    out = folder / f"trials-{count}"
    overrides = [f"out={out}", "train.dataset=any", SPACE, f"budget.trials={count}", "at_once=4"]
    overrides += ['search={method="random"}', "baselines={}"]
    job = load_job(JOBS / "sweep.toml", SweepJob, overrides)
    trials = Trials(job, SweepFolder(out), None, 1000)
    before = resident()
    with returning_at_once():
        seconds = seconds_of(lambda: sweep_flow._search(trials, sweep_flow.Unheard(), silent))
    return {"s": seconds, "ms_each": 1e3 * seconds / count} | _grown(before)


def write_page(folder: Path, count: int) -> dict[str, float]:
    """Write the leaderboard, the results and the page of a sweep of so many trials."""
    out = folder / f"page-{count}"
    out.mkdir()
    before = resident()
    rows = [_row(number, count) for number in range(count)]
    results = _results(rows)
    csv_s = seconds_of(lambda: write_leaderboard(out / LEADERBOARD_NAME, results))
    json_s = seconds_of(lambda: write_json(out / SWEEP_NAME, results))
    pages: list[Path] = []
    page_s = seconds_of(lambda: pages.append(write_sweep_page(out)))
    sizes = {"csv_mb": out / LEADERBOARD_NAME, "json_mb": out / SWEEP_NAME, "page_mb": pages[0]}
    return {
        "csv_s": csv_s,
        "json_s": json_s,
        "page_s": page_s,
        "ms_each": 1e3 * (csv_s + json_s + page_s) / count,
        **{name: path.stat().st_size / 1e6 for name, path in sizes.items()},
    } | _grown(before)


def _row(number: int, count: int) -> Row:
    value = 0.9 - 0.5 * number / count
    curve: list[float | None] = [value * (1 - 0.5**epoch) for epoch in range(1, CURVE_EPOCHS + 1)]
    settings = {"training.learning_rate": 1e-4 * 1.0001**number, "model.channels": 8 * (number % 8 + 1)}
    return Row(number + 1, number, "finished", value, None, [value], CURVE_EPOCHS, 1000, 60.0, settings, curve, "")


def _results(rows: list[Row]) -> dict[str, Any]:
    """Return a sweep's results as the flow writes them."""
    rate = {"kind": "loguniform", "low": 1e-4, "high": 1e3, "points": None, "when": {}}
    channels = {"kind": "int", "low": 8, "high": 64, "step": 8, "when": {}}
    return {
        "name": "scaling",
        "datasets": {"": {"name": "none", "digest": "0"}},
        "seed": 0,
        "search": {"method": "random"},
        "stopping": {"method": "none"},
        "space": {"training.learning_rate": rate, "model.channels": channels},
        "runs": ["run"],
        "winner": {"trial": 0, "trained_anew": False, "digest": "0"},
        "trials": [row._asdict() for row in rows],
        "baselines": {},
        "test": {},
        "other_tests": [],
        "definitions": {},
        "cisray_version": "0",
    }


def track_trials(folder: Path, count: int) -> dict[str, float]:
    """Tell MLflow of so many trials, each with five reports."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    before = resident()
    with tracked_run("scaling", kind="sweep", out=folder, settings={}, job_path=JOBS / "sweep.toml") as tracked:

        def track() -> None:
            for number in range(count):
                child = tracked.child(f"trial {count} {number}", settings={"rate": number})
                child.log_metrics({"best.valid.pearson": 0.5})
                child.end()

        seconds = seconds_of(track)
    return {"s": seconds, "ms_each": 1e3 * seconds / count} | _grown(before)


RUNS: dict[str, Callable[[Path, int], dict[str, float]]] = {
    "shards": run_shards,
    "receipts": finish_shards,
    "trials": search_trials,
    "page": write_page,
    "mlflow": track_trials,
}


def measure(folder: Path, part: str, options: Options) -> dict[str, float]:
    """Measure a part at all of its sizes, and print a row for each."""
    sizes = sorted({options.scaled(size, at_least=10) for size in SIZES[part]})
    with cluster(ClusterSpec()) if part in WITH_RAY else nullcontext():
        if part == "shards":
            run_shards(folder, 2)  # loads what others then find loaded
        found = {size: RUNS[part](folder, size) for size in sizes}
    header = list(found[sizes[0]])
    rows = [[f"{size:,}", *(significant(one[name]) for name in header)] for size, one in found.items()]
    print_table(part, ["pieces", *header], rows)
    growth = found[sizes[-1]]["ms_each"] / found[sizes[0]]["ms_each"]
    figures = {f"scaling.{part}.{size}.{name}": value for size, one in found.items() for name, value in one.items()}
    return figures | {f"scaling.{part}.growth_of_cost_per_piece": growth}


def main() -> None:
    """Run the benchmark."""
    options = read_options(__doc__, repeats=1, parts=PARTS)
    figures: dict[str, float] = {}
    with scratch_folder() as folder:
        for part in options.parts:
            figures |= measure(folder, part, options)
    figures["scaling.peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    finish("scaling", figures)


if __name__ == "__main__":
    main()
