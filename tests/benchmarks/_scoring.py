"""Score the variants of a window with the engine, and by two full forwards each: cases, contenders, what they cost."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from _table import seconds_of
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cisray.geometry import Geometry
from cisray.models import catalog
from cisray.models.attention import Transformer
from cisray.models.catalog import NetworkConfig
from cisray.models.layers import Network
from cisray.models.outputs import apply_link
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
    """Whether windows take so long that a time per variant is put together from those of a window and of a batch."""

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
    """The usual way: a reference and an alternate window for every variant, in batches."""

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


def engine_seconds(case: Case, engine: Engine, *, per_window: int) -> float:
    """Return the engine's seconds per variant."""
    room = case.batch_size - 1  # variants per batch
    if not case.is_slow:
        windows = some_windows(case, per_window=per_window, count=room if per_window < room else 2)
        return seconds_of(lambda: list(engine.score(windows))) / len(variants_of(windows))
    seconds = []
    for batches in (1, 2):
        windows = some_windows(case, per_window=batches * room, count=1)
        seconds.append(seconds_of(partial(_exhaust, engine, windows)))
    batch_s = seconds[1] - seconds[0]
    return (seconds[0] - batch_s) / per_window + batch_s / room


def _exhaust(engine: Engine, windows: Sequence[WindowEdits]) -> None:
    for _ in engine.score(windows):
        pass


def largest_differences(case: Case, engine: Engine, full: FullForwards, *, variants: int) -> dict[str, float]:
    """Return per score how far both ways lie apart at most, as a share of the largest score.

    Where windows are quick, beside it how far the full forwards lie from those of float64: their own rounding.
    """
    windows = some_windows(case, per_window=variants, count=1)
    wanted = full.score(variants_of(windows))
    (found,) = engine.score(windows)
    shares = {name: _share(found.values[name], values) for name, values in wanted.items()}
    if not case.is_slow:
        exact = FullForwards(case, copy.deepcopy(full.network).double(), precision="float64")
        exactly = exact.score(variants_of(windows))
        shares |= {f"{name}.of_full_forwards": _share(wanted[name], values) for name, values in exactly.items()}
    return shares


def _share(values: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(values - wanted).max() / np.abs(wanted).max())


def count_flop(case: Case) -> tuple[int, int, int]:
    """Count the operations of a full forward, of a reference, and of an alternate, null variants shared among them."""
    network = case.build(torch.device("cpu"))
    lane = case.engine(network)._lanes[0]
    counted = []

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **settings: Any) -> Any:
            with FlopCounterMode(display=False) as counter:
                result = function(*args, **settings)
            counted.append(counter.get_total_flops())
            return result

        return run

    lane.trunk.references = counting(lane.trunk.references)  # type: ignore[method-assign]
    lane.trunk.alternates = counting(lane.trunk.alternates)  # type: ignore[method-assign]
    (window,) = some_windows(case, per_window=case.batch_size - 1, count=1)
    with torch.inference_mode():
        lane.add(Slot(window, passes=1))
        lane.flush()
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, case.geometry.window_bp, dtype=torch.uint8))
    reference, batch = counted
    return counter.get_total_flops(), reference, batch // (case.batch_size - 1)
