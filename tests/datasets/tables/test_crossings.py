import numpy as np
import pytest

from cisray.datasets.tables.crossings import Crossing, CrossingRecord, crosses, find_crossings, resolve, write_crossings
from cisray.datasets.tables.duplicates import DuplicateSpec, Sequences, find_groups

GROUP = np.array([0, 0, 1, 1, 2, 3, 3, 3])
SPLIT = np.array([0, 2, 0, 0, 1, 0, 1, 2], np.int8)


def test_rows_of_groups_in_several_splits_cross():
    assert crosses(GROUP, SPLIT).tolist() == [True, True, False, False, False, True, True, True]
    without = np.where(SPLIT == 2, -1, SPLIT).astype(np.int8)
    assert crosses(GROUP, without).tolist() == [False, False, False, False, False, True, True, False]


@pytest.mark.parametrize(
    ("across_splits", "expected"),
    [
        ("keep", SPLIT.tolist()),
        ("refuse", SPLIT.tolist()),
        ("group", [0, 0, 0, 0, 1, 0, 0, 0]),
        ("drop_from_train", [-1, 2, 0, 0, 1, -1, -1, 2]),
    ],
)
def test_what_becomes_of_them(across_splits, expected):
    resolved = resolve(DuplicateSpec(across_splits=across_splits), GROUP, SPLIT)
    assert resolved.tolist() == expected
    if across_splits in ("group", "drop_from_train"):
        assert not crosses(GROUP, resolved).any()


def test_each_row_is_told_with_its_nearest_in_an_earlier_split():
    one = np.repeat([0, 1], 25).astype(np.uint8)

    def mutant(num):
        return np.r_[np.full(num, 2), one[num:]]  # no G elsewhere: as many edits

    codes = np.stack([mutant(0), mutant(9), mutant(4), mutant(18), np.full(50, 3)]).astype(np.uint8)
    sequences = Sequences(codes, np.full(5, 50), np.arange(5))
    groups = find_groups(sequences, 5, DuplicateSpec())
    assert groups.group.tolist() == [0, 0, 0, 0, 1]  # the fourth through the second only
    found = find_crossings(sequences, groups, np.array([0, 1, 1, 2, 2], np.int8), DuplicateSpec())
    edits = {(each.row, each.other): each.edits for each in found}
    assert edits == {(1, 0): 9, (2, 0): 4, (3, 1): 9}
    found = find_crossings(sequences, groups, np.array([0, -1, 0, 2, 2], np.int8), DuplicateSpec())
    assert found == [Crossing(3, 2, None)]


def test_the_other_strand_is_compared_where_it_is_asked_for():
    codes = np.random.default_rng(2).integers(0, 4, (1, 40)).astype(np.uint8)
    sequences = Sequences(np.concatenate([codes, 3 - codes[:, ::-1]]), np.full(2, 40), np.arange(2))
    spec = DuplicateSpec(both_strands=True)
    groups = find_groups(sequences, 2, spec)
    assert find_crossings(sequences, groups, np.array([0, 2], np.int8), spec) == [Crossing(1, 0, 0)]


def test_the_list_is_a_table(tmp_path):
    records = [CrossingRecord("b", "test", "a", "train", 3), CrossingRecord("c", "valid", "a", "train", None)]
    write_crossings(tmp_path / "list.tsv", records)
    assert (tmp_path / "list.tsv").read_text() == (
        "row\tsplit\tother\tother_split\tedits\nb\ttest\ta\ttrain\t3\nc\tvalid\ta\ttrain\t\n"
    )
    assert [str(record) for record in records] == [
        "b (test) and a (train), 3 edits",
        "c (valid) and a (train), through others",
    ]
