import dataclasses
import json
import re

import numpy as np
import pytest

from calico_files import STATISTICS, WINDOWS, example, one_hot, write_folder
from cisray.datasets.calico.folder import decode_record, read_folder
from cisray.errors import InputError
from cisray.geometry import Geometry

GEOMETRY = Geometry(window_bp=16, bin_bp=2, crop_bins=2)


def record(codes, targets):
    return example(sequence=codes.tobytes(), target=targets.tobytes())


@pytest.mark.parametrize("extent", ["target", "input"])
def test_windows_are_found_whether_intervals_are_inputs_or_targets(tmp_path, extent):
    write_folder(tmp_path, extent=extent)
    folder = read_folder(tmp_path)
    assert folder.geometry == GEOMETRY
    assert folder.num_targets == 3
    assert [folder.window_start(line) for line in range(9)] == [start for _, start, _ in WINDOWS]
    assert folder.lines_of("valid").tolist() == [5, 6]
    assert {label: [path.name for path in paths] for label, paths in folder.files.items()} == {
        "train": ["train-0.tfr", "train-1.tfr", "train-2.tfr"],
        "valid": ["valid-0.tfr"],
        "test": ["test-0.tfr"],
    }


def test_files_are_ordered_by_number_not_by_name(tmp_path):
    write_folder(tmp_path, per_file=1, windows=[("chr1", i, "fold3") for i in range(12)])
    assert [path.name for path in read_folder(tmp_path).files["fold3"]] == [f"fold3-{i}.tfr" for i in range(12)]


def test_a_crop_that_is_not_told_is_derived(tmp_path):
    write_folder(tmp_path, crop_bp=None)
    assert read_folder(tmp_path).geometry == GEOMETRY
    write_folder(tmp_path, crop_bp=0, target_length=8, extent="input")
    assert dataclasses.replace(GEOMETRY, crop_bins=0) == read_folder(tmp_path).geometry


def test_counts_that_differ_are_told(tmp_path):
    write_folder(tmp_path, train_seqs=9)
    assert read_folder(tmp_path).miscounted() == {"train_seqs": 9}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seq_length": None}, "seq_length is None; wanted a positive whole number"),
        ({"pool_width": "2"}, "pool_width is '2'; wanted"),
        ({"num_targets": 0}, "num_targets is 0; wanted"),
        ({"target_length": 5}, "seq_length 16, pool_width 2, crop_bp 4, target_length 5; wanted a seq_length of"),
        ({"crop_bp": 3, "target_length": 5}, ".*crop_bp 3, target_length 5; wanted"),
        ({"crop_bp": -2, "target_length": 10}, ".*crop_bp -2, target_length 10; wanted"),
        ({"crop_bp": "4"}, ".*crop_bp 4, target_length 4; wanted"),
        ({"crop_bp": None, "target_length": 9}, ".*crop_bp -1, target_length 9; wanted"),
    ],
)
def test_statistics_that_do_not_fit_are_told(tmp_path, change, message):
    write_folder(tmp_path)
    values = {key: value for key, value in (STATISTICS | change).items() if value is not None}
    (tmp_path / "statistics.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"statistics\.json: " + message):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("bed", "message"),
    [
        ("chr1\t4\t12\ttrain\nchr1\t4\t13\ttrain\n", r"line 2 \(chr1:4-13\): 9 bases; .*wanted 16 on every line"),
        ("chr1\t4\t12\ttrain\nchr1\t4\t20\ttrain\n", r"line 2 \(chr1:4-20\): 16 bases; .* or 8 on every line \(the t"),
        ("chr1\t4\t11\ttrain\n", r"line 1 \(chr1:4-11\): 7 bases"),
        ("chr1\t4\t12\n", r"3 columns; wanted the label \(train, valid, test, or fold0"),
        ("chr1\t4\t12\ttrain\n", r"valid-0\.tfr: sequences\.bed has no line of this label; wanted .*\.tfr of train"),
    ],
)
def test_sequences_that_do_not_fit_are_told(tmp_path, bed, message):
    write_folder(tmp_path)
    (tmp_path / "tfrecords/test-0.tfr").unlink()
    (tmp_path / "sequences.bed").write_text(bed)
    with pytest.raises(InputError, match=message):
        read_folder(tmp_path)


@pytest.mark.parametrize("lost", ["train-1.tfr", "train-0.tfr", "valid-0.tfr"])
def test_a_missing_file_is_told(tmp_path, lost):
    write_folder(tmp_path)
    (tmp_path / "tfrecords" / lost).unlink()
    label = lost.split("-")[0]
    with pytest.raises(InputError, match=f"no {re.escape(lost)}, but sequences.bed has lines of {label}; copy all"):
        read_folder(tmp_path)


def test_a_file_without_a_number_is_told(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "tfrecords/train-x.tfr").touch()
    with pytest.raises(InputError, match=r"train-x\.tfr: sequences\.bed has no line of this label; wanted <label>-<n"):
        read_folder(tmp_path)


@pytest.mark.parametrize("is_one_hot", [True, False])
def test_a_record_is_decoded(tmp_path, is_one_hot):
    codes, targets = write_folder(tmp_path, seq_1hot=None if is_one_hot else True)
    folder = read_folder(tmp_path)
    assert folder.is_one_hot == is_one_hot
    assert (codes == 4).any()
    stored = one_hot(codes[0]) if is_one_hot else codes[0]
    decoded = decode_record(record(stored, targets[0]), folder, where="here")
    assert decoded.codes.tolist() == codes[0].tolist()
    assert decoded.codes.dtype == np.uint8
    assert decoded.targets.tobytes() == targets[0].tobytes()
    assert decoded.targets.dtype == np.float16
    assert decoded.left_out == set()
    more = example(sequence=stored.tobytes(), target=targets[0].tobytes(), umap=b"\0")
    assert decode_record(more, folder, where="here").left_out == {"umap"}


def test_a_record_that_does_not_fit_is_told(tmp_path):
    codes, targets = (rows[0] for rows in write_folder(tmp_path))
    folder = read_folder(tmp_path)
    hot = one_hot(codes)
    double = hot.copy()
    double[7] = [1, 0, 1, 0]
    wrong = [
        (example(sequence=codes.tobytes()), folder, "no feature target; it has sequence"),
        (example(), folder, "no feature sequence; it has none"),
        (
            record(hot, targets),
            folder,
            "a sequence of 64 bytes; wanted 16: by .* 16 bases as codes, since seq_1hot is",
        ),
        (record(codes + 1, targets), folder, "a base of code 5; wanted 0 to 3"),
        (record(codes, targets[:3]), folder, "a target of 18 bytes; wanted 24: by .* 4 bins of 3 tracks in float16"),
        (record(codes, targets.astype("<f4")), folder, "a target of 48 bytes; wanted 24"),
    ]
    of_one_hot = folder._replace(is_one_hot=True)
    wrong += [
        (record(codes, targets), of_one_hot, "a sequence of 16 bytes; wanted 64: .*one-hot, since seq_1hot is false"),
        (record(double, targets), of_one_hot, "a base that is no one-hot row"),
        (record(3 * hot, targets), of_one_hot, "a base that is no one-hot row"),
    ]
    assert codes.max() == 4
    for bad, of, message in wrong:
        with pytest.raises(InputError, match="^here: " + message):
            decode_record(bad, of, where="here")


@pytest.mark.parametrize("name", ["none", "file"])
def test_what_is_no_folder_is_told(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"{name}: not a folder; wanted one of Calico's, with statistics.json"):
        read_folder(tmp_path / name)
