"""Named heads: several species or assays predicted from one trunk."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cisray.errors import InputError


class NamedHeads(nn.Module):
    """Heads on one trunk, told apart by name: [B, C, N] to the rates [B, T, N] of the one that is asked for.

    All heads read the layers of `shared`; each is then one pointwise convolution and softplus.
    """

    def __init__(self, shared: nn.Module, channels: int, num_tracks: int | Mapping[str, int]) -> None:
        super().__init__()
        self.shared = shared
        self.tracks = nn.ModuleDict(
            {name: nn.Conv1d(channels, number, 1) for name, number in head_sizes(num_tracks).items()}
        )

    def forward(self, hidden: Tensor, name: str | None = None) -> Tensor:
        """Predict the rates of one head from `hidden` [B, C, N]; the only head needs no name."""
        tracks = self.named(name)
        hidden = self.shared(hidden)
        # bfloat16 has three digits: under autocast the rates are made in the weights' own precision
        whole = nullcontext() if hidden.is_meta else torch.autocast(hidden.device.type, enabled=False)
        with whole:
            return F.softplus(tracks(hidden.to(tracks.weight.dtype)))

    def named(self, name: str | None = None) -> nn.Conv1d:
        """Return the last layer of a head; raise InputError where no head or more than one is meant."""
        known = ", ".join(self.tracks)
        if name is None and len(self.tracks) > 1:
            raise InputError(f"this network has several heads; name one of {known}")
        if name is not None and name not in self.tracks:
            raise InputError(f"head {name!r} is not in this network; its heads are {known}")
        tracks = self.tracks[next(iter(self.tracks)) if name is None else name]
        assert isinstance(tracks, nn.Conv1d)
        return tracks

    def start_at(self, means: Sequence[float], name: str | None = None) -> None:
        """Make the first prediction of every track of a head its mean."""
        start_rates_at(self.named(name), means)


def head_sizes(num_tracks: int | Mapping[str, int]) -> dict[str, int]:
    """Return tracks per head; a plain number is one head called "tracks"."""
    sizes = {"tracks": num_tracks} if isinstance(num_tracks, int) else dict(num_tracks)
    if not sizes:
        raise InputError("num_tracks names no head; wanted a number of tracks, or one per head such as {human: 5313}")
    for name, number in sizes.items():
        if not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise InputError(f"head {name!r}; wanted a name of letters, digits and _, and none of torch's own words")
        if number < 1:
            raise InputError(f"head {name!r} has {number} tracks; wanted at least 1")
    return sizes


@torch.no_grad()
def start_rates_at(tracks: nn.Conv1d, means: Sequence[float]) -> None:
    """Make a layer before a softplus start at one mean per track, [T], almost whatever comes in."""
    levels = torch.tensor([max(1e-3, mean) for mean in means])  # 1e-3 for NaN too: a track without data
    assert tracks.bias is not None
    tracks.bias.copy_(levels + torch.log(-torch.expm1(-levels)))  # softplus's inverse
    nn.init.normal_(tracks.weight, std=0.01)
