"""Compute the formulas of the scores on the bins that masks keep, float64 [R, K, T], to [R, T]."""

import math
from functools import cached_property

import torch
from torch import Tensor

# Numbers of the formulas that scoring.effects quotes.
SHARE_PSEUDOCOUNT = 1e-9
MEAN_PSEUDOCOUNT = 1e-3
LEAST_PROBABILITY = 1e-6

_LARGEST_CONTRAST = 1 - 2.0**-53  # whose atanh is finite


class KeptBins:
    """Both predictions at the bins that masks keep, float64 [R, K, T]; what is made of them is made once.

    Masks that keep fewer than K bins are filled up: `kept` is False there, and predictions 0.
    """

    def __init__(self, reference: Tensor, alternate: Tensor, kept: Tensor, *, pseudocount: float) -> None:
        self.reference = reference
        self.alternate = alternate
        self.kept = kept[:, :, None]  # bool [R, K, 1]
        self.number = kept.sum(dim=1, keepdim=True)  # [R, 1]
        self.pseudocount = pseudocount

    @cached_property
    def difference(self) -> Tensor:
        """Alternate less reference [R, K, T]."""
        return self.alternate - self.reference

    @cached_property
    def positive(self) -> tuple[Tensor, Tensor]:
        """Reference and alternate, with 0 for what is below it [R, K, T]."""
        return self.reference.clamp(min=0), self.alternate.clamp(min=0)

    @cached_property
    def totals(self) -> tuple[Tensor, Tensor]:
        """Sums of the positive predictions [R, T]."""
        return self.positive[0].sum(dim=1), self.positive[1].sum(dim=1)

    @cached_property
    def ln_size(self) -> Tensor:
        """Size of the difference of ln(1 + x) in each bin [R, K, T].

        As the logarithm of a quotient it is one logarithm, not two, and keeps the digits of a small change.
        """
        reference, alternate = self.positive
        change = (alternate - reference).abs_()
        return change.div_(torch.minimum(reference, alternate).add_(1)).log1p_()

    @cached_property
    def shares(self) -> tuple[Tensor, Tensor]:
        """Each bin's share in its prediction's total [R, K, T]."""
        return self._shares_with(torch.full_like(self.reference[:, :1], SHARE_PSEUDOCOUNT))

    @cached_property
    def levelled_shares(self) -> tuple[Tensor, Tensor]:
        """Each bin's share after the reference's 25th percentile was added to both predictions [R, K, T]."""
        ordered = torch.where(self.kept, self.positive[0], torch.inf).sort(dim=1).values
        place = 0.25 * (self.number[:, :, None] - 1).double()  # [R, 1, 1]
        below = place.floor()
        size = (len(ordered), 1, ordered.shape[2])
        low, high = (ordered.gather(1, each.long().expand(size)) for each in (below, place.ceil()))
        return self._shares_with(SHARE_PSEUDOCOUNT + low + (high - low) * (place - below))

    @cached_property
    def logit_difference(self) -> Tensor:
        """Mean difference of the logits [R, T]."""
        reference, alternate = (torch.logit(side, LEAST_PROBABILITY) for side in (self.reference, self.alternate))
        return torch.where(self.kept, alternate - reference, 0).sum(dim=1) / self.number

    def _shares_with(self, added: Tensor) -> tuple[Tensor, Tensor]:
        sides = [torch.where(self.kept, side + added, 0) for side in self.positive]
        return sides[0] / sides[0].sum(dim=1, keepdim=True), sides[1] / sides[1].sum(dim=1, keepdim=True)


def delta_sum(bins: KeptBins) -> Tensor:
    """Sum alternate less reference."""
    return bins.difference.sum(dim=1)


def delta_mean(bins: KeptBins) -> Tensor:
    """Average alternate less reference."""
    return bins.difference.sum(dim=1) / bins.number


def log2fc(bins: KeptBins) -> Tensor:
    """Take the log2 fold change of the sums, with the pseudocount."""
    reference, alternate = bins.totals
    return torch.log2(bins.pseudocount + alternate) - torch.log2(bins.pseudocount + reference)


def ln_of_means(bins: KeptBins) -> Tensor:
    """Take the natural logarithm of the fold change of the means, with a small pseudocount."""
    reference, alternate = (total / bins.number for total in bins.totals)
    return torch.log(alternate + MEAN_PSEUDOCOUNT) - torch.log(reference + MEAN_PSEUDOCOUNT)


def sum_log2(bins: KeptBins) -> Tensor:
    """Sum the differences of log2(1 + x)."""
    reference, alternate = bins.positive
    return torch.copysign(bins.ln_size, alternate - reference).sum(dim=1) / math.log(2)


