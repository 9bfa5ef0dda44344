"""DeepSEA: three convolutions, two pools, and dense layers over what they leave of the window.

Source: Zhou and Troyanskaya 2015 (Nature Methods 12:931).
"""

from typing import Literal

from pydantic.dataclasses import dataclass
from torch import nn

from cisray.config import STRICT
from cisray.geometry import Geometry
from cisray.models.labels import DenseHead, LabelNetwork, MotifConv, WholeMaxPool, derive_positions
from cisray.models.sizes import check_sizes


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DeepSEAConfig:
    """Sizes of the network; what the dataset fixes (window, tracks) is not repeated here."""

    architecture: Literal["deepsea"] = "deepsea"
    channels: tuple[int, int, int] = (320, 480, 960)
    """Kernels of the three convolutions."""
    width: int = 8
    pool: int = 4
    """Positions of a pool, behind the first and the second convolution."""
    hidden_units: int = 925
    dropout: tuple[float, float, float] = (0.2, 0.2, 0.5)
    """Behind each convolution."""

    def __post_init__(self) -> None:
        check_sizes(self, positive=("channels", "width", "pool", "hidden_units"), shares=("dropout",))


def build_deepsea(config: DeepSEAConfig, *, geometry: Geometry, num_tracks: int) -> LabelNetwork:
    """Build the network with random weights; raise InputError for a window too short for its pools."""
    first, second, third = config.channels
    local = nn.Sequential(
        MotifConv(4, first, width=config.width),
        WholeMaxPool(config.pool),
        nn.Dropout(config.dropout[0]),
        MotifConv(first, second, width=config.width),
        WholeMaxPool(config.pool),
        nn.Dropout(config.dropout[1]),
        MotifConv(second, third, width=config.width),
        nn.Dropout(config.dropout[2]),
    )
    positions = derive_positions(config.architecture, local, geometry)
    head = DenseHead(third * positions, [config.hidden_units], num_tracks)
    return LabelNetwork(local=local, context=nn.Identity(), head=head)
