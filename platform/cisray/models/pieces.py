"""Layers that keep only what came in, and on the way back compute the rest again, in pieces.

They return what the plain layers do, and gradients to rounding. A piece is some of the channels where all positions
are seen together, as by batch norm, and some of the positions where all channels are, as by a pointwise convolution.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv1d_input, conv1d_weight

PIECE_VALUES = 1 << 22
"""Values of a piece: 16 MB of float32."""
POSITIONS = 64
"""A piece has a multiple of so many positions, as matrix units like it."""


class InPieces(nn.Module):
    """A layer that has a second way, in pieces, which training with `checkpoint_activations` sets."""

    in_pieces = False

    def goes_in_pieces(self, hidden: Tensor) -> bool:
        """Return whether there will be a gradient to compute; on the meta device arithmetic is only counted."""
        return self.in_pieces and torch.is_grad_enabled() and not hidden.is_meta


def norms_by_batch(norm: nn.Module) -> TypeGuard[nn.BatchNorm1d]:
    """Return whether a layer norms by the statistics of what comes in, and of this worker alone."""
    return type(norm) is nn.BatchNorm1d and norm.training and norm.affine


def is_pointwise(conv: nn.Module) -> TypeGuard[nn.Conv1d]:
    """Return whether a layer is a convolution of single positions to as many channels, and no more than that."""
    if type(conv) is not nn.Conv1d:  # one with a low-rank change is another
        return False
    square = conv.weight.shape == (conv.in_channels, conv.in_channels, 1)
    return square and conv.stride == (1,) and conv.padding in ("same", (0,))


def norm_and_activate(hidden: Tensor, norm: nn.BatchNorm1d, activation: nn.Module) -> Tensor:
    """Norm `hidden` [B, C, N] by its own statistics, and activate it."""
    values: Tensor = _NormAndActivate.apply(hidden, norm.weight, norm.bias, norm, activation)
    return values


def add_pointwise(hidden: Tensor, norm: nn.BatchNorm1d, activation: nn.Module, conv: nn.Conv1d) -> Tensor:
    """Add to `hidden` [B, C, N] what batch norm, activation and a pointwise convolution make of it."""
    values: Tensor = _AddPointwise.apply(hidden, norm.weight, norm.bias, conv.weight, conv.bias, norm, activation)
    return values


def by_pairs(layer: Callable[[Tensor, Tensor], Tensor], hidden: Tensor, weight: Tensor) -> Tensor:
    """Return `layer(hidden, weight)`, which makes of every two positions of [B, C, N] one of [B, C, N / 2]."""
    values: Tensor = _ByPairs.apply(hidden, weight, layer)
    return values


class _Norm(NamedTuple):
    """Batch norm by what comes in, and an activation, both of each channel by itself."""

    weight: Tensor
    bias: Tensor
    eps: float
    activation: nn.Module

    def again(self, hidden: Tensor) -> Tensor:
        """Return what was made of `hidden`; running statistics have moved already."""
        values = torch.empty_like(hidden)
        for piece in _pieces(hidden.shape, dim=1):
            values[:, piece] = self._of(hidden[:, piece], self.weight[piece], self.bias[piece])
        return values

    def back(self, hidden: Tensor, grad: Tensor, into: Tensor) -> tuple[Tensor, Tensor]:
        """Write the gradient of `hidden` to `into`, which may be `grad`; return those of weight and bias."""
        of_weight, of_bias = torch.empty_like(self.weight), torch.empty_like(self.bias)
        for piece in _pieces(hidden.shape, dim=1):
            inputs = hidden[:, piece], self.weight[piece], self.bias[piece]
            leaves = [each.detach().requires_grad_() for each in inputs]
            with torch.enable_grad():
                values = self._of(*leaves)
            found = torch.autograd.grad(values, leaves, grad[:, piece])
            into[:, piece], of_weight[piece], of_bias[piece] = found
        return of_weight, of_bias

    def _of(self, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        values: Tensor = self.activation(F.batch_norm(hidden, None, None, weight, bias, training=True, eps=self.eps))
        return values


def _forth(hidden: Tensor, norm: nn.BatchNorm1d, activation: nn.Module) -> Tensor:
    """Norm, which moves the running statistics, and activate in place."""
    values: Tensor = norm(hidden)
    for piece in _pieces(values.shape, dim=1):
        values[:, piece] = activation(values[:, piece])
    return values


class _NormAndActivate(Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, *given: Any) -> Tensor:
        weight, bias, norm, activation = given
        ctx.save_for_backward(hidden, weight, bias)
        ctx.norm = norm.eps, activation
        return _forth(hidden, norm, activation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = ctx.saved_tensors
        found = torch.empty_like(hidden)
        return found, *_Norm(weight, bias, *ctx.norm).back(hidden, grad, into=found), None, None


class _AddPointwise(Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, *given: Any) -> Tensor:
        norm_weight, norm_bias, weight, bias, norm, activation = given
        ctx.save_for_backward(hidden, norm_weight, norm_bias, weight)
        ctx.norm = norm.eps, activation
        values = _forth(hidden, norm, activation)
        for piece in _pieces(values.shape, dim=2):
            mixed = F.conv1d(values[..., piece], weight, bias)
            ctx.dtype = mixed.dtype  # under autocast another than the weights'
            values[..., piece] = hidden[..., piece] + mixed
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, norm_weight, norm_bias, weight = ctx.saved_tensors
        norm = _Norm(norm_weight, norm_bias, *ctx.norm)
        values = norm.again(hidden)  # the one large tensor: its gradient takes its place, and that of `hidden` then
        mixing, of_weight = weight.to(ctx.dtype), torch.zeros_like(weight) if ctx.needs_input_grad[3] else None
        for piece in _pieces(values.shape, dim=2):
            given, wanted = values[..., piece].to(ctx.dtype), grad[..., piece].to(ctx.dtype)
            if of_weight is not None:
                of_weight += conv1d_weight(given, weight.shape, wanted)
            values[..., piece] = conv1d_input(given.shape, mixing, wanted)
        of_bias = grad.sum(dim=(0, 2)) if ctx.needs_input_grad[4] else None
        of_norm = norm.back(hidden, values, into=values)
        return values.add_(grad), *of_norm, of_weight, of_bias, None, None


class _ByPairs(Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, layer: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.layer = layer
        device = hidden.device.type
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        values = hidden.new_empty(())
        for piece in _pieces(hidden.shape, dim=2):
            made = layer(hidden[..., piece], weight)
            if not piece.start:
                values = made.new_empty(*made.shape[:2], hidden.shape[2] // 2)
            values[..., piece.start // 2 : piece.stop // 2] = made
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        found, of_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        weight = weight.detach().requires_grad_()
        for piece in _pieces(hidden.shape, dim=2):
            given = hidden[..., piece].detach().requires_grad_()
            with torch.enable_grad(), torch.autocast(*ctx.autocast):
                values = ctx.layer(given, weight)
            half = slice(piece.start // 2, piece.stop // 2)
            found[..., piece], more = torch.autograd.grad(values, (given, weight), grad[..., half])
            of_weight += more
        return found, of_weight, None


def _pieces(shape: torch.Size, *, dim: int) -> Iterator[slice]:
    """Yield slices of channels (dim 1) or of positions (dim 2) of a tensor [B, C, N]."""
    step = max(1, PIECE_VALUES * shape[dim] // shape.numel())
    if dim == 2:
        step = max(POSITIONS, step // POSITIONS * POSITIONS)
    for start in range(0, shape[dim], step):
        yield slice(start, min(start + step, shape[dim]))
