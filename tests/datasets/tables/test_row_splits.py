import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.config import check_settings
from cisray.datasets.tables.row_splits import NO_SPLIT, SplitSpec, check_filled, deal, given_splits, row_digest
from cisray.errors import InputError


def digests(names, seed=0):
    return [row_digest(seed, str(name).encode()) for name in names]


def test_a_column_names_splits_and_the_rest_is_train():
    texts = pa.array(["a", "b", "c", "a", "d"])
    spec = SplitSpec(column="set", valid=("b",), test=("c",))
    assert given_splits(spec, texts).tolist() == [0, 1, 2, 0, 0]
    named = SplitSpec(column="set", train=("a",), valid=("b",), test=("c",))
    assert given_splits(named, texts).tolist() == [0, 1, 2, 0, NO_SPLIT]
    assert given_splits(SplitSpec(valid_fraction=0.1, test_fraction=0.1), None) is None


def test_shares_are_exact_where_no_group_is_in_the_way():
    spec = SplitSpec(valid_fraction=0.1, test_fraction=0.2)
    roles = deal(spec, np.arange(25_000), digests(range(25_000)), None)
    assert np.bincount(roles.split).tolist() == [17_500, 2_500, 5_000]
    assert roles.fold.tolist() == roles.split.tolist()
    other = deal(SplitSpec(valid_fraction=0.1, test_fraction=0.2, seed=1), np.arange(99), digests(range(99), 1), None)
    assert other.split.tolist() != roles.split[:99].tolist()


@given(st.data())
def test_a_group_never_crosses_and_the_order_of_rows_changes_nothing(data):
    num = data.draw(st.integers(12, 120))
    group = np.array(data.draw(st.lists(st.integers(0, num // 2), min_size=num, max_size=num)))
    spec = data.draw(
        st.sampled_from([SplitSpec(valid_fraction=0.2, test_fraction=0.3), SplitSpec(num_folds=4, valid_fold=3)])
    )
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    order = random.permutation(num)
    roles = deal(spec, group, digests(range(num)), None)
    for number in np.unique(group):
        assert len(np.unique(roles.split[group == number])) == 1
        assert len(np.unique(roles.fold[group == number])) == 1
    again = deal(spec, random.permutation(num)[group][order], digests(order), None)
    assert again.split.tolist() == roles.split[order].tolist()
    assert again.fold.tolist() == roles.fold[order].tolist()


def test_folds_are_balanced_and_two_of_them_play_a_role():
    roles = deal(SplitSpec(num_folds=5, valid_fold=2, test_fold=4), np.arange(100) // 2, digests(range(100)), None)
    assert np.bincount(roles.fold).tolist() == [20] * 5
    assert set(roles.split[roles.fold == 2]) == {1}
    assert set(roles.split[roles.fold == 4]) == {2}
    assert set(roles.split[~np.isin(roles.fold, [2, 4])]) == {0}


def test_a_share_of_a_given_train_split_leaves_alone_what_touches_the_others():
    given = np.array([0] * 20 + [2] * 5, np.int8)
    group = np.r_[np.arange(20), [0, 1, 2, 25, 26]]  # rows 0 to 2 have duplicates in test
    spec = SplitSpec(column="set", test=("t",), valid_fraction=0.5)
    roles = deal(spec, group, digests(range(25)), given)
    assert np.bincount(roles.split).tolist() == [10, 10, 5]
    assert roles.split[:3].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test": ["a"], "valid_fraction": 0.1}, r"train, valid and test name texts of a column; set column too"),
        ({"num_folds": 5, "test_fraction": 0.1}, r"set num_folds alone, without a column or shares"),
        ({"num_folds": 2}, r"num_folds=2, valid_fold=1, test_fold=0; wanted at least 3 folds"),
        ({"valid_fraction": 0.1}, r"test has no text and test_fraction=0.0; wanted one of them"),
        (
            {"column": "c", "test": ["a"], "test_fraction": 0.1, "valid": ["b"]},
            r"test has texts and test_fraction=0.1; wanted one of them",
        ),
        (
            {"valid_fraction": 0.6, "test_fraction": 0.5},
            r"valid_fraction and test_fraction make 1.1; leave some to train",
        ),
        ({"column": "c", "valid": ["a"], "test": ["a"]}, r"column c: a text is named in two splits; a row can"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        check_settings(settings, SplitSpec, source="job")


def test_texts_and_splits_without_a_row_are_named():
    spec = SplitSpec(column="library", valid=("Drift",), test=("Natve",))
    with pytest.raises(InputError, match=r"split.test: no row has 'Natve' in column library; the nearest are Native"):
        given_splits(spec, pa.array(["Drift", "Native"]))
    with pytest.raises(InputError, match=r"the valid split has no row \(train 2, valid 0, test 1\); name other texts"):
        check_filled(np.array([0, 0, 2], np.int8))


def test_large_groups_are_dealt_like_small_ones():
    # 300 groups of ten and 3,000 rows alone: half of each split's rows should be of groups, up to chance
    group = np.r_[np.repeat(np.arange(300), 10), np.arange(300, 3300)]
    for seed in range(3):
        spec = SplitSpec(valid_fraction=0.2, test_fraction=0.2, seed=seed)
        split = deal(spec, group, digests(range(len(group)), seed), None).split
        for role in range(3):
            assert abs((group[split == role] < 300).mean() - 0.5) < 0.12  # 4 standard deviations
