"""Predict references once, and alternates by as little arithmetic as a network's layers allow.

A network whose `local` has a finite reach is patched (see patches.py). Where its context and head are a stack of layers
of finite reach too, only the bins that an edit reaches are made anew behind `local` (see narrow.py); otherwise context
and head run whole. Any other network runs whole on every alternate.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from cisray.errors import InputError
from cisray.models.layers import Network, Pyramid
from cisray.models.reach import check_geometry
from cisray.scoring import narrow
from cisray.scoring.narrow import Narrow
from cisray.scoring.passes import Frame
from cisray.scoring.patches import (
    Patched,
    Reference,
    Row,
    assemble,
    changed_bp,
    embed_patches,
    embed_unchanged,
    touched,
)
from cisray.scoring.readout import Readout
from cisray.scoring.tails import Bins, PointwiseTail, cut_bins, tail_of

REFERENCE_BP_CPU, REFERENCE_BP_GPU = 1 << 13, 1 << 18
"""Bases that a forward of references reads at most, so that short windows fill a processor and long ones fit in it."""
VALUES_AT_ONCE_CPU = 1 << 20
"""Hidden values of a layer that are followed at once on a CPU: 4 MB of float32, which its caches hold."""
SHORT_PATCHES = 16
"""Windows are at least so many times as long as patches that are made of the reference too."""
MOST_NARROW = 0.7
"""Share of all positions, as a mean over the convolutions, from which on the whole context costs no more."""


class Trunk(Protocol):
    """A way to predict references and alternates."""

    def references(self, frames: Sequence[Frame], *, reverse: bool) -> list[Reference]:
        """Predict windows."""

    def is_narrow(self, row: Row) -> bool:
        """Say whether a row's alternate differs from its reference in few enough bins to make only those anew."""

    def alternates(self, rows: Sequence[Row], bins: Bins, *, reverse: bool) -> Tensor:
        """Predict the bins that scores read, [B, n, T]; the rows are all narrow, or none is."""


class WholeTrunk:
    """Runs any network, from codes uint8 [B, L] to its outputs, whole on every window."""

    def __init__(self, network: nn.Module, readout: Readout, *, device: torch.device, precision: str) -> None:
        self.network = network
        self.readout = readout
        self.device = device
        self.precision = precision

    def references(self, frames: Sequence[Frame], *, reverse: bool) -> list[Reference]:
        """Predict windows."""
        predictions = self._predict([frame.window() for frame in frames], reverse=reverse)
        return [Reference(frame, (), values) for frame, values in zip(frames, predictions, strict=True)]

    def is_narrow(self, row: Row) -> bool:
        """Say that none is."""
        return False

    def alternates(self, rows: Sequence[Row], bins: Bins, *, reverse: bool) -> Tensor:
        """Predict the bins that scores read, [B, n, T]."""
        return cut_bins(list(self._predict([row.alternate.codes for row in rows], reverse=reverse)), bins)

    def _predict(self, windows: Sequence[np.ndarray], *, reverse: bool) -> Tensor:
        codes = torch.from_numpy(np.stack(windows)).to(self.device)
        with autocast_of(self.precision, self.device):
            if self.readout.head is None:
                outputs = self.network(codes)
            else:
                assert isinstance(self.network, Network)
                hidden = self.network.context(self.network.embed(codes))
                outputs = read_out(self.network, self.readout.head, hidden)
        return self.readout(outputs, reverse=reverse)


