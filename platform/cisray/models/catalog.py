"""The architectures: their configurations, what builds them, and the sizes that were published.

A job names an architecture in its configuration; `build` makes the network. `describe` measures what a network costs,
without weights, on PyTorch's meta device.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models import borzoi, enformer
from cisray.models.basenji import BasenjiConfig, build_basenji
from cisray.models.basenji2 import Basenji2Config, build_basenji2
from cisray.models.basenji2018 import Basenji2018Config, build_basenji2018
from cisray.models.basset import BassetConfig, build_basset
from cisray.models.bpnet import CHROMBPNET, BPNetConfig, build_bpnet
from cisray.models.danq import DanQConfig, build_danq
from cisray.models.deepbind import DeepBindConfig, build_deepbind
from cisray.models.deepsea import DeepSEAConfig, build_deepsea
from cisray.models.expecto import ExPectoConfig, build_expecto
from cisray.models.framepool import FramePoolConfig, build_framepool
from cisray.models.heads import head_sizes
from cisray.models.layers import Network, one_hot
from cisray.models.optimus5prime import Optimus5PrimeConfig, build_optimus5prime
from cisray.models.tbinet import TBiNetConfig, build_tbinet

NetworkConfig = (
    BasenjiConfig
    | Basenji2Config
    | Basenji2018Config
    | BassetConfig
    | borzoi.BorzoiConfig
    | BPNetConfig
    | DanQConfig
    | DeepBindConfig
    | DeepSEAConfig
    | enformer.EnformerConfig
    | ExPectoConfig
    | FramePoolConfig
    | Optimus5PrimeConfig
    | TBiNetConfig
)
"""Any network's configuration, told apart by its `architecture` key."""

BUILDERS: dict[type, Callable[..., Network]] = {
    BasenjiConfig: build_basenji,
    Basenji2Config: build_basenji2,
    Basenji2018Config: build_basenji2018,
    BassetConfig: build_basset,
    borzoi.BorzoiConfig: borzoi.build_borzoi,
    BPNetConfig: build_bpnet,
    DanQConfig: build_danq,
    DeepBindConfig: build_deepbind,
    DeepSEAConfig: build_deepsea,
    enformer.EnformerConfig: enformer.build_enformer,
    ExPectoConfig: build_expecto,
    FramePoolConfig: build_framepool,
    Optimus5PrimeConfig: build_optimus5prime,
    TBiNetConfig: build_tbinet,
}


class Architecture(NamedTuple):
    """An architecture with the sizes it was published with."""

    name: str
    config: NetworkConfig
    geometry: Geometry
    num_tracks: int | Mapping[str, int]
    """Tracks, or tracks per named head."""
    paper: str


class Description(NamedTuple):
    """What a network reads, predicts and costs."""

    name: str
    window_bp: int
    bin_bp: int
    bins: int
    tracks: Mapping[str, int]
    """Tracks per head."""
    parameters: int
    """Weights of all heads together."""
    gflop: float
    """Floating-point operations per forward of one window through the first head, in 10^9: a multiplication and an
    addition are two."""
    local_share: float
    """Share of them in `local`, which scoring need not repeat for every variant of a window."""
    paper: str


_LABELS_OF_1000_BP = Geometry(window_bp=1000, bin_bp=200, crop_bins=2)
_COVERAGE_OF_131_KB = Geometry(window_bp=131_072, bin_bp=128, crop_bins=64)

