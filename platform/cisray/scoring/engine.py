"""Run models over windows of edits, and turn what they say into scores."""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.scoring.lanes import IndelAlign, Lane, LaneSpec, MeasureOf, Slot
from cisray.scoring.passes import Pass
from cisray.scoring.readout import Model, Readout
from cisray.scoring.spot_check import SpotCheck
from cisray.scoring.trunks import WholeTrunk, reference_rows, trunk_of
from cisray.scoring.windows import WindowEdits

WINDOWS_IN_FLIGHT = 4
"""Windows that may wait for others to fill their batches, per row of a batch."""
TOLERANCES = {"float32": 1e-3, "tf32": 0.05, "bf16": 0.25}
"""How far full forwards in float32 may lie from what a precision finds, as a share of a run's largest score."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EngineSpec:
    """How windows are read, and how what comes out is checked."""

    batch_size: int = 16
    """Rows of a forward of alternates, one of them a null variant."""
    strands: Literal["forward", "both"] = "forward"
    shifts: tuple[int, ...] = (0,)
    """By how many bases the windows of the passes are moved to the right; below zero to the left."""
    indel_align: IndelAlign | None = None
    """How the bins of an indel's alternate are brought to those of the reference: not at all ("none"); base by base,
    a removed base being zero and an insertion its largest value ("ref_coords"); or left of the edit with what the
    reference has there, and right of it likewise, from two readings ("stitch"). Unset: "ref_coords" for bins of 1 bp,
    "stitch" for wider ones."""
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """Of the convolutions and products; heads and scores are float32 at least, but for the products of "tf32"."""
    compile: bool = False
    """Let torch.compile write kernels: minutes at the start, for faster batches."""
    cuda_graphs: bool = False
    """Launch compiled code as CUDA graphs, torch.compile's "reduce-overhead": for networks whose kernels take no longer
    than their launches. Needs compile, and a GPU."""
    check_rows: int = 2
    """Edits of a run, drawn at random, that are scored again by two full forwards; 0 checks none."""
    tolerance: float | None = None
    """How far these may lie apart, as a share of the run's largest score; unset: what the precision is worth."""
    seed: int = 0
    """Of the draw."""

    def __post_init__(self) -> None:
        least = 3 if self.indel_align in (None, "stitch") else 2
        if self.batch_size < least:
            raise InputError(
                f"batch_size={self.batch_size} leaves no room beside the null variant for "
                f"{'both readings of an indel' if least == 3 else 'an edit'}; give {least} or more"
            )
        if self.cuda_graphs and not self.compile:
            raise InputError("cuda_graphs=true launches compiled code; set compile=true too, or leave it out")
        if not self.shifts or len(set(self.shifts)) < len(self.shifts):
            raise InputError(f"shifts={self.shifts}; wanted one or more, none of them twice")
        if self.check_rows < 0 or (self.tolerance is not None and self.tolerance <= 0):
            raise InputError(
                f"check_rows={self.check_rows}, tolerance={self.tolerance}; wanted 0 or more, and a positive share"
            )

    def align_for(self, geometry: Geometry) -> IndelAlign:
        """Return how indels are aligned; what has one bin, which is of the whole window, is left as it is.

        Raises InputError for "ref_coords" where bins are wider than a base.
        """
        align: IndelAlign = self.indel_align or ("ref_coords" if geometry.bin_bp == 1 else "stitch")
        if align == "ref_coords" and geometry.bin_bp > 1:
            raise InputError(
                f"indel_align=ref_coords maps bases, and the model's bins have {geometry.bin_bp} bp; "
                "choose stitch or none"
            )
        return align if geometry.num_bins > 1 else "none"

    @property
    def passes(self) -> list[Pass]:
        """Every shift on every strand."""
        reverse = (False, True) if self.strands == "both" else (False,)
        return [Pass(shift, turned) for shift in self.shifts for turned in reverse]


class Scored(NamedTuple):
    """The scores of a window's edits."""

    values: dict[str, NDArray[np.float32]]
    """Per score [sum of M, T]: a row per mask, in the order of the edits."""
    passes: int
    """Readings that they are the mean of: strands times shifts times models."""


