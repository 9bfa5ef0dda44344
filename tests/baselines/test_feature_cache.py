import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.sparse import csr_array

from cisray.baselines import feature_cache
from cisray.baselines.feature_cache import (
    Block,
    encode_block,
    features_digest,
    read_blocks,
    read_learned,
    write_block,
    write_learned,
)
from cisray.baselines.feature_sets import Composition, FeatureMaker, Kmers, PlacedKmers, RegionKmers
from cisray.baselines.passes import pass_over
from cisray.baselines.windows import Table, Windows

LEARNING = (Composition(), RegionKmers(longest=3, num_parts=2, num_kept=4))


def make_table(num, num_columns=50, seed=0, *, density=0.2):
    random = np.random.default_rng(seed)
    dense = np.where(random.random((num, num_columns)) < density, random.normal(size=(num, num_columns)), 0)
    targets = random.normal(size=(num, 3)).astype(np.float32)
    targets[random.random(targets.shape) < 0.2] = np.nan
    return Table(csr_array(dense.astype(np.float32)), targets)


def write_blocks(tables, folder):
    blocks = [
        Block(folder / f"{number}.arrow", table.rows.shape[0], table.rows.nnz) for number, table in enumerate(tables)
    ]
    for block, table in zip(blocks, tables, strict=True):
        write_block(encode_block(table), block.path)
    return blocks


def learned_maker(seed=0):
    random = np.random.default_rng(seed)
    windows = Windows(random.integers(0, 5, (30, 20), np.uint8), random.normal(size=(30, 2)))
    maker = FeatureMaker(LEARNING, window_bp=20)
    maker.learn(pass_over(windows))
    return maker


def test_blocks_that_are_read_are_what_was_written(tmp_path):
    tables = [make_table(7), make_table(4, seed=1), make_table(3, density=0), make_table(5, seed=2)]
    read = read_blocks(write_blocks(tables, tmp_path), num_columns=50, num_tracks=3)
    np.testing.assert_array_equal(read.rows.toarray(), np.vstack([table.rows.toarray() for table in tables]))
    np.testing.assert_array_equal(read.targets, np.vstack([table.targets for table in tables]))
    assert read.rows.dtype == read.targets.dtype == np.float32
    assert read.rows.indices.dtype == read.rows.indptr.dtype == np.int32
    assert read.rows.has_canonical_format


def test_equal_blocks_give_equal_bytes_which_any_arrow_reader_reads(tmp_path):
    tables = [make_table(6), make_table(6)]
    one, other = write_blocks(tables, tmp_path)
    assert one.path.read_bytes() == other.path.read_bytes()
    rows = pa.ipc.open_file(one.path).read_all().to_pylist()
    dense = np.zeros((6, 50), np.float32)
    for number, row in enumerate(rows):
        dense[number, row["columns"]] = row["values"]
    np.testing.assert_array_equal(dense, tables[0].rows.toarray())
    assert rows[2]["target"] == tables[0].targets[2].tobytes()


def test_the_digest_tells_windows_sets_and_what_was_learned_apart(monkeypatch):
    sets = [(Kmers(k=3),), (Kmers(k=4),), (Kmers(k=3), Composition()), (PlacedKmers(k=3),), LEARNING]
    makers = [FeatureMaker(each, window_bp=20) for each in sets]
    makers += [learned_maker(), learned_maker(seed=1), FeatureMaker(sets[0], window_bp=21)]
    digests = [features_digest(maker, windows) for maker in makers for windows in ("a", "b")]
    assert len(set(digests)) == 16
    assert features_digest(learned_maker(), "a") == features_digest(learned_maker(), "a") == digests[10]
    monkeypatch.setattr(feature_cache, "MAKERS", (pytest, *feature_cache.MAKERS[1:]))  # as if the code were another
    assert features_digest(makers[0], "a") != digests[0]


def test_what_was_learned_is_taken_up_again(tmp_path):
    maker, fresh = learned_maker(), FeatureMaker(LEARNING, window_bp=20)
    assert not read_learned(fresh, tmp_path / "learned")
    write_learned(maker, tmp_path / "learned")
    assert read_learned(fresh, tmp_path / "learned")
    assert fresh.state_dict().keys() == maker.state_dict().keys()
    assert all(torch.equal(values, fresh.state_dict()[name]) for name, values in maker.state_dict().items())
    assert features_digest(fresh, "a") == features_digest(maker, "a")


@pytest.mark.parametrize("place", [3, 60, -1])
def test_what_was_learned_and_damaged_is_not_taken(tmp_path, place):
    path = tmp_path / "learned"
    write_learned(learned_maker(), path)
    spoiled = bytearray(path.read_bytes())
    spoiled[place] ^= 16
    for damaged in (bytes(spoiled), path.read_bytes()[:-9], b""):
        path.write_bytes(damaged)
        assert not read_learned(FeatureMaker(LEARNING, window_bp=20), path)
