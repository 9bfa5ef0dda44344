"""Do a little of a flow's work with its own workers, and say what it took."""

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import ray

from cisray.errors import InputError
from cisray.files import file_digest
from cisray.flows.cluster import ClusterSpec, cluster
from cisray.flows.plans.figures import COMMAND_S, SHARD_S, Phase, makespan_s
from cisray.flows.shards import Worker
from cisray.flows.spread import result_of


class Piece(NamedTuple):
    """A shard that may be done to see what it takes."""

    values: dict[str, Any]
    """What a worker must know."""
    rows: int


Cut = Callable[[Piece, int, Path], Piece]
"""From a piece, a number of rows and a folder to put files in, a piece of at most so many rows."""


class Pieces(NamedTuple):
    """What one process may do, and how."""

    pieces: list[Piece]
    """The first warms up, and its arithmetic is counted; then at least one is timed, others as long as time is left."""
    first_rows: int | None = None
    """To which the first piece is cut, and others to what time is left for; None leaves all whole."""
    cut: Cut | None = None


class Timed(NamedTuple):
    """What the pieces of one process took."""

    rows: int
    """Of pieces that were timed."""
    row_s: float
    row_bytes: float
    """Of files."""
    row_flop: float
    peak_bytes: int
    """The most memory that the process had."""


class Probed(NamedTuple):
    """What some of the work took, the mean over processes that did it side by side."""

    processes: int
    rows: int
    ray_s: float
    """Until Ray had started, or was joined."""
    opening_s: float
    """Until all processes had started and opened their inputs."""
    row_s: float
    """Of one process."""
    row_bytes: float
    row_flop: float
    peak_bytes: int


def probe_workers(
    make_worker: Callable[[], Worker], shares: Sequence[Pieces], *, spec: ClusterSpec, limit_s: float
) -> Probed:
    """Let a process for each of the shares do its pieces, about as long as the limit says, and return what they took.

    Raises:
        InputError: a worker met bad input.
    """
    asked = time.monotonic()
    with cluster(spec):
        up = time.monotonic()
        check_gpus(spec.gpus_per_actor * len(shares))
        prober = ray.remote(num_cpus=0, num_gpus=spec.gpus_per_actor)(_Prober)
        probers = [prober.remote(make_worker) for _ in shares]
        for reference in [each.open.remote() for each in probers]:
            result_of(reference)
        opened = time.monotonic()
        references = [each.probe.remote(share, limit_s=limit_s) for each, share in zip(probers, shares, strict=True)]
        found: list[Timed] = [result_of(reference) for reference in references]
        for each in probers:
            ray.kill(each)
    return Probed(
        processes=len(found),
        rows=sum(one.rows for one in found),
        ray_s=up - asked,
        opening_s=opened - up,
        row_s=fmean(one.row_s for one in found),
        row_bytes=fmean(one.row_bytes for one in found),
        row_flop=fmean(one.row_flop for one in found),
        peak_bytes=max(one.peak_bytes for one in found),
    )


def phases_of(verb: str, laid_out: Phase, probed: Probed, pieces_s: Sequence[float], workers: int) -> list[Phase]:
    """Return the parts of the time of a verb whose workers do pieces, each of which takes so many seconds."""
    return [
        Phase("to start the command", COMMAND_S[verb], "assumed"),
        laid_out,
        Phase("until workers are ready", probed.ray_s + probed.opening_s),
        Phase(f"of work on {workers} workers", makespan_s(pieces_s, workers)),
        Phase("of the driver", SHARD_S * len(pieces_s), "assumed"),
    ]


def check_gpus(wanted: float) -> None:
    """Raise InputError where what is to be timed wants GPUs that this machine or cluster has not."""
    there = ray.cluster_resources().get("GPU", 0)
    if there < wanted:
        raise InputError(
            f"plan: to time this job takes {wanted:g} GPUs, and here are {there:g}; plan it where they are (--on), or "
            "count only, with --probe 0"
        )


def processes_here(workers: int, num_shards: int, spec: ClusterSpec) -> int:
    """Return how many processes are timed side by side: those of the plan, as far as there is room here."""
    room = (os.cpu_count() or 1) / spec.cpus_per_actor
    if spec.gpus_per_actor:
        import torch  # noqa: PLC0415 - takes a second, which processes that need no PyTorch are not to pay

        room = torch.cuda.device_count() / spec.gpus_per_actor
    return max(1, min(workers, int(room), num_shards))


def peak_bytes() -> int:
    """Return the most memory that this process had."""
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts KiB
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class _Prober:
    """A process that does pieces as a flow's workers do, and throws their rows away."""

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        self._make_worker = make_worker
        self._worker: Worker | None = None

    def open(self) -> None:
        """Make the worker; here and not before, so that bad input comes back as what it is."""
        self._worker = self._make_worker()

    def probe(self, share: Pieces, *, limit_s: float) -> Timed:
        """Do one piece to warm up, then others."""
        counter = _flop_counter()
        with tempfile.TemporaryDirectory() as name:
            first, *others = share.pieces
            if share.cut is not None and share.first_rows is not None:
                first = share.cut(first, share.first_rows, Path(name))
            warm_s, size = self._do(first, Path(name), counter)
            rows, seconds, packed_rows = 0, 0.0, first.rows
            for piece in others:
                left_s = limit_s - warm_s - seconds
                if rows and left_s <= 0:
                    break
                if share.cut is not None:
                    row_s = seconds / rows if rows else warm_s / first.rows
                    piece = share.cut(piece, max(first.rows, int(left_s / row_s)), Path(name))
                took_s, written = self._do(piece, Path(name))
                rows, seconds = rows + piece.rows, seconds + took_s
                packed_rows, size = packed_rows + piece.rows, size + written
        if not rows:  # there was no time for more
            rows, seconds = first.rows, warm_s
        return Timed(
            rows=rows,
            row_s=seconds / rows,
            row_bytes=size / packed_rows,
            row_flop=counter.get_total_flops() / first.rows if counter else 0.0,
            peak_bytes=peak_bytes(),
        )

    def _do(self, piece: Piece, folder: Path, counter: AbstractContextManager[Any] | None = None) -> tuple[float, int]:
        """Do a piece as flows.shards does, and return its seconds and the bytes of its file."""
        assert self._worker is not None
        started, path = time.perf_counter(), folder / "piece"
        with counter or nullcontext():
            table, _ = self._worker.work(piece.values)
        self._worker.write(table, path)
        file_digest(path)
        return time.perf_counter() - started, path.stat().st_size


def _flop_counter() -> Any:
    """Return what counts the arithmetic of PyTorch; None where the worker has not loaded it."""
    if "torch" not in sys.modules:
        return None
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415 - only where it is loaded already

    return FlopCounterMode(display=False)
