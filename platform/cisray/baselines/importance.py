"""Which features matter to a shallow model, and by what measure.

An importance is objective where it is accuracy lost on measured data that the model has not learned from, and
subjective where it only tells what the model does: its weights, or the change of its output. Only the first speaks of
the genome; the second speaks of the model, right or wrong.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, diags_array
from scipy.stats import rankdata

from cisray.baselines.estimators import GkmSvm, LinearModel, ShallowModel, TableModel, TreeModel
from cisray.baselines.features import LETTERS
from cisray.baselines.fitted import Fitted
from cisray.baselines.fitting import Table, fit_track
from cisray.baselines.gkm_lmers import Codes
from cisray.baselines.held_out import METRICS, Windows, accuracy
from cisray.baselines.linear_fit import column_deviations
from cisray.baselines.trees_file import gains
from cisray.datasets.card import Kind
from cisray.errors import InputError
from cisray.genome.sequence import UNKNOWN, encode, reverse_complement

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


class Stability(NamedTuple):
    """How alike the features are that models read which were fitted to other halves of the data."""

    sort: Sort
    names: tuple[str, ...]
    """[F]."""
    frequency: NDArray[np.float64]
    """Share of fits that read a feature, [F, T]."""
    mean: NDArray[np.float64]
    """Weight over fits, [F, T]: coefficients on features of variance 1, or shares of what trees gain."""
    deviation: NDArray[np.float64]
    """Of the same, [F, T]."""
    rank_correlation: NDArray[np.float64]
    """Spearman's, of absolute weights, the mean over pairs of fits, [T]; NaN where a fit reads nothing."""


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
    measured = _accuracies(kind, whole, windows.targets)
    by_column = csc_array(rows)
    losses = np.zeros((len(columns), repeats, len(measured)))
    random = np.random.default_rng(seed)
    for number, chosen in enumerate(columns.values()):
        for repeat in range(repeats):
            order = random.permutation(len(windows.codes))
            moved = _decide_shuffled(model, by_column, whole, chosen, order)
            losses[number, repeat] = measured - _accuracies(kind, moved, windows.targets)
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


def loss_without_words(
    predict: Callable[[Codes], NDArray[np.floating]], windows: Windows, words: Sequence[str], *, kind: Kind
) -> Importance:
    """Measure how much accuracy any model loses when a word is N wherever it stands, on either strand.

    Args:
        predict: codes [B, L] to scores [B, T], such as the `decide` of a shallow model.
        windows: that it has not learned from.
        words: letters ACGT, each a word by itself.
        kind: of the targets.

    Raises:
        InputError: a word has other letters.
    """
    measured = _accuracies(kind, predict(windows.codes), windows.targets)
    losses = [
        measured - _accuracies(kind, predict(masked), windows.targets) for masked in _masked(windows.codes, words)
    ]
    what = f"{METRICS[kind]} lost when the word is N wherever it stands"
    return Importance("objective", what, tuple(words), np.array(losses), None, measured)


def change_without_words(
    predict: Callable[[Codes], NDArray[np.floating]], codes: Codes, words: Sequence[str]
) -> Importance:
    """Measure how much a model's output falls when a word is N wherever it stands: what the model makes of the word.

    The mean is over windows that hold the word, on either strand; NaN where none does.

    Args:
        predict: codes [B, L] to scores [B, T].
        codes: [B, L].
        words: letters ACGT.

    Raises:
        InputError: a word has other letters.
    """
    whole = predict(codes)
    means, deviations = [], []
    for masked in _masked(codes, words):
        held = (masked != codes).any(axis=1)
        change = whole[held] - predict(masked[held]) if held.any() else np.full((1, whole.shape[1]), np.nan)
        means.append(change.mean(axis=0))
        deviations.append(change.std(axis=0))
    what = "mean fall of the output of windows with the word when it is N"
    return Importance("subjective", what, tuple(words), np.array(means), np.array(deviations))


