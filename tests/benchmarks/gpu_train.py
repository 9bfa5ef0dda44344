"""How many examples a second does a network of Basenji2's size learn from, in float32, tf32 and bf16?

Without a GPU the same code runs a toy on the CPU, whose figures say nothing but that it runs. Needs torch, NumPy and
the core of cisray; no Ray, no files. Batches come from pinned memory of the host, as they would from a reader.
"""

from collections.abc import Iterator
from functools import partial

import torch
from _network import Shape, pick_shape, precision_of, synchronize
from _table import finish, interleave, print_rates, print_table, rates_of, read_options

from cisray.training.loop import Batch, Feed, Learner, TrainSpec, Workers

STEPS = 10
BATCHES = 2


def make_batches(shape: Shape, device: torch.device) -> list[Batch]:
    """Draw random bases and counts on the host."""
    random = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(BATCHES):
        codes = torch.randint(0, 4, (shape.batch_size, shape.geometry.stored_bp), generator=random, dtype=torch.uint8)
        levels = torch.rand(shape.batch_size, shape.geometry.num_bins, shape.num_tracks, generator=random)
        batch = codes, torch.poisson(levels, generator=random)
        batches.append(tuple(part.pin_memory() for part in batch) if device.type == "cuda" else batch)
    return batches


class Contender:
    """A learner of one precision, and what its steps said."""

    def __init__(self, precision: str, shape: Shape, *, device: torch.device, steps: int) -> None:
        self.precision, self.device, self.steps = precision, device, steps
        self.batches = make_batches(shape, device)
        self.losses: list[float] = []
        self.peak_gb = 0.0
        torch.manual_seed(0)
        spec = TrainSpec(precision="bf16" if precision == "bf16" else "float32", batch_size=shape.batch_size)
        self.learner = Learner(shape.build().to(device).train(), spec=spec)
        swap = torch.arange(shape.num_tracks, device=device)
        self.feed = Feed(self.train_batches, lambda: iter(()), lambda epoch: steps, 0, swap)

    def train_batches(self, epoch: int, steps_done: int) -> Iterator[Batch]:
        """Give the same few batches again and again."""
        for step in range(steps_done, self.steps):
            yield self.batches[step % BATCHES]

    def __call__(self) -> None:
        """Take so many steps and wait for the last."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        workers = Workers(device=self.device)
        with precision_of(self.precision):
            losses = [
                self.learner.step(batch, self.feed, workers=workers, total_steps=10_000)
                for batch in self.feed.train(0, 0)
            ]
            synchronize(self.device)
        self.losses += torch.stack(losses).tolist()
        if self.device.type == "cuda":
            self.peak_gb = torch.cuda.max_memory_allocated() / 1e9


def main() -> None:
    """Run the benchmark."""
    options = read_options(__doc__, repeats=5)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = pick_shape(device)
    make = partial(Contender, shape=shape, device=device, steps=options.scaled(STEPS, at_least=2))
    contenders = {precision: make(precision) for precision in shape.precisions}
    seconds = interleave(contenders, repeats=options.repeats)
    amounts = {name: contender.steps * shape.batch_size for name, contender in contenders.items()}
    medians = print_rates(f"training, {shape}", rates_of(seconds, amounts), unit="examples", against="float32")
    rows = [[name, f"{one.losses[0]:.6f}", f"{one.losses[-1]:.6f}"] for name, one in contenders.items()]
    print_table(f"loss of the first step and of step {len(contenders['float32'].losses)}", ["", "first", "last"], rows)
    figures = {f"{name}.examples_per_s": rate for name, rate in medians.items()}
    others = (name for name in medians if name != "float32")
    figures |= {f"{name}_to_float32.ratio": medians[name] / medians["float32"] for name in others}
    if device.type == "cuda":
        # the weights and moments of the other contenders are in every peak
        print_table("peak memory", ["", "GB"], [[name, f"{one.peak_gb:.1f}"] for name, one in contenders.items()])
        figures |= {f"{name}.peak_gb": one.peak_gb for name, one in contenders.items()}
    finish("gpu_train", {f"gpu_train.{shape.name}.{key}": value for key, value in figures.items()})


if __name__ == "__main__":
    main()
