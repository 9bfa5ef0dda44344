"""ExPecto's sequence stage, called Beluga: DeepSEA with twice the convolutions and twice the window.

Source: Zhou et al. 2018 (Nature Genetics 50:1171).
"""

from typing import Literal

from pydantic.dataclasses import dataclass
from torch import nn

from cisray.config import STRICT
from cisray.geometry import Geometry
from cisray.models.labels import DenseHead, LabelNetwork, MotifConv, WholeMaxPool, derive_positions
from cisray.models.sizes import check_sizes


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ExPectoConfig:
    """Sizes of the network; what the dataset fixes (window, tracks) is not repeated here."""

    architecture: Literal["expecto"] = "expecto"
    channels: tuple[int, int, int] = (320, 480, 640)
    """Kernels of the three pairs of convolutions."""
    width: int = 8
    pool: int = 4
    """Positions of a pool, behind the first and the second pair."""
    hidden_units: int = 2003
    dropout: float = 0.2
    """Before each pool."""
    dense_dropout: float = 0.5
    """Before the dense layers."""

    def __post_init__(self) -> None:
        check_sizes(self, positive=("channels", "width", "pool", "hidden_units"), shares=("dropout", "dense_dropout"))


def build_expecto(config: ExPectoConfig, *, geometry: Geometry, num_tracks: int) -> LabelNetwork:
    """Build the network with random weights; raise InputError for a window too short for its pools."""
    local = nn.Sequential()
    channels = 4
    for stage, kernels in enumerate(config.channels):
        local.append(MotifConv(channels, kernels, width=config.width))
        local.append(MotifConv(kernels, kernels, width=config.width))
        if stage < len(config.channels) - 1:
            local.append(nn.Dropout(config.dropout))
            local.append(WholeMaxPool(config.pool))
        channels = kernels
    positions = derive_positions(config.architecture, local, geometry)
    head = DenseHead(channels * positions, [config.hidden_units], num_tracks)
    return LabelNetwork(local=local, context=nn.Dropout(config.dense_dropout), head=head)
