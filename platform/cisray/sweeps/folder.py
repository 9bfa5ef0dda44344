"""What a sweep keeps on disk of each trial: its settings, and a receipt per rung.

trials/0007/trial.json      settings, written before the trial begins
trials/0007/rung-00.json    what came of a step, written when it is done
trials/0007/losses          a letter for each time that its machines died more often than it was started anew
trials/0007/NAME/           a run's bundle; NAME.unfinished holds its checkpoints as long as it learns
"""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cisray.errors import InputError
from cisray.files import read_json, write_json
from cisray.sweeps.schedule import Result, defined

TRIAL_NAME = "trial.json"
LOSSES_NAME = "losses"


class SweepFolder:
    """The folder of a sweep, finished or not."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def trial(self, number: int) -> Path:
        """Return a trial's folder."""
        return self.path / "trials" / f"{number:04d}"

    def run(self, number: int, name: str, *, generation: int | None = None) -> Path:
        """Return the folder of the bundle of one of a trial's runs; in a population every generation has its own."""
        return self.trial(number) / (name if generation is None else f"{name}-generation-{generation:02d}")

    def begin(self, number: int, settings: Mapping[str, Any]) -> None:
        """Note that a trial begins; one that has begun stays as it is."""
        path = self.trial(number) / TRIAL_NAME
        if not path.exists():
            write_json(path, {"number": number, "settings": settings})

    def keep(self, result: Result) -> None:
        """Write the receipt of a step."""
        path = self.trial(result.number) / f"rung-{result.rung:02d}.json"
        curves = {name: list(map(defined, getattr(result, name))) for name in ("curve", "values")}
        write_json(path, result._asdict() | curves | {"latest": defined(result.latest)})

    def count_loss(self, number: int) -> int:
        """Note that a trial has lost its machines, in the size of a file, and return how often it has."""
        path = self.trial(number) / LOSSES_NAME
        with path.open("a") as handle:
            handle.write(".")
        return path.stat().st_size

    def read(self) -> tuple[dict[int, dict[str, Any]], list[Result]]:
        """Return the settings of the trials that have begun, and all results, each trial's in order."""
        begun: dict[int, dict[str, Any]] = {}
        results = []
        while (self.trial(len(begun)) / TRIAL_NAME).exists():
            number = len(begun)
            begun[number] = read_json(self.trial(number) / TRIAL_NAME, what="trial")["settings"]
            for path in sorted(self.trial(number).glob("rung-*.json"), key=_rung_of):
                try:
                    values = read_json(path, what="receipt")
                    curves = {name: list(map(_or_nan, values[name])) for name in ("curve", "values")}
                    result = Result(**values | curves | {"latest": _or_nan(values["latest"])})
                except (InputError, TypeError, KeyError):  # an empty one, after a loss of power, proves nothing
                    break
                results.append(result)
        return begun, results

    def drop_checkpoints(self, number: int) -> None:
        """Remove the checkpoints of a trial that learns no more."""
        for path in self.trial(number).glob("*.unfinished"):
            shutil.rmtree(path)

    def drop_generations(self, number: int, *, before: int) -> None:
        """Remove the checkpoints of a population's trial from generations that nobody goes on from."""
        for generation in range(before):
            for path in self.trial(number).glob(f"*-generation-{generation:02d}.unfinished"):
                shutil.rmtree(path)


def _rung_of(path: Path) -> int:
    return int(path.stem.removeprefix("rung-"))


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
