import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cisray.datasets.schema import (
    Track,
    card_from_dict,
    card_to_dict,
    check_tracks,
    decode_examples,
    decode_rows,
    encode_rows,
    iter_examples,
    read_card,
    split_files,
    verify_dataset,
    write_examples,
)
from cisray.errors import InputError

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=3).flatmap(
    lambda sides: st.tuples(st.integers(0, 5), *map(st.just, sides))
)


@given(st.sampled_from(["u1", "<f4", "<i8"]), shapes, st.data())
def test_rows_come_back_as_they_went_in(dtype, shape, data):
    values = data.draw(arrays.arrays(np.dtype(dtype), shape))
    column = encode_rows(values)
    assert len(column) == shape[0]
    back = decode_rows(column, dtype, shape[1:])
    assert back.shape == shape
    assert back.tobytes() == values.tobytes()
    cut = data.draw(st.integers(0, shape[0]))
    chunked = pa.chunked_array([column.slice(0, cut), column.slice(cut)])
    assert decode_rows(chunked, dtype, shape[1:]).tobytes() == values.tobytes()
    assert decode_rows(column.slice(cut), dtype, shape[1:]).tobytes() == values[cut:].tobytes()
    assert decode_rows(pa.chunked_array([], column.type), dtype, shape[1:]).shape == (0, *shape[1:])


def test_values_that_are_not_contiguous_are_encoded_in_order():
    values = np.arange(24, dtype="<f4").reshape(2, 3, 4)
    turned = values.transpose(0, 2, 1)
    assert np.array_equal(decode_rows(encode_rows(turned), "<f4", (4, 3)), turned)


def test_a_card_comes_back_from_json(make_dataset):
    folder, card = make_dataset({"train": [3], "test": [2]})
    again = read_card(folder)
    assert again == card
    assert again.digest == card.digest
    assert card_from_dict(json.loads(json.dumps(card_to_dict(card))), source=folder) == card


def test_the_digest_tells_cards_apart(make_card):
    assert make_card().digest == make_card().digest
    assert make_card().digest != make_card(counts={"train": 1}).digest


def test_what_is_derived_from_a_card(make_card):
    card = make_card()
    assert card.track_names == ["fwd", "rev", "both"]
    assert card.strand_swap() == [1, 0, 2]
    assert card.target_shape == (4, 3)
    scale, clip_soft = card.transform_parameters()
    assert scale.tolist() == [2.0, 2.0, 1.0]
    assert clip_soft.tolist() == [4.0, 4.0, np.inf]
    assert card.statistics["train"]["fwd"].mean == 2.0
    assert card.statistics["train"]["fwd"].variance == pytest.approx(14 / 3 - 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, r"card\.json: card of schema version 2; this cisray reads version 1"),
        ({"schema_version": None}, "card of schema version None"),
        ({"geometry": {"window_bp": 12, "bin_bp": 5}}, r"not a valid card: geometry: .*not a multiple of bin_bp=5"),
        ({"tracks": [{"name": "a"}]}, r"not a valid card: tracks\.0\.file"),
        ({"colour": "red"}, "not a valid card: colour"),
    ],
)
def test_what_is_not_a_card_is_refused(make_dataset, change, message):
    folder, card = make_dataset({"train": [1]})
    (folder / "card.json").write_text(json.dumps(card_to_dict(card) | change))
    with pytest.raises(InputError, match=message):
        read_card(folder)


def test_a_folder_without_a_card_is_not_a_dataset(make_dataset):
    folder, _ = make_dataset({"train": [1]})
    (folder / "card.json").unlink()
    with pytest.raises(InputError, match=r"no card\.json in it, so this is not a finished dataset"):
        read_card(folder)


def test_a_changed_or_missing_file_is_found(make_dataset):
    folder, card = make_dataset({"train": [3, 4], "test": [2]})
    verify_dataset(folder, card)
    path = folder / "examples/split=train/part-1.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    with pytest.raises(InputError, match=r"part-1\.parquet: its checksum is not the one"):
        verify_dataset(folder, card)
    path.unlink()
    with pytest.raises(InputError, match=r"part-1\.parquet: listed in card\.json but missing"):
        verify_dataset(folder, card)
    with pytest.raises(InputError, match=r"part-1\.parquet: listed in card\.json but missing"):
        split_files(folder, card, "train")
    assert [path.name for path in split_files(folder, card, "test")] == ["part-0.parquet"]


def test_a_split_that_is_not_there_is_refused(make_dataset):
    folder, card = make_dataset({"train": [3], "test": [2]})
    with pytest.raises(InputError, match=r"no file of split 'valid'; it has \['test', 'train'\]"):
        split_files(folder, card, "valid")


def test_any_arrow_reader_can_do_without_cisray(make_dataset):
    folder, card = make_dataset({"train": [3]})
    table = pq.read_table(folder / "examples/split=train/part-0.parquet", partitioning=None)
    arrays_by_name = {}
    for name in ("sequence", "target"):
        metadata = table.schema.field(name).metadata
        shape, dtype = json.loads(metadata[b"shape"]), metadata[b"dtype"].decode()
        raw = b"".join(table[name].to_pylist())
        arrays_by_name[name] = np.frombuffer(raw, dtype).reshape(-1, *shape)
    assert table.schema.field("target").metadata[b"tracks"].decode().split("\t") == card.track_names
    assert table.schema.field("sequence").metadata[b"codes"] == b"ACGTN"
    codes, targets = decode_examples(table, card)
    assert np.array_equal(arrays_by_name["sequence"], codes)
    assert np.array_equal(arrays_by_name["target"], targets)
    assert targets.shape == (3, 4, 3)


def test_equal_rows_give_equal_files_and_are_read_in_order(make_dataset, tmp_path):
    folder, card = make_dataset({"train": [9, 4]})
    rows = pa.concat_tables(list(iter_examples(folder, card, "train", batch_size=4)))
    assert rows["start"].to_pylist() == list(range(0, 8 * 13, 8))
    write_examples(rows, tmp_path / "a.parquet")
    write_examples(rows.slice(0), tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert pq.read_table(tmp_path / "a.parquet").equals(rows, check_metadata=True)


def make_track(name, **fields):
    return Track(name=name, file=f"{name}.bw", **fields)


@pytest.mark.parametrize(
    ("tracks", "message"),
    [
        ((), "wanted at least one"),
        ((make_track("a"), make_track("a")), "each name once"),
        ((make_track("a", strand_pair="b"), make_track("b")), "b must name a in return"),
        ((make_track("a", strand_pair="c"),), "c must name a in return"),
        ((make_track("a", strand_pair="a"),), "a names a as its strand pair"),
    ],
)
def test_tracks_that_do_not_fit_together_are_refused(tracks, message):
    with pytest.raises(InputError, match=message):
        check_tracks(tracks)
    check_tracks((make_track("a", strand_pair="b"), make_track("b", strand_pair="a"), make_track("c")))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"smooth_bp": 4}, "smooth_bp=4; wanted an odd, positive width"),
        ({"smooth_bp": -1}, "smooth_bp=-1"),
        ({"scale": 0.0}, r"scale=0\.0"),
        ({"clip_soft": 0.5}, r"clip_soft=0\.5"),
    ],
)
def test_track_settings_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):  # pydantic's, as it is built by hand
        make_track("a", **fields)
