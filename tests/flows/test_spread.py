from functools import partial

import numpy as np
import pytest
import torch

from cisray.errors import InputError
from cisray.flows.cluster import ClusterSpec
from cisray.flows.spread import call_for_each, share_of_cpu

pytestmark = pytest.mark.ray


def add(values, item):
    return values.sum() + item, values.flags.writeable, torch.get_num_threads()


def refuse(worst, item):
    if item == worst:
        raise InputError(f"item {item}; wanted another")
    return 1 // item


def test_results_come_in_order_from_a_function_that_went_once(ray_here):
    values = np.ones(1 << 18)
    results = call_for_each(partial(add, values), range(7), cluster=ClusterSpec(actors=2), threads=5)
    assert [total for total, _, _ in results] == [(1 << 18) + item for item in range(7)]
    assert not any(writeable for _, writeable, _ in results)  # they share the memory that Ray holds
    assert {threads for _, _, threads in results} == {2}


def test_a_single_call_is_made_here():
    ((total, writeable, _),) = call_for_each(partial(add, np.ones(3)), [4], cluster=ClusterSpec(), threads=1)
    assert (total, writeable) == (7, True)
    assert call_for_each(partial(add, np.ones(3)), [], cluster=ClusterSpec(), threads=1) == []


def test_bad_input_comes_back_as_it_was_and_an_error_as_one(ray_here):
    spec = ClusterSpec(actors=2)
    with pytest.raises(InputError, match=r"^item 3; wanted another$"):
        call_for_each(partial(refuse, 3), [1, 2, 3], cluster=spec, threads=1)
    with pytest.raises(ZeroDivisionError, match="division"):
        call_for_each(partial(refuse, 3), [1, 0], cluster=spec, threads=1)


def test_many_processes_fit_beside_the_one_that_waits():
    assert all(share_of_cpu(number) * number == 0.5 for number in (1, 2, 64))
