import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cisray.baselines.swap_datasets import Source, choose_tracks, write_condition
from cisray.baselines.swap_loci import SEEN, TEST, TRAIN, UNMEASURED, VALID, Dealt
from cisray.datasets.card import read_card
from cisray.datasets.schema import decode_examples, iter_examples, layout_of, verify_dataset
from cisray.datasets.statistics import TRACKS_NAME
from cisray.datasets.tables.row_splits import NO_SPLIT
from cisray.errors import InputError


@pytest.fixture
def source(make_dataset):
    folder, card = make_dataset({"train": [7, 4], "valid": [3], "test": [5]})
    return Source(folder, card, [0, 1])


def every_row(folder, card):
    """Return all rows in the order of the files, by where they start."""
    rows = []
    for split in ("train", "valid", "test"):
        for table in iter_examples(folder, card, split, batch_size=100):
            examples = decode_examples(table, layout_of(card))
            loci = zip(table["start"].to_pylist(), table["fold"].to_pylist(), strict=True)
            rows += [(split, *each) for each in zip(loci, examples.codes, examples.targets, strict=True)]
    return rows


def dealt_as(split, fold=None, **left_out):
    return Dealt(np.array(split, np.int8), fold, {SEEN: 0, UNMEASURED: 0} | left_out)


def test_rows_go_where_they_were_dealt_with_the_tracks_of_the_condition(source, tmp_path):
    random = np.random.default_rng(0)
    split = random.permutation([TRAIN] * 9 + [VALID] * 4 + [TEST] * 4 + [NO_SPLIT] * 2).astype(np.int8)
    fold = random.integers(0, 5, 19)
    made = write_condition(tmp_path / "out", source, dealt_as(split, fold), name="heat", facts={"fold": 3})
    card = read_card(tmp_path / "out")
    assert card == made
    assert (card.name, card.track_names, card.folds) == ("heat", ["fwd", "rev"], None)
    assert card.counts == {"train": 9, "valid": 4, "test": 4}
    verify_dataset(tmp_path / "out", card)
    before, after = every_row(source.dataset_dir, source.card), every_row(tmp_path / "out", card)
    for number, name in enumerate(("train", "valid", "test")):
        rows = np.flatnonzero(split == number)
        expected = [(before[row][1][0], fold[row]) for row in rows]
        assert [row[1] for row in after if row[0] == name] == expected
        for row, found in zip(rows, [row for row in after if row[0] == name], strict=True):
            np.testing.assert_array_equal(found[2], before[row][2])
            np.testing.assert_array_equal(found[3], before[row][3][:, :2])
        values = np.stack([before[row][3][:, 0] for row in rows])
        assert card.statistics[name]["fwd"].mean == pytest.approx(values.mean())
        assert card.statistics[name]["fwd"].num_bins == values.size
    assert set(pq.read_table(tmp_path / "out" / TRACKS_NAME)["name"].to_pylist()) == {"fwd", "rev"}
    assert card.facts == {"swap": {"fold": 3}}


def test_regions_are_those_of_the_rows(source, tmp_path):
    split = np.array([TRAIN, NO_SPLIT] + [TRAIN] * 9 + [VALID] * 3 + [TEST] * 5, np.int8)
    card = write_condition(tmp_path / "out", source, dealt_as(split, **{SEEN: 1}), name="heat", facts={})
    # row i of a split starts at base 8 i, and windows are 12 bp wide
    assert card.regions["train"] == ["chr1:0-12", "chr1:16-92"]
    assert card.regions["test"] == ["chr1:0-44"]
    assert card.folds == source.card.folds
    assert card.dropped[SEEN] == 1
    unchanged = np.array([TRAIN] * 11 + [VALID] * 3 + [TEST] * 5, np.int8)
    card = write_condition(tmp_path / "same", source, dealt_as(unchanged), name="heat", facts={})
    assert card.regions == source.card.regions


def test_equal_rows_give_equal_bytes(source, tmp_path):
    split = [TRAIN] * 10 + [NO_SPLIT] + [VALID] * 3 + [TEST] * 5
    digests = []
    for name in ("one", "two"):
        write_condition(tmp_path / name, source, dealt_as(split), name="heat", facts={})
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert digests[0] == digests[1]
    schema = pq.read_schema(min((tmp_path / "one").rglob("part-*")))
    assert schema.field("target").type == pa.binary(4 * 2 * 4)  # 4 bins, 2 tracks, float32


def test_a_split_without_rows_is_refused_with_what_was_left_out(source, tmp_path):
    split = [NO_SPLIT] * 11 + [VALID] * 3 + [TEST] * 5
    told = rf"heat: no row is left for the train split \(left out: 11 {SEEN}; 0 rows without .*loci.num_folds"
    with pytest.raises(InputError, match=told):
        write_condition(tmp_path / "out", source, dealt_as(split, **{SEEN: 11}), name="heat", facts={})
    assert not (tmp_path / "out").exists()


def test_tracks_are_chosen_by_name(make_card):
    card = make_card()
    assert choose_tracks(card, [], source="heat") == [0, 1, 2]
    assert choose_tracks(card, ["both"], source="heat") == [2]
    assert choose_tracks(card, ["rev", "fwd"], source="heat") == [1, 0]
    with pytest.raises(InputError, match="heat: no track 'boht' in toy; it has fwd, rev, both"):
        choose_tracks(card, ["boht"], source="heat")
    with pytest.raises(InputError, match="heat: track fwd is one of a strand pair; name rev too"):
        choose_tracks(card, ["fwd"], source="heat")
    with pytest.raises(InputError, match=r"heat: tracks=\['both', 'both'\]; wanted each once"):
        choose_tracks(card, ["both", "both"], source="heat")
