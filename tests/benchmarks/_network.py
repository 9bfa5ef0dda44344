"""Make networks for benchmarks that need no data: shapes, weights through which effects pass, precisions."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cisray.geometry import Geometry
from cisray.models.basenji import BasenjiConfig, build_basenji


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How large a network is, and what it is run on."""

    name: str
    geometry: Geometry
    config: BasenjiConfig
    num_tracks: int
    batch_size: int
    precisions: tuple[str, ...]

    def __str__(self) -> str:
        geometry = self.geometry
        return (
            f"{self.name}: {geometry.window_bp} bp, {geometry.num_bins} bins of {geometry.bin_bp} bp, "
            f"{self.num_tracks} tracks, batch {self.batch_size}"
        )

    def build(self) -> nn.Module:
        """Build the network with fresh weights."""
        return build_basenji(self.config, geometry=self.geometry, num_tracks=self.num_tracks)


BASENJI2 = Shape(
    name="basenji2",
    geometry=Geometry(window_bp=131_072, bin_bp=128, crop_bins=64),
    config=BasenjiConfig(
        stem_channels=288,
        channels=768,
        dilated_layers=11,
        dilated_channels=384,
        dilation_rate=1.5,
        head_channels=1536,
    ),
    num_tracks=5313,
    batch_size=4,
    precisions=("float32", "tf32", "bf16"),
)
TOY = Shape(
    name="toy",
    geometry=Geometry(window_bp=2048, bin_bp=128, crop_bins=4),
    config=BasenjiConfig(
        stem_channels=16, channels=24, dilated_layers=3, dilated_channels=12, dilation_rate=1.5, head_channels=48
    ),
    num_tracks=20,
    batch_size=4,
    precisions=("float32", "bf16"),
)


def pick_shape(device: torch.device) -> Shape:
    """Take Basenji2's size on a GPU, a toy's on a CPU, and say so."""
    if device.type == "cuda":
        return BASENJI2
    torch.set_num_threads(1)  # threads of so small a network only wait for each other
    print("no GPU here: a toy on the CPU, without tf32; these figures say nothing of a GPU")
    return TOY


@contextmanager
def precision_of(name: str) -> Iterator[None]:
    """Let float32 be float32, or be rounded to tf32 where `name` says so; what was set before comes back."""
    places = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "tf32" if name == "tf32" else "ieee"
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


def synchronize(device: torch.device) -> None:
    """Wait for what the device still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def settle(network: nn.Module, codes: Tensor) -> nn.Module:
    """Give a fresh network norms as a trained one has them, so that every layer passes on what changes.

    Fresh norms let deep layers fade and residual blocks do nothing; scores would be rounding alone.
    """
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm1d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            norm.momentum = 1.0
    network.train()(codes)
    return network.eval()
