"""What the tests of the networks that label windows share."""

import numpy as np
import torch
from torch import nn

from cisray.models.reach import reach_of


def random_codes(*shape, seed=2):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 4, shape, np.uint8))


def encode(codes):
    return nn.functional.one_hot(codes.long(), 4).double().mT


def settle(network):
    """Put a network in float64, as after training: batch norms have seen data, biases are not zero."""
    network = network.double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


def num_weights(network):
    return sum(weight.numel() for weight in network.parameters())


def check_local_without_padding(local, *, window_bp, stride):
    """Assert that `local` moves with the sequence, and that a base moves the positions that read it and no others."""
    codes = random_codes(1, window_bp)
    hidden = local(encode(codes))
    moved = local(encode(codes[:, stride:]))
    torch.testing.assert_close(moved, hidden[:, :, 1 : 1 + moved.shape[2]], rtol=0, atol=1e-12)
    (reach,) = reach_of(local)
    assert (reach.stride_bp, reach.start_bp) == (stride, 0)
    reads = reach.end_bp
    could_move = 0
    for base in range(0, window_bp, 7):
        changed = codes.clone()
        changed[0, base] = (changed[0, base] + 1) % 4
        positions = (local(encode(changed)) != hidden).any(dim=1)[0].nonzero()[:, 0]
        assert all(position * stride <= base < position * stride + reads for position in positions.tolist())
        could_move += len(positions)
    assert could_move > 0
