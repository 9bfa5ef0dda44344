import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.errors import InputError
from cisray.genome.contigs import map_contigs

YEAST = {"chrI": 230_218, "chrII": 813_184, "chrIV": 1_531_933, "chrX": 745_751, "chrM": 85_779}
HUMAN = {"chr1": 248_956_422, "chr10": 133_797_422, "chrX": 156_040_895, "chrM": 16_569}


def match(foreign, ours, **options):
    return map_contigs(foreign, ours, source="f.bw", **options)


def test_names_match_by_name():
    assert match({"chrII": 813_184, "chrI": None}, YEAST) == ({"chrII": "chrII", "chrI": "chrI"}, ())


@pytest.mark.parametrize(
    ("foreign", "length", "ours"),
    [
        ("II", 813_184, "chrII"),
        ("2", 813_184, "chrII"),
        ("chromosome10", 745_751, "chrX"),
        ("chr02", 813_184, "chrII"),
        ("CHRII", None, "chrII"),
        ("II", None, "chrII"),
        ("MT", None, "chrM"),
        ("Mito", 85_779, "chrM"),
        ("chrMT", 85_779, "chrM"),
        ("mitochondrion", 85_779, "chrM"),
        ("X", None, "chrX"),
    ],
)
def test_names_match_by_likeness(foreign, length, ours):
    assert match({foreign: length}, YEAST) == ({foreign: ours}, ())


@pytest.mark.parametrize(
    ("foreign", "length"),
    [
        ("2", None),  # arabic to roman is a guess, and needs a length
        ("chr2", None),
        ("2", 813_185),  # the length does not agree
        ("II", 813_185),
        ("3", 316_620),
        ("plasmid", 6_318),
        ("M1", 85_779),
        ("chr", 85_779),
    ],
)
def test_names_that_match_nothing_are_told(foreign, length):
    assert match({"chrI": 230_218, foreign: length}, YEAST) == ({"chrI": "chrI"}, (foreign,))


def test_the_sex_chromosome_is_not_number_ten():
    assert match({"X": 156_040_895, "10": 133_797_422, "1": None, "MT": None}, HUMAN) == (
        {"X": "chrX", "10": "chr10", "1": "chr1", "MT": "chrM"},
        (),
    )
    without = {name: length for name, length in HUMAN.items() if name != "chrX"}
    assert match({"X": 156_040_895}, without) == ({}, ("X",))
    assert match({"X": None, "chrX": None}, without) == ({}, ("X", "chrX"))


def test_the_same_name_with_another_length_is_another_assembly():
    with pytest.raises(InputError, match=r"f\.bw: contig 'chr1' has 249250621 bases there and 248956422 in the genome"):
        match({"chr1": 249_250_621}, HUMAN)


def test_a_name_that_may_mean_two_contigs_is_refused():
    with pytest.raises(InputError, match=r"f\.bw: contig 'I' may mean chrI or chromosome1"):
        match({"I": 100}, {"chrI": 100, "chromosome1": 100})
    with pytest.raises(InputError, match=r"f\.bw: contig '1' may mean chr1 or Chr1"):
        match({"1": None}, {"chr1": 100, "Chr1": 200})
    assert match({"1": 200}, {"chr1": 100, "Chr1": 200}).names == {"1": "Chr1"}


def test_two_names_of_one_contig_are_refused_unless_one_is_its_own():
    with pytest.raises(InputError, match=r"f\.bw: contigs '1' and 'chromosome1' both mean chr1"):
        match({"1": None, "chromosome1": None}, HUMAN)
    assert match({"1": None, "chr1": None}, HUMAN) == ({"chr1": "chr1"}, ("1",))


def test_ignored_names_are_neither_matched_nor_told():
    foreign = {"chr1": 5, "1": None, "x": None}
    assert match(foreign, HUMAN, ignore={"chr1", "x"}) == ({"1": "chr1"}, ())


def test_whole_naming_schemes_match():
    roman = ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII", "XIII", "XIV", "XV", "XVI"]
    ours = {f"chr{name}": 1000 + number for number, name in enumerate(roman)}
    arabic = {f"chromosome{number + 1}": 1000 + number for number in range(16)}
    assert match(arabic, ours) == (dict(zip(arabic, ours, strict=True)), ())
    assert match(ours, arabic).names == dict(zip(ours, arabic, strict=True))


@given(
    st.dictionaries(st.integers(1, 39), st.integers(1, 9), max_size=12),
    st.sampled_from(["", "chr", "CHR", "chromosome_"]),
)
def test_a_prefix_never_changes_what_a_number_means(lengths, prefix):
    ours = {f"chr{number}": length for number, length in lengths.items()}
    expected = {f"{prefix}{number}": f"chr{number}" for number in lengths}
    for known in (True, False):
        foreign = {f"{prefix}{number}": length if known else None for number, length in lengths.items()}
        assert match(foreign, ours) == (expected, ())
