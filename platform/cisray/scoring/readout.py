"""Turn what a network's head returns into predictions: natural scale, forward strand, the tracks asked for."""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cisray.datasets.transforms import Transforms, to_natural
from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.bpnet import ProfileHead
from cisray.models.heads import NamedHeads
from cisray.models.outputs import Link, ProfileAndCount, apply_link


class Model(NamedTuple):
    """A network, and what makes predictions of its outputs."""

    network: nn.Module
    link: Link
    transforms: Transforms | None
    """Of the tracks; None where predictions are on the natural scale already."""
    swap: NDArray[np.integer] | None
    """Each track's partner on the other strand, [T]; None where no track has a strand."""
    geometry: Geometry
    num_tracks: int


class Readout:
    """From a head's outputs of all bins, or of a run of them, to predictions [B, N, T]."""

    def __init__(self, model: Model, tracks: Sequence[int] | None, *, both: bool) -> None:
        num_tracks = model.num_tracks
        partners = np.arange(num_tracks) if model.swap is None else np.asarray(model.swap, np.int64)
        _check_pairing(partners, num_tracks)
        asked = np.arange(num_tracks) if tracks is None else np.asarray(tracks, np.int64)
        if asked.size == 0 or asked.min() < 0 or asked.max() >= num_tracks:
            raise InputError(
                f"tracks {asked.tolist()[:10]} of a model with {num_tracks}; wanted one or more, "
                f"from 0 to {num_tracks - 1}"
            )
        predicted = np.unique(np.concatenate([asked, partners[asked]]) if both else asked)
        self.head: nn.Module | None = None
        """The network's head with only the tracks that are needed; None where it cannot be cut, or need not be."""
        head = getattr(model.network, "head", None)
        if isinstance(head, nn.Module) and len(predicted) < num_tracks:
            self.head = with_tracks(head, torch.from_numpy(predicted))
        if self.head is None:
            predicted = np.arange(num_tracks)
        self.link = model.link
        self.shape = model.geometry.num_bins, len(predicted)
        device = next(model.network.parameters()).device
        dtype = next(model.network.parameters()).dtype
        # a count multiplies a whole profile: its rounding would not average out
        is_profile = model.link == "profile"
        self.dtype = torch.float64 if is_profile else torch.promote_types(dtype, torch.float32)
        self.transforms = model.transforms and Transforms(*(each[predicted] for each in model.transforms))
        self._columns = [
            None
            if np.array_equal(wanted, predicted)
            else torch.from_numpy(np.searchsorted(predicted, wanted)).to(device)
            for wanted in (asked, partners[asked])
        ]

    def __call__(self, outputs: Tensor | ProfileAndCount, *, reverse: bool) -> Tensor:
        """Predict [B, N, T]; bins read on the other strand come in their forward order."""
        predictions = apply_link(outputs, self.link, dtype=self.dtype)
        num_bins, num_tracks = self.shape
        if predictions.ndim != 3 or predictions.shape[1] > num_bins or predictions.shape[2] != num_tracks:
            raise InputError(
                f"the model gave predictions {tuple(predictions.shape)}; wanted [windows, {num_bins}, {num_tracks}], "
                "as its geometry and its tracks say"
            )
        if self.transforms is not None:
            predictions = to_natural(predictions, self.transforms)
        if reverse:
            predictions = predictions.flip(1)
        columns = self._columns[reverse]
        return predictions if columns is None else predictions[:, :, columns]


def with_head(network: nn.Module, name: str) -> nn.Module:
    """Return a network that shares its weights with one of several heads, and has the one of that name alone."""
    cut, head = copy.copy(network), network.head
    assert isinstance(head, NamedHeads)
    alone = copy.copy(head)
    alone._modules = dict(head._modules)
    alone.tracks = nn.ModuleDict({name: head.named(name)})
    cut._modules = dict(network._modules)
    cut.head = alone
    return cut


def with_tracks(head: nn.Module, tracks: Tensor) -> nn.Module | None:
    """Return a head that shares all but its last layer and predicts only some tracks; None where it cannot be cut."""
    cut = copy.copy(head)
    cut._modules = dict(head._modules)
    if isinstance(head, NamedHeads):
        if len(head.tracks) > 1:
            return None
        ((name, last),) = head.tracks.items()
        cut.tracks = nn.ModuleDict({name: _rows(last, tracks)})
        return cut
    names = ("profile", "counts") if isinstance(head, ProfileHead) else ("tracks",)
    for name in names:
        layer = getattr(head, name, None)
        if not isinstance(layer, nn.Conv1d | nn.Linear):
            return None
        setattr(cut, name, _rows(layer, tracks))
    return cut


def _rows(layer: nn.Module, tracks: Tensor) -> nn.Module:
    """Return a convolution or linear layer with some of its outputs."""
    assert isinstance(layer, nn.Conv1d | nn.Linear)
    cut = copy.copy(layer)
    chosen = tracks.to(layer.weight.device)
    cut._parameters = {
        name: None if values is None else nn.Parameter(values.detach()[chosen], requires_grad=False)
        for name, values in layer._parameters.items()
    }
    if isinstance(cut, nn.Conv1d):
        cut.out_channels = len(tracks)
    else:
        cut.out_features = len(tracks)
    return cut


def _check_pairing(partners: NDArray[np.int64], num_tracks: int) -> None:
    if (
        partners.shape != (num_tracks,)
        or partners.min() < 0
        or partners.max() >= num_tracks
        or (partners[partners] != np.arange(num_tracks)).any()
    ):
        raise InputError(
            f"swap={partners.tolist()[:10]} does not pair {num_tracks} tracks; wanted one partner per track, "
            "its own index for a track without a strand"
        )
