"""All arithmetic between base pairs and bins."""

from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.errors import InputError


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Geometry:
    """How a window of bases becomes bins of predictions.

    A window of `window_bp` bases is cut into bins of `bin_bp`; `crop_bins` are cut from each end, because
    a network sees no context beyond them. What is stored has `margin_bp` more real bases on both
    sides, so that a training example can be shifted without inventing sequence.
    """

    window_bp: int
    bin_bp: int
    crop_bins: int = 0
    margin_bp: int = 0

    def __post_init__(self) -> None:
        if self.bin_bp < 1 or self.window_bp < 1 or self.crop_bins < 0 or self.margin_bp < 0:
            raise InputError(f"geometry has a length below its least value: {self}")
        if self.window_bp % self.bin_bp:
            raise InputError(
                f"window_bp={self.window_bp} is not a multiple of bin_bp={self.bin_bp} "
                f"(remainder {self.window_bp % self.bin_bp}); choose a window that the bins fill"
            )
        if self.num_bins < 1:
            raise InputError(
                f"crop_bins={self.crop_bins} on each side leaves none of the {self.window_bp // self.bin_bp} bins"
            )

    @property
    def num_bins(self) -> int:
        """Bins a model predicts for a window, after the crop."""
        return self.window_bp // self.bin_bp - 2 * self.crop_bins

    @property
    def crop_bp(self) -> int:
        """Bases cut from each end of a window."""
        return self.crop_bins * self.bin_bp

    @property
    def target_bp(self) -> int:
        """Bases that the bins of a window cover."""
        return self.num_bins * self.bin_bp

    @property
    def stored_bp(self) -> int:
        """Bases of sequence stored per example: the window and its margins."""
        return self.window_bp + 2 * self.margin_bp
