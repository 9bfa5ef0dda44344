from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from cisray.baselines.feature_sets import Composition, FeatureMaker, Kmers, Motifs, RegionKmers
from cisray.baselines.passes import pass_over
from cisray.baselines.windows import Windows
from cisray.datasets.schema import decode_examples, iter_examples, layout_of
from cisray.errors import InputError
from cisray.flows.cluster import ClusterSpec
from cisray.flows.features import describe_dataset
from cisray.flows.feed import Source
from cisray.geometry import Geometry

pytestmark = pytest.mark.ray
GEOMETRY = Geometry(window_bp=20, bin_bp=20, margin_bp=4)
ROWS = {"train": [13, 9], "valid": [6]}
FIXED = (Kmers(k=2), Kmers(k=3, fold_strands=False))
LEARNING = (Kmers(k=2), Composition(), RegionKmers(longest=2, num_parts=2, num_kept=5))
CLUSTER = ClusterSpec(actors=2)


@pytest.fixture
def source(ray_here, make_dataset, monkeypatch):
    """A dataset of windows of one bin, whose training split makes three blocks and the other one."""
    monkeypatch.setattr("cisray.datasets.reading.POOL_ROWS", 6)
    return Source(*make_dataset(ROWS, geometry=GEOMETRY))


def read_split(source, split):
    """Read codes without margins, and targets, of a whole split."""
    tables = list(iter_examples(source.path, source.card, split, batch_size=100))
    parts = [decode_examples(table, layout_of(source.card)) for table in tables]
    codes = np.concatenate([part.codes for part in parts])[:, 4:24]
    return Windows(codes, np.concatenate([part.targets for part in parts])[:, 0])


def describe(source, sets=FIXED):
    """Return the tables, the maker, and what was told: blocks that were there already, and blocks, by turn."""
    told = []
    maker = FeatureMaker(sets, window_bp=20)
    tables = describe_dataset(maker, source, cluster=CLUSTER, report=told.append)
    first = [one for one in told if "already_done" in one.figures]
    return tables, maker, [(one.figures["already_done"], one.total) for one in first]


def files_of(source, pattern="*"):
    folder = source.path.with_name("dataset.features")
    return {path.relative_to(folder): path for path in sorted(folder.rglob(pattern)) if path.is_file()}


def test_features_are_those_of_the_windows(source):
    tables, maker, _ = describe(source, LEARNING)
    known = read_split(source, "train")
    here = FeatureMaker(LEARNING, window_bp=20)
    here.learn(pass_over(known))
    torch.testing.assert_close(maker.state_dict(), here.state_dict())
    for table, windows in ((tables.train, known), (tables.valid, read_split(source, "valid"))):
        np.testing.assert_array_equal(table.rows.toarray(), maker(windows.codes).toarray())
        np.testing.assert_array_equal(table.targets, windows.targets)
    assert tables.train.rows.shape == (22, len(maker.names))


def test_features_are_made_once_and_others_elsewhere(source):
    one, _, told = describe(source)
    assert told == [(0, 4)]
    before = {path: path.stat().st_mtime_ns for path in files_of(source, "*.arrow").values()}
    assert len(before) == 4
    other, _, told = describe(source)
    assert told == [(4, 4)]
    assert before == {path: path.stat().st_mtime_ns for path in files_of(source, "*.arrow").values()}
    np.testing.assert_array_equal(one.train.rows.toarray(), other.train.rows.toarray())
    changed = source._replace(card=source.card.__class__(**(source.card.__dict__ | {"name": "another"})))
    assert describe(changed)[2] == [(0, 4)]
    assert len(files_of(source, "*.arrow")) == 8


def test_what_is_damaged_is_made_again(source, bytes_of):
    describe(source, LEARNING)
    folder = source.path.with_name("dataset.features")
    before = {path: text for path, text in bytes_of(folder).items() if not path.endswith("json")}  # which tell seconds
    for pattern in ("train/00002.arrow", "train-00001.json", "*.learned.safetensors"):
        ((_, path),) = files_of(source, pattern).items()
        spoiled = bytearray(path.read_bytes())
        spoiled[len(spoiled) // 2] ^= 255
        path.write_bytes(spoiled)
    (path.parent / next(iter(files_of(source, "00002.arrow"))).parent / ".00001.arrow.x.tmp").touch()  # of a killed one
    assert describe(source, LEARNING)[2] == [(2, 4)]
    assert {path: text for path, text in bytes_of(folder).items() if not path.endswith("json")} == before


def test_who_comes_second_reads_what_the_first_makes(source):
    with ThreadPoolExecutor(2) as pool:
        found = [one.result() for one in [pool.submit(describe, source) for _ in range(2)]]
    assert sorted(told for _, _, told in found) == [[(0, 4)], [(4, 4)]]
    np.testing.assert_array_equal(*(tables.train.rows.toarray() for tables, _, _ in found))


def test_beside_a_dataset_that_cannot_be_written_the_users_cache_serves(source, tmp_path, monkeypatch):
    (tmp_path / "dataset.features").write_text("in the way")
    monkeypatch.setenv("CISRAY_CACHE", str(tmp_path / "cache"))
    tables, maker, _ = describe(source)
    np.testing.assert_array_equal(tables.train.rows.toarray(), maker(read_split(source, "train").codes).toarray())
    assert len(list((tmp_path / "cache/features/dataset").rglob("*.arrow"))) == 4


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ((Composition(regions={"far": (10, 30)}),), "region far: 10 to 30; wanted at least two bases within"),
        ((Kmers(k=3), Motifs(path="wide.jaspar")), "motif M1 has 21 bases, more than the sequences' 20"),
        ((Motifs(path="none.meme"),), r"none\.meme: no such input file; check the name"),
    ],
)
def test_what_cannot_be_made_is_refused_before_any_block(source, tmp_path, monkeypatch, sets, message):
    monkeypatch.setenv("CISRAY_DATA", str(tmp_path))
    (tmp_path / "wide.jaspar").write_text(">M1\n" + "\n".join("1 " * 21 for _ in range(4)) + "\n")
    with pytest.raises(InputError, match=message):
        describe(source, sets)
    assert not files_of(source)
