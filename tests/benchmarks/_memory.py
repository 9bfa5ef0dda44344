"""Measure what activation checkpointing does to the memory of an Enformer's training step, at full length and depth.

Each way runs once, in a fresh process, which says its own peak: the kernel's high-water mark of resident memory
(VmHWM), less what was resident before the network was built. It counts what PyTorch's allocator does not, such as the
scratch space of convolutions; PyTorch keeps no peak for the CPU in any case. `ru_maxrss` would not do: a process
started by one that was larger begins with that one's peak.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from _live_memory import peak_bytes
from _table import Options, print_table, significant

from cisray.geometry import Geometry
from cisray.models import enformer
from cisray.models.catalog import build
from cisray.models.layers import Network
from cisray.training.loop import Learner
from cisray.training.spec import TrainSpec
from cisray.training.tasks import Goal

GIB = 2**30
BUDGET_GIB = 20.0
"""What the pass without checkpoints may take, at a scale of 1."""
CHANNELS = range(enformer.EnformerConfig().channels, 0, -64)
SHORTEST_BP = enformer.GEOMETRY.window_bp // 32
NUM_TRACKS = 5313
Way = Literal["none", "local", "context", "both"]
WAYS: tuple[Way, ...] = get_args(Way)


class Pass(NamedTuple):
    """How large an Enformer is, in full depth, and what it reads."""

    channels: int
    window_bp: int

    def build(self) -> Network:
        """Build the network with fresh weights, its heads and features in proportion to its width."""
        whole = enformer.EnformerConfig()
        config = enformer.EnformerConfig(channels=self.channels, width_multiple=32)
        assert config.transformer_blocks == whole.transformer_blocks
        tracks = max(1, NUM_TRACKS * self.channels // whole.channels)
        return build(config, geometry=self.geometry, num_tracks=tracks)

    @property
    def geometry(self) -> Geometry:
        """Return the published geometry, or the share of it that the window is."""
        published = enformer.GEOMETRY
        crop_bins = published.crop_bins * self.window_bp // published.window_bp
        return Geometry(window_bp=self.window_bp, bin_bp=published.bin_bp, crop_bins=crop_bins)

    def run(self, way: Way) -> float:
        """Go forward and backward once with one window, and return the seconds."""
        learner = Learner(self.build().train(), spec=TrainSpec(checkpoint_activations=way))
        codes = torch.randint(0, 4, (1, self.window_bp), dtype=torch.uint8)
        started = time.perf_counter()
        predictions = learner.forward(codes)
        Goal().terms(predictions, torch.ones_like(predictions)).backward()
        return time.perf_counter() - started


def bytes_needed(one: Pass, way: Way = "none") -> int:
    """Estimate what the pass takes, from a run that computes nothing."""
    return peak_bytes(lambda: one.run(way))


def pick_pass(budget: float) -> Pass:
    """Return the widest pass of full length within so many bytes; where none is, shorten the narrowest's window."""
    published = enformer.GEOMETRY.window_bp
    for channels in CHANNELS:
        if bytes_needed(one := Pass(channels, published)) <= budget:
            return one
    window_bp = published
    while window_bp > SHORTEST_BP and bytes_needed(Pass(CHANNELS[-1], window_bp)) > budget:
        window_bp //= 2
    return Pass(CHANNELS[-1], window_bp)


def measure_memory(options: Options) -> dict[str, float]:
    """Run the pass in every way, each in a process of its own, and print the peaks."""
    one = pick_pass(BUDGET_GIB * GIB * options.scale)
    # blocks from 64 kB on go back to the kernel when they are freed, so that resident memory is memory in use
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_TRIM_THRESHOLD_": str(2**16)}
    peaks, seconds = {}, {}
    for way in WAYS:
        command = [sys.executable, __file__, way, str(one.channels), str(one.window_bp)]
        told = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
        run = json.loads(told)
        peaks[way], seconds[way] = run["peak"] / GIB, run["seconds"]
    rows = [[way, f"{peaks[way]:.2f}", f"{peaks['none'] / peaks[way]:.2f}", significant(seconds[way])] for way in WAYS]
    title = f"Enformer, {one.window_bp} bp, full depth, {one.channels} channels, batch 1, float32: forward and backward"
    print_table(title, ["checkpoints in", "peak, GiB", "less by", "s"], rows)
    print(f"  counted in tensors: {', '.join(f'{way} {bytes_needed(one, way) / GIB:.2f} GiB' for way in WAYS)}")
    return (
        {"channels": one.channels, "length_share": one.window_bp / enformer.GEOMETRY.window_bp}
        | {f"{way}.peak_gib": peak for way, peak in peaks.items()}
        | {"peak_ratio": peaks["none"] / peaks["both"], "seconds_ratio": seconds["both"] / seconds["none"]}
    )


def resident(what: str) -> int:
    """Return bytes of this process's resident memory: "VmRSS" now, "VmHWM" at most so far."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:")) * 1024


def main() -> None:
    """Run one pass in this process, and say its peak and its seconds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("channels", type=int)
    parser.add_argument("window_bp", type=int)
    arguments = parser.parse_args()
    Pass(CHANNELS[-1], SHORTEST_BP).run("both")  # loads what is loaded at its first use
    before = resident("VmRSS")
    seconds = Pass(arguments.channels, arguments.window_bp).run(arguments.way)
    print(json.dumps({"peak": resident("VmHWM") - before, "seconds": seconds}))


if __name__ == "__main__":
    main()