def stability(
    model: TableModel, train: Windows, valid: Windows, *, kind: Kind, resamples: int = 20, seed: int = 0
) -> Stability:
    """Fit anew to random halves of the training windows, and compare what the fits read.

    Halves, drawn without replacement, are what stability selection uses (Meinshausen and Bühlmann 2010). Features that
    are chosen on the training split stay those of `model`.

    Raises:
        InputError: there are fewer than two resamples.
    """
    if resamples < 2:
        raise InputError(f"resamples={resamples}; wanted at least two fits to compare")
    rows, held_out = model.features(train.codes), Table(model.features(valid.codes), valid.targets)
    deviations = column_deviations(rows)
    random = np.random.default_rng(seed)
    num_tracks = train.targets.shape[1]
    weights = np.zeros((resamples, rows.shape[1], num_tracks))
    for number in range(resamples):
        half = np.sort(random.permutation(len(train.codes))[: max(1, len(train.codes) // 2)])
        part = Table(rows[half], train.targets[half])
        for track in range(num_tracks):
            fitted = fit_track(model.config, part, held_out, kind, seed + number, track)
            weights[number, :, track] = _weights(fitted, deviations)
    correlation = [_mean_rank_correlation(np.abs(weights[:, :, track])) for track in range(num_tracks)]
    return Stability(
        "subjective",
        model.features.names,
        (weights != 0).mean(axis=0),
        weights.mean(axis=0),
        weights.std(axis=0, ddof=1),
        np.array(correlation),
    )


def _columns_of(names: Sequence[str], groups: Groups | None) -> dict[str, list[int]]:
    if groups is None:
        return {name: [column] for column, name in enumerate(names)}
    places = {name: column for column, name in enumerate(names)}
    for group, members in groups.items():
        unknown = [name for name in members if name not in places]
        if unknown or not members:
            told = f"no feature {unknown[0]!r}" if unknown else "no feature at all"
            raise InputError(
                f"group {group}: {told}; the model has {', '.join(names[:5])} and so on, {len(names)} in all"
            )
    return {group: [places[name] for name in members] for group, members in groups.items()}


def _accuracies(kind: Kind, scores: NDArray[np.floating], targets: NDArray[np.floating]) -> NDArray[np.float64]:
    """Measure scores [B, T] of targets [B, T], track by track."""
    return np.array([accuracy(kind, *both) for both in zip(scores.T, targets.T, strict=True)])


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


def _masked(codes: Codes, words: Sequence[str]) -> Iterator[Codes]:
    """Yield codes [B, L] in which a word is N wherever it stands on either strand, word by word."""
    for word in words:
        wanted = encode(word)
        if not len(wanted) or (wanted == UNKNOWN).any():
            raise InputError(f"word {word!r}; wanted letters ACGT")
        found = np.zeros(codes.shape, np.bool_)
        last = codes.shape[1] - len(wanted) + 1
        for strand in (wanted, reverse_complement(wanted)):
            begins = np.ones((len(codes), max(0, last)), np.bool_)
            for place, code in enumerate(strand):
                begins &= codes[:, place : place + max(0, last)] == code
            for place in range(len(strand)):
                found[:, place : place + max(0, last)] |= begins
        yield np.where(found, np.uint8(UNKNOWN), codes)


def _weights(fitted: Fitted, deviations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what a fit gives each feature, [F]."""
    model: Any = fitted.model
    if model is None:
        return np.zeros(len(deviations))
    if hasattr(model, "coefficients"):
        weights: NDArray[np.float64] = model.coefficients * deviations
        return weights
    return gains(model.estimator, len(deviations))


def _mean_rank_correlation(weights: NDArray[np.float64]) -> float:
    """Return Spearman's correlation of fits [R, F], the mean over pairs; NaN where one is the same for all features."""
    ranks = rankdata(weights, axis=1)
    if (np.ptp(ranks, axis=1) == 0).any():
        return float("nan")
    correlations = np.corrcoef(ranks)
    return float(correlations[np.triu_indices(len(ranks), 1)].mean())
