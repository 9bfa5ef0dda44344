"""BPNet: base resolution, a tower of dilated convolutions, and two heads, how signal lies and how much there is.

Source: Avsec et al. 2021 (Nature Genetics 53:354). ChromBPNet's sizes are `CHROMBPNET`: no padding anywhere, so that
every prediction rests on real sequence alone.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.layers import Network
from cisray.models.outputs import Link, ProfileAndCount
from cisray.models.sizes import check_sizes


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BPNetConfig:
    """Sizes of the network; what the dataset fixes (window, crop, tracks) is not repeated here.

    Every strand of every assay is a track.
    """

    architecture: Literal["bpnet"] = "bpnet"
    channels: int = 64
    stem_width: int = 25
    """Width of the first convolution; odd."""
    dilated_layers: int = 9
    """Layers whose dilations are 2, 4, 8 and so on."""
    profile_width: int = 25
    """Width of the convolution that makes the profile; odd."""
    padding: Literal["same", "valid"] = "same"
    """"valid" pads nothing: the bases that convolutions lose at either end must be in the geometry's crop."""

    def __post_init__(self) -> None:
        check_sizes(self, positive=("channels", "stem_width", "profile_width"))
        if self.dilated_layers < 0:
            raise InputError(f"{self.architecture}: dilated_layers={self.dilated_layers}; wanted zero or more")
        for name in ("stem_width", "profile_width"):
            if getattr(self, name) % 2 == 0:
                raise InputError(f"{self.architecture}: {name}={getattr(self, name)}; wanted an odd number")

    @property
    def bases_lost(self) -> int:
        """Bases that convolutions without padding lose at either end of a window."""
        dilations = sum(2**layer for layer in range(1, self.dilated_layers + 1))
        return (self.stem_width - 1) // 2 + dilations + (self.profile_width - 1) // 2


CHROMBPNET = BPNetConfig(channels=512, stem_width=21, dilated_layers=8, profile_width=75, padding="valid")
"""The accessibility model of ChromBPNet (Pampari et al. 2024): 2,114 bp in, 1,000 bp out."""


class DilatedLayer(nn.Module):
    """A dilated convolution and ReLU, added to what came in: [B, C, L] to [B, C, L or L - 2 dilation]."""

    def __init__(self, channels: int, *, dilation: int, padding: Literal["same", "valid"]) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=padding, dilation=dilation)
        self.lost = dilation if padding == "valid" else 0

    def forward(self, hidden: Tensor) -> Tensor:
        """Add the layer's change to `hidden` [B, C, L]."""
        kept = hidden[:, :, self.lost : hidden.shape[2] - self.lost]
        return kept + F.relu(self.conv(hidden))


class ProfileHead(nn.Module):
    """A wide convolution for the profile, a mean over the window for its count."""

    def __init__(
        self, channels: int, num_tracks: int, *, width: int, padding: Literal["same", "valid"], num_bins: int
    ) -> None:
        super().__init__()
        self.profile = nn.Conv1d(channels, num_tracks, width, padding=padding)
        self.counts = nn.Linear(channels, num_tracks)
        self.num_bins = num_bins

    def forward(self, hidden: Tensor) -> ProfileAndCount:
        """Predict from `hidden` [B, C, L]: logits [B, N, T] and logarithms of counts [B, T]."""
        profile = self.profile(hidden)
        crop = (profile.shape[2] - self.num_bins) // 2
        profile = profile[:, :, crop : crop + self.num_bins]
        return ProfileAndCount(profile.transpose(1, 2), self.counts(hidden.mean(dim=2)))

    @torch.no_grad()
    def start_at(self, means: Sequence[float]) -> None:
        """Make every track's first count that of a window of bins of its mean, to spare steps learning levels."""
        totals = torch.tensor(means).nan_to_num(0.0).clamp(min=0) * self.num_bins  # NaN: a track without data
        self.counts.bias.copy_(torch.log1p(totals))
        nn.init.normal_(self.counts.weight, std=0.01)


class ProfileNetwork(Network):
    """A network of base resolution: codes uint8 [B, L] to a profile's logits [B, N, T] and log counts [B, T].

    The head cuts the crop itself, because the count is of more than the bins that the profile keeps.
    """

    link: Link = "profile"

    def __init__(self, *, local: nn.Module, context: nn.Module, head: ProfileHead) -> None:
        super().__init__(local=local, context=context, head=head, crop_bins=0)

    def read_out(self, hidden: Tensor, head: str | None = None) -> ProfileAndCount:
        """Predict from what `context` returned, [B, C, L]; there is only one head."""
        assert head is None
        outputs: ProfileAndCount = self.head(hidden)
        return outputs


def build_bpnet(config: BPNetConfig, *, geometry: Geometry, num_tracks: int) -> ProfileNetwork:
    """Build the network with random weights; raise InputError for bins of more than a base or too small a crop."""
    if geometry.bin_bp != 1:
        raise InputError(
            f"bpnet predicts every base, but the geometry has bins of {geometry.bin_bp} bp; wanted bin_bp=1"
        )
    lost = config.bases_lost if config.padding == "valid" else 0
    if geometry.crop_bins < lost:
        raise InputError(
            f"bpnet: without padding, convolutions lose {lost} bp at either end of a window, and the geometry crops "
            f"{geometry.crop_bins}; wanted crop_bins={lost} or more"
        )
    local = nn.Sequential(nn.Conv1d(4, config.channels, config.stem_width, padding=config.padding), nn.ReLU())
    context = nn.Sequential()
    for layer in range(1, config.dilated_layers + 1):
        context.append(DilatedLayer(config.channels, dilation=2**layer, padding=config.padding))
    head = ProfileHead(
        config.channels,
        num_tracks,
        width=config.profile_width,
        padding=config.padding,
        num_bins=geometry.num_bins,
    )
    return ProfileNetwork(local=local, context=context, head=head)
