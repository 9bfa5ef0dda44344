"""What the networks that label a window have in common: convolutions without padding, pools, dense layers."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.layers import MaxPool, Network
from cisray.models.outputs import Link
from cisray.models.reach import reach_of


class LabelNetwork(Network):
    """A network that says one thing of a window per track: codes uint8 [B, L] to logits [B, 1, T].

    A logit's sigmoid is the probability of the label. The dense layers read the whole window, so nothing is cropped
    before them: the crop of the geometry only says which bases the label is about.
    """

    link: Link = "sigmoid"

    def __init__(self, *, local: nn.Module, context: nn.Module, head: nn.Module) -> None:
        super().__init__(local=local, context=context, head=head, crop_bins=0)


class MotifConv(nn.Sequential):
    """Convolution without padding, batch norm where asked for, ReLU: [B, C_in, L] to [B, C_out, L - width + 1]."""

    def __init__(self, channels_in: int, channels_out: int, *, width: int, norm: bool = False) -> None:
        super().__init__(
            nn.Conv1d(channels_in, channels_out, width),
            nn.BatchNorm1d(channels_out) if norm else nn.Identity(),
            nn.ReLU(),
        )


class WholeMaxPool(MaxPool):
    """The largest of every `pool` positions; positions at the end that fill no pool are left out."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Pool `hidden` [B, C, L] to [B, C, L // pool]."""
        return super().forward(hidden[:, :, : hidden.shape[2] // self.pool * self.pool])


class BidirectionalLSTM(nn.Module):
    """Read the positions in both directions: [B, C, P] to [B, 2 * units, P].

    The biases stand in the last column of the weights, for an input that is always 1: one bias per gate, as the LSTM
    was published, where torch's own has two that are only ever added.
    """

    def __init__(self, channels: int, units: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels + 1, units, bias=False, batch_first=True, bidirectional=True)
        with torch.no_grad():
            for name, weight in self.lstm.named_parameters():
                if name.startswith("weight_ih"):
                    weight[:, -1] = 0
                    weight[units : 2 * units, -1] = 1  # the forget gate starts open

    def forward(self, hidden: Tensor) -> Tensor:
        """Read `hidden` [B, C, P]."""
        steps = torch.cat([hidden, torch.ones_like(hidden[:, :1])], dim=1).transpose(1, 2)
        read: Tensor = self.lstm(steps)[0]
        return read.transpose(1, 2)


class DenseHead(nn.Module):
    """Dense layers over the whole window, then a logit per track: [B, C, P] to [B, T, 1]."""

    def __init__(
        self,
        inputs: int,
        hidden_units: Sequence[int],
        num_tracks: int,
        *,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.hidden = nn.Sequential()
        if input_dropout:
            self.hidden.append(nn.Dropout(input_dropout))
        for before, after in zip([inputs, *hidden_units], hidden_units, strict=False):
            self.hidden.append(nn.Linear(before, after))
            self.hidden.append(nn.BatchNorm1d(after) if norm else nn.Identity())
            self.hidden.append(nn.ReLU())
            self.hidden.append(nn.Dropout(dropout))
        self.tracks = nn.Linear([inputs, *hidden_units][-1], num_tracks)

    def forward(self, hidden: Tensor) -> Tensor:
        """Label `hidden` [B, C, P]."""
        hidden = hidden.flatten(1)
        for layer in self.hidden:
            if isinstance(layer, nn.BatchNorm1d) and layer.training and len(hidden) == 1:
                # what an epoch may end with has no variance of its own: the running one stands for it
                hidden = F.batch_norm(hidden, layer.running_mean, layer.running_var, layer.weight, layer.bias)
            else:
                hidden = layer(hidden)
        logits: Tensor = self.tracks(hidden)
        return logits[:, :, None]

    @torch.no_grad()
    def start_at(self, means: Sequence[float]) -> None:
        """Make every track's first probability the share of windows that have its label."""
        shares = torch.tensor(means).nan_to_num(0.0).clamp(1e-3, 1 - 1e-3)  # NaN: a track without data
        self.tracks.bias.copy_(torch.logit(shares))
        nn.init.normal_(self.tracks.weight, std=0.01)


def check_one_label(architecture: str, geometry: Geometry) -> None:
    """Raise InputError where the geometry has several bins to label: these networks say one thing of a window."""
    if geometry.num_bins != 1:
        raise InputError(
            f"{architecture} labels a window as a whole, but the geometry has {geometry.num_bins} bins; wanted one: "
            "choose bin_bp and crop_bins so that one bin is left in the middle"
        )


def derive_positions(architecture: str, local: nn.Module, geometry: Geometry) -> int:
    """Return the positions that a `local` without padding leaves of a window; they fix the sizes of the dense layers.

    Raises InputError where the window is too short for the convolutions and pools, or has several bins to label.
    """
    check_one_label(architecture, geometry)
    (reach,) = reach_of(local)
    least_bp = reach.end_bp - reach.start_bp  # what one position reads
    if geometry.window_bp < least_bp:
        raise InputError(
            f"{architecture}: a window of {geometry.window_bp} bp is too short for its convolutions and pools; "
            f"wanted at least {least_bp} bp, or narrower ones"
        )
    return (geometry.window_bp - least_bp) // reach.stride_bp + 1
