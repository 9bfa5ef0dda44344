from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.datasets.reading import Order, RowGroup, cut_batches, find_position, read_epoch, read_order, read_pool

ROWS = 61


@pytest.fixture
def dataset(make_dataset):
    return make_dataset({"train": [17, 1, 33, 10], "valid": [12]})


def shuffled(dataset, *, seed=3, pool_rows=12, rank=0, world=1):
    order = read_order(*dataset, "train", rank=rank, world=world, seed=seed)
    return order._replace(pool_rows=pool_rows)


def starts(tables):
    return [start for table in tables for start in table["start"].to_pylist()]


def test_without_a_seed_the_files_are_read_in_order(dataset):
    order = read_order(*dataset, "train")
    assert starts(read_epoch(order, 0, batch_size=8)) == list(range(0, 8 * ROWS, 8))
    assert sum(group.rows for group in order.groups) == ROWS
    assert {group.rows for group in order.groups} == {5, 2, 1, 3}


def test_an_epoch_holds_every_row_once_in_an_order_of_its_own(dataset):
    order = shuffled(dataset)
    epochs = [starts(read_epoch(order, epoch, batch_size=8)) for epoch in range(3)]
    for one in epochs:
        assert sorted(one) == list(range(0, 8 * ROWS, 8))
    assert epochs[0] != sorted(epochs[0])
    assert len({tuple(one) for one in epochs}) == 3
    assert starts(read_epoch(shuffled(dataset), 1, batch_size=5)) == epochs[1]  # the same seed again
    assert starts(read_epoch(shuffled(dataset, seed=4), 1, batch_size=8)) != epochs[1]


def test_a_pool_mixes_the_rows_of_its_groups_and_each_pool_in_a_way_of_its_own(make_dataset):
    order = shuffled(make_dataset({"train": [60]}), pool_rows=20)
    permutations = []
    for pool in order.pools(0):
        assert [group.rows for group in pool.groups] == [5, 5, 5, 5]
        mixed = read_pool(pool)["start"].to_pylist()
        in_turn = [8 * (5 * group.number + row) for group in pool.groups for row in range(5)]
        permutations.append(tuple(in_turn.index(start) for start in mixed))
        assert sorted(permutations[-1]) == list(range(20))
    assert len({*permutations, tuple(range(20))}) == 4


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_an_epoch_out_among_them(dataset, world):
    orders = [shuffled(dataset, rank=rank, world=world) for rank in range(world)]
    for epoch in range(2):
        parts = [starts(read_epoch(order, epoch, batch_size=4)) for order in orders]
        assert sorted(start for part in parts for start in part) == list(
            range(0, 8 * ROWS, 8)
        )  # every row, and none twice
        steps = {order.steps(epoch, 4) for order in orders}
        assert steps == {min(len(part) for part in parts) // 4}  # no rank runs dry before another
    assert set(orders[0].dealt(0)[0]) != set(orders[0].dealt(1)[0])


def test_a_single_rank_steps_over_all_rows(dataset):
    order = shuffled(dataset)
    for batch_size in (1, 7, 61, 100):
        batches = list(read_epoch(order, 0, batch_size=batch_size))
        assert len(batches) == order.steps(0, batch_size) == -(-ROWS // batch_size)


def test_going_on_from_any_row_gives_the_tail_of_the_undisturbed_stream(dataset):
    order = shuffled(dataset, rank=1, world=2)
    whole = starts(read_epoch(order, 2, batch_size=4))
    for rows_seen in range(len(whole) + 1):
        assert starts(read_epoch(order, 2, batch_size=4, rows_seen=rows_seen)) == whole[rows_seen:]


def test_a_position_skips_whole_pools_unread(dataset):
    order = shuffled(dataset)
    sizes = [pool.rows for pool in order.pools(0)]
    assert len(sizes) > 3
    assert find_position(order, 0, 0) == (0, 0)
    assert find_position(order, 0, sizes[0] + sizes[1] + 2) == (2, 2)
    assert find_position(order, 0, sizes[0]) == (1, 0)
    assert find_position(order, 0, ROWS) == (len(sizes), 0)


@given(
    st.lists(st.integers(0, 9), max_size=12),
    st.integers(1, 30),
    st.integers(1, 4),
    st.one_of(st.none(), st.integers(0, 5)),
)
def test_pools_hold_the_dealt_groups_and_no_more_than_they_must(sizes, pool_rows, world, seed):
    groups = tuple(RowGroup("file", number, rows) for number, rows in enumerate(sizes))
    dealt = []
    for rank in range(world):
        order = Order(groups, pool_rows, rank, world, seed)
        pools = order.pools(1)
        dealt += [group for pool in pools for group in pool.groups]
        for pool in pools:
            assert sum(group.rows for group in pool.groups[:-1]) < pool_rows
        for pool in pools[:-1]:
            assert pool.rows >= pool_rows
    assert sorted(dealt) == sorted(groups)


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 12), st.integers(0, 80))
def test_batches_are_slices_of_the_concatenation(sizes, batch_size, skip):
    values = np.arange(sum(sizes))
    cuts = np.cumsum([0, *sizes])
    tables = [pa.table({"x": values[a:b]}) for a, b in pairwise(cuts)]
    batches = [batch["x"].to_pylist() for batch in cut_batches(iter(tables), batch_size, skip=skip)]
    tail = values[skip:].tolist()
    assert batches == [tail[start : start + batch_size] for start in range(0, len(tail), batch_size)]
