"""The verb that says what a job will take."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cisray.cli.options import JobFile, Overrides

if TYPE_CHECKING:
    from cisray.flows.plans.figures import Figure, JobPlan, PlanSpec

UNITS = {
    "bytes": ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "bytes")),
    "FLOP": ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1, "FLOP")),
    "seconds": ((3600, "hours"), (60, "minutes"), (1, "seconds"), (1e-3, "ms")),
}


def plan(
    job_path: JobFile,
    overrides: Overrides = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that work on it; of a sweep, trials at a time. Unset: what the job takes here."),
    ] = None,
    speed: Annotated[float, typer.Option(help="Of one of them, as a multiple of one on this machine.")] = 1.0,
    probe: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long the work is timed here, about; 0 counts only.")
    ] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a build, training, sweep or scoring will take: shards, bytes, FLOP, time, memory, and how one knows."""
    import json

    from cisray.config import check_settings
    from cisray.flows.plans.figures import PlanSpec

    settings = {"workers": workers, "speed": speed, "probe_s": probe}
    spec = check_settings(settings, PlanSpec, source="cisray plan")
    plans = _planner(job_path)(job_path, overrides or (), spec)
    if as_json:
        print(json.dumps([one.to_plain() for one in plans], indent=2))
        return
    for one in plans:
        print(f"{one.verb} {one.name}")
        for figure in one.figures:
            print(f"  {figure.name:<8}{_amount(figure):>22}  {figure.basis}: {figure.why}")


def _amount(figure: "Figure") -> str:
    """Write a figure in a unit that suits its size."""
    for size, unit in UNITS.get(figure.unit, ()):
        if figure.value >= size:
            value = figure.value / size
            return f"{value:,.0f} {unit}" if value >= 100 or unit == "bytes" else f"{value:.3g} {unit}"
    return f"{figure.value:,.0f} {figure.unit}"


def _planner(job_path: Path) -> Callable[[Path, Sequence[str], "PlanSpec"], "list[JobPlan]"]:
    """Return what plans the kind of job that a file holds, as its keys tell."""
    import tomllib

    try:
        values = tomllib.loads(job_path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        values = {}  # the build's reader says what is wrong with it
    if "space" in values:
        return _plan_sweep
    if "variants" in values:
        return _plan_score
    return _plan_train if isinstance(values.get("model"), dict) else _plan_build


def _plan_build(job_path: Path, overrides: Sequence[str], spec: "PlanSpec") -> "list[JobPlan]":
    from cisray.config import load_job
    from cisray.flows.build_genomes import AnyBuildJob, GenomesJob, divide, member_jobs
    from cisray.flows.plans.build import plan_build

    job: Any = load_job(job_path, AnyBuildJob, overrides)
    if not isinstance(job, GenomesJob):
        return [plan_build(job, spec)]
    regions = divide(job)[0]
    return [plan_build(member, spec, regions.get(name)) for name, member in member_jobs(job).items()]


def _plan_train(job_path: Path, overrides: Sequence[str], spec: "PlanSpec") -> "list[JobPlan]":
    from cisray.config import load_job
    from cisray.flows.plans.train import plan_train
    from cisray.flows.train_job import TrainJob

    return [plan_train(load_job(job_path, TrainJob, overrides), spec)]


def _plan_sweep(job_path: Path, overrides: Sequence[str], spec: "PlanSpec") -> "list[JobPlan]":
    from cisray.config import load_job
    from cisray.flows.plans.sweep import plan_sweep
    from cisray.flows.sweep_job import SweepJob

    return [plan_sweep(load_job(job_path, SweepJob, overrides), spec)]


def _plan_score(job_path: Path, overrides: Sequence[str], spec: "PlanSpec") -> "list[JobPlan]":
    from cisray.config import load_job
    from cisray.flows.plans.score import plan_score
    from cisray.flows.score_job import ScoreJob
    from cisray.registry import fetch_models

    job = load_job(job_path, ScoreJob, overrides)
    return [plan_score(job, spec, list(fetch_models([job.model, *job.ensemble], head=job.head)))]
