"""Say where a score stands among those of a background set of variants, such as the common ones of a population.

    quantile = F(x)          of a score without a sign, 0 to 1
    quantile = 2 F(x) - 1    of a signed one, -1 to 1, as in AlphaGenome's quantile scores

F(x) = (background scores below x + half of those equal to x) / background scores, per score and track.

A calibration keeps some of the background's order statistics per score and track, its knots (see scoring.knots).
Between them F is a straight line; where they follow one another, in the tails above all, it is exact.

    calibration/NAME.safetensors   knots float32 [T, Q] per score, and their ranks int64 [Q]; no pickle
    calibration/NAME.json          what was scored and how; written last: without it there is no calibration

It lies in a bundle's folder. The bundle's digest, of weights, model and card, stays what it was.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from cisray import __version__
from cisray.config import STRICT, check_settings
from cisray.errors import InputError
from cisray.files import file_digest, read_json, within, write_json, written_whole
from cisray.scoring.effects import SCORES
from cisray.scoring.knots import KnotCollector
from cisray.scoring.manifest import Manifest

SCHEMA_VERSION = 1
CALIBRATION_DIR = "calibration"
# Values that are ranked at once.
VALUES_AT_ONCE = 1 << 20


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """What two sets of scores must share for one to be ranked among the other."""

    model_digest: str
    head: str | None = None
    """Of a model with several heads, the one that predicted."""
    formulas: dict[str, str]
    """Per score."""
    masks: dict[str, str] = dataclasses.field(default_factory=dict)
    """Score -> the bins that it reads, where these are not all of them."""
    window_policy: str
    indel_align: str
    strands: str
    shifts: tuple[int, ...] = (0,)
    """Bases by which the window was moved, pass by pass."""

    def check(self, other: "Settings", *, source: str) -> None:
        """Raise InputError where `other` scores differ from these; they may be fewer."""
        for name in other.formulas:
            if name not in self.formulas:
                raise InputError(
                    f"{source}: does not know the score {name}, only {', '.join(self.formulas)}; calibrate it too"
                )
        theirs = other._facts(other.formulas)
        for what, ours in self._facts(other.formulas).items():
            if ours != theirs[what]:
                raise InputError(
                    f"{source}: made with {what} = {ours}, and these scores with {theirs[what]}; "
                    "score alike, or calibrate anew"
                )

    def _facts(self, names: Iterable[str]) -> dict[str, object]:
        """Return what must be alike for some scores, by how a person calls it."""
        facts: dict[str, object] = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("formulas", "masks")
        }
        for name in names:
            facts |= {f"formula of {name}": self.formulas[name], f"mask of {name}": self.masks.get(name, "crop")}
        return facts


def settings_of(manifest: Manifest) -> Settings:
    """Return what the scores of a table were made with; raise InputError for those of an ensemble."""
    if manifest.ensemble:
        raise InputError("a calibration is of one model, and these scores are means over several; score with one")
    return Settings(
        model_digest=manifest.model.digest,
        head=manifest.head,
        formulas=manifest.scores,
        masks={name: mask for name, mask in manifest.masks.items() if name in manifest.scores},
        window_policy=manifest.window_policy,
        indel_align=manifest.indel_align,
        strands=manifest.strands,
        shifts=manifest.shifts,
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CalibrationCard:
    """What a calibration was made of."""

    schema_version: int = SCHEMA_VERSION
    cisray_version: str = __version__
    settings: Settings
    signed: dict[str, bool]
    """Per score, whether its quantile runs from -1 to 1."""
    tracks: tuple[str, ...]
    background: str
    """The file of the background's variants."""
    background_digest: str
    num_variants: int
    """Variants of the background that were scored."""
    rank_error: float
    """The largest share of the background by which thinning out can have misplaced a knot that is not in a tail."""
    sha256: str = ""
    """Of the file of knots."""


