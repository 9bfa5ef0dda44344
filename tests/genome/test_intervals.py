import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.errors import InputError
from cisray.genome.intervals import Interval, parse_region, suggest_names

LENGTHS = {"chrI": 230_218, "chrIV": 1_531_933, "chrM": 85_779, "HLA-A*01:01:01:01": 3_503}


def test_an_interval_has_a_width_a_center_and_a_name():
    interval = Interval("chrI", 100, 110)
    assert (interval.width, interval.center, str(interval)) == (10, 105, "chrI:100-110")
    assert Interval("chrI", 100, 111).center == 105
    assert Interval("chrI", -5, -5, "-").width == 0


@pytest.mark.parametrize(
    ("arguments", "match"),
    [(("chrI", 3, 2), "chrI:3-2 starts after its end"), (("chrI", 1, 2, "x"), "strand 'x'.*'.'")],
)
def test_an_interval_refuses_nonsense(arguments, match):
    with pytest.raises(InputError, match=match):
        Interval(*arguments)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("chrIV", Interval("chrIV", 0, 1_531_933)),
        ("chrIV:1000-2000", Interval("chrIV", 1000, 2000)),
        ("chrIV:1,000-1_531_933", Interval("chrIV", 1000, 1_531_933)),
        ("HLA-A*01:01:01:01", Interval("HLA-A*01:01:01:01", 0, 3503)),
        ("HLA-A*01:01:01:01:0-5", Interval("HLA-A*01:01:01:01", 0, 5)),
    ],
)
def test_a_region_is_read(text, expected):
    assert parse_region(text, LENGTHS) == expected


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("IV:1-2", "no contig 'IV'; the nearest are chrIV"),
        ("chr4", "no such contig; there are chrI, chrIV"),
        ("chrI:0-230219", "ends at 230219, beyond chrI, which has 230218 bases"),
        ("chrI:5-5", "holds no base"),
        ("chrI:9-5", "holds no base"),
        ("chrI:-9-5", "'-9-5' is no(t a)? span"),
        ("chrI:1e3-2e3", "write contig:start-end"),
        ("chrI:", "'' is no(t a)? span"),
        ("", "no such contig"),
    ],
)
def test_a_bad_region_is_refused(text, match):
    with pytest.raises(InputError, match=match):
        parse_region(text, LENGTHS)


@given(st.sampled_from(sorted(LENGTHS)), st.data())
def test_what_an_interval_prints_is_read_back(contig, data):
    start = data.draw(st.integers(0, LENGTHS[contig] - 1))
    interval = Interval(contig, start, data.draw(st.integers(start + 1, LENGTHS[contig])))
    assert parse_region(str(interval), LENGTHS) == interval


def test_suggestions_are_the_nearest_names_or_the_first():
    assert suggest_names("ChrIV", LENGTHS).startswith("; the nearest are chrIV")
    assert suggest_names("zzz", "abcdefg") == "; there are a, b, c, d, e and 2 more"
