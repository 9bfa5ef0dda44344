"""Building blocks that several architectures share."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cisray.models.heads import start_rates_at
from cisray.models.outputs import Link, ProfileAndCount
from cisray.models.pieces import InPieces, add_pointwise, by_pairs, is_pointwise, norm_and_activate, norms_by_batch


def one_hot(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """Encode codes uint8 [B, L] as [B, 4, L] in ACGT order; N is four zeros."""
    bases = torch.arange(4, device=codes.device, dtype=torch.uint8)
    return (codes[:, None, :] == bases[None, :, None]).to(dtype)


class Network(nn.Module):
    """Any network of the catalog: head(context(local(x))), from codes uint8 [B, L] to predictions [B, N, T].

    `local` is translation-equivariant at a stride and of finite reach; `context` sees all positions;
    `head` makes predictions. Scoring relies on this split.
    """

    link: Link = "identity"
    """What makes predictions of what `forward` returns; see models.outputs."""

    def __init__(self, *, local: nn.Module, context: nn.Module, head: nn.Module, crop_bins: int) -> None:
        super().__init__()
        self.local = local
        self.context = context
        self.head = head
        self.crop_bins = crop_bins

    def forward(self, codes: Tensor, head: str | None = None) -> Tensor | ProfileAndCount:
        """Predict from codes uint8 [B, L] to [B, N, T], the crop cut away; `head` names one of `NamedHeads`."""
        return self.read_out(self.context(self.embed(codes)), head)

    def embed(self, codes: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return what `local` makes of codes uint8 [B, L]: [B, C, L / bin], or one tensor per resolution."""
        outputs: Tensor | tuple[Tensor, ...] = self.local(one_hot(codes, next(self.parameters()).dtype))
        return outputs

    def read_out(self, hidden: Tensor, head: str | None = None) -> Tensor | ProfileAndCount:
        """Cut the crop from what `context` returned, [B, C, L / bin], and predict [B, N, T]."""
        if self.crop_bins:
            hidden = hidden[:, :, self.crop_bins : -self.crop_bins]
        predictions: Tensor = self.head(hidden) if head is None else self.head(hidden, head)
        return predictions.transpose(1, 2)


class ConvBlock(nn.Sequential):
    """Activation, convolution, batch norm, pooling: [B, C_in, L] to [B, C_out, L / pool]."""

    def __init__(self, channels_in: int, channels_out: int, *, width: int, pool: int = 1) -> None:
        super().__init__(
            nn.GELU(approximate="tanh"),
            nn.Conv1d(channels_in, channels_out, width, padding="same", bias=False),
            nn.BatchNorm1d(channels_out),
            MaxPool(pool) if pool > 1 else nn.Identity(),
        )


class MaxPool(nn.Module):
    """The largest of every `pool` positions: [B, C, L] to [B, C, L / pool]. On a CPU, faster than torch's own."""

    def __init__(self, pool: int) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, hidden: Tensor) -> Tensor:
        """Pool `hidden` [B, C, L]."""
        windows = hidden.unflatten(2, (-1, self.pool))
        # with gradients `max` is the faster one, which remembers where the largest stood; without them it is `amax`
        return windows.max(dim=3).values if torch.is_grad_enabled() else windows.amax(dim=3)


class DilatedResidual(nn.Module):
    """A dilated convolution and a pointwise one, added to what came in, [B, C, N]."""

    def __init__(self, channels: int, inner_channels: int, *, dilation: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GELU(approximate="tanh"),
            nn.Conv1d(channels, inner_channels, 3, padding="same", dilation=dilation, bias=False),
            nn.BatchNorm1d(inner_channels),
            nn.GELU(approximate="tanh"),
            nn.Conv1d(inner_channels, channels, 1, bias=False),
            nn.BatchNorm1d(channels),
            nn.Dropout(dropout),
        )
        last_norm = self.layers[5]
        assert isinstance(last_norm, nn.BatchNorm1d)
        nn.init.zeros_(last_norm.weight)  # each block starts as the identity, so that deep towers train

    def forward(self, hidden: Tensor) -> Tensor:
        """Add the block's change to `hidden` [B, C, N]."""
        return hidden + self.layers(hidden)


