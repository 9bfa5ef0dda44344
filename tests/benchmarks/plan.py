"""How far is what `cisray plan` says from what the run then takes?

The yeast study at a reduced size: the whole dataset is built, a small network learns for some epochs, and a file of
variants is scored with it. Each job is planned by the command line, and then run by it, the next with what it made.
`CISRAY_DATA` names the folder that holds the data. `time.ratio` is the planned time by the time that the command took;
written bytes and memory per worker are compared too where the run tells them.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from _genome import scratch_folder
from _table import finish, print_table, read_options, significant

JOBS = Path(__file__).parents[2] / "jobs" / "yeast"
SMALL_TRAIN = ("training.epochs=2", "model.stem_channels=16", "model.channels=32", "training.batch_size=32")
SMALL_SCORE = ("variants=yeast/natural_variants.vcf",)
LOOK_S = 0.5
SHOWN = ("time.planned_s", "time.taken_s", "time.ratio", "memory.ratio", "written.ratio")


class Compared(NamedTuple):
    """What a plan said, and what its run took."""

    planned: dict[str, float]
    seconds: float
    written: int
    """Bytes of the files that are left."""
    worker_bytes: int
    """The largest resident memory of a process that Ray started, looked at now and then."""


def cisray(*arguments: str) -> subprocess.Popen[str]:
    """Start a command line."""
    return subprocess.Popen(
        [sys.executable, "-m", "cisray", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def output_of(process: subprocess.Popen[str]) -> str:
    """Return what a command printed; end here if it failed."""
    out, err = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(map(str, process.args))}\n{err[-3000:]}")  # type: ignore[arg-type]
    return out


def compare(verb: str, job: str, out: Path, settings: tuple[str, ...]) -> Compared:
    """Plan a job, then run it."""
    overrides = [word for one in (f"out={out}", *settings) for word in ("--set", one)]
    (plan,) = json.loads(output_of(cisray("plan", str(JOBS / job), *overrides, "--json")))
    planned = {figure["name"]: figure["value"] for figure in plan["figures"]}
    started = time.monotonic()
    process = cisray(verb, str(JOBS / job), *overrides)
    watch = Watch(process.pid)
    output_of(process)
    seconds = time.monotonic() - started
    watch.ended.set()
    watch.join()
    # a plan says that exports, scores.vcf.gz, are not in it
    files = (path for path in out.rglob("*") if path.is_file() and not path.name.startswith("scores."))
    written = sum(path.stat().st_size for path in files)
    return Compared(planned, seconds, written, watch.most)


class Watch(threading.Thread):
    """Looks at the memory of the workers below a process."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.most, self.ended = pid, 0, threading.Event()
        self.start()

    def run(self) -> None:
        """Look until the process has ended."""
        while not self.ended.wait(LOOK_S):
            for status in self._below():
                name, resident = status.get("Name", ""), status.get("VmHWM", "0 kB")
                if name.startswith("ray::"):
                    self.most = max(self.most, 1024 * int(resident.split()[0]))

    def _below(self) -> list[dict[str, str]]:
        """Return what the kernel says of the processes below ours."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/status"):
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except OSError:  # it has ended meanwhile
                continue
            pairs = (line.partition(":") for line in lines)
            found[int(path.parent.name)] = {key: value.strip() for key, _, value in pairs}
        below = {self.pid}
        while more := {pid for pid, one in found.items() if int(one.get("PPid", 0)) in below} - below:
            below |= more
        return [found[pid] for pid in below if pid in found]


def figures_of(verb: str, one: Compared) -> dict[str, Any]:
    """Return a part's figures by their names."""
    figures = {
        "time.planned_s": one.planned["time"],
        "time.taken_s": one.seconds,
        "time.ratio": one.planned["time"] / one.seconds,
    }
    if one.worker_bytes:
        figures["memory.ratio"] = one.planned["memory"] / one.worker_bytes
    if verb != "train":  # a training's checkpoints are gone when it ends
        figures["written.ratio"] = one.planned["written"] / one.written
    return {f"plan.{verb}.{name}": value for name, value in figures.items()}


def main() -> None:
    """Run the benchmark."""
    options = read_options(__doc__, repeats=1)
    if not os.environ.get("CISRAY_DATA"):
        print("left out: CISRAY_DATA names no folder")
        return
    with scratch_folder() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
        code = "from cisray.tracking import is_registered; is_registered('none')"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)  # makes the store
        figures: dict[str, Any] = {}
        for repeat in range(options.repeats):
            dataset, model = folder / f"dataset-{repeat}", folder / f"model-{repeat}"
            parts = {
                "build": ("dataset.toml", dataset, ()),
                "train": ("train.toml", model, (f"dataset={dataset}", *SMALL_TRAIN)),
                "score": ("score.toml", folder / f"scores-{repeat}", (f"model={model}", *SMALL_SCORE)),
            }
            rows = []
            for verb, (job, out, settings) in parts.items():
                one = figures_of(verb, compare(verb, job, out, settings))
                figures |= {f"{name}.{repeat}" if options.repeats > 1 else name: value for name, value in one.items()}
                rows.append([verb, *(significant(one.get(f"plan.{verb}.{name}", float("nan"))) for name in SHOWN)])
            print_table("planned, taken, and planned by taken", ["", *SHOWN], rows)
    finish("plan", figures)


if __name__ == "__main__":
    main()
