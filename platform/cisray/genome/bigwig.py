"""Read bigWig files, with every byte checked that another byte contradicts.

A C library that trusts the index crashes on a damaged list of contigs and takes a damaged block's bounds for bases
without signal. Nothing stays open or mapped between two reads: a process may hold thousands of files, and one that
is cut short or replaced meanwhile is told.
"""

import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from isal import isal_zlib  # twice as fast as zlib, which takes most of the time
from numpy.typing import NDArray

from cisray.errors import InputError
from cisray.genome.runs import Runs

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
_BED_GRAPH, _VARIABLE_STEP, _FIXED_STEP = 1, 2, 3
_ITEM_BYTES = {_BED_GRAPH: 12, _VARIABLE_STEP: 8, _FIXED_STEP: 4}
_BOUNDS = [("contig", "<u4"), ("start", "<u4"), ("end_contig", "<u4"), ("end", "<u4"), ("offset", "<u8")]
_BRANCHES, _LEAVES = np.dtype(_BOUNDS), np.dtype([*_BOUNDS, ("size", "<u8")])
_MOST_DEPTH = 32  # of the index; 2 items a node would hold 4 billion blocks
_BATCH_BYTES = 1 << 16  # of packed blocks, so that what is made of them fits a core's cache
_UNPACKING_ERRORS: tuple[type[Exception], ...] = (struct.error, isal_zlib.error)  # type: ignore[assignment]
_Read = Callable[[int, int], bytes]


class Contigs(NamedTuple):
    """The contigs of a file, by its own names; one object for all files of the same."""

    lengths: dict[str, int]
    """In the order of the numbers by which blocks name their contig."""
    numbers: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class BigWig:
    """Where things lie in a bigWig file."""

    path: Path
    size_bytes: int
    changed_ns: int
    """When the file was last written, as its file system says."""
    contigs: Contigs
    buffer_bytes: int
    """Bytes of the largest block unpacked; 0 where blocks are not packed."""
    num_blocks: int
    root: int
    """Where the index begins."""
    node_bytes: int
    """Bytes of the largest node of the index."""
    bounds: tuple[int, int]
    """Start of the first block and end of the last, contig and base in one number."""


class _DamageError(Exception):
    """Tell which part of a file contradicts another."""


def is_bigwig(path: Path) -> bool:
    """Tell a bigWig file, or one that is often taken for it, by its first bytes, whatever its name."""
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        return int.from_bytes(handle.read(4), "little") in {_MAGIC, *_OTHER_FORMATS}


def open_bigwig(path: Path) -> BigWig:
    """Read and check the header and the contigs; raises InputError unless they are those of a whole bigWig file."""
    with _opened(path) as (read, status):
        magic = int.from_bytes(read(0, 4), "little")
        if magic != _MAGIC:
            found = _OTHER_FORMATS.get(magic, f"it starts with {read(0, 4)!r}")
            raise InputError(f"{path}: not a bigWig file ({found}); give one, such as bedGraphToBigWig makes")
        with _damage_told(path):
            return _read_header(path, read, status)


def check_file(path: Path) -> int:
    """Check the header, the contigs and the whole index, and return the number of blocks of data.

    Raises InputError unless all agree. The blocks themselves are checked as they are read.
    """
    file = open_bigwig(path)
    with _opened(path, same_as=file) as (read, _), _damage_told(path):
        found = sum(len(rows) for rows in _blocks(file, read, *file.bounds))
        if found != file.num_blocks:
            raise _DamageError(f"{found} blocks in an index of {file.num_blocks}")
    return file.num_blocks


def read_runs(file: BigWig, contig: str, start: int, end: int) -> Iterator[Runs]:
    """Give the runs of an interval inside a contig, cut at its ends, in batches of some thousands.

    Only the part of the index that tells of the interval is read and checked, and all of its blocks. Where none
    reaches over an end of the interval, the next one there is checked as well: blocks are in order, so that the one
    whose bounds are wrong in the index, and which would therefore not be read here, is among them.

    Raises InputError for a file that is damaged there, or that changed since it was opened.
    """
    number = file.contigs.numbers[contig]
    with _opened(file.path, same_as=file) as (read, _):
        with _damage_told(file.path):
            found = _blocks(file, read, (number << 32) + start, (number << 32) + end)
            blocks = [_Block._make(row) for rows in found for row in rows.tolist()]
        for batch in _batches(blocks):
            packed = _read_packed(batch, read)
            units = [_unpack(file, block, next(packed)) for block in batch]
            for kind, alike in groupby((unit for unit in units if unit.block.contig == number), key=_kind):
                yield _as_runs(file, kind, list(alike)).within(start, end)


