"""Turn what a bin holds into a target, and back: each transform with its exact inverse beside it.

Both directions work on NumPy arrays and torch tensors alike, with one parameter per track on the last axis.

A bin is the sum, mean, maximum or median of its bases (`POOLING`). With order "new", the steps after that are: multiply
by the scale; bend by the statistic's power; bend what exceeds the soft clip; cut off at the clip:

    *_sqrt       sqrt(1 + x) - 1
    sum_exp75    (1 + x)^0.75 - 1
    peak         min(sqrt(4 x), 1)
    soft clip    c - 1 + sqrt(x - c + 1)      above c

With order "old" they are: x^0.75 for *_sqrt; c + sqrt(x - c) above c; the clip; the scale last. Source: the two
branches of baskerville's hound_data_read (targets.txt columns sum_stat, clip_soft, clip and scale); "old" made the
targets of the Borzoi manuscript. All are for values of zero or more.

PyTorch is imported where a tensor is met: processes that build datasets have none, and its import takes them longer
than many a shard.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self, TypeVar, get_args

import numpy as np

from cisray.errors import InputError
from cisray.genome.tracks import Statistic as Pooling

if TYPE_CHECKING:
    import torch

A = TypeVar("A", np.ndarray, "torch.Tensor")

SumStat = Literal["sum", "mean", "max", "median", "peak", "sum_sqrt", "mean_sqrt", "sum_exp75"]
"""How the bases of a bin become one value, by the names of Calico's targets.txt."""
Order = Literal["new", "old"]
"""Whether the scale comes first or last."""
POOLING: dict[SumStat, Pooling] = {
    "sum": "sum",
    "mean": "mean",
    "max": "max",
    "median": "median",
    "peak": "mean",
    "sum_sqrt": "sum",
    "mean_sqrt": "mean",
    "sum_exp75": "sum",
}
"""What of a bin's bases is taken before any power."""
_POWERS: dict[tuple[str, Order], tuple[float, float]] = {  # the exponent, and what is added before and taken after
    ("sum_sqrt", "new"): (0.5, 1.0),
    ("mean_sqrt", "new"): (0.5, 1.0),
    ("sum_exp75", "new"): (0.75, 1.0),
    ("sum_sqrt", "old"): (0.75, 0.0),
    ("mean_sqrt", "old"): (0.75, 0.0),
}


class TrackTransform(Protocol):
    """What of a track's settings makes its transform; see datasets.card.Track."""

    @property
    def statistic(self) -> SumStat:
        """How the bases of a bin become one value."""

    @property
    def order(self) -> Order:
        """Whether the scale comes first or last."""

    @property
    def scale(self) -> float:
        """What a bin is multiplied by."""

    @property
    def clip_soft(self) -> float | None:
        """Above which a bin is bent."""

    @property
    def clip(self) -> float | None:
        """At which a bin is cut off."""


class Transforms(NamedTuple):
    """The parameters of several tracks' transforms, float64 [T] each."""

    scale_first: np.ndarray
    power: np.ndarray
    offset: np.ndarray
    """Added before the power, and taken off after it."""
    clip_soft: np.ndarray
    """Infinity where there is none, as for `clip`."""
    soft_offset: np.ndarray
    """1 with order "new", 0 with "old": what stands under the root beside the excess."""
    clip: np.ndarray
    scale_last: np.ndarray
    is_peak: np.ndarray
    """Bool: sqrt(4 x), cut off at 1."""

    @classmethod
    def of(
        cls,
        *,
        statistic: Sequence[SumStat],
        order: Sequence[Order],
        scale: Sequence[float],
        clip_soft: Sequence[float | None],
        clip: Sequence[float | None],
    ) -> Self:
        """Return the parameters of tracks by their settings; raise InputError for a statistic without a formula."""
        for name, when in zip(statistic, order, strict=True):
            if name not in get_args(SumStat):
                raise InputError(f"statistic {name!r} is not one of {', '.join(get_args(SumStat))}")
            if (name, when) == ("sum_exp75", "old"):
                raise InputError('statistic sum_exp75 has no order "old"; there sum_sqrt is the power 0.75')
        powers = [_POWERS.get((name, when), (1.0, 0.0)) for name, when in zip(statistic, order, strict=True)]
        is_new = np.array([when == "new" for when in order])
        multiplier = np.array(scale, np.float64)
        return cls(
            scale_first=np.where(is_new, multiplier, 1.0),
            power=np.array([power for power, _ in powers]),
            offset=np.array([offset for _, offset in powers]),
            clip_soft=np.array([np.inf if value is None else value for value in clip_soft]),
            soft_offset=is_new.astype(np.float64),
            clip=np.array([np.inf if value is None else value for value in clip]),
            scale_last=np.where(is_new, 1.0, multiplier),
            is_peak=np.array([name == "peak" for name in statistic]),
        )

    @property
    def top(self) -> np.ndarray:
        """Where a bin is cut off before any last scale, float64 [T]: at the clip, and a peak at 1."""
        return np.minimum(self.clip, np.where(self.is_peak, 1.0, np.inf))

    def cuts(self) -> tuple[np.ndarray, np.ndarray]:
        """Return above which target a bin was bent by the soft clip, and from which on it was cut off, [T] each."""
        return self.clip_soft * self.scale_last, self.top * self.scale_last


class PlacedTransforms(NamedTuple):
    """Tracks' transforms whose parameters lie on one device, so that no batch has to bring them there."""

    transforms: Transforms
    """Says which steps there are."""
    parameters: Any
    """The same as tensors of the device."""

    @classmethod
    def beside(cls, tensor: "torch.Tensor", transforms: Transforms) -> Self:
        """Put the parameters on a tensor's device, for tensors of its type that lie there."""
        return cls(transforms, _like(tensor, transforms))


