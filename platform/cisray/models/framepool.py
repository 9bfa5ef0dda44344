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
    dilations: tuple[int, ...] = (1, 1, 1)
    """Of each convolution, bases between those that it reads: 3 reads codon by codon, in one frame."""
    hidden_units: int = 64
    positions: bool = False
    """Whether the hidden units also read what stands at each position, as those of Optimus 5-Prime."""
    input_dropout: float = 0.0
    """Of what the hidden units read."""
    dropout: float = 0.2
    """Behind the hidden units."""

    def __post_init__(self) -> None:
        if not self.dilations:
            raise InputError("framepool: dilations=(); wanted one for each convolution, and at least one")
        check_sizes(
            self, positive=("channels", "width", "dilations", "hidden_units"), shares=("input_dropout", "dropout")
        )


class Added(nn.Module):
    """A convolution with its activation, added to a pointwise change of what came in: [B, C_in, L] to [B, C_out, L]."""

    def __init__(self, channels_in: int, channels_out: int, *, width: int, dilation: int) -> None:
        super().__init__()
        conv = nn.Sequential(nn.Conv1d(channels_in, channels_out, width, padding="same", dilation=dilation), nn.ReLU())
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

    The end is where the coding sequence begins, so that a frame means the same in windows of any length. With positions
    all C L values follow: [B, 6 C + C L, 1].
    """

    def __init__(self, *, positions: bool = False) -> None:
        super().__init__()
        self.positions = positions

    def forward(self, hidden: Tensor) -> Tensor:
        """Pool `hidden` [B, C, L]."""
        last = hidden.shape[2] - 1
        frames = [hidden[:, :, (last - frame) % FRAMES :: FRAMES] for frame in range(FRAMES)]
        read = [pooled for each in frames for pooled in (each.amax(2), each.mean(2))]
        if self.positions:
            read.append(hidden.flatten(1))
        return torch.cat(read, dim=1)[:, :, None]


def build_framepool(config: FramePoolConfig, *, geometry: Geometry, num_tracks: int) -> LabelNetwork:
    """Build the network with random weights; raise InputError for a window that lacks a frame, or has several bins."""
    check_one_label(config.architecture, geometry)
    if geometry.window_bp < FRAMES:
        raise InputError(f"framepool: a window of {geometry.window_bp} bp has no three frames; wanted at least 3 bp")
    local = nn.Sequential()
    channels = 4
    for dilation in config.dilations:
        local.append(Added(channels, config.channels, width=config.width, dilation=dilation))
        channels = config.channels
    inputs = config.channels * (2 * FRAMES + geometry.window_bp * config.positions)
    head = DenseHead(
        inputs, [config.hidden_units], num_tracks, input_dropout=config.input_dropout, dropout=config.dropout
    )
    return LabelNetwork(local=local, context=FramePool(positions=config.positions), head=head)
