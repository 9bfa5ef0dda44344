"""FramePool: convolutions, then the best and the mean match of every motif in each of the three reading frames.

Source: Karollus, Avsec and Gagneur 2021 (PLoS Computational Biology 17:e1008982).
"""

from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.labels import DenseHead, LabelNetwork, check_one_label
from cisray.models.sizes import check_sizes

FRAMES = 3


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FramePoolConfig:
    """Sizes of the network; what the dataset fixes (window, tracks) is not repeated here."""

    architecture: Literal["framepool"] = "framepool"
    channels: int = 128
    """Kernels of each convolution."""
    width: int = 7
    layers: int = 3
    """Convolutions."""
    hidden_units: int = 64
    dropout: float = 0.2
    """Behind the hidden units."""

    def __post_init__(self) -> None:
        check_sizes(self, positive=("channels", "width", "layers", "hidden_units"), shares=("dropout",))


class Added(nn.Module):
    """A convolution with its activation, added to a pointwise change of what came in: [B, C_in, L] to [B, C_out, L]."""

    def __init__(self, channels_in: int, channels_out: int, *, width: int) -> None:
        super().__init__()
        conv = nn.Sequential(nn.Conv1d(channels_in, channels_out, width, padding="same"), nn.ReLU())
        same = channels_in == channels_out
        beside = nn.Identity() if same else nn.Conv1d(channels_in, channels_out, 1, bias=False)
        self.branches = nn.ModuleList([conv, beside])

    def forward(self, hidden: Tensor) -> Tensor:
        """Add both branches of `hidden` [B, C_in, L]."""
        conv, beside = self.branches
        added: Tensor = conv(hidden) + beside(hidden)
        return added


class FramePool(nn.Module):
    """The largest value and the mean of each frame, counted from the window's end: [B, C, L] to [B, 6 C, 1].

    The end is where the coding sequence begins, so that a frame means the same in windows of any length.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """Pool `hidden` [B, C, L]."""
        last = hidden.shape[2] - 1
        frames = [hidden[:, :, (last - frame) % FRAMES :: FRAMES] for frame in range(FRAMES)]
        return torch.cat([pooled for each in frames for pooled in (each.amax(2), each.mean(2))], dim=1)[:, :, None]


def build_framepool(config: FramePoolConfig, *, geometry: Geometry, num_tracks: int) -> LabelNetwork:
    """Build the network with random weights; raise InputError for a window that lacks a frame, or has several bins."""
    check_one_label(config.architecture, geometry)
    if geometry.window_bp < FRAMES:
        raise InputError(f"framepool: a window of {geometry.window_bp} bp has no three frames; wanted at least 3 bp")
    local = nn.Sequential()
    for layer in range(config.layers):
        local.append(Added(4 if layer == 0 else config.channels, config.channels, width=config.width))
    head = DenseHead(2 * FRAMES * config.channels, [config.hidden_units], num_tracks, dropout=config.dropout)
    return LabelNetwork(local=local, context=FramePool(), head=head)