def describe(track: TrackTransform) -> str:
    """Say in formulas how the bases x of a bin become the target that a model learns."""
    steps = [f"{POOLING[track.statistic]} over the bases of a bin"]
    scaled = [f"times {track.scale:g}"] if track.scale != 1 else []
    steps += scaled if track.order == "new" else []
    if track.statistic == "peak":
        steps.append("sqrt(4 x), at most 1")
    power, offset = _POWERS.get((track.statistic, track.order), (1.0, 0.0))
    if power != 1:
        bent = "sqrt(1 + x)" if power == 0.5 else "(1 + x)^0.75"
        steps.append(f"{bent} - 1" if offset else "x^0.75")
    if track.clip_soft is not None:
        c, below = track.clip_soft, _soft_start(track)
        steps.append(f"what then exceeds {c:g} becomes {below:g} + sqrt(x - {below:g})")
    if track.clip is not None:
        steps.append(f"what then exceeds {track.clip:g} is cut off")
    return "; ".join(steps if track.order == "new" else steps + scaled)


def describe_inverse(track: TrackTransform) -> str:
    """Say in formulas how a target y becomes the value of a bin again."""
    steps = []
    if track.clip_soft is not None:
        c, below = track.clip_soft, _soft_start(track)
        steps.append(f"what exceeds {c:g} becomes (y - {below:g})² + {below:g}")
    power, offset = _POWERS.get((track.statistic, track.order), (1.0, 0.0))
    if power != 1:
        exponent = "²" if power == 0.5 else "^(4/3)"
        steps.append(f"(y + 1){exponent} - 1" if offset else f"y{exponent}")
    if track.statistic == "peak":
        steps.append("y² / 4")
    divided = [f"divided by {track.scale:g}"] if track.scale != 1 else []
    steps = steps + divided if track.order == "new" else divided + steps
    if track.clip is not None:
        steps.append(f"what was cut off at {track.clip:g} stays so")
    return "; then ".join(steps) or "none: a target is the value of its bin"


def _soft_start(track: TrackTransform) -> float:
    """Return where the root of the soft clip begins: its slope is 1 at the clip with order "new"."""
    assert track.clip_soft is not None
    return track.clip_soft - 1 if track.order == "new" else track.clip_soft


# Every track passes through each formula, and keeps what its own made: what overflows in another is not used.
@np.errstate(over="ignore", invalid="ignore")
def to_target(pooled: A, transforms: Transforms) -> A:
    """Turn pooled bins [..., T] into targets of the same shape and type; NaN stays NaN, below 0 a root takes 0."""
    of = _like(pooled, transforms)
    x = pooled * of.scale_first
    if transforms.is_peak.any():
        x = _where(of.is_peak, (4 * x).clip(min=0) ** 0.5, x)
    if (transforms.power != 1).any():
        x = _where(of.power != 1, _bend(x.clip(min=0), of), x)
    if np.isfinite(transforms.clip_soft).any():
        excess = (x - of.clip_soft).clip(min=0)
        x = _where(x > of.clip_soft, of.clip_soft + ((excess + of.soft_offset) ** 0.5 - of.soft_offset), x)
    top = transforms.top
    if np.isfinite(top).any():
        limit = _like_one(pooled, top)
        x = _where(x > limit, limit, x)
    return x * of.scale_last


@np.errstate(over="ignore", invalid="ignore")
def to_natural(target: A, transforms: Transforms | PlacedTransforms) -> A:
    """Invert `to_target`: exact but for what was cut off at the clip, which comes back as the value cut to."""
    if isinstance(transforms, PlacedTransforms):
        transforms, of = transforms
    else:
        of = _like(target, transforms)
    x = target / of.scale_last
    if np.isfinite(transforms.clip_soft).any():
        excess = (x - of.clip_soft).clip(min=0)
        x = _where(x > of.clip_soft, of.clip_soft + excess * (excess + 2 * of.soft_offset), x)
    if (transforms.power != 1).any():
        x = _where(of.power != 1, _unbend(x.clip(min=0), of), x)
    if transforms.is_peak.any():
        x = _where(of.is_peak, x.clip(min=0) ** 2 / 4, x)
    return x / of.scale_first


def _bend(x: A, of: Any) -> A:
    """Return (x + offset)^power - offset for an offset of 1 or 0; near 0, a difference of roots would cancel."""
    functions = _functions(x)
    return _where(of.offset == 1, functions.expm1(of.power * functions.log1p(x)), x**of.power)


def _unbend(y: A, of: Any) -> A:
    """Invert `_bend`."""
    functions = _functions(y)
    shifted = _where(of.power == 0.5, y * (y + 2), functions.expm1(functions.log1p(y) / of.power))
    return _where(of.offset == 1, shifted, y ** (1 / of.power))


def _like(values: A, transforms: Transforms) -> Any:
    """Return the parameters as arrays of the kind, type and place of `values`."""
    return Transforms(*(_like_one(values, parameter) for parameter in transforms))  # type: ignore[arg-type]


def _like_one(values: A, parameter: np.ndarray) -> A:
    if isinstance(values, np.ndarray):
        return parameter if parameter.dtype == bool else parameter.astype(np.result_type(values, np.float16))
    functions = _functions(values)
    kept = functions.from_numpy(parameter)
    return kept.to(values.device, kept.dtype if kept.dtype == functions.bool else values.dtype)


def _functions(values: A) -> Any:
    """Return the library that the functions of arrays of this kind come from."""
    if isinstance(values, np.ndarray):
        return np
    import torch  # noqa: PLC0415 - as said at the top

    return torch


def _where(condition: A, yes: A, no: A) -> A:
    return _functions(yes).where(condition, yes, no)
