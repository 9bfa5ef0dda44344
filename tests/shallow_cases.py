"""Windows whose numbers follow from words that are known, and shallow models fitted to them."""

import functools

import numpy as np
import torch

from cisray.baselines.estimators import ShallowModel, build_shallow
from cisray.baselines.feature_sets import Kmers
from cisray.baselines.fitting import fit_shallow
from cisray.baselines.linear import LinearConfig
from cisray.baselines.trees import GradientBoostingConfig, RandomForestConfig
from cisray.baselines.windows import Windows
from cisray.geometry import Geometry

LENGTH = 40
GEOMETRY = Geometry(window_bp=LENGTH, bin_bp=LENGTH)
KMERS = (Kmers(k=2, fold_strands=False),)
CONFIGS = {
    "linear": LinearConfig(features=KMERS, penalty="l1", penalties=(0.05,)),
    "random_forest": RandomForestConfig(features=KMERS, num_trees=30, leaf_sizes=(3,), feature_share=0.5),
    "gradient_boosting": GradientBoostingConfig(features=KMERS, rounds=(20,), leaf_size=5),
}


def make_windows(num, seed=0):
    """Make windows whose number is how often CG stands there, less half of how often AA does, with noise."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 4, (num, LENGTH), np.uint8)
    texts = ["".join("ACGT"[code] for code in row) for row in codes]
    overlapping = [sum(text[at : at + 2] == "AA" for at in range(LENGTH - 1)) for text in texts]
    signal = np.array([text.count("CG") for text in texts]) - 0.5 * np.array(overlapping)
    return Windows(codes, (signal + random.normal(0, 0.3, num)).astype(np.float32)[:, None])


TRAIN, VALID, TEST = make_windows(300), make_windows(80, 1), make_windows(200, 2)


def batches(windows):
    """Give windows as a stream of one batch."""
    return [(torch.from_numpy(windows.codes), torch.from_numpy(windows.targets)[:, None])]


@functools.cache
def fitted(name: str) -> ShallowModel:
    """Return the model of a configuration, fitted; not to be changed."""
    model = build_shallow(CONFIGS[name], geometry=GEOMETRY, num_tracks=1)
    fit_shallow(model, batches(TRAIN), batches(VALID), kind="measurements")
    return model
