"""How far a base reaches into `local`: derived from the layers, proven on random variants, and used to patch outputs.

An output of `local` at bin i sees the bases [i * stride_bp + start_bp, i * stride_bp + end_bp) of its window and no
others. A variant therefore changes a few bins, which are made anew from a short patch of sequence and put in their
place among the reference's. An architecture may have outputs at several resolutions; a patch then begins at a multiple
of the coarsest stride, and each output has bins of its own that are replaced.
"""

import copy
import functools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cisray.errors import InputError
from cisray.models.layers import (
    AttentionPool,
    DilatedResidual,
    MaxPool,
    Network,
    Pyramid,
    Residual,
    SigmoidGELU,
    one_hot,
)

# Layers that turn each position into one, whatever stands beside it (batch norms do so in evaluation).
POINTWISE = (
    *(nn.Identity, nn.Dropout, nn.ReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.LeakyReLU),
    *(SigmoidGELU, nn.modules.batchnorm._BatchNorm),
)


class Reach(NamedTuple):
    """What an output sees: at bin i the bases [i * stride_bp + start_bp, i * stride_bp + end_bp) of the window."""

    stride_bp: int = 1
    start_bp: int = 0
    end_bp: int = 1

    def bins_seeing(self, start_bp: int, end_bp: int) -> tuple[int, int]:
        """Return the bins [first, stop) that see any of the bases [start_bp, end_bp)."""
        first = (start_bp - self.end_bp) // self.stride_bp + 1
        stop = -((self.start_bp - end_bp) // self.stride_bp)
        return first, stop

    def bases_seen(self, first: int, stop: int) -> tuple[int, int]:
        """Return the bases [start_bp, end_bp) that the bins [first, stop) see."""
        return first * self.stride_bp + self.start_bp, (stop - 1) * self.stride_bp + self.end_bp


class Patch(NamedTuple):
    """A piece of a window from which the bins that a change touches are made anew."""

    start_bp: int
    """First base of the patch in its window; a multiple of the coarsest stride."""
    end_bp: int
    bins: tuple[tuple[int, int], ...]
    """Per output of `local`, the bins [first, stop) of the window that are replaced."""
    offsets: tuple[int, ...]
    """Per output, the bin of the window at which the patch begins."""


def reach_of(local: nn.Module) -> tuple[Reach, ...]:
    """Derive what each output of `local` sees from its layers, finest resolution first.

    Raises:
        InputError: a layer has no rule here, or joins branches of different strides.
    """
    if isinstance(local, Pyramid):
        reach, reaches = Reach(), []
        for stage, side in zip(local.stages, local.sides, strict=True):
            reach = _through(stage, reach)
            reaches.append(_through(side, reach))
        return tuple(reaches)
    return (_through(local, Reach()),)


def _through(layer: nn.Module, reach: Reach) -> Reach:
    """Return what the outputs of a layer see, whose inputs see `reach`."""
    if isinstance(layer, nn.Sequential):
        for part in layer:
            reach = _through(part, reach)
        return reach
    if isinstance(layer, Residual | DilatedResidual):
        return _joined(layer, reach, _through(layer.layers, reach))
    branches = getattr(layer, "branches", None)
    if isinstance(branches, nn.ModuleList):  # side by side, or added
        return functools.reduce(functools.partial(_joined, layer), [_through(branch, reach) for branch in branches])
    if isinstance(layer, POINTWISE):
        return reach
    if isinstance(layer, nn.Conv1d):
        width, dilation, stride = layer.kernel_size[0], layer.dilation[0], layer.stride[0]
        spread = dilation * (width - 1)
        before = (
            {"same": spread // 2, "valid": 0}[layer.padding] if isinstance(layer.padding, str) else layer.padding[0]
        )
        return _window(reach, before=before, width=spread + 1, stride=stride)
    if isinstance(layer, nn.ConstantPad1d):
        return _window(reach, before=layer.padding[0], width=1, stride=1)
    if isinstance(layer, AttentionPool):
        return _window(reach, before=0, width=2, stride=2)
    if isinstance(layer, MaxPool):
        return _window(reach, before=0, width=layer.pool, stride=layer.pool)
    if isinstance(layer, nn.MaxPool1d | nn.AvgPool1d):
        width, stride, before = (
            size[0] if isinstance(size, tuple) else size for size in (layer.kernel_size, layer.stride, layer.padding)
        )
        return _window(reach, before=before, width=width, stride=stride)
    raise InputError(
        f"{type(layer).__name__}: no rule says how far this layer of `local` reaches; build `local` from convolutions, "
        "pools, norms, activations, Residual and Pyramid, or add a rule to cisray.models.reach"
    )


def _window(reach: Reach, *, before: int, width: int, stride: int) -> Reach:
    """Return what outputs see that each read `width` positions, the first of them `before` positions to the left."""
    start_bp = reach.start_bp - before * reach.stride_bp
    return Reach(
        reach.stride_bp * stride, start_bp, start_bp + reach.end_bp - reach.start_bp + (width - 1) * reach.stride_bp
    )


def _joined(layer: nn.Module, one: Reach, other: Reach) -> Reach:
    """Return what two branches of a layer see together."""
    if one.stride_bp != other.stride_bp:
        raise InputError(
            f"{type(layer).__name__}: joins positions of {one.stride_bp} bp with positions of {other.stride_bp} bp; "
            "wanted branches of one stride"
        )
    return Reach(one.stride_bp, min(one.start_bp, other.start_bp), max(one.end_bp, other.end_bp))


def patch_bp(reaches: tuple[Reach, ...], *, changed_bp: int = 1) -> int:
    """Return the length of a patch for a change of so many bases, the same wherever in a bin the change lies."""
    start_bp, end_bp = _needed(reaches, changed_bp=changed_bp)
    return end_bp - start_bp


def _needed(reaches: tuple[Reach, ...], *, changed_bp: int) -> tuple[int, int]:
    """Return the bases that all touched bins see, around a change in the first bin, in whole coarsest bins."""
    coarsest = max(reach.stride_bp for reach in reaches)
    starts, ends = [], []
    for reach in reaches:
        first, stop = reach.bins_seeing(0, coarsest - 1 + changed_bp)
        start_bp, end_bp = reach.bases_seen(first, stop)
        starts.append(start_bp // coarsest * coarsest)
        ends.append(-(-end_bp // coarsest) * coarsest)
    return min(starts), max(ends)


def patch_around(reaches: tuple[Reach, ...], position: int, *, window_bp: int, changed_bp: int = 1) -> Patch:
    """Place the patch for a change of the bases [position, position + changed_bp) of a window.

    At an end of the window the patch moves inwards, so that padding stands only where the window has it. All patches
    are of one length, but in a window shorter than that, and at the end of one that the coarsest bins do not fill.
    """
    if not 0 <= position <= window_bp - changed_bp:
        raise InputError(
            f"a change of {changed_bp} bp at {position} in a window of {window_bp} bp; wanted one inside the window"
        )
    coarsest = max(reach.stride_bp for reach in reaches)
    needed_from, needed_to = _needed(reaches, changed_bp=changed_bp)
    length = needed_to - needed_from
    last = -(-max(0, window_bp - length) // coarsest) * coarsest  # from here a patch reaches the window's end
    start_bp = min(max(0, position // coarsest * coarsest + needed_from), last)
    touched = (reach.bins_seeing(position, position + changed_bp) for reach in reaches)
    bins = tuple((max(0, first), stop) for first, stop in touched)
    return Patch(
        start_bp, min(start_bp + length, window_bp), bins, tuple(start_bp // reach.stride_bp for reach in reaches)
    )


def splice(
    reference: Tensor | tuple[Tensor, ...], patched: Tensor | tuple[Tensor, ...], patch: Patch
) -> Tensor | tuple[Tensor, ...]:
    """Put the touched bins of a patch's `local` outputs into a copy of the reference window's, [B, C, N] each."""
    outputs = []
    for whole, part, (first, stop), offset in zip(
        _several(reference), _several(patched), patch.bins, patch.offsets, strict=True
    ):
        stop = min(stop, whole.shape[-1])
        whole = whole.expand(len(part), -1, -1).clone()
        whole[..., first:stop] = part[..., first - offset : stop - offset]
        outputs.append(whole)
    return tuple(outputs) if isinstance(reference, tuple) else outputs[0]


def _several(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


@torch.no_grad()
def check_geometry(network: Network, *, seed: int = 0) -> tuple[Reach, ...]:
    """Derive the reach of `local` and prove it, in float64 on the CPU, on random sequence and single-base variants.

    Outputs beyond the reach of a variant must be bit-equal, and those of a sequence moved by the coarsest stride must
    be the same ones moved by its bins, away from the ends.

    Raises:
        InputError: the layers see more than the derived reach, or do not move with the sequence.
    """
    reaches = reach_of(network.local)
    coarsest = max(reach.stride_bp for reach in reaches)
    local = copy.deepcopy(network.local).cpu().double().eval()
    window_bp = patch_bp(reaches) + 2 * coarsest
    random = torch.Generator().manual_seed(seed)
    codes = torch.randint(4, (1, window_bp + coarsest), generator=random, dtype=torch.uint8)

    def outputs_of(codes: Tensor) -> tuple[Tensor, ...]:
        return _several(local(one_hot(codes, torch.float64)))

    original, moved = outputs_of(codes[:, :window_bp]), outputs_of(codes[:, coarsest:])
    for position in torch.randint(window_bp, (2,), generator=random).tolist():
        changed = codes[:, :window_bp].clone()
        changed[0, position] = (changed[0, position] + 1) % 4
        for before, after, reach in zip(original, outputs_of(changed), reaches, strict=True):
            first, stop = reach.bins_seeing(position, position + 1)
            touched = (before != after).any(dim=1)[0].nonzero()[:, 0]
            if ((touched < first) | (touched >= stop)).any():
                raise InputError(
                    f"a variant at {position} changes bins {touched.tolist()} of `local`, whose layers should reach "
                    f"bins {first} to {stop - 1} only; such a network cannot be patched"
                )
    _check_movement(original, moved, reaches, window_bp=window_bp)
    return reaches


def _check_movement(
    original: tuple[Tensor, ...], moved: tuple[Tensor, ...], reaches: tuple[Reach, ...], *, window_bp: int
) -> None:
    """Raise InputError where outputs of a sequence moved by the coarsest stride are not the original ones, moved."""
    coarsest = max(reach.stride_bp for reach in reaches)
    for before, after, reach in zip(original, moved, reaches, strict=True):
        steps = coarsest // reach.stride_bp
        first = -(reach.start_bp // reach.stride_bp)  # from here no bin sees beyond the window's start
        stop = (window_bp - reach.end_bp) // reach.stride_bp + 1 - steps
        expected, found = before[..., first + steps : stop + steps], after[..., first:stop]
        assert expected.shape[2] == stop - first > 0
        if not torch.allclose(expected, found, rtol=1e-9, atol=1e-9 * float(before.abs().max())):
            raise InputError(
                f"`local` does not move with the sequence: a shift of {coarsest} bp is not one of {steps} bins of "
                f"{reach.stride_bp} bp; such a network cannot be patched"
            )