ARCHITECTURES = (
    Architecture(
        name="deepbind",
        config=DeepBindConfig(),
        geometry=Geometry(window_bp=101, bin_bp=101),
        num_tracks=1,
        paper="Alipanahi et al. 2015, Nature Biotechnology 33:831",
    ),
    Architecture(
        name="deepsea",
        config=DeepSEAConfig(),
        geometry=_LABELS_OF_1000_BP,
        num_tracks=919,
        paper="Zhou and Troyanskaya 2015, Nature Methods 12:931",
    ),
    Architecture(
        name="basset",
        config=BassetConfig(),
        geometry=Geometry(window_bp=600, bin_bp=600),
        num_tracks=164,
        paper="Kelley, Snoek and Rinn 2016, Genome Research 26:990",
    ),
    Architecture(
        name="danq",
        config=DanQConfig(),
        geometry=_LABELS_OF_1000_BP,
        num_tracks=919,
        paper="Quang and Xie 2016, Nucleic Acids Research 44:e107",
    ),
    Architecture(
        name="expecto",
        config=ExPectoConfig(),
        geometry=Geometry(window_bp=2000, bin_bp=2000),
        num_tracks=2002,
        paper="Zhou et al. 2018, Nature Genetics 50:1171",
    ),
    Architecture(
        name="tbinet",
        config=TBiNetConfig(),
        geometry=_LABELS_OF_1000_BP,
        num_tracks=690,
        paper="Park et al. 2020, Scientific Reports 10:13413",
    ),
    Architecture(
        name="framepool",
        config=FramePoolConfig(),
        geometry=Geometry(window_bp=50, bin_bp=50),
        num_tracks=1,
        paper="Karollus, Avsec and Gagneur 2021, PLoS Computational Biology 17:e1008982",
    ),
    Architecture(
        name="optimus5prime",
        config=Optimus5PrimeConfig(),
        geometry=Geometry(window_bp=50, bin_bp=50),
        num_tracks=1,
        paper="Sample et al. 2019, Nature Biotechnology 37:803",
    ),
    Architecture(
        name="bpnet",
        config=BPNetConfig(),
        geometry=Geometry(window_bp=1000, bin_bp=1),
        num_tracks=8,  # Oct4, Sox2, Nanog and Klf4, two strands each
        paper="Avsec et al. 2021, Nature Genetics 53:354",
    ),
    Architecture(
        name="chrombpnet",
        config=CHROMBPNET,
        geometry=Geometry(window_bp=2114, bin_bp=1, crop_bins=CHROMBPNET.bases_lost),
        num_tracks=1,
        paper="Pampari et al. 2024, bioRxiv 2024.12.25.630221",
    ),
    Architecture(
        name="basenji2018",
        config=Basenji2018Config(),
        geometry=Geometry(window_bp=131_072, bin_bp=128, crop_bins=32),
        num_tracks=4229,
        paper="Kelley et al. 2018, Genome Research 28:739",
    ),
    Architecture(
        name="basenji2",
        config=Basenji2Config(),
        geometry=_COVERAGE_OF_131_KB,
        num_tracks={"human": 5313, "mouse": 1643},
        paper="Kelley 2020, PLoS Computational Biology 16:e1008050",
    ),
    Architecture(
        name="enformer",
        config=enformer.EnformerConfig(),
        geometry=enformer.GEOMETRY,
        num_tracks=enformer.TRACKS,
        paper="Avsec et al. 2021, Nature Methods 18:1196",
    ),
    Architecture(
        name="borzoi",
        config=borzoi.BorzoiConfig(),
        geometry=borzoi.GEOMETRY,
        num_tracks=borzoi.TRACKS,
        paper="Linder et al. 2025, Nature Genetics 57:949",
    ),
    Architecture(
        name="basenji",
        config=BasenjiConfig(),
        geometry=_COVERAGE_OF_131_KB,
        num_tracks=1,
        paper="the family of both, small by default",
    ),
)
"""All that can be built, in the order of their papers, with the sizes they were published with."""


def build(config: NetworkConfig, *, geometry: Geometry, num_tracks: int | Mapping[str, int]) -> Network:
    """Build the network of a configuration with random weights; only some architectures have several heads."""
    return BUILDERS[type(config)](config, geometry=geometry, num_tracks=num_tracks)


def find_architecture(name: str) -> Architecture:
    """Return the architecture of that name with its published sizes; raise InputError where there is none."""
    for architecture in ARCHITECTURES:
        if architecture.name == name:
            return architecture
    raise InputError(f"no architecture {name!r}; wanted one of {', '.join(each.name for each in ARCHITECTURES)}")


def settings_in_toml(config: NetworkConfig) -> list[str]:
    """Return what a job writes for this configuration, a line each: its name, and what differs from its defaults."""
    values, usual = dataclasses.asdict(config), dataclasses.asdict(type(config)())
    changed = {name: value for name, value in values.items() if name == "architecture" or value != usual[name]}
    return [f"{name} = {json.dumps(value)}" for name, value in changed.items()]


def describe(architecture: Architecture) -> Description:
    """Measure what a network reads, predicts and costs, without making its weights."""
    geometry = architecture.geometry
    heads = head_sizes(architecture.num_tracks)
    with torch.device("meta"):
        network = build(architecture.config, geometry=geometry, num_tracks=architecture.num_tracks).eval()
        codes = torch.empty(1, geometry.window_bp, dtype=torch.uint8)
        flop = _count_flop(lambda: network(codes) if len(heads) == 1 else network(codes, head=next(iter(heads))))
        local_flop = _count_flop(lambda: network.local(one_hot(codes, torch.float32)))
    return Description(
        name=architecture.name,
        window_bp=geometry.window_bp,
        bin_bp=geometry.bin_bp,
        bins=geometry.num_bins,
        tracks=heads,
        parameters=sum(weight.numel() for weight in network.parameters()),
        gflop=flop / 1e9,
        local_share=local_flop / flop,
        paper=architecture.paper,
    )


@torch.no_grad()
def _count_flop(run: Callable[[], object]) -> int:
    """Count the floating-point operations of matrix products and convolutions; the others are next to nothing."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
