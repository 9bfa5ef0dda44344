"""Enformer: a convolution tower with attention pooling, a transformer over 128 bp bins, and a head per species.

Source: Avsec et al. 2021 (Nature Methods 18:1196) and its published code.
"""

import functools
import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.attention import RelativeAttention, Transformer, TransformerBlock
from cisray.models.heads import NamedHeads
from cisray.models.layers import AttentionPool, Network, NormFirstConv, Residual, SigmoidGELU, geometric_widths
from cisray.models.sizes import check_sizes

GEOMETRY = Geometry(window_bp=196_608, bin_bp=128, crop_bins=320)
TRACKS = {"human": 5313, "mouse": 1643}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EnformerConfig:
    """Sizes of the network; what the dataset fixes (window, bin, crop, tracks) is not repeated here."""

    architecture: Literal["enformer"] = "enformer"
    channels: int = 1536
    """Channels of the transformer; the stem has half, the head twice as many."""
    width_multiple: int = 128
    """The tower's channels grow geometrically from the stem's, rounded to a multiple of this."""
    stem_width: int = 15
    tower_width: int = 5
    transformer_blocks: int = 11
    attention_heads: int = 8
    key_size: int = 64
    """Channels of a query or key in one attention head; a value has channels / attention_heads."""
    position_features: int = 192
    """Features of the distance between two bins; a multiple of 6."""
    gamma_maximum: Literal["feature", "distance"] = "feature"
    """What the gamma features' largest value of 1 is taken over: as published, each feature; weights that were
    trained with enformer-pytorch without its table of gamma features want each distance."""
    dropout: float = 0.4
    """In the transformer; the head uses an eighth of it."""
    attention_dropout: float = 0.05
    position_dropout: float = 0.01

    def __post_init__(self) -> None:
        check_sizes(
            self,
            positive=(
                *("channels", "width_multiple", "stem_width", "tower_width"),
                *("attention_heads", "key_size", "position_features"),
            ),
            shares=("dropout", "attention_dropout", "position_dropout"),
        )
        if self.channels % (2 * self.width_multiple) or self.channels % self.attention_heads:
            raise InputError(
                f"{self.architecture}: channels={self.channels}; wanted a multiple of twice "
                f"width_multiple={self.width_multiple} and of attention_heads={self.attention_heads}"
            )
        if self.transformer_blocks < 0 or self.position_features % 6:
            raise InputError(
                f"{self.architecture}: transformer_blocks={self.transformer_blocks}, "
                f"position_features={self.position_features}; wanted at least 0, and a multiple of 6"
            )


def build_enformer(config: EnformerConfig, *, geometry: Geometry, num_tracks: int | Mapping[str, int]) -> Network:
    """Build the network whose pools of 2 multiply to the dataset's bin, with random weights.

    Args:
        config: sizes.
        geometry: of the dataset; its bin is a power of two from 4 bp on.
        num_tracks: tracks of the only head, or of each by name.
    """
    num_pools = geometry.bin_bp.bit_length() - 1
    if geometry.bin_bp != 2**num_pools or num_pools < 2:
        raise InputError(f"enformer: bin_bp={geometry.bin_bp}; it halves its way to a bin: wanted 4, 8, 16, ... bp")
    channels, half = config.channels, config.channels // 2
    widths = geometric_widths(half, channels, num_pools - 1, multiple_of=config.width_multiple)
    stem = nn.Conv1d(4, half, config.stem_width, padding="same")
    local = nn.Sequential()
    local.add_module("stem", nn.Sequential(stem, Residual(_conv(half, half)), AttentionPool(half)))
    tower = nn.Sequential()
    for before, after in zip([half, *widths], widths, strict=False):
        conv = _conv(before, after, width=config.tower_width)
        tower.append(nn.Sequential(conv, Residual(_conv(after, after)), AttentionPool(after)))
    local.add_module("tower", tower)
    features_of = functools.partial(
        distance_features, num_features=config.position_features, gamma_maximum=config.gamma_maximum
    )
    context = Transformer([_block(config) for _ in range(config.transformer_blocks)], features_of)
    shared = nn.Sequential(_conv(channels, 2 * channels), nn.Dropout(config.dropout / 8), SigmoidGELU())
    head = NamedHeads(shared, 2 * channels, num_tracks)
    return Network(local=local, context=context, head=head, crop_bins=geometry.crop_bins)


def _conv(channels_in: int, channels_out: int, *, width: int = 1) -> NormFirstConv:
    return NormFirstConv(channels_in, channels_out, width=width, activation=SigmoidGELU())


def _block(config: EnformerConfig) -> TransformerBlock:
    attention = RelativeAttention(
        config.channels,
        heads=config.attention_heads,
        key_size=config.key_size,
        num_features=config.position_features,
        dropout=config.attention_dropout,
        position_dropout=config.position_dropout,
    )
    return TransformerBlock(attention, config.channels, dropout=config.dropout, norm_eps=1e-5)


def distance_features(num_bins: int, *, num_features: int, gamma_maximum: str = "feature") -> Tensor:
    """Return exponentials, central masks and gamma densities of the distances 0 to N - 1, float64 [N, F / 2]."""
    each = num_features // 6  # of three kinds, each with the distance's sign and without it
    distances = torch.arange(num_bins, dtype=torch.float64)[:, None]
    half_lives = 2 ** torch.linspace(3, math.log2(num_bins), each, dtype=torch.float64)
    exponentials = torch.exp(-math.log(2) / half_lives * distances)
    masks = (distances < 2 ** torch.arange(1, each + 1, dtype=torch.float64) - 1).double()
    spread = num_bins / (2 * each)
    means = torch.linspace(num_bins / each, num_bins, each, dtype=torch.float64)
    shape, rate = (means / spread) ** 2, means / spread**2
    log_density = torch.xlogy(shape - 1, distances) - rate * distances - torch.lgamma(shape) + shape * torch.log(rate)
    gammas = torch.exp(log_density) + 1e-8  # which keeps the quotient below finite, and is part of the definition
    gammas = gammas / gammas.amax(dim=0 if gamma_maximum == "feature" else 1, keepdim=True)
    return torch.cat([exponentials, masks, gammas], dim=1)
