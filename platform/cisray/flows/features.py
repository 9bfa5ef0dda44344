"""Make the features of a dataset over the cluster, once for all fits that read them.

They are kept in a folder beside the dataset, or where that cannot be written, in the user's cache folder:

    DATASET.features/
        0a1b.learned.safetensors      what was learned of the training windows, where features learn
        2c3d/train/00000.arrow        a block of windows, with its receipt; a damaged one is made again
        2c3d/valid/00000.arrow

The names are digests of dataset, features and code; those of blocks are of what was learned, too. Who asks for features
that another process is making waits, and reads those.
"""

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray.data

from cisray.baselines.feature_cache import (
    Block,
    encode_block,
    features_digest,
    read_blocks,
    read_learned,
    write_block,
    write_learned,
)
from cisray.baselines.feature_sets import FeatureMaker
from cisray.baselines.passes import Sums, add_up
from cisray.baselines.windows import Table, Windows
from cisray.datasets.reading import Pool, RowGroup, read_order, read_pool
from cisray.datasets.schema import Layout, decode_examples, layout_of, to_float
from cisray.flows.cluster import ClusterSpec
from cisray.flows.feed import Source
from cisray.flows.shards import Receipt, Staging, Task, run_tasks
from cisray.flows.spread import share_of_cpu
from cisray.flows.visibility import check_visible
from cisray.genome.reference import default_cache_dir
from cisray.progress import Progress, Report, silent

SPLITS = ("train", "valid")
MOST_SHARES = 1000
"""Into how many shares a pass is cut, whose sums are added up in order: with another number, last bits differ."""
_DIGITS = 16  # of a digest, in a name


class Tables(NamedTuple):
    """The windows of a dataset as features."""

    train: Table
    valid: Table


def describe_dataset(maker: FeatureMaker, source: Source, *, cluster: ClusterSpec, report: Report = silent) -> Tables:
    """Make the features of a dataset's training and validation split, or read them where they were made before.

    Beside the tables themselves no process holds more than a block.

    Args:
        maker: learns what it must of the training split.
        source: a dataset of windows with one bin.
        cluster: how many processes work on it.
        report: told after every block.

    Raises:
        InputError: the features cannot be made of such windows, or a motif file is not there.
    """
    maker.read_files()
    maker(np.zeros((1, maker.window_bp), np.uint8))  # what cannot be made is refused here, and not on the cluster
    card, dataset_dir = source.card, source.path.absolute()
    orders = {split: read_order(dataset_dir, card, split) for split in SPLITS}
    windows_digest = f"{card.digest} in blocks of {orders['train'].pool_rows}"
    pools = {split: order.pools(0) for split, order in orders.items()}
    asked = features_digest(maker, windows_digest)[:_DIGITS]
    with _locked(dataset_dir, asked) as (folder, lock):
        learned = folder / f"{asked}.learned.safetensors"
        if maker.learns and not read_learned(maker, learned):
            maker.learn(partial(_pass_over, pools["train"], layout_of(card), cluster, report))
            write_learned(maker, learned)
        made = folder / features_digest(maker, windows_digest)[:_DIGITS]
        staging = Staging(made, made, lock)
        blocks = _make_blocks(maker, pools, layout_of(card), staging=staging, cluster=cluster, report=report)
    read = partial(read_blocks, num_columns=len(maker.names), num_tracks=len(card.tracks))
    return Tables(*(read(blocks[split]) for split in SPLITS))


@contextmanager
def _locked(dataset_dir: Path, asked: str) -> Iterator[tuple[Path, IO[str]]]:
    """Give the folder of a dataset's features, and keep others from making the same; the lock ends with the process."""
    beside = dataset_dir.with_name(f"{dataset_dir.name}.features")
    try:
        folder, lock = beside, _open_lock(beside, asked)
    except OSError:  # a dataset that others share need not lie where this user may write
        folder = default_cache_dir() / "features" / dataset_dir.name
        lock = _open_lock(folder, asked)
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder, lock


