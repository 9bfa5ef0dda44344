"""What the fit of one track comes to."""

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Line(NamedTuple):
    """What makes log-odds of a score."""

    slope: float = 1.0
    offset: float = 0.0
    calibrated: bool = False
    """Whether it was fitted to labels, and not left as it is for want of some."""


class Decider(Protocol):
    """A fitted model of one track."""

    def decide(self, rows: Any) -> NDArray[np.float64]:
        """Score rows of features, [B, F] to [B]: log-odds or numbers."""


class Fitted(NamedTuple):
    """What the fit of one track came to."""

    model: Any
    """A Decider; None where all targets are alike, and the line alone predicts."""
    line: Line
    """From scores to log-odds, or to numbers."""
    setting: float
    """The penalty, price, leaf size or number of rounds that did best; NaN without a model."""
    tried: tuple[float, ...]
    """Accuracy of each setting on the validation split."""
