import math

import numpy as np
import pytest
import torch

from cisray.errors import InputError
from cisray.training.optimizers import build_average, build_optimizer, learning_rate_at, set_rate
from cisray.training.spec import TrainSpec


def rates(steps, **kwargs):
    return [learning_rate_at(step, **kwargs) for step in steps]


def test_the_schedule_rises_in_a_line_and_falls_in_a_cosine():
    schedule = {"peak": 2.0, "warmup_steps": 4, "total_steps": 104}
    assert rates(range(5), **schedule) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    # half way down half a cosine from 2 to 0.02, and at the quarters
    assert rates([29, 54, 79, 104], **schedule) == pytest.approx(
        [0.02 + 1.98 * (1 + math.sqrt(0.5)) / 2, 1.01, 0.02 + 1.98 * (1 - math.sqrt(0.5)) / 2, 0.02]
    )
    assert rates([500], **schedule) == pytest.approx([0.02])
    falling = rates(range(4, 105), **schedule)
    assert falling == sorted(falling, reverse=True)


def test_short_runs_have_a_rate_too():
    assert rates(range(3), peak=1.0, warmup_steps=0, total_steps=1) == pytest.approx([1.0, 0.01, 0.01])
    assert rates(range(3), peak=1.0, warmup_steps=100, total_steps=3) == pytest.approx([0.01, 0.02, 0.03])


def test_only_matrices_and_kernels_decay():
    model = torch.nn.Sequential(torch.nn.Conv1d(4, 8, 3), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))
    model[2].bias.requires_grad_(False)
    decayed, free = build_optimizer(model, TrainSpec(learning_rate=0.1, weight_decay=0.3)).param_groups
    assert [tuple(weight.shape) for weight in decayed["params"]] == [(8, 4, 3), (2, 8)]
    assert [tuple(weight.shape) for weight in free["params"]] == [(8,), (8,), (8,)]
    assert (decayed["weight_decay"], free["weight_decay"], decayed["lr"]) == (0.3, 0.0, 0.1)


def make_model():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv1d(4, 8, 3), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))
    model.add_module("head", torch.nn.Linear(2, 1))
    return model


def test_every_parameter_has_the_rate_of_the_longest_prefix_of_its_name():
    model = make_model()
    spec = TrainSpec(learning_rate=0.5, weight_decay=0.3, rate_factors={"0": 0.1, "0.bias": 2.0, "head": 0.0})
    optimizer = build_optimizer(model, spec)
    set_rate(optimizer, 0.2)
    found = {
        id(weight): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    assert {name: found.pop(id(weight)) for name, weight in model.named_parameters()} == {
        "0.weight": (pytest.approx(0.02), 0.3),
        "0.bias": (0.4, 0.0),
        "1.weight": (0.2, 0.0),
        "1.bias": (0.2, 0.0),
        "2.weight": (0.2, 0.3),
        "2.bias": (0.2, 0.0),
        "head.weight": (0.0, 0.3),
        "head.bias": (0.0, 0.0),
    }
    assert not found
    before = model.head.weight.clone()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    optimizer.step()
    assert torch.equal(model.head.weight, before)  # a factor of 0 leaves them as they are, decay and all


def test_a_prefix_of_no_parameter_is_refused():
    with pytest.raises(InputError, match=r"rate_factors\.tail: no parameter's name starts so.*0, 1, 2, head$"):
        build_optimizer(make_model(), TrainSpec(rate_factors={"tail": 0.1}))


def test_sgd_moves_as_its_formula_says():
    weight = torch.nn.Parameter(torch.tensor([[1.0, -2.0]]))
    model = torch.nn.Module()
    model.weight = weight
    spec = TrainSpec(optimizer="sgd", momentum=0.5, weight_decay=0.1)
    optimizer = build_optimizer(model, spec)
    assert isinstance(optimizer, torch.optim.SGD)
    expected, velocity = np.array([[1.0, -2.0]]), 0.0
    for rate in (0.1, 0.3):
        optimizer.zero_grad()
        (weight * torch.tensor([[3.0, 4.0]])).sum().backward()
        set_rate(optimizer, rate)
        optimizer.step()
        velocity = 0.5 * velocity + (np.array([[3.0, 4.0]]) + 0.1 * expected)
        expected = expected - rate * velocity
    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-6)


def test_the_running_mean_is_the_sum_it_is_defined_by():
    model = make_model()
    average = build_average(model, 0.75)
    expected = None
    for step in range(4):
        with torch.no_grad():
            for weight in model.parameters():
                weight.fill_(float(step**2))
            model[1].running_mean.fill_(float(step))
        average.update_parameters(model)
        now = np.array([step**2, step], np.float64)
        expected = now if expected is None else 0.75 * expected + 0.25 * now
    assert average.module[0].weight.flatten()[0].item() == pytest.approx(expected[0])
    assert average.module[1].running_mean[0].item() == pytest.approx(expected[1])
    assert model[0].weight.flatten()[0] == 9
