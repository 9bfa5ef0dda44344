"""What a network is to learn from a kind of targets: the objective, and what makes predictions of its outputs.

| targets | a network's outputs | objective, unless another is named | predictions |
|---|---|---|---|
| coverage | rates | poisson | the rates |
| coverage | one number per track (networks of labels) | poisson | softplus |
| coverage | profile and count | profile_count | the count spread along the profile |
| labels | one number per track | binary_cross_entropy | sigmoid |
| measurements | one number per track | squared_error | the numbers |
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from cisray.config import STRICT
from cisray.datasets.card import Kind
from cisray.errors import InputError
from cisray.models.outputs import Link, apply_link
from cisray.training.objectives import OBJECTIVES, central_weights
from cisray.training.tasks import Goal

Objective = Literal[
    "poisson", "poisson_multinomial", "profile_count", "binary_cross_entropy", "cross_entropy", "squared_error"
]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ObjectiveSpec:
    """What training minimises; by default what suits the dataset's targets."""

    name: Objective | None = None
    total_weight: float = 0.2
    """Of poisson_multinomial: weight of the Poisson term of a window's total."""
    weight_range: float = 1.0
    """Of poisson_multinomial: how much less the outermost bins weigh than the middle; 1 weighs all alike."""
    weight_exponent: int = 4
    """Of poisson_multinomial: how late the weight falls."""
    count_weight: float = 1.0
    """Of profile_count: weight of the squared error of the log count."""
    track_weights: dict[str, float] = Field(default_factory=dict)
    """How much a track's errors count, by its name; 1 for the others."""
    head_weights: dict[str, float] = Field(default_factory=dict)
    """How much a head's loss counts, by its name; 1 for the others."""

    def __post_init__(self) -> None:
        if self.total_weight < 0 or self.count_weight < 0 or self.weight_range < 1 or self.weight_exponent < 1:
            raise InputError(
                f"objective: total_weight={self.total_weight}, count_weight={self.count_weight}, "
                f"weight_range={self.weight_range}, weight_exponent={self.weight_exponent}; "
                "wanted weights of 0 or more, the others at least 1"
            )
        for kind, weights in (("track", self.track_weights), ("head", self.head_weights)):
            for name, weight in weights.items():
                if not 0 <= weight < math.inf:
                    raise InputError(f"objective: {kind}_weights.{name}={weight}; wanted zero or more")

    def check_names(self, tracks: Mapping[str | None, Sequence[str]]) -> None:
        """Raise InputError where a weight is of a track or head that is not there; `tracks` are those of each head."""
        known = {name for names in tracks.values() for name in names}
        for name in self.track_weights:
            if name not in known:
                raise InputError(
                    f"objective: track_weights.{name}: no such track; the dataset has {', '.join(sorted(known)[:20])}"
                )
        for name in self.head_weights:
            if name not in tracks:
                heads = ", ".join(str(head) for head in tracks if head is not None) or "one without a name"
                raise InputError(f"objective: head_weights.{name}: no such head; the network has {heads}")


class Choice(NamedTuple):
    """An objective, and the link that makes predictions."""

    objective: Objective
    link: Link


# Per kind of targets and what a network returns: its links, with the objectives that they go with, the usual one first.
_CHOICES: dict[tuple[Kind, Link], tuple[Link, tuple[Objective, ...]]] = {
    ("coverage", "identity"): ("identity", ("poisson", "poisson_multinomial", "squared_error")),
    ("coverage", "sigmoid"): ("softplus", ("poisson", "squared_error")),
    ("coverage", "profile"): ("profile", ("profile_count",)),
    ("labels", "sigmoid"): ("sigmoid", ("binary_cross_entropy", "cross_entropy")),
    ("measurements", "sigmoid"): ("identity", ("squared_error",)),
}
# These take what the network returns; the others take predictions.
_OF_OUTPUTS = ("profile_count", "binary_cross_entropy", "cross_entropy")


def choose(kind: Kind, network: nn.Module, wanted: Objective | None = None) -> Choice:
    """Return the objective and the link for a network on targets of a kind.

    Raises:
        InputError: the network returns nothing that suits such targets, or the wanted objective does not.
    """
    if getattr(network, "least_squares", False):  # a linear model fits any numbers
        return Choice("squared_error", "identity")
    returns: Link = getattr(network, "link", "identity")
    if (kind, returns) not in _CHOICES:
        what = {"identity": "rates", "profile": "a profile and a count"}[returns]
        raise InputError(
            f"the dataset's targets are {kind}, and this architecture predicts {what}; choose one that returns one "
            "number per track, such as deepbind, deepsea, basset or danq"
        )
    link, objectives = _CHOICES[kind, returns]
    if wanted is not None and wanted not in objectives:
        raise InputError(
            f"training.objective.name={wanted}: for {kind} and this architecture wanted one of {', '.join(objectives)}"
        )
    return Choice(wanted or objectives[0], link)


def make_goal(
    kind: Kind, network: nn.Module, spec: ObjectiveSpec, *, num_bins: int, tracks: Sequence[str] = ()
) -> Goal:
    """Return what the training loop minimises and measures for tracks of these names; raises what `choose` raises."""
    choice = choose(kind, network, spec.name)
    predict = partial(apply_link, link=choice.link)
    settings: dict[str, Any] = {}
    if choice.objective == "poisson_multinomial":
        settings["total_weight"] = spec.total_weight
        if spec.weight_range > 1:
            settings["position_weights"] = central_weights(
                num_bins, weight_range=spec.weight_range, exponent=spec.weight_exponent
            )
    if choice.objective == "profile_count":
        settings["count_weight"] = spec.count_weight
    objective = OBJECTIVES[choice.objective]
    weighed: dict[str, Any] = {}
    if any(name in spec.track_weights for name in tracks):
        weighed["track_weights"] = torch.tensor([spec.track_weights.get(name, 1.0) for name in tracks])

    def terms(outputs: Any, targets: Tensor) -> Tensor:
        predictions = outputs if choice.objective in _OF_OUTPUTS else predict(outputs)
        return objective.terms(predictions, targets, **settings, **weighed)

    return Goal(terms, partial(objective.weights, **weighed), predict, labels=kind == "labels")


@torch.no_grad()
def start_at_means(kind: Kind, network: nn.Module, means: Sequence[float], *, name: str | None = None) -> None:
    """Make a network's first predictions each track's mean, where its head, the named one of several, knows how."""
    head: Any = getattr(network, "head", None)
    link: Link = choose(kind, network).link
    if hasattr(head, "start_at") and link == getattr(network, "link", "identity"):
        if name is None:
            head.start_at(means)
        else:
            head.start_at(means, name)
    elif link == "identity" and hasattr(head, "tracks"):  # a number per track, whatever its sign
        nn.init.normal_(head.tracks.weight, std=0.01)
        head.tracks.bias.copy_(torch.tensor(means).nan_to_num(0.0))
