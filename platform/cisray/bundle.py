"""A trained thing: weights, the network's configuration, and the card of the data it learned from.

    weights.safetensors   no pickle: a bundle from a stranger runs no code of theirs
    trees.skops           of a model made of scikit-learn's trees: no pickle either, and no other kinds are opened
    model.json            architecture and its sizes, objective, the settings of the training, versions
    card.json             the dataset's card: tracks, geometry, genome, transforms
    metrics.json          what was measured, and how each metric is defined

A network with several heads learned from as many datasets: in place of card.json there is cards/HEAD.json for each, and
model.json lists the heads in order. A `Predictor` turns codes into the predictions of one head. A folder like this is
Ray's checkpoint, MLflow's model and scoring's input.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cisray import __version__
from cisray.baselines.estimators import ShallowConfig, build_shallow
from cisray.baselines.gkm_estimator import GkmSvmConfig
from cisray.baselines.kmer_ridge import KmerRidge, KmerRidgeConfig
from cisray.baselines.linear import LinearConfig
from cisray.baselines.trees import GradientBoostingConfig, RandomForestConfig
from cisray.datasets.card import Card, card_from_dict, card_to_dict
from cisray.datasets.transforms import PlacedTransforms, to_natural
from cisray.errors import InputError
from cisray.files import file_digest, folder_written_whole, read_json, value_digest, within, write_json
from cisray.genome.sequence import UNKNOWN
from cisray.geometry import Geometry
from cisray.goals import choose
from cisray.models import catalog
from cisray.models.basenji2 import Basenji2Config
from cisray.models.borzoi import BorzoiConfig
from cisray.models.catalog import NetworkConfig
from cisray.models.enformer import EnformerConfig
from cisray.models.heads import head_sizes
from cisray.models.layers import Network
from cisray.models.outputs import ProfileAndCount, apply_link
from cisray.models.reach import Reach, check_geometry
from cisray.training.batches import reverse_complement, swap_strands

SCHEMA_VERSION = 1
WEIGHTS_NAME = "weights.safetensors"
MODEL_NAME = "model.json"
TREES_NAME = "trees.skops"
"""A file of its own, and among the weights a tensor of its bytes."""
Strands = Literal["learned", "forward", "both"]
"""How a model reads a window: as it was trained to, forward only, or as the mean of both strands' readings."""

AnyConfig = NetworkConfig | KmerRidgeConfig | ShallowConfig
ModelConfig = Annotated[AnyConfig, Field(discriminator="architecture")]
"""Any architecture's configuration, told apart by its `architecture` key."""
SHALLOW = (LinearConfig, GkmSvmConfig, RandomForestConfig, GradientBoostingConfig)
"""The configurations of models that `fit_shallow` fits."""
WITH_NAMED_HEADS = (Basenji2Config, EnformerConfig, BorzoiConfig)
"""The configurations whose networks may have several heads."""
Cards = Card | Mapping[str, Card] | Mapping[str | None, Card]
"""The card of the only dataset, or the cards of several by the names of their heads."""


def by_head(cards: Cards) -> dict[str | None, Card]:
    """Return cards by the names of their heads; None stands for the only head of a network without names."""
    named: dict[str | None, Card] = {None: cards} if isinstance(cards, Card) else dict(cards.items())
    assert None not in named or len(named) == 1
    return named


def head_tracks(cards: Cards) -> int | dict[str, int]:
    """Return the tracks of a network that learns from these datasets: their number, or that of each head."""
    numbers = {name: len(card.tracks) for name, card in by_head(cards).items()}
    return numbers[None] if None in numbers else {str(name): number for name, number in numbers.items()}


def shared_geometry(cards: Cards) -> Geometry:
    """Return the geometry of a network that learns from these datasets; raise InputError where theirs differ.

    A margin is each dataset's own, and no network's.
    """
    (first, like), *others = by_head(cards).items()
    for name, card in others:
        if _window_of(card) != _window_of(like):
            raise InputError(
                f"head {name} has {_window_of(card)}, head {first} has {_window_of(like)}; heads of one network share "
                "all three: build their datasets with one geometry"
            )
    return dataclasses.replace(like.geometry, margin_bp=0)


def _window_of(card: Card) -> str:
    geometry = card.geometry
    return f"window_bp={geometry.window_bp}, bin_bp={geometry.bin_bp}, crop_bins={geometry.crop_bins}"


def build_network(config: AnyConfig, *, geometry: Geometry, num_tracks: int | Mapping[str, int]) -> nn.Module:
    """Build the network of a configuration with fresh weights; what its outputs mean stands in `goals`.

    Raises:
        InputError: the architecture has no named heads, and `num_tracks` names some.
    """
    if not isinstance(num_tracks, int) and not isinstance(config, WITH_NAMED_HEADS):
        raise InputError(
            f"model.architecture={config.architecture}: has one head, and the datasets are for "
            f"{', '.join(num_tracks)}; wanted one of "
            f"{', '.join(kind.architecture for kind in WITH_NAMED_HEADS)}, or a model for each dataset"
        )
    if isinstance(config, KmerRidgeConfig):
        assert isinstance(num_tracks, int)
        return KmerRidge(config, geometry=geometry, num_tracks=num_tracks)
    if isinstance(config, SHALLOW):
        assert isinstance(num_tracks, int)
        return build_shallow(config, geometry=geometry, num_tracks=num_tracks)
    return catalog.build(config, geometry=geometry, num_tracks=num_tracks)


