"""Begin with a trained network: what a job's [start] section says, and what comes of it.

The weights of a bundle are taken over by name. What the bundle cannot give, or what `renew` names, begins anew; what
`freeze` names stays as it is; with `lora` all stays as it is, and small changes of some matrices are learned beside
them (models.lora). A head belongs to its tracks: one of other tracks is not taken over.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from cisray.bundle import MODEL_NAME, Cards, bundle_digest, by_head, read_cards, read_config, read_weights
from cisray.config import STRICT
from cisray.datasets.card import Card
from cisray.errors import InputError
from cisray.files import read_json
from cisray.genome.intervals import parse_region
from cisray.models.freezing import MOST_TOLD, Taken, freeze, is_in, reinitialise, take_weights
from cisray.models.heads import NamedHeads
from cisray.models.layers import Network
from cisray.models.lora import Adapted, add_lora, merged_weights

HEAD = "head"
OF_TRACKS = "head.tracks"
"""The layers of a head that have one output per track, in all heads but a profile's, all of which is of its tracks."""
ONLY_HEAD = "tracks"
"""What networks with named heads call an only head."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LoraSpec:
    """Low-rank changes that are learned while the network stays as it is."""

    rank: int = 8
    """Of the change of a matrix: columns of the one factor and rows of the other."""
    alpha: float = 8.0
    """The changes are multiplied by alpha / rank."""
    targets: tuple[str, ...] = ("attention",)
    """"attention", "pointwise", or the beginning of layers' names up to a dot, such as "context.0"."""
    train_head: bool = True
    """Whether all of the head learns too, as it must where its tracks are new."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 < self.alpha < math.inf or not self.targets:
            raise InputError(
                f"start.lora: rank={self.rank}, alpha={self.alpha}, targets={list(self.targets)}; wanted a rank of at "
                "least 1, a positive alpha, and at least one target"
            )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StartSpec:
    """Which trained network a training begins with, and what of it learns."""

    model: str | None = None
    """A bundle's folder, or a registered model, models:/NAME@champion; by default all weights are new."""
    head: str | None = None
    """Of a bundle with several heads, the one that this network's only head continues; several continue by name."""
    renew: tuple[str, ...] = ()
    """Parts whose weights begin anew: "local", "context", "head", or finer, "context.0"."""
    freeze: tuple[str, ...] = ()
    """Parts whose weights stay as they are, the statistics of their batch norms too."""
    lora: LoraSpec | None = None
    """Low-rank changes to learn; by default all weights learn that are not frozen."""

    def __post_init__(self) -> None:
        if self.model is None and (self.head or self.renew or self.freeze or self.lora):
            raise InputError(
                "start: head, renew, freeze and lora say what becomes of a trained network; set start.model to one, "
                "or leave them out"
            )


class SeenRegion(NamedTuple):
    """A stretch of a genome that a model learned from, or was selected on; 0-based, half-open."""

    split: str
    """train or valid."""
    contig: str
    contig_digest: str
    """By which it is told from others, whatever their names."""
    start: int
    end: int


def regions_of(cards: Iterable[Card]) -> list[SeenRegion]:
    """Return what was learned from, or selected on, by a model with these cards; rows of a table have no places."""
    return [
        SeenRegion(split, region.contig, card.genome.contig_digests.get(region.contig, ""), region.start, region.end)
        for card in cards
        if card.genome is not None
        for split in ("train", "valid")
        for region in (parse_region(text, card.genome.contig_lengths) for text in card.regions[split])
    ]


def regions_before(bundle_dir: Path) -> list[SeenRegion]:
    """Return what those saw that a bundle's training began with; raise InputError where that was not noted."""
    made_by = read_json(bundle_dir / MODEL_NAME, what="bundle's model.json").get("made_by", {})
    started = made_by.get("started", {"seen": []})
    if "seen" not in started:
        raise InputError(
            f"{bundle_dir}: began with a trained network, and was made by a version that did not note what that had "
            "learned from; train it again"
        )
    return [SeenRegion(*one) for one in started["seen"]]