class TrackHead(nn.Module):
    """A pointwise hidden layer, then one non-negative rate per track: [B, C, N] to [B, T, N]."""

    def __init__(self, channels: int, hidden_channels: int, num_tracks: int, *, dropout: float) -> None:
        super().__init__()
        self.hidden = ConvBlock(channels, hidden_channels, width=1)
        self.dropout = nn.Dropout(dropout)
        self.tracks = nn.Conv1d(hidden_channels, num_tracks, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Predict rates from `hidden` [B, C, N]."""
        return F.softplus(self.tracks(F.gelu(self.dropout(self.hidden(hidden)), approximate="tanh")))

    def start_at(self, means: Sequence[float]) -> None:
        """Make every track's first prediction its mean, so that no step is spent on learning levels."""
        start_rates_at(self.tracks, means)


def prime_factors(number: int) -> list[int]:
    """Return a number's prime factors in rising order: the pools that make a bin of that many bases."""
    factors = []
    for prime in range(2, math.isqrt(number) + 1):
        while number % prime == 0:
            factors.append(prime)
            number //= prime
    return factors + [number] * (number > 1)


def geometric_widths(first: int, last: int, steps: int, *, multiple_of: int) -> list[int]:
    """Return `steps` channel counts that grow by one factor from `first` to `last`, each rounded to a multiple."""
    if steps == 1:
        return [last]
    growth = (last / first) ** (1 / (steps - 1))
    return [round(first * growth**step / multiple_of) * multiple_of for step in range(steps)]


class SigmoidGELU(nn.Module):
    """The activation x sigmoid(1.702 x), which comes close to a Gaussian error unit."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Activate `hidden` of any shape."""
        return hidden * torch.sigmoid(1.702 * hidden)


class Residual(InPieces):
    """Layers whose output is added to what came in, [B, C, N]."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, hidden: Tensor) -> Tensor:
        """Add the layers' change to `hidden` [B, C, N]."""
        if self.goes_in_pieces(hidden) and isinstance(self.layers, NormFirstConv):
            norm, activation, conv = self.layers
            if norms_by_batch(norm) and is_pointwise(conv):
                return add_pointwise(hidden, norm, activation, conv)
        return hidden + self.layers(hidden)


class NormFirstConv(nn.Sequential, InPieces):
    """Batch norm, activation, convolution with a bias: [B, C_in, N] to [B, C_out, N]."""

    def __init__(
        self, channels_in: int, channels_out: int, *, width: int = 1, activation: nn.Module, norm_eps: float = 1e-5
    ) -> None:
        super().__init__(
            nn.BatchNorm1d(channels_in, eps=norm_eps),
            activation,
            nn.Conv1d(channels_in, channels_out, width, padding="same"),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the convolution of `hidden` [B, C_in, N], normed and activated."""
        norm, activation, conv = self
        if self.goes_in_pieces(hidden) and norms_by_batch(norm):
            mixed: Tensor = conv(norm_and_activate(hidden, norm, activation))
            return mixed
        return super().forward(hidden)


class AttentionPool(InPieces):
    """A softmax-weighted mean of every two positions, the weights per channel: [B, C, N] to [B, C, N / 2].

    A softmax of two is a sigmoid of their difference, and the logits are linear, so that the logits of the
    difference serve both positions: half the arithmetic of the published form, and the same values.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.logits = nn.Conv1d(channels, channels, 1, bias=False)
        with torch.no_grad():
            nn.init.eye_(self.logits.weight.squeeze(2)).mul_(2.0)  # it starts close to a maximum

    def forward(self, hidden: Tensor) -> Tensor:
        """Pool `hidden` [B, C, N], N even."""
        if self.goes_in_pieces(hidden) and is_pointwise(self.logits):
            return by_pairs(
                lambda pairs, weight: _pool(pairs, partial(F.conv1d, weight=weight)), hidden, self.logits.weight
            )
        return _pool(hidden, self.logits)


def _pool(hidden: Tensor, logits_of: Callable[[Tensor], Tensor]) -> Tensor:
    first, second = hidden.unflatten(2, (-1, 2)).unbind(dim=3)
    difference = first - second
    return second + difference * torch.sigmoid(logits_of(difference))


class Pyramid(nn.Module):
    """Stages one after the other, each of whose outputs is read through a side layer: one tensor per stage."""

    def __init__(self, stages: Sequence[nn.Module], sides: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.sides = nn.ModuleList(sides)

    def forward(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """Return what every stage's side layer makes of `hidden` [B, C, L], finest resolution first."""
        outputs = []
        for stage, side in zip(self.stages, self.sides, strict=True):
            hidden = stage(hidden)
            outputs.append(side(hidden))
        return tuple(outputs)
