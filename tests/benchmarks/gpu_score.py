"""How many variants a second does the engine score on a GPU, against full forwards, and what does precision do?

Enformer and Basenji2 as published, 16 variants per window, `scoring.engine` against two full forwards per variant, in
float32 and bf16. Without a GPU the same code runs a toy on the CPU, whose figures say nothing but that it runs. Needs
torch, NumPy and the core of cisray; no Ray, no files.
"""

import numpy as np
import torch
from _network import synchronize
from _scoring import Case, FullForwards, some_windows, variants_of
from _table import Options, finish, interleave, print_rates, print_table, rates_of, read_options

from cisray.geometry import Geometry
from cisray.models.basenji2 import Basenji2Config
from cisray.models.enformer import EnformerConfig

PER_WINDOW = 16
WINDOWS = 8
"""Windows per run of the engine."""
PRECISIONS = ("float32", "bf16")
PUBLISHED = (
    Case(
        name="enformer",
        config=EnformerConfig(),
        geometry=Geometry(window_bp=196_608, bin_bp=128, crop_bins=320),
        num_tracks=5313,
        mask="center(501)",
        batch_size=32,
        full_batch=8,
    ),
    Case(
        name="basenji2",
        config=Basenji2Config(),
        geometry=Geometry(window_bp=131_072, bin_bp=128, crop_bins=64),
        num_tracks=5313,
        mask="center(501)",
        batch_size=32,
        full_batch=16,
    ),
)
TOYS = (
    Case(
        name="toy",
        config=Basenji2Config(stem_channels=16, channels=24, dilated_layers=5, dilated_channels=12, head_channels=32),
        geometry=Geometry(window_bp=8192, bin_bp=128, crop_bins=8),
        num_tracks=20,
        mask="center(501)",
        batch_size=8,
        full_batch=8,
    ),
)


class Contender:
    """A way to score the same variants again and again, and what it found."""

    def __init__(self, case: Case, network: torch.nn.Module, *, precision: str, fast: bool, windows: int) -> None:
        self.device = next(network.parameters()).device
        self.windows = some_windows(case, per_window=PER_WINDOW, count=windows)
        self.fast = fast
        compiled = self.device.type == "cuda"
        self.engine = case.engine(network, precision=precision, compiled=compiled)
        self.full = FullForwards(case, network, precision=precision, compiled=compiled)
        self.values: dict[str, np.ndarray] = {}
        """Per score [V, T], of the last run."""

    def __call__(self) -> None:
        """Score all variants."""
        if self.fast:
            scored = list(self.engine.score(self.windows))
            self.values = {name: np.concatenate([one.values[name] for one in scored]) for name in scored[0].values}
        else:
            self.values = self.full.score(variants_of(self.windows))
        synchronize(self.device)


def print_differences(contenders: dict[str, Contender], exact: str) -> dict[str, float]:
    """Print how far every contender's scores lie from those of full forwards in float32."""
    rows, figures = [], {}
    for contender, one in contenders.items():
        for name, values in one.values.items():
            wanted = contenders[exact].values[name]
            count = min(len(values), len(wanted))
            share = float(np.abs(values[:count] - wanted[:count]).max() / np.abs(wanted[:count]).max())
            if contender != exact:
                floor = f"{one.engine.noise_floor[name]:.1e}" if one.fast else "–"
                rows.append([contender, name, f"{share:.1e}", floor])
                figures[f"{contender}.{name}.largest_relative_difference".replace(" ", "_")] = share
    print_table(f"largest difference from {exact}", ["", "score", "of the largest score", "noise floor"], rows)
    return figures


def compare(case: Case, device: torch.device, options: Options) -> dict[str, float]:
    """Time all contenders, and hold their scores against each other."""
    network = case.build(device)
    contenders = {}
    for precision in PRECISIONS:
        for name, fast, windows in (("engine", True, options.scaled(WINDOWS)), ("full forwards", False, 1)):
            contenders[f"{name} {precision}"] = Contender(
                case, network, precision=precision, fast=fast, windows=windows
            )
    seconds = interleave(contenders, repeats=options.repeats)
    rates = rates_of(seconds, {name: len(variants_of(one.windows)) for name, one in contenders.items()})
    title = f"{case.name}, {case.geometry.window_bp} bp, {PER_WINDOW} variants per window"
    medians = print_rates(title, rates, unit="variants", against="full forwards float32")
    figures = {f"{name}.variants_per_s".replace(" ", "_"): rate for name, rate in medians.items()}
    for precision in PRECISIONS:
        figures[f"{precision}.ratio"] = medians[f"engine {precision}"] / medians[f"full forwards {precision}"]
    figures |= print_differences(contenders, "full forwards float32")
    return {f"{case.name}.{key}": value for key, value in figures.items()}


def main() -> None:
    """Run the benchmark."""
    options = read_options(__doc__, repeats=5)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)  # threads of so small a network only wait for each other
        print("no GPU here: a toy on the CPU; these figures say nothing of a GPU")
    figures: dict[str, float] = {}
    for case in PUBLISHED if device.type == "cuda" else TOYS:
        figures |= compare(case, device, options)
    finish("gpu_score", {f"gpu_score.{key}": value for key, value in figures.items()})


if __name__ == "__main__":
    main()
