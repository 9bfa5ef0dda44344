"""Low-rank adapters: a trained network stays as it is, and learns small changes of its matrices beside it.

An adapted layer computes (W + alpha / rank * U D) x, with D [rank, inputs] and U [outputs, rank]. U starts at zero, so
that the network first predicts what it did before. The weights of the network keep their names; D and U of a layer
stand beside its own, as `lora_down` and `lora_up`. Source: Hu et al. 2021 (arXiv 2106.09685).
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cisray.errors import InputError
from cisray.models.attention import RelativeAttention
from cisray.models.freezing import freeze, is_in

Kind = Literal["attention", "pointwise"]
"""The projections of attention layers, or the convolutions of width 1 outside the head."""


class AdaptedLinear(nn.Linear):
    """A linear layer [..., inputs] to [..., outputs] with a low-rank change beside it."""

    def __init__(self, layer: nn.Linear, *, rank: int, scale: float) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.scale = scale
        self.lora_down = nn.Parameter(layer.weight.new_empty(rank, layer.in_features))
        self.lora_up = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))

    def forward(self, hidden: Tensor) -> Tensor:
        """Add the change to what the layer makes of `hidden`."""
        return super().forward(hidden) + self.scale * F.linear(F.linear(hidden, self.lora_down), self.lora_up)


class AdaptedConv(nn.Conv1d):
    """A convolution of width 1, [B, C_in, N] to [B, C_out, N], with a low-rank change beside it."""

    def __init__(self, layer: nn.Conv1d, *, rank: int, scale: float) -> None:
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            1,
            stride=layer.stride[0],
            bias=layer.bias is not None,
            device="meta",
        )
        self.weight, self.bias = layer.weight, layer.bias
        self.scale = scale
        self.lora_down = nn.Parameter(layer.weight.new_empty(rank, layer.in_channels, 1))
        self.lora_up = nn.Parameter(layer.weight.new_zeros(layer.out_channels, rank, 1))

    def forward(self, hidden: Tensor) -> Tensor:
        """Add the change to what the convolution makes of `hidden`."""
        low = F.conv1d(hidden, self.lora_down, stride=self.stride)
        return super().forward(hidden) + self.scale * F.conv1d(low, self.lora_up)


Adapted = AdaptedLinear | AdaptedConv


def add_lora(
    network: nn.Module,
    *,
    rank: int,
    alpha: float,
    targets: Sequence[str] = ("attention",),
    train_head: bool = False,
    seed: int = 0,
) -> dict[str, Adapted]:
    """Put adapters into a network, freeze all else, and return the adapted layers by name.

    Args:
        network: changed in place; its weights stay where they are.
        rank: of the changes.
        alpha: the changes are multiplied by alpha / rank.
        targets: "attention", "pointwise", or the beginning of layers' names up to a dot.
        train_head: whether the head learns too, all of it.
        seed: of the adapters' first weights.

    Raises:
        InputError: a target has no layer, a layer has fewer channels than `rank`, or there are adapters already.
    """
    if rank < 1 or not (alpha > 0 and math.isfinite(alpha)):
        raise InputError(f"lora: rank={rank}, alpha={alpha}; wanted a rank of at least 1 and a positive alpha")
    if any(isinstance(module, Adapted) for module in network.modules()):
        raise InputError("lora: this network has adapters; merge them before others are added")
    layers = _find_layers(network, targets)
    for name, layer in layers.items():
        least = min(layer.weight.shape[:2])
        if rank > least:
            raise InputError(
                f"lora: rank={rank}, but {name} has a side of {least} channels; lower the rank, or leave it out of "
                "targets"
            )
        if train_head and is_in(name, ["head"]):
            raise InputError(f"lora: {name} is of the head, all of which learns; leave it out of targets")
    freeze(network, [name for name, _ in network.named_children() if not (train_head and name == "head")])
    random = torch.Generator().manual_seed(seed)
    adapted = {name: _adapted(layer, rank=rank, scale=alpha / rank, random=random) for name, layer in layers.items()}
    for name, module in adapted.items():
        network.set_submodule(name, module)
    return adapted


@torch.no_grad()
def merged_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the plain network that predicts what this one does, which stays as it is."""
    weights = {
        name: weight
        for name, weight in network.state_dict().items()
        if name.rpartition(".")[2] not in ("lora_down", "lora_up")
    }
    for name, module in network.named_modules():
        if isinstance(module, Adapted):
            own = module.weight  # [outputs, inputs], with an axis of length 1 in a convolution
            change = module.scale * module.lora_up.double().flatten(1) @ module.lora_down.double().flatten(1)
            weights[f"{name}.weight"] = (own.double() + change.reshape(own.shape)).to(own.dtype)
    return weights


