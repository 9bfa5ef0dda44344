"""Fit a shallow model of a window: one fit for each track, its setting chosen on the validation split."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from cisray.baselines.choosing import choose_best, constant
from cisray.baselines.estimators import GkmSvm, ShallowConfig, ShallowModel, TableConfig, TableModel
from cisray.baselines.fitted import Decider, Fitted
from cisray.baselines.gkm_fit import fit_gkm
from cisray.baselines.held_out import METRICS, collect
from cisray.baselines.linear import LinearConfig
from cisray.baselines.linear_fit import linear_candidates
from cisray.baselines.trees_fit import tree_candidates
from cisray.datasets.card import Kind
from cisray.errors import InputError

Spread = Callable[[Callable[[int], Fitted], Iterable[int]], Iterable[Fitted]]
"""Calls a picklable function for each track, in order: `map`, or one that does so on a cluster."""
_SETTING_NAMES = {
    "linear": "penalty",
    "gkm_svm": "price",
    "random_forest": "leaf_size",
    "gradient_boosting": "rounds",
}


class Table(NamedTuple):
    """The windows of a split as features."""

    rows: csr_array
    """Float32 [B, F]."""
    targets: NDArray[np.floating]
    """[B, T]; NaN where nothing was measured."""


def fit_shallow(
    model: ShallowModel,
    train: Iterable[tuple[Tensor, Tensor]],
    valid: Iterable[tuple[Tensor, Tensor]],
    *,
    kind: Kind,
    seed: int = 0,
    spread: Spread = map,
) -> list[dict[str, float]]:
    """Fit `model` track by track, keep for each the setting that does best, and return a row for each setting.

    Held are codes and targets of both splits, L + 4 T bytes a window, and their features, 8 bytes for each that is not
    zero; of a gapped k-mer SVM, the kernel. A track's missing targets are left out. A track whose targets are all alike
    gets their mean, and counts in `num_constant`.

    Args:
        model: changed in place.
        train: batches of codes [B, L] and targets [B, 1, T].
        valid: the same of the validation split.
        kind: of the targets.
        seed: equal seeds give equal models.
        spread: fits tracks, here one after another; not used by a gapped k-mer SVM, whose tracks share a kernel.

    Raises:
        InputError: there is no window, or they are not what the features or the kernel can read.
    """
    model.aim_at(kind)
    known, held_out = collect(train, split="train"), collect(valid, split="valid")
    counted: dict[str, float] = {}
    if isinstance(model, GkmSvm):
        found = fit_gkm(model.config, known, held_out, kind=kind, seed=seed)
        fits = found.tracks
        counted = {"num_thinned": float(found.num_thinned), "num_blank": float(found.num_blank)}
    else:
        assert isinstance(model, TableModel)
        model.features.learn(known.codes, known.targets)
        tables = [Table(model.features(split.codes), split.targets) for split in (known, held_out)]
        fit = partial(fit_track, model.config, tables[0], tables[1], kind, seed)
        fits = list(spread(fit, range(known.targets.shape[1])))
    model.keep(fits)
    counted |= {
        "num_constant": float(sum(fitted.model is None for fitted in fits)),
        "num_calibrated": float(sum(fitted.line.calibrated for fitted in fits)),
        "num_unconverged": float(sum(not getattr(fitted.model, "converged", True) for fitted in fits)),
    }
    return _history(model.config, fits, kind, counted)


def fit_track(config: TableConfig, train: Table, valid: Table, kind: Kind, seed: int, track: int) -> Fitted:
    """Fit one track to the training split, and choose its setting by the validation split.

    Raises:
        InputError: there are no features, or too many for the estimator.
    """
    rows, target = train.rows, train.targets[:, track]
    fitted = constant(target, len(config.settings), kind=kind)
    if fitted is not None:
        return fitted
    if rows.shape[1] == 0:
        raise InputError(
            f"{config.architecture}: no k-mer of any region varies among {len(target)} training windows; name other "
            "features, or look at the windows"
        )
    present = np.flatnonzero(~np.isnan(target))
    if len(present) < len(target):
        rows, target = rows[present], target[present]
    candidates: Iterable[tuple[float, Decider]]
    if isinstance(config, LinearConfig):
        candidates = linear_candidates(config, rows, target, labels=kind == "labels")
    else:
        candidates = tree_candidates(config, rows, target, labels=kind == "labels", seed=seed)
    return choose_best(candidates, valid.rows, valid.targets[:, track], kind=kind)


def _history(
    config: ShallowConfig, fits: Sequence[Fitted], kind: Kind, counted: Mapping[str, float]
) -> list[dict[str, float]]:
    """Return for each setting the mean accuracy over tracks and how many chose it, with what else was counted."""
    rows = []
    for number, setting in enumerate(config.settings):
        measured = np.array([fitted.tried[number] for fitted in fits])
        known = measured[~np.isnan(measured)]
        row = {
            _SETTING_NAMES[config.architecture]: setting,
            f"valid.{METRICS[kind]}": float(known.mean()) if len(known) else float("nan"),
            "num_chosen": float(sum(fitted.setting == setting for fitted in fits)),
        }
        rows.append(row | dict(counted))
    return rows
