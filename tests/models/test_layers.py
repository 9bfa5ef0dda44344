import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from cisray.models.layers import DilatedResidual, MaxPool, TrackHead, one_hot, prime_factors


def test_one_hot_in_the_order_acgt_and_n_is_four_zeros():
    codes = torch.tensor([[0, 1, 2, 3, 4]], dtype=torch.uint8)
    expected = [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]]
    assert one_hot(codes, torch.float64).tolist() == [expected]
    assert one_hot(codes, torch.bfloat16).dtype == torch.bfloat16


@given(st.integers(1, 5000))
def test_prime_factors_multiply_to_the_number(number):
    factors = prime_factors(number)
    assert math.prod(factors) == number
    assert factors == sorted(factors)
    assert all(all(factor % d for d in range(2, factor)) and factor > 1 for factor in factors)


@pytest.mark.parametrize("pool", [2, 5])
def test_max_pool_is_torchs_own_and_so_is_its_gradient(pool):
    ours, theirs = (torch.randn(3, 4, 20, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in "ab")
    (MaxPool(pool)(ours) ** 2).sum().backward()
    (F.max_pool1d(theirs, pool) ** 2).sum().backward()
    assert torch.equal(MaxPool(pool)(ours), F.max_pool1d(theirs, pool))
    assert torch.equal(ours.grad, theirs.grad)


def test_a_residual_block_starts_as_the_identity_and_still_learns():
    hidden = torch.randn(2, 6, 11)
    block = DilatedResidual(6, 4, dilation=3, dropout=0.5)
    assert torch.equal(block(hidden), hidden)
    (block(hidden) ** 2).sum().backward()
    assert block.layers[5].weight.grad.abs().max() > 0


def test_a_head_starts_at_the_means_whatever_their_size():
    torch.manual_seed(0)
    means = [0.0, 0.02, 1.0, 30.0, 100.0, 5000.0, math.nan]  # NaN: a track without data in the train split
    head = TrackHead(8, 16, len(means), dropout=0.0)
    head.start_at(means)
    rates = head(torch.randn(50, 8, 20)).mean(dim=(0, 2)).detach().numpy()
    np.testing.assert_allclose(rates, [1e-3, 0.02, 1.0, 30.0, 100.0, 5000.0, 1e-3], rtol=0.05)
