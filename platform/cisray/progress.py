"""What a flow tells its `report`: a plain value, so that any callable can listen."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple


class Progress(NamedTuple):
    """One step of a long run."""

    stage: str
    """What is being done: "build", "train", "valid", "score"..."""
    done: int
    total: int
    """0 where nobody can know it beforehand."""
    unit: str
    """What `done` and `total` count: "shards", "steps", "variants"..."""
    figures: Mapping[str, float] = MappingProxyType({})
    """Named figures of this step, such as a loss; empty where there are none."""
    note: str = ""
    """What a person should know now, in words."""


Report = Callable[[Progress], None]
"""The callable a flow tells its progress to; it runs in the driver's process."""


def silent(progress: Progress) -> None:
    """Listen and say nothing."""
