"""Enformer and Borzoi in sizes that a test can run, with weights that are the same in every version of torch."""

import math

import numpy as np
import torch

from cisray.geometry import Geometry
from cisray.models.borzoi import BorzoiConfig, build_borzoi
from cisray.models.enformer import EnformerConfig, build_enformer

TRACKS = {"human": 5, "mouse": 3}
SMALL_ENFORMER = EnformerConfig(
    channels=48,
    width_multiple=12,
    transformer_blocks=2,
    attention_heads=4,
    key_size=8,
    position_features=12,
    gamma_maximum="distance",
)
SMALL_BORZOI = BorzoiConfig(
    stem_channels=6,
    tower_channels=8,
    channels=16,
    width_multiple=4,
    transformer_blocks=1,
    attention_heads=2,
    key_size=4,
    position_features=8,
    head_channels=10,
)


def numbered_weights(shapes, *, seed=0):
    """Return weights for all names of a state dict, drawn by NumPy in the order of the names."""
    random = np.random.default_rng(seed)
    weights = {}
    for name in sorted(shapes):
        shape = tuple(shapes[name].shape)
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.zeros(shape, dtype=torch.long)
            continue
        values = torch.from_numpy(np.asarray(random.standard_normal(shape, dtype=np.float32)))
        if name.endswith("running_var"):
            values = 0.5 + values.abs()
        elif name.endswith("weight") and len(shape) == 1:  # of a norm
            values = 1 + 0.2 * values
        elif name.endswith("weight"):
            values = values / math.sqrt(math.prod(shape[1:]))
        else:
            values = 0.3 * values
        weights[name] = values.to(shapes[name].dtype)
    return weights


def small_enformer(config=SMALL_ENFORMER, *, window_bp=256, bin_bp=16, crop_bins=4, num_tracks=TRACKS):
    """Build in evaluation mode, in float32."""
    geometry = Geometry(window_bp=window_bp, bin_bp=bin_bp, crop_bins=crop_bins)
    network = build_enformer(config, geometry=geometry, num_tracks=num_tracks)
    network.load_state_dict(numbered_weights(network.state_dict()))
    return network.eval()


def small_borzoi(config=SMALL_BORZOI, *, window_bp=1024, bin_bp=32, crop_bins=8, num_tracks=TRACKS):
    """Build in evaluation mode, in float32."""
    geometry = Geometry(window_bp=window_bp, bin_bp=bin_bp, crop_bins=crop_bins)
    network = build_borzoi(config, geometry=geometry, num_tracks=num_tracks)
    network.load_state_dict(numbered_weights(network.state_dict()))
    return network.eval()


def random_codes(*shape, seed=1):
    """Return codes with some N among them."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 5, shape, np.uint8))
