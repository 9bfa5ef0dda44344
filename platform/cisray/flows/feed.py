"""Where a worker's batches come from: Ray Data reads the pools of one or more datasets ahead of the training."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from cisray.datasets.card import Card
from cisray.datasets.mixing import Cursor, Mixture
from cisray.datasets.reading import (
    Order,
    cut_batches,
    find_position,
    name_windows,
    read_order,
)
from cisray.datasets.schema import decode_examples, layout_of, to_float
from cisray.flows.pools import read_pools
from cisray.training.batches import Batch
from cisray.training.spec import TrainSpec
from cisray.training.tasks import Feed, Task

# Windows that are named where a step failed.
MOST_NAMED = 8


class Source(NamedTuple):
    """A dataset to learn from."""

    path: Path
    card: Card
    weight: float | None = None
    """Of being drawn; None reads all of it in every epoch."""


def make_feed(
    sources: Mapping[str | None, Source], tasks: Mapping[str | None, Task], spec: TrainSpec, *, rank: int, world: int
) -> Feed:
    """Return the batches that one of `world` workers learns from; every step is of one dataset, the same for all."""
    readers = {head: _Reader(head, source, spec, rank=rank, world=world) for head, source in sources.items()}
    weights = {head: source.weight for head, source in sources.items() if source.weight is not None}
    mixture = Mixture({head: reader.steps for head, reader in readers.items()}, weights=weights or None)

    def train_batches(epoch: int, steps_done: int) -> Iterator[Batch]:
        opened = {head: reader.read for head, reader in readers.items()}
        for _, batch in mixture.read(opened, epoch, steps_done):
            yield batch

    def valid_batches() -> Iterator[Batch]:
        for reader in readers.values():
            yield from reader.valid_batches()

    def windows(epoch: int, step: int) -> str:
        names, cursors = mixture.remaining(epoch, step)
        named = readers[names[0]].windows(cursors[names[0]])
        more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
        return f"{', '.join(named[:MOST_NAMED])}{more}"

    return Feed(train_batches, valid_batches, mixture.steps, tasks, windows)


class _Reader:
    """One worker's share of one dataset."""

    def __init__(self, head: str | None, source: Source, spec: TrainSpec, *, rank: int, world: int) -> None:
        self._head, self._card = head, source.card
        self._train = read_order(source.path, source.card, "train", rank=rank, world=world, seed=spec.seed)
        self._valid = read_order(source.path, source.card, "valid", rank=rank, world=world)
        self._batch_size, self._valid_size = spec.examples_per_step, spec.batch_size

    def steps(self, epoch: int) -> int:
        """Return the batches of an epoch."""
        return self._train.steps(epoch, self._batch_size)

    def read(self, epoch: int, batches_read: int) -> Iterator[Batch]:
        """Read an epoch from after its first batches."""
        rows_seen = batches_read * self._batch_size
        return read_through_ray(
            self._train, epoch, self._card, batch_size=self._batch_size, rows_seen=rows_seen, head=self._head
        )

    def valid_batches(self) -> Iterator[Batch]:
        """Read this worker's share of the validation split."""
        return read_through_ray(self._valid, 0, self._card, batch_size=self._valid_size, head=self._head)

    def windows(self, cursor: Cursor) -> list[str]:
        """Name the windows of one batch."""
        epoch, batches_read = cursor
        first = batches_read * self._batch_size
        return name_windows(self._train, epoch, range(first, first + self._batch_size))


def read_through_ray(
    order: Order, epoch: int, card: Card, *, batch_size: int, rows_seen: int = 0, head: str | None = None
) -> Iterator[Batch]:
    """Yield one epoch's batches, in order, whose pools Ray Data reads ahead of the training."""
    start = find_position(order, epoch, rows_seen)
    pools = order.pools(epoch)[start.pool :]
    if not pools:
        return
    tables = read_pools(pools).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
    layout = layout_of(card)
    for rows in cut_batches(tables, batch_size, skip=start.rows):
        examples = decode_examples(rows, layout)
        # copied because Arrow's memory is read-only
        codes, targets = examples.codes.copy(), to_float(examples.targets.copy())
        yield Batch(torch.from_numpy(codes), torch.from_numpy(targets), head)
