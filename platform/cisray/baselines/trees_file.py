"""Trees as bytes in skops' format, which holds no pickle: only scikit-learn's own kinds are ever made of a file.

Equal trees give equal bytes: addresses, times and what memory held between fields, which skops writes, are replaced.
"""

import io
import json
import zlib
from collections.abc import Sequence
from typing import Any, Literal
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile, ZipInfo

import numpy as np
from numpy.typing import NDArray

from cisray.errors import InputError

Family = Literal["random_forest", "gradient_boosting"]
_KINDS: dict[Family, tuple[str, ...]] = {
    "random_forest": (
        "sklearn.ensemble._forest.RandomForestClassifier",
        "sklearn.ensemble._forest.RandomForestRegressor",
    ),
    "gradient_boosting": tuple(
        f"sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoosting{task}"
        for task in ("Classifier", "Regressor")
    ),
}
TRUSTED = ("sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor", "sklearn.tree._tree.Tree")
"""Beside what skops itself trusts; what they hold is checked here before it is used."""
_UNREADABLE = (
    BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    ImportError,
    IndexError,
)
_SCHEMA = "schema.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date that a ZIP file can hold


def pack_trees(estimators: Sequence[Any]) -> bytes:
    """Return fitted estimators, or None in the place of one, as the bytes of a skops file."""
    import skops.io  # noqa: PLC0415 - takes a second, which only models with trees are to pay

    packed = io.BytesIO()
    with ZipFile(io.BytesIO(skops.io.dumps(list(estimators)))) as written, ZipFile(packed, "w") as kept:
        numbers: dict[Any, int] = {}
        schema = _renumbered(json.loads(written.read(_SCHEMA)), numbers)
        for name in written.namelist():
            number = numbers.get(name.partition(".")[0])
            if number is not None:
                kept.writestr(_entry(f"{number}.{name.partition('.')[2]}"), _without_padding(written.read(name)))
        kept.writestr(_entry(_SCHEMA), json.dumps(schema))
    return packed.getvalue()


def unpack_trees(packed: bytes, *, family: Family, num_features: int) -> list[Any]:
    """Return the estimators of a skops file, None where there is none.

    Raises:
        InputError: the bytes are no such file, hold something of another kind, or trees that lead out of themselves.
    """
    import skops.io  # noqa: PLC0415 - as above

    try:
        foreign = sorted(set(skops.io.get_untrusted_types(data=packed)) - set(TRUSTED))
        if foreign:
            raise InputError(
                f"trees.skops holds {', '.join(foreign[:5])}; wanted scikit-learn's trees alone, and a file with other "
                "kinds in it is not opened"
            )
        estimators = skops.io.loads(packed, trusted=list(TRUSTED))
    except InputError:
        raise
    except (*_UNREADABLE, skops.io.exceptions.UntrustedTypesFoundException) as error:
        raise InputError(
            f"trees.skops: not a readable file of trees ({' '.join(str(error).split())[:200]}); copy it again"
        ) from None
    if not isinstance(estimators, list):
        raise InputError(f"trees.skops holds a {type(estimators).__name__}; wanted a list of estimators")
    for number, estimator in enumerate(estimators):
        if estimator is not None:
            _check(estimator, family, num_features, where=f"trees.skops: estimator {number}")
    return estimators


def gains(estimator: Any, num_features: int) -> NDArray[np.float64]:
    """Return each feature's share of what the splits of an estimator gain, [F]; zeros where there is none."""
    if estimator is None:
        return np.zeros(num_features)
    if hasattr(estimator, "estimators_"):  # a forest
        return np.asarray(estimator.feature_importances_, np.float64)
    total = np.zeros(num_features)
    for (member,) in estimator._predictors:
        inner = member.nodes[member.nodes["is_leaf"] == 0]
        np.add.at(total, inner["feature_idx"], inner["gain"])
    return total / total.sum() if total.sum() > 0 else total


def _entry(name: str) -> ZipInfo:
    entry = ZipInfo(name, _EPOCH)
    entry.compress_type = ZIP_DEFLATED
    return entry


def _without_padding(stored: bytes) -> bytes:
    """Return an array of records, in NumPy's format, with zeros between fields, where memory's last content stood."""
    values = np.load(io.BytesIO(stored), allow_pickle=False)
    if not values.dtype.names:
        return stored
    clean = np.zeros(values.shape, values.dtype)
    for name in values.dtype.names:
        clean[name] = values[name]
    written = io.BytesIO()
    np.save(written, clean)
    return written.getvalue()


def _renumbered(value: Any, numbers: dict[Any, int]) -> Any:
    """Replace identities by numbers in order of appearance, and the names of files that are made of them."""
    if isinstance(value, list):
        return [_renumbered(each, numbers) for each in value]
    if not isinstance(value, dict):
        return value
    made: dict[str, Any] = {}
    for key, part in value.items():
        if key == "__id__":
            made[key] = numbers.setdefault(str(part), len(numbers))
        elif key == "file":
            stem, _, ending = part.partition(".")
            made[key] = f"{numbers.setdefault(stem, len(numbers))}.{ending}"
        else:
            made[key] = _renumbered(part, numbers)
    return made


def _check(estimator: Any, family: Family, num_features: int, *, where: str) -> None:
    """Raise InputError unless an estimator is of a kind, reads so many features, and its trees end."""
    kind = type(estimator)
    if f"{kind.__module__}.{kind.__name__}" not in _KINDS[family]:
        names = [name.rpartition(".")[2] for name in _KINDS[family]]
        raise InputError(f"{where} is a {kind.__name__}; wanted {' or '.join(names)}")
    if getattr(estimator, "n_features_in_", None) != num_features:
        raise InputError(
            f"{where} reads {getattr(estimator, 'n_features_in_', 'no')} features; wanted the "
            f"{num_features} of model.json"
        )
    try:
        trees = _forest_nodes(estimator) if family == "random_forest" else _boosted_nodes(estimator)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"{where} is not whole ({error}); copy it again") from None
    for left, right, feature, is_leaf in trees:
        inner = np.flatnonzero(~is_leaf)
        # a child stands behind its parent, so that no way leads back
        children = np.stack([left[inner], right[inner]])
        fine = (children > inner).all() and (children < len(left)).all() and len(left) > 0
        if not fine or (feature[inner] < 0).any() or (feature[inner] >= num_features).any():
            raise InputError(f"{where}: a tree's branches lead out of it; this file was damaged, copy it again")


_Nodes = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]


def _forest_nodes(estimator: Any) -> list[_Nodes]:
    found = []
    for member in estimator.estimators_:
        tree = member.tree_
        if tree.n_features != estimator.n_features_in_ or tree.n_outputs != 1:
            raise ValueError(f"a tree of {tree.n_features} features and {tree.n_outputs} outputs")
        left, right = tree.children_left, tree.children_right
        found.append((left, right, tree.feature, left == -1))
    return found


def _boosted_nodes(estimator: Any) -> list[_Nodes]:
    found = []
    for (member,) in estimator._predictors:  # what a fit leaves of its rounds has no public name
        nodes = member.nodes
        if nodes["is_categorical"].any():
            raise ValueError("a split by categories")
        left, right, feature = (nodes[name].astype(np.int64) for name in ("left", "right", "feature_idx"))
        found.append((left, right, feature, nodes["is_leaf"].astype(bool)))
    return found
