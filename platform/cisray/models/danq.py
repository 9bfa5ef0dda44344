"""DanQ: one convolution, a bidirectional LSTM over what its pool leaves, and a dense layer.

Source: Quang and Xie 2016 (Nucleic Acids Research 44:e107).
"""

from typing import Literal

from pydantic.dataclasses import dataclass
from torch import nn

from cisray.config import STRICT
from cisray.geometry import Geometry
from cisray.models.labels import (
    BidirectionalLSTM,
    DenseHead,
    LabelNetwork,
    MotifConv,
    WholeMaxPool,
    derive_positions,
)
from cisray.models.sizes import check_sizes


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DanQConfig:
    """Sizes of the network; what the dataset fixes (window, tracks) is not repeated here."""

    architecture: Literal["danq"] = "danq"
    channels: int = 320
    """Kernels of the convolution."""
    width: int = 26
    pool: int = 13
    lstm_units: int = 320
    """Units of the LSTM, in each direction."""
    hidden_units: int = 925
    dropout: float = 0.2
    """Behind the pool."""
    lstm_dropout: float = 0.5
    """Behind the LSTM."""

    def __post_init__(self) -> None:
        check_sizes(
            self,
            positive=("channels", "width", "pool", "lstm_units", "hidden_units"),
            shares=("dropout", "lstm_dropout"),
        )


def build_danq(config: DanQConfig, *, geometry: Geometry, num_tracks: int) -> LabelNetwork:
    """Build the network with random weights; raise InputError for a window too short for its pool."""
    local = nn.Sequential(
        MotifConv(4, config.channels, width=config.width),
        WholeMaxPool(config.pool),
        nn.Dropout(config.dropout),
    )
    positions = derive_positions(config.architecture, local, geometry)
    context = nn.Sequential(
        BidirectionalLSTM(config.channels, config.lstm_units),
        nn.Dropout(config.lstm_dropout),
    )
    head = DenseHead(2 * config.lstm_units * positions, [config.hidden_units], num_tracks)
    return LabelNetwork(local=local, context=context, head=head)
