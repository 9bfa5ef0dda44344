"""Score the variants of a window with the engine, and by two full forwards each: cases, contenders, what they cost."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from _table import Options, interleave
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cisray.geometry import Geometry
from cisray.models import catalog
from cisray.models.attention import Transformer
from cisray.models.catalog import NetworkConfig
from cisray.models.layers import Network
from cisray.models.outputs import apply_link
from cisray.scoring import narrow
from cisray.scoring.effects import make_measure
from cisray.scoring.engine import Engine, EngineSpec, precision_of
from cisray.scoring.lanes import MeasureOf, Slot
from cisray.scoring.masks import make_masks, parse_mask
from cisray.scoring.readout import Model
from cisray.scoring.trunks import autocast_of
from cisray.scoring.windows import PlacedEdit, WindowEdits

FLANK_BP = 32
SETTLED_BP = 1 << 14
SCORES = ("log2fc", "delta_sum")
PER_WINDOW = (1, 4, 16, 128)
MOST_EMPTY = 1.06
"""Rows of full batches for each variant in them."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network of some size, and how its variants are scored."""

    name: str
    config: NetworkConfig
    geometry: Geometry
    num_tracks: int
    mask: str
    batch_size: int
    """Rows of the engine's batches of alternates."""
    full_batch: int
    """Windows of a full forward, a reference and an alternate of each variant."""
    is_slow: bool = False
    """Whether windows take so long that a time per variant is put together from those of a window and of a batch, and
    nothing is compiled."""

    def build(self, device: torch.device) -> Network:
        """Build the network, with weights through which effects pass: fresh ones let deep layers fade."""
        torch.manual_seed(0)
        network = catalog.build(self.config, geometry=self.geometry, num_tracks=self.num_tracks)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                module.momentum = 1.0
            elif isinstance(module, nn.Conv1d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        network = network.to(device).train()
        settled_bp = min(self.geometry.window_bp, SETTLED_BP)
        codes = torch.randint(4, (2 * SETTLED_BP // settled_bp, settled_bp), dtype=torch.uint8, device=device)
        with torch.no_grad():  # norms then have seen data
            network.head(network.context(network.embed(codes)))
        return network.eval()

    def edit(self, bases: np.ndarray, position: int, random: np.random.Generator) -> PlacedEdit:
        """Replace one base of a window by another."""
        masks = make_masks(parse_mask(self.mask), window_start=0, position=position, geometry=self.geometry)
        letter = (bases[FLANK_BP + position] + random.integers(1, 4)) % 4
        return PlacedEdit(position, 1, np.array([letter], np.uint8), masks)

    def windows(self, *, per_window: int, seed: int = 0) -> Iterator[WindowEdits]:
        """Draw windows without end, each with so many SNVs within 2 kb of its middle."""
        random = np.random.default_rng(seed)
        window_bp = self.geometry.window_bp
        around = min(2048, window_bp // 4)
        while True:
            bases = random.integers(0, 4, window_bp + 2 * FLANK_BP, dtype=np.uint8)
            positions = window_bp // 2 - around // 2 + np.sort(random.choice(around, per_window, replace=False))
            yield WindowEdits(0, bases, FLANK_BP, tuple(self.edit(bases, int(each), random) for each in positions))

    def engine(self, network: Network, *, precision: str = "float32", compiled: bool = False) -> Engine:
        """Make an engine that checks nothing while it is timed."""
        spec = EngineSpec(batch_size=self.batch_size, precision=precision, compile=compiled, check_rows=0)  # type: ignore[arg-type]
        model = Model(network, network.link, None, None, self.geometry, self.num_tracks)
        device = next(network.parameters()).device
        return Engine([model], measure=make_measure(SCORES), spec=spec, device=device)


class FullForwards:
    """The usual way: a reference and an alternate window for every variant, in batches of the size that is fastest."""

    def __init__(self, case: Case, network: Network, *, precision: str = "float32", compiled: bool = False) -> None:
        self.case = case
        self.network = network
        self.link = network.link
        self.device = next(network.parameters()).device
        self.precision = precision
        self.dtype = next(network.parameters()).dtype
        whole = self.device.type == "cuda" or not isinstance(network.context, Transformer)
        if compiled and whole:
            self.run: Callable[[Tensor], Any] = torch.compile(network, dynamic=False)
        elif compiled:  # on a CPU, attention in blocks is faster than what the compiler makes of it
            embed, head = torch.compile(network.embed, dynamic=False), torch.compile(network.read_out, dynamic=False)
            self.run = lambda codes: head(network.context(embed(codes)))
        else:
            self.run = network
        self.measure: MeasureOf = make_measure(SCORES)

    @torch.inference_mode()
    def score(self, variants: Sequence[tuple[WindowEdits, PlacedEdit]]) -> dict[str, np.ndarray]:
        """Score variants; return [V, T] per score."""
        found: dict[str, list[Tensor]] = {name: [] for name in SCORES}
        pairs = max(1, self.case.full_batch // 2)
        with precision_of(self.precision):
            for start in range(0, len(variants), pairs):
                some = variants[start : start + pairs]
                codes = np.stack([window.bases[FLANK_BP:-FLANK_BP] for window, _ in some for _ in range(2)])
                for row, (_, edit) in enumerate(some):
                    codes[2 * row + 1, edit.start] = edit.inserted[0]
                with autocast_of(self.precision, self.device):
                    outputs = self.run(torch.from_numpy(codes).to(self.device))
                predictions = apply_link(outputs, self.link, dtype=self.dtype)
                masks = torch.from_numpy(np.concatenate([edit.masks for _, edit in some]))
                scores = self.measure(predictions[::2], predictions[1::2], masks, torch.arange(len(some)))
                for name, values in scores.items():
                    found[name].append(values.cpu())
        return {name: torch.cat(parts).numpy() for name, parts in found.items()}


def variants_of(windows: Sequence[WindowEdits]) -> list[tuple[WindowEdits, PlacedEdit]]:
    """Return every variant with its window."""
    return [(window, edit) for window in windows for edit in window.edits]


def some_windows(case: Case, *, per_window: int, count: int) -> list[WindowEdits]:
    """Return the first windows of a case."""
    return list(islice(case.windows(per_window=per_window), count))


def full_batches(case: Case, per_window: int) -> list[WindowEdits]:
    """Return the fewest windows whose variants leave no more than a few rows of the engine's batches empty."""
    room = case.batch_size - 1  # variants per batch
    count = 1
    while -(-count * per_window // room) * room > MOST_EMPTY * count * per_window:
        count += 1
    return some_windows(case, per_window=per_window, count=count)


def time_per_variant(case: Case, engine: Engine, full: FullForwards, options: Options) -> dict[int, float]:
    """Return the engine's seconds per variant for each number of variants per window, and as 0 the full forwards'."""
    if case.is_slow:
        return _time_slow(case, engine, full, options)
    windows = {number: full_batches(case, number) for number in PER_WINDOW}
    variants = variants_of(windows[4][: max(1, case.full_batch // 2)])
    runs: dict[str, Callable[[], object]] = {"0": partial(full.score, variants)}
    runs |= {str(number): partial(exhaust, engine, each) for number, each in windows.items()}
    seconds = interleave(runs, repeats=options.repeats)
    amounts = {0: len(variants)} | {number: len(variants_of(each)) for number, each in windows.items()}
    return {number: min(seconds[str(number)]) / amount for number, amount in amounts.items()}


def _time_slow(case: Case, engine: Engine, full: FullForwards, options: Options) -> dict[int, float]:
    """Put the seconds per variant together from those of a reference alone and of one batch of alternates beside it."""
    room = case.batch_size - 1
    (window,) = some_windows(case, per_window=room, count=1)
    runs = {
        "full": partial(full.score, variants_of([window])[:1]),
        "reference": partial(exhaust, engine, [window._replace(edits=())]),
        "both": partial(exhaust, engine, [window]),
    }
    seconds = {name: min(each) for name, each in interleave(runs, repeats=options.repeats, warm_up=False).items()}
    reference_s = seconds["reference"]
    batch_s = seconds["both"] - reference_s
    return {0: seconds["full"]} | {number: reference_s / number + batch_s / room for number in PER_WINDOW}


def exhaust(engine: Engine, windows: Sequence[WindowEdits]) -> None:
    """Score windows, and keep nothing."""
    for _ in engine.score(windows):
        pass


def differences(case: Case, engine: Engine, full: FullForwards, *, variants: int) -> dict[str, float]:
    """Return per score the largest, and as shares of it how far both ways lie apart at most.

    And how far each lies from full forwards in float64: its own rounding.
    """
    windows = some_windows(case, per_window=variants, count=1)
    wanted = full.score(variants_of(windows))
    (found,) = engine.score(windows)
    shares = {}
    exact = FullForwards(case, copy.deepcopy(full.network).double(), precision="float64")
    exactly = exact.score(variants_of(windows))
    for name, values in wanted.items():
        shares[f"{name}.largest"] = float(np.abs(values).max())
        shares[f"{name}.largest_relative_difference"] = _share(found.values[name], values)
        shares[f"{name}.engine_from_float64"] = _share(found.values[name], exactly[name])
        shares[f"{name}.full_forwards_from_float64"] = _share(values, exactly[name])
    return shares


def _share(values: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(values - wanted).max() / np.abs(wanted).max())


class Flop(NamedTuple):
    """Operations."""

    full: int
    """Of a full forward."""
    reference: int
    alternate: int
    """As the engine computes it, a share of the null variant's among it."""
    anew: int
    """The same, were convolutions made anew at every position that changes: the engine convolves differences, which
    stand at fewer."""

    def ratio(self, per_window: int, *, anew: bool) -> float:
        """Return how many times the engine's operations two full forwards per variant take."""
        alternate = self.anew if anew else self.alternate
        return 2 * self.full * per_window / (self.reference + per_window * alternate)


def count_flop(case: Case, network: Network) -> Flop:
    """Count operations while a window and a batch are computed, not compiled."""
    lane = case.engine(network)._lanes[0]
    counted = []
    spared = []

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **settings: Any) -> Any:
            with FlopCounterMode(display=False) as counter:
                result = function(*args, **settings)
            counted.append(counter.get_total_flops())
            return result

        return run

    def widened_by(conv: nn.Conv1d, run: narrow.Narrow) -> narrow.Narrow:
        made = inner(conv, run)
        spared.append(2 * (made.width - run.width) * len(run.starts) * conv.weight.numel())
        return made

    lane.trunk.references = counting(lane.trunk.references)  # type: ignore[method-assign]
    lane.trunk.alternates = counting(lane.trunk.alternates)  # type: ignore[method-assign]
    (window,) = some_windows(case, per_window=case.batch_size - 1, count=1)
    inner, narrow._widened_by = narrow._widened_by, widened_by
    try:
        with torch.inference_mode():
            lane.add(Slot(window, passes=1))
            lane.flush()
            with FlopCounterMode(display=False) as counter:
                network(torch.zeros(1, case.geometry.window_bp, dtype=torch.uint8))
    finally:
        narrow._widened_by = inner
    reference, batch = counted
    room = case.batch_size - 1
    return Flop(counter.get_total_flops(), reference, batch // room, (batch + sum(spared)) // room)
