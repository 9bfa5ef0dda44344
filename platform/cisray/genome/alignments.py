"""Read which stretches of two genomes are aligned, from UCSC chain and net files, one alignment at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from cisray.errors import InputError
from cisray.genome.compression import GZIP_ERRORS, check_bgzip_end, check_is_file, open_unpacked

Extent = Literal["blocks", "span"]
"""Aligned stretches without the gaps between them; or one stretch from an alignment's first base to its last."""
_CHAIN_FIELDS = 12  # before the number of the chain, which some files lack
_Line = tuple[int, bytes]


class Blocks(NamedTuple):
    """The aligned stretches of one chain, or one fill of a net; both sides as read on the plus strand, [M] each.

    Stretches ascend in the target. They descend in the query where it is `reversed`. The two sides of a chain's
    block are equally long; those of a net, which leaves short gaps out, or of a span may differ.
    """

    target: str
    target_bp: int
    """Bases of the target's contig."""
    query: str
    query_bp: int | None
    """Bases of the query's contig; None in a net, which does not tell."""
    reversed: bool
    target_start: NDArray[np.int64]
    target_end: NDArray[np.int64]
    query_start: NDArray[np.int64]
    query_end: NDArray[np.int64]


def read_alignments(
    path: Path, *, extent: Extent = "blocks", min_span_bp: int = 0, min_score: int = 0
) -> Iterator[Blocks]:
    """Give every alignment of a chain or net file, plain or gzip, that spans and scores enough in the target.

    Of a net, "span" gives the top fills alone, as all others lie in their gaps.

    Raises:
        InputError: the file is missing, damaged, neither chain nor net, or a line does not fit its header.
    """
    check_is_file(path, wanted="a chain or net file")
    check_bgzip_end(path)
    lines = _lines(path)
    first = next(lines, None)
    if first is None:
        raise InputError(f"{path}: holds no alignment; wanted a UCSC chain or net file")
    kind = first[1].split()[0]
    if kind == b"chain":
        yield from _chains(path, first, lines, extent=extent, min_span_bp=min_span_bp, min_score=min_score)
    elif kind == b"net":
        for blocks, score in _fills(path, first, lines, extent=extent):
            if score >= min_score and blocks.target_end[-1] - blocks.target_start[0] >= min_span_bp:
                yield blocks
    else:
        raise InputError(
            f"{path}: line {first[0]} begins with {kind.decode(errors='replace')!r}; wanted a UCSC chain or net file"
        )


def _lines(path: Path) -> Iterator[_Line]:
    """Give the number and text of every line that says something."""
    try:
        with open_unpacked(path) as handle:
            for number, line in enumerate(handle, start=1):
                if line.strip() and not line.startswith(b"#"):
                    yield number, line.rstrip()
    except GZIP_ERRORS as error:
        raise InputError(f"{path}: truncated or damaged gzip file ({error}); copy or make it again") from error


def _chains(
    path: Path, header: _Line | None, lines: Iterator[_Line], *, extent: Extent, min_span_bp: int, min_score: int
) -> Iterator[Blocks]:
    while header is not None:
        chain = _read_header(path, header)
        rows: list[bytes] = []
        following = None
        for number, line in lines:
            if line.startswith(b"chain"):
                following = (number, line)
                break
            rows.append(line)
        wanted = chain.score >= min_score and chain.target_end - chain.target_start >= min_span_bp
        if wanted:
            yield _chain_blocks(path, header[0], chain, rows if extent == "blocks" else None)
        header = following


class _Chain(NamedTuple):
    score: float
    target: str
    target_bp: int
    target_start: int
    target_end: int
    query: str
    query_bp: int
    reversed: bool
    query_start: int
    """On the strand that the chain reads."""
    query_end: int


def _read_header(path: Path, header: _Line) -> _Chain:
    number, line = header
    fields = line.decode("utf-8", "replace").split()
    if len(fields) < _CHAIN_FIELDS or fields[4] != "+" or fields[9] not in ("+", "-"):
        _refuse(path, number, "is no chain header: score, target (name, size, +, start, end), query (the same), id")
    try:
        size, start, end = int(fields[3]), int(fields[5]), int(fields[6])
        query_size, query_start, query_end = int(fields[8]), int(fields[10]), int(fields[11])
        score = float(fields[1])
    except ValueError:
        _refuse(path, number, "holds something else where a chain header has numbers")
    if not (0 <= start < end <= size and 0 <= query_start < query_end <= query_size):
        _refuse(path, number, "is a chain that begins after its end or reaches beyond its contig")
    reverse = fields[9] == "-"
    return _Chain(score, fields[2], size, start, end, fields[7], query_size, reverse, query_start, query_end)