def write_bundle(
    path: Path,
    *,
    weights: Mapping[str, Tensor],
    config: AnyConfig,
    cards: Cards,
    metrics: Mapping[str, Any],
    objective: str,
    made_by: Mapping[str, Any] | None = None,
) -> None:
    """Write a bundle, whole or not at all; `made_by` are the settings of the training that minimised `objective`.

    Raises:
        InputError: the heads of several cards do not read the same windows, or have names that none can have.
    """
    named = by_head(cards)
    _check_heads(named, source=path)
    heads = [name for name in named if name is not None]
    with folder_written_whole(path) as aside:
        tensors = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
        if TREES_NAME in tensors:
            (aside / TREES_NAME).write_bytes(tensors.pop(TREES_NAME).numpy().tobytes())
        save_file(tensors, aside / WEIGHTS_NAME)
        model = {
            "schema_version": SCHEMA_VERSION,
            "cisray_version": __version__,
            "objective": objective,
            "model": dataclasses.asdict(config),
            "made_by": dict(made_by or {}),
        }
        write_json(aside / MODEL_NAME, model | ({"heads": heads} if heads else {}))
        for name, card in named.items():
            write_json(_card_path(aside, name), card_to_dict(card))
        write_json(aside / "metrics.json", _without_nan(metrics))


def _without_nan(value: Any) -> Any:
    """Replace NaN and infinity by None: JSON has no word for them."""
    if isinstance(value, Mapping):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _card_path(bundle_dir: Path, head: str | None) -> Path:
    return within(bundle_dir, "card.json" if head is None else f"cards/{head}.json", what="bundle")


def _check_heads(cards: Mapping[str | None, Card], *, source: Path) -> None:
    """Raise InputError unless heads have names that they can have, and read and predict the same bins of a window."""
    try:
        head_sizes(head_tracks(cards))
        shared_geometry(cards)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def read_cards(path: Path) -> dict[str | None, Card]:
    """Read a bundle's cards by the names of its heads, in order; None stands for the only head of one without names.

    Raises:
        InputError: a file is missing or not what it should be, or the heads do not belong together.
    """
    cards = {}
    for name in _read_heads(path):
        card_path = _card_path(path, name)
        cards[name] = card_from_dict(read_json(card_path, what="bundle's card"), source=card_path)
    _check_heads(cards, source=path)
    return cards


def read_config(path: Path) -> AnyConfig:
    """Read the configuration of a bundle's network; raise InputError where it is none."""
    try:
        return TypeAdapter(ModelConfig).validate_python(_read_model(path).get("model"))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path / MODEL_NAME}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a bundle's weights, with the bytes of its trees; raise InputError where the file is missing or damaged."""
    trees_path = within(path, TREES_NAME, what="bundle")
    try:
        weights = load_file(within(path, WEIGHTS_NAME, what="bundle"))
    except FileNotFoundError:
        raise InputError(f"{path / WEIGHTS_NAME}: no such file; a bundle needs it beside model.json") from None
    except SafetensorError as error:
        raise InputError(
            f"{path / WEIGHTS_NAME}: these weights are damaged, or none: {error}; copy them again"
        ) from None
    if trees_path.is_file():
        weights[TREES_NAME] = torch.from_numpy(np.fromfile(trees_path, np.uint8))
    return weights


def bundle_digest(path: Path) -> str:
    """Return the digest of a bundle's weights, trees, configuration and cards."""
    cards = [_card_path(path, name) for name in _read_heads(path)]
    weights, trees = (within(path, name, what="bundle") for name in (WEIGHTS_NAME, TREES_NAME))
    files = [weights, *([trees] if trees.is_file() else []), path / MODEL_NAME, *cards]
    return value_digest({str(file.relative_to(path)): file_digest(file) for file in files})


def _read_model(path: Path) -> dict[str, Any]:
    values = read_json(within(path, MODEL_NAME, what="bundle"), what="bundle's model.json")
    if values.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path / MODEL_NAME}: bundle of schema version {values.get('schema_version')}; this cisray reads "
            f"{SCHEMA_VERSION}"
        )
    return values


def _read_heads(path: Path) -> list[str | None]:
    """Read the names of a bundle's heads; a stranger's may lead to no other folder."""
    heads = _read_model(path).get("heads", [None])
    if heads != [None] and not (
        isinstance(heads, list)
        and heads
        and all(isinstance(name, str) and name.isidentifier() for name in heads)
        and len(set(heads)) == len(heads)
    ):
        raise InputError(
            f"{path / MODEL_NAME}: heads is {heads!r}; wanted a list of different names of letters, digits and _"
        )
    return heads


