import math

import pytest
import torch

from cisray.training.optimizers import build_adamw, learning_rate_at


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
    decayed, free = build_adamw(model, learning_rate=0.1, weight_decay=0.3).param_groups
    assert [tuple(weight.shape) for weight in decayed["params"]] == [(8, 4, 3), (2, 8)]
    assert [tuple(weight.shape) for weight in free["params"]] == [(8,), (8,), (8,)]
    assert (decayed["weight_decay"], free["weight_decay"], decayed["lr"]) == (0.3, 0.0, 0.1)