@torch.no_grad()
def merge_lora(network: nn.Module) -> list[str]:
    """Turn adapted layers into plain ones that compute the same, and return their names.

    What was frozen stays so, see `freezing.unfreeze`. Raises InputError where the network has no adapters.
    """
    adapted = {name: module for name, module in network.named_modules() if isinstance(module, Adapted)}
    if not adapted:
        raise InputError("lora: this network has no adapters to merge")
    weights = merged_weights(network)
    for name, module in adapted.items():
        module.weight.copy_(weights[f"{name}.weight"])
        network.set_submodule(name, _plain(module))
    return list(adapted)


def _find_layers(network: nn.Module, targets: Sequence[str]) -> dict[str, nn.Linear | nn.Conv1d]:
    """Return the layers that are to be adapted, in the network's order."""
    layers: dict[str, nn.Linear | nn.Conv1d] = {
        name: module
        for name, module in network.named_modules()
        if type(module) is nn.Linear or (type(module) is nn.Conv1d and _is_pointwise(module))
    }
    attention = [name for name, module in network.named_modules() if isinstance(module, RelativeAttention)]
    found = set()
    for target in targets:
        if target == "attention":
            here = {name for name in layers if is_in(name, attention)}
        elif target == "pointwise":
            here = {name for name in layers if isinstance(layers[name], nn.Conv1d) and not is_in(name, ["head"])}
        else:
            here = {name for name in layers if is_in(name, [target])}
        if not here:
            raise InputError(
                f"lora: target {target!r} has no linear layer and no convolution of width 1 in this network; wanted "
                "attention, pointwise, or the beginning of a layer's name up to a dot, such as context"
            )
        found |= here
    if not found:
        raise InputError("lora: targets is empty; wanted attention, pointwise, or the beginning of a layer's name")
    return {name: layer for name, layer in layers.items() if name in found}


def _is_pointwise(layer: nn.Conv1d) -> bool:
    return layer.kernel_size == (1,) and layer.groups == 1 and layer.padding in ("same", "valid", (0,))


def _adapted(layer: nn.Linear | nn.Conv1d, *, rank: int, scale: float, random: torch.Generator) -> Adapted:
    module: Adapted
    if isinstance(layer, nn.Linear):
        module = AdaptedLinear(layer, rank=rank, scale=scale)
    else:
        module = AdaptedConv(layer, rank=rank, scale=scale)
    down = module.lora_down
    spread = torch.randn(down.shape, generator=random) / math.sqrt(down.shape[1])  # keeps the variance of inputs
    with torch.no_grad():
        down.copy_(spread)
    return module.train(layer.training)


def _plain(module: Adapted) -> nn.Linear | nn.Conv1d:
    layer: nn.Linear | nn.Conv1d
    if isinstance(module, nn.Linear):
        layer = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
    else:
        layer = nn.Conv1d(
            module.in_channels,
            module.out_channels,
            1,
            stride=module.stride[0],
            bias=module.bias is not None,
            device="meta",
        )
    layer.weight, layer.bias = module.weight, module.bias
    return layer.train(module.training)
