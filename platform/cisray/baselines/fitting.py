"""Fit a shallow model of a window: one fit for each track, its setting chosen on the validation split."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
from scipy.sparse import csr_array, vstack
from torch import Tensor

from cisray.baselines.choosing import choose_best, constant
from cisray.baselines.estimators import GkmSvm, ShallowConfig, ShallowModel, TableConfig, TableModel
from cisray.baselines.feature_sets import FeatureMaker
from cisray.baselines.fitted import Decider, Fitted
from cisray.baselines.gkm_fit import fit_gkm
from cisray.baselines.held_out import METRICS
from cisray.baselines.linear import LinearConfig
from cisray.baselines.linear_fit import linear_candidates
from cisray.baselines.passes import pass_over
from cisray.baselines.trees_fit import tree_candidates
from cisray.baselines.windows import Table, collect
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

    Held are features, 8 bytes for each that is not zero, and targets; of a gapped k-mer SVM codes and the kernel. Where
    features are learned of the training windows, which takes several passes, their codes are held meanwhile.

    Args:
        model: changed in place, as `fit_tables` does.
        train: batches of codes [B, L] and targets [B, 1, T].
        valid: the same of the validation split.
        kind: of the targets.
        seed: equal seeds give equal models.
        spread: fits tracks, here one after another; not used by a gapped k-mer SVM, whose tracks share a kernel.

    Raises:
        InputError: there is no window, or they are not what the features or the kernel can read.
    """
    if isinstance(model, GkmSvm):
        model.aim_at(kind)
        found = fit_gkm(
            model.config, collect(train, split="train"), collect(valid, split="valid"), kind=kind, seed=seed
        )
        counted = {"num_thinned": float(found.num_thinned), "num_blank": float(found.num_blank)}
        return _keep(model, found.tracks, kind, counted)
    assert isinstance(model, TableModel)
    model.features.read_files()
    if model.features.learns:
        known = collect(train, split="train")
        model.features.learn(pass_over(known))
        table = Table(model.features(known.codes), known.targets)
        del known
    else:
        table = describe(model.features, train, split="train")
    return fit_tables(model, table, describe(model.features, valid, split="valid"), kind=kind, seed=seed, spread=spread)


def describe(maker: FeatureMaker, batches: Iterable[tuple[Tensor, Tensor]], *, split: str) -> Table:
    """Make the features of batches of codes [B, L] and targets [B, 1, T]; raises InputError as `collect`."""
    parts = [Table(maker(part.codes), part.targets) for part in (collect([batch], split=split) for batch in batches)]
    if not parts:
        collect([], split=split)
    return Table(csr_array(vstack([part.rows for part in parts])), np.concatenate([part.targets for part in parts]))


def fit_tables(
    model: TableModel, train: Table, valid: Table, *, kind: Kind, seed: int = 0, spread: Spread = map
) -> list[dict[str, float]]:
    """Fit `model` to features of its own making track by track, and return a row for each setting.

    For each track the setting is kept that does best. A track's missing targets are left out. A track whose targets
    are all alike gets their mean, and counts in `num_constant`.

    Args:
        model: changed in place.
        train: the training split.
        valid: the validation split.
        kind: of the targets.
        seed: equal seeds give equal models.
        spread: fits tracks, here one after another.
    """
    model.aim_at(kind)
    fit = partial(fit_track, model.config, train, valid, kind, seed)
    return _keep(model, list(spread(fit, range(train.targets.shape[1]))), kind, {})


def _keep(
    model: ShallowModel, fits: Sequence[Fitted], kind: Kind, counted: Mapping[str, float]
) -> list[dict[str, float]]:
    """Let a model keep the fits of its tracks, and return a row for each setting, with what was counted."""
    model.keep(fits)
    counted = dict(counted) | {
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
