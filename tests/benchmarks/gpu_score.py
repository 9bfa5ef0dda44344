"""How many variants a second does a network of Basenji2's size score, and what does precision do to the scores?

`score_pairs` in float32, tf32 and bf16 beside one variant at a time in float32. Without a GPU the same code runs a toy
on the CPU, whose figures say nothing but that it runs. Needs torch, NumPy and the core of cisray; no Ray, no files.
"""

import numpy as np
import torch
from _network import Shape, pick_shape, precision_of, settle, synchronize
from _table import finish, interleave, print_rates, print_table, rates_of, read_options
from torch import Tensor

from cisray.scoring.effects import SCORES
from cisray.scoring.engine import score_pairs

BATCH_SIZE = 8
FORWARDS = 6
"""Forwards of each allele, per run."""
ALONE = 8
"""Variants that are scored one at a time."""


class Contender:
    """A way to score window pairs, and what it found."""

    def __init__(self, network: torch.nn.Module, pairs: tuple[np.ndarray, np.ndarray], *, precision: str) -> None:
        self.network, self.precision = network, precision
        self.reference, self.alternate = pairs
        self.device = next(network.parameters()).device
        self.values: dict[str, np.ndarray] = {}
        """Per score [V, T], of the last run."""

    def predict(self, codes: Tensor) -> Tensor:
        """Predict in the contender's precision."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.network(codes.to(self.device)).float()

    def in_batches(self) -> None:
        """Score all pairs as cisray does."""
        with precision_of(self.precision):
            found = score_pairs(
                self.predict,
                self.reference,
                self.alternate,
                scores=SCORES,
                strands="forward",
                batch_size=BATCH_SIZE,
            )
            synchronize(self.device)
        self.values = found.values

    @torch.inference_mode()
    def one_at_a_time(self) -> None:
        """Score each pair with two forwards of one row."""
        found: dict[str, list[Tensor]] = {name: [] for name in SCORES}
        with precision_of(self.precision):
            for pair in zip(self.reference, self.alternate, strict=True):
                reference, alternate = (self.predict(torch.from_numpy(codes[None])) for codes in pair)
                for name, score in SCORES.items():
                    found[name].append(score.function(reference, alternate).cpu())
        self.values = {name: torch.cat(parts).numpy() for name, parts in found.items()}


def make_pairs(window_bp: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw windows, and for each the one with another base in its middle."""
    random = np.random.default_rng(0)
    reference = random.integers(0, 4, (count, window_bp), np.uint8)
    alternate = reference.copy()
    alternate[:, window_bp // 2] = (alternate[:, window_bp // 2] + random.integers(1, 4, count)) % 4
    return reference, alternate


def make_contenders(shape: Shape, *, device: torch.device, count: int, alone: int) -> dict[str, Contender]:
    """Give all contenders the same network and pairs, the first of them for one at a time."""
    torch.manual_seed(0)
    codes = torch.randint(0, 4, (2, shape.geometry.window_bp), dtype=torch.uint8)
    network = settle(shape.build().to(device), codes.to(device))
    reference, alternate = make_pairs(shape.geometry.window_bp, count)
    contenders = {name: Contender(network, (reference, alternate), precision=name) for name in shape.precisions}
    first = (reference[:alone], alternate[:alone])
    return {"one at a time": Contender(network, first, precision="float32")} | contenders


def print_differences(contenders: dict[str, Contender]) -> dict[str, float]:
    """Print how far every contender's scores lie from those of float32 in batches."""
    rows, figures = [], {}
    for contender, one in contenders.items():
        for name, values in one.values.items():
            wanted = contenders["float32"].values[name][: len(values)]
            share = float(np.abs(values - wanted).max() / np.abs(wanted).max())
            if contender != "float32":
                rows.append([contender, name, f"{np.abs(values - wanted).max():.1e}", f"{share:.1e}"])
                figures[f"{contender}.{name}.largest_relative_difference".replace(" ", "_")] = share
    print_table("largest difference from float32 in batches", ["", "score", "absolute", "of the largest score"], rows)
    return figures


def main() -> None:
    """Run the benchmark."""
    options = read_options(__doc__, repeats=5)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = pick_shape(device)
    count = options.scaled(FORWARDS) * (BATCH_SIZE - 1)
    contenders = make_contenders(shape, device=device, count=count, alone=min(count, options.scaled(ALONE)))
    runs = {name: one.in_batches for name, one in contenders.items()}
    seconds = interleave(runs | {"one at a time": contenders["one at a time"].one_at_a_time}, repeats=options.repeats)
    rates = rates_of(seconds, {name: len(one.reference) for name, one in contenders.items()})
    title = f"scoring, {shape.name}, {shape.geometry.window_bp} bp, {BATCH_SIZE} windows per forward"
    medians = print_rates(title, rates, unit="variants", against="one at a time")
    figures = {f"{name}.variants_per_s".replace(" ", "_"): rate for name, rate in medians.items()}
    figures["batches_to_one_at_a_time.ratio"] = medians["float32"] / medians["one at a time"]
    figures |= {
        f"{name}_to_float32.ratio": medians[name] / medians["float32"] for name in shape.precisions if name != "float32"
    }
    figures |= print_differences(contenders)
    finish("gpu_score", {f"gpu_score.{shape.name}.{key}": value for key, value in figures.items()})


if __name__ == "__main__":
    main()
