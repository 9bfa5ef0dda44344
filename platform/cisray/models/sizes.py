"""Check the sizes that a network's configuration names."""

from collections.abc import Sequence
from typing import Any

from cisray.errors import InputError


def check_sizes(config: Any, *, positive: Sequence[str] = (), shares: Sequence[str] = ()) -> None:
    """Raise InputError where a field is no positive number, or, for a dropout, no share below 1.

    Args:
        config: the configuration; a field that is a tuple is checked part by part.
        positive: names of fields that count or measure something.
        shares: names of fields that are a share: at least 0 and below 1.
    """
    for name in positive:
        value = getattr(config, name)
        if not all(part > 0 for part in _parts(value)):
            raise InputError(f"{config.architecture}: {name}={value}; wanted a positive number")
    for name in shares:
        value = getattr(config, name)
        if not all(0 <= part < 1 for part in _parts(value)):
            raise InputError(f"{config.architecture}: {name}={value}; wanted a share, at least 0 and below 1")


def _parts(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
