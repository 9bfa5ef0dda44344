"""Files and folders by URI: fetched once per machine into a cache, and results published, the card last.

Everything below works on local paths. A URI is resolved where a file is opened, in whatever process and on whatever
machine that is; what it names lies in the cache under a name made of the URI and of what the store says of the object,
so that one that has changed is fetched anew.
"""

import fcntl
import functools
import hashlib
import io
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from glob import has_magic
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from fsspec.utils import glob_translate

from cisray.errors import InputError
from cisray.files import folder_written_whole, read_json, value_digest, within, write_json
from cisray.stores import (
    COPY_BYTES,
    Object,
    Place,
    delete,
    is_remote,
    is_uri,
    look,
    open_place,
    path_of_file_uri,
    read,
    told,
    write,
)

COPY_THREADS = 8
# Objects up to this size are published anew where an earlier call was interrupted; larger ones of equal size are kept.
SMALL_BYTES = 1 << 20
# Beside an object in the cache: where it came from.
ORIGIN_NAME = ".origin.json"
# At a URI while a folder is published: the digest of its plan, and which files they are.
PUBLISHING_NAME = ".publishing.json"


def default_cache_dir() -> Path:
    """Return the folder for what can be made again: $CISRAY_CACHE, or cisray in the user's cache folder."""
    if own := os.environ.get("CISRAY_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cisray"


def join(root: str, name: str) -> str:
    """Return the URI or path of `name` below `root`, either of which may be a URI; an absolute `name` stands alone."""
    if is_uri(name):
        return name
    if is_uri(root) and not Path(name).expanduser().is_absolute():
        return f"{root.rstrip('/')}/{PurePosixPath(name)}"
    return str(Path(root) / Path(name).expanduser())


def local_path(name: str | Path) -> Path:
    """Return the absolute path of a file or folder: of a path as it is, of a URI where it lies once it is fetched.

    Raises:
        InputError: the URI cannot be read, or holds nothing.
    """
    if not is_uri(name):
        return Path(name).expanduser().absolute()
    uri = str(name)
    if not is_remote(uri):
        return path_of_file_uri(uri)
    return _fetch(uri, default_cache_dir().absolute())


def names_below(root: str, pattern: str) -> list[str]:
    """Return the names of the files below a folder, a path or a URI, that fit a pattern of *, ? and **.

    Raises:
        InputError: the folder is on a web server, which lists nothing, or cannot be read.
    """
    if not is_remote(root):
        folder = local_path(root)
        return [path.relative_to(folder).as_posix() for path in sorted(folder.glob(pattern))]
    fixed = list(itertools.takewhile(lambda part: not has_magic(part), PurePosixPath(pattern).parts[:-1]))
    place = open_place("/".join([root.rstrip("/"), *fixed]))
    if place.store is None:
        raise InputError(f"{root}: a web server does not list its files for {pattern!r}; name each of them")
    with told(place, "read"):
        names = ["/".join([*fixed, one.name]) for one in look(place, must_exist=False)]
    fits = re.compile(glob_translate(pattern))
    return sorted(filter(fits.match, names), key=PurePosixPath)


class Origin(NamedTuple):
    """A file or folder in the cache, and the URI that it was fetched from."""

    path: Path
    uri: str


def origin_of(path: Path) -> Origin | None:
    """Return what was fetched, of a path in the cache or of one in a folder that is there; None of other paths."""
    for fetched in (path, *path.parents):
        note = fetched.parent / ORIGIN_NAME
        if note.exists():
            return Origin(fetched, str(read_json(note, what="note of where a file came from")["uri"]))
    return None


def uri_of(path: Path) -> str | None:
    """Return the URI of a path in the cache; None where it was not fetched."""
    origin = origin_of(path)
    return None if origin is None else "/".join([origin.uri, *path.relative_to(origin.path).parts])


def fetch(uri: str, cache_dir: Path) -> Path:
    """Fetch a file or folder into a cache, if what the store holds now is not there, and return its path."""
    place = open_place(uri)
    with told(place, "read"):
        objects = look(place)
        if any(one.name == PUBLISHING_NAME for one in objects):
            raise InputError(f"{uri}: is not all there yet: the job that makes it is at work, or has to be run again")
        version = "\n".join(f"{one.name}\t{one.num_bytes}\t{one.version}" for one in objects)
        key = hashlib.sha256(f"{uri}\n{version}".encode()).hexdigest()[:16]
        folder = cache_dir / "fetched" / f"{place.name.split('.')[0]}-{key}"

        def copy(aside: Path) -> None:
            _copy_here(place, objects, aside / place.name)
            write_json(aside / ORIGIN_NAME, {"uri": uri, "version": version})
            if look(place) != objects:
                raise _moved(uri)

        fill_once(folder, copy)
    return folder / place.name


def fill_once(folder: Path, fill: Callable[[Path], object]) -> None:
    """Have a folder of the cache filled by whichever process comes first, whole or not at all."""
    if folder.exists():
        return
    with _one_at_a_time(folder):
        if folder.exists():  # another process has filled it meanwhile
            return
        for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):
            shutil.rmtree(leftover)  # of a process that was killed: nobody else holds the lock
        with folder_written_whole(folder) as aside:
            fill(aside)


# A process keeps to the version that it has seen first: a job does not mix two.
_fetch = functools.lru_cache(maxsize=None)(fetch)


