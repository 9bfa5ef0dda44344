"""The first Basenji: a convolution tower, and dilated convolutions each of which reads all that came before it.

Source: Kelley et al. 2018 (Genome Research 28:739); sizes from the parameters published with the paper.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.layers import MaxPool, Network
from cisray.models.sizes import check_sizes


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Basenji2018Config:
    """Sizes of the network; what the dataset fixes (window, bin, crop, tracks) is not repeated here."""

    architecture: Literal["basenji2018"] = "basenji2018"
    channels: tuple[int, ...] = (312, 368, 435, 514, 607, 717)
    """Filters of the convolutions of the tower."""
    widths: tuple[int, ...] = (22, 1, 6, 6, 6, 3)
    pools: tuple[int, ...] = (1, 2, 4, 4, 4, 1)
    """Pools behind them; they multiply to the dataset's bin."""
    dropout: float = 0.05
    """Behind the convolutions of the tower, and before the tracks."""
    dilated_layers: int = 6
    """Layers whose dilations are 2, 4, 8 and so on."""
    dilated_channels: int = 108
    """Channels that each of them adds."""
    dilated_dropout: float = 0.1
    head_channels: int = 1365

    def __post_init__(self) -> None:
        check_sizes(
            self,
            positive=("channels", "widths", "pools", "dilated_channels", "head_channels"),
            shares=("dropout", "dilated_dropout"),
        )
        if not len(self.channels) == len(self.widths) == len(self.pools) > 0:
            raise InputError(
                f"{self.architecture}: {len(self.channels)} channels, {len(self.widths)} widths, {len(self.pools)} "
                "pools; wanted one of each for every convolution of the tower"
            )
        if self.dilated_layers < 0:
            raise InputError(f"{self.architecture}: dilated_layers={self.dilated_layers}; wanted zero or more")


class Block(nn.Sequential):
    """ReLU, convolution, batch norm, dropout, pooling: [B, C_in, L] to [B, C_out, L / pool]."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        width: int,
        dropout: float,
        dilation: int = 1,
        pool: int = 1,
    ) -> None:
        # an even width has a base more to its right; said as a padding of its own, because torch warns of it otherwise
        even = width % 2 == 0
        super().__init__(
            nn.ReLU(),
            nn.ConstantPad1d((width // 2 - 1, width // 2), 0.0) if even else nn.Identity(),
            nn.Conv1d(
                channels_in,
                channels_out,
                width,
                padding="valid" if even else "same",
                dilation=dilation,
                bias=False,
            ),
            nn.BatchNorm1d(channels_out, eps=1e-3),
            nn.Dropout(dropout),
            MaxPool(pool) if pool > 1 else nn.Identity(),
        )


class DenseDilated(nn.Module):
    """A dilated convolution of all channels so far, set beside them: [B, C, N] to [B, C + added, N]."""

    def __init__(self, channels: int, added: int, *, dilation: int, dropout: float) -> None:
        super().__init__()
        self.block = Block(channels, added, width=3, dilation=dilation, dropout=dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """Add channels to `hidden` [B, C, N]."""
        return torch.cat([hidden, self.block(hidden)], dim=1)


class ExponentialLinearHead(nn.Module):
    """A pointwise hidden layer, then a rate per track, exp(x) below 0 and x + 1 above: [B, C, N] to [B, T, N]."""

    def __init__(self, channels: int, hidden_channels: int, num_tracks: int, *, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Sequential(Block(channels, hidden_channels, width=1, dropout=dropout), nn.ReLU())
        self.tracks = nn.Conv1d(hidden_channels, num_tracks, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Predict rates from `hidden` [B, C, N]."""
        return F.elu(self.tracks(self.hidden(hidden)).float()) + 1  # float32: near 0, the 1 would swallow the rest

    @torch.no_grad()
    def start_at(self, means: Sequence[float]) -> None:
        """Make every track's first prediction its mean, so that no step is spent on learning levels."""
        levels = torch.tensor([max(1e-3, mean) for mean in means])  # 1e-3 for NaN too: a track without data
        assert self.tracks.bias is not None
        self.tracks.bias.copy_(torch.where(levels < 1, levels.log(), levels - 1))
        nn.init.normal_(self.tracks.weight, std=0.01)


def build_basenji2018(config: Basenji2018Config, *, geometry: Geometry, num_tracks: int) -> Network:
    """Build the network with random weights; raise InputError where its pools do not make the dataset's bin."""
    bin_bp = math.prod(config.pools)
    if bin_bp != geometry.bin_bp:
        raise InputError(
            f"basenji2018: pools={config.pools} make bins of {bin_bp} bp, and the dataset's have {geometry.bin_bp}; "
            "wanted pools that multiply to the bin"
        )
    local = nn.Sequential()
    channels = 4
    for filters, width, pool in zip(config.channels, config.widths, config.pools, strict=True):
        local.append(Block(channels, filters, width=width, pool=pool, dropout=config.dropout))
        channels = filters
    context = nn.Sequential()
    for layer in range(1, config.dilated_layers + 1):
        context.append(
            DenseDilated(channels, config.dilated_channels, dilation=2**layer, dropout=config.dilated_dropout)
        )
        channels += config.dilated_channels
    head = ExponentialLinearHead(channels, config.head_channels, num_tracks, dropout=config.dropout)
    return Network(local=local, context=context, head=head, crop_bins=geometry.crop_bins)
