"""Shards and receipts: the one way a long flow works, dies and goes on.

A flow is a list of tasks. A worker computes a task's table, writes it to a temporary name, renames it, and then
writes a receipt with its checksum. A rerun of the same plan skips tasks whose receipt verifies. Everything stands in a
staging folder beside `out`, which takes `out`'s name when all is done: so `out` is whole or is not there.
"""

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import pyarrow as pa
import ray.data

from cisray.errors import BusyError, InputError
from cisray.files import file_digest, full_disk_told, read_json, replace_folder, value_digest, write_json, written_whole
from cisray.flows.cluster import ClusterSpec
from cisray.flows.resources import room_for
from cisray.progress import Progress, Report

PLAN_NAME = ".plan.json"
LOCK_NAME = ".lock"
RECEIPTS = "receipts"
PLANNED = "planned"
BEGUN = "begun"
RAY_TRAIN = "ray"
# Folders that serve a run and are no part of its result.
SCAFFOLDING = (RECEIPTS, PLANNED, BEGUN, RAY_TRAIN)
# A block of Ray Data comes out when all its rows are done, so each task is one. A round has so many, and more where a
# process would get few: its end waits for the slowest, and the next takes up machines that have come since.
ROUND_TASKS = 1000
TASKS_PER_PROCESS = 50
# Ray gives a task to one process after another for ever, though each dies of the memory it takes, or of what it reads.
MOST_DEATHS = 5


class Task(NamedTuple):
    """One shard of work: its name, the file it makes in the staging folder, and what the worker must know."""

    name: str
    file: str
    values: dict[str, Any]


class Receipt(NamedTuple):
    """The proof that a task is done."""

    name: str
    file: str
    rows: int
    sha256: str
    seconds: float
    facts: dict[str, Any]
    """What the worker counted; "files" are checksums of more files that it wrote into the staging folder."""


