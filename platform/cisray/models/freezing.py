"""Start from a trained network: which weights are taken, which begin anew, and which stay as they are.

Weights are named as in a state dict. A part is a prefix of such names that ends at a dot: "local", "context", "head",
or finer, "context.blocks.0".
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cisray.errors import InputError

MOST_TOLD = 8


class Taken(NamedTuple):
    """What became of given weights, and of those of the network they were given to."""

    taken: tuple[str, ...]
    """Loaded into the network."""
    left: dict[str, str]
    """Given and not loaded, each with the reason."""
    missing: tuple[str, ...]
    """In the network and not loaded: as they were."""


class StillBatchNorm(nn.BatchNorm1d):
    """A batch norm that stays in evaluation while its network trains.

    A frozen norm that went on counting would change what frozen layers compute, though none of their weights moved.
    """

    def train(self, mode: bool = True) -> "StillBatchNorm":  # noqa: FBT001, FBT002 - torch's signature
        """Stay in evaluation, whatever `mode` the network is put into."""
        super().train(mode=False)
        return self


def freeze(network: nn.Module, parts: Sequence[str]) -> list[str]:
    """Keep the weights of parts from training, batch norms' running statistics among them; return their names.

    Dropout goes on. Raises InputError where a part names nothing.
    """
    _check_parts(network, parts)
    frozen = []
    for name, weight in network.named_parameters():
        if is_in(name, parts):
            weight.requires_grad = False
            frozen.append(name)
    for name, module in network.named_modules():
        if type(module) is nn.BatchNorm1d and is_in(name, parts):
            module.__class__ = StillBatchNorm  # in place, so that who holds the layer holds the frozen one
            module.eval()
    return frozen


def unfreeze(network: nn.Module) -> None:
    """Let all weights learn again, and put batch norms into the network's mode."""
    network.requires_grad_()
    for module in network.modules():
        if isinstance(module, StillBatchNorm):
            module.__class__ = nn.BatchNorm1d  # type: ignore[assignment]  # mypy narrows it away
            module.train(network.training)


@torch.no_grad()
def reinitialise(network: nn.Module, parts: Sequence[str], *, build: Callable[[], nn.Module], seed: int) -> list[str]:
    """Give parts the weights that a new network has, and return their names.

    Args:
        network: changed in place.
        parts: what begins anew.
        build: makes a network of the same architecture and sizes: each has its own way to begin.
        seed: of those weights; the caller's random state stays as it was.

    Raises:
        InputError: a part names nothing, or `build` makes another network.
    """
    _check_parts(network, parts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = build().state_dict()
    own = network.state_dict()
    renewed = [name for name in own if is_in(name, parts)]
    for name in renewed:
        if name not in fresh or fresh[name].shape != own[name].shape:
            found = f"{list(fresh[name].shape)} there" if name in fresh else "not there"
            raise InputError(
                f"{name} is {list(own[name].shape)}, and {found} in the network it is to begin like; "
                "wanted one of the same architecture and sizes"
            )
        own[name].copy_(fresh[name])
    return renewed


@torch.no_grad()
def take_weights(network: nn.Module, weights: Mapping[str, Tensor], *, but_not: Sequence[str] = ()) -> Taken:
    """Load what fits the network by name and shape, and return what was and what was not.

    Raises:
        InputError: a part of `but_not` names nothing on either side, or no weight that learns fits.
    """
    own = network.state_dict()
    _check_named([*own, *weights], but_not)
    taken, left = [], {}
    for name, weight in weights.items():
        if is_in(name, but_not):
            left[name] = "not wanted"
        elif name not in own:
            left[name] = "the network has no such weight"
        elif weight.shape != own[name].shape:
            left[name] = f"{list(weight.shape)}, and {list(own[name].shape)} in the network"
        else:
            own[name].copy_(weight)
            taken.append(name)
    learned = {name for name, _ in network.named_parameters()}
    if not learned.intersection(taken):
        raise InputError(f"none of {len(weights)} weights fits the network: {_shortened(left)}")
    return Taken(tuple(taken), left, tuple(name for name in own if name not in set(taken)))


def is_in(name: str, parts: Iterable[str]) -> bool:
    """Return whether a weight or layer belongs to one of the parts."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _check_parts(network: nn.Module, parts: Sequence[str]) -> None:
    if not parts:
        raise InputError(f"no part is named; wanted {', '.join(name for name, _ in network.named_children())} or finer")
    _check_named(list(network.state_dict()), parts)


def _check_named(names: Sequence[str], parts: Sequence[str]) -> None:
    for part in parts:
        if not any(is_in(name, [part]) for name in names):
            known = ", ".join(dict.fromkeys(name.split(".")[0] for name in names)) or "none"
            raise InputError(
                f"part {part!r} names no weight; wanted one of {known}, or the beginning of a weight's name up to a dot"
            )


def _shortened(reasons: Mapping[str, Any]) -> str:
    told = [f"{name}: {reason}" for name, reason in list(reasons.items())[:MOST_TOLD]]
    more = [f"and {len(reasons) - MOST_TOLD} more"] if len(reasons) > MOST_TOLD else []
    return "; ".join(told + more) or "there are none"
