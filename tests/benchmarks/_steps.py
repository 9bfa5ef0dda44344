"""Time the training loop's steps beside a bare PyTorch loop over tensors in memory, and what it waits for its input.

Both train a Basenji2 of a quarter of the published width on 131 kb windows, with as many threads. The bare loop does
what none can leave out: forward, loss, backward, clipping, AdamW. `training.loop.fit` takes its batches from the same
tensors in one run, and from a dataset on disk in the other; it also turns examples to the other strand, sets the
rate and reports.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from _table import Marks, Options, interleave, print_rates
from read import Case, write_dataset
from torch import nn

from cisray.datasets.reading import read_epoch, read_order
from cisray.datasets.schema import layout_of
from cisray.geometry import Geometry
from cisray.models.basenji2 import Basenji2Config
from cisray.models.catalog import build
from cisray.training.batches import Batch
from cisray.training.loop import Learned, Learner, fit
from cisray.training.spec import TrainSpec
from cisray.training.tasks import Feed, Task

STEPS = 2
"""Of a run: few, so that the contenders take turns often, and what disturbs the machine disturbs all."""
RUNS = 4
"""Of each contender, per repeat."""
BATCH_SIZE = 2
QUARTER = Basenji2Config(stem_channels=72, channels=192, dilated_channels=96, head_channels=384)
CASE = Case(
    name="basenji2_quarter",
    rows=STEPS * BATCH_SIZE,
    batch_size=BATCH_SIZE,
    geometry=Geometry(window_bp=131_072, bin_bp=128, crop_bins=64),
    tracks=5313 // 4,
    kind="coverage",
    target_type="<f2",
)


class BareLoop:
    """The loop as anyone would write it, and its examples per second, one per run."""

    def __init__(self, batches: list[Batch], *, spec: TrainSpec) -> None:
        self.network = build_quarter()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=spec.learning_rate)
        self.batches, self.clip_norm = batches, spec.clip_norm
        self.rates: list[float] = []

    def __call__(self) -> None:
        """Take a step per batch."""
        self.network.train()
        started = time.perf_counter()
        for codes, targets, _ in self.batches:
            loss = F.poisson_nll_loss(self.network(codes), targets, log_input=False)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), self.clip_norm)
            self.optimizer.step()
        self.rates.append(sum(len(batch.codes) for batch in self.batches) / (time.perf_counter() - started))


class Loop:
    """`fit` over an epoch of batches: its examples per second and the share of time it waited, one per run."""

    def __init__(self, make_batches: Callable[[], Iterator[Batch]], *, spec: TrainSpec) -> None:
        self.learner = Learner(build_quarter(), spec=spec)
        swap = torch.arange(CASE.tracks)
        self.feed = Feed(
            lambda epoch, steps_done: make_batches(),
            lambda: iter(()),
            lambda epoch: STEPS,
            {None: Task(swap, CASE.geometry.margin_bp)},
        )
        self.examples = STEPS * spec.batch_size
        self.rates: list[float] = []
        self.wait_shares: list[float] = []

    def __call__(self) -> None:
        """Train for an epoch; the clock stops at the report of the last step, before validation."""
        self.learner.learned = Learned()  # the optimizer keeps its moments, as the bare loop's does
        marks = Marks()
        started = time.perf_counter()
        fit(self.learner, self.feed, save=lambda learner: None, report=marks)
        reports = [(when, told.figures) for when, told in marks.told if told.stage == "train"]
        self.rates.append(self.examples / (reports[-1][0] - started))
        self.wait_shares.append(max(figures["input_wait_share"] for _, figures in reports))


def build_quarter() -> nn.Module:
    """Build the network, its weights the same every time."""
    torch.manual_seed(0)
    return build(QUARTER, geometry=CASE.geometry, num_tracks=CASE.tracks)


def compare_loops(folder: Path, options: Options) -> dict[str, float]:
    """Time both loops in memory, and cisray's on a dataset too."""
    card = write_dataset(folder, CASE, CASE.rows)
    spec = TrainSpec(epochs=1, batch_size=BATCH_SIZE, warmup_steps=0)
    order = read_order(folder / "binary", card, "train", seed=spec.seed)

    def read() -> Iterator[Batch]:
        for examples in read_epoch(order, 0, layout_of(card), batch_size=BATCH_SIZE):
            yield Batch(torch.from_numpy(examples.codes), torch.from_numpy(examples.targets).float())

    in_memory = list(islice(read(), STEPS))
    bare = BareLoop(in_memory, spec=spec)
    loops = {
        "cisray, in memory": Loop(partial(iter, in_memory), spec=spec),
        "cisray, reading": Loop(lambda: islice(read(), STEPS), spec=spec),
    }
    interleave({"bare": bare, **loops}, repeats=options.repeats * options.scaled(RUNS))
    del bare.rates[0]  # the warm-up
    for loop in loops.values():
        del loop.rates[0], loop.wait_shares[0]
    title = f"Basenji2 at a quarter of its width, 131 kb, {CASE.tracks} tracks, batch {BATCH_SIZE}, {STEPS} steps a run"
    rates = {"bare": bare.rates} | {name: loop.rates for name, loop in loops.items()}
    medians = print_rates(title, rates, unit="examples", against="bare")
    wait_share = max(loops["cisray, reading"].wait_shares)
    print(f"  waiting for input when reading: {wait_share:.2%} of the time at most; {torch.get_num_threads()} threads")
    return {
        "examples_per_s": medians["cisray, reading"],
        "bare_loop.examples_per_s": medians["bare"],
        "share_of_bare_loop": medians["cisray, in memory"] / medians["bare"],
        "reading.share_of_bare_loop": medians["cisray, reading"] / medians["bare"],
        "input_wait_share": wait_share,
    }