def max_signed(bins: KeptBins) -> Tensor:
    """Find the difference that is largest in size, with its sign; of equal ones, the first bin's."""
    place = bins.difference.abs().argmax(dim=1, keepdim=True)  # the first of equals
    return bins.difference.gather(1, place)[:, 0]


def max_gain(bins: KeptBins) -> Tensor:
    """Find by how much the alternate exceeds the reference at most; 0 where it does nowhere."""
    return _largest(bins, bins.difference)[0].clamp(min=0)


def max_loss(bins: KeptBins) -> Tensor:
    """Find by how much the reference exceeds the alternate at most; 0 where it does nowhere."""
    return _largest(bins, -bins.difference)[0].clamp(min=0)


def gain_place(bins: KeptBins) -> Tensor:
    """Tell which of the kept bins, counted from 0, gains most; of equal ones, the first."""
    return _largest(bins, bins.difference)[1]


def loss_place(bins: KeptBins) -> Tensor:
    """Tell which of the kept bins, counted from 0, loses most; of equal ones, the first."""
    return _largest(bins, -bins.difference)[1]


def _largest(bins: KeptBins, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest of values [R, K, T], and which of the kept bins has it; NaN where one is not finite."""
    largest, place = torch.where(bins.kept, values, -torch.inf).max(dim=1)
    number = (bins.kept[:, :, 0].cumsum(dim=1) - 1).gather(1, place).double()
    is_finite = values.sum(dim=1).isfinite()  # of one that is minus infinity, the largest tells nothing
    return torch.where(is_finite, largest, torch.nan), torch.where(is_finite, number, torch.nan)


def l1(bins: KeptBins) -> Tensor:
    """Sum the sizes of the differences."""
    return torch.linalg.vector_norm(bins.difference, ord=1, dim=1)


def _norm2(values: Tensor) -> Tensor:
    """Return norms over bins [R, T]; torch's own takes three times as long."""
    return values.square().sum(dim=1).sqrt()


def l2(bins: KeptBins) -> Tensor:
    """Take the Euclidean norm of the differences."""
    return _norm2(bins.difference)


def l2_log2(bins: KeptBins) -> Tensor:
    """Take the Euclidean norm of the differences of log2(1 + x)."""
    return _norm2(bins.ln_size) / math.log(2)


def _contrast(p: Tensor, q: Tensor) -> Tensor:
    """Return (p - q) / (p + q) within (-1, 1), 0 where both are 0: 2 atanh of it is ln(p / q).

    Where p and q are nearly equal, the logarithm of their quotient has few digits, and this has all.
    """
    total = p + q
    contrast = torch.where(total > 0, (p - q) / total, 0)
    return contrast.clamp(-_LARGEST_CONTRAST, _LARGEST_CONTRAST)


def jsd(bins: KeptBins) -> Tensor:
    """Take the Jensen-Shannon distance, base 2, of the two profiles: between 0 and 1."""
    p, q = bins.shares
    contrast = _contrast(p, q)
    terms = (p + q) * (2 * contrast * torch.atanh(contrast) + torch.log1p(-contrast.square()))
    return (terms.sum(dim=1).clamp(min=0) / (4 * math.log(2))).sqrt()


def jeffreys_half(bins: KeptBins) -> Tensor:
    """Take half the Jeffreys divergence of the two levelled profiles."""
    p, q = bins.levelled_shares
    contrast = _contrast(p, q)
    far_apart = torch.where(bins.kept, torch.log(p / q), 0)
    log_quotient = torch.where(contrast.abs() < 0.5, 2 * torch.atanh(contrast), far_apart)
    return ((p - q) * log_quotient).sum(dim=1) / 2


def ndi(bins: KeptBins) -> Tensor:
    """Find the largest difference of the two levelled profiles."""
    p, q = bins.levelled_shares
    return (p - q).abs().amax(dim=1)


def active_sum(bins: KeptBins) -> Tensor:
    """Take the sum of the allele that has more."""
    return torch.maximum(bins.alternate.sum(dim=1), bins.reference.sum(dim=1))


def active_mean(bins: KeptBins) -> Tensor:
    """Take the mean of the allele that has more."""
    return active_sum(bins) / bins.number


def logit_diff(bins: KeptBins) -> Tensor:
    """Average the differences of the logits."""
    return bins.logit_difference


def deepsea_e(bins: KeptBins) -> Tensor:
    """Multiply the sizes of the differences in logit and in probability."""
    return bins.logit_difference.abs() * delta_mean(bins).abs()


def ies(bins: KeptBins) -> Tensor:
    """Multiply the size of the log2 fold change by the Jensen-Shannon distance."""
    return log2fc(bins).abs() * jsd(bins)
