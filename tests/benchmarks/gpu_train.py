"""How many examples a second do Enformer, Basenji2 and BPNet learn from, and how much of the device is that?

Each learns in float32, in bf16, and on a GPU in bf16 with compiled kernels; Enformer beside enformer-pytorch, run
eagerly on the same batches as its README shows, and under autocast to bf16 too. "utilisation" is the arithmetic that
one example needs, forward and back, times the examples per second, over the rate of a large bf16 matrix product on the
same device just before; what a contender computes beyond that counts for nothing.

Without a GPU the same code runs toys on the CPU, whose figures say nothing but that it runs. Needs torch, NumPy and
the core of cisray; no Ray, no files; without enformer-pytorch its rows are left out. Batches come from pinned memory
of the host, as they would from a reader.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, Literal, NamedTuple, get_args

import torch
from _network import precision_of, synchronize
from _table import Options, finish, interleave, print_table, rates_of, read_options, seconds_of, significant
from torch import Tensor, nn

from cisray.geometry import Geometry
from cisray.goals import ObjectiveSpec, make_goal
from cisray.models.basenji2 import Basenji2Config
from cisray.models.bpnet import BPNetConfig
from cisray.models.catalog import Architecture, build, find_architecture
from cisray.models.enformer import EnformerConfig
from cisray.training.batches import Batch
from cisray.training.loop import Learner
from cisray.training.meter import count_flop
from cisray.training.spec import TrainSpec
from cisray.training.tasks import Feed, Task, Workers

Precision = Literal["float32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
STEPS = 10
BATCHES = 2
PRODUCTS = 20


class Case(NamedTuple):
    """A network of one head, and how many examples a step has."""

    name: str
    config: Any
    geometry: Geometry
    tracks: int
    batch_size: int

    def __str__(self) -> str:
        geometry = self.geometry
        return (
            f"{self.name}: {geometry.window_bp} bp, {geometry.num_bins} bins of {geometry.bin_bp} bp, "
            f"{self.tracks} tracks, batch {self.batch_size}"
        )

    def build(self) -> nn.Module:
        """Build the network, its weights the same every time."""
        torch.manual_seed(0)
        return build(self.config, geometry=self.geometry, num_tracks=self.tracks)


def published(name: str, batch_size: int) -> Case:
    """Return a network with the sizes it was published with, of several heads the first."""
    whole: Architecture = find_architecture(name)
    tracks = whole.num_tracks if isinstance(whole.num_tracks, int) else next(iter(whole.num_tracks.values()))
    return Case(name, whole.config, whole.geometry, tracks, batch_size)


TOYS = (
    Case(
        "enformer",
        EnformerConfig(
            channels=96, width_multiple=16, transformer_blocks=2, attention_heads=4, key_size=16, position_features=24
        ),
        Geometry(window_bp=8192, bin_bp=128, crop_bins=16),
        tracks=20,
        batch_size=2,
    ),
    Case(
        "basenji2",
        Basenji2Config(stem_channels=16, channels=24, dilated_layers=3, dilated_channels=12, head_channels=48),
        Geometry(window_bp=4096, bin_bp=128, crop_bins=4),
        tracks=20,
        batch_size=4,
    ),
    Case("bpnet", BPNetConfig(channels=16, dilated_layers=4), Geometry(window_bp=1000, bin_bp=1), 4, batch_size=8),
)


def pick_cases(device: torch.device) -> tuple[Case, ...]:
    """Take published sizes on a GPU, toys on a CPU, and say so."""
    if device.type == "cuda":
        return published("enformer", 2), published("basenji2", 4), published("bpnet", 256)
    torch.set_num_threads(1)  # threads of so small networks only wait for each other
    print("no GPU here: toys on the CPU, nothing compiled; these figures say nothing of a GPU")
    return TOYS


def make_batches(case: Case, device: torch.device) -> list[Batch]:
    """Draw random bases and counts on the host."""
    random = torch.Generator().manual_seed(0)
    batches: list[Batch] = []
    for _ in range(BATCHES):
        codes = torch.randint(0, 4, (case.batch_size, case.geometry.stored_bp), generator=random, dtype=torch.uint8)
        levels = torch.rand(case.batch_size, case.geometry.num_bins, case.tracks, generator=random)
        targets = torch.poisson(levels, generator=random)
        if device.type == "cuda":
            codes, targets = codes.pin_memory(), targets.pin_memory()
        batches.append(Batch(codes, targets))
    return batches


class Contender:
    """Something that learns, and what its steps said."""

    def __init__(self, step: Callable[[Batch], Tensor], batches: list[Batch], *, steps: int) -> None:
        self.step, self.batches, self.steps = step, batches, steps
        self.losses: list[float] = []
        self.peak_gb = 0.0

    def __call__(self) -> None:
        """Take so many steps and wait for the last."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        losses = [self.step(self.batches[number % BATCHES]) for number in range(self.steps)]
        self.losses += torch.stack(losses).tolist()  # which waits for the device
        if torch.cuda.is_available():
            self.peak_gb = torch.cuda.max_memory_allocated() / 1e9


