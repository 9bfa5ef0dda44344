import torch
from hypothesis import given
from hypothesis import strategies as st

from cisray.training.objectives import LEAST_RATE, poisson_loss


@given(st.integers(0, 10_000), st.floats(0, 0.9))
def test_the_loss_is_torchs_own_over_the_bins_with_data(seed, masked):
    random = torch.Generator().manual_seed(seed)
    rates = 10 * torch.rand(2, 5, 3, generator=random)
    counts = 20 * torch.rand(2, 5, 3, generator=random)
    present = torch.rand(2, 5, 3, generator=random) >= masked
    present[0, 0, 0] = True
    targets = torch.where(present, counts, torch.nan)
    torchs = torch.nn.PoissonNLLLoss(log_input=False, full=False, eps=LEAST_RATE)
    torch.testing.assert_close(poisson_loss(rates, targets), torchs(rates[present], counts[present]))


def test_masked_bins_move_nothing():
    rates = torch.rand(1, 4, 2).requires_grad_()
    targets = torch.tensor([[[1.0, torch.nan], [torch.nan, 2.0], [0.0, 3.0], [torch.nan, torch.nan]]])
    poisson_loss(rates, targets).backward()
    assert (rates.grad[torch.isnan(targets)] == 0).all()
    assert (rates.grad[~torch.isnan(targets)] != 0).all()


def test_a_batch_without_any_data_is_no_loss():
    rates = torch.rand(1, 4, 2).requires_grad_()
    loss = poisson_loss(rates, torch.full((1, 4, 2), torch.nan))
    loss.backward()
    assert loss == 0
    assert (rates.grad == 0).all()


def test_a_rate_of_zero_stays_finite_and_the_best_rate_is_the_count():
    assert torch.isfinite(poisson_loss(torch.zeros(1, 1, 1), torch.full((1, 1, 1), 100.0)))
    rates = torch.linspace(0.1, 10, 100)
    losses = [poisson_loss(rate.view(1, 1, 1), torch.tensor([[[4.0]]])) for rate in rates]
    assert abs(rates[torch.stack(losses).argmin()] - 4) <= 0.05


def test_half_precision_predictions_are_summed_in_float32():
    rates = torch.full((1, 4096, 1), 3.0, dtype=torch.bfloat16)
    targets = torch.full((1, 4096, 1), 2.0)
    loss = poisson_loss(rates, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.tensor(3 - 2 * torch.log(torch.tensor(3.0)).item()))