def _open_lock(folder: Path, asked: str) -> IO[str]:
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / f".{asked}.lock").open("w")


def _make_blocks(
    maker: FeatureMaker,
    pools: Mapping[str, Sequence[Pool]],
    layout: Layout,
    *,
    staging: Staging,
    cluster: ClusterSpec,
    report: Report,
) -> dict[str, list[Block]]:
    """Make a block of each pool that has none yet, and return them all by split; who calls this holds the lock."""
    for leftover in list(staging.path.rglob(".*.tmp")):  # of a killed process
        leftover.unlink()
    staging.path.mkdir(parents=True, exist_ok=True)
    check_visible([], staging.path, need=cluster.need)
    tasks = {
        split: [
            Task(f"{split}-{number:05d}", f"{split}/{number:05d}.arrow", {"groups": pool.groups})
            for number, pool in enumerate(pools[split])
        ]
        for split in SPLITS
    }
    every = [task for split in SPLITS for task in tasks[split]]
    receipts = run_tasks(
        every,
        partial(_Describer, maker, layout),
        staging=staging,
        cluster=_beside_this(cluster, len(every)),
        stage="features",
        report=report,
    )
    return {split: [_block_of(receipts[task.name], staging) for task in tasks[split]] for split in SPLITS}


def _block_of(receipt: Receipt, staging: Staging) -> Block:
    return Block(staging.path / receipt.file, receipt.rows, receipt.facts["values"])


def _beside_this(cluster: ClusterSpec, num_tasks: int) -> ClusterSpec:
    """Return what of the cluster works for this process, which holds CPUs itself and waits."""
    workers = cluster.num_actors(num_tasks)
    return ClusterSpec(actors=workers, cpus_per_actor=share_of_cpu(workers))


class _Describer:
    """Makes blocks of features, in one process."""

    def __init__(self, maker: FeatureMaker, layout: Layout) -> None:
        self._maker, self._layout = maker, layout

    def work(self, values: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        """Make one block; the fact is how many values it has."""
        windows = _read_windows(values["groups"], self._layout)
        rows = self._maker(windows.codes)
        return encode_block(Table(rows, windows.targets)), {"values": rows.nnz}

    def write(self, table: pa.Table, path: Path) -> None:
        """Write one block."""
        write_block(table, path)


def _read_windows(groups: Sequence[Sequence[Any]], layout: Layout) -> Windows:
    """Read the windows of some row groups, margins left out."""
    examples = decode_examples(read_pool(Pool([RowGroup(*group) for group in groups], None)), layout)
    margin_bp = layout.geometry.margin_bp
    codes = examples.codes[:, margin_bp : margin_bp + layout.geometry.window_bp]
    return Windows(codes, to_float(examples.targets)[:, 0])


def _pass_over(
    pools: Sequence[Pool], layout: Layout, cluster: ClusterSpec, report: Report, function: Callable[[Windows], Sums]
) -> Sums:
    """Add up what a function says of each pool's windows, read and looked at over the cluster."""
    shares = np.array_split(np.arange(len(pools)), min(len(pools), MOST_SHARES))
    items = [{"pools": json.dumps([pools[number].groups for number in share])} for share in shares]
    workers = cluster.num_actors(len(items))
    sums = ray.data.from_items(items, override_num_blocks=len(items)).map(
        _sum_share,
        fn_kwargs={"function": function, "layout": layout},
        compute=ray.data.TaskPoolStrategy(size=workers),
        num_cpus=share_of_cpu(workers),
    )
    sums.context.execution_options.preserve_order = True  # so that floats add up to the same bits
    return add_up(_told(sums.iter_rows(), len(items), report))


def _told(rows: Iterator[Sums], total: int, report: Report) -> Iterator[Sums]:
    for done, row in enumerate(rows, start=1):
        report(Progress("learn features", done, total, "shards"))
        yield row


def _sum_share(row: dict[str, Any], function: Callable[[Windows], Sums], layout: Layout) -> Sums:
    return add_up(function(_read_windows(groups, layout)) for groups in json.loads(row["pools"]))
