import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cisray.datasets.reading import read_order, read_pool
from cisray.datasets.schema import decode_examples, layout_of
from cisray.datasets.streams import ExampleStream, MixedStream
from cisray.errors import InputError

ROWS = 61


@pytest.fixture
def dataset(make_dataset):
    return make_dataset({"train": [17, 1, 33, 10], "valid": [12]})


def keys(batches):
    """Tell rows apart by their first target, which is a random number."""
    return [value for batch in batches for value in batch["targets"][:, 0, 0].tolist()]


def test_a_stream_gives_the_rows_of_the_files(dataset):
    folder, card = dataset
    batches = list(ExampleStream(folder, "train", batch_size=8))
    assert [len(batch["codes"]) for batch in batches] == [8] * 7 + [5]
    assert set(batches[0]) == {"codes", "targets"}
    tables = [read_pool(pool) for pool in read_order(folder, card, "train").pools(0)]
    stored = [decode_examples(table, layout_of(card)) for table in tables]
    assert torch.equal(
        torch.cat([batch["codes"] for batch in batches]), torch.from_numpy(np.concatenate([s.codes for s in stored]))
    )
    assert torch.equal(
        torch.cat([batch["targets"] for batch in batches]),
        torch.from_numpy(np.concatenate([s.targets for s in stored])),
    )
    batches[0]["targets"].zero_()  # a batch may be written to


def test_epochs_and_shares(dataset):
    folder, _ = dataset
    stream = ExampleStream(folder, "train", batch_size=8, seed=5)
    first = keys(stream)
    stream.epoch = 1
    second = keys(stream)
    assert sorted(first) == sorted(second)
    assert first != second
    assert len(stream) == 8
    assert keys(stream.read_from(0, rows_seen=13)) == first[13:]


def test_ranks_read_different_rows_and_equally_many_batches(dataset):
    folder, _ = dataset
    for world, batch_size in ((2, 8), (3, 5), (2, 4)):
        shares = [
            ExampleStream(folder, "train", batch_size=batch_size, seed=5, rank=rank, world=world)
            for rank in range(world)
        ]
        read = [list(share) for share in shares]
        assert {len(batches) for batches in read} == {len(shares[0])}
        assert {len(batch["codes"]) for batches in read for batch in batches} == {batch_size}
        rows = [key for batches in read for key in keys(batches)]
        assert len(set(rows)) == len(rows) > ROWS - world * (batch_size + 5)
        assert keys(shares[1].read_from(0, rows_seen=batch_size)) == keys(read[1])[batch_size:]


def test_more_ranks_than_row_groups_are_refused(make_dataset):
    folder, _ = make_dataset({"train": [4]})
    stream = ExampleStream(folder, "train", batch_size=2, seed=1, rank=1, world=2)
    with pytest.raises(InputError, match=r"1 row groups fill no batch of 2 for each of 2 readers"):
        next(iter(stream))
    with pytest.raises(InputError, match="dataset a: its rows fill no batch for every reader of epoch 0"):
        next(iter(MixedStream({"a": stream})))


def test_processes_of_a_loader_share_the_rows_out(dataset):
    folder, _ = dataset
    stream = ExampleStream(folder, "train", batch_size=8, seed=5)
    loader = DataLoader(stream, batch_size=None, num_workers=2, multiprocessing_context="fork")
    rows = keys(loader)
    assert len(set(rows)) == len(rows) > ROWS - 2 * 8


def test_a_batch_of_no_rows_is_refused(dataset):
    with pytest.raises(InputError, match="batch_size=0; wanted 1 or more"):
        ExampleStream(dataset[0], "train", batch_size=0)


@pytest.fixture
def mixture(dataset):
    def make(weights=None):
        streams = {
            "large": ExampleStream(dataset[0], "train", batch_size=4, seed=1),
            "small": ExampleStream(dataset[0], "valid", batch_size=4, seed=1),
        }
        return MixedStream(streams, weights=weights)

    return make


WEIGHTS = {"large": 1.0, "small": 3.0}


def test_a_mixture_without_weights_reads_every_row_of_every_dataset_once(mixture):
    one = mixture()
    drawn = list(one)
    assert len(drawn) == len(one) == 16 + 3
    assert [name for name, _ in drawn] == one.mixture.names(0)
    for name, stream in one.streams.items():
        assert keys(batch for whose, batch in drawn if whose == name) == keys(stream)
    assert [number for number, (name, _) in enumerate(drawn) if name == "small"] == [
        3,
        9,
        15,
    ]  # in the middle of thirds
    one.epoch = 1
    assert sorted(keys(batch for _, batch in one)) == sorted(keys(batch for _, batch in drawn))
    assert keys(batch for _, batch in one) != keys(batch for _, batch in drawn)


def test_a_mixture_with_weights_begins_a_dataset_again_that_ends(mixture):
    one = mixture(WEIGHTS)
    drawn = list(one)
    assert len(drawn) == 19
    assert sum(name == "small" for name, _ in drawn) == 14  # 3 / 4 of 19 are 14.25
    small = keys(batch for name, batch in drawn if name == "small")
    for epoch in range(4):
        assert small[12 * epoch : 12 * epoch + 12] == keys(one.streams["small"].read_from(epoch))
    assert small[:12] != small[12:24]
    one.epoch = 1
    onward = keys(batch for name, batch in one if name == "small")
    assert onward[:4] == keys(one.streams["small"].read_from(4))[8:]  # where it was after 14 batches of 3 an epoch


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_a_mixture_goes_on_from_any_step_of_any_epoch(mixture, weights):
    whole = [[(name, keys([batch])) for name, batch in mixture(weights).read_from(epoch)] for epoch in range(3)]
    assert whole[0] != whole[1]
    for epoch, steps_done in ((0, 0), (0, 17), (1, 0), (2, 18), (2, 11), (1, 19)):
        rest = [(n, keys([b])) for n, b in mixture(weights).read_from(epoch, steps_done=steps_done)]
        assert rest == whole[epoch][steps_done:]


def test_weights_that_do_not_fit_are_refused(mixture):
    with pytest.raises(InputError, match=r"weights \{'large': 1.0\} for the datasets large, small; wanted a positive"):
        mixture({"large": 1.0})


def test_ranks_read_the_same_dataset_in_every_step(dataset):
    shares = []
    for rank in range(2):
        streams = {
            split: ExampleStream(dataset[0], split, batch_size=3, seed=1, rank=rank, world=2)
            for split in ("train", "valid")
        }
        shares.append(list(MixedStream(streams)))
    assert [name for name, _ in shares[0]] == [name for name, _ in shares[1]]
    rows = [key for share in shares for key in keys(batch for _, batch in share)]
    assert len(set(rows)) == len(rows) > 0


def test_a_mixture_is_read_in_one_process(mixture):
    loader = DataLoader(mixture(), batch_size=None, num_workers=1, multiprocessing_context="fork")
    with pytest.raises(InputError, match="give DataLoader num_workers=0"):
        next(iter(loader))
