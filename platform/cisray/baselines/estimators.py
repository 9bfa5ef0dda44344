"""Shallow models of a window as networks: codes in, one number per track out, so that a bundle can hold them.

| architecture | kinds of targets | what it is made of |
|---|---|---|
| linear | logistic for labels, linear for numbers | coefficients of features |
| gkm_svm | classes for labels, regression for numbers | a table of 4^l weights for each track |
| random_forest, gradient_boosting | classes for labels, regression for numbers | trees of scikit-learn |

Of labels the number is the log-odds, calibrated on the validation split.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn

from cisray.baselines.feature_sets import FeatureMaker, FeatureSet, Motifs, RegionKmers
from cisray.baselines.fitted import Fitted
from cisray.baselines.gkm_estimator import GkmSvmConfig, decide_by_tables
from cisray.baselines.gkm_filters import BASES
from cisray.baselines.gkm_lmers import Codes
from cisray.baselines.gkm_table import DeltaSvm, GkmTable
from cisray.baselines.linear import LinearConfig, LinearTrack
from cisray.baselines.trees import GradientBoostingConfig, RandomForestConfig, TreesTrack
from cisray.baselines.trees_file import pack_trees, unpack_trees
from cisray.datasets.card import Kind
from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.labels import check_one_label
from cisray.models.outputs import Link

TableConfig = LinearConfig | RandomForestConfig | GradientBoostingConfig
"""What reads a table of features."""
ShallowConfig = TableConfig | GkmSvmConfig
"""Any shallow model of a window, told apart by its `architecture` key."""


class ShallowModel(nn.Module):
    """Scores a window per track, and makes a log-odds or a number of it by a line: codes [B, L] to [B, 1, T]."""

    link: Link = "sigmoid"
    """One number per track, as `goals` says."""
    slopes: nn.Parameter
    offsets: nn.Parameter
    of_signal: Tensor
    """Whether it was fitted to coverage, bool []."""

    def __init__(self, config: ShallowConfig, *, geometry: Geometry, num_tracks: int) -> None:
        check_one_label(config.architecture, geometry)
        super().__init__()
        self.config = config
        self.geometry = geometry
        self.slopes = nn.Parameter(torch.ones(num_tracks, dtype=torch.float64), requires_grad=False)
        self.offsets = nn.Parameter(torch.zeros(num_tracks, dtype=torch.float64), requires_grad=False)
        self.register_buffer("of_signal", torch.zeros((), dtype=torch.bool))

    @property
    def least_squares(self) -> bool:
        """Whether its outputs are the numbers themselves, which of coverage they are and of labels not."""
        return bool(self.of_signal)

    def aim_at(self, kind: Kind) -> None:
        """Say what kind of targets it is fitted to, so that `goals` knows what its outputs will mean."""
        self.of_signal.fill_(kind == "coverage")

    def forward(self, codes: Tensor) -> Tensor:
        """Predict every track from codes [B, L]: [B, 1, T]."""
        scores = torch.from_numpy(self.decide(codes.cpu().numpy())).to(self.slopes)
        return (self.slopes * scores + self.offsets)[:, None, :]

    def decide(self, codes: Codes) -> NDArray[np.float64]:
        """Score windows before the line, [B, L] to [B, T]."""
        raise NotImplementedError

    def keep(self, fits: Iterable[Fitted]) -> None:
        """Take the fits of all tracks."""
        lines = [fitted.line for fitted in fits]
        with torch.no_grad():
            self.slopes.copy_(torch.tensor([line.slope for line in lines]))
            self.offsets.copy_(torch.tensor([line.offset for line in lines]))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: FBT001, FBT002 - torch's
        """Load what `state_dict` gave, whatever was learned of its sizes; raises InputError where it is damaged."""
        self.adopt(state_dict)
        loaded = super().load_state_dict(state_dict, strict=strict, assign=assign)
        self.check()
        return loaded

    def adopt(self, state: Mapping[str, Tensor]) -> None:
        """Take the sizes that only a fit decides."""

    def check(self) -> None:
        """Raise InputError where what was loaded does not belong together."""


class TableModel(ShallowModel):
    """A model that reads a table of features."""

    config: TableConfig

    def __init__(self, config: TableConfig, *, geometry: Geometry, num_tracks: int) -> None:
        super().__init__(config, geometry=geometry, num_tracks=num_tracks)
        self.features = FeatureMaker(config.features, window_bp=geometry.window_bp)

    def decide(self, codes: Codes) -> NDArray[np.float64]:
        """Score windows before the line, [B, L] to [B, T]."""
        return self.decide_rows(self.features(codes))

    def decide_rows(self, rows: csr_array) -> NDArray[np.float64]:
        """Score rows of features before the line, [B, F] to [B, T]."""
        raise NotImplementedError

    def adopt(self, state: Mapping[str, Tensor]) -> None:
        """Take the sizes that only a fit decides."""
        self.features.adopt(_below(state, "features."))

    def check(self) -> None:
        """Raise InputError where what was loaded does not belong together."""
        self.features.check()


class LinearModel(TableModel):
    """A weight for each feature and track."""

    config: LinearConfig

    def __init__(self, config: LinearConfig, *, geometry: Geometry, num_tracks: int) -> None:
        super().__init__(config, geometry=geometry, num_tracks=num_tracks)
        num_features = len(self.features.names) if _is_fixed(config.features) else 0
        zeros = torch.zeros(num_features, num_tracks, dtype=torch.float64)
        self.coefficients = nn.Parameter(zeros, requires_grad=False)
        self.intercepts = nn.Parameter(torch.zeros(num_tracks, dtype=torch.float64), requires_grad=False)

    def decide_rows(self, rows: csr_array) -> NDArray[np.float64]:
        """Score rows of features before the line, [B, F] to [B, T]."""
        coefficients = self.coefficients.detach().cpu().numpy()
        scores: NDArray[np.float64] = rows @ coefficients + self.intercepts.detach().cpu().numpy()
        return scores

    def keep(self, fits: Iterable[Fitted]) -> None:
        """Take the fits of all tracks."""
        fits = list(fits)
        super().keep(fits)
        none = LinearTrack(np.zeros(len(self.features.names)), 0.0, converged=True)
        models = [none if fitted.model is None else fitted.model for fitted in fits]
        self.coefficients.data = torch.from_numpy(np.stack([model.coefficients for model in models], axis=1))
        self.intercepts.data = torch.tensor([model.intercept for model in models], dtype=torch.float64)

    def adopt(self, state: Mapping[str, Tensor]) -> None:
        """Take the sizes that only a fit decides."""
        super().adopt(state)
        if not _is_fixed(self.config.features) and "coefficients" in state:
            shape = state["coefficients"].shape[0], len(self.slopes)
            self.coefficients.data = torch.zeros(shape, dtype=torch.float64)

    def check(self) -> None:
        """Raise InputError where what was loaded does not belong together."""
        super().check()
        if len(self.coefficients) != len(self.features.names):
            raise InputError(
                f"{len(self.coefficients)} coefficients for {len(self.features.names)} features; this model was "
                "damaged, make it again"
            )


class _Trees(nn.Module):
    """Estimators of scikit-learn, and their bytes."""

    skops: Tensor
    """A file in skops' format, uint8."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("skops", torch.zeros(0, dtype=torch.uint8))
        self.estimators: list[Any] = []

    def put(self, estimators: list[Any]) -> None:
        """Hold estimators, None in the place of one, and make their bytes."""
        self.estimators = estimators
        self.skops = torch.frombuffer(bytearray(pack_trees(estimators)), dtype=torch.uint8)


