"""Basenji2: the convolution tower, dilated residual tower and pointwise head as published, to the letter.

Source: Kelley 2020 (PLoS Comput Biol 16:e1008050). `basenji` is the same family with sizes for smaller data; here the
activation, the norms' constants and the rounding of the dilations are those that published weights were trained with.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic.dataclasses import dataclass
from torch import nn

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.heads import NamedHeads
from cisray.models.layers import MaxPool, Network, Residual, SigmoidGELU, geometric_widths, prime_factors
from cisray.models.sizes import check_sizes

NORM_EPSILON = 1e-3  # Keras's
NORM_MOMENTUM = 0.1  # what Keras calls a momentum of 0.9


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Basenji2Config:
    """Sizes of the network; what the dataset fixes (window, bin, crop, tracks) is not repeated here."""

    architecture: Literal["basenji2"] = "basenji2"
    stem_channels: int = 288
    """Filters of the first convolution."""
    stem_width: int = 15
    channels: int = 768
    """Channels at the end of the convolution tower; they grow geometrically from the stem's."""
    tower_width: int = 5
    dilated_layers: int = 11
    dilated_channels: int = 384
    """Channels inside a residual block."""
    dilation_rate: float = 1.5
    """Factor between the dilations of successive blocks; each is rounded before the next is made from it."""
    dilated_dropout: float = 0.3
    head_channels: int = 1536
    head_dropout: float = 0.05

    def __post_init__(self) -> None:
        check_sizes(
            self,
            positive=("stem_channels", "stem_width", "channels", "tower_width", "dilated_channels", "head_channels"),
            shares=("dilated_dropout", "head_dropout"),
        )
        if self.dilated_layers < 0 or self.dilation_rate < 1:
            raise InputError(
                f"{self.architecture}: dilated_layers={self.dilated_layers}, dilation_rate={self.dilation_rate}; "
                "wanted at least 0 and at least 1"
            )

    @property
    def dilations(self) -> list[int]:
        """Return the dilation of each residual block, in bins."""
        dilations, rate = [], 1.0
        for _ in range(self.dilated_layers):
            dilations.append(round(rate))
            rate = float(round(rate * self.dilation_rate))  # a half goes to the even number, as in NumPy
        return dilations


class Block(nn.Sequential):
    """Activation, convolution, batch norm, dropout, pooling: [B, C_in, L] to [B, C_out, L / pool]."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        width: int,
        dilation: int = 1,
        dropout: float = 0.0,
        pool: int = 1,
    ) -> None:
        super().__init__(
            SigmoidGELU(),
            nn.Conv1d(channels_in, channels_out, width, padding="same", dilation=dilation, bias=False),
            nn.BatchNorm1d(channels_out, eps=NORM_EPSILON, momentum=NORM_MOMENTUM),
            nn.Dropout(dropout),
            MaxPool(pool) if pool > 1 else nn.Identity(),
        )


def residual_block(channels: int, inner_channels: int, *, dilation: int, dropout: float) -> Residual:
    """Build a dilated convolution and a pointwise one, added to what comes in; it starts as the identity."""
    pointwise = Block(inner_channels, channels, width=1, dropout=dropout)
    norm = pointwise[2]
    assert isinstance(norm, nn.BatchNorm1d)
    nn.init.zeros_(norm.weight)
    return Residual(nn.Sequential(Block(channels, inner_channels, width=3, dilation=dilation), pointwise))


def build_basenji2(config: Basenji2Config, *, geometry: Geometry, num_tracks: int | Mapping[str, int]) -> Network:
    """Build the network whose pools multiply to the dataset's bin, with random weights."""
    pools = prime_factors(geometry.bin_bp)
    pools += [1] * (2 - len(pools))  # a bin of 1 bp or of a prime still gets a stem and a tower
    widths = geometric_widths(config.stem_channels, config.channels, len(pools), multiple_of=1)
    local = nn.Sequential(Block(4, widths[0], width=config.stem_width, pool=pools[0]))
    for before, after, pool in zip(widths, widths[1:], pools[1:], strict=False):
        local.append(Block(before, after, width=config.tower_width, pool=pool))
    context = nn.Sequential()
    for dilation in config.dilations:
        context.append(
            residual_block(widths[-1], config.dilated_channels, dilation=dilation, dropout=config.dilated_dropout)
        )
    shared = nn.Sequential(
        Block(widths[-1], config.head_channels, width=1, dropout=config.head_dropout),
        SigmoidGELU(),
    )
    head = NamedHeads(shared, config.head_channels, num_tracks)
    return Network(local=local, context=context, head=head, crop_bins=geometry.crop_bins)
