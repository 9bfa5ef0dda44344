from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.config import check_settings
from cisray.datasets.tables.shuffles import ShuffleSpec, positives, shuffled
from cisray.datasets.tables.table_files import TableFile
from cisray.datasets.tables.table_rows import TableColumns, TableTrack, read_rows
from cisray.errors import InputError
from cisray.genome.sequence import decode


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Read rows of one or several sequences as a table holds them."""
    path = tmp_path_factory.mktemp("table") / "t.csv"

    def read(texts, labels=None):
        width = max(len(each) for each in texts)
        names = [f"s{number}" for number in range(width)]
        lines = [",".join([*names, "y", "z"])]
        for number, each in enumerate(texts):
            y, z = labels[number] if labels else (1, 0)
            lines.append(",".join([*each, *[""] * (width - len(each)), str(y), str(z)]))
        path.write_text("\n".join(lines) + "\n")
        spec = TableColumns(
            files=(TableFile(path="t.csv"),),
            sequences=tuple(names),
            kind="labels",
            tracks=(TableTrack(column="y"), TableTrack(column="z")),
        )
        return read_rows(spec, [path], None)

    return read


def texts_of(rows):
    """Return the texts of each row's sequences, "" for one that it lacks."""
    letters = rows.letters
    each = [
        decode(letters.codes[first : first + length])
        for first, length in zip(letters.start, letters.length, strict=True)
    ]
    return [each[first:last] for first, last in zip(rows.first[:-1], rows.first[1:], strict=True)]


def steps(text):
    return Counter(pairwise(text))


WORDS = st.text(alphabet="ACGTN", min_size=1, max_size=30)


@given(st.lists(st.lists(WORDS, min_size=1, max_size=2), min_size=1, max_size=6), st.integers(0, 3))
def test_every_step_from_base_to_base_is_kept_and_no_row_vanishes_uncounted(table, texts, seed):
    rows = table(texts)
    negatives, unchanged = shuffled(rows, np.zeros(len(texts), np.int64), seed=seed)
    assert len(negatives.number) + unchanged == len(texts)
    source = dict(zip(rows.ids.to_pylist(), texts_of(rows), strict=True))
    for name, after in zip(negatives.ids.to_pylist(), texts_of(negatives), strict=True):
        before = source[name]
        assert [len(one) for one in after] == [len(one) for one in before]
        assert [steps(one) for one in after] == [steps(one) for one in before]
        assert after != before


def test_copies_and_seeds_differ_and_a_row_is_shuffled_alike_among_any_others(table):
    random = np.random.default_rng(0)
    texts = [["".join(random.choice(list("ACGT"), 40))] for _ in range(20)]
    rows = table(texts)

    def of(which, copy, seed):
        return texts_of(shuffled(rows.pick(np.array(which)), np.full(len(which), copy), seed=seed)[0])

    first = of(range(20), 0, 0)
    assert of([7, 3], 0, 0) == [first[7], first[3]]
    assert not [pair for pair in zip(first, of(range(20), 1, 0), strict=True) if pair[0] == pair[1]]
    assert not [pair for pair in zip(first, of(range(20), 0, 1), strict=True) if pair[0] == pair[1]]


def test_labels_that_are_known_become_false_and_the_others_stay_unknown(table):
    rows = table([["ACGTTGCAAC"], ["ACCGTTGGCA"]], labels=[(1, ""), (1, 1)])
    negatives, unchanged = shuffled(rows, np.zeros(2, np.int64), seed=0)
    assert unchanged == 0
    assert str(negatives.targets.tolist()) == "[[0.0, nan], [0.0, 0.0]]"
    assert str(rows.targets.tolist()) == "[[1.0, nan], [1.0, 1.0]]"


def test_a_sequence_without_another_order_is_left_out_and_counted(table):
    negatives, unchanged = shuffled(table([["AAAAAAAA"], ["ACGTTGCAAC"]]), np.zeros(2, np.int64), seed=0)
    assert (unchanged, negatives.number.tolist()) == (1, [2])


def test_a_row_is_positive_where_any_label_is_true(table):
    rows = table([["ACGT"]] * 4, labels=[(1, 0), (0, 0), ("", 1), (0, "")])
    assert positives(rows).tolist() == [True, False, True, False]


@pytest.mark.parametrize("settings", [{"ratio": 0}, {"splits": ()}])
def test_negatives_of_nothing_are_refused(settings):
    with pytest.raises(InputError, match=r"negatives: ratio=.*; wanted at least one negative per positive and a split"):
        check_settings(settings, ShuffleSpec, source="job")
