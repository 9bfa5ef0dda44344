"""Addresses of stores and servers, and the credentials that must not be seen in them."""

import re
from collections.abc import Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote, urlsplit

from cisray.errors import InputError

# A password of a database may hold a slash, as SQLAlchemy reads it; a host, a port and a path with an @ look like one.
_USER = re.compile(r"(?<=://)(?:[^/@:\s]*:[^@\s]*|[^/@\s]*)@")
_PASSWORD = re.compile(r"://[^/@:\s]*:[^/@\s]*@|\b(?:postgresql|mysql|mssql|oracle)[+\w]*://[^/@:\s]*:[^@\s]*@")
_QUERY = re.compile(r"(?<=[?&])([^=&\s]*(?:password|passwd|secret|token|signature)[^=&\s]*)=[^&\s]*", re.IGNORECASE)


def redacted(text: str) -> str:
    """Return a text without the user names, passwords and tokens of the addresses in it, for a terminal or a log."""
    return _QUERY.sub(r"\1=...", _USER.sub("", text))


def holds_password(text: str) -> bool:
    """Say whether an address in a text holds a password, a secret or a token."""
    return bool(_PASSWORD.search(text) or _QUERY.search(text))


def move_login(uri: str, environment: MutableMapping[str, str]) -> str:
    """Return the address of an MLflow server without a user's name and password, which go where MLflow looks for them.

    Else its errors, which quote the address, would tell them. Other addresses stay as they are.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return uri
    login, _, host = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    environment.setdefault("MLFLOW_TRACKING_USERNAME", unquote(user))
    environment.setdefault("MLFLOW_TRACKING_PASSWORD", unquote(password))
    return parts._replace(netloc=host).geturl()


def refuse_passwords(values: Any, *, source: str) -> None:
    """Raise InputError that names the setting of a job in which a password stands, and not what it is."""
    if key := _find_password(values, ""):
        raise InputError(
            f"{source}: {key} is an address that holds a password, which cards, pages and MLflow would show; take it "
            "out: credentials come from the environment, such as MLFLOW_TRACKING_PASSWORD or AWS_SECRET_ACCESS_KEY"
        )


def _find_password(values: Any, key: str) -> str:
    """Return the dotted key of the first setting that holds a password; "" where none does."""
    if isinstance(values, str):
        return key if holds_password(values) else ""
    parts: Any = ()
    if isinstance(values, Mapping):
        parts = values.items()
    elif isinstance(values, list | tuple):
        parts = enumerate(values)
    found = (_find_password(part, f"{key}.{name}" if key else str(name)) for name, part in parts)
    return next(filter(None, found), "")
