"""Make anew only the positions that a change reaches, layer by layer, beside a reference that was kept.

A layer that reads neighbours widens the positions that changed by its own reach; what stands around them is read from
the reference's hidden values, recorded once per window. For stacks of convolutions, residual blocks and pointwise
layers, whose reach is finite; a layer that sees everything has no place here, and `is_narrow` says so.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cisray.models.basenji2018 import DenseDilated, ExponentialLinearHead
from cisray.models.bpnet import DilatedLayer
from cisray.models.heads import NamedHeads
from cisray.models.layers import DilatedResidual, Residual, TrackHead
from cisray.models.reach import POINTWISE

HEADS = TrackHead | NamedHeads | ExponentialLinearHead
"""Heads that predict each position from it alone."""


class Narrow(NamedTuple):
    """Values that may differ from the reference's: per row a run of positions, all of one width."""

    values: Tensor
    """[B, C, W]"""
    starts: list[int]
    """Per row the first of its positions; all lie inside the window."""

    @property
    def width(self) -> int:
        """Positions per row."""
        return self.values.shape[2]


def is_narrow(layer: nn.Module) -> bool:
    """Say whether `record` and `widen` know a layer and all its parts."""
    if isinstance(layer, nn.Sequential):
        return all(is_narrow(part) for part in layer)
    if isinstance(layer, Residual | DilatedResidual):
        return is_narrow(layer.layers)
    if isinstance(layer, DenseDilated):
        return is_narrow(layer.block)
    if isinstance(layer, nn.Conv1d):
        return layer.stride == (1,) and layer.padding_mode == "zeros" and sum(_padding(layer)) <= _spread(layer)
    return isinstance(layer, (*POINTWISE, DilatedLayer))


def record(layer: nn.Module, hidden: Tensor, kept: list[Tensor]) -> Tensor:
    """Run a layer on reference windows [B, C, N], and keep what `widen` reads again."""
    if isinstance(layer, nn.Sequential):
        for part in layer:
            hidden = record(part, hidden, kept)
        return hidden
    if isinstance(layer, Residual | DilatedResidual):
        kept.append(hidden)
        return hidden + record(layer.layers, hidden, kept)
    if isinstance(layer, DenseDilated):
        kept.append(hidden)
        return torch.cat([hidden, record(layer.block, hidden, kept)], dim=1)
    if isinstance(layer, DilatedLayer):
        padded = _padded(layer.conv, hidden)
        kept.append(padded)
        reach = layer.conv.dilation[0]
        return padded[:, :, reach : padded.shape[2] - reach] + F.relu(_unpadded(layer.conv, padded))
    if _spread(layer):
        assert isinstance(layer, nn.Conv1d)
        padded = _padded(layer, hidden)
        kept.append(padded)
        return _unpadded(layer, padded)
    output: Tensor = layer(hidden)
    return output


def widen(layer: nn.Module, narrow: Narrow, kept: Iterator[Sequence[Tensor]]) -> Narrow:
    """Run a layer on what changed; `kept` yields, in the order of `record`, each row's own reference values [C, N]."""
    if isinstance(layer, nn.Sequential):
        for part in layer:
            narrow = widen(part, narrow, kept)
        return narrow
    if isinstance(layer, Residual | DilatedResidual):
        beside = next(kept)
        changed = widen(layer.layers, narrow, kept)
        return Narrow(inlaid(beside, changed.starts, changed.width, narrow).add_(changed.values), changed.starts)
    if isinstance(layer, DenseDilated):
        beside = next(kept)
        changed = widen(layer.block, narrow, kept)
        both = [inlaid(beside, changed.starts, changed.width, narrow), changed.values]
        return Narrow(torch.cat(both, dim=1), changed.starts)
    if isinstance(layer, DilatedLayer):
        read, starts = _read(layer.conv, narrow, next(kept))
        reach = layer.conv.dilation[0]
        values = F.relu_(_unpadded(layer.conv, read)).add_(read[:, :, reach : read.shape[2] - reach])
        return Narrow(values, starts)
    if _spread(layer):
        assert isinstance(layer, nn.Conv1d)
        read, starts = _read(layer, narrow, next(kept))
        return Narrow(_unpadded(layer, read), starts)
    return Narrow(layer(narrow.values), narrow.starts)


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


def inlaid(references: Sequence[Tensor], starts: Sequence[int], width: int, narrow: Narrow, *, lead: int = 0) -> Tensor:
    """Return the references' positions [start, start + width) per row, [B, C, W], with what changed put in its place.

    `references` [C, N] per row begin `lead` positions before those that `narrow` counts.
    """
    values = torch.stack([each[:, start : start + width] for each, start in zip(references, starts, strict=True)])
    for row, (start, begin) in enumerate(zip(starts, narrow.starts, strict=True)):
        begin += lead - start
        low, high = max(0, begin), min(width, begin + narrow.width)
        if low < high:
            values[row, :, low:high] = narrow.values[row, :, low - begin : high - begin]
    return values


def reads_neighbours(layer: nn.Module) -> bool:
    """Say whether a layer that `is_narrow` knows reads more than one position to make one."""
    return any(_spread(part) > 0 for part in layer.modules())


def _read(conv: nn.Conv1d, narrow: Narrow, padded: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """Return what a convolution reads, [B, C, W + spread], to make the positions that change, and where they begin."""
    spread = _spread(conv)
    length = padded[0].shape[1] - spread  # positions that come out
    width = min(length, narrow.width + spread)
    lead = _padding(conv)[0]
    starts = [max(0, min(start + lead - spread, length - width)) for start in narrow.starts]
    return inlaid(padded, starts, width + spread, narrow, lead=lead), starts


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


def _padded(conv: nn.Conv1d, hidden: Tensor) -> Tensor:
    return F.pad(hidden, _padding(conv))


def _unpadded(conv: nn.Conv1d, padded: Tensor) -> Tensor:
    """Convolve what has its padding already."""
    return F.conv1d(padded, conv.weight, conv.bias, dilation=conv.dilation, groups=conv.groups)
