import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from cisray.models.layers import (
    AttentionPool,
    DilatedResidual,
    MaxPool,
    Pyramid,
    TrackHead,
    geometric_widths,
    one_hot,
    prime_factors,
)


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


def test_an_attention_pool_is_a_softmax_over_every_two_positions():
    torch.manual_seed(0)
    pool = AttentionPool(3).double()
    hidden = torch.randn(2, 3, 10, dtype=torch.float64, requires_grad=True)
    for weight in (2 * torch.eye(3, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)):
        pool.logits.weight.data = weight[:, :, None]
        logits = torch.einsum("dc,bcn->bdn", weight, hidden)
        shares = torch.softmax(logits.unflatten(2, (-1, 2)), dim=3)
        expected = (hidden.unflatten(2, (-1, 2)) * shares).sum(dim=3)
        torch.testing.assert_close(pool(hidden), expected)
        found_gradient, expected_gradient = (
            torch.autograd.grad(output.square().sum(), hidden)[0] for output in (pool(hidden), expected)
        )
        torch.testing.assert_close(found_gradient, expected_gradient)


def test_an_attention_pool_starts_close_to_a_maximum():
    pool = AttentionPool(2)
    assert torch.equal(pool.logits.weight[:, :, 0], 2 * torch.eye(2))
    torch.testing.assert_close(pool(torch.tensor([[[0.0, 9.0], [3.0, 3.0]]])), torch.tensor([[[9.0], [3.0]]]))


def test_a_pyramid_returns_every_stage_through_its_side():
    stages, sides = [MaxPool(2), MaxPool(4)], [torch.nn.Conv1d(3, 2, 1), torch.nn.Identity()]
    hidden = torch.randn(1, 3, 16)
    fine, coarse = Pyramid(stages, sides)(hidden)
    torch.testing.assert_close(fine, sides[0](F.max_pool1d(hidden, 2)))
    torch.testing.assert_close(coarse, F.max_pool1d(hidden, 8))


@pytest.mark.parametrize(
    ("first", "last", "steps", "multiple_of", "widths"),
    [
        (768, 1536, 6, 128, [768, 896, 1024, 1152, 1280, 1536]),
        (608, 1536, 6, 32, [608, 736, 896, 1056, 1280, 1536]),
        (8, 24, 1, 8, [24]),
        (8, 24, 2, 8, [8, 24]),
    ],
)
def test_widths_grow_by_one_factor(first, last, steps, multiple_of, widths):
    assert geometric_widths(first, last, steps, multiple_of=multiple_of) == widths
