import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.baselines.swap_loci import (
    SEEN,
    TEST,
    TRAIN,
    UNMEASURED,
    VALID,
    Condition,
    LociSpec,
    Rows,
    compare_by,
    deal_folds,
    group_loci,
    keep_splits,
    read_measured,
    read_rows,
)
from cisray.config import check_settings
from cisray.datasets.card import Genome
from cisray.datasets.schema import decode_examples, iter_examples, layout_of
from cisray.datasets.tables.near_pairs import NOTHING_MISSED
from cisray.datasets.tables.row_splits import NO_SPLIT
from cisray.errors import InputError

NUM_ROWS = st.integers(1, 25)


def rows_at(places, splits=None, codes=None):
    """Make rows of (contig, start, end)."""
    contig, start, end = zip(*places, strict=True)
    split = np.zeros(len(places), np.int8) if splits is None else np.array(splits, np.int8)
    return Rows(split, np.array(contig), np.array(start, np.int64), np.array(end, np.int64), codes)


def condition(rows, *, measured=None, margin_bp=0):
    known = np.ones(len(rows.split), bool) if measured is None else np.array(measured)
    return Condition(rows, known, margin_bp)


@st.composite
def conditions(draw):
    """Two or three conditions of short windows on two contigs, some without a measurement."""
    drawn = {}
    for name in ("heat", "cold", "dark")[: draw(st.integers(2, 3))]:
        count = draw(NUM_ROWS)
        starts = draw(st.lists(st.integers(0, 400), min_size=count, max_size=count))
        contigs = draw(st.lists(st.sampled_from(["chr1", "chr2"]), min_size=count, max_size=count))
        splits = draw(st.lists(st.sampled_from([TRAIN, VALID, TEST]), min_size=count, max_size=count))
        measured = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        places = [(contig, start, start + 10) for contig, start in zip(contigs, starts, strict=True)]
        drawn[name] = condition(rows_at(places, splits), measured=measured, margin_bp=draw(st.sampled_from([0, 3])))
    return drawn


def places_of(one, chosen, wider=0):
    rows = one.rows
    return [(rows.contig[row], rows.start[row] - wider, rows.end[row] + wider) for row in np.flatnonzero(chosen)]


def overlap(one, other):
    return one[0] == other[0] and one[1] < other[2] and other[1] < one[2]


@given(conditions())
def test_what_any_condition_is_tested_on_none_learns_from(drawn):
    dealt = keep_splits(drawn, None)
    tests = [place for one in drawn.values() for place in places_of(one, (one.rows.split == TEST) & one.measured)]
    for name, one in drawn.items():
        split = dealt[name].split
        np.testing.assert_array_equal(split == TEST, (one.rows.split == TEST) & one.measured)
        for row in range(len(split)):
            (place,) = places_of(one, np.arange(len(split)) == row, one.margin_bp)
            seen = one.rows.split[row] != TEST and any(overlap(place, test) for test in tests)
            expected = NO_SPLIT if seen or not one.measured[row] else one.rows.split[row]
            assert split[row] == expected
        assert sum(dealt[name].left_out.values()) == (split == NO_SPLIT).sum()
        assert dealt[name].left_out[UNMEASURED] == (~one.measured).sum()


@given(conditions(), st.integers(0, 3), st.sampled_from([0, 40]))
def test_folds_belong_to_loci(drawn, seed, apart_bp):
    spec = LociSpec(num_folds=3, seed=seed, apart_bp=apart_bp)
    found, _ = group_loci([one.rows for one in drawn.values()], spec, by="place")
    groups = dict(zip(drawn, found, strict=True))
    if len(np.unique(np.concatenate(found))) < 3:
        with pytest.raises(InputError, match=r"[12] loci cannot fill 3 folds: rows that overlap"):
            deal_folds(drawn, groups, spec)
        return
    tested = {name: np.zeros(len(one.measured), int) for name, one in drawn.items()}
    for dealt in deal_folds(drawn, groups, spec):
        tests = [place for name, one in drawn.items() for place in places_of(one, dealt[name].split == TEST)]
        for name, one in drawn.items():
            learned = places_of(one, np.isin(dealt[name].split, [TRAIN, VALID]), apart_bp)
            assert not any(overlap(place, test) for place in learned for test in tests)
            tested[name] += dealt[name].split == TEST
            assert dealt[name].left_out == {SEEN: 0, UNMEASURED: int((~one.measured).sum())}
    for name, one in drawn.items():
        np.testing.assert_array_equal(tested[name], one.measured.astype(int))


def test_folds_are_as_large_as_each_other_in_every_condition():
    random = np.random.default_rng(0)
    places = [("chr1", 20 * number, 20 * number + 10) for number in range(300)]
    few = sorted(random.choice(300, 90, replace=False).tolist())
    drawn = {"all": condition(rows_at(places)), "few": condition(rows_at([places[number] for number in few]))}
    spec = LociSpec(num_folds=5)
    groups = dict(zip(drawn, group_loci([one.rows for one in drawn.values()], spec, by="place")[0], strict=True))
    sizes = {name: [(dealt[name].split == TEST).sum() for dealt in deal_folds(drawn, groups, spec)] for name in drawn}
    assert {name: (min(each), max(each)) for name, each in sizes.items()} == {"all": (60, 60), "few": (18, 18)}
    other = deal_folds(drawn, groups, LociSpec(num_folds=5, seed=1))[0]["all"].split
    assert (other != deal_folds(drawn, groups, spec)[0]["all"].split).any()