def place_of_out(name: str) -> Path:
    """Return the folder in which an output is made: itself, or of a URI one in the cache."""
    if not is_remote(name):
        return local_path(name)
    split = urlsplit(name)
    parts = [part for part in split.path.split("/") if part]
    if not split.netloc or not parts or ".." in parts or split.scheme.lower() in ("http", "https"):
        raise InputError(f"out: {name} names no folder that can be written; wanted one, or s3://BUCKET/FOLDER")
    return default_cache_dir().absolute().joinpath("outputs", split.scheme.lower(), split.netloc, *parts)


def claim(uri: str, note: Mapping[str, Any], *, seal: str) -> bool:
    """Begin to publish at a URI, before there is anything to publish; say whether all of it is there already.

    Args:
        uri: the folder.
        note: what tells this output from another.
        seal: the name under which the note is published last of all.

    Raises:
        InputError: the store cannot be written, or holds something else there.
    """
    place = open_place(uri)
    with told(place, "written"):
        there = {one.name for one in look(place, must_exist=False)}
        notes = [_read_note(place, seal)] if seal in there else []
        if PUBLISHING_NAME in there:
            notes.append(_read_note(place, PUBLISHING_NAME).get("plan"))
        if (there and not notes) or any(one != note for one in notes):
            raise InputError(
                f"{uri}: holds something else, not made by this job as it stands now; remove it, or name another place "
                "with --set out=..."
            )
        if seal in there:
            return True
        if PUBLISHING_NAME not in there:
            _write_note(place, {"plan": note, "files": None})
    return False


def is_sealed(uri: str, *, seal: str) -> bool:
    """Say whether all of an output is published at a URI."""
    place = open_place(uri)
    with told(place, "read"):
        return any(one.name == seal for one in look(place, must_exist=False))


def take_back(uri: str, folder: Path) -> None:
    """Fetch a published folder to where it was made, whole or not at all."""
    place = open_place(uri)
    with told(place, "read"), folder_written_whole(folder) as aside:
        _copy_here(place, look(place), aside)


def publish(folder: Path, uri: str, *, last: Sequence[str]) -> None:
    """Copy a finished folder to a URI, or go on with it: its files first, cards and manifests after them.

    Args:
        folder: what is published; nobody changes it meanwhile.
        uri: where to; what an interrupted call has left there is kept.
        last: names in the order in which they come at the very end; the last one is the seal, a note that tells this
            output from another: where it is, all is.

    Raises:
        InputError: the store cannot be written, or holds something else there.
    """
    *_, seal = last
    note = read_json(folder / seal, what="plan")
    is_whole = claim(uri, note, seal=seal)
    place = open_place(uri)
    with told(place, "written"):
        there = {one.name: one.num_bytes for one in look(place)}
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        if not is_whole and not _is_begun_with(place, note, files):
            there = {}

        def copy(name: str) -> None:
            size = files[name].stat().st_size  # a store shows no object that is not whole
            if there.get(name) != size or (size <= SMALL_BYTES and not is_whole):
                _copy_there(place, name, files[name])

        with ThreadPoolExecutor(COPY_THREADS) as pool:
            list(pool.map(copy, sorted(files.keys() - set(last))))
        for name in last:
            if name in files:
                copy(name)
        if not is_whole or PUBLISHING_NAME in there:
            delete(place, PUBLISHING_NAME)


def _is_begun_with(place: Place, note: Mapping[str, Any], files: Mapping[str, Path]) -> bool:
    """Say whether what is being published are these very files; else remove what is there, and note that they are.

    A model that another machine has trained by the same plan has other weights of the same size.
    """
    stats = {name: path.stat() for name, path in files.items()}
    stamp = value_digest({name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()})
    if _read_note(place, PUBLISHING_NAME)["files"] == stamp:
        return True
    for one in look(place):
        if one.name != PUBLISHING_NAME:
            delete(place, one.name)
    _write_note(place, {"plan": note, "files": stamp})
    return False


def _write_note(place: Place, note: Mapping[str, Any]) -> None:
    write(place, PUBLISHING_NAME, io.BytesIO(json.dumps(note).encode()))


def _read_note(place: Place, name: str) -> Any:
    with read(place, name) as stream:
        return json.loads(stream.read())


def _copy_here(place: Place, objects: Sequence[Object], target: Path) -> None:
    def copy(one: Object) -> None:
        path = within(target, one.name, what="folder") if one.name else target
        path.parent.mkdir(parents=True, exist_ok=True)
        with read(place, one.name) as source, path.open("wb") as copied:
            shutil.copyfileobj(source, copied, COPY_BYTES)
        if one.num_bytes not in (None, path.stat().st_size):
            raise _moved(place.uri)
        # the same on every machine, so that a job goes on elsewhere; where the store tells none, one for each version
        stamp = one.mtime_ns or int(hashlib.sha256(one.version.encode()).hexdigest()[:12], 16) * 1000
        os.utime(path, ns=(stamp, stamp))

    with ThreadPoolExecutor(COPY_THREADS) as pool:
        list(pool.map(copy, objects))


def _moved(uri: str) -> InputError:
    return InputError(f"{uri}: broke off, or has changed while it was fetched; run again when it is at rest")


def _copy_there(place: Place, name: str, path: Path) -> None:
    with path.open("rb") as source:
        write(place, name, source)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the lock of one name in the cache; the system lets it go when the process dies."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
