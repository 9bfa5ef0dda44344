"""Weights that others published become a bundle, with the card that they came without.

A bundle made here predicts and scores like one that was trained here; what its card does not know (counts, statistics,
and the folds, unless they are given) is empty, and its metrics say that nothing was measured.
"""

import dataclasses
import pickle
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cisray import __version__
from cisray.bundle import Predictor, write_bundle
from cisray.config import STRICT, data_path, data_root
from cisray.datasets.calico.targets import read_targets
from cisray.datasets.card import SCHEMA_VERSION, Card, SourceFile, Track
from cisray.datasets.loci.folds import SPLITS, FoldSpec, assign_regions
from cisray.datasets.source import GenomeSpec, describe_genome, open_genome
from cisray.datasets.transforms import Order
from cisray.errors import InputError
from cisray.files import file_digest, folder_written_whole, sampled_digest
from cisray.genome.compression import check_is_file
from cisray.geometry import Geometry
from cisray.goals import Objective
from cisray.models import borzoi, catalog, enformer
from cisray.models.layers import Network
from cisray.models.reach import check_geometry
from cisray.models.weights import (
    BORZOI_PYTORCH,
    ENFORMER_PYTORCH,
    NameTable,
    from_borzoi_pytorch,
    from_enformer_pytorch,
    heads_in,
)

PretrainedConfig = Annotated[enformer.EnformerConfig | borzoi.BorzoiConfig, Field(discriminator="architecture")]
HEAD = "head.tracks."
# What torch.load raises for a file that holds other things than tensors, or is damaged.
_TORCH_ERRORS = (
    *(pickle.UnpicklingError, struct.error, RuntimeError, EOFError),
    *(ValueError, LookupError, TypeError, AttributeError),
)


class _Publisher(NamedTuple):
    """How a package writes its weights, and what they were made with."""

    names: NameTable
    rename: Callable[..., dict[str, Tensor]]
    config: enformer.EnformerConfig | borzoi.BorzoiConfig
    geometry: Geometry
    order: Order
    objective: Objective


PUBLISHERS = {
    "enformer-pytorch": _Publisher(
        names=ENFORMER_PYTORCH,
        rename=from_enformer_pytorch,
        config=enformer.EnformerConfig(),
        geometry=enformer.GEOMETRY,
        order="new",
        objective="poisson",
    ),
    "borzoi-pytorch": _Publisher(
        names=BORZOI_PYTORCH,
        rename=from_borzoi_pytorch,
        config=borzoi.BorzoiConfig(),
        geometry=borzoi.GEOMETRY,
        order="old",
        objective="poisson_multinomial",
    ),
}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImportSpec:
    """Which weights, and what they predict."""

    source: Literal["enformer-pytorch", "borzoi-pytorch"]
    """The package whose names the weights have."""
    weights: str
    """File below data_dir: .safetensors, or a state dict that torch saved as .bin, .pt or .pth."""
    targets: str
    """targets.txt below data_dir: the tracks of the head, in its order."""
    genome: GenomeSpec
    """The genome that its species is scored on."""
    head: Literal["human", "mouse"] = "human"
    """The head that is kept; a bundle has one."""
    order: Order | None = None
    """Of the tracks' transforms; by default "old" for borzoi-pytorch, "new" for enformer-pytorch."""
    model: PretrainedConfig | None = None
    """Sizes of the network; by default those that were published."""
    geometry: Geometry | None = None
    """Window, bin and crop; by default those that were published."""
    folds: FoldSpec | None = None
    """The folds that the weights were trained with, where they are known."""
    name: str
    """Of what the weights were trained on, for the card."""
    data_dir: str | None = None
    """Folder that input files lie below; by default $CISRAY_DATA, or the working directory."""
    out: str
    """Folder of the bundle."""

    def __post_init__(self) -> None:
        wanted = PUBLISHERS[self.source].config.architecture
        if self.model is not None and self.model.architecture != wanted:
            raise InputError(f"model.architecture={self.model.architecture}; weights of {self.source} are {wanted}'s")


