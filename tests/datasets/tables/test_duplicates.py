import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.config import check_settings
from cisray.datasets.tables import near_pairs
from cisray.datasets.tables.duplicates import DuplicateSpec, Sequences, find_groups
from cisray.errors import InputError

LETTERS = "ACGT"


@pytest.fixture(autouse=True, scope="module", params=["all pairs", "seeds"])
def way(request):
    """Run every test both ways: all pairs compared, as in small tables, and through seeds, as in large ones."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "seeds":
            patch.setattr(near_pairs, "ALL_PAIRS_WORK", 0)
        yield request.param


def sequences_of(texts, rows=None):
    """Return texts as one matrix; each is a row of its own unless `rows` says otherwise."""
    codes = np.full((len(texts), max(map(len, texts))), 4, np.uint8)
    for index, text in enumerate(texts):
        codes[index, : len(text)] = ["ACGTN".index(letter) for letter in text]
    lengths = np.array([len(text) for text in texts])
    return Sequences(codes, lengths, np.arange(len(texts)) if rows is None else np.array(rows))


def groups_of(texts, *, rows=None, num_rows=None, **settings):
    return find_groups(sequences_of(texts, rows), num_rows or len(texts), DuplicateSpec(**settings))


def random_texts(random, num, length):
    return ["".join(random.choice(list(LETTERS), length)) for _ in range(num)]


def substituted(random, text, num):
    letters = list(text)
    for place in random.choice(len(text), num, replace=False):
        letters[place] = random.choice([letter for letter in LETTERS if letter != letters[place]])
    return "".join(letters)


def reverse_complement(text):
    return "".join(dict(zip("ACGTN", "TGCAN", strict=True))[letter] for letter in reversed(text))


def slow_edits(one, other):
    """Compute the edit distance by the textbook's table."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        before, row = row, [i]
        for j, b in enumerate(other, start=1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b)))
    return row[-1]


def partition(numbers):
    return {frozenset(np.flatnonzero(numbers == number).tolist()) for number in set(numbers.tolist())}


def slow_groups(texts, min_identity):
    """Chain all pairs that are near enough, every pair compared."""
    label = list(range(len(texts)))
    for i, one in enumerate(texts):
        for j, other in enumerate(texts[:i]):
            if slow_edits(one, other) <= (1 - min_identity) * max(len(one), len(other)) + 1e-9:
                label = [label[j] if each == label[i] else each for each in label]
    return partition(np.array(label))


@pytest.mark.parametrize("length", [40, 81, 150])
@pytest.mark.parametrize("identity", [0.8, 0.9])
def test_every_planted_substitution_copy_is_found_and_nothing_beyond_the_threshold(length, identity):
    random = np.random.default_rng(length)
    most = int((1 - identity) * length + 1e-9)
    originals = random_texts(random, 120, length)
    within = [substituted(random, text, most) for text in originals[:60]]
    beyond = [substituted(random, text, most + 1) for text in originals[60:]]
    # gaps may bring a copy nearer than its substitutions say
    near = [slow_edits(*pair) <= most for pair in zip(originals[60:], beyond, strict=True)]
    assert sum(near) < 20
    found = groups_of(originals + within + beyond, min_identity=identity)
    assert found.search.found_in_place == 1.0
    group = found.group
    assert (group[:60] == group[120:180]).all()
    assert (group[60:120] == group[180:]).tolist() == near
    assert np.bincount(group).max() == 2
    assert len(set(found.same.tolist())) == 240


def test_copies_that_are_shifted_or_hold_gaps_are_found():
    random = np.random.default_rng(5)
    texts = random_texts(random, 80, 100)
    shifted = [text[8:] + "".join(random.choice(list(LETTERS), 8)) for text in texts[:40]]  # 16 edits
    gapped = [text[:30] + text[33:70] + "ACG" + text[70:] for text in texts[40:]]  # 6 edits
    found = groups_of(texts + shifted + gapped, min_identity=0.8)
    assert partition(found.group) == {frozenset([i, 80 + i]) for i in range(80)}