class PatchTrunk:
    """Runs `local` once per window and on patches, and behind it only what the layers there ask for."""

    def __init__(
        self,
        network: Network,
        readout: Readout,
        *,
        device: torch.device,
        precision: str,
        compiled_rows: tuple[int, ...] = (),
        cuda_graphs: bool = False,
    ) -> None:
        self.network = network
        self.readout = readout
        self.device = device
        self.precision = precision
        self.reaches = check_geometry(network)
        self.head = network.head if readout.head is None else readout.head
        self.tail = tail_of(self.head, crop_bins=network.crop_bins)
        self._can_be_narrow = self.tail is not None and len(self.reaches) == 1 and narrow.is_narrow(network.context)
        self.compiled_rows = compiled_rows
        """Numbers of rows that compiled code is for; others are run as they come, not to compile for every shape."""
        compiled = partial(_compiled, cuda_graphs=cuda_graphs)
        self._compiled_embed = compiled(network.embed) if compiled_rows else network.embed
        # on a CPU, attention in blocks is faster than what the compiler makes of it
        on_gpu = device.type == "cuda" and compiled_rows
        self._run_context = compiled(network.context) if on_gpu else network.context
        self._run_head = compiled(self.head) if on_gpu else self.head
        self._pays: dict[tuple[int, int], bool] = {}

    def embed(self, codes: Tensor) -> tuple[Tensor, ...]:
        """Return what `local` makes of codes uint8 [B, L], one tensor per resolution, [B, C, N] each."""
        with autocast_of(self.precision, self.device):
            embed = self._compiled_embed if len(codes) in self.compiled_rows else self.network.embed
            outputs = embed(codes.to(self.device))
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def references(self, frames: Sequence[Frame], *, reverse: bool) -> list[Reference]:
        """Predict windows, and keep what their alternates have in common with them."""
        windows = [frame.window() for frame in frames]
        windows += windows[:1] * ((self.compiled_rows[0] if self.compiled_rows else 0) - len(windows))
        outputs = self.embed(torch.from_numpy(np.stack(windows)))
        if self._is_narrow(1, outputs[0].shape[2]):
            return self._recorded(frames, outputs, reverse=reverse)
        predictions = self.readout(read_out(self.network, self._run_head, self._context(outputs)), reverse=reverse)
        return [
            Reference(frame, tuple(level[index] for level in outputs), values)
            for index, (frame, values) in enumerate(zip(frames, predictions, strict=False))  # some may fill the shape
        ]

    def _recorded(self, frames: Sequence[Frame], outputs: tuple[Tensor, ...], *, reverse: bool) -> list[Reference]:
        """Predict windows from what `local` made of them, and keep what is read beside their alternates."""
        assert self.tail is not None
        local = outputs[0][: len(frames)]
        references: list[Reference] = []
        for some in _pieces(len(local), local[0].numel(), self.device):
            kept: list[Tensor] = []
            with autocast_of(self.precision, self.device):
                hidden = narrow.record(self.network.context, local[some].mT.contiguous(), kept)
            predictions = self.readout(self.tail.record(hidden, kept), reverse=reverse)
            for index, frame in enumerate(frames[some]):
                references.append(Reference(frame, (local[some][index],), predictions[index]))
                references[-1].kept = kept, index
        return references

    def is_narrow(self, row: Row) -> bool:
        """Say whether a row's alternate differs from its reference in few enough bins to make only those anew."""
        if row.alternate.left_bp or row.alternate.right_bp or not row.reference.kept[0]:
            return False
        return self._is_narrow(changed_bp([row]), row.reference.outputs[0].shape[1])

    def alternates(self, rows: Sequence[Row], bins: Bins, *, reverse: bool) -> Tensor:
        """Predict the bins that scores read, [B, n, T]."""
        patched = embed_patches(rows, self.reaches, self.embed)
        if all(map(self.is_narrow, rows)):
            return self._narrow_alternates(rows, patched, bins, reverse=reverse)
        before = embed_unchanged(rows, self.reaches, self.embed) if _is_short(patched, rows) else [None] * len(rows)
        hidden = self._context(assemble(rows, patched, before, self.reaches, self.embed))
        if not isinstance(self.tail, PointwiseTail):
            predictions = self.readout(read_out(self.network, self._run_head, hidden), reverse=reverse)
            return cut_bins(list(predictions), bins)
        crop = self.network.crop_bins
        hidden = hidden[:, :, crop : hidden.shape[2] - crop]
        near = bins.as_read(hidden.shape[2], reverse=reverse)
        hidden = cut_bins([each.mT for each in hidden], near).mT
        return self.readout(self._run_head(_like(hidden, self.head)).mT, reverse=reverse)

    def _narrow_alternates(
        self, rows: Sequence[Row], patched: Sequence[Patched], bins: Bins, *, reverse: bool
    ) -> Tensor:
        """Follow what the patches add, in pieces of some rows that a CPU's caches hold."""
        num_bins = rows[0].reference.outputs[0].shape[1]
        width = self._touched_bins(changed_bp(rows), num_bins)
        changed = _added_by_patches(rows, patched, width)
        widest = narrow.widened(self.network.context, width, num_bins, [])
        first = rows[0].reference.predictions
        found = first.new_empty((len(rows), first.shape[1], bins.width)).mT
        for some in _pieces(len(rows), widest * changed.values.shape[2], self.device):
            kept = narrow.beside_rows([row.reference.kept for row in rows[some]])
            assert self.tail is not None
            with autocast_of(self.precision, self.device):
                through = Narrow(changed.values[some], changed.starts[some], num_bins)
                through = narrow.widen(self.network.context, through, kept)
            predictions = [row.reference.predictions for row in rows[some]]
            read = Bins(bins.starts[some], bins.width)
            self.tail.widen(through, kept, predictions, read, self.readout, found[some], reverse=reverse)
        return found

    def _context(self, outputs: tuple[Tensor, ...]) -> Tensor:
        with autocast_of(self.precision, self.device):
            hidden: Tensor = self._run_context(outputs if isinstance(self.network.local, Pyramid) else outputs[0])
        return hidden

    def _touched_bins(self, length_bp: int, num_bins: int) -> int:
        """Return the most bins that an edit of some length touches."""
        (reach,) = self.reaches
        first, stop = reach.bins_seeing(0, reach.stride_bp - 1 + length_bp)
        return min(stop - first, num_bins)

    def _is_narrow(self, length_bp: int, num_bins: int) -> bool:
        """Say whether a change of some length is worth following through context and head."""
        if not self._can_be_narrow:
            return False
        key = (length_bp, num_bins)
        if key not in self._pays:
            widths: list[int] = []
            width = narrow.widened(self.network.context, self._touched_bins(length_bp, num_bins), num_bins, widths)
            self._pays[key] = sum([*widths, width]) <= MOST_NARROW * num_bins * (len(widths) + 1)
        return self._pays[key]