def _chain_blocks(path: Path, number: int, chain: _Chain, rows: list[bytes] | None) -> Blocks:
    """Return a chain's blocks, or its span where `rows` is None."""
    if rows is None:
        target_start, target_end = np.array([chain.target_start]), np.array([chain.target_end])
        query_start, query_end = np.array([chain.query_start]), np.array([chain.query_end])
    else:
        try:
            values = np.array(b" ".join(rows).split(), dtype=np.bytes_).astype(np.int64)
        except ValueError:
            _refuse(path, number, "is a chain with a block that is not three numbers")
        if len(values) != 3 * len(rows) - 2:
            _refuse(path, number, "is a chain whose blocks are not lines of three numbers and one of one")
        size, target_gap, query_gap = np.append(values, [0, 0]).reshape(-1, 3).T
        target_start = chain.target_start + np.cumsum(size + target_gap) - size - target_gap
        query_start = chain.query_start + np.cumsum(size + query_gap) - size - query_gap
        target_end, query_end = target_start + size, query_start + size
        if (values < 0).any() or (target_end[-1], query_end[-1]) != (chain.target_end, chain.query_end):
            _refuse(
                path,
                number,
                f"is a chain that ends at {chain.target_end} and {chain.query_end}, but its blocks end at "
                f"{target_end[-1]} and {query_end[-1]}",
            )
    if chain.reversed:
        query_start, query_end = chain.query_bp - query_end, chain.query_bp - query_start
    names = (chain.target, chain.target_bp, chain.query, chain.query_bp, chain.reversed)
    return Blocks(*names, target_start, target_end, query_start, query_end)


class _Fill(NamedTuple):
    """A fill or gap of a net; the query is on the plus strand, whatever the orientation."""

    depth: int
    target_start: int
    target_end: int
    query: str
    reversed: bool
    query_start: int
    query_end: int
    score: float
    gaps: list["_Fill"]


def _fills(
    path: Path, header: _Line | None, lines: Iterator[_Line], *, extent: Extent
) -> Iterator[tuple[Blocks, float]]:
    """Give the blocks of every fill, and its score, when all that lies in it is read."""
    while header is not None:
        words = header[1].decode("utf-8", "replace").split()
        if words[0] != "net" or len(words) < 3 or not words[2].isdigit():
            _refuse(path, header[0], "is no net header: net, contig, size")
        open_fills: list[_Fill] = []
        following = None
        for number, line in lines:
            if line.startswith(b"net"):
                following = (number, line)
                break
            item, is_gap = _read_fill(path, number, line)
            while open_fills and open_fills[-1].depth >= item.depth:
                yield from _fill_blocks(open_fills.pop(), words[1], int(words[2]), extent)
            if is_gap and open_fills:
                open_fills[-1].gaps.append(item)
            elif not is_gap:
                open_fills.append(item)
        while open_fills:
            yield from _fill_blocks(open_fills.pop(), words[1], int(words[2]), extent)
        header = following


def _read_fill(path: Path, number: int, line: bytes) -> tuple[_Fill, bool]:
    fields = line.decode("utf-8", "replace").split()
    if len(fields) < 7 or fields[0] not in ("fill", "gap") or fields[4] not in ("+", "-"):
        _refuse(path, number, "is no fill or gap of a net: start, size, query, strand, start, size")
    try:
        start, size, query_start, query_size = (int(fields[index]) for index in (1, 2, 5, 6))
        score = float(fields[fields.index("score") + 1]) if "score" in fields else 0.0
    except (ValueError, IndexError):
        _refuse(path, number, "holds something else where a fill or gap has numbers")
    depth = len(line) - len(line.lstrip())
    ends = (start + size, fields[3], fields[4] == "-", query_start, query_start + query_size)
    return _Fill(depth, start, *ends, score, []), fields[0] == "gap"


def _fill_blocks(fill: _Fill, target: str, target_bp: int, extent: Extent) -> Iterator[tuple[Blocks, float]]:
    """Give what a fill's own gaps leave of it: one Blocks, or none where nothing is left."""
    if extent == "span" and fill.depth > 1:
        return
    gaps = fill.gaps if extent == "blocks" else []
    target_start = np.array([fill.target_start, *(gap.target_end for gap in gaps)], np.int64)
    target_end = np.array([*(gap.target_start for gap in gaps), fill.target_end], np.int64)
    if fill.reversed:
        query_start = np.array([*(gap.query_end for gap in gaps), fill.query_start], np.int64)
        query_end = np.array([fill.query_end, *(gap.query_start for gap in gaps)], np.int64)
    else:
        query_start = np.array([fill.query_start, *(gap.query_end for gap in gaps)], np.int64)
        query_end = np.array([*(gap.query_start for gap in gaps), fill.query_end], np.int64)
    some = (target_end > target_start) & (query_end > query_start)
    if some.any():
        sides = (each[some] for each in (target_start, target_end, query_start, query_end))
        yield Blocks(target, target_bp, fill.query, None, fill.reversed, *sides), fill.score


def _refuse(path: Path, number: int, what: str) -> NoReturn:
    raise InputError(f"{path}: line {number} {what}; copy or make the file again")