def import_weights(spec: ImportSpec) -> Path:
    """Make a bundle of published weights and return its folder.

    The bundle is loaded and predicts, and the reach of its `local` is proven, before it takes its place.

    Raises:
        InputError: the folder is there already; the weights are no plain tensors; or they, the targets and the sizes
            do not belong together.
    """
    out = Path(spec.out).absolute()
    if out.exists():
        raise InputError(f"{out}: there already; name another folder in out, or remove it")
    publisher = PUBLISHERS[spec.source]
    weights_path, targets_path = (data_path(name, spec.data_dir) for name in (spec.weights, spec.targets))
    published = read_weights(weights_path)
    tracks = read_targets(targets_path, order=spec.order or publisher.order).tracks
    config, geometry = spec.model or publisher.config, spec.geometry or publisher.geometry
    heads = heads_in(published, publisher.names)
    weights: dict[str, Tensor] = {}
    problems = _misfits(published) + _head_misfits(heads, spec, tracks)
    try:
        weights = _renamed(published, publisher, config, geometry, heads or {spec.head: len(tracks)})
    except InputError as error:
        problems.append(str(error))
    if problems:
        raise InputError(f"{weights_path}: " + "; ".join(problems))
    origin = {
        "file": weights_path.name,
        "sha256": file_digest(weights_path),
        "names": spec.source,
        "head": spec.head,
        "heads_left_out": {name: number for name, number in heads.items() if name != spec.head},
        "types": dict(Counter(str(weight.dtype).removeprefix("torch.") for weight in published.values())),
    }
    with folder_written_whole(out) as aside:
        write_bundle(
            aside,
            weights=_only_head(weights, spec.head),
            config=config,
            cards=_make_card(spec, geometry, tracks, facts={"weights": origin}),
            metrics=_nothing_measured(config, geometry, num_tracks=len(tracks)),
            objective=publisher.objective,
            made_by={"imported": origin},
        )
        network = Predictor(aside).network
        assert isinstance(network, Network)
        check_geometry(network)
    return out


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict without running any code that its file may hold; raise InputError where it is none."""
    check_is_file(path, wanted="a file of weights")
    wanted = "wanted a dictionary of names and tensors: save the network's state_dict() alone, best as .safetensors"
    if path.suffix not in (".safetensors", ".bin", ".pt", ".pth"):
        raise InputError(f"{path}: a file of weights ends in .safetensors, .bin, .pt or .pth; rename it to what it is")
    try:
        values: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)  # which runs no code of the file's
        )
    except SafetensorError as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); copy it again") from None
    except _TORCH_ERRORS as error:
        first = str(error).split("\n", maxsplit=1)[0][:200]
        raise InputError(f"{path}: damaged, or holds more than tensors, which is not run ({first}); {wanted}") from None
    if not isinstance(values, Mapping) or not values:
        what = "an empty dictionary" if isinstance(values, Mapping) else f"a {type(values).__name__}"
        raise InputError(f"{path}: holds {what}; {wanted}")
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(f"{path}: {name!r} is a {type(value).__name__}; {wanted}")
    return dict(values)


def _misfits(published: Mapping[str, Tensor]) -> list[str]:
    """Tell weights that are no real numbers, or not finite."""
    problems = []
    for name, weight in published.items():
        if name.endswith("num_batches_tracked"):
            continue
        if not weight.is_floating_point():
            problems.append(f"{name} is {weight.dtype}; wanted floating-point numbers")
        elif not torch.isfinite(weight).all():
            problems.append(f"{name} has values that are NaN or infinite")
    return problems if len(problems) <= 8 else [*problems[:8], f"and {len(problems) - 8} more such"]


def _head_misfits(heads: Mapping[str, int], spec: ImportSpec, tracks: tuple[Track, ...]) -> list[str]:
    if spec.head not in heads:
        return [f"no head {spec.head}; found {', '.join(heads) or 'none'}"]
    if heads[spec.head] != len(tracks):
        have = f"the {spec.head} head has {heads[spec.head]} tracks, and {spec.targets} has {len(tracks)}"
        return [f"{have}; wanted the targets that it was trained on, all of them"]
    return []


def _renamed(
    published: Mapping[str, Tensor],
    publisher: _Publisher,
    config: catalog.NetworkConfig,
    geometry: Geometry,
    heads: Mapping[str, int],
) -> dict[str, Tensor]:
    """Return the weights by our names in float32, those of all heads among them."""
    with torch.device("meta"):
        network = catalog.build(config, geometry=geometry, num_tracks=heads)
    weights = publisher.rename(published, like=network.state_dict())
    return {name: weight.float() if weight.is_floating_point() else weight for name, weight in weights.items()}


def _only_head(weights: Mapping[str, Tensor], head: str) -> dict[str, Tensor]:
    """Return the weights of a network whose only head is `head`, called as an only head is."""
    kept = {name: weight for name, weight in weights.items() if not name.startswith(HEAD)}
    return kept | {f"{HEAD}tracks.{part}": weights[f"{HEAD}{head}.{part}"] for part in ("weight", "bias")}


def _nothing_measured(config: catalog.NetworkConfig, geometry: Geometry, *, num_tracks: int) -> dict[str, Any]:
    """Return what the metrics of a training run would hold, without any."""
    with torch.device("meta"):
        network = catalog.build(config, geometry=geometry, num_tracks=num_tracks)
    return {
        "measured": "nothing: weights that others trained",
        "num_parameters": sum(weight.numel() for weight in network.parameters()),
        "history": [],
        "best_epoch": None,
        "definitions": {},
    }


def _make_card(spec: ImportSpec, geometry: Geometry, tracks: tuple[Track, ...], *, facts: dict[str, Any]) -> Card:
    genome = describe_genome(spec.genome, open_genome(spec.genome, spec.data_dir))
    regions: dict[str, list[str]] = {split: [] for split in SPLITS}
    if spec.folds is not None:
        lengths = genome.contig_lengths
        for region in assign_regions(spec.folds, lengths, geometry=geometry, data_dir=spec.data_dir):
            regions[region.split].append(str(region.interval))
    job = dataclasses.asdict(spec)
    for key in ("out", "data_dir"):
        del job[key]
    return Card(
        schema_version=SCHEMA_VERSION,
        name=spec.name,
        cisray_version=__version__,
        kind="coverage",
        genome=genome,
        geometry=geometry,
        tracks=tracks,
        contig_names={track.name: {} for track in tracks},
        absent_contigs={track.name: [] for track in tracks},
        folds=spec.folds,
        regions=regions,
        counts=dict.fromkeys(SPLITS, 0),
        dropped={},
        statistics={},
        files=(),
        sources=tuple(_describe_file(name, spec.data_dir) for name in (spec.weights, spec.targets)),
        facts=facts,
        job=job,
    )


def _describe_file(name: str, data_dir: str | None) -> SourceFile:
    path, root = data_path(name, data_dir), Path(data_root(data_dir))
    shown = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    return SourceFile(path=str(shown), num_bytes=path.stat().st_size, sampled_digest=sampled_digest(path))
