"""Predict from hidden values that changed in a few bins: heads whose other predictions stay, or change alike."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cisray.models.bpnet import ProfileHead
from cisray.models.outputs import ProfileAndCount
from cisray.scoring import narrow
from cisray.scoring.narrow import Narrow
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
        """Run the head on reference windows [B, C, N], and keep what `widen` reads again."""
        hidden = hidden[:, :, self.crop_bins : hidden.shape[2] - self.crop_bins]
        kept.append(hidden)
        return self._outputs(hidden)

    def widen(
        self,
        changed: Narrow,
        kept: Iterator[Sequence[Tensor]],
        predictions: Sequence[Tensor],
        bins: Bins,
        readout: Readout,
        *,
        reverse: bool,
    ) -> Tensor:
        """Predict the bins that scores read, [B, n, T]: those that changed anew, the others as the reference's."""
        hidden = next(kept)
        read = bins.as_read(hidden[0].shape[1], reverse=reverse)
        begins = [start - self.crop_bins for start in changed.starts]
        width = min(changed.width, bins.width)
        starts = [
            max(start, min(begin, start + bins.width - width)) for begin, start in zip(begins, read.starts, strict=True)
        ]
        values = narrow.inlaid(hidden, starts, width, Narrow(changed.values, begins))
        made = readout(self._outputs(values), reverse=reverse)
        if width == bins.width:
            return made
        whole = torch.stack(
            [each.mT[:, start : start + bins.width] for each, start in zip(predictions, bins.starts, strict=True)]
        ).mT
        for row, (start, origin) in enumerate(zip(starts, read.starts, strict=True)):
            offset = bins.width - (start - origin) - width if reverse else start - origin
            whole[row, offset : offset + width] = made[row]
        return whole

    def _outputs(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            outputs: Tensor = self.head(hidden.to(next(self.head.parameters()).dtype))
        return outputs.mT


class ProfileTail:
    """A convolution for the profile, whose softmax is over the window, and a mean over the window for the count."""

    def __init__(self, head: ProfileHead) -> None:
        self.head = head

    def record(self, hidden: Tensor, kept: list[Tensor]) -> ProfileAndCount:
        """Run the head on reference windows [B, C, N], and keep what `widen` reads again."""
        hidden = hidden.to(self.head.counts.weight.dtype)
        mean = hidden.mean(dim=2, keepdim=True)
        kept += [hidden, mean]
        profile = narrow.record(self.head.profile, hidden, kept)
        kept.append(profile)
        return self._outputs(profile, mean)

    def widen(
        self,
        changed: Narrow,
        kept: Iterator[Sequence[Tensor]],
        predictions: Sequence[Tensor],
        bins: Bins,
        readout: Readout,
        *,
        reverse: bool,
    ) -> Tensor:
        """Predict the bins that scores read, [B, n, T]."""
        hidden, means = next(kept), next(kept)
        changed = Narrow(changed.values.to(hidden[0].dtype), changed.starts)
        nothing = Narrow(changed.values[:, :, :0], changed.starts)
        before = narrow.inlaid(hidden, changed.starts, changed.width, nothing)
        mean = torch.stack(list(means)) + (changed.values - before).sum(dim=2, keepdim=True) / hidden[0].shape[1]
        logits = narrow.widen(self.head.profile, changed, kept)
        profiles = next(kept)
        length = profiles[0].shape[1]
        profile = narrow.inlaid(profiles, [0] * len(profiles), length, logits)
        return cut_bins(list(readout(self._outputs(profile, mean), reverse=reverse)), bins)

    def _outputs(self, profile: Tensor, mean: Tensor) -> ProfileAndCount:
        crop = (profile.shape[2] - self.head.num_bins) // 2
        profile = profile[:, :, crop : crop + self.head.num_bins]
        return ProfileAndCount(profile.mT, self.head.counts(mean[:, :, 0]))


def tail_of(head: nn.Module, *, crop_bins: int) -> PointwiseTail | ProfileTail | None:
    """Return how a head predicts from few bins; None where each of its predictions reads all of them."""
    if isinstance(head, ProfileHead):
        return ProfileTail(head)
    pointwise = isinstance(head, narrow.HEADS) or (narrow.is_narrow(head) and not narrow.reads_neighbours(head))
    return PointwiseTail(head, crop_bins=crop_bins) if pointwise else None
