"""Keep the features of windows in files, so that they are made once for all fits that read them.

A block is an Arrow file with a row per window: `columns` and `values` of the features that are not zero, and `target`,
float32 [T] as fixed-size binary, NaN where nothing was measured. Beside the blocks stands what was learned of the
training windows before any could be described.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import safetensors
import safetensors.torch
from scipy.sparse import csr_array
from torch import Tensor

from cisray import __version__
from cisray.baselines import feature_sets, features, gkm_lmers, region_kmers
from cisray.baselines.feature_sets import FeatureMaker
from cisray.baselines.windows import Table
from cisray.datasets.schema import decode_rows, encode_rows
from cisray.files import file_digest, value_digest, written_whole
from cisray.genome import motifs

MAKERS = (feature_sets, features, gkm_lmers, motifs, region_kmers)
"""The code that says what a feature is."""
_WRITING = pa.ipc.IpcWriteOptions(compression="lz4")


class Block(NamedTuple):
    """A file of features."""

    path: Path
    rows: int
    values: int
    """That are not zero."""


def features_digest(maker: FeatureMaker, windows_digest: str) -> str:
    """Return what a table of features is called: the digest of windows, sets, what these have learned, and the code.

    Of a maker that has not learned yet it names what will be learned.
    """
    return value_digest(
        {
            "windows": [windows_digest, maker.window_bp],
            "sets": [repr(each) for each in maker.sets],
            "learned": _digest_of(maker.state_dict()),
            "code": [__version__, *(file_digest(Path(str(module.__file__))) for module in MAKERS)],
        }
    )


def encode_block(table: Table) -> pa.Table:
    """Return features as the rows of a block, without a copy of them."""
    rows = table.rows
    ends = pa.array(rows.indptr.astype(np.int32, copy=False))
    return pa.table(
        {
            "columns": pa.ListArray.from_arrays(ends, pa.array(rows.indices.astype(np.int32, copy=False))),
            "values": pa.ListArray.from_arrays(ends, pa.array(rows.data.astype(np.float32, copy=False))),
            "target": encode_rows(table.targets.astype("<f4", copy=False)),
        }
    )


def write_block(block: pa.Table, path: Path) -> None:
    """Write a block; equal blocks give equal bytes."""
    with pa.ipc.new_file(str(path), block.schema, options=_WRITING) as file:
        file.write_table(block)


def read_blocks(blocks: Sequence[Block], *, num_columns: int, num_tracks: int) -> Table:
    """Join blocks to one table [B, F], in their order; beside it one block at a time is held."""
    num_rows, num_values = sum(block.rows for block in blocks), sum(block.values for block in blocks)
    index = np.int32 if num_values < np.iinfo(np.int32).max else np.int64  # scikit-learn's trees read no other than 32
    data, indices = np.empty(num_values, np.float32), np.empty(num_values, index)
    ends, targets = np.zeros(num_rows + 1, index), np.empty((num_rows, num_tracks), np.float32)
    row = value = 0
    for block in blocks:
        with pa.memory_map(str(block.path)) as source:
            part = pa.ipc.open_file(source).read_all().combine_chunks()
        columns, values = (part[name].chunk(0) for name in ("columns", "values"))
        here, there = slice(row, row + block.rows), slice(value, value + block.values)
        data[there], indices[there] = values.values.to_numpy(), columns.values.to_numpy()
        ends[row + 1 : row + block.rows + 1] = value + columns.offsets.to_numpy()[1:]
        targets[here] = decode_rows(part["target"], "<f4", (num_tracks,))
        row, value = here.stop, there.stop
    return Table(csr_array((data, indices, ends), shape=(num_rows, num_columns)), targets)


def write_learned(maker: FeatureMaker, path: Path) -> None:
    """Write what features have learned, whole or not at all."""
    with written_whole(path) as aside:
        safetensors.torch.save_file(maker.state_dict(), aside, metadata={"digest": _digest_of(maker.state_dict())})


def read_learned(maker: FeatureMaker, path: Path) -> bool:
    """Let features take what they have learned before; False where it is not there, or was damaged."""
    if not path.exists():
        return False
    try:
        with safetensors.safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            digest = (file.metadata() or {}).get("digest")
    except safetensors.SafetensorError:
        return False
    if digest != _digest_of(state):
        return False
    maker.adopt(state)
    maker.load_state_dict(state)
    maker.check()
    return True


def _digest_of(state: Mapping[str, Tensor]) -> str:
    """Return the digest of tensors, their names, types and shapes."""
    return value_digest(
        {
            name: [str(values.dtype), list(values.shape), hashlib.sha256(values.cpu().numpy().tobytes()).hexdigest()]
            for name, values in state.items()
        }
    )
