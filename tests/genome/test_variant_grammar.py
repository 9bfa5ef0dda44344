import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.genome.variant_grammar import carried_alleles, genotype_fault, record_fault


@given(
    st.text("ACGTNacgtnRYKMSWBDHVU", min_size=1),
    st.lists(st.text("ACGTNacgtnRYK", min_size=1), min_size=1),
    st.text("chrUn_1.:|*,", min_size=1),
)
def test_letters_of_bases_are_legal_everywhere(ref, alts, contig):
    assert record_fault(contig, ".", ref, alts) is None


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (("a b", ".", "A", ["C"]), "has the contig 'a b'; wanted a name without blanks and stray angle brackets"),
        (("a", ";x", "A", ["C"]), "has the ID ';x'; wanted names without blanks, parted by single semicolons, or '.'"),
        (("a", ".", "A" * 90 + "!", ["C"]), f"has the REF '{'A' * 50}'; wanted letters of bases, at least one"),
        (("a", ".", "A", ["C", "."]), "has the ALT 'C,.'; wanted alleles parted by single commas"),
        (("a", ".", "A", [""]), "has the ALT ''"),
        (("a\n", ".", "A", ["C"]), "has the contig 'a\\n'"),
        (("a", ".", "A\n", ["C"]), "has the REF 'A\\n'"),
        (("a", ".", "A", ["C\n"]), "has the ALT 'C\\n'"),
    ],
)
def test_what_is_illegal_is_said_with_what_was_wanted(record, told):
    assert record_fault(*record).startswith(told)


@pytest.mark.parametrize(
    ("genotype", "carried"),
    [
        ("0|1", {1}),
        ("2/1/2", {1, 2}),
        ("0/0", set()),
        (".", set()),
        ("./12", {12}),
        ("1", {1}),
        ("|1|0", {1}),
    ],
)
def test_a_genotype_names_alleles(genotype, carried):
    assert genotype_fault(genotype, ["C"] * 12) is None
    assert carried_alleles(genotype) == carried


def test_a_genotype_may_be_wrong_or_not_asked_for():
    assert genotype_fault(None, ["C"]) is None
    assert genotype_fault("0|x", ["C"]) == "has the genotype '0|x'; wanted numbers of alleles parted by '|' or '/'"
    assert genotype_fault("0/2", ["C"]) == "has the genotype '0/2', but 1 alternate alleles"
    for wrong in ("", "0||1", "0|1|", "1 ", "a", "0;1"):
        assert "has the genotype" in genotype_fault(wrong, ["C"])
