"""Which features matter to a shallow model, and by what measure.

An importance is objective where it is accuracy lost on measured data that the model has not learned from, and
subjective where it only tells what the model does: its weights, or the change of its output. Only the first speaks of
the genome; the second speaks of the model, right or wrong.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, diags_array

from cisray.baselines.estimators import GkmSvm, LinearModel, ShallowModel, TableModel, TreeModel
from cisray.baselines.features import LETTERS
from cisray.baselines.fitting import fit_track
from cisray.baselines.held_out import METRICS, accuracy
from cisray.baselines.trees_file import gains
from cisray.baselines.windows import Table, Windows
from cisray.datasets.card import Kind
from cisray.errors import InputError

Sort = Literal["objective", "subjective"]
Groups = Mapping[str, Sequence[str]]
"""Names of features that are shuffled or removed together, by the name of the group."""
_MOST_WORDS = 1000  # of a gapped k-mer SVM's 4^l


class Importance(NamedTuple):
    """How much each feature matters to each track."""

    sort: Sort
    """Objective: accuracy lost on measured data. Subjective: what the model does."""
    measure: str
    """What the values are, in words."""
    names: tuple[str, ...]
    """Features or groups of them, [F]."""
    values: NDArray[np.float64]
    """[F, T]."""
    deviations: NDArray[np.float64] | None = None
    """Standard deviation over repeats, [F, T]; None where nothing was repeated."""
    accuracy: NDArray[np.float64] | None = None
    """Of the whole model on the same data, [T]; None where none was measured."""
    num_windows: NDArray[np.int64] | None = None
    """Windows that hold a word, [F]; None of features."""


def coefficients(model: ShallowModel) -> Importance:
    """Return what a model holds of each feature, which tells what it does and not whether that is right.

    Of a linear model the change of log-odds, or of the number, with one more of a feature; of trees the share of what
    all splits gain; of a gapped k-mer SVM deltaSVM's scores of the l-mers that have the greatest.
    """
    if isinstance(model, LinearModel):
        weights = model.coefficients.detach().cpu().numpy() * model.slopes.detach().cpu().numpy()
        return Importance(
            "subjective", "change of the output with one more of a feature", model.features.names, weights
        )
    if isinstance(model, TreeModel):
        names = model.features.names
        shares = [gains(estimator, len(names)) for estimator in model.trees.estimators]
        return Importance("subjective", "share of what all splits gain", names, np.stack(shares, axis=1))
    assert isinstance(model, GkmSvm)
    scores = np.stack([model.delta_svm(track).scores for track in range(len(model.rho))], axis=1).astype(np.float64)
    words = np.argsort(-np.abs(scores).max(axis=1), kind="stable")[:_MOST_WORDS]
    places = range(2 * model.config.gkm.l - 2, -1, -2)
    names = tuple("".join(LETTERS[word >> place & 3] for place in places) for word in words.tolist())
    return Importance("subjective", "score of an l-mer by itself (deltaSVM)", names, scores[words])


def loss_when_shuffled(
    model: TableModel,
    windows: Windows,
    *,
    kind: Kind,
    groups: Groups | None = None,
    repeats: int = 10,
    seed: int = 0,
) -> Importance:
    """Measure how much accuracy is lost when a feature's values are dealt out anew among windows (Breiman 2001).

    A feature that others stand in for loses little; shuffle those together, as a group.

    Args:
        model: fitted.
        windows: that it has not learned from.
        kind: of their targets.
        groups: what is shuffled together; each feature by itself unless given.
        repeats: shuffles of each.
        seed: of the shuffles.

    Raises:
        InputError: a group names a feature that the model does not have, or nothing is repeated.
    """
    if repeats < 1:
        raise InputError(f"repeats={repeats}; wanted at least one shuffle of each feature")
    rows = model.features(windows.codes)
    columns = _columns_of(model.features.names, groups)
    whole = model.decide_rows(rows)
    measured = accuracies(kind, whole, windows.targets)
    by_column = csc_array(rows)
    losses = np.zeros((len(columns), repeats, len(measured)))
    random = np.random.default_rng(seed)
    orders = [random.permutation(len(windows.codes)) for _ in range(repeats)]  # the same for every feature
    for number, chosen in enumerate(columns.values()):
        for repeat, order in enumerate(orders):
            moved = _decide_shuffled(model, by_column, whole, chosen, order)
            losses[number, repeat] = measured - accuracies(kind, moved, windows.targets)
    return Importance(
        "objective",
        f"{METRICS[kind]} lost when shuffled",
        tuple(columns),
        losses.mean(axis=1),
        losses.std(axis=1, ddof=1) if repeats > 1 else None,
        measured,
    )


def loss_when_removed(
    model: TableModel,
    train: Windows,
    valid: Windows,
    test: Windows,
    *,
    kind: Kind,
    groups: Groups | None = None,
    seed: int = 0,
) -> Importance:
    """Measure how much accuracy is lost when the model is fitted anew without a feature, or a group of them.

    What others can stand in for costs nothing here: it asks what a feature alone knows. One fit for each group.

    Args:
        model: whose features, as they were chosen, and settings are used; it stays as it is.
        train: what is learned from.
        valid: what settings are chosen by.
        test: what accuracy is measured on.
        kind: of the targets.
        groups: what is removed together; each feature by itself unless given.
        seed: of the fits.

    Raises:
        InputError: a group names a feature that the model does not have.
    """
    columns = _columns_of(model.features.names, groups)
    tables = [Table(model.features(each.codes), each.targets) for each in (train, valid, test)]
    measured = _refitted(model, tables, np.ones(len(model.features.names)), kind=kind, seed=seed)
    losses = []
    for chosen in columns.values():
        kept = np.ones(len(model.features.names))
        kept[chosen] = 0.0
        losses.append(measured - _refitted(model, tables, kept, kind=kind, seed=seed))
    what = f"{METRICS[kind]} lost when fitted without"
    return Importance("objective", what, tuple(columns), np.array(losses), None, measured)


def accuracies(kind: Kind, scores: NDArray[np.floating], targets: NDArray[np.floating]) -> NDArray[np.float64]:
    """Measure scores of targets, [B, T] or [B, N, T] each, track by track over all windows and bins."""
    flat = (values.reshape(-1, values.shape[-1]).T for values in (scores, targets))
    return np.array([accuracy(kind, *both) for both in zip(*flat, strict=True)])


def groups_of_sets(names: Sequence[str]) -> dict[str, list[str]]:
    """Group features by the set that they are of, which their names begin with: `kmers`, `composition` and so on."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition(":")[0], []).append(name)
    return groups


