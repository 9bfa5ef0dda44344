"""TBiNet: convolutions of several widths, a bidirectional LSTM, and attention to the positions that matter.

Source: Park et al. 2020 (Scientific Reports 10:13413).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

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
class TBiNetConfig:
    """Sizes of the network; what the dataset fixes (window, tracks) is not repeated here."""

    architecture: Literal["tbinet"] = "tbinet"
    channels: int = 64
    """Kernels of each width."""
    widths: tuple[int, ...] = (8, 12, 16, 20, 24)
    pool: int = 13
    lstm_units: int = 320
    """Units of the LSTM, in each direction."""
    attention_units: int = 100
    """Attentions over the positions, of which the mean is taken."""
    hidden_units: int = 695
    dropout: float = 0.2
    """Behind the pool."""
    lstm_dropout: float = 0.5
    """Behind the LSTM."""

    def __post_init__(self) -> None:
        check_sizes(
            self,
            positive=("channels", "widths", "pool", "lstm_units", "attention_units", "hidden_units"),
            shares=("dropout", "lstm_dropout"),
        )


class WidthsConv(nn.Module):
    """Convolutions of several widths beside each other, cut to where the widest ends: [B, 4, L] to [B, C, L']."""

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(MotifConv(4, channels, width=width) for width in widths)
        self.widest = max(widths)

    def forward(self, hidden: Tensor) -> Tensor:
        """Convolve `hidden` [B, 4, L]; position p of each branch begins at base p."""
        positions = hidden.shape[2] - self.widest + 1
        return torch.cat([branch(hidden)[:, :, :positions] for branch in self.branches], dim=1)


class PositionAttention(nn.Module):
    """Weigh every position by a softmax over the positions, the mean of several: [B, C, P] to [B, C, P]."""

    def __init__(self, channels: int, units: int) -> None:
        super().__init__()
        self.scores = nn.Linear(channels, units)

    def forward(self, hidden: Tensor) -> Tensor:
        """Weigh `hidden` [B, C, P]."""
        weights = torch.softmax(self.scores(hidden.transpose(1, 2)), dim=1).mean(dim=2)  # [B, P]
        return hidden * weights[:, None, :]


def build_tbinet(config: TBiNetConfig, *, geometry: Geometry, num_tracks: int) -> LabelNetwork:
    """Build the network with random weights; raise InputError for a window too short for its pool."""
    local = nn.Sequential(
        WidthsConv(config.channels, config.widths),
        WholeMaxPool(config.pool),
        nn.Dropout(config.dropout),
    )
    positions = derive_positions(config.architecture, local, geometry)
    context = nn.Sequential(
        BidirectionalLSTM(config.channels * len(config.widths), config.lstm_units),
        nn.Dropout(config.lstm_dropout),
        PositionAttention(2 * config.lstm_units, config.attention_units),
    )
    head = DenseHead(2 * config.lstm_units * positions, [config.hidden_units], num_tracks)
    return LabelNetwork(local=local, context=context, head=head)
