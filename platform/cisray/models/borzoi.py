"""Borzoi: a convolution tower, a transformer over 128 bp, and a U-net back up to 32 bp bins.

Source: Linder et al. 2025 (Nature Genetics 57:949) and its published code.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.attention import RelativeAttention, Transformer, TransformerBlock
from cisray.models.heads import NamedHeads
from cisray.models.layers import MaxPool, Network, NormFirstConv, Pyramid, geometric_widths
from cisray.models.sizes import check_sizes

GEOMETRY = Geometry(window_bp=524_288, bin_bp=32, crop_bins=5120)
TRACKS = {"human": 7611, "mouse": 2608}
NORM_EPS = 1e-3


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BorzoiConfig:
    """Sizes of the network; what the dataset fixes (window, bin, crop, tracks) is not repeated here."""

    architecture: Literal["borzoi"] = "borzoi"
    stem_channels: int = 512
    stem_width: int = 15
    tower_channels: int = 608
    """Channels of the tower's first convolution; from there they grow geometrically to `channels`."""
    channels: int = 1536
    """Channels of the transformer and of the U-net."""
    width_multiple: int = 32
    """The tower's channels are rounded to a multiple of this."""
    tower_width: int = 5
    unet_levels: int = 2
    """Doublings of resolution after the transformer: its bins are 2^levels of the dataset's."""
    unet_width: int = 3
    transformer_blocks: int = 8
    attention_heads: int = 8
    key_size: int = 64
    """Channels of a query or key in one attention head; a value has channels / attention_heads."""
    position_features: int = 32
    """Features of the distance between two positions of the transformer; even."""
    position_span: int = 4096
    """Positions that the widest such feature covers: the published window's, so that published weights mean the
    same in a shorter one."""
    head_channels: int = 1920
    dropout: float = 0.2
    """In the transformer; the head uses half of it."""
    attention_dropout: float = 0.05
    position_dropout: float = 0.01

    def __post_init__(self) -> None:
        check_sizes(
            self,
            positive=(
                *("stem_channels", "stem_width", "tower_channels", "channels", "width_multiple", "tower_width"),
                *("unet_levels", "unet_width", "attention_heads", "key_size", "position_features", "position_span"),
                "head_channels",
            ),
            shares=("dropout", "attention_dropout", "position_dropout"),
        )
        if self.tower_channels % self.width_multiple or self.channels % self.width_multiple:
            raise InputError(
                f"{self.architecture}: tower_channels={self.tower_channels}, channels={self.channels}; "
                f"wanted multiples of width_multiple={self.width_multiple}"
            )
        if self.channels % self.attention_heads:
            raise InputError(
                f"{self.architecture}: channels={self.channels}; "
                f"wanted a multiple of attention_heads={self.attention_heads}"
            )
        if self.transformer_blocks < 0 or self.position_features % 2:
            raise InputError(
                f"{self.architecture}: transformer_blocks={self.transformer_blocks}, "
                f"position_features={self.position_features}; wanted at least 0, and an even number"
            )


class UpStep(nn.Module):
    """Double the resolution, add the tower's output there, and mix neighbours: [B, C, N] to [B, C, 2 N]."""

    def __init__(self, channels: int, *, width: int) -> None:
        super().__init__()
        self.widen = _conv(channels, channels)
        self.mix = nn.Sequential(
            nn.Conv1d(channels, channels, width, padding="same", groups=channels, bias=False),
            nn.Conv1d(channels, channels, 1),
        )

    def forward(self, hidden: Tensor, side: Tensor) -> Tensor:
        """Bring `hidden` [B, C, N] to the resolution of `side` [B, C, 2 N]."""
        return self.mix(self.widen(hidden).repeat_interleave(2, dim=2) + side)


class UNetContext(nn.Module):
    """A transformer at the coarsest of several resolutions, then up again step by step to the finest."""

    def __init__(self, transformer: Transformer, steps: Sequence[UpStep]) -> None:
        super().__init__()
        self.transformer = transformer
        self.steps = nn.ModuleList(steps)

    def forward(self, outputs: tuple[Tensor, ...]) -> Tensor:
        """Turn the tower's outputs, finest first, into [B, C, N] at the finest resolution."""
        *sides, hidden = outputs
        hidden = self.transformer(hidden)
        for step, side in zip(self.steps, reversed(sides), strict=True):
            hidden = step(hidden, side)
        return hidden


