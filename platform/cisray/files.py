"""Write files whole or not at all, and say what is in them."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from cisray.errors import InputError, MachineError

# What sampled_digest reads of a large file.
SAMPLES = 16
SAMPLE_BYTES = 64 << 10
# A disk, or a user's share of it, is used up.
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def full_disk_told(path: Path) -> Iterator[None]:
    """Raise MachineError in place of the system's error where no room is left for `path`, which the block writes."""
    try:
        yield
    except OSError as error:
        # errors of Arrow and shutil may have no number, but all hold the system's words
        if not any(os.strerror(number) in str(error) for number in FULL_DISK):
            raise
        disk = shutil.disk_usage(next(folder for folder in path.parents if folder.exists()))
        raise MachineError(
            f"{path.parent}: no room for {path.name} ({disk.free >> 20} of {disk.total >> 20} MiB are free); make "
            "room, then run again, which goes on where this run ended"
        ) from error


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`, renamed to it only when the block ends without an error.

    The name is unique to this process, so that two workers that write the same shard do not meet.
    """
    with full_disk_told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(descriptor)
        aside = Path(name)
        try:
            yield aside
            aside.chmod(0o644)  # mkstemp gives 0600; other users of a shared folder must be able to read
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`, which takes its place only when the block ends without an error."""
    with full_disk_told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            yield aside
            aside.chmod(0o755)
            replace_folder(aside, path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def replace_folder(source: Path, target: Path) -> None:
    """Move `source` to `target`; an older folder there goes only once the new one stands ready beside it."""
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
        target.replace(old)
        source.replace(target)
        shutil.rmtree(old)
    else:
        source.replace(target)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; equal values give equal bytes."""
    with written_whole(path) as aside:
        aside.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path, *, what: str) -> dict[str, Any]:
    """Read a JSON file that holds one object; raise InputError that names `what` it was meant to be."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, but a {what} was expected here") from None
    except (IsADirectoryError, NotADirectoryError):
        raise InputError(f"{path}: a {what} was expected here, and this is or lies below something else") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable {what} ({error}); make it again") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: not a {what}: it holds a {type(values).__name__}; make it again")
    return values


def within(folder: Path, name: str, *, what: str) -> Path:
    """Return the path of a file by the name that something stored has for it.

    Raises:
        InputError: the name leads out of `folder`: it is absolute, has `..` in it, or meets a symbolic link that does.
            The message says `what` the folder is.
    """
    path = folder / name
    try:
        is_within = not PurePath(name).is_absolute() and ".." not in PurePath(name).parts
        is_within = is_within and path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # links in a ring, or a name that no file can have
        is_within = False
    if not is_within:
        raise InputError(
            f"{folder}: {name!r} leads out of this {what}, and is not read; copy the {what} again, links as the files "
            "that they lead to"
        )
    return path


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sampled_digest(path: Path) -> str:
    """Return the SHA-256, in hex, of a file's size and of SAMPLES pieces of it, spread evenly from first to last byte.

    A file of up to 1 MiB is read whole. In a larger one this notices what cuts, grows or rewrites it, at the price of
    reading 1 MiB; an edit of a few bytes in place may fall between two pieces.
    """
    size = path.stat().st_size
    total = hashlib.sha256(str(size).encode())
    with path.open("rb") as handle:
        if size <= SAMPLES * SAMPLE_BYTES:
            total.update(handle.read())
        else:
            for index in range(SAMPLES):
                handle.seek((size - SAMPLE_BYTES) * index // (SAMPLES - 1))
                total.update(handle.read(SAMPLE_BYTES))
    return total.hexdigest()


def value_digest(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON, in hex: equal values, equal digests."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