class TreeModel(TableModel):
    """A forest, or boosted trees, for each track."""

    config: RandomForestConfig | GradientBoostingConfig

    def __init__(
        self, config: RandomForestConfig | GradientBoostingConfig, *, geometry: Geometry, num_tracks: int
    ) -> None:
        super().__init__(config, geometry=geometry, num_tracks=num_tracks)
        self.trees = _Trees()

    def decide_rows(self, rows: csr_array) -> NDArray[np.float64]:
        """Score rows of features before the line, [B, F] to [B, T]."""
        scores = np.zeros((rows.shape[0], len(self.slopes)))
        for track, estimator in enumerate(self.trees.estimators):
            if estimator is not None and len(scores):
                scores[:, track] = TreesTrack(estimator).decide(rows)
        return scores

    def keep(self, fits: Iterable[Fitted]) -> None:
        """Take the fits of all tracks."""
        fits = list(fits)
        super().keep(fits)
        self.trees.put([None if fitted.model is None else fitted.model.estimator for fitted in fits])

    def adopt(self, state: Mapping[str, Tensor]) -> None:
        """Take the sizes that only a fit decides."""
        super().adopt(state)
        if "trees.skops" in state:
            self.trees.skops = torch.zeros_like(state["trees.skops"])

    def check(self) -> None:
        """Open the trees; raise InputError where they are not those of this model."""
        super().check()
        packed = self.trees.skops.cpu().numpy().tobytes()
        estimators = unpack_trees(packed, family=self.config.architecture, num_features=len(self.features.names))
        if len(estimators) != len(self.slopes):
            raise InputError(f"trees.skops holds {len(estimators)} estimators for {len(self.slopes)} tracks")
        self.trees.estimators = estimators


