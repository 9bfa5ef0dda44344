"""Follow what a change adds, layer by layer, beside a reference that was kept.

An alternate's hidden values are the reference's plus differences, which are 0 beyond the reach of what changed. A
convolution and a norm act on differences alone, since their constants cancel: a convolution widens a run of them by its
own reach. Only an activation needs the reference's values, recorded once per window. What is small is never the
difference of two large numbers, so that an effect has as many digits as arithmetic gives. For stacks of convolutions,
residual blocks and pointwise layers, whose reach is finite; a layer that sees everything has no place here, and
`is_narrow` says so.

Hidden values stand as [B, N, C], channels last: a run of positions is then one piece of memory.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from cisray.models.basenji2018 import DenseDilated, ExponentialLinearHead
from cisray.models.bpnet import DilatedLayer
from cisray.models.heads import NamedHeads
from cisray.models.layers import DilatedResidual, Residual, TrackHead
from cisray.models.reach import POINTWISE

HEADS = TrackHead | NamedHeads | ExponentialLinearHead
"""Heads that predict each position from it alone."""
CONSTANT = nn.Identity | nn.Dropout
"""Layers that, in evaluation, do nothing."""
FEW_CHANNELS = 32
"""Below so many channels, sums over positions of one channel are faster than over channels of one position."""
VALUES_AT_ONCE = 1 << 18
"""What a product on a CPU makes at once: memory of 1 MB is used again, where more is asked of the system each time."""


class Narrow(NamedTuple):
    """How far values lie from the reference's: per row a run of positions, all of one width, and 0 beside it."""

    values: Tensor
    """[B, W, C]; 0 where a run hangs over an end of the window."""
    starts: NDArray[np.int64]
    """Per row the first of its positions, [B]; before the window's first where it is negative."""
    length: int
    """Positions of the window."""

    @property
    def width(self) -> int:
        """Positions per row."""
        return self.values.shape[1]


class Beside:
    """Values of the reference that each row of a batch belongs to."""

    def __init__(self, parts: Sequence[tuple[Tensor, Sequence[int]]]) -> None:
        self.parts = parts
        """Values of windows that were recorded together, [R, N, C], and which of them the next rows belong to."""

    def known(self, starts: NDArray[np.int64], width: int) -> Iterator[tuple[Tensor, slice]]:
        """Yield of each row's positions [start, start + width) those inside, a view [K, C], and which they are."""
        row = 0
        for values, windows in self.parts:
            length = values.shape[1]
            for window in windows:
                start = int(starts[row])
                low, high = max(0, start), max(0, start, min(length, start + width))
                yield values[window, low:high], slice(low - start, high - start)
                row += 1

    def run(self, starts: NDArray[np.int64], width: int) -> Tensor:
        """Return a copy of each row's positions [start, start + width), [B, W, C]; beyond the window any values."""
        first = self.parts[0][0]
        found = first.new_empty((len(starts), width, first.shape[2]))
        for row, (values, place) in zip(found, self.known(starts, width), strict=True):
            if len(values) < width:
                row.zero_()
            row[place] = values
        return found


def beside_rows(rows: Sequence[tuple[Sequence[Tensor], int]]) -> Iterator[Beside]:
    """Return what `widen` reads beside rows, of which each names what `record` kept and a window in it."""
    runs = [list(run) for _, run in groupby(rows, key=lambda row: id(row[0]))]
    for layer in range(len(rows[0][0])):
        yield Beside([(run[0][0][layer], [window for _, window in run]) for run in runs])


def is_narrow(layer: nn.Module) -> bool:
    """Say whether `record` and `widen` know a layer and all its parts."""
    if isinstance(layer, nn.Sequential):
        return all(is_narrow(part) for part in layer)
    if isinstance(layer, Residual | DilatedResidual):
        return is_narrow(layer.layers)
    if isinstance(layer, DenseDilated):
        return is_narrow(layer.block)
    if isinstance(layer, nn.Conv1d):
        known = layer.stride == (1,) and layer.padding_mode == "zeros" and layer.groups == 1
        return known and sum(_padding(layer)) <= _spread(layer)
    return isinstance(layer, (*POINTWISE, DilatedLayer))


