"""How weights move: AdamW or SGD, rates per group of parameters, warm-up and cosine decay, a running mean."""

import math
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cisray.errors import InputError
from cisray.training.spec import TrainSpec


def build_optimizer(network: nn.Module, spec: TrainSpec) -> torch.optim.Optimizer:
    """Return an optimizer that decays matrices and kernels only; biases and norms are left alone.

    Each of its groups has a `rate_factor`, by which the schedule's rate is multiplied. AdamW's decay is decoupled from
    the gradient, SGD's is added to it.

    Raises:
        InputError: no parameter's name starts as one of `rate_factors` says.
    """
    groups = _groups(network, spec)
    # on a CPU torch's own choice stays, the plain loop; on a GPU one kernel moves all weights
    fused = True if all(weight.is_cuda for group in groups for weight in group["params"]) else None
    if spec.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=spec.learning_rate, momentum=spec.momentum, fused=fused)
    return torch.optim.AdamW(groups, lr=spec.learning_rate, fused=fused)


def _groups(network: nn.Module, spec: TrainSpec) -> list[dict[str, Any]]:
    """Group the parameters by their rate's factor, and those of one factor by whether they decay."""
    named = [(name, weight) for name, weight in network.named_parameters() if weight.requires_grad]
    for prefix in spec.rate_factors:
        if not any(name.startswith(prefix) for name, _ in named):
            parts = ", ".join(dict.fromkeys(f"{name.split('.')[0]}" for name, _ in named))
            raise InputError(
                f"training: rate_factors.{prefix}: no parameter's name starts so; wanted the start of a name, of "
                f"which the first parts are {parts}"
            )
    factors = {name: _factor(name, spec.rate_factors) for name, _ in named}
    groups = []
    for factor in sorted(set(factors.values()), key=lambda factor: (factor != 1.0, factor)):
        weights = [weight for name, weight in named if factors[name] == factor]
        decayed = [weight for weight in weights if weight.ndim > 1]
        free = [weight for weight in weights if weight.ndim <= 1]
        groups += [
            {"params": decayed, "weight_decay": spec.weight_decay, "rate_factor": factor},
            {"params": free, "weight_decay": 0.0, "rate_factor": factor},
        ]
    return groups


def _factor(name: str, rate_factors: dict[str, float]) -> float:
    """Return the factor of a parameter's rate: that of the longest prefix of its name, or 1."""
    longest = max((prefix for prefix in rate_factors if name.startswith(prefix)), key=len, default=None)
    return 1.0 if longest is None else rate_factors[longest]


def learning_rate_at(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Return the rate of one step: linear to `peak` over the warm-up, then half a cosine down to 1% of it."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    share = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the schedule's rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]


def build_average(network: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of the network that follows its weights and running statistics; the first update copies them."""
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