class GkmSvm(ShallowModel):
    """A table of the weights of l-mers for each track."""

    config: GkmSvmConfig

    def __init__(self, config: GkmSvmConfig, *, geometry: Geometry, num_tracks: int) -> None:
        super().__init__(config, geometry=geometry, num_tracks=num_tracks)
        words = BASES**config.gkm.l
        self.weights = nn.Parameter(torch.zeros(num_tracks, words, dtype=torch.float32), requires_grad=False)
        self.rho = nn.Parameter(torch.zeros(num_tracks, dtype=torch.float64), requires_grad=False)

    def decide(self, codes: Codes) -> NDArray[np.float64]:
        """Score windows before the line, [B, L] to [B, T]."""
        return decide_by_tables([self.table(track) for track in range(len(self.rho))], codes)

    def table(self, track: int) -> GkmTable:
        """Return a track's weights as a table, which scores sequences of any length."""
        weights = self.weights[track].detach().cpu().numpy()
        return GkmTable(self.config.gkm, weights.astype(np.float32, copy=False), float(self.rho[track]))

    def delta_svm(self, track: int) -> DeltaSvm:
        """Return a track's scores of single l-mers, whose sums over two alleles differ by the deltaSVM."""
        return self.table(track).delta_svm()

    def keep(self, fits: Iterable[Fitted]) -> None:
        """Take the fits of all tracks."""
        fits = list(fits)
        super().keep(fits)
        for track, fitted in enumerate(fits):
            if fitted.model is not None:
                self.weights.data[track] = torch.from_numpy(fitted.model.weights)
                self.rho.data[track] = fitted.model.rho


def build_shallow(config: ShallowConfig, *, geometry: Geometry, num_tracks: int) -> ShallowModel:
    """Build a model that has learned nothing yet; raise InputError where the geometry has several bins."""
    if isinstance(config, LinearConfig):
        return LinearModel(config, geometry=geometry, num_tracks=num_tracks)
    if isinstance(config, GkmSvmConfig):
        return GkmSvm(config, geometry=geometry, num_tracks=num_tracks)
    return TreeModel(config, geometry=geometry, num_tracks=num_tracks)


def _is_fixed(sets: Iterable[FeatureSet]) -> bool:
    """Tell whether the number of features is known before a fit."""
    return not any(isinstance(each, Motifs | RegionKmers) for each in sets)


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): values for name, values in state.items() if name.startswith(prefix)}
