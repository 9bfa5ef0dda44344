"""Optimus 5-Prime: convolutions that keep every position, and dense layers that know where each motif stands.

Source: Sample et al. 2019 (Nature Biotechnology 37:803).
"""

from typing import Literal

from pydantic.dataclasses import dataclass
from torch import nn

from cisray.config import STRICT
from cisray.geometry import Geometry
from cisray.models.labels import DenseHead, LabelNetwork, check_one_label
from cisray.models.sizes import check_sizes


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Optimus5PrimeConfig:
    """Sizes of the network; what the dataset fixes (window, tracks) is not repeated here."""

    architecture: Literal["optimus5prime"] = "optimus5prime"
    channels: int = 120
    """Kernels of each convolution."""
    width: int = 8
    layers: int = 3
    """Convolutions."""
    hidden_units: int = 40
    dropout: float = 0.2
    """Behind the hidden units."""

    def __post_init__(self) -> None:
        check_sizes(self, positive=("channels", "width", "layers", "hidden_units"), shares=("dropout",))


def build_optimus5prime(config: Optimus5PrimeConfig, *, geometry: Geometry, num_tracks: int) -> LabelNetwork:
    """Build the network with random weights; raise InputError for a window with several bins."""
    check_one_label(config.architecture, geometry)
    local = nn.Sequential()
    before = (config.width - 1) // 2
    for layer in range(config.layers):
        local.append(nn.ConstantPad1d((before, config.width - 1 - before), 0.0))
        local.append(nn.Conv1d(4 if layer == 0 else config.channels, config.channels, config.width))
        local.append(nn.ReLU())
    inputs = config.channels * geometry.window_bp
    head = DenseHead(inputs, [config.hidden_units], num_tracks, dropout=config.dropout)
    return LabelNetwork(local=local, context=nn.Identity(), head=head)
