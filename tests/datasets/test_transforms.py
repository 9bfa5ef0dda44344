import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cisray.datasets.transforms import to_natural, to_target

NAN, INF = float("nan"), float("inf")
tracks = st.lists(st.tuples(st.floats(0.01, 100), st.one_of(st.just(INF), st.floats(1, 1000))), min_size=1, max_size=4)


def test_values_that_can_be_checked_by_eye():
    scale, clip_soft = np.array([1.0, 0.5, 1.0]), np.array([INF, INF, 10.0])
    natural = np.array([[7.0, 7.0, 7.0], [34.0, 34.0, 34.0], [NAN, 0.0, NAN]])
    # beyond 10 by 24: 10 - 1 + sqrt(24 + 1)
    expected = [[7.0, 3.5, 7.0], [34.0, 17.0, 14.0], [NAN, 0.0, NAN]]
    assert np.array_equal(to_target(natural, scale, clip_soft), expected, equal_nan=True)


@given(tracks, st.data())
def test_the_inverse_returns_what_went_in_for_numpy_and_torch(parameters, data):
    scale, clip_soft = (np.array(column) for column in zip(*parameters, strict=True))
    values = st.one_of(st.just(NAN), st.floats(0, 1e5), st.floats(-100, 0))
    natural = data.draw(arrays.arrays(np.float64, (3, len(parameters)), elements=values))
    target = to_target(natural, scale, clip_soft)
    assert np.array_equal(np.isnan(target), np.isnan(natural))
    np.testing.assert_allclose(to_natural(target, scale, clip_soft), natural, rtol=1e-9, atol=1e-9)
    as_tensors = [torch.from_numpy(array) for array in (natural, scale, clip_soft)]
    np.testing.assert_allclose(to_target(*as_tensors).numpy(), target, rtol=1e-12)
    back = to_natural(torch.from_numpy(target), *as_tensors[1:])
    np.testing.assert_allclose(back.numpy(), natural, rtol=1e-9, atol=1e-9)


@given(st.floats(0, 1e4), st.floats(1e-3, 1e3), st.floats(1, 100))
def test_order_is_kept_and_nothing_grows(value, step, clip_soft):
    one, clip = np.ones(1), np.array([clip_soft])
    low, high = (to_target(np.array([x]), one, clip)[0] for x in (value, value + step))
    assert low < high
    assert high <= value + step + 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_type_is_kept(dtype):
    natural, scale, clip_soft = (
        torch.rand(2, 3, 2, dtype=dtype),
        torch.ones(2, dtype=dtype),
        torch.full((2,), 1.5, dtype=dtype),
    )
    assert to_natural(to_target(natural, scale, clip_soft), scale, clip_soft).dtype == dtype
