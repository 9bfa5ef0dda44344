"""Basset: three convolutions with batch norm and pools, and two dense layers.

Source: Kelley, Snoek and Rinn 2016 (Genome Research 26:990).
"""

from typing import Literal

from pydantic.dataclasses import dataclass
from torch import nn

from cisray.config import STRICT
from cisray.geometry import Geometry
from cisray.models.labels import DenseHead, LabelNetwork, MotifConv, WholeMaxPool, derive_positions
from cisray.models.sizes import check_sizes


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BassetConfig:
    """Sizes of the network; what the dataset fixes (window, tracks) is not repeated here."""

    architecture: Literal["basset"] = "basset"
    channels: tuple[int, int, int] = (300, 200, 200)
    """Filters of the three convolutions."""
    widths: tuple[int, int, int] = (19, 11, 7)
    pools: tuple[int, int, int] = (3, 4, 4)
    hidden_units: tuple[int, int] = (1000, 1000)
    dropout: float = 0.3
    """Behind each dense layer."""

    def __post_init__(self) -> None:
        check_sizes(self, positive=("channels", "widths", "pools", "hidden_units"), shares=("dropout",))


def build_basset(config: BassetConfig, *, geometry: Geometry, num_tracks: int) -> LabelNetwork:
    """Build the network with random weights; raise InputError for a window too short for its pools."""
    local = nn.Sequential()
    channels = 4
    for filters, width, pool in zip(config.channels, config.widths, config.pools, strict=True):
        local.append(MotifConv(channels, filters, width=width, norm=True))
        local.append(WholeMaxPool(pool))
        channels = filters
    positions = derive_positions(config.architecture, local, geometry)
    head = DenseHead(channels * positions, config.hidden_units, num_tracks, dropout=config.dropout, norm=True)
    return LabelNetwork(local=local, context=nn.Identity(), head=head)
