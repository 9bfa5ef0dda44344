import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cisray.datasets.card import Inputs, Track, read_card
from cisray.datasets.schema import (
    GROUP_BYTES,
    NO_LABEL,
    Examples,
    Layout,
    Loci,
    decode_examples,
    decode_rows,
    encode_rows,
    iter_examples,
    layout_of,
    make_rows,
    split_files,
    store_targets,
    to_float,
    verify_dataset,
    write_examples,
)
from cisray.errors import InputError
from cisray.geometry import Geometry

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


def test_a_file_that_a_link_leads_out_of_the_dataset_is_not_read(make_dataset, tmp_path):
    folder, card = make_dataset({"train": [3, 4]})
    path = folder / "examples/split=train/part-1.parquet"
    path.rename(tmp_path / "elsewhere.parquet")
    path.symlink_to(tmp_path / "elsewhere.parquet")
    for read in (lambda: split_files(folder, card, "train"), lambda: verify_dataset(folder, card)):
        with pytest.raises(InputError, match=r"part-1\.parquet' leads out of this dataset, and is not read; copy the"):
            read()
    (tmp_path / "card.json").write_bytes((folder / "card.json").read_bytes())
    (folder / "card.json").unlink()
    (folder / "card.json").symlink_to("../card.json")
    with pytest.raises(InputError, match=r"'card\.json' leads out of this dataset"):
        read_card(folder)


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
    examples = decode_examples(table, layout_of(card))
    assert np.array_equal(arrays_by_name["sequence"], examples.codes)
    assert np.array_equal(arrays_by_name["target"], examples.targets)
    assert examples.targets.shape == (3, 4, 3)


def test_equal_rows_give_equal_files_and_are_read_in_order(make_dataset, tmp_path):
    folder, card = make_dataset({"train": [9, 4]})
    rows = pa.concat_tables(list(iter_examples(folder, card, "train", batch_size=4)))
    assert rows["start"].to_pylist() == list(range(0, 8 * 13, 8))
    write_examples(rows, tmp_path / "a.parquet")
    write_examples(rows.slice(0), tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert pq.read_table(tmp_path / "a.parquet").equals(rows, check_metadata=True)


GEOMETRY = Geometry(window_bp=12, bin_bp=4, crop_bins=1, margin_bp=2)


def loci_of(rows):
    starts = np.arange(rows) * 12
    return Loci(["chr1"] * rows, starts, starts + 12, ["+"] * rows, np.zeros(rows))


def test_a_row_holds_every_input_that_its_card_names():
    random = np.random.default_rng(0)
    channels = (Track(name="open", file="a.bw"), Track(name="depth", file="b.bw"))
    inputs = Inputs(sequences=3, covariates=("gc", "age"), channels=channels, channel_bp=4, weighted=True)
    layout = Layout(GEOMETRY, ("one", "two"), "<f4", inputs)
    examples = Examples(
        codes=random.integers(0, 5, (5, 3, 16), np.uint8),
        targets=random.random((5, 1, 2), np.float32),
        present=random.integers(0, 2, (5, 3), np.uint8),
        channels=random.random((5, 4, 2), np.float32),
        covariates=random.random((5, 2), np.float32),
        weights=random.random(5, np.float32),
    )
    rows = make_rows(layout, loci_of(5), examples)
    back = decode_examples(rows, layout)
    for name, values in examples._asdict().items():
        assert np.array_equal(getattr(back, name), values), name
    assert layout.row_bytes == sum(array.nbytes for array in examples) // 5 - 4 - 3  # neither weight nor mask
    for name, shape in {"sequence": [3, 16], "channels": [4, 2], "covariates": [2], "present": [3]}.items():
        assert json.loads(rows.schema.field(name).metadata[b"shape"]) == shape
    assert rows.schema.field("channels").metadata[b"channels"] == b"open\tdepth"
    assert rows.schema.field("covariates").metadata[b"covariates"] == b"gc\tage"


def test_a_plain_row_holds_nothing_more():
    layout = Layout(GEOMETRY, ("one",))
    rows = make_rows(layout, loci_of(2), Examples(np.zeros((2, 16), np.uint8), np.zeros((2, 1, 1), np.float32)))
    assert rows.column_names == ["contig", "start", "end", "strand", "fold", "sequence", "target"]
    assert decode_examples(rows, layout)[2:] == (None, None, None, None)


def test_labels_are_bytes_and_a_missing_one_is_masked():
    layout = Layout(GEOMETRY, ("one", "two"), "u1")
    targets = np.array([[[0.0, 1.0]], [[np.nan, 1.0]]], np.float32)
    stored = store_targets(targets, layout)
    assert stored.tolist() == [[[0, 1]], [[NO_LABEL, 1]]]
    assert np.array_equal(to_float(stored), targets, equal_nan=True)
    with pytest.raises(InputError, match="a label is neither 0, nor 1, nor missing"):
        store_targets(targets + 0.5, layout)


def test_float16_refuses_what_it_cannot_hold():
    layout = Layout(GEOMETRY, ("small", "large"), "<f2")
    targets = np.array([[[1.5, 65504.0]], [[np.nan, -65504.0]]], np.float32)
    assert np.array_equal(to_float(store_targets(targets, layout)), targets, equal_nan=True)
    with pytest.raises(InputError, match="track large: a target of 131008 is beyond float16, which ends at 65504"):
        store_targets(targets * 2, layout)


@pytest.mark.parametrize(("window_bp", "tracks", "rows_per_group"), [(600, 10, 256), (131_072, 512, 7)])
def test_a_row_group_is_bounded_in_rows_and_bytes(tmp_path, window_bp, tracks, rows_per_group):
    geometry = Geometry(window_bp=window_bp, bin_bp=window_bp if window_bp < 1000 else 128)
    layout = Layout(geometry, tuple(f"t{index}" for index in range(tracks)))
    count = rows_per_group + 1
    codes = np.zeros((count, window_bp), np.uint8)
    starts = np.arange(count)
    loci = Loci(["chr1"] * count, starts, starts + window_bp, ["+"] * count, np.zeros(count))
    rows = make_rows(layout, loci, Examples(codes, np.zeros((count, *layout.target_shape), np.float32)))
    write_examples(rows, tmp_path / "x.parquet")
    groups = pq.ParquetFile(tmp_path / "x.parquet").metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [rows_per_group, 1]
    assert rows_per_group * layout.row_bytes <= GROUP_BYTES
