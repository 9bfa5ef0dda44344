"""Basenji: a convolution tower, a tower of dilated residual blocks, and a pointwise head.

Source: Kelley et al. 2018 (Genome Research 28:739) and 2020 (PLoS Comput Biol 16:e1008050).
"""

from typing import Literal

from pydantic.dataclasses import dataclass
from torch import nn

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.layers import ConvBlock, DilatedResidual, Network, TrackHead, prime_factors


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BasenjiConfig:
    """Sizes of the network; what the dataset fixes (window, bin, crop, tracks) is not repeated here."""

    architecture: Literal["basenji"] = "basenji"
    stem_channels: int = 64
    """Filters of the first convolution."""
    stem_width: int = 15
    channels: int = 128
    """Channels at the end of the convolution tower; they grow geometrically from the stem's."""
    tower_width: int = 5
    dilated_layers: int = 6
    dilated_channels: int = 64
    """Channels inside a residual block."""
    dilation_rate: float = 2.0
    """Factor between the dilations of successive blocks."""
    head_channels: int = 256
    dropout: float = 0.1
    """In the residual blocks; the head uses half of it."""

    def __post_init__(self) -> None:
        for name in (
            "stem_channels",
            "stem_width",
            "channels",
            "tower_width",
            "dilated_channels",
            "head_channels",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}; wanted a positive number")
        if self.dilated_layers < 0 or self.dilation_rate < 1 or not 0 <= self.dropout < 1:
            raise InputError(
                f"dilated_layers={self.dilated_layers}, dilation_rate={self.dilation_rate}, dropout={self.dropout}; "
                "wanted at least 0, at least 1, and a share below 1"
            )


def build_basenji(config: BasenjiConfig, *, geometry: Geometry, num_tracks: int) -> Network:
    """Build the network whose pools multiply to the dataset's bin, with random weights."""
    pools = prime_factors(geometry.bin_bp)
    pools += [1] * (2 - len(pools))  # a bin of 1 bp or of a prime still gets a stem and a tower
    growth = (config.channels / config.stem_channels) ** (1 / (len(pools) - 1))
    widths = [round(config.stem_channels * growth**step) for step in range(len(pools))]
    local = nn.Sequential(ConvBlock(4, widths[0], width=config.stem_width, pool=pools[0]))
    for before, after, pool in zip(widths, widths[1:], pools[1:], strict=False):
        local.append(ConvBlock(before, after, width=config.tower_width, pool=pool))
    context = nn.Sequential()
    for layer in range(config.dilated_layers):
        dilation = round(config.dilation_rate**layer)
        context.append(DilatedResidual(widths[-1], config.dilated_channels, dilation=dilation, dropout=config.dropout))
    head = TrackHead(widths[-1], config.head_channels, num_tracks, dropout=config.dropout / 2)
    return Network(local=local, context=context, head=head, crop_bins=geometry.crop_bins)