def build_borzoi(config: BorzoiConfig, *, geometry: Geometry, num_tracks: int | Mapping[str, int]) -> Network:
    """Build the network whose tower of halvings and U-net of doublings end at the dataset's bin, with random weights.

    `local` has one output per resolution, finest first; the transformer reads the last.

    Args:
        config: sizes.
        geometry: of the dataset; its bin is a power of two, its window a multiple of the transformer's bin.
        num_tracks: tracks of the only head, or of each by name.
    """
    token_bp = geometry.bin_bp * 2**config.unet_levels
    num_convs = geometry.bin_bp.bit_length() - 2 + config.unet_levels  # the stem and each of these halve
    if geometry.bin_bp & (geometry.bin_bp - 1) or geometry.bin_bp < 4:
        raise InputError(f"borzoi: bin_bp={geometry.bin_bp}; it halves its way to a bin: wanted 4, 8, 16, ... bp")
    if geometry.window_bp % token_bp:
        raise InputError(
            f"borzoi: window_bp={geometry.window_bp} is not a multiple of {token_bp}, the transformer's bin "
            f"(bin_bp={geometry.bin_bp} doubled unet_levels={config.unet_levels} times); choose another window"
        )
    channels, levels = config.channels, config.unet_levels
    widths = geometric_widths(config.tower_channels, channels, num_convs, multiple_of=config.width_multiple)
    convs = [
        _conv(before, after, width=config.tower_width)
        for before, after in zip([config.stem_channels, *widths], widths, strict=False)
    ]
    stem = nn.Sequential(nn.Conv1d(4, config.stem_channels, config.stem_width, padding="same"), MaxPool(2))
    tower = nn.Sequential(convs[0])
    for conv in convs[1 : num_convs - levels + 1]:
        tower.extend([MaxPool(2), conv])
    first = nn.Sequential()
    first.add_module("stem", stem)
    first.add_module("tower", tower)
    stages = [first, *(nn.Sequential(MaxPool(2), conv) for conv in convs[num_convs - levels + 1 :]), MaxPool(2)]
    sides = [_conv(width, channels) for width in widths[num_convs - levels :]]
    local = Pyramid(stages, [*sides, nn.Identity()])
    context = UNetContext(_transformer(config), [UpStep(channels, width=config.unet_width) for _ in range(levels)])
    shared = nn.Sequential(_conv(channels, config.head_channels), nn.Dropout(config.dropout / 2), _activation())
    head = NamedHeads(shared, config.head_channels, num_tracks)
    return Network(local=local, context=context, head=head, crop_bins=geometry.crop_bins)


def _activation() -> nn.GELU:
    return nn.GELU(approximate="tanh")


def _conv(channels_in: int, channels_out: int, *, width: int = 1) -> NormFirstConv:
    return NormFirstConv(channels_in, channels_out, width=width, activation=_activation(), norm_eps=NORM_EPS)


def _transformer(config: BorzoiConfig) -> Transformer:
    blocks = []
    for _ in range(config.transformer_blocks):
        attention = RelativeAttention(
            config.channels,
            heads=config.attention_heads,
            key_size=config.key_size,
            num_features=config.position_features,
            dropout=config.attention_dropout,
            position_dropout=config.position_dropout,
        )
        blocks.append(TransformerBlock(attention, config.channels, dropout=config.dropout, norm_eps=NORM_EPS))
    features_of = functools.partial(distance_features, num_features=config.position_features, span=config.position_span)
    return Transformer(blocks, features_of)


def distance_features(num_bins: int, *, num_features: int, span: int) -> Tensor:
    """Return central masks of the distances 0 to N - 1, their widths geometric up to `span`: float64 [N, F / 2]."""
    each = num_features // 2  # each with the distance's sign and without it
    distances = torch.arange(num_bins, dtype=torch.float64)[:, None]
    widths = torch.exp(math.log(span + 1) / each * torch.arange(1, each + 1, dtype=torch.float64)) - 1
    return (distances < widths).double()
