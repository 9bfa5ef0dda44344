"""What Ray Data's tasks run to read a dataset; nothing here imports PyTorch, which takes longer than reading a pool."""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import ray.data

from cisray.datasets.reading import Pool, RowGroup, read_pool

# Of each training worker: two keep ahead of it, and Ray would start a process for every quarter of a free CPU, each of
# which costs more CPU time than reading an epoch of short windows does.
READERS, READER_CPUS = 2, 0.25


def read_pools(pools: Sequence[Pool]) -> ray.data.Dataset:
    """Return pools as a dataset of Ray Data with a block for each, in their order, read when it is asked for them."""
    items = [{"pool": json.dumps(pool)} for pool in pools]
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    dataset = dataset.map_batches(_read_pools, batch_size=1, num_cpus=READER_CPUS, concurrency=READERS)
    dataset.context.execution_options.preserve_order = True
    return dataset


def _read_pools(batch: dict[str, Any]) -> pa.Table:
    """Read the one pool told in a batch of one row."""
    groups, seed = json.loads(batch["pool"][0])
    return read_pool(Pool([RowGroup(*group) for group in groups], seed)).select(["sequence", "target"])
