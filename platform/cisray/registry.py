"""Registered models, fetched to where a job can read them."""

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from cisray.addresses import redacted
from cisray.bundle import WEIGHTS_NAME, bundle_digest, read_cards
from cisray.datasets.card import Card
from cisray.errors import InputError
from cisray.files import value_digest, within
from cisray.mlflow_store import PatientClient, answered, connect, shown_store
from cisray.remote import default_cache_dir, fill_once, local_path
from cisray.scoring.manifest import ModelSource
from cisray.tracking import BUNDLE_TAG
from cisray.transfer import regions_before, regions_of


class FetchedModel(NamedTuple):
    """A model on this machine."""

    bundle_dir: Path
    uri: str
    version: str | None
    """None where a path was given and not a registered model."""


def fetch_model(address: str) -> FetchedModel:
    """Return a bundle by its folder, by its URI, from which it is fetched, or by a registered model's address.

    Raises:
        InputError: there is no such folder, model, version or alias.
    """
    if not address.startswith("models:/"):
        path = local_path(address)
        if not (path / "model.json").exists():
            raise InputError(
                f"{path}: not a bundle (no model.json in it); train one, or name a registered model, "
                "such as models:/NAME@champion"
            )
        return FetchedModel(path, address, None)
    client = connect()
    try:
        name, version = _resolve(client, address)
        folder = answered(partial(_artifacts_of, client, name, version))
    except (MlflowException, ValueError) as error:
        known = ", ".join(sorted(model.name for model in client.search_registered_models())) or "none"
        raise InputError(
            f"{address}: no such model in {shown_store()} (registered: {known}): {redacted(str(error))}"
        ) from None
    for path in folder.rglob("*"):
        within(folder, str(path.relative_to(folder)), what="registered model")
    bundles = sorted(folder.rglob(WEIGHTS_NAME))
    if len(bundles) != 1:
        raise InputError(f"{address}: holds {len(bundles)} bundles; wanted one that cisray train registered")
    return FetchedModel(bundles[0].parent, address, version)


def _artifacts_of(client: PatientClient, name: str, version: str) -> Path:
    """Return the folder of a version's artifacts: where the store keeps it, or a copy that all machines may see."""
    uri, kept = f"models:/{name}/{version}", client.get_model_version_download_uri(name, version)
    if urlsplit(kept).scheme in ("", "file"):
        return Path(mlflow.artifacts.download_artifacts(uri))
    repository = get_artifact_repository(uri)
    files: dict[str, int | None] = {}  # calibrations may have come since the last copy
    folders = [""]
    while folders:
        for one in repository.list_artifacts(folders.pop() or None):
            if one.is_dir:
                folders.append(one.path)
            else:
                files[one.path] = one.file_size
    key = value_digest({"uri": kept, "files": files})[:16]
    folder = default_cache_dir().absolute() / "models" / f"{name}-{version}-{key}"
    fill_once(folder, lambda aside: mlflow.artifacts.download_artifacts(uri, dst_path=str(aside)))
    return folder


def fetch_models(addresses: Sequence[str], *, head: str | None = None) -> dict[Path, ModelSource]:
    """Return bundles by their folders, in order, each with what a score table says of it.

    Args:
        addresses: as for `fetch_model`; the first is the model, the others are of its ensemble.
        head: of models with several heads, the one that predicts.

    Raises:
        InputError: what `fetch_model` raises; a model is named twice.
    """
    sources: dict[Path, ModelSource] = {}
    for address in addresses:
        fetched = fetch_model(address)
        if fetched.bundle_dir in sources:
            raise InputError(f"{address}: is among the models twice; name each once")
        cards = read_cards(fetched.bundle_dir)
        card = cards[head] if head in cards else next(iter(cards.values()))
        sources[fetched.bundle_dir] = ModelSource(
            uri=fetched.uri,
            digest=bundle_digest(fetched.bundle_dir),
            version=fetched.version,
            held_out_contigs=_held_out(fetched.bundle_dir, card, cards.values()),
        )
    return sources


def _held_out(bundle_dir: Path, card: Card, cards: Iterable[Card]) -> tuple[str, ...]:
    """Name a card's contigs that nothing was learned from; none where it is not known what a training began with."""
    genome = card.genome_for("scoring")
    try:
        seen = {region.contig_digest for region in (*regions_of(cards), *regions_before(bundle_dir))}
    except InputError:
        return ()
    return tuple(
        contig
        for contig, length in genome.contig_lengths.items()
        if f"{contig}:0-{length}" in card.regions["test"] and genome.contig_digests.get(contig) not in seen
    )


def keep_calibration(bundle_dir: Path, card_path: Path) -> list[str]:
    """Put a calibration beside every registered version of its bundle, and return their addresses."""
    client, kept = connect(), []
    for version in client.search_model_versions(f"tags.`{BUNDLE_TAG}` = '{bundle_digest(bundle_dir)}'"):
        address = f"models:/{version.name}/{version.version}"
        registered = fetch_model(address).bundle_dir
        if registered != bundle_dir:
            with tempfile.TemporaryDirectory() as folder:
                for path in card_path.parent.glob(f"{card_path.stem}.*"):
                    shutil.copy(path, folder)
                place = f"data/{registered.name}/{card_path.parent.name}"
                client.log_model_artifacts(version.source.removeprefix("models:/"), folder, place)
        kept.append(address)
    return kept


def _resolve(client: PatientClient, address: str) -> tuple[str, str]:
    """Split models:/NAME@ALIAS or models:/NAME/VERSION into name and version."""
    rest = address.removeprefix("models:/")
    if "@" in rest:
        name, alias = rest.split("@", 1)
        return name, str(client.get_model_version_by_alias(name, alias).version)
    name, _, version = rest.rpartition("/")
    if not name or not version.isdigit():
        raise ValueError("wanted models:/NAME@ALIAS or models:/NAME/VERSION")
    return name, version