def record(layer: nn.Module, hidden: Tensor, kept: list[Tensor]) -> Tensor:
    """Run a layer on reference windows [B, N, C], and keep what `widen` reads again."""
    if isinstance(layer, nn.Sequential):
        for part in layer:
            hidden = record(part, hidden, kept)
        return hidden
    if isinstance(layer, Residual | DilatedResidual):
        return hidden + record(layer.layers, hidden, kept)
    if isinstance(layer, DenseDilated):
        return torch.cat([hidden, record(layer.block, hidden, kept)], dim=2)
    if isinstance(layer, DilatedLayer):
        made = _convolve(layer.conv, hidden)
        kept.append(-made)
        return hidden[:, layer.lost : hidden.shape[1] - layer.lost] + F.relu(made)
    if isinstance(layer, nn.Conv1d):
        return _convolve(layer, hidden)
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return layer(hidden.flatten(0, 1)).view(hidden.shape)
    if not isinstance(layer, CONSTANT):
        kept.append(-hidden if isinstance(layer, nn.ReLU) else hidden)
    output: Tensor = layer(hidden)
    return output


def widen(layer: nn.Module, narrow: Narrow, kept: Iterator[Beside]) -> Narrow:
    """Run a layer on what changed; `kept` yields, in the order of `record`, what each row's reference has there."""
    if isinstance(layer, nn.Sequential):
        for part in layer:
            narrow = widen(part, narrow, kept)
        return narrow
    if isinstance(layer, Residual | DilatedResidual):
        return added(widen(layer.layers, narrow, kept), narrow)
    if isinstance(layer, DenseDilated):
        changed = widen(layer.block, narrow, kept)
        old = changed.values.new_zeros((*changed.values.shape[:2], narrow.values.shape[2]))
        old = added(changed._replace(values=old), narrow).values
        return changed._replace(values=torch.cat([old, changed.values], dim=2))
    if isinstance(layer, DilatedLayer):
        changed = widen(layer.conv, narrow, kept)
        changed = _rectified(changed, next(kept))
        length = narrow.length - 2 * layer.lost
        return _inside(added(changed, narrow._replace(starts=narrow.starts - layer.lost, length=length)))
    if isinstance(layer, nn.Conv1d):
        return _widened_by(layer, narrow)
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return narrow._replace(values=narrow.values * _scale(layer))
    if isinstance(layer, CONSTANT):
        return narrow
    return (_rectified if isinstance(layer, nn.ReLU) else partial(_activated, layer))(narrow, next(kept))


def widened(layer: nn.Module, width: int, length: int, widths: list[int]) -> int:
    """Return how many positions of `length` change where `width` did, and note that of every convolution."""
    if isinstance(layer, nn.Sequential):
        for part in layer:
            width = widened(part, width, length, widths)
        return width
    inner = getattr(layer, "layers", None) or getattr(layer, "block", None) or getattr(layer, "conv", None)
    if isinstance(inner, nn.Module):
        return widened(inner, width, length, widths)
    if isinstance(layer, nn.Conv1d):
        width = min(length, width + _spread(layer))
        widths.append(width)
    return width


def added(target: Narrow, run: Narrow) -> Narrow:
    """Add a run to the values of another, in place; what lies beside that one is left out."""
    offsets = run.starts - target.starts
    offset = int(offsets[0])
    if 0 <= offset <= target.width - run.width and (offsets == offset).all():
        target.values[:, offset : offset + run.width] += run.values
        return target
    for row, offset in enumerate(offsets.tolist()):
        low, high = max(0, offset), min(target.width, offset + run.width)
        if low < high:
            target.values[row, low:high] += run.values[row, low - offset : high - offset]
    return target


def reads_neighbours(layer: nn.Module) -> bool:
    """Say whether a layer that `is_narrow` knows reads more than one position to make one."""
    return any(_spread(part) > 0 for part in layer.modules())


def _activated(activation: Callable[[Tensor], Tensor], narrow: Narrow, beside: Beside) -> Narrow:
    """Return what an activation makes of differences: f(reference + difference) - f(reference)."""
    reference = beside.run(narrow.starts, narrow.width)
    whole = torch.promote_types(torch.promote_types(reference.dtype, narrow.values.dtype), torch.float32)
    reference = reference.to(whole)
    return _inside(narrow._replace(values=activation(reference + narrow.values) - activation(reference)))


def _rectified(narrow: Narrow, beside: Beside) -> Narrow:
    """Return what ReLU makes of differences d beside the reference r, without rounding: max(d, -r) - max(-r, 0).

    Kept is -r, and read where it stands: half of what a small network is followed by is the traffic of memory.
    """
    dtype = torch.promote_types(beside.parts[0][0].dtype, narrow.values.dtype)
    whole = torch.promote_types(dtype, torch.float32)
    values = narrow.values.to(whole)
    found = torch.zeros_like(values) if _hangs_over(narrow).any() else torch.empty_like(values)
    for row, changed, (negative, place) in zip(found, values, beside.known(narrow.starts, narrow.width), strict=True):
        negative = negative.to(whole)
        torch.maximum(changed[place], negative, out=row[place])
        row[place] -= negative.clamp(min=0)
    return _inside(narrow._replace(values=found))


