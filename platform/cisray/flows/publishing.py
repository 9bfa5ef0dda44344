"""Outputs by URI: made in a folder as any other, then published whole, and known again when they are there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cisray.datasets.card import CARD_NAME
from cisray.files import value_digest
from cisray.flows.shards import PLAN_NAME, Staging, open_staging
from cisray.remote import claim, is_sealed, place_of_out, publish, take_back
from cisray.scoring.manifest import MANIFEST_NAME
from cisray.stores import is_remote

# What says that a folder holds a dataset, a bundle or a score table comes when all else is there; the plan seals it.
LAST = (CARD_NAME, MANIFEST_NAME, PLAN_NAME)


def open_output(out: str, plan: Mapping[str, Any]) -> Staging | None:
    """Return the folder to work in, as `open_staging` does, of an output named by a path or a URI; None if it is done.

    A finished output at a URI that is not here, since another machine made it, is fetched.

    Raises:
        InputError: what `open_staging` raises; the store cannot be written, or holds something else there.
    """
    folder = place_of_out(out)
    if is_remote(out):
        is_published = claim(out, {"digest": value_digest(plan)}, seal=PLAN_NAME)
        if is_published and not folder.exists():
            take_back(out, folder)
    return open_staging(folder, plan)


def published(out: str) -> Path:
    """Publish a finished output where its name is a URI, or go on with that; return its folder here."""
    folder = place_of_out(out)
    if is_remote(out):
        publish(folder, out, last=LAST)
    return folder


def fetched_output(out: str) -> Path:
    """Return the folder of an output, finished or not; one that is finished at a URI and not here is fetched."""
    folder = place_of_out(out)
    if is_remote(out) and not folder.exists() and is_sealed(out, seal=PLAN_NAME):
        take_back(out, folder)
    return folder
