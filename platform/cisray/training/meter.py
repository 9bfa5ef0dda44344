"""What steps cost: examples, waiting for input, arithmetic, memory."""

import resource
import sys
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from cisray.training.batches import Batch

# Dense bf16 tensor-core arithmetic by the makers' data sheets, in FLOP/s; the first name found in the device's counts.
# In float32 the libraries may take TF32 for a part, so that no peak is known.
BF16_PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}


class Meter:
    """Counts of one epoch's steps; `figures` tells what passed since it was last asked."""

    def __init__(self, *, device: torch.device, world: int, precision: str) -> None:
        self.device = device
        self.world = world
        self.peak = _peak(device, precision)
        self.examples = 0
        self.started = self.last_asked = time.monotonic()
        self._examples = 0
        self._waited_s = 0.0

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield batches, and count the examples and the host's time until each has come."""
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self._waited_s += time.monotonic() - asked
            if batch is None:
                return
            self.examples += len(batch.codes)
            self._examples += len(batch.codes)
            yield batch

    @property
    def examples_per_s(self) -> float:
        """Examples of all workers per second since the start."""
        return self.world * self.examples / max(1e-9, time.monotonic() - self.started)

    def figures(self, flop_per_example: float) -> dict[str, float]:
        """Return rates of all workers, this one's wait as a share of the time, and its largest memory in bytes.

        The share of the peak stands there where the device's peak is known.
        """
        now = time.monotonic()
        elapsed_s = max(1e-9, now - self.last_asked)
        rate = self._examples / elapsed_s  # of this worker
        figures = {
            "examples_per_s": self.world * rate,
            "input_wait_share": min(1.0, self._waited_s / elapsed_s),
            "peak_memory_bytes": _peak_memory_bytes(self.device),
        }
        if flop_per_example:
            figures["flop_per_s"] = self.world * rate * flop_per_example
            if self.peak is not None:
                figures["flop_utilisation"] = rate * flop_per_example / self.peak
        self.last_asked, self._examples, self._waited_s = now, 0, 0.0
        return figures


def count_flop(network: nn.Module, window_bp: int, *, head: str | None = None) -> float:
    """Count the arithmetic of learning from one window, forward and back, without doing any; 0 if it cannot be.

    What activation checkpointing computes again is not counted.
    """
    weights = {
        name: torch.empty_like(weight, device="meta", requires_grad=weight.requires_grad)
        for name, weight in network.named_parameters()
    }
    buffers = {name: torch.empty_like(buffer, device="meta") for name, buffer in network.named_buffers()}
    codes = torch.empty(2, window_bp, dtype=torch.uint8, device="meta")  # two, because batch norm refuses one
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.enable_grad():
            outputs = functional_call(network, weights | buffers, (codes,) if head is None else (codes, head))
            parts = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
            torch.stack([part.float().sum() for part in parts]).sum().backward()
    except (NotImplementedError, RuntimeError):  # an operation that knows no meta tensors
        return 0.0
    return counter.get_total_flops() / 2


def _peak(device: torch.device, precision: str) -> float | None:
    """Return the device's peak in FLOP/s where it is known."""
    if device.type != "cuda" or precision != "bf16":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in BF16_PEAKS.items() if part in name), None)


def _peak_memory_bytes(device: torch.device) -> float:
    """Return the most memory that tensors on a GPU took so far, or else the process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts KiB
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
