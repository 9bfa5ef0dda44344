"""DeepBind: motif detectors, the best match of each in the window, and a small network over them.

Source: Alipanahi et al. 2015 (Nature Biotechnology 33:831).
"""

from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from cisray.config import STRICT
from cisray.geometry import Geometry
from cisray.models.labels import DenseHead, LabelNetwork, check_one_label
from cisray.models.sizes import check_sizes


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DeepBindConfig:
    """Sizes of the network; what the dataset fixes (window, tracks) is not repeated here."""

    architecture: Literal["deepbind"] = "deepbind"
    motifs: int = 16
    """Motif detectors."""
    motif_width: int = 24
    pooling: Literal["max", "max_average"] = "max"
    """What is kept of a detector's matches: the best, as for DNA, or the best and the mean, as for RNA."""
    hidden_units: int = 0
    """Units between the matches and the answer, 32 where published; 0 leaves them out."""
    dropout: float = 0.5
    """Behind the hidden units."""

    def __post_init__(self) -> None:
        check_sizes(self, positive=("motifs", "motif_width"), shares=("dropout",))
        if self.hidden_units:
            check_sizes(self, positive=("hidden_units",))


class WindowPool(nn.Module):
    """The largest value in the window, and the mean where asked for: [B, C, L] to [B, C or 2 C, 1]."""

    def __init__(self, *, average: bool) -> None:
        super().__init__()
        self.average = average

    def forward(self, hidden: Tensor) -> Tensor:
        """Pool `hidden` [B, C, L]."""
        best = hidden.amax(dim=2, keepdim=True)
        return torch.cat([best, hidden.mean(dim=2, keepdim=True)], dim=1) if self.average else best


def build_deepbind(config: DeepBindConfig, *, geometry: Geometry, num_tracks: int) -> LabelNetwork:
    """Build the network with random weights; any window will do."""
    check_one_label(config.architecture, geometry)
    local = nn.Sequential(
        # a motif may hang over the ends, where each base is as likely as the others
        nn.ConstantPad1d(config.motif_width - 1, 0.25),
        nn.Conv1d(4, config.motifs, config.motif_width),
        nn.ReLU(),
    )
    average = config.pooling == "max_average"
    hidden_units = [config.hidden_units] if config.hidden_units else []
    head = DenseHead(config.motifs * (1 + average), hidden_units, num_tracks, dropout=config.dropout)
    return LabelNetwork(local=local, context=WindowPool(average=average), head=head)