def _pieces(rows: int, values: int, device: torch.device) -> Iterator[slice]:
    """Cut rows of so many hidden values into those that are computed together."""
    at_once = max(1, VALUES_AT_ONCE_CPU // values) if device.type == "cpu" else rows
    for first in range(0, rows, at_once):
        yield slice(first, min(first + at_once, rows))


def _is_short(patched: Sequence[Patched], rows: Sequence[Row]) -> bool:
    """Say whether patches cost so little beside windows that they may be made twice."""
    longest = max(made.patch.end_bp - made.patch.start_bp for made in patched)
    return longest * SHORT_PATCHES <= rows[0].reference.frame.window_bp


def _added_by_patches(rows: Sequence[Row], patched: Sequence[Patched], width: int) -> Narrow:
    """Return by how much the outputs of `local` [C, N] differ from the reference's, in runs of a width [B, W, C]."""
    num_bins = rows[0].reference.outputs[0].shape[1]
    starts, runs = [], []
    for row, made in zip(rows, patched, strict=True):
        first, stop = touched(made, 0, num_bins)
        offset = made.patch.offsets[0]
        added = made.outputs[0][:, first - offset : stop - offset] - row.reference.outputs[0][:, first:stop]
        starts.append(first)
        runs.append(F.pad(added, (0, width - added.shape[1])))
    return Narrow(torch.stack(runs).mT.contiguous(), np.array(starts), num_bins)


def _compiled(run: Callable[..., Any], *, cuda_graphs: bool) -> Callable[..., Any]:
    """Return compiled code for inputs of few shapes."""
    if not cuda_graphs:
        return torch.compile(run, dynamic=False)
    graph = torch.compile(run, dynamic=False, mode="reduce-overhead")
    # a graph writes its outputs to the same memory every time, and references are kept
    return lambda *inputs: tree_map_only(Tensor, torch.clone, graph(*inputs))


def trunk_of(
    network: nn.Module,
    readout: Readout,
    *,
    device: torch.device,
    precision: str,
    compiled_rows: tuple[int, ...],
    cuda_graphs: bool = False,
) -> PatchTrunk | WholeTrunk:
    """Choose the trunk that makes the least of a network's work."""
    how: dict[str, Any] = {"device": device, "precision": precision}
    if isinstance(network, Network):
        try:
            return PatchTrunk(network, readout, **how, compiled_rows=compiled_rows, cuda_graphs=cuda_graphs)
        except InputError:  # a layer of `local` of which nothing is known
            pass
    return WholeTrunk(network, readout, **how)


def reference_rows(batch_size: int, window_bp: int, device: torch.device) -> int:
    """Return how many windows' references are predicted at once."""
    most = REFERENCE_BP_CPU if device.type == "cpu" else REFERENCE_BP_GPU
    return max(1, min(batch_size, most // window_bp))


def read_out(network: Network, head: Callable[..., Any], hidden: Tensor) -> Any:
    """Cut the crop and run a head, in the precision of its weights, on what the context returned."""
    crop = network.crop_bins
    hidden = _like(hidden[:, :, crop : hidden.shape[2] - crop], network)
    with torch.autocast(hidden.device.type, enabled=False):
        outputs = head(hidden)
    return outputs.mT if isinstance(outputs, Tensor) else outputs


def autocast_of(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Compute in bfloat16 where asked for."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def _like(hidden: Tensor, module: nn.Module) -> Tensor:
    return hidden.to(next(module.parameters()).dtype)