class Predictor:
    """A loaded bundle: codes in, predictions on the natural scale of the tracks of one head out."""

    def __init__(self, path: Path | str, *, head: str | None = None, device: str | torch.device = "cpu") -> None:
        """Load a bundle; `head` names one of several, and an only head needs no name."""
        self.path = Path(path)
        self.device = torch.device(device)
        self.cards = read_cards(self.path)
        self.head = _choose_head(self.cards, head, source=self.path)
        self.card = self.cards[self.head]
        self.config = read_config(self.path)
        self.network = build_network(
            self.config, geometry=shared_geometry(self.cards), num_tracks=head_tracks(self.cards)
        )
        _load_weights(self.network, self.path)
        self.network.to(self.device).eval()
        self.link = choose(self.card.kind, self.network).link
        self.transforms = self.card.transforms()
        self._transforms_on_device = PlacedTransforms.beside(torch.empty(0, device=self.device), self.transforms)
        self.swap = torch.tensor(self.card.strand_swap())
        """For each track its partner on the other strand, [T], on the CPU."""
        self._swap_on_device = self.swap.to(self.device)
        self._check_shape()

    @property
    def digest(self) -> str:
        """Digest of weights, configuration and cards."""
        return bundle_digest(self.path)

    @torch.inference_mode()
    def __call__(self, codes: Tensor) -> Tensor:
        """Predict from codes uint8 [B, window_bp] to natural values float32 [B, N, T]."""
        codes = codes.to(self.device)
        return self.natural_values(self.network(codes) if self.head is None else self.network(codes, self.head))

    def natural_values(self, outputs: Tensor | ProfileAndCount) -> Tensor:
        """Turn what the network returns for the head into natural values float32 [B, N, T]."""
        return to_natural(apply_link(outputs, self.link), self._transforms_on_device)

    def both_strands(self, codes: Tensor) -> Tensor:
        """Predict as the mean of both strands' readings, [B, N, T]."""
        turned = swap_strands(self(reverse_complement(codes)), self._swap_on_device)
        return (self(codes) + turned) / 2

    @property
    def learned_strands(self) -> Literal["forward", "both"]:
        """Strands of a model: "forward" if it was trained with `reverse_complement = false`, as of RNA; else "both"."""
        training = _read_model(self.path).get("made_by", {}).get("training", {})
        return "forward" if training.get("reverse_complement") is False else "both"

    def resolve(self, strands: Strands) -> Literal["forward", "both"]:
        """Return which strands this model reads."""
        return self.learned_strands if strands == "learned" else strands

    def reading(self, strands: Strands) -> Callable[[Tensor], Tensor]:
        """Return what predicts [B, N, T] from codes [B, window_bp] by these strands."""
        return self.both_strands if self.resolve(strands) == "both" else self

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

    def check(self) -> tuple[Reach, ...]:
        """Prove how far a base reaches into the network's `local`, and return it; () for a model without that part.

        It runs in float64 on the CPU, so that it is asked for once and not with every load. Raises InputError where
        the network cannot be patched; see models.reach.
        """
        if not isinstance(self.network, Network):
            return ()
        try:
            return check_geometry(self.network)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from None

    def _check_shape(self) -> None:
        """Predict once, so that files which do not belong together fail at load and not at the millionth row."""
        random = np.random.default_rng(0).integers(0, 4, (1, self.card.geometry.window_bp), np.uint8)
        shape = tuple(self(torch.from_numpy(random)).shape[1:])
        if shape != self.card.target_shape:
            raise InputError(
                f"{self.path}: the network predicts {shape} bins and tracks, its card says {self.card.target_shape}; "
                "the files of this bundle do not belong together"
            )


def _choose_head(cards: Mapping[str | None, Card], head: str | None, *, source: Path) -> str | None:
    names = ", ".join(name for name in cards if name is not None)
    if head is None and len(cards) > 1:
        raise InputError(f"{source}: this bundle has several heads; add head=..., it has {names}")
    if head is not None and head not in cards:
        wanted = f"it has {names}" if names else "its only head has no name: leave head out"
        raise InputError(f"{source}: this bundle has no head {head!r}; {wanted}")
    return head if head is not None else next(iter(cards))


def _load_weights(network: nn.Module, path: Path) -> None:
    """Load a bundle's weights into the network; raise InputError where names, shapes or trees are not its own."""
    weights = read_weights(path)
    try:
        network.load_state_dict(weights)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except RuntimeError as error:
        text = " ".join(str(error).split())[:400]
        raise InputError(f"{path / WEIGHTS_NAME}: these weights do not fit the network of model.json: {text}") from None


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> Predictor:
    """Load a bundle for MLflow's pyfunc flavor, which calls this by name and then `predict`."""
    return Predictor(path, head=(model_config or {}).get("head"))