class _Block(NamedTuple):
    """A block of data, as the index has it."""

    contig: int
    start: int
    end_contig: int
    end: int
    offset: int
    size: int


class _Unit(NamedTuple):
    """A block of data unpacked."""

    block: _Block
    start: int
    step: int
    span: int
    kind: int
    items: NDArray[np.uint32]
    """The words of all items."""


def _kind(unit: _Unit) -> int:
    return unit.kind


@contextmanager
def _opened(path: Path, same_as: BigWig | None = None) -> Iterator[tuple[_Read, os.stat_result]]:
    """Give a function that reads from an offset on, fewer bytes at the file's end, and the file's status."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # or a pipe is waited for
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file, but a bigWig file was expected here") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            found = "a folder" if stat.S_ISDIR(status.st_mode) else "not a file"
            raise InputError(f"{path}: {found}, but a bigWig file was expected here")
        if same_as is not None and (status.st_size, status.st_mtime_ns) != (same_as.size_bytes, same_as.changed_ns):
            raise InputError(f"{path}: changed since it was opened; start again, and let no one write it meanwhile")

        def read(offset: int, size: int) -> bytes:
            if offset > status.st_size:
                raise _DamageError(f"an offset lies beyond its {status.st_size} bytes")
            return os.pread(descriptor, size, offset)

        yield read, status
    finally:
        os.close(descriptor)


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except (_DamageError, struct.error, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: truncated or damaged bigWig file ({error}); copy or make it again") from error


def _read_header(path: Path, read: _Read, status: os.stat_result) -> BigWig:
    size = status.st_size
    header = read(0, _HEADER.size)
    if size < _HEADER.size + 4 or int.from_bytes(read(size - 4, 4), "little") != _MAGIC:
        raise _DamageError("its last bytes are not the number that ends a bigWig file")
    _, version, zooms, contigs_at, data_at, index_at, _, _, _, summary_at, buffer_bytes, _ = _HEADER.unpack(header)
    if not 1 <= version <= 4:
        raise _DamageError(f"version {version} instead of 1 to 4")
    offsets = [contigs_at, data_at, index_at, summary_at]
    for fields in _ZOOM.iter_unpack(read(_HEADER.size, zooms * _ZOOM.size)):
        offsets += fields[2:]
    if max(offsets) >= size or _HEADER.size + zooms * _ZOOM.size > contigs_at:
        raise _DamageError(f"an offset of its header lies beyond its {size} bytes")
    contigs = _share_contigs(_read_contigs(read, contigs_at))
    node_items, count, bounds = 0, 0, (0, 0)
    num_blocks = int.from_bytes(read(data_at, 8), "little")
    if index_at or num_blocks:  # pyBigWig writes no index where there are no values
        magic, node_items, count, *ends, _, _, _ = _INDEX.unpack(read(index_at, _INDEX.size))
        bounds = (ends[0] << 32) + ends[1], (ends[2] << 32) + ends[3]
        if magic != _INDEX_MAGIC or not 1 <= node_items < 1 << 16:
            raise _DamageError("no index of blocks where its header has it")
    if num_blocks and not count:
        raise _DamageError(f"{num_blocks} blocks of data and an index of none")
    return BigWig(
        path=path,
        size_bytes=size,
        changed_ns=status.st_mtime_ns,
        contigs=contigs,
        buffer_bytes=buffer_bytes,
        num_blocks=count,
        root=index_at + _INDEX.size,
        node_bytes=_NODE.size + node_items * _LEAVES.itemsize,
        bounds=bounds,
    )


def _read_contigs(read: _Read, offset: int) -> tuple[tuple[str, int], ...]:
    """Read the tree of contig names; children of a node lie behind it, so that no damage makes a ring."""
    magic, _, key_bytes, value_bytes, count, _ = _TREE.unpack(read(offset, _TREE.size))
    if magic != _CONTIGS_MAGIC or value_bytes != 8 or not 0 < key_bytes < 1 << 16:
        raise _DamageError("no list of contigs where its header has it")
    leaf, branch = struct.Struct(f"<{key_bytes}sII"), struct.Struct(f"<{key_bytes}sQ")
    found: dict[int, tuple[str, int]] = {}
    nodes = [offset + _TREE.size]
    while nodes:
        node = nodes.pop()
        is_leaf, _, items = _NODE.unpack(read(node, _NODE.size))
        if is_leaf > 1:
            raise _DamageError("a node of its list of contigs is of no known kind")
        kind = leaf if is_leaf else branch
        for key, *value in kind.iter_unpack(read(node + _NODE.size, items * kind.size)):
            if not is_leaf:
                if value[0] <= node:
                    raise _DamageError("its list of contigs points back")
                nodes.append(value[0])
            elif value[0] in found:
                raise _DamageError(f"two contigs have number {value[0]}")
            else:
                found[value[0]] = (key.rstrip(b"\0").decode("utf-8"), value[1])
    if not count == len(found) == len(dict(found.values())) or max(found, default=-1) != count - 1:
        raise _DamageError(f"its list of {count} contigs holds {len(found)}, or two of one name")
    return tuple(found[number] for number in sorted(found))


@lru_cache(maxsize=16)
def _share_contigs(names_and_lengths: tuple[tuple[str, int], ...]) -> Contigs:
    """Make one table for all the files of a genome, which may be thousands."""
    return Contigs(dict(names_and_lengths), {name: number for number, (name, _) in enumerate(names_and_lengths)})


def _blocks(file: BigWig, read: _Read, first: int, last: int) -> Iterator[NDArray[np.void]]:
    """Give the blocks, in order, that reach into (first, last), and the next one where none reaches over an end.

    Every node on the way is checked: it begins and ends where its parent says, its items are in order.
    """
    nodes = [(file.root, *file.bounds, 0)] if file.num_blocks else []
    while nodes:
        offset, lowest, highest, depth = nodes.pop()
        raw = read(offset, file.node_bytes)
        is_leaf, _, items = _NODE.unpack_from(raw)
        if is_leaf > 1 or not items or depth > _MOST_DEPTH:
            raise _DamageError("a node of its index is empty, of no known kind, or met twice")
        rows = np.frombuffer(raw, _LEAVES if is_leaf else _BRANCHES, items, _NODE.size)
        starts, ends = _keys(rows, "start"), _keys(rows, "end")
        if starts[0] != lowest or ends[-1] != highest:
            raise _DamageError("a node of its index begins or ends elsewhere than its parent has it")
        if (starts >= ends).any() or (starts[1:] < ends[:-1]).any():
            raise _DamageError("its blocks are not in order")
        begin = int(np.searchsorted(ends, first, side="right"))
        end = int(np.searchsorted(starts, last, side="left"))
        if begin == items or (begin and starts[begin] > first):
            begin -= 1
        if end == 0 or (end < items and ends[end - 1] < last):
            end += 1
        if is_leaf:
            _check_leaf(file, rows[begin:end])
            yield rows[begin:end]
        else:
            inner = slice(begin, end)
            children = zip(rows["offset"][inner].tolist(), starts[inner].tolist(), ends[inner].tolist(), strict=True)
            nodes += reversed([(*child, depth + 1) for child in children])


def _check_leaf(file: BigWig, blocks: NDArray[np.void]) -> None:
    lengths = list(file.contigs.lengths.values())
    if blocks["contig"].max() >= len(lengths) or (blocks["contig"] != blocks["end_contig"]).any():
        raise _DamageError("a block lies on no contig, or on two")
    # the last block may end beyond its contig: pyBigWig writes a whole last step there
    if (blocks["start"] >= np.array(lengths)[blocks["contig"]]).any():
        raise _DamageError("a block starts beyond its contig")
    # compared in this way because a sum of two damaged numbers may overflow
    size = file.size_bytes
    if (blocks["offset"] >= size).any() or (blocks["size"] > size - blocks["offset"]).any():
        raise _DamageError("a block lies beyond the end of the file")


def _keys(rows: NDArray[np.void], field: str) -> NDArray[np.uint64]:
    """Return contig and base as one number that orders them."""
    contig = rows["end_contig" if field == "end" else "contig"]
    return (contig.astype(np.uint64) << np.uint64(32)) + rows[field]


def _batches(blocks: list[_Block]) -> Iterator[list[_Block]]:
    """Cut a list of blocks where `_BATCH_BYTES` are full."""
    batch: list[_Block] = []
    size = 0
    for block in blocks:
        if batch and size + block.size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(block)
        size += block.size
    if batch:
        yield batch


def _read_packed(blocks: list[_Block], read: _Read) -> Iterator[memoryview]:
    """Give the bytes of each block; those that lie side by side in the file, as they do, are read at once."""
    first, total = blocks[0].offset, sum(block.size for block in blocks)
    if blocks[-1].offset + blocks[-1].size == first + total:
        raw = memoryview(read(first, total))
        for block in blocks:
            yield raw[block.offset - first : block.offset - first + block.size]
    else:
        for block in blocks:
            yield memoryview(read(block.offset, block.size))


def _unpack(file: BigWig, block: _Block, packed: memoryview) -> _Unit:
    room = file.buffer_bytes or block.size
    try:
        # `room` itself may be damaged: it is not what memory is taken for
        raw = isal_zlib.decompress(packed, bufsize=min(room, 1 << 18)) if file.buffer_bytes else bytes(packed)
        contig, start, end, step, span, kind, _, items = _BLOCK.unpack_from(raw)
    except _UNPACKING_ERRORS as error:
        raise _damaged_block(file, block, str(error)) from error
    if (contig, start, end) != (block.contig, block.start, block.end):
        raise _damaged_block(file, block, "its bounds are not those of the index")
    if kind not in _ITEM_BYTES:
        raise _damaged_block(file, block, f"it is of no known kind ({kind})")
    if not items or len(raw) > room or _BLOCK.size + items * _ITEM_BYTES[kind] > len(raw):
        raise _damaged_block(file, block, f"its {items} items do not fit into {min(room, len(raw))} bytes")
    words = np.frombuffer(raw, "<u4", items * _ITEM_BYTES[kind] // 4, _BLOCK.size)
    return _Unit(block, start, step, span, kind, words)


def _as_runs(file: BigWig, kind: int, units: list[_Unit]) -> Runs:
    """Return what units of one kind hold; raises InputError for items that overlap or lie outside their block."""
    words = np.concatenate([unit.items for unit in units]).reshape(-1, _ITEM_BYTES[kind] // 4)
    values = words[:, -1].view("<f4")
    counts = np.array([len(unit.items) for unit in units]) // words.shape[1]
    heads = np.cumsum(counts) - counts
    if kind == _FIXED_STEP:
        starts = np.concatenate([unit.start + unit.step * np.arange(n) for unit, n in zip(units, counts, strict=True)])
    else:
        starts = words[:, 0].astype(np.int64)
    if kind == _BED_GRAPH:
        ends = words[:, 1].astype(np.int64)
    else:
        ends = starts + np.repeat([unit.span for unit in units], counts)
    wrong = starts >= ends
    wrong[1:] |= starts[1:] < ends[:-1]
    wrong[heads] |= starts[heads] < [unit.block.start for unit in units]
    wrong[heads + counts - 1] |= ends[heads + counts - 1] > [unit.block.end for unit in units]
    if wrong.any():
        block = units[np.searchsorted(heads, wrong.argmax(), side="right") - 1].block
        raise _damaged_block(file, block, "its items overlap, or lie outside of it")
    if np.isinf(values).any():
        contig = list(file.contigs.lengths)[units[0].block.contig]
        raise InputError(
            f"{file.path}: holds an infinite value at {contig}:{starts[np.isinf(values).argmax()]}; "
            "make the file again, with no value where there is none to tell"
        )
    return Runs(starts, ends, values)


def _damaged_block(file: BigWig, block: _Block, fault: str) -> InputError:
    contig = list(file.contigs.lengths)[block.contig]
    return InputError(
        f"{file.path}: damaged block of data at byte {block.offset}, {contig}:{block.start}-{block.end} ({fault}); "
        "copy or make the file again"
    )