def cisray_step(
    case: Case, device: torch.device, *, precision: Precision, compiled: bool = False
) -> Callable[[Batch], Tensor]:
    """Return a step of cisray's loop."""
    network = case.build().to(device).train()
    spec = TrainSpec(precision=precision, compile=compiled, batch_size=case.batch_size)
    goal = make_goal("coverage", network, ObjectiveSpec(), num_bins=case.geometry.num_bins)
    learner, workers = Learner(network, spec=spec), Workers(device=device)
    task = Task(torch.arange(case.tracks, device=device), goal=goal)
    feed = Feed(no_batches, no_batches, lambda epoch: 0, {None: task})

    def step(batch: Batch) -> Tensor:
        with precision_of("ieee"):
            return learner.step(batch, feed, workers=workers, total_steps=10_000)

    return step


def no_batches(*_: int) -> Iterator[Batch]:
    """Yield nothing: steps are taken one by one here."""
    return iter(())


def peer_step(case: Case, device: torch.device, *, precision: Precision) -> Callable[[Batch], Tensor]:
    """Return a step of enformer-pytorch as its README has it, with AdamW and clipping as in cisray's."""
    config = case.config
    torch.manual_seed(0)
    network = importlib.import_module("enformer_pytorch").Enformer.from_hparams(
        dim=config.channels,
        depth=config.transformer_blocks,
        heads=config.attention_heads,
        output_heads={"human": case.tracks},
        target_length=case.geometry.num_bins,
        attn_dim_key=config.key_size,
        dim_divisible_by=config.width_multiple,
    )
    network = network.to(device).train()
    spec = TrainSpec()
    optimizer = torch.optim.AdamW(network.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay)

    def step(batch: Batch) -> Tensor:
        codes, targets, _ = batch.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = network(codes.long(), head="human", target=targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), spec.clip_norm)
        optimizer.step()
        return loss.detach()

    return step


def make_contenders(case: Case, device: torch.device, *, steps: int) -> dict[str, Contender]:
    """Give all contenders the same batches."""
    ways: dict[str, Callable[[Batch], Tensor]] = {
        precision: cisray_step(case, device, precision=precision) for precision in PRECISIONS
    }
    if device.type == "cuda":
        ways["bf16_compiled"] = cisray_step(case, device, precision="bf16", compiled=True)
    if case.name == "enformer" and importlib.util.find_spec("enformer_pytorch"):
        ways["enformer_pytorch"] = peer_step(case, device, precision="float32")
        ways["enformer_pytorch_bf16"] = peer_step(case, device, precision="bf16")
    batches = make_batches(case, device)
    return {name: Contender(step, batches, steps=steps) for name, step in ways.items()}


def matrix_flop_per_s(device: torch.device, *, repeats: int) -> float:
    """Measure the arithmetic per second of a large product of bf16 matrices."""
    size = 8192 if device.type == "cuda" else 512
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))

    def multiply() -> None:
        for _ in range(PRODUCTS):
            torch.mm(left, right)
        synchronize(device)

    multiply()  # the first looks for the fastest way
    return PRODUCTS * 2 * size**3 / median(seconds_of(multiply) for _ in range(repeats))


def compare(case: Case, device: torch.device, options: Options) -> dict[str, float]:
    """Time all contenders of one network, and print what share of the device they use."""
    matrix_rate = matrix_flop_per_s(device, repeats=options.repeats)
    contenders = make_contenders(case, device, steps=options.scaled(STEPS, at_least=2))
    seconds = interleave(contenders, repeats=options.repeats)
    rates = rates_of(seconds, {name: one.steps * case.batch_size for name, one in contenders.items()})
    medians = {name: median(values) for name, values in rates.items()}
    with torch.device("meta"):
        flop = count_flop(case.build(), case.geometry.window_bp)
    header = ["", "examples/s", "range", "ratio", "utilisation", "first loss", "last loss", "peak GB"]
    rows, figures = [], {"gflop_per_example": flop / 1e9, "matrix_tflop_per_s": matrix_rate / 1e12}
    against = "enformer_pytorch" if "enformer_pytorch" in contenders else "float32"
    for name, one in contenders.items():
        utilisation = medians[name] * flop / matrix_rate
        cells = [name, significant(medians[name]), f"{significant(min(rates[name]))} - {significant(max(rates[name]))}"]
        cells += [f"{medians[name] / medians[against]:.2f}", f"{utilisation:.1%}"]
        rows.append([*cells, f"{one.losses[0]:.6f}", f"{one.losses[-1]:.6f}", f"{one.peak_gb:.1f}"])
        figures |= {f"{name}.examples_per_s": medians[name], f"{name}.utilisation": utilisation}
        if name != against:
            figures[f"{name}_to_{against}.ratio"] = medians[name] / medians[against]
        if device.type == "cuda":
            figures[f"{name}.peak_gb"] = one.peak_gb  # the weights and moments of the other contenders are in it
    what = f"{flop / 1e9:,.1f} GFLOP per example; matrix products run at {matrix_rate / 1e12:.3g} TFLOP/s"
    print_table(f"{case}; {what}; median of {options.repeats}, ratio to: {against}", header, rows)
    return figures


def main() -> None:
    """Run the benchmark."""
    options = read_options(__doc__, repeats=5)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    figures: dict[str, float] = {}
    for case in pick_cases(device):
        figures |= {f"{case.name}.{key}": value for key, value in compare(case, device, options).items()}
    if not importlib.util.find_spec("enformer_pytorch"):
        print("enformer-pytorch is not installed: nothing to compare Enformer with")
    size = "published" if device.type == "cuda" else "toy"
    finish("gpu_train", {f"gpu_train.{size}.{key}": value for key, value in figures.items()})


if __name__ == "__main__":
    main()
