from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.datasets.reading import (
    Order,
    RowGroup,
    cut_batches,
    find_position,
    gather,
    name_windows,
    open_rows,
    read_epoch,
    read_order,
    read_pool,
)
from cisray.datasets.schema import Examples, decode_examples, iter_examples, layout_of
from cisray.errors import InputError

ROWS = 61


@pytest.fixture
def dataset(make_dataset):
    return make_dataset({"train": [17, 1, 33, 10], "valid": [12]})


def shuffled(dataset, *, seed=3, pool_rows=12, rank=0, world=1):
    order = read_order(*dataset, "train", rank=rank, world=world, seed=seed)
    return order._replace(pool_rows=pool_rows)


def number_rows(dataset):
    """Return the number of each row of the train split by its first target, which is random."""
    folder, card = dataset
    tables = pa.concat_tables(iter_examples(folder, card, "train", batch_size=99))
    return {float(target[0, 0]): row for row, target in enumerate(decode_examples(tables, layout_of(card)).targets)}


def rows_read(dataset, order, epoch, **how):
    """Read an epoch and return the numbers of its rows, batch by batch."""
    number = number_rows(dataset)
    batches = read_epoch(order, epoch, layout_of(dataset[1]), **how)
    return [[number[float(target[0, 0])] for target in batch.targets] for batch in batches]


def epoch_of(dataset, order, epoch, **how):
    return [row for batch in rows_read(dataset, order, epoch, **how) for row in batch]


def test_without_a_seed_the_files_are_read_in_order(dataset):
    order = read_order(*dataset, "train")
    assert epoch_of(dataset, order, 0, batch_size=8) == list(range(ROWS))
    assert sum(group.rows for group in order.groups) == ROWS
    assert {group.rows for group in order.groups} == {5, 2, 1, 3}


def test_an_epoch_holds_every_row_once_in_an_order_of_its_own(dataset):
    order = shuffled(dataset)
    epochs = [epoch_of(dataset, order, epoch, batch_size=8) for epoch in range(3)]
    for one in epochs:
        assert sorted(one) == list(range(ROWS))
    assert epochs[0] != sorted(epochs[0])
    assert len({tuple(one) for one in epochs}) == 3
    assert epoch_of(dataset, shuffled(dataset), 1, batch_size=5) == epochs[1]  # the same seed again
    assert epoch_of(dataset, shuffled(dataset, seed=4), 1, batch_size=8) != epochs[1]


def test_a_pool_mixes_the_rows_of_its_groups_and_each_pool_in_a_way_of_its_own(make_dataset):
    dataset = make_dataset({"train": [60]})
    order, number = shuffled(dataset, pool_rows=20), number_rows(dataset)
    permutations = []
    for pool in order.pools(0):
        assert [group.rows for group in pool.groups] == [5, 5, 5, 5]
        mixed = [
            number[float(target[0, 0])] for target in decode_examples(read_pool(pool), layout_of(dataset[1])).targets
        ]
        in_turn = [5 * group.number + row for group in pool.groups for row in range(5)]
        permutations.append(tuple(in_turn.index(row) for row in mixed))
        assert sorted(permutations[-1]) == list(range(20))
    assert len({*permutations, tuple(range(20))}) == 4


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_an_epoch_out_among_them(dataset, world):
    orders = [shuffled(dataset, rank=rank, world=world) for rank in range(world)]
    for epoch in range(2):
        parts = [epoch_of(dataset, order, epoch, batch_size=4) for order in orders]
        assert sorted(start for part in parts for start in part) == list(range(ROWS))  # every row, and none twice
        steps = {order.steps(epoch, 4) for order in orders}
        assert steps == {min(len(part) for part in parts) // 4}  # no rank runs dry before another
    assert set(orders[0].dealt(0)[0]) != set(orders[0].dealt(1)[0])


def test_a_single_rank_steps_over_all_rows(dataset):
    order = shuffled(dataset)
    for batch_size in (1, 7, 61, 100):
        batches = rows_read(dataset, order, 0, batch_size=batch_size)
        assert len(batches) == order.steps(0, batch_size) == -(-ROWS // batch_size)


def test_going_on_from_any_row_gives_the_tail_of_the_undisturbed_stream(dataset):
    order = shuffled(dataset, rank=1, world=2)
    whole = epoch_of(dataset, order, 2, batch_size=4)
    for rows_seen in range(len(whole) + 1):
        assert epoch_of(dataset, order, 2, batch_size=4, rows_seen=rows_seen) == whole[rows_seen:]


def test_rows_of_an_epoch_are_named_by_where_they_lie(dataset):
    folder, card = dataset
    tables = pa.concat_tables(iter_examples(folder, card, "train", batch_size=99)).select(["contig", "start", "end"])
    of_row = [f"{row['contig']}:{row['start']}-{row['end']}" for row in tables.to_pylist()]
    for order in (shuffled(dataset, rank=1, world=2), shuffled(dataset, seed=None)):
        expected = [of_row[row] for row in epoch_of(dataset, order, 2, batch_size=5)]
        for first in (0, 4, 11, 13):
            assert name_windows(order, 2, range(first, first + 14)) == expected[first : first + 14]


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


def test_pools_read_as_tables_and_as_arrays_are_the_same_rows(dataset):
    order, layout = shuffled(dataset), layout_of(dataset[1])
    tables = cut_batches(map(read_pool, order.pools(1)), 7)
    for table, batch in zip(tables, read_epoch(order, 1, layout, batch_size=7), strict=True):
        of_table = decode_examples(table, layout)
        assert np.array_equal(of_table.codes, batch.codes)
        assert np.array_equal(of_table.targets, batch.targets)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
@pytest.mark.parametrize("length", [3, 20_000])  # rows that are copied many at a time, and one by one
def test_gathered_rows_are_those_of_the_joined_parts(length, sizes, data):
    random = np.random.default_rng(0)
    parts = [
        Examples(random.integers(0, 5, (n, length), np.uint8), random.random((n, 2, 1)), weights=random.random(n))
        for n in sizes
    ]
    rows = np.array(data.draw(st.lists(st.integers(0, sum(sizes) - 1), min_size=1, max_size=9)))
    found = gather(parts, rows)
    assert np.array_equal(found.codes, np.concatenate([part.codes for part in parts])[rows])
    assert np.array_equal(found.targets, np.concatenate([part.targets for part in parts])[rows])
    assert np.array_equal(found.weights, np.concatenate([part.weights for part in parts])[rows])
    assert found.channels is None


def test_rows_that_are_gone_or_damaged_are_told_with_their_file(tmp_path):
    path = tmp_path / "part-0.parquet"
    with pytest.raises(InputError, match=r"part-0.parquet: no such file, but rows of a dataset were expected here"):
        open_rows(path)
    path.write_bytes(b"PAR1 cut short")
    with pytest.raises(InputError, match=r"part-0.parquet: rows of a dataset that cannot be read \(.*\); build the"):
        open_rows(path)