class Calibration:
    """Knots of some scores, and what they were made of."""

    def __init__(
        self, card: CalibrationCard, ranks: NDArray[np.int64], knots: Mapping[str, NDArray[np.float32]]
    ) -> None:
        self.card = card
        self.ranks = ranks
        self.knots = dict(knots)

    def check(self, settings: Settings) -> None:
        """Raise InputError unless scores made with these settings may be ranked here."""
        self.card.settings.check(settings, source=f"calibration with {self.card.background}")

    def quantiles(
        self, score: str, values: NDArray[np.float32], *, tracks: Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """Rank one score's values [S, T] among the background's, float32 [S, T].

        Args:
            score: its own name, not an alias.
            values: finite.
            tracks: the values' tracks where they are not all of the calibration's, in its order.

        Raises:
            InputError: the score or a track is not in the calibration, or shapes do not agree.
        """
        if score not in self.knots:
            raise InputError(f"no calibration of {score}; there is one of {', '.join(self.knots)}")
        num_tracks = len(self.card.tracks)
        places = np.arange(num_tracks) if tracks is None else np.array([self._place(name) for name in tracks], int)
        if values.ndim != 2 or values.shape[1] != len(places) or not np.isfinite(values).all():
            raise InputError(f"{score} is {values.shape}; wanted finite numbers [variants, {len(places)}]")
        knots, shares = self.knots[score], self._shares_at_knots[score]
        is_signed = self.card.signed[score]
        ranked = np.empty(values.shape, np.float32)
        at_once = max(1, VALUES_AT_ONCE // max(len(values), 1))
        for first in range(0, len(places), at_once):
            part = slice(first, first + at_once)
            asked = np.ascontiguousarray(values[:, part].T, np.float32)
            below = self._share_below(asked, knots[places[part]], shares[places[part]])
            ranked[:, part] = (2 * below - 1 if is_signed else below).T
        return ranked

    def _share_below(
        self, values: NDArray[np.float32], knots: NDArray[np.float32], shares: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return F of values [T, S], with sorted knots and F at each of them [T, Q]."""
        num_knots, num_variants = len(self.ranks), self.card.num_variants
        upper = torch.searchsorted(torch.from_numpy(knots), torch.from_numpy(values)).numpy()  # knots below a value
        is_beyond = upper == num_knots
        upper[is_beyond] = num_knots - 1
        lower = np.maximum(upper - 1, 0)
        low, high = np.take_along_axis(knots, lower, 1), np.take_along_axis(knots, upper, 1)
        low, high, exact = low.astype(np.float64), high.astype(np.float64), values.astype(np.float64)
        gap = high - low
        gap[gap == 0] = 1  # below all knots, beyond them, or among equal ones: not used
        start = self.ranks[lower] + 1
        below = (start + (exact - low) / gap * (self.ranks[upper] - start)) / num_variants
        below[upper == 0] = 0  # below all knots; a knot itself is seen to below
        below[is_beyond] = 1
        is_knot = exact == high
        below[is_knot] = np.take_along_axis(shares, upper, 1)[is_knot]
        return below

    @cached_property
    def _shares_at_knots(self) -> dict[str, NDArray[np.float64]]:
        """F at each knot, float64 [T, Q] per score: knots of one value share the middle of their ranks."""
        shares = {}
        for score, knots in self.knots.items():
            place = np.arange(len(self.ranks))
            is_new = np.concatenate([np.ones((len(knots), 1), bool), knots[:, 1:] != knots[:, :-1]], axis=1)
            is_last = np.concatenate([is_new[:, 1:], np.ones((len(knots), 1), bool)], axis=1)
            first = np.maximum.accumulate(np.where(is_new, place, 0), axis=1)
            last = np.minimum.accumulate(np.where(is_last, place, len(place) - 1)[:, ::-1], axis=1)[:, ::-1]
            shares[score] = (self.ranks[first] + self.ranks[last] + 1) / (2 * self.card.num_variants)
        return shares

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.card.tracks)}

    def _place(self, track: str) -> int:
        if track not in self._places:
            raise InputError(
                f"no calibration of track {track!r}, only of {len(self._places)} others; calibrate with all tracks"
            )
        return self._places[track]


def make_calibration(
    collectors: Mapping[str, KnotCollector],
    *,
    settings: Settings,
    tracks: Sequence[str],
    background: str,
    background_digest: str,
) -> Calibration:
    """Make a calibration of the scores that were collected, by name, of one background.

    Raises:
        InputError: the collected scores are not those of the settings, or not of the same variants; or there are none.
    """
    numbers = sorted({collector.num_variants for collector in collectors.values()})
    if len(numbers) != 1 or collectors.keys() != settings.formulas.keys():
        raise InputError(
            f"collected {', '.join(collectors) or 'no score'} of {numbers} variants; wanted "
            f"{', '.join(settings.formulas)}, each of the same variants"
        )
    found = {name: collector.knots() for name, collector in collectors.items()}
    card = CalibrationCard(
        settings=settings,
        signed={name: SCORES[name].signed for name in found},
        tracks=tuple(tracks),
        background=background,
        background_digest=background_digest,
        num_variants=numbers[0],
        rank_error=max(collector.rank_error for collector in collectors.values()),
    )
    return Calibration(card, next(iter(found.values()))[0], {name: values for name, (_, values) in found.items()})


def write_calibration(bundle_dir: Path, name: str, calibration: Calibration) -> Path:
    """Put a calibration into a bundle's folder, whole or not at all, and return its card's path."""
    card_path, knots_path = calibration_paths(bundle_dir, name)
    with written_whole(knots_path) as aside:
        save_file(
            {"ranks": calibration.ranks} | {f"knots.{score}": values for score, values in calibration.knots.items()},
            aside,
        )
    card = dataclasses.replace(calibration.card, sha256=file_digest(knots_path))
    write_json(card_path, dataclasses.asdict(card))
    return card_path


def read_calibration(bundle_dir: Path, name: str) -> Calibration:
    """Read a calibration from a bundle's folder.

    Raises:
        InputError: there is none of that name, it is of another version, or its two files do not belong together.
    """
    card_path, knots_path = calibration_paths(bundle_dir, name)
    if not card_path.exists():
        there = ", ".join(calibration_names(bundle_dir)) or "none"
        raise InputError(f"{card_path}: no such calibration (there: {there}); run cisray calibrate")
    values = read_json(card_path, what="calibration")
    if values.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{card_path}: calibration of schema version {values.get('schema_version')}; this cisray reads "
            f"{SCHEMA_VERSION}; calibrate anew"
        )
    card = check_settings(values, CalibrationCard, source=str(card_path))
    if not knots_path.exists() or file_digest(knots_path) != card.sha256:
        raise InputError(
            f"{knots_path}: missing, or not the file that {card_path.name} was written for; calibrate anew"
        )
    try:
        arrays = load_file(knots_path)
    except SafetensorError as error:
        raise InputError(f"{knots_path}: not a readable safetensors file ({error}); calibrate anew") from None
    return Calibration(card, arrays["ranks"], {score: arrays[f"knots.{score}"] for score in card.settings.formulas})


def calibration_names(bundle_dir: Path) -> list[str]:
    """Return the names of the calibrations in a bundle's folder."""
    return sorted(path.stem for path in (bundle_dir / CALIBRATION_DIR).glob("*.json"))


def prioritize(
    log2fc: NDArray[np.float32], jsd: NDArray[np.float32], active_quantile: NDArray[np.float32], *, num_variants: int
) -> NDArray[np.float32]:
    """Multiply fold change, distance and the active allele's quantile, each [S, T]: ChromBPNet's IPS.

    `active_quantile` is that of active_sum among predictions at peaks; one below all `num_variants` of them counts
    as 1 / num_variants.
    """
    return log2fc * jsd * np.maximum(active_quantile, np.float32(1 / num_variants))


def calibration_paths(bundle_dir: Path, name: str) -> tuple[Path, Path]:
    """Return where a calibration's card and its knots stand; raise InputError for a name that is no file's."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise InputError(f"calibration {name!r}: a name becomes a file; wanted letters, digits, '-', '_' and '.'")
    card_path, knots_path = (
        within(bundle_dir, f"{CALIBRATION_DIR}/{name}.{ending}", what="bundle") for ending in ("json", "safetensors")
    )
    return card_path, knots_path