def groups_by_pattern(names: Sequence[str], patterns: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Group features by patterns of their names, such as `kmers:*CG*`; a feature may be in several groups.

    Raises:
        InputError: a pattern fits no feature, or a group has none.
    """
    groups = {}
    for group, wanted in patterns.items():
        fitting = {pattern: fnmatch.filter(names, pattern) for pattern in wanted}
        for pattern, members in fitting.items():
            if not members:
                raise InputError(f"group {group}: no feature fits {pattern!r}; the model has {_shown(names)}")
        found = {name for members in fitting.values() for name in members}
        if not found:
            raise InputError(f"group {group}: names no pattern of features; the model has {_shown(names)}")
        groups[group] = [name for name in names if name in found]
    return groups


def _shown(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])} and so on, {len(names)} in all"


def _columns_of(names: Sequence[str], groups: Groups | None) -> dict[str, list[int]]:
    if groups is None:
        return {name: [column] for column, name in enumerate(names)}
    places = {name: column for column, name in enumerate(names)}
    for group, members in groups.items():
        unknown = [name for name in members if name not in places]
        if unknown or not members:
            told = f"no feature {unknown[0]!r}" if unknown else "no feature at all"
            raise InputError(f"group {group}: {told}; the model has {_shown(names)}")
    return {group: [places[name] for name in members] for group, members in groups.items()}


def _decide_shuffled(
    model: TableModel, rows: csc_array, whole: NDArray[np.float64], columns: list[int], order: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Score rows [B, F] with some columns taken from other rows, [B, T]; `whole` are the scores without that."""
    part = csr_array(rows[:, columns])
    if isinstance(model, LinearModel):  # what the columns add is known by itself
        added = part @ model.coefficients.detach().cpu().numpy()[columns]
        return whole + added[order] - added
    if part.nnz == 0:
        return whole
    spread = csr_array(
        (np.ones(len(columns), np.float32), (np.arange(len(columns)), columns)), shape=(len(columns), rows.shape[1])
    )
    without = csr_array(rows) - part @ spread  # exactly zero there, so that what comes in is not rounded
    return model.decide_rows(_narrow(csr_array(without + part[order] @ spread)))


def _refitted(
    model: TableModel, tables: Sequence[Table], kept: NDArray[np.float64], *, kind: Kind, seed: int
) -> NDArray[np.float64]:
    """Fit anew to the columns that are kept, [F] of 0 and 1, and return the accuracy on the last table, [T]."""
    mask = diags_array(kept.astype(np.float32))
    train, valid, test = (Table(_narrow(csr_array(each.rows @ mask)), each.targets) for each in tables)
    measured = []
    for track in range(train.targets.shape[1]):
        fitted = fit_track(model.config, train, valid, kind, seed, track)
        scores = np.zeros(len(test.targets)) if fitted.model is None else fitted.model.decide(test.rows)
        measured.append(accuracy(kind, scores, test.targets[:, track]))
    return np.array(measured)


def _narrow(rows: csr_array) -> csr_array:
    """Return rows with the 32-bit indices that scikit-learn's trees read."""
    rows.indices, rows.indptr = rows.indices.astype(np.int32), rows.indptr.astype(np.int32)
    return rows
