"""Train a support vector machine on the gapped k-mer kernel, for two classes (gkm-SVM) or for values (gkm-SVR).

A k-mer SVM is the case without gaps: `GkmSpec(l=6, k=6, d=0, kernel="gkm_count")`.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from cisray.baselines.gkm_filters import GkmSpec
from cisray.baselines.gkm_kernel import kernel_matrix
from cisray.baselines.gkm_lmers import Codes
from cisray.baselines.gkm_table import GkmTable, take_arrays, weight_table
from cisray.config import STRICT
from cisray.errors import InputError


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SvmSpec:
    """How a support vector machine learns; the defaults are LS-GKM's for classes."""

    task: Literal["classes", "values"] = "classes"
    c: float = 1.0
    """Price of an error against the norm of the weights; LS-GKM takes 0.1 for values."""
    tolerance: float = 1e-3
    """Largest violation of the conditions of the optimum at which training stops."""
    positive_weight: float = 1.0
    """Of classes: how many times more an error costs in the positive class."""
    epsilon: float = 0.1
    """Of values: distance from the truth that costs nothing."""

    def __post_init__(self) -> None:
        for name in ("c", "tolerance", "positive_weight"):
            if getattr(self, name) <= 0:
                raise InputError(f"svm: {name}={getattr(self, name)}; wanted a positive number")
        if self.epsilon < 0:
            raise InputError(f"svm: epsilon={self.epsilon}; wanted zero or more")


class Solution(NamedTuple):
    """A trained machine, by the examples that hold it up."""

    support: NDArray[np.int64]
    """Which examples are support vectors, [S]."""
    coefficients: NDArray[np.float64]
    """Of each, [S]: alpha, with the sign of its class."""
    rho: float

    def decide(self, kernel: NDArray[np.float64]) -> NDArray[np.float64]:
        """Score B sequences by their kernel with all training examples, [B, N] to [B]."""
        return kernel[:, self.support] @ self.coefficients - self.rho


class GkmModel(NamedTuple):
    """A trained gapped k-mer SVM: its support vectors."""

    spec: GkmSpec
    sequences: Sequence[Codes]
    """S support vectors, each codes [L]."""
    coefficients: NDArray[np.float64]
    """[S]: alpha, with the sign of its class."""
    rho: float
    """What is taken off every score."""

    def table(self) -> GkmTable:
        """Add the support vectors up to one weight for each l-mer, which is what scores."""
        return weight_table(self.sequences, self.coefficients, rho=self.rho, spec=self.spec)

    def state(self) -> dict[str, NDArray]:
        """Return all arrays, as safetensors stores them."""
        return {
            "gkm.sequences": np.concatenate([*self.sequences, np.empty(0, np.uint8)]),
            "gkm.lengths": np.array([len(codes) for codes in self.sequences], np.int64),
            "gkm.coefficients": self.coefficients,
            "gkm.rho": np.array([self.rho]),
        }

    @classmethod
    def from_state(cls, spec: GkmSpec, state: Mapping[str, NDArray]) -> "GkmModel":
        """Make a model from the arrays of `state`; raises InputError where they do not belong together."""
        names = ("gkm.sequences", "gkm.lengths", "gkm.coefficients", "gkm.rho")
        joined, lengths, coefficients, rho = take_arrays(state, names)
        if lengths.sum() != len(joined) or len(coefficients) != len(lengths) or rho.shape != (1,):
            raise InputError(
                f"a gapped k-mer model has {len(lengths)} support vectors of {lengths.sum()} bases in all, but "
                f"{len(coefficients)} coefficients and {len(joined)} bases; make it again"
            )
        sequences = np.split(joined, np.cumsum(lengths)[:-1]) if len(lengths) else []
        return cls(spec, sequences, coefficients.astype(np.float64), float(rho[0]))


def train_gkm(
    sequences: Sequence[Codes],
    labels: NDArray,
    *,
    spec: GkmSpec,
    svm: SvmSpec,
    device: str | torch.device = "cpu",
) -> GkmModel:
    """Train on sequences, each codes [L], and their labels [N]: above 0 is the positive class, or values.

    Memory and time grow with the square of N: 8 bytes a pair.

    Raises:
        InputError: a sequence is too short or all N, a label is missing, or there is one class only.
    """
    _check_labels(labels, len(sequences), svm)
    solution = solve(kernel_matrix(sequences, spec=spec, device=device), labels, svm)
    return GkmModel(spec, [sequences[number] for number in solution.support], solution.coefficients, solution.rho)


def cross_validate(
    sequences: Sequence[Codes],
    labels: NDArray,
    folds: NDArray[np.integer],
    *,
    spec: GkmSpec,
    svm: SvmSpec,
    device: str | torch.device = "cpu",
) -> NDArray[np.float64]:
    """Score each sequence by a machine trained on the other folds: labels [N] and fold numbers [N] to scores [N].

    Raises:
        InputError: as `train_gkm`, or there is one fold only.
    """
    _check_labels(labels, len(sequences), svm)
    numbers = np.unique(folds)
    if folds.shape != labels.shape or len(numbers) < 2:
        raise InputError(
            f"{len(numbers)} folds of {folds.size} numbers; wanted two or more, of {len(labels)} sequences"
        )
    kernel = kernel_matrix(sequences, spec=spec, device=device)
    scores = np.empty(len(sequences), np.float64)
    for number in numbers:
        here = folds == number
        _check_labels(labels[~here], int((~here).sum()), svm)
        solution = solve(kernel[np.ix_(~here, ~here)], labels[~here], svm)
        scores[here] = solution.decide(kernel[np.ix_(here, ~here)])
    return scores


def solve(kernel: NDArray[np.float64], labels: NDArray, svm: SvmSpec) -> Solution:
    """Find the support vectors for a kernel of all training examples [N, N] and their labels [N]."""
    from sklearn.svm import SVC, SVR  # noqa: PLC0415 - takes a second, which only fits are to pay

    if svm.task == "classes":
        machine = SVC(kernel="precomputed", C=svm.c, tol=svm.tolerance, class_weight={1: svm.positive_weight})
        machine.fit(kernel, (labels > 0).astype(np.int64))
    else:
        machine = SVR(kernel="precomputed", C=svm.c, tol=svm.tolerance, epsilon=svm.epsilon)
        machine.fit(kernel, labels)
    return Solution(machine.support_.astype(np.int64), machine.dual_coef_[0].copy(), -float(machine.intercept_[0]))


def _check_labels(labels: NDArray, num_sequences: int, svm: SvmSpec) -> None:
    if labels.shape != (num_sequences,) or not np.isfinite(labels).all():
        raise InputError(
            f"labels of shape {labels.shape}, {int((~np.isfinite(labels)).sum())} of them not finite, for "
            f"{num_sequences} sequences; wanted one number for each"
        )
    if svm.task == "classes" and len(np.unique(labels > 0)) < 2:
        raise InputError(f"all {num_sequences} labels are of one class; wanted some above 0 and some not")
