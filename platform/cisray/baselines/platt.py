"""Turn scores into probabilities by a line through their log-odds (Platt 1999)."""

import numpy as np
from numpy.typing import NDArray

from cisray.baselines.fitted import Line


def calibrate(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> Line:
    """Fit log-odds to scores [B] with labels [B]; the line that changes nothing where labels are all alike.

    Each label counts as one more of either kind would make it, (N+ + 1) / (N+ + 2) and 1 / (N- + 2), as Platt says:
    a set that scores tell apart has no greatest slope otherwise.
    """
    num_true, num_false = int(labels.sum()), int((~labels).sum())
    if not num_true or not num_false or np.ptp(scores) == 0:
        return Line()
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - takes a second, which only fits are to pay

    wanted = np.where(labels, (num_true + 1) / (num_true + 2), 1 / (num_false + 2))
    centre, scale = scores.mean(), scores.std()
    standard = ((scores - centre) / scale)[:, None]
    both = np.concatenate([standard, standard])
    classes = np.repeat([1, 0], len(scores))
    weights = np.concatenate([wanted, 1 - wanted])
    fit = LogisticRegression(C=np.inf, tol=1e-9, max_iter=1000).fit(both, classes, sample_weight=weights)
    slope = float(fit.coef_[0, 0]) / scale
    return Line(slope, float(fit.intercept_[0]) - slope * centre, calibrated=True)
