"""Object stores and the web: what lies at a URI, to read and to write it, and the one error where that fails.

Credentials come from the environment, by the rules of each store's own library; they stand in no URI.
"""

import functools
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast
from urllib.parse import unquote, urlsplit

import fsspec
from pyarrow import fs

from cisray import __version__
from cisray.addresses import holds_password, redacted
from cisray.errors import InputError
from cisray.files import FULL_DISK

# A store that does not answer is told within a minute; a slow one is waited for.
CONNECT_S = 5
SILENT_S = 30
MOST_ATTEMPTS = 3
RETRY_GCS_S = 10
COPY_BYTES = 16 << 20
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HINTS = {
    "s3": "credentials come from the environment (AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), the "
    "address of a store other than AWS from AWS_ENDPOINT_URL",
    "gs": "credentials come from the environment (GOOGLE_APPLICATION_CREDENTIALS)",
}


class Object(NamedTuple):
    """What a store says of an object: its place below what was asked for, bytes, and what changes with it."""

    name: str
    num_bytes: int | None
    """None where a web server does not say."""
    version: str
    mtime_ns: int | None


class Place(NamedTuple):
    """A URI taken apart."""

    uri: str
    scheme: str
    store: fs.FileSystem | None
    """None of the web, which has no folders and is read only."""
    key: str
    """Path in the store; of the web the whole address."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(urlsplit(self.uri).path).name or urlsplit(self.uri).netloc


def is_uri(name: str | Path) -> bool:
    """Say whether a name is a URI, such as s3://bucket/genome.fa, and no path."""
    return _URI.match(str(name)) is not None


def is_remote(name: str | Path) -> bool:
    """Say whether a name is a URI of more than a path of this machine, file:///folder."""
    return is_uri(name) and not str(name).lower().startswith("file:")


def path_of_file_uri(uri: str) -> Path:
    """Return the path that file:///folder/file names; raise InputError where it is another machine's."""
    split = urlsplit(uri)
    if split.netloc not in ("", "localhost") or not split.path:
        raise InputError(f"{uri}: names a machine ({split.netloc}); wanted file:///FOLDER/FILE, of this one")
    return Path(unquote(split.path))


def open_place(uri: str) -> Place:
    """Take a URI apart and open its store; nothing is asked of it yet."""
    split = urlsplit(uri)
    scheme = {"gcs": "gs", "s3a": "s3"}.get(split.scheme.lower(), split.scheme.lower())
    if "@" in split.netloc or holds_password(uri):
        raise InputError(f"{redacted(uri)}: the URI holds a credential; leave it out, they come from the environment")
    if scheme in ("http", "https"):
        return Place(uri, scheme, None, uri)
    if scheme not in _HINTS:
        return Place(uri, scheme, *_open_by_fsspec(uri, scheme))
    key = f"{split.netloc}{split.path}".strip("/")
    if not split.netloc or "/" not in key:
        raise InputError(f"{uri}: names no object; wanted {scheme}://BUCKET/KEY")
    if split.query or split.fragment:
        raise InputError(f"{uri}: wanted {scheme}://BUCKET/KEY without ? and #; {_HINTS[scheme]}")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    try:
        store = _open_s3(split.netloc, endpoint) if scheme == "s3" else _open_gcs()
    except OSError as error:
        raise _complaint(uri, scheme, "read", error) from None
    return Place(uri, scheme, store, key)


@functools.lru_cache
def _open_s3(bucket: str, endpoint: str | None) -> fs.FileSystem:
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return fs.S3FileSystem(
        region=region if endpoint else fs.resolve_s3_region(bucket),
        endpoint_override=endpoint,
        connect_timeout=CONNECT_S,
        request_timeout=SILENT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=MOST_ATTEMPTS),
    )


@functools.lru_cache
def _open_gcs() -> fs.FileSystem:
    return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=RETRY_GCS_S))


def _open_by_fsspec(uri: str, scheme: str) -> tuple[fs.FileSystem, str]:
    """Open a store that only fsspec knows."""
    try:
        store, key = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise InputError(
            f"{uri}: {scheme}:// cannot be opened here ({error}); wanted a path, s3://, gs:// or https://, or what "
            "fsspec knows, with its library installed"
        ) from None
    return fs.PyFileSystem(fs.FSSpecHandler(store)), key.rstrip("/")