class Receipts(Mapping[str, Receipt]):
    """The receipts of finished tasks by name, each read when it is asked for: thousands would fill the memory."""

    def __init__(self, staging: Path, names: Iterable[str]) -> None:
        self._staging = staging
        self._names = list(names)

    def __getitem__(self, name: str) -> Receipt:
        return Receipt(**read_json(_receipt_path(self._staging, name), what="receipt"))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Worker(Protocol):
    """What a flow brings: made once per process, called once per task."""

    def work(self, values: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        """Return a task's table, and the facts for its receipt."""

    def write(self, table: pa.Table, path: Path) -> None:
        """Write a task's table; equal tables give equal bytes."""


class Staging(NamedTuple):
    """The folder where a flow's files gather before `out` gets its name."""

    path: Path
    out: Path
    lock: IO[str]
    """Held open: the lock goes with it, or with the process."""

    def finish(self) -> None:
        """Give the folder its name, then drop what only a rerun needs: to die in between leaves a whole result."""
        if self.out.exists():
            raise InputError(
                f"{self.out}: has come to exist while the work was done; remove it or move it away, then run again to "
                f"finish, which takes a moment: all is in {self.path}"
            )
        _drop_leftovers(self.path)
        replace_folder(self.path, self.out)
        self.lock.close()
        _drop_scaffolding(self.out)


def _drop_leftovers(staging: Path) -> None:
    """Remove what a killed worker had half written; no worker may be at work."""
    for leftover in list(staging.rglob(".*.tmp")):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _drop_scaffolding(out: Path) -> None:
    """Remove a finished run's receipts and checkpoints, and folders that are empty without them."""
    for name in SCAFFOLDING:
        shutil.rmtree(out / name, ignore_errors=True)
    (out / LOCK_NAME).unlink(missing_ok=True)
    for folder in sorted(out.rglob("*"), reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def open_staging(out: Path, plan: Mapping[str, Any]) -> Staging | None:
    """Return the folder to work in, with what an interrupted run of the same plan left; None if `out` is already done.

    Raises:
        InputError: `out` holds something else, unfinished work of other settings lies beside it, or another process
            works on it.
    """
    digest = value_digest(plan)
    if out == Path.cwd():
        raise InputError("out: names the working directory; wanted a folder of its own, such as --set out=runs/mine")
    if out.exists():
        if _is_of_plan(out, digest):
            _drop_scaffolding(out)
            return None
        raise InputError(
            f"{out}: exists, and was not made by this job as it stands now; "
            "remove it, or name another place with --set out=..."
        )
    staging = out.with_name(f"{out.name}.unfinished")
    if staging.exists() and _holds_work(staging) and not _is_of_plan(staging, digest):
        raise InputError(
            f"{staging}: holds unfinished work of other settings, inputs or another version; remove it to begin anew, "
            "take the settings back to go on with it, or name another place with --set out=..."
        )
    try:
        staging.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{staging}: cannot be made ({error.strerror}); name another place with --set out=..."
        ) from None
    lock = _lock(staging)
    _drop_leftovers(staging)
    write_json(staging / PLAN_NAME, {"digest": digest})
    return Staging(staging, out, lock)


def _holds_work(staging: Path) -> bool:
    """Say whether a folder holds more than a process leaves that was killed before it wrote down its plan."""
    return any(path.name != LOCK_NAME and not path.name.endswith(".tmp") for path in staging.iterdir())


def _is_of_plan(folder: Path, digest: str) -> bool:
    """Say whether a folder holds work of the plan with this digest."""
    path = folder / PLAN_NAME
    return path.exists() and bool(read_json(path, what="plan")["digest"] == digest)


def _lock(staging: Path) -> IO[str]:
    """Keep other processes out of a staging folder; raise InputError where one is in it."""
    handle = (staging / LOCK_NAME).open("w")
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise BusyError(f"{staging}: another process works on it; wait for it, or end it first") from None
    return handle


def file_identity(path: Path) -> dict[str, Any]:
    """Return what tells whether an input file was changed: its name, size and time of change."""
    stat = path.stat()
    return {"name": path.name, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


@contextmanager
def unchanged(paths: Sequence[Path], identities: Sequence[Mapping[str, Any]]) -> Iterator[None]:
    """Raise InputError where an input file has changed in the block, rather than for what came of that in it."""
    try:
        yield
    finally:
        check_unchanged(paths, identities)


def check_unchanged(paths: Sequence[Path], identities: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError where an input file is no longer what it was when the run was planned."""
    for path, identity in zip(paths, identities, strict=True):
        if not path.exists():
            raise InputError(
                f"{path}: vanished while the run was under way; put it back, its time of change kept, and run again, "
                "which goes on where this run ended"
            )
        if file_identity(path) != identity:
            raise InputError(
                f"{path}: changed while the run was under way, and no row of it as it is now was taken; put back what "
                "was there, its time of change kept, and run again to go on, or begin anew with what is there now"
            )


def run_tasks(
    tasks: Sequence[Task],
    make_worker: Callable[[], Worker],
    *,
    staging: Staging,
    cluster: ClusterSpec,
    stage: str,
    report: Report,
) -> Receipts:
    """Do every task that has no valid receipt yet, spread over the cluster, and return all receipts by name.

    Args:
        tasks: what is to be done.
        make_worker: picklable; called once in each process.
        staging: where files and receipts go.
        cluster: how many processes, and what each takes.
        stage: what `report` calls it.
        report: told after every task.

    Raises:
        InputError: a worker met bad input, or the cluster can never hold one; what was finished stays for the next run.
    """
    shutil.rmtree(staging.path / BEGUN, ignore_errors=True)  # what an earlier run counted
    done = {task.name for task in tasks if _has_receipt(staging.path, task)}
    open_tasks = [task for task in tasks if task.name not in done]
    report(Progress(stage, len(done), len(tasks), "shards", {"already_done": len(done)}))
    rate = _Rate()
    with room_for(cluster.request, process=_DoTask.__name__, report=report) if open_tasks else nullcontext():
        for outcome in _outcomes(open_tasks, make_worker, staging=staging, cluster=cluster):
            if outcome["error"]:
                raise InputError(outcome["error"])
            if not _receipt_path(staging.path, outcome["name"]).exists():
                raise RuntimeError(f"task {outcome['name']} reported success but left no receipt")
            done.add(outcome["name"])
            report(Progress(stage, len(done), len(tasks), "shards", rate.after(outcome)))
    shutil.rmtree(staging.path / BEGUN, ignore_errors=True)
    return Receipts(staging.path, [task.name for task in tasks])


def _outcomes(
    tasks: Sequence[Task], make_worker: Callable[[], Worker], *, staging: Staging, cluster: ClusterSpec
) -> Iterator[dict[str, Any]]:
    """Have tasks done, and yield what came of each as it ends."""
    need, first = cluster.need, 0
    while first < len(tasks):
        processes = cluster.num_actors(len(tasks) - first)
        part = tasks[first : first + max(ROUND_TASKS, TASKS_PER_PROCESS * processes)]
        first += len(part)
        items = [{"name": task.name, "file": task.file, "values": json.dumps(task.values)} for task in part]
        pipeline = ray.data.from_items(items, override_num_blocks=len(part)).map(
            _DoTask,
            fn_constructor_args=(make_worker, str(staging.path)),
            compute=ray.data.ActorPoolStrategy(size=processes),
            num_cpus=need.cpus,
            num_gpus=need.gpus,
            memory=need.memory,
            accelerator_type=need.accelerator_type,
        )
        yield from pipeline.iter_rows()


class _DoTask:
    """The process that does tasks: makes its worker at the first one, so that bad input comes back as an outcome."""

    def __init__(self, make_worker: Callable[[], Worker], staging: str) -> None:
        self._make_worker = make_worker
        self._staging = Path(staging)
        self._worker: Worker | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        task = Task(row["name"], row["file"], json.loads(row["values"]))
        try:
            receipt = self._do(task)
        except InputError as error:
            return {"name": task.name, "rows": 0, "seconds": 0.0, "engine_s": 0.0, "error": str(error)}
        engine_s = float(receipt.facts.get("engine_s", 0.0))
        return {"name": task.name, "rows": receipt.rows, "seconds": receipt.seconds, "engine_s": engine_s, "error": ""}

    def _do(self, task: Task) -> Receipt:
        """Do a task and return its receipt."""
        started = time.monotonic()
        begun = _begin(self._staging, task)
        self._worker = self._worker or self._make_worker()
        table, facts = self._worker.work(task.values)
        path = self._staging / task.file
        with written_whole(path) as aside:
            self._worker.write(table, aside)
        seconds = round(time.monotonic() - started, 3)
        receipt = Receipt(task.name, task.file, len(table), file_digest(path), seconds, facts)
        write_json(_receipt_path(self._staging, task.name), receipt._asdict())
        begun.unlink(missing_ok=True)
        return receipt


def _begin(staging: Path, task: Task) -> Path:
    """Count one more attempt at a task, in the size of a file; raise InputError where too many died of it."""
    begun = staging / BEGUN / task.name
    with full_disk_told(begun):
        begun.parent.mkdir(parents=True, exist_ok=True)
        with begun.open("a") as handle:
            handle.write(".")
    deaths = begun.stat().st_size - 1
    if deaths >= MOST_DEATHS:
        raise InputError(
            f"{task.name}: {deaths} processes that worked on it died one after another, of the memory they took or of "
            "what they read; leave more memory to each (fewer cluster.actors, smaller shards, blocks or batches), or "
            "mend the input, then run again, which goes on where this run ended"
        )
    return begun


class _Rate:
    """Counts what workers did since a flow began, for a person to watch."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._rows = 0
        self._worked_s = self._engine_s = 0.0

    def after(self, outcome: dict[str, Any]) -> dict[str, float]:
        """Count one more task; return rows, rows a second, and the part of the workers' time that a model took."""
        self._rows += outcome["rows"]
        self._worked_s += outcome["seconds"]
        self._engine_s += outcome["engine_s"]
        figures = {"rows": self._rows, "rows_per_s": self._rows / max(1e-9, time.monotonic() - self._started)}
        return figures | ({"engine_share": self._engine_s / self._worked_s} if self._engine_s else {})


def _receipt_path(staging: Path, name: str) -> Path:
    return staging / RECEIPTS / f"{name}.json"


def _has_receipt(staging: Path, task: Task) -> bool:
    """Say whether a task is done: it has a receipt, and its file is what that says."""
    path = _receipt_path(staging, task.name)
    if not path.exists():
        return False
    try:
        receipt = Receipt(**read_json(path, what="receipt"))
    except (InputError, TypeError):  # a machine that lost power may leave an empty one, which proves nothing
        return False
    files = {receipt.file: receipt.sha256} | receipt.facts.get("files", {})
    return all((staging / file).exists() and file_digest(staging / file) == sha256 for file, sha256 in files.items())