class Started(NamedTuple):
    """What a network began with; weights by name."""

    digest: str
    """Of the bundle."""
    architecture: str
    """The bundle's."""
    taken: tuple[str, ...]
    """The network's weights that are the bundle's."""
    left: dict[str, str]
    """The bundle's weights that were not taken over, each with the reason."""
    new: tuple[str, ...]
    """The network's weights that began anew for want of others."""
    renewed: tuple[str, ...]
    """Those that began anew because the job says so."""
    frozen: tuple[str, ...]
    """Parameters that stay as they are."""
    adapted: tuple[str, ...]
    """Layers with a low-rank change."""
    new_heads: tuple[str | None, ...]
    """Heads whose tracks begin anew; None is the only head of a network without names."""
    seen: tuple[SeenRegion, ...]
    """What the bundle, and those that it began with, learned from or were selected on."""
    num_learning: int
    """Parameters that learn."""
    num_parameters: int
    """All parameters, those of low-rank changes among them."""

    @property
    def new_head(self) -> bool:
        """Whether some head's tracks begin anew."""
        return bool(self.new_heads)

    @property
    def facts(self) -> dict[str, Any]:
        """The same as plain values, ready for JSON, each list of names with its length beside it."""
        values = self._asdict()
        for name in ("taken", "left", "new", "renewed", "frozen", "adapted"):
            names = values[name]
            values[name] = {"count": len(names), "names": names if isinstance(names, dict) else list(names)}
        return values | {"new_heads": list(self.new_heads), "seen": [list(one) for one in self.seen]}


def start_from(
    network: nn.Module,
    spec: StartSpec,
    *,
    bundle_dir: Path,
    cards: Cards,
    build: Callable[[], nn.Module],
    seed: int = 0,
) -> Started:
    """Give a network the weights of a bundle, and let learn what the job wants to learn.

    Args:
        network: new, on the CPU; changed in place.
        spec: the job's [start] section.
        bundle_dir: the folder of the bundle that `spec.model` names.
        cards: of the datasets that the network is to learn from, as for a bundle.
        build: makes a network of the same architecture and sizes.
        seed: of the weights that `spec.renew` begins anew, and of the adapters' first ones.

    Raises:
        InputError: local or context of network and bundle differ and are not renewed, a part or head is not there, or
            something would begin anew and never learn.
    """
    theirs, ours = read_cards(bundle_dir), by_head(cards)
    architecture = read_config(bundle_dir).architecture
    try:
        _check_alike(network, theirs, ours, spec)
        weights = _renamed_head(read_weights(bundle_dir), network, theirs, ours, spec.head)
        not_ours = _heads_of_other_tracks(network, theirs, ours, spec.head)
        given = {name: weight for name, weight in weights.items() if not is_in(name, not_ours)}
        taken = _take(network, given, spec.renew)
        renewed = tuple(reinitialise(network, spec.renew, build=build, seed=seed)) if spec.renew else ()
        new = tuple(name for name in taken.missing if name not in set(renewed))
        adapted = _adapt_and_freeze(network, spec, seed=seed)
        _check_learning(network, [*new, *renewed])
    except InputError as error:
        raise InputError(f"start: {bundle_dir} ({architecture}): {error}") from None
    learned = dict(network.named_parameters())
    return Started(
        digest=bundle_digest(bundle_dir),
        architecture=architecture,
        taken=taken.taken,
        left=taken.left | {name: _reason(name, not_ours) for name in weights if name not in given},
        new=new,
        renewed=renewed,
        frozen=tuple(name for name, weight in learned.items() if not weight.requires_grad),
        adapted=adapted,
        new_heads=tuple(
            head for head in ours if any(is_in(name, [_part_of_tracks(network, head)]) for name in [*new, *renewed])
        ),
        seen=(*regions_of(theirs.values()), *regions_before(bundle_dir)),
        num_learning=sum(weight.numel() for weight in learned.values() if weight.requires_grad),
        num_parameters=sum(weight.numel() for weight in learned.values()),
    )


