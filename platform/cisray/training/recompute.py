"""Keep fewer activations: compute those of a network's blocks again when the gradient needs them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from cisray.errors import InputError


def recompute_activations(network: nn.Module, parts: Literal["local", "context", "both"]) -> None:
    """Make the blocks of a network's `local` or `context` keep their inputs only, and no activations between.

    While a block's activations are there again, its layers that can go in pieces do, so that they are fewer. Losses
    and gradients stay what they were, to rounding: dropout draws the same again, and running statistics move once.
    Names of parameters stay too.

    Raises:
        InputError: the network has no such parts.
    """
    for name in ("local", "context") if parts == "both" else (parts,):
        part = getattr(network, name, None)
        if not isinstance(part, nn.Module):
            raise InputError(
                f"training: checkpoint_activations={parts}, but {type(network).__name__} has no part named {name}; "
                "set it to none"
            )
        for block in blocks_of(part):
            block.forward = _recomputed(block, block.forward)  # an attribute of this one module, not of its class
            for layer in block.modules():
                if hasattr(layer, "in_pieces"):
                    layer.in_pieces = True  # type: ignore[assignment]  # torch says that all of a layer are tensors


def blocks_of(part: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts of a part that run one after the other; lists of blocks are opened at any depth, and towers."""
    for child in part.children():
        is_tower = type(child) is nn.Sequential and any(type(stage) is nn.Sequential for stage in child)
        if isinstance(child, nn.ModuleList):
            yield from child
        elif is_tower or any(isinstance(grandchild, nn.ModuleList) for grandchild in child.children()):
            yield from blocks_of(child)
        else:
            yield child


def _recomputed(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    norms = [each for each in block.modules() if isinstance(each, _NormBase)]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_stand_still(norms)

    def run(*inputs: Any) -> Any:
        # on the meta device arithmetic is only counted, and what is computed twice should count once
        if not torch.is_grad_enabled() or any(getattr(each, "is_meta", False) for each in inputs):
            return forward(*inputs)
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)

    return run


@contextmanager
def _statistics_stand_still(norms: list[_NormBase]) -> Iterator[None]:
    """Let batch norms move copies of their running statistics; without any they would keep fewer tensors."""
    held = [(norm, dict(norm.named_buffers())) for norm in norms]
    for norm, buffers in held:
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, buffers in held:
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)
