"""What of a scoring run depends on the clock and the machine: `run.json`, beside the table and no part of it.

Two runs of one job give the same table, byte for byte; this file differs, and nothing compares it.
"""

import os
import platform
from importlib.metadata import version
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.files import read_json, write_json

RUN_NAME = "run.json"
LIBRARIES = ("numpy", "pyarrow", "pysam", "ray", "torch")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RunRecord:
    """How long a run took, where, and with what."""

    seconds: float
    """From the first shard to the last; of a run that was interrupted, of its last part."""
    rows_per_s: float
    """Rows of that part per second."""
    engine_s: float
    """Seconds that the engine took, of all workers together."""
    engine_share: float
    """The same as a part of the workers' time, 0 to 1."""
    device: str
    """What the model ran on, as torch names it."""
    machine: str
    libraries: dict[str, str]
    """Name -> version."""

    def __post_init__(self) -> None:
        if not 0 <= self.engine_share <= 1 or self.seconds < 0:
            raise InputError(
                f"engine_share={self.engine_share}, seconds={self.seconds}; wanted 0 to 1, and not below 0"
            )


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that scores come from."""
    return {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()}


def machine_name() -> str:
    """Say what this machine is: its processor and cores."""
    return f"{platform.machine()}, {os.cpu_count()} cores"


def write_run(scores_dir: Path, run: RunRecord) -> None:
    """Write a run's record into the folder of its score table."""
    write_json(scores_dir / RUN_NAME, TypeAdapter(RunRecord).dump_python(run, mode="json"))


def read_run(scores_dir: Path) -> RunRecord | None:
    """Read the record of the run that made a score table; None where there is none.

    Raises InputError for a file that is no such record.
    """
    path = scores_dir / RUN_NAME
    if not path.exists():
        return None
    try:
        return TypeAdapter(RunRecord).validate_python(read_json(path, what="record of a run"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: not a valid record of a run: {where}: {first['msg']}; remove it") from None