def bare_weights(network: nn.Module, weights: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the weights of a network without adapters that predicts what this one does; they may share its memory.

    Args:
        network: with or without adapters; it stays as it is.
        weights: a state of this network to take in place of its own, such as that of the best epoch.
    """
    if not any(isinstance(module, Adapted) for module in network.modules()):
        return dict(network.state_dict() if weights is None else weights)
    if weights is not None:
        network = copy.deepcopy(network)
        network.load_state_dict(dict(weights))
    return merged_weights(network)


def _check_alike(
    network: nn.Module, theirs: Mapping[str | None, Card], ours: Mapping[str | None, Card], spec: StartSpec
) -> None:
    """Raise InputError where the network has no parts, or bins of another length than its `local` was trained for."""
    if not isinstance(network, Network):
        raise InputError(f"a {type(network).__name__} has no local, context and head that it could begin with")
    (bin_bp, *_), (own_bin_bp, *_) = ([card.geometry.bin_bp for card in cards.values()] for cards in (theirs, ours))
    if bin_bp != own_bin_bp and "local" not in spec.renew:
        raise InputError(
            f"predicts bins of {bin_bp} bp, and the dataset has bins of {own_bin_bp} bp, for which local pools "
            'otherwise; build the dataset with the same geometry.bin_bp, or add "local" to start.renew'
        )


def _renamed_head(
    weights: dict[str, Tensor],
    network: nn.Module,
    theirs: Mapping[str | None, Card],
    ours: Mapping[str | None, Card],
    head: str | None,
) -> dict[str, Tensor]:
    """Return a bundle's weights, the head that an only head continues called as that is called."""
    if head is None:
        return weights
    if head not in theirs:
        known = ", ".join(name for name in theirs if name is not None) or "one without a name: leave start.head out"
        raise InputError(f"start.head={head}: no such head; the bundle has {known}")
    if len(ours) > 1:
        raise InputError(
            f"start.head={head}: the network has several heads, which continue those of their names; leave it out"
        )
    chosen, own = f"{OF_TRACKS}.{head}", _part_of_tracks(network, next(iter(ours)))
    renamed = {}
    for name, weight in weights.items():
        here = next((part for part in (chosen, own) if is_in(name, [part])), "")
        there = {chosen: own, own: chosen, "": ""}[here]  # whatever had this name before takes the other
        renamed[there + name.removeprefix(here)] = weight
    return renamed


def _heads_of_other_tracks(
    network: nn.Module, theirs: Mapping[str | None, Card], ours: Mapping[str | None, Card], head: str | None
) -> dict[str, str]:
    """Return the parts that would be given to heads of other tracks, each with the reason against it."""
    own = {_part_of_tracks(network, name): card.track_names for name, card in ours.items()}
    continued = theirs if head is None else {next(iter(ours)): theirs[head]}
    reasons = {}
    for name, card in continued.items():
        part = _part_of_tracks(network, name)
        if part in own and own[part] != card.track_names:
            reasons[part] = f"of the tracks {_shortened(card.track_names)}, which are not the network's"
    return reasons


def _part_of_tracks(network: nn.Module, head: str | None) -> str:
    """Return the part of a network that belongs to the tracks of one head."""
    of_head = network.get_submodule(HEAD)
    if isinstance(of_head, NamedHeads):
        return f"{OF_TRACKS}.{ONLY_HEAD if head is None else head}"
    return OF_TRACKS if hasattr(of_head, "tracks") else HEAD


def _take(network: nn.Module, weights: Mapping[str, Tensor], renew: tuple[str, ...]) -> Taken:
    """Load what fits; raise InputError where something of local or context does not, and is not renewed."""
    own = network.state_dict()
    misfits = [
        f"{name} is {_shape(weights, name)} there and {_shape(own, name)} in the network"
        for name in dict.fromkeys([*own, *weights])
        if not is_in(name, [HEAD, *renew]) and _shape(own, name) != _shape(weights, name)
    ]
    if misfits:
        raise InputError(
            f"{_shortened(misfits, '; ')}; give the network the architecture and sizes of the bundle, or name the "
            "part in start.renew"
        )
    return take_weights(network, weights, but_not=renew)


def _shape(weights: Mapping[str, Tensor], name: str) -> str:
    return str(list(weights[name].shape)) if name in weights else "missing"


def _reason(name: str, reasons: Mapping[str, str]) -> str:
    return next(reason for part, reason in reasons.items() if is_in(name, [part]))


def _adapt_and_freeze(network: nn.Module, spec: StartSpec, *, seed: int) -> tuple[str, ...]:
    """Add adapters and freeze parts, adapters first, which freeze all else; return the adapted layers."""
    adapted: tuple[str, ...] = ()
    if spec.lora is not None:
        lora = spec.lora
        adapted = tuple(
            add_lora(
                network,
                rank=lora.rank,
                alpha=lora.alpha,
                targets=lora.targets,
                train_head=lora.train_head,
                seed=seed,
            )
        )
    if spec.freeze:
        freeze(network, spec.freeze)
    for name in adapted:
        if is_in(name, spec.freeze):
            raise InputError(
                f"{name} is adapted by lora and frozen by freeze={list(spec.freeze)}; leave it out of one: lora "
                "freezes all that it does not adapt"
            )
    if not any(weight.requires_grad for weight in network.parameters()):
        raise InputError(f"freeze={list(spec.freeze)} leaves nothing that learns; leave a part out")
    return adapted


def _check_learning(network: nn.Module, begun: list[str]) -> None:
    """Raise InputError where weights that begin anew would stay at random."""
    learned = dict(network.named_parameters())
    still = [name for name in begun if name in learned and not learned[name].requires_grad]
    if still:
        raise InputError(
            f"{_shortened(still)} begin anew and are frozen, so that they would never learn; leave them out of "
            "start.freeze, or with start.lora set train_head=true and renew nothing else"
        )


def _shortened(told: list[str], between: str = ", ") -> str:
    more = [f"and {len(told) - MOST_TOLD} more"] if len(told) > MOST_TOLD else []
    return between.join([*told[:MOST_TOLD], *more])