class Engine:
    """Scores windows of edits with one model, or with the mean of several.

    A reference is predicted once per window and pass, and alternates by what their edits change of it.
    """

    def __init__(
        self,
        models: Sequence[Model],
        *,
        measure: MeasureOf,
        spec: EngineSpec,
        tracks: Sequence[int] | None = None,
        unchecked: Collection[str] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        """Prepare the models.

        `unchecked` names scores that full forwards need not confirm: places of what is largest, and signs of it, which
        jump where two are equal but for rounding.
        """
        self.spec = spec
        self.unchecked = unchecked
        self.measure = measure
        self.device = torch.device(device)
        if spec.cuda_graphs and self.device.type != "cuda":
            raise InputError(
                f"cuda_graphs=true, but the engine runs on {self.device.type}; score on a GPU, or leave it out"
            )
        shapes = {(each.geometry.window_bp, each.geometry.bin_bp, each.geometry.crop_bins) for each in models}
        if len(shapes) != 1:
            raise InputError(
                f"models with (window_bp, bin_bp, crop_bins) of {sorted(shapes)}; wanted one or more of one geometry"
            )
        self.window_bp = models[0].geometry.window_bp
        self.checked: dict[str, float] = {}
        """Per score, how far full forwards lay apart from what the last run found, as a share of its largest score."""
        self._off: dict[str, float] = {}
        """Per score, the largest difference from full forwards so far, where the precision is below theirs."""
        self._lanes: list[Lane] = []
        self._full_lanes: list[Lane] = []
        """The same passes by full forwards in float32."""
        with precision_of("float32"):
            for model in models:
                self._add(model, tracks)
        self.passes = len(self._lanes)

    @property
    def noise_floor(self) -> dict[str, float]:
        """Per score, the largest |score| so far of a variant that changes nothing; of several passes the largest.

        What a precision below float32 rounds shows only where something changes: there the floor is no lower than the
        largest difference from full forwards in float32, of the rows that were checked.
        """
        floors = dict(self._off)
        for lane in self._lanes:
            for name, value in lane.noise.items():
                floors[name] = max(floors.get(name, 0.0), float(value))
        return floors

    def score(self, windows: Iterable[WindowEdits]) -> Iterator[Scored]:
        """Score windows in their order; a window comes once the batches that its edits are in have been computed.

        Raises:
            InputError: a window does not fit the model, scores are not finite, or two full forwards find others.
        """
        spot_check = SpotCheck(rows=self.spec.check_rows, seed=self.spec.seed)
        pending: deque[Slot] = deque()
        for window in windows:
            self._check(window)
            pending.append(Slot(window, passes=self.passes))
            with torch.inference_mode(), precision_of(self.spec.precision):
                for lane in self._lanes:
                    lane.add(pending[-1])
                if len(pending) > WINDOWS_IN_FLIGHT * self.spec.batch_size:
                    self._flush()
            while len(pending) > 1 and not pending[0].missing:
                yield self._finished(pending.popleft(), spot_check)
        with torch.inference_mode(), precision_of(self.spec.precision):
            self._flush()
        while pending:
            yield self._finished(pending.popleft(), spot_check)
        with torch.inference_mode(), precision_of("float32"):
            tolerance = self.spec.tolerance or TOLERANCES[self.spec.precision]
            self.checked = spot_check.run(self._full_lanes, tolerance=tolerance)
        if self.spec.precision != "float32":
            for name, share in self.checked.items():
                self._off[name] = max(self._off.get(name, 0.0), share * spot_check.largest[name])

    def _add(self, model: Model, tracks: Sequence[int] | None) -> None:
        """Make the lanes of a model."""
        spec = self.spec
        network = model.network.to(self.device).eval()
        geometry = model.geometry
        readout = Readout(model, tracks, both=spec.strands == "both")
        references = reference_rows(spec.batch_size, self.window_bp, self.device)
        rows = (references, spec.batch_size) if spec.compile else ()
        trunk = trunk_of(
            network,
            readout,
            device=self.device,
            precision=spec.precision,
            compiled_rows=rows,
            cuda_graphs=spec.cuda_graphs,
        )
        full = WholeTrunk(network, readout, device=self.device, precision="float32")
        lane_spec = LaneSpec(spec.batch_size, references, spec.align_for(geometry), geometry, nulls=True)
        for reading in spec.passes:
            self._lanes.append(Lane(trunk, reading, lane_spec, self.measure))
            self._full_lanes.append(Lane(full, reading, lane_spec._replace(batch_size=2, nulls=False), self.measure))

    def _check(self, window: WindowEdits) -> None:
        length = len(window.bases) - 2 * window.flank_bp
        if length != self.window_bp or window.bases.dtype != np.uint8:
            raise InputError(
                f"window at {window.window_start}: {window.bases.dtype} codes of {length} bp between flanks of "
                f"{window.flank_bp} bp; wanted uint8 and {self.window_bp} bp, which the model reads"
            )

    def _flush(self) -> None:
        for lane in self._lanes:
            lane.flush()

    def _finished(self, slot: Slot, spot_check: SpotCheck) -> Scored:
        values = {name: sums.cpu().numpy() for name, sums in slot.sums.items()}
        for name, found in values.items():
            _check_finite(found, name=name, window_start=slot.window.window_start)
        spot_check.see(slot, {name: found for name, found in values.items() if name not in self.unchecked})
        return Scored(values, self.passes)


def _check_finite(values: NDArray[np.float32], *, name: str, window_start: int) -> None:
    bad = int((~np.isfinite(values)).any(axis=1).sum())
    if bad:
        raise InputError(
            f"window at {window_start}: {name} is not finite for {bad} of {len(values)} rows: the model's predictions "
            "overflow or are NaN; predict in float32, or check the model's weights"
        )


@contextmanager
def precision_of(name: str) -> Iterator[None]:
    """Let products of float32 be float32, or tf32 where `name` says so; what was set before comes back."""
    # torch's stubs do not know the second
    places = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "tf32" if name == "tf32" else "ieee"
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value