def random_codes(num, length, seed=0):
    return np.random.default_rng(seed).integers(0, 4, (num, length), np.uint8)


def test_near_duplicates_on_either_strand_are_one_locus():
    codes = random_codes(6, 60)
    other = random_codes(5, 60, seed=1)
    other[1] = codes[2]
    other[1, [5, 40]] = (other[1, [5, 40]] + 1) % 4
    other[3] = 3 - codes[4][::-1]
    parts = [rows_at([("r", 0, 60)] * len(each), codes=each) for each in (codes, other)]
    (first, second), search = group_loci(parts, LociSpec(), by="sequence")
    assert search == NOTHING_MISSED
    assert len(set(first)) == 6
    assert second[1] == first[2]
    assert second[3] == first[4]
    assert len({*first, *second}) == 9
    exact, _ = group_loci(parts, LociSpec(min_identity=1.0), by="sequence")
    assert exact[1][1] != exact[0][2]
    assert exact[1][3] == exact[0][4]


@pytest.mark.parametrize("short", [False, True])
def test_flanks_that_all_have_make_no_duplicates(short):
    inner = random_codes(40, 30)
    flanked = np.concatenate(
        [np.tile(random_codes(1, 40, 7), (40, 1)), inner, np.tile(random_codes(1, 40, 8), (40, 1))], 1
    )
    codes = np.full((40, 115), 4, np.uint8)
    codes[:, :110] = flanked
    if short:  # rows filled up at either end
        codes[1] = 4
        codes[1, 3:113] = flanked[1]
    part = rows_at([("r", 0, 110)] * 40, codes=codes)
    (groups,), _ = group_loci([part], LociSpec(), by="sequence")
    assert len(set(groups)) == 40
    twins = part._replace(codes=np.tile(codes[:1], (40, 1)))
    assert set(group_loci([twins], LociSpec(), by="sequence")[0][0]) == {0}


def test_sequences_that_are_tested_are_left_out_of_every_training():
    codes = random_codes(8, 50)
    heat = rows_at([("h", 0, 50)] * 6, [TRAIN, TRAIN, TRAIN, VALID, TEST, TEST], codes[:6])
    cold = rows_at([("c", 0, 50)] * 4, [TEST, TRAIN, VALID, TRAIN], codes[[0, 4, 6, 7]])
    drawn = {"heat": condition(heat), "cold": condition(cold)}
    groups = dict(zip(drawn, group_loci([heat, cold], LociSpec(), by="sequence")[0], strict=True))
    dealt = keep_splits(drawn, groups)
    assert dealt["heat"].split.tolist() == [NO_SPLIT, TRAIN, TRAIN, VALID, TEST, TEST]
    assert dealt["cold"].split.tolist() == [TEST, NO_SPLIT, VALID, TRAIN]
    assert dealt["heat"].left_out == {SEEN: 1, UNMEASURED: 0}


def test_rows_are_read_in_the_order_of_the_files(make_dataset):
    folder, card = make_dataset({"train": [7, 4], "valid": [3], "test": [5]})
    rows = read_rows(folder, card, with_codes=True)
    assert rows.split.tolist() == [TRAIN] * 11 + [VALID] * 3 + [TEST] * 5
    tables = [each for split in ("train", "valid", "test") for each in iter_examples(folder, card, split, batch_size=4)]
    codes = np.concatenate([decode_examples(table, layout_of(card)).codes for table in tables])
    np.testing.assert_array_equal(rows.codes, codes[:, 3:-3])
    assert rows.start.tolist() == [start for table in tables for start in table["start"].to_pylist()]
    assert read_rows(folder, card, with_codes=False).codes is None
    assert read_measured(folder, card, [0, 2]).tolist() == [True] * 19


def test_loci_of_one_genome_are_compared_by_place(make_card):
    genome = {"name": "a", "fasta": "a.fa", "contig_lengths": {"chr1": 9}, "contig_digests": {"chr1": "x"}}
    one, other = (make_card(genome=Genome(digest=digest, **genome)) for digest in ("ab", "cd"))
    assert compare_by([one, one]) == "place"
    assert compare_by([one, other]) == "sequence"
    assert compare_by([one, make_card(genome=None)]) == "sequence"
    assert compare_by([make_card(genome=None)] * 2) == "sequence"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"num_folds": 2}, "num_folds=2; wanted 3 or more, or 0"),
        ({"apart_bp": -1}, "apart_bp=-1; wanted 0 or more bases"),
        ({"min_identity": 0.4}, "min_identity=0.4; wanted a share from 0.5 to 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, told):
    with pytest.raises(InputError, match=told):
        check_settings(settings, LociSpec, source="job")
