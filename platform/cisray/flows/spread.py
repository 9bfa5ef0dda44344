"""Call a function for many items at a time, spread over the cluster."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import ray

from cisray.errors import InputError
from cisray.flows.cluster import ClusterSpec

Result = TypeVar("Result")


def share_of_cpu(num_workers: int) -> float:
    """Return what each of some processes asks of Ray that work for one which holds CPUs, and waits for them.

    Together they fit beside it on the CPUs that `ClusterSpec` leaves free.
    """
    return 0.5 / num_workers


def call_for_each(
    function: Callable[[int], Result], items: Iterable[int], *, cluster: ClusterSpec, threads: int
) -> list[Result]:
    """Call a picklable function for every item and return the results in the order of the items.

    Args:
        function: goes to the cluster once, with all that it holds, and not for every item.
        items: what it is called for.
        cluster: how many calls are made at a time.
        threads: that this process has, which the calls share while it waits.

    Raises:
        InputError: a call met bad input.
    """
    waiting = list(enumerate(items))
    if len(waiting) < 2:
        return [function(item) for _, item in waiting]
    workers = cluster.num_actors(len(waiting))
    held = ray.put(function)
    call = ray.remote(num_cpus=share_of_cpu(workers), scheduling_strategy="SPREAD")(_call)
    running: dict[Any, int] = {}
    results: dict[int, Result] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            place, item = waiting.pop(0)
            running[call.remote(held, item, max(1, threads // workers))] = place
        done, _ = ray.wait(list(running))
        for reference in done:
            results[running.pop(reference)] = result_of(reference)
    return [results[place] for place in sorted(results)]


def _call(function: Callable[[int], Result], item: int, threads: int) -> Result:
    import torch  # noqa: PLC0415 - takes a second, which processes that need no PyTorch are not to pay

    torch.set_num_threads(threads)
    return function(item)


def result_of(reference: Any) -> Any:
    """Return a call's result; bad input that it met comes back as the InputError it was."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise InputError(str(error.cause)) from error
        raise
