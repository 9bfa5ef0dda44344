"""From stored rows to what a network sees: cut the margin, shift, and read the other strand, per example."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cisray.genome.sequence import UNKNOWN


class Batch(NamedTuple):
    """Examples of one dataset."""

    codes: Tensor
    """uint8 [B, L + 2 margin]"""
    targets: Tensor
    """float32 [B, N, T]"""
    head: str | None = None
    """The head that predicts these targets, of a network that has several."""

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        return self._replace(
            codes=self.codes.to(device, non_blocking=True), targets=self.targets.to(device, non_blocking=True)
        )

    def split(self, size: int) -> list["Batch"]:
        """Cut into batches of `size` examples, the last one smaller."""
        parts = zip(self.codes.split(size), self.targets.split(size), strict=True)
        return [Batch(codes, targets, self.head) for codes, targets in parts]


def one_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches on the device, the next of which is on its way before the one before it is used.

    A GPU copies it from pinned memory while it computes. A CPU computes where the batch already is.
    """
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    copying = torch.cuda.Stream(device)
    ready: Batch | None = None
    for batch in batches:
        computing = torch.cuda.current_stream(device)
        if ready is not None:
            computing.wait_stream(copying)  # before the next copy is queued, which need not be waited for
        with torch.cuda.stream(copying):
            pinned = batch._replace(codes=batch.codes.pin_memory(), targets=batch.targets.pin_memory())
            coming = pinned.to(device)
        if ready is not None:
            yield _handed_over(ready, computing)
        ready = coming
    if ready is not None:
        torch.cuda.current_stream(device).wait_stream(copying)
        yield _handed_over(ready, torch.cuda.current_stream(device))


def _handed_over(batch: Batch, stream: torch.cuda.Stream) -> Batch:
    """Tell the allocator that a batch made on one stream is used on another."""
    batch.codes.record_stream(stream)
    batch.targets.record_stream(stream)
    return batch


def reverse_complement(codes: Tensor) -> Tensor:
    """Read codes uint8 [B, L] on the other strand; N stays N."""
    flipped = codes.flip(-1)
    return torch.where(flipped < UNKNOWN, 3 - flipped, flipped)


def swap_strands(values: Tensor, swap: Tensor) -> Tensor:
    """Read targets or predictions [B, N, T] on the other strand: bins run backwards, paired tracks change places."""
    return values.flip(1)[:, :, swap]


def cut_windows(codes: Tensor, *, margin_bp: int, shifts: Tensor | None = None) -> Tensor:
    """Cut windows [B, L] out of codes with margins [B, L + 2 margin], each moved by its own shift in bases [B]."""
    if margin_bp == 0:
        return codes
    if shifts is None:
        return codes[:, margin_bp : codes.shape[1] - margin_bp]
    window = torch.arange(codes.shape[1] - 2 * margin_bp, device=codes.device)
    return codes.gather(1, window[None, :] + margin_bp + shifts[:, None].to(codes.device))


def augment(
    codes: Tensor,
    targets: Tensor,
    *,
    margin_bp: int,
    shift_bp: int,
    swap: Tensor | None,
    random: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Shift every example by up to `shift_bp` and read every second one, at random, on the other strand.

    Args:
        codes: uint8 [B, L + 2 margin].
        targets: [B, N, T]; they stay where they are when the sequence shifts, as in Basenji.
        margin_bp: bases stored beyond each end of the window.
        shift_bp: largest shift either way; at most the margin.
        swap: for each track its partner on the other strand, [T]; None leaves all examples on their strand.
        random: source of the draws, on the CPU, so that they do not depend on the device.

    Returns:
        codes [B, L] and targets [B, N, T].
    """
    shifts = torch.randint(-shift_bp, shift_bp + 1, (len(codes),), generator=random) if shift_bp else None
    codes = cut_windows(codes, margin_bp=margin_bp, shifts=shifts)
    if swap is None:
        return codes, targets
    turned = (torch.rand(len(codes), generator=random) < 0.5).to(codes.device)
    codes = torch.where(turned[:, None], reverse_complement(codes), codes)
    targets = torch.where(turned[:, None, None], swap_strands(targets, swap.to(targets.device)), targets)
    return codes, targets
