"""Read datasets as PyTorch iterables, in one process or many, without Ray."""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from cisray.datasets.card import read_card
from cisray.datasets.mixing import Mixture
from cisray.datasets.reading import Order, read_epoch, read_order
from cisray.datasets.schema import Examples, layout_of
from cisray.errors import InputError

Batch = dict[str, Tensor]
"""A batch by the names of schema.Examples: codes uint8 [B, L], targets [B, N, T] as stored, and what else rows hold."""


class ExampleStream(IterableDataset[Batch]):
    """One split of a dataset in batches, in the reproducible order of datasets.reading.

    A `torch.utils.data.DataLoader(stream, batch_size=None, num_workers=k)` shares the rows out among its processes.
    """

    def __init__(
        self,
        dataset_dir: Path | str,
        split: str,
        *,
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Open a dataset; a seed shuffles, `rank` of `world` reads its share of every epoch."""
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}; wanted 1 or more")
        self.dataset_dir = Path(dataset_dir)
        self.card = read_card(self.dataset_dir)
        self.layout = layout_of(self.card)
        self.batch_size = batch_size
        self.epoch = 0
        """Which epoch is read next; whoever trains counts it up."""
        self._order = read_order(self.dataset_dir, self.card, split, rank=rank, world=world, seed=seed)

    def __len__(self) -> int:
        """Batches of the next epoch, in one process."""
        return self.num_batches(self.epoch)

    def num_batches(self, epoch: int) -> int:
        """Return the batches of an epoch: all that one rank's rows fill, or as many full ones as every rank has."""
        return self._order.steps(epoch, self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Read the epoch from its first row."""
        yield from self.read_from(self.epoch)

    def read_from(self, epoch: int, *, rows_seen: int = 0) -> Iterator[Batch]:
        """Read one epoch from after its first `rows_seen` rows.

        With several ranks, each stops after the same number of full batches, so that none waits for another; the rows
        left over are other ones in the next epoch.
        """
        order = self._own_order()
        steps = order.steps(epoch, self.batch_size)
        if order.world > 1 and steps == 0:
            raise InputError(
                f"{self.dataset_dir}: {len(order.groups)} row groups fill no batch of {self.batch_size} for each of "
                f"{order.world} readers; use fewer ranks or DataLoader processes, or a smaller batch"
            )
        batches = read_epoch(order, epoch, self.layout, batch_size=self.batch_size, rows_seen=rows_seen)
        left = steps - rows_seen // self.batch_size if order.world > 1 else None
        yield from map(to_tensors, islice(batches, left))

    def _own_order(self) -> Order:
        worker, order = get_worker_info(), self._order
        if worker is None:
            return order
        return order._replace(rank=order.rank * worker.num_workers + worker.id, world=order.world * worker.num_workers)


def to_tensors(examples: Examples) -> Batch:
    """Return arrays as tensors that share their memory."""
    return {name: torch.from_numpy(values) for name, values in examples._asdict().items() if values is not None}


class MixedStream(IterableDataset[tuple[str, Batch]]):
    """Batches of several datasets, such as of several genomes, each of one of them, in the order of datasets.mixing."""

    def __init__(self, streams: Mapping[str, ExampleStream], *, weights: Mapping[str, float] | None = None) -> None:
        """Join streams: without weights an epoch reads every row once, with them each dataset by its weight."""
        self.streams = dict(streams)
        self.mixture = Mixture({name: stream.num_batches for name, stream in streams.items()}, weights)
        self.epoch = 0
        """Which epoch is read next; whoever trains counts it up."""

    def __len__(self) -> int:
        """Batches of the next epoch."""
        return self.mixture.steps(self.epoch)

    def __iter__(self) -> Iterator[tuple[str, Batch]]:
        """Read the epoch from its first step."""
        yield from self.read_from(self.epoch)

    def read_from(self, epoch: int, *, steps_done: int = 0) -> Iterator[tuple[str, Batch]]:
        """Read one epoch from after its first `steps_done` steps."""
        if get_worker_info() is not None:
            raise InputError("a mixture is read in one process; give DataLoader num_workers=0")
        readers = {name: partial(_read_batches, stream) for name, stream in self.streams.items()}
        yield from self.mixture.read(readers, epoch, steps_done)


def _read_batches(stream: ExampleStream, epoch: int, batches_seen: int) -> Iterator[Batch]:
    return stream.read_from(epoch, rows_seen=batches_seen * stream.batch_size)
