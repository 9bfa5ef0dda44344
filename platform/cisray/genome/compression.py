"""Tell plain, gzip and bgzip files apart, read each, and notice a missing or truncated one."""

import gzip
import io
import os
import zlib
from pathlib import Path
from typing import BinaryIO, cast

from cisray.errors import InputError

GZIP_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error)
"""What reading a truncated or damaged gzip stream raises."""
_GZIP_MAGIC = b"\x1f\x8b"
# The empty block that ends every whole bgzip file (SAM specification, 4.1.2).
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def check_is_file(path: Path, *, wanted: str) -> None:
    """Raise InputError unless a file is there; `wanted` says which, "a BED file"."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "not a file" if path.exists() else "no such file"
        raise InputError(f"{path}: {found}, but {wanted} was expected here")


def is_gzip(path: Path) -> bool:
    """Tell a gzip (or bgzip) file by its first bytes, whatever its name."""
    with path.open("rb") as handle:
        return handle.read(2) == _GZIP_MAGIC


def lacks_bgzip_end(path: Path) -> bool:
    """Tell a bgzip file that was cut between two blocks, which no gzip reader notices."""
    with path.open("rb") as handle:
        start = handle.read(14)
        if start[:4] != _BGZF_END[:4] or start[12:14] != b"BC":
            return False
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(0, size - len(_BGZF_END)))
        return handle.read() != _BGZF_END


def check_bgzip_end(path: Path) -> None:
    """Raise InputError where a bgzip file was cut between two blocks."""
    if lacks_bgzip_end(path):
        raise InputError(f"{path}: truncated, the block that ends a bgzip file is missing; copy or make it again")


def open_unpacked(path: Path) -> BinaryIO:
    """Open a plain, gzip or bgzip file for reading its unpacked bytes.

    Reading may raise one of GZIP_ERRORS. A bgzip file cut between two blocks ends silently: ask
    `lacks_bgzip_end` too.
    """
    if is_gzip(path):
        # the buffer makes reading line by line three times faster
        return cast(BinaryIO, io.BufferedReader(gzip.open(path, "rb"), 1 << 18))
    return path.open("rb")