def _widened_by(conv: nn.Conv1d, narrow: Narrow) -> Narrow:
    """Convolve differences; a product of all taps at once, then a sum of what each gives, moved by its place."""
    spread, before = _spread(conv), _padding(conv)[0]
    width, taps = narrow.width, conv.kernel_size[0]
    length = narrow.length + sum(_padding(conv)) - spread
    starts = narrow.starts + before - spread
    weight = conv.weight.permute(2, 0, 1).flatten(0, 1)  # [taps * C_out, C_in]
    if taps == 1:
        return Narrow(F.linear(narrow.values, weight), starts, length)
    whole = torch.promote_types(narrow.values.dtype, torch.float32)
    if conv.out_channels < FEW_CHANNELS and narrow.values.device.type == "cpu" and narrow.values.dtype == whole:
        return _inside(Narrow(_summed_along(narrow.values, weight, conv), starts, length))
    values = narrow.values.new_empty((len(starts), width + spread, conv.out_channels), dtype=whole)
    values[:, :spread] = 0
    at_once = max(1, VALUES_AT_ONCE // (width * len(weight))) if values.device.type == "cpu" else len(starts)
    for first in range(0, len(starts), at_once):
        rows = slice(first, first + at_once)
        made = F.linear(narrow.values[rows], weight).unflatten(2, (taps, -1))
        values[rows, spread:] = made[:, :, 0]
        for tap in range(1, taps):
            place = spread - tap * conv.dilation[0]
            values[rows, place : place + width] += made[:, :, tap]
    return _inside(Narrow(values, starts, length))


def _summed_along(read: Tensor, weight: Tensor, conv: nn.Conv1d) -> Tensor:
    """Convolve rows [B, W, C_in] to [B, W + spread, C_out], few channels by many taps, in one sum per row.

    What the taps give, [taps, C_out, W], stands between zeros as wide as the spread. Read with a step more from tap to
    tap, it lies where it belongs.
    """
    width, taps, spread = read.shape[1], conv.kernel_size[0], _spread(conv)
    padded = width + 2 * spread
    made = read.new_zeros((len(weight), padded))
    steps = (conv.out_channels * padded + conv.dilation[0], padded, 1)
    moved = made.as_strided((taps, conv.out_channels, width + spread), steps)
    values = read.new_empty((len(read), conv.out_channels, width + spread))
    for row, run in enumerate(read):
        torch.mm(weight, run.T, out=made[:, spread : spread + width])
        torch.sum(moved, dim=0, out=values[row])
    return values.mT


def _inside(narrow: Narrow) -> Narrow:
    """Put 0 where runs hang over the window, in place; cut runs that are wider than it to the window."""
    if narrow.width > narrow.length:
        values = narrow.values.new_zeros((len(narrow.starts), narrow.length, narrow.values.shape[2]))
        return added(Narrow(values, np.zeros_like(narrow.starts), narrow.length), narrow)
    for row in np.flatnonzero(_hangs_over(narrow)).tolist():
        start = int(narrow.starts[row])
        narrow.values[row, : max(0, -start)] = 0
        narrow.values[row, max(0, narrow.length - start) :] = 0
    return narrow


def _hangs_over(narrow: Narrow) -> NDArray[np.bool_]:
    """Say which runs hang over an end of the window, [B]."""
    return (narrow.starts < 0) | (narrow.starts + narrow.width > narrow.length)


def _convolve(conv: nn.Conv1d, hidden: Tensor) -> Tensor:
    """Convolve whole windows [B, N, C]; in two dimensions, of which torch knows channels that come last."""
    before, after = _padding(conv)
    if before != after:
        hidden, before = F.pad(hidden, (0, 0, before, after)), 0
    images, weight = hidden.mT[:, :, None], conv.weight[:, :, None]
    made = F.conv2d(images, weight, conv.bias, padding=(0, before), dilation=(1, conv.dilation[0]))
    return made[:, :, 0].mT.contiguous()


def _scale(norm: nn.modules.batchnorm._BatchNorm) -> Tensor:
    """Return what a norm multiplies each channel by in evaluation, [C]."""
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    return scale if norm.weight is None else scale * norm.weight


def _spread(layer: nn.Module) -> int:
    """Return how many positions beside one a convolution reads."""
    return layer.dilation[0] * (layer.kernel_size[0] - 1) if isinstance(layer, nn.Conv1d) else 0


def _padding(conv: nn.Conv1d) -> tuple[int, int]:
    if conv.padding == "valid":
        return 0, 0
    if conv.padding == "same":
        spread = _spread(conv)
        return spread // 2, spread - spread // 2
    assert not isinstance(conv.padding, str)
    return conv.padding[0], conv.padding[0]
