"""A job file becomes a frozen, validated dataclass: default, TOML, `--set`, and no fourth layer."""

import difflib
import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, overload

from pydantic import ConfigDict, TypeAdapter, ValidationError

from cisray.addresses import refuse_passwords
from cisray.errors import InputError
from cisray.remote import join, local_path
from cisray.stores import is_remote

J = TypeVar("J")

# Every configuration dataclass is made with these: an unknown key is an error, a made job does not change.
STRICT = ConfigDict(extra="forbid")
FOLDER_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"
"""Of what a job names and a run makes a folder for."""
# What pydantic says in words of Python, said in words of TOML.
_MESSAGES = {
    "tuple_type": "wanted a list, [...]",
    "dict_type": "wanted a section of keys and values",
    "dataclass_type": "wanted a section of keys and values",
    "dataclass_exact_type": "wanted a section of keys and values",
}


@overload
def load_job(path: Path, job_type: type[J], overrides: Sequence[str] = ()) -> J: ...


@overload
def load_job(path: Path, job_type: Any, overrides: Sequence[str] = ()) -> Any: ...


def load_job(path: Path, job_type: Any, overrides: Sequence[str] = ()) -> Any:
    """Read a TOML job file, apply `--set key=value` overrides, and return it as a `job_type`.

    Args:
        path: the TOML file.
        job_type: a frozen pydantic dataclass, or an annotated union of some that a key tells apart.
        overrides: `section.key=value`, and `list.0.key=value` in a list; the value is TOML, or a bare word, which is
            a string.

    Raises:
        InputError: the file is missing or not TOML, a key is unknown, a value is of the wrong kind, or
            an address holds a password.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{path}: no such job file; the ones that come with cisray stand in jobs/") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from error
    for override in overrides:
        _apply_override(values, override)
    refuse_passwords(values, source=str(path))
    return check_settings(values, job_type, source=str(path))


@overload
def check_settings(values: Mapping[str, Any], job_type: type[J], *, source: str) -> J: ...


@overload
def check_settings(values: Mapping[str, Any], job_type: Any, *, source: str) -> Any: ...


def check_settings(values: Mapping[str, Any], job_type: Any, *, source: str) -> Any:
    """Return plain values as a `job_type`; raise InputError that names `source` and every setting that is wrong."""
    for key, value in flatten(values).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{source}: {key} = {value}; wanted a finite number")
    try:
        return TypeAdapter(job_type).validate_python(values)
    except ValidationError as error:
        raise InputError(_explain(error, source, job_type, values)) from None


def data_root(data_dir: str | None) -> str:
    """Return what input files lie below: `data_dir`, or $CISRAY_DATA, or the working directory; a path or a URI."""
    root = data_dir if data_dir is not None else os.environ.get("CISRAY_DATA", "")
    return root.rstrip("/") if is_remote(root) else str(local_path(root))


def data_path(name: str, data_dir: str | None) -> Path:
    """Return an input file's absolute path, `name` below the data root; raise InputError where there is none.

    Where `name` or the data root is a URI, that is its path in the cache, once it is fetched.
    """
    path = local_path(join(data_root(data_dir), name))
    if not path.exists():
        unset = data_dir is None and not os.environ.get("CISRAY_DATA")
        hint = " (neither data_dir nor the environment variable CISRAY_DATA is set)" if unset else ""
        raise InputError(
            f"{path}: no such input file{hint}; check the name, or set data_dir to the folder that holds it"
        )
    return path


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {override!r}: wanted key=value, such as --set model.channels=64")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word: --set out=runs/mine
    *sections, last = key.strip().split(".")
    place: Any = values
    for depth, section in enumerate(sections):
        number = _place_in(place, section, override)
        place = place.setdefault(section, {}) if number is None else place[number]
        if not isinstance(place, dict | list):
            raise InputError(f"--set {override!r}: {'.'.join(sections[: depth + 1])} is a value, not a section")
    number = _place_in(place, last, override)
    place[last if number is None else number] = value


def _place_in(values: dict[str, Any] | list[Any], key: str, override: str) -> int | None:
    """Return the place in a list that a part of an override's key names, from 0; None in a section."""
    if isinstance(values, dict):
        return None
    if not key.isdecimal() or int(key) >= len(values):
        raise InputError(
            f"--set {override!r}: {key} stands where a list of {len(values)} has its numbers, from 0; name one of them"
        )
    return int(key)


def _explain(error: ValidationError, source: str, job_type: Any, values: Mapping[str, Any]) -> str:
    lines = []
    for problem in error.errors():
        # of a union, the first part is the member's name
        is_member = not is_dataclass(job_type) and len(problem["loc"]) > 0
        parts = problem["loc"][1:] if is_member else problem["loc"]
        kind = _member(job_type, str(problem["loc"][0])) if is_member else job_type
        where = ".".join(_keys_of(parts, values))
        if problem["type"] == "union_tag_invalid" and not where:
            context = problem["ctx"]
            lines.append(f"source = {context['tag']!r}; wanted one of {context['expected_tags']}")
            continue
        if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            known = _known_keys(kind)
            near = difflib.get_close_matches(str(parts[-1]), sorted(known), n=1)
            meant = known[near[0]] if near else where
            # where it is one of another member of a union, it is not what was meant
            lines.append(f"unknown key {where}" + (f"; did you mean {meant}?" if meant != where else ""))
        elif problem["type"] in ("missing", "missing_argument"):
            lines.append(f"{where} is missing and has no default")
        else:
            shown = f"{where} = {problem['input']!r}: " if where else ""
            lines.append(shown + _MESSAGES.get(problem["type"], problem["msg"]).removeprefix("Value error, "))
    return f"{source}: " + f"\n{source}: ".join(lines)


def _keys_of(parts: Sequence[int | str], values: Any) -> list[str]:
    """Return the keys that lead to a setting, without the names of members of unions that pydantic puts among them."""
    keys = []
    for number, part in enumerate(parts, start=1):
        if isinstance(values, Mapping) and part not in values and number < len(parts):
            continue
        keys.append(str(part))
        is_there = (
            part in values if isinstance(values, Mapping) else isinstance(values, list) and part in range(len(values))
        )
        values = values[part] if is_there else None
    return keys


def _member(union: Any, name: str) -> Any:
    """Return the member of a union that a tag names; the union where none does."""
    for part in get_args(get_args(union)[0]):
        if any(getattr(note, "tag", None) == name for note in get_args(part)[1:]):
            return get_args(part)[0]
    return union


def _known_keys(kind: Any, section: str = "") -> dict[str, str]:
    """Return the fields of a dataclass and of those nested in it, each with its sections before it."""
    keys: dict[str, str] = {}
    if is_dataclass(kind):
        for field in fields(kind):
            keys = _known_keys(field.type, f"{section}{field.name}.") | keys | {field.name: section + field.name}
    for part in get_args(kind):
        keys = _known_keys(part, section) | keys
    return keys


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings into dotted keys, as MLflow's parameters want them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
