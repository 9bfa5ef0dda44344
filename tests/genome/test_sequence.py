import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.errors import InputError
from cisray.genome.sequence import BASE_CODES, decode, encode, reverse_complement


def test_letters_become_codes():
    assert encode("ACGTNacgtnUuRY-*é").tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 3, 3, 4, 4, 4, 4, 4]
    assert encode(b"").shape == (0,)
    assert encode("ACGT").dtype == np.uint8


def test_every_byte_has_a_code():
    expected = ["ACGTU".find(chr(byte).upper()) if byte < 128 else -1 for byte in range(256)]
    assert BASE_CODES.tolist() == [{-1: 4, 4: 3}.get(code, code) for code in expected]
    with pytest.raises(ValueError, match="read-only"):
        BASE_CODES[0] = 1


@given(st.text("ACGTN"))
def test_codes_become_the_same_letters(bases):
    assert decode(encode(bases)) == bases
    assert decode(encode(bases.lower().encode())) == bases


def test_the_other_strand_is_read_backwards():
    assert decode(reverse_complement(encode("AACGTN"))) == "NACGTT"
    batch = np.stack([encode("AAC"), encode("TNG")])
    assert [decode(row) for row in reverse_complement(batch)] == ["GTT", "CNA"]
    assert reverse_complement(batch[None]).shape == (1, 2, 3)


@given(st.text("ACGTN"))
def test_the_other_strand_twice_is_the_first(bases):
    table = str.maketrans("ACGT", "TGCA")
    codes = encode(bases)
    assert decode(reverse_complement(codes)) == bases.translate(table)[::-1]
    assert np.array_equal(reverse_complement(reverse_complement(codes)), codes)


@pytest.mark.parametrize("codes", [np.array([0, 5], np.uint8), np.array([0, 1], np.int64)])
@pytest.mark.parametrize("function", [decode, reverse_complement])
def test_what_is_no_code_is_refused(function, codes):
    with pytest.raises(InputError, match=r"codes must be uint8 from 0 to 4, got u?int"):
        function(codes)
