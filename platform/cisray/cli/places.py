"""Where verbs put results, and what they tell of it, when a URI says it."""

import re
from pathlib import Path

# A path typed as s3://bucket/x may have lost a slash on its way through pathlib.
_LIKE_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def own_folder(out: str | Path) -> Path:
    """Return an output's absolute path, for a verb that writes to folders only; raise InputError for a URI."""
    from cisray.errors import InputError

    if _LIKE_URI.match(str(out)):
        raise InputError(
            f"out: {out} is a URI, and this verb writes to folders; name a folder, and copy it afterwards "
            "(build, train, evaluate and score publish to a URI by themselves)"
        )
    return Path(out).absolute()


def shown_place(out: str, folder: Path) -> str:
    """Return what to tell of where an output is: its URI, or the absolute path of its folder."""
    from cisray.stores import is_remote

    return out if is_remote(out) else str(folder)