def _ask_web(url: str) -> Any:
    """Begin to read an address of the web; nobody waits for a server that is silent."""
    request = urllib.request.Request(url, headers={"User-Agent": f"cisray/{__version__}"})
    return urllib.request.urlopen(request, timeout=SILENT_S)


@contextmanager
def told(place: Place, done: str) -> Iterator[None]:
    """Turn what a store says into the one error of the border."""
    try:
        yield
    except (OSError, HTTPException) as error:
        raise _complaint(place.uri, place.scheme, done, error) from None


def _complaint(uri: str, scheme: str, done: str, error: Exception) -> InputError:
    said = " ".join(str(error).split())[:400] or type(error).__name__
    of_web = isinstance(error, urllib.error.URLError)  # whose filename is the address
    is_of_disk = isinstance(error, OSError) and (error.errno in FULL_DISK or isinstance(error.filename, str))
    if done == "read" and is_of_disk and not of_web:
        return InputError(
            f"{uri}: cannot be kept in the cache ({said}); make room there, or name another folder in the environment "
            "variable CISRAY_CACHE"
        )
    hint = _HINTS.get(scheme, "check the name and the network")
    return InputError(f"{uri}: cannot be {done}: {said}; {hint}")


def look(place: Place, *, must_exist: bool = True) -> list[Object]:
    """Return what a store holds there: one object, or all below a folder, in the order of their names."""
    if place.store is None:
        return [_look_at_web(place)]
    info = place.store.get_file_info(place.key)
    if info.type == fs.FileType.File:
        return [Object("", info.size, _entity_tag(place, place.store) or str(info.mtime_ns), info.mtime_ns)]
    found = []
    if info.type == fs.FileType.Directory:
        for one in place.store.get_file_info(fs.FileSelector(place.key, recursive=True)):
            if one.type == fs.FileType.File:
                name = one.path.removeprefix(place.key).lstrip("/")
                found.append(Object(name, one.size, str(one.mtime_ns), one.mtime_ns))
    if not found and must_exist:
        bucket = place.key.split("/")[0]
        if place.scheme in _HINTS and place.store.get_file_info(bucket).type == fs.FileType.NotFound:
            raise InputError(f"{place.uri}: no such bucket; check the name; {_HINTS[place.scheme]}")
        raise InputError(f"{place.uri}: no such object or folder; check the name")
    return sorted(found, key=lambda one: one.name)


def _look_at_web(place: Place) -> Object:
    with _ask_web(place.key) as answer:
        headers = answer.headers
    size, changed = headers.get("Content-Length"), headers.get("Last-Modified")
    mtime_ns = None if changed is None else int(parsedate_to_datetime(changed).timestamp()) * 10**9
    return Object("", None if size is None else int(size), headers.get("ETag") or changed or "", mtime_ns)


def _entity_tag(place: Place, store: fs.FileSystem) -> str | None:
    """Return what a store calls the content of an object, where it does."""
    if place.scheme in _HINTS:
        with store.open_input_file(place.key) as opened:
            tag = (opened.metadata() or {}).get("ETag")
            return tag.decode() if isinstance(tag, bytes) else tag
    info = store.handler.fs.info(place.key)
    return next((str(info[name]) for name in ("ETag", "etag", "md5") if info.get(name)), None)


def read(place: Place, name: str) -> BinaryIO:
    """Open an object for reading; `name` is its place below a folder, empty of a single one."""
    if place.store is None:
        return cast(BinaryIO, _ask_web(place.key))
    key = f"{place.key}/{name}" if name else place.key
    return cast(BinaryIO, place.store.open_input_stream(key, compression=None))  # .gz stays packed


def write(place: Place, name: str, source: BinaryIO) -> None:
    """Write an object below a folder of a store."""
    store = _writable(place)
    key = f"{place.key}/{name}"
    if place.scheme not in _HINTS:  # those know no folders
        store.create_dir(str(PurePosixPath(key).parent), recursive=True)
    with store.open_output_stream(key, compression=None) as target:
        shutil.copyfileobj(source, target, COPY_BYTES)


def delete(place: Place, name: str) -> None:
    """Remove an object below a folder of a store."""
    _writable(place).delete_file(f"{place.key}/{name}")


def _writable(place: Place) -> fs.FileSystem:
    if place.store is None:
        raise InputError(f"{place.uri}: the web can be read only; wanted a folder, or s3://BUCKET/FOLDER")
    return place.store
