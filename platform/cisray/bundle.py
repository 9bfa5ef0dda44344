"""A trained thing: weights, the network's configuration, and the card of the data it learned from.

    weights.safetensors   no pickle: a bundle from a stranger runs no code of theirs
    model.json            architecture and its sizes, objective, the settings of the training, versions
    card.json             the dataset's card: tracks, geometry, genome, transforms
    metrics.json          what was measured, and how each metric is defined

A `Predictor` turns codes into predictions. A folder like this is Ray's checkpoint, MLflow's model and scoring's input.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cisray import __version__
from cisray.baselines.kmer_ridge import KmerRidge, KmerRidgeConfig
from cisray.datasets.card import Card, card_from_dict, card_to_dict
from cisray.datasets.transforms import to_natural
from cisray.errors import InputError
from cisray.files import file_digest, folder_written_whole, read_json, value_digest, write_json
from cisray.genome.sequence import UNKNOWN
from cisray.geometry import Geometry
from cisray.goals import choose
from cisray.models import catalog
from cisray.models.catalog import NetworkConfig
from cisray.models.outputs import apply_link
from cisray.training.batches import reverse_complement, swap_strands

SCHEMA_VERSION = 1

ModelConfig = Annotated[NetworkConfig | KmerRidgeConfig, Field(discriminator="architecture")]
"""Any architecture's configuration, told apart by its `architecture` key."""


def build_network(config: NetworkConfig | KmerRidgeConfig, *, geometry: Geometry, num_tracks: int) -> nn.Module:
    """Build the network of a configuration with fresh weights; what its outputs mean stands in `goals`."""
    if isinstance(config, KmerRidgeConfig):
        return KmerRidge(config, geometry=geometry, num_tracks=num_tracks)
    return catalog.build(config, geometry=geometry, num_tracks=num_tracks)


def write_bundle(
    path: Path,
    *,
    weights: Mapping[str, Tensor],
    config: NetworkConfig | KmerRidgeConfig,
    card: Card,
    metrics: Mapping[str, Any],
    objective: str,
    made_by: Mapping[str, Any] | None = None,
) -> None:
    """Write a bundle, whole or not at all; `made_by` are the settings of the training that minimised `objective`."""
    with folder_written_whole(path) as aside:
        save_file(
            {name: weight.detach().cpu().contiguous() for name, weight in weights.items()},
            aside / "weights.safetensors",
        )
        model = {
            "schema_version": SCHEMA_VERSION,
            "cisray_version": __version__,
            "objective": objective,
            "model": dataclasses.asdict(config),
            "made_by": dict(made_by or {}),
        }
        write_json(aside / "model.json", model)
        write_json(aside / "card.json", card_to_dict(card))
        write_json(aside / "metrics.json", _without_nan(metrics))


def _without_nan(value: Any) -> Any:
    """Replace NaN and infinity by None: JSON has no word for them."""
    if isinstance(value, Mapping):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Predictor:
    """A loaded bundle: codes in, predictions on the tracks' natural scale out."""

    def __init__(self, path: Path | str, *, device: str | torch.device = "cpu") -> None:
        self.path = Path(path)
        self.device = torch.device(device)
        self.card = card_from_dict(
            read_json(self.path / "card.json", what="bundle's card"), source=self.path / "card.json"
        )
        self.config = _read_config(self.path / "model.json")
        geometry, num_tracks = self.card.geometry, len(self.card.tracks)
        self.network = build_network(self.config, geometry=geometry, num_tracks=num_tracks)
        _load_weights(self.network, self.path / "weights.safetensors")
        self.network.to(self.device).eval()
        self._transforms = self.card.transforms()
        self._link = choose(self.card.kind, self.network).link
        self.swap = torch.tensor(self.card.strand_swap())
        self._check_geometry()

    @property
    def digest(self) -> str:
        """Digest of weights, configuration and card."""
        names = ("weights.safetensors", "model.json", "card.json")
        return value_digest({name: file_digest(self.path / name) for name in names})

    @torch.inference_mode()
    def __call__(self, codes: Tensor) -> Tensor:
        """Predict from codes uint8 [B, window_bp] to natural values float32 [B, N, T]."""
        return to_natural(apply_link(self.network(codes.to(self.device)), self._link), self._transforms)

    def both_strands(self, codes: Tensor) -> Tensor:
        """Predict as the mean of both strands' readings, [B, N, T]."""
        turned = swap_strands(self(reverse_complement(codes)), self.swap.to(self.device))
        return (self(codes) + turned) / 2

    def predict(self, codes: np.ndarray) -> np.ndarray:
        """Predict from NumPy codes [B, window_bp] to float32 [B, N, T]: the call that MLflow's pyfunc makes.

        Raises InputError for anything but windows of codes 0 to 4.
        """
        window_bp = self.card.geometry.window_bp
        if codes.ndim != 2 or codes.shape[1] != window_bp or codes.dtype.kind not in "iu":
            raise InputError(f"codes are {codes.dtype} {codes.shape}; wanted integers [windows, {window_bp}]")
        if codes.size and not 0 <= codes.min() <= codes.max() <= UNKNOWN:
            raise InputError(f"codes reach from {codes.min()} to {codes.max()}; wanted 0 to 3 for ACGT and 4 for N")
        return self(torch.from_numpy(np.ascontiguousarray(codes, np.uint8))).cpu().numpy()

    def _check_geometry(self) -> None:
        """Predict once, so that files which do not belong together fail at load and not at the millionth row."""
        random = np.random.default_rng(0).integers(0, 4, (1, self.card.geometry.window_bp), np.uint8)
        shape = tuple(self(torch.from_numpy(random)).shape[1:])
        if shape != self.card.target_shape:
            raise InputError(
                f"{self.path}: the network predicts {shape} bins and tracks, its card says {self.card.target_shape}; "
                "the files of this bundle do not belong together"
            )


def _read_config(path: Path) -> NetworkConfig | KmerRidgeConfig:
    values = read_json(path, what="bundle's model.json")
    if values.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path}: bundle of schema version {values.get('schema_version')}; this cisray reads {SCHEMA_VERSION}"
        )
    try:
        return TypeAdapter(ModelConfig).validate_python(values.get("model"))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _load_weights(network: nn.Module, path: Path) -> None:
    """Load safetensors into the network; raise InputError where names or shapes differ."""
    try:
        weights = load_file(path)
        network.load_state_dict(weights)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a bundle needs it beside model.json") from None
    except (SafetensorError, RuntimeError) as error:
        text = " ".join(str(error).split())[:400]
        raise InputError(f"{path}: these weights do not fit the network of model.json: {text}") from None


def _load_pyfunc(path: str) -> Predictor:
    """Load a bundle for MLflow's pyfunc flavor, which calls this by name and then `predict`."""
    return Predictor(path)
