"""Predict from hidden values that changed in a few bins: heads whose other predictions stay, or change alike."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cisray.models.bpnet import ProfileHead
from cisray.models.outputs import ProfileAndCount
from cisray.scoring import narrow
from cisray.scoring.narrow import Beside, Narrow
from cisray.scoring.readout import Readout


class Bins(NamedTuple):
    """The output bins [start, start + width) that scores read, per row, on the forward strand."""

    starts: list[int]
    width: int

    def as_read(self, num_bins: int, *, reverse: bool) -> "Bins":
        """Return the same bins as the network counts them."""
        return Bins([num_bins - start - self.width for start in self.starts], self.width) if reverse else self


def cut_bins(values: Sequence[Tensor], bins: Bins) -> Tensor:
    """Return each row's bins of values [N, T], [B, n, T]: a view where all rows read the same of one tensor."""
    first, start = values[0], bins.starts[0]
    if all(each is first for each in values) and all(each == start for each in bins.starts):
        return first[start : start + bins.width].expand(len(values), -1, -1)
    cut = [each.mT[:, begin : begin + bins.width] for each, begin in zip(values, bins.starts, strict=True)]
    return torch.stack(cut).mT


class PointwiseTail:
    """A head that predicts each bin from it alone."""

    def __init__(self, head: nn.Module, *, crop_bins: int) -> None:
        self.head = head
        self.crop_bins = crop_bins

    def record(self, hidden: Tensor, kept: list[Tensor]) -> Any:
        """Run the head on reference windows [B, N, C], and keep what `widen` reads again."""
        hidden = hidden[:, self.crop_bins : hidden.shape[1] - self.crop_bins]
        kept.append(hidden)
        return self._outputs(hidden)

    def widen(
        self,
        changed: Narrow,
        kept: Iterator[Beside],
        predictions: Sequence[Tensor],
        bins: Bins,
        readout: Readout,
        found: Tensor,
        *,
        reverse: bool,
    ) -> None:
        """Predict into `found` [B, n, T] the bins that scores read: what changed anew, the rest as the reference's."""
        length = changed.length - 2 * self.crop_bins
        changed = Narrow(changed.values, changed.starts - self.crop_bins, length)
        read = bins.as_read(length, reverse=reverse)
        firsts, width = np.array(read.starts), min(changed.width, bins.width)
        starts = np.clip(changed.starts, firsts, firsts + bins.width - width)
        hidden = next(kept).run(starts, width).to(changed.values.dtype)
        made = readout(self._outputs(narrow.added(Narrow(hidden, starts, length), changed).values), reverse=reverse)
        if width == bins.width:
            found.copy_(made)
            return
        for row, first in enumerate((starts - firsts).tolist()):
            found[row] = predictions[row][bins.starts[row] : bins.starts[row] + bins.width]
            offset = bins.width - first - width if reverse else first
            found[row, offset : offset + width] = made[row]

    def _outputs(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            outputs: Tensor = self.head(hidden.mT.to(next(self.head.parameters()).dtype))
        return outputs.mT


class ProfileTail:
    """A convolution for the profile, whose softmax is over the window, and a mean over the window for the count."""

    def __init__(self, head: ProfileHead) -> None:
        self.head = head

    def record(self, hidden: Tensor, kept: list[Tensor]) -> ProfileAndCount:
        """Run the head on reference windows [B, N, C], and keep what `widen` reads again."""
        hidden = hidden.to(self.head.counts.weight.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            profile = self._cropped(narrow.record(self.head.profile, hidden, []))
            log_counts = self.head.counts(hidden.mean(dim=1))
        kept += [profile, log_counts[:, None]]
        return ProfileAndCount(profile, log_counts)

    def widen(
        self,
        changed: Narrow,
        kept: Iterator[Beside],
        predictions: Sequence[Tensor],
        bins: Bins,
        readout: Readout,
        found: Tensor,
        *,
        reverse: bool,
    ) -> None:
        """Predict into `found` [B, n, T] the bins that scores read."""
        head, length = self.head, self.head.num_bins
        values = changed.values.to(head.counts.weight.dtype)
        zeros = np.zeros_like(changed.starts)
        with torch.autocast(values.device.type, enabled=False):
            added_counts = F.linear(values.sum(dim=1) / changed.length, head.counts.weight)
            logits = narrow.widen(head.profile, changed._replace(values=values), iter(()))
        crop = (logits.length - length) // 2
        profile = narrow.added(
            Narrow(next(kept).run(zeros, length).to(readout.dtype), zeros, length),
            Narrow(logits.values, logits.starts - crop, length),
        )
        log_counts = next(kept).run(zeros, 1)[:, 0].to(readout.dtype) + added_counts
        made = readout(ProfileAndCount(profile.values, log_counts), reverse=reverse)
        found.copy_(cut_bins(list(made), bins))

    def _cropped(self, profile: Tensor) -> Tensor:
        crop = (profile.shape[1] - self.head.num_bins) // 2
        return profile[:, crop : crop + self.head.num_bins]


def tail_of(head: nn.Module, *, crop_bins: int) -> PointwiseTail | ProfileTail | None:
    """Return how a head predicts from few bins; None where each of its predictions reads all of them."""
    if isinstance(head, ProfileHead):
        return ProfileTail(head)
    pointwise = isinstance(head, narrow.HEADS) or (narrow.is_narrow(head) and not narrow.reads_neighbours(head))
    return PointwiseTail(head, crop_bins=crop_bins) if pointwise else None
