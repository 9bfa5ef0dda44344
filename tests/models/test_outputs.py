import math

import pytest
import torch

from cisray.models.outputs import ProfileAndCount, apply_link


def test_rates_stay_and_logits_become_probabilities():
    outputs = torch.tensor([[[-1000.0, 0.0, 2.0]]])
    assert apply_link(outputs, "identity") is outputs
    assert apply_link(outputs, "sigmoid").flatten().tolist() == pytest.approx([0, 0.5, 1 / (1 + math.exp(-2))])


def test_a_count_is_spread_along_its_profile():
    shares = torch.tensor([[0.1, 0.5], [0.2, 0.5], [0.7, 0.0]])
    outputs = ProfileAndCount(shares.log()[None] + torch.tensor([3.0, -4.0]), torch.tensor([[math.log(51), -0.5]]))
    expected = apply_link(outputs, "profile")
    assert expected.shape == (1, 3, 2)
    assert expected[0, :, 0].tolist() == pytest.approx([5, 10, 35], rel=1e-5)
    assert expected[0, :, 1].tolist() == [0, 0, 0]  # a log count below 0 is no count


def test_a_link_that_does_not_fit_is_a_mistake_of_ours():
    with pytest.raises(AssertionError):
        apply_link(torch.zeros(1, 1, 1), "profile")
