"""How weights move: AdamW, warm-up and cosine decay."""

import math

import torch
from torch import nn


def build_adamw(model: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW that decays matrices and kernels only; biases and norms are left alone."""
    decayed = [weight for weight in model.parameters() if weight.requires_grad and weight.ndim > 1]
    free = [weight for weight in model.parameters() if weight.requires_grad and weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate)


def learning_rate_at(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Return the rate of one step: linear to `peak` over the warm-up, then half a cosine down to 1% of it."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    share = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))
