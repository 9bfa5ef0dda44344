"""Check that a bigWig file is whole before the C library reads it, which trusts every byte of an index.

The library crashes on a damaged contig tree and takes a damaged block's bounds for bases without signal.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cisray.errors import InputError

_MAGIC, _CONTIGS_MAGIC, _INDEX_MAGIC = 0x888FFC26, 0x78CA8C91, 0x2468ACE0
_OTHER_FORMATS = {
    0x8789F2EB: "a bigBed file",
    0xEBF28987: "a bigBed file of the other byte order",
    0x26FC8F88: "a bigWig file of the other byte order",
}
_HEADER = struct.Struct("<IHHQQQHHQQIQ")
_ZOOM = struct.Struct("<IIQQ")
_TREE = struct.Struct("<IIIIQQ")
_INDEX = struct.Struct("<IIQIIIIQII")
_NODE = struct.Struct("<BBH")  # is leaf, reserved, items
_BLOCK = struct.Struct("<IIIIIBBH")  # contig, start, end, step, span, kind, reserved, items
_ITEM_BYTES = {1: 12, 2: 8, 3: 4}  # of bedGraph, variableStep and fixedStep blocks
_BOUNDS = [("contig", "<u4"), ("start", "<u4"), ("end_contig", "<u4"), ("end", "<u4"), ("offset", "<u8")]
_BRANCHES, _LEAVES = np.dtype(_BOUNDS), np.dtype([*_BOUNDS, ("size", "<u8")])


class BlockIndex(NamedTuple):
    """Where the blocks of data lie in a bigWig file."""

    data: memoryview
    """The whole file, mapped."""
    contig_lengths: dict[str, int]
    """In the order of the ids by which blocks name their contig."""
    buffer_bytes: int
    """Bytes of the largest block unpacked; 0 where blocks are not packed."""
    blocks: NDArray[np.void]
    """Fields contig, start, end_contig, end, offset, size [blocks], in order, none overlapping another."""


class _DamageError(Exception):
    """Tell which part of a file contradicts another."""


def read_index(path: Path) -> BlockIndex:
    """Read and check the header, the contigs and the index of blocks; raises InputError unless all agree."""
    if not path.is_file():
        raise InputError(f"{path}: no such file, but a bigWig file was expected here")
    # an empty file cannot be mapped
    data = memoryview(np.memmap(path, np.uint8, mode="r").data if path.stat().st_size else b"")
    magic = int.from_bytes(data[:4], "little")
    if magic != _MAGIC:
        found = _OTHER_FORMATS.get(magic, f"it starts with {bytes(data[:4])!r}")
        raise InputError(f"{path}: not a bigWig file ({found}); give one, such as bedGraphToBigWig makes")
    try:
        return _read_index(data)
    except (_DamageError, struct.error, ValueError) as error:
        raise InputError(f"{path}: truncated or damaged bigWig file ({error}); copy or make it again") from error


def check_blocks(path: Path, index: BlockIndex, contig: str, start: int, end: int) -> None:
    """Check that the blocks of an interval are what the index says; raises InputError for one that is not.

    The neighbours on both sides are checked as well: blocks are in order, so that the one block whose
    bounds are wrong in the index, and which the library therefore does not read here, is among them.
    """
    number = list(index.contig_lengths).index(contig)
    after = np.searchsorted(_keys(index.blocks, "end"), (number << 32) + start, side="right")
    before = np.searchsorted(_keys(index.blocks, "start"), (number << 32) + end, side="left")
    for block in index.blocks[max(after - 1, 0) : before + 1]:
        try:
            _check_block(index, block)
        except (_DamageError, struct.error, zlib.error) as error:
            raise InputError(
                f"{path}: damaged block of data at byte {block['offset']}, met while reading "
                f"{contig}:{start}-{end} ({error}); copy or make the file again"
            ) from error


def _check_block(index: BlockIndex, block: np.void) -> None:
    raw = index.data[block["offset"] : block["offset"] + block["size"]]
    head = zlib.decompressobj().decompress(raw, _BLOCK.size) if index.buffer_bytes else raw
    contig, start, end, _, _, kind, _, items = _BLOCK.unpack_from(head)
    if (contig, start, end) != (block["contig"], block["start"], block["end"]):
        raise _DamageError("its bounds are not those of the index")
    if kind not in _ITEM_BYTES:
        raise _DamageError(f"it is of no known kind ({kind})")
    room = index.buffer_bytes or block["size"]
    if _BLOCK.size + items * _ITEM_BYTES[kind] > room:
        raise _DamageError(f"its {items} items do not fit into {room} bytes")


def _read_index(data: memoryview) -> BlockIndex:
    if int.from_bytes(data[-4:], "little") != _MAGIC or len(data) < _HEADER.size + 4:
        raise _DamageError("its last bytes are not the number that ends a bigWig file")
    _, version, zooms, contigs_at, data_at, index_at, _, _, _, summary_at, buffer_bytes, _ = _HEADER.unpack_from(data)
    if not 1 <= version <= 4:
        raise _DamageError(f"version {version} instead of 1 to 4")
    offsets = [contigs_at, data_at, index_at, summary_at]
    for level in range(zooms):
        offsets += _ZOOM.unpack_from(data, _HEADER.size + level * _ZOOM.size)[2:]
    if max(offsets) >= len(data) or _HEADER.size + zooms * _ZOOM.size > contigs_at:
        raise _DamageError(f"an offset of its header lies beyond its {len(data)} bytes")
    contig_lengths = _read_contigs(data, contigs_at)
    if index_at == 0 and not any(data[data_at : data_at + 8]):  # so does pyBigWig write a file without values
        return BlockIndex(data, contig_lengths, buffer_bytes, np.empty(0, _LEAVES))
    magic, _, count, *_ = _INDEX.unpack_from(data, index_at)
    if magic != _INDEX_MAGIC:
        raise _DamageError("no index of blocks where its header has it")
    blocks = np.concatenate([np.empty(0, _LEAVES), *_leaves(data, index_at + _INDEX.size)])
    if len(blocks) != count:
        raise _DamageError(f"{len(blocks)} blocks in an index of {count}")
    _check_order(blocks, list(contig_lengths.values()), data_bytes=len(data))
    return BlockIndex(data, contig_lengths, buffer_bytes, blocks)


def _read_contigs(data: memoryview, offset: int) -> dict[str, int]:
    """Read the tree of contig names; children of a node lie behind it, so that no damage makes a ring."""
    magic, _, key_bytes, value_bytes, count, _ = _TREE.unpack_from(data, offset)
    if magic != _CONTIGS_MAGIC or value_bytes != 8 or not 0 < key_bytes < 1 << 16:
        raise _DamageError("no list of contigs where its header has it")
    leaf, branch = struct.Struct(f"<{key_bytes}sII"), struct.Struct(f"<{key_bytes}sQ")
    found: dict[int, tuple[str, int]] = {}
    nodes = [offset + _TREE.size]
    while nodes:
        node = nodes.pop()
        is_leaf, _, items = _NODE.unpack_from(data, node)
        if is_leaf > 1:
            raise _DamageError("a node of its list of contigs is of no known kind")
        for item in range(items):
            fields = (leaf if is_leaf else branch).unpack_from(
                data, node + _NODE.size + item * (leaf if is_leaf else branch).size
            )
            if not is_leaf:
                if fields[1] <= node:
                    raise _DamageError("its list of contigs points back")
                nodes.append(fields[1])
            elif fields[1] in found:
                raise _DamageError(f"two contigs have number {fields[1]}")
            else:
                found[fields[1]] = (fields[0].rstrip(b"\0").decode("utf-8"), fields[2])
    contig_lengths = dict(found[number] for number in sorted(found))
    if not count == len(found) == len(contig_lengths) or max(found, default=-1) != count - 1:
        raise _DamageError(f"its list of {count} contigs holds {len(found)}, or two of one name")
    return contig_lengths


def _leaves(data: memoryview, root: int) -> Iterator[NDArray[np.void]]:
    """Give the leaves of the index from first to last, each within the bounds its parents have for it."""
    nodes = [(root, 0, 1 << 64)]
    seen = set()
    while nodes:
        node, lowest, highest = nodes.pop()
        is_leaf, _, items = _NODE.unpack_from(data, node)
        if is_leaf > 1 or node in seen:
            raise _DamageError("a node of its index is of no known kind, or met twice")
        seen.add(node)
        rows = np.frombuffer(data, _LEAVES if is_leaf else _BRANCHES, items, node + _NODE.size)
        if not items:
            continue
        starts, ends = _keys(rows, "start"), _keys(rows, "end")
        if starts.min() < lowest or ends.max() > highest:
            raise _DamageError("a node of its index lies outside its parent")
        if is_leaf:
            yield rows
        else:
            children = zip(rows["offset"].tolist(), starts.tolist(), ends.tolist(), strict=True)
            nodes += reversed(list(children))


def _check_order(blocks: NDArray[np.void], contig_lengths: list[int], *, data_bytes: int) -> None:
    if not len(blocks):
        return
    if blocks["contig"].max() >= len(contig_lengths) or (blocks["contig"] != blocks["end_contig"]).any():
        raise _DamageError("a block lies on no contig, or on two")
    # the last block may end beyond its contig: pyBigWig writes a whole last step there
    if (blocks["start"] >= np.array(contig_lengths)[blocks["contig"]]).any():
        raise _DamageError("a block starts beyond its contig")
    starts, ends = _keys(blocks, "start"), _keys(blocks, "end")
    if (starts >= ends).any() or (starts[1:] < ends[:-1]).any():
        raise _DamageError("its blocks are not in order")
    # compared in this way because a sum of two damaged numbers may overflow
    if (blocks["offset"] >= data_bytes).any() or (blocks["size"] > data_bytes - blocks["offset"]).any():
        raise _DamageError("a block lies beyond the end of the file")


def _keys(rows: NDArray[np.void], field: str) -> NDArray[np.uint64]:
    """Return contig and base as one number that orders them."""
    contig = rows["end_contig" if field == "end" else "contig"]
    return (contig.astype(np.uint64) << np.uint64(32)) + rows[field]