@given(st.data())
def test_groups_are_those_of_comparing_every_pair(data):
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    length = data.draw(st.integers(12, 30))
    identity = data.draw(st.sampled_from([0.85, 0.9, 0.95, 1.0]))
    texts = random_texts(random, 4, length)
    for _ in range(data.draw(st.integers(1, 8))):
        text = texts[random.integers(len(texts))]
        if data.draw(st.booleans()) and len(text) > 4:
            place = random.integers(len(text) - 1)
            text = text[:place] + text[place + 1 :] + data.draw(st.sampled_from(["", "A"]))
        texts.append(substituted(random, text, data.draw(st.integers(0, 2))) if text else text)
    found = groups_of(texts, min_identity=identity)
    expected = slow_groups(texts, identity)
    for group in partition(found.group):  # nothing is joined that must not be
        assert any(group <= whole for whole in expected)
    if found.search.found_shifted == 1.0:  # all pairs were compared, or seeds are so short that none is missed
        assert partition(found.group) == expected


def test_a_length_that_allows_an_edit_is_not_searched_like_one_that_allows_none():
    random = np.random.default_rng(0)
    (whole,) = random_texts(random, 1, 20)
    cut = [whole[:place] + whole[place + 1 :] for place in (3, 9, 15)]
    others = random_texts(random, 8, 19)  # the most frequent length, of which one edit is already too many at 0.95
    found = groups_of([whole, *cut, *others], min_identity=0.95)
    assert partition(found.group) == {frozenset(range(4)), *(frozenset([4 + i]) for i in range(8))}


def test_groups_do_not_depend_on_the_order_of_rows():
    random = np.random.default_rng(2)
    base = random_texts(random, 10, 60)
    texts = [substituted(random, base[i % 10], int(random.integers(0, 8))) for i in range(200)]
    order = random.permutation(200)
    there = groups_of(texts).group
    shuffled = groups_of([texts[i] for i in order]).group
    assert partition(there[order]) == partition(shuffled)


def test_a_family_with_a_constant_flank_is_told_from_the_next():
    random = np.random.default_rng(8)
    flank = "".join(random.choice(list(LETTERS), 20))
    wild = random_texts(random, 5, 60)
    texts = [flank + substituted(random, wild[i % 5], 2) for i in range(400)]
    assert partition(groups_of(texts).group) == {frozenset(range(i, 400, 5)) for i in range(5)}


def test_the_other_strand_counts_where_it_is_asked_for():
    random = np.random.default_rng(3)
    texts = random_texts(random, 20, 50)
    other = [reverse_complement(text) for text in texts]
    near = [substituted(random, text, 5) for text in other]
    alone = groups_of(texts + other, both_strands=False)
    assert len(set(alone.group.tolist())) == 40
    both = groups_of(texts + other + near, both_strands=True)
    assert partition(both.same) == {frozenset([i, 20 + i]) for i in range(20)} | {
        frozenset([40 + i]) for i in range(20)
    }
    assert partition(both.group) == {frozenset([i, 20 + i, 40 + i]) for i in range(20)}


def test_rows_of_several_sequences_meet_through_any_of_them():
    random = np.random.default_rng(4)
    a, b, c, d = random_texts(random, 4, 40)
    found = groups_of([a, b, b, c, d], rows=[0, 0, 1, 1, 2], num_rows=3)
    assert found.same.tolist() == [0, 0, 1]


def test_an_unknown_base_is_no_end_of_a_sequence():
    found = groups_of(["ACGTACGTAN", "ACGTACGTA", "ACGTACGTAN"], min_identity=1.0)
    assert found.same.tolist() == [0, 1, 0]


def test_sequences_of_one_base_and_of_one_letter_are_no_trouble():
    assert groups_of(["A", "C", "A"]).group.tolist() == [0, 1, 0]
    assert groups_of(["AAAAAAAAAA", "AAAAAAAAA", "AAAAA"]).group.tolist() == [0, 0, 1]


def test_an_identity_of_chance_is_refused():
    with pytest.raises(InputError, match=r"min_identity=0.4; wanted a share from 0.5 to 1"):
        check_settings({"min_identity": 0.4}, DuplicateSpec, source="job")
