from urllib.parse import unquote

from hypothesis import given, settings
from hypothesis import strategies as st

from cisray.scoring.exports.escapes import RESERVED_IN_TSV, percent_encoded


def test_percent_encoded_by_eye():
    assert percent_encoded("GATA1 50%|a;b=c,d") == "GATA1%2050%25%7Ca%3Bb%3Dc%2Cd"
    assert percent_encoded("<DEL> é") == "<DEL>%20é"
    assert percent_encoded('a\t"b" c|d', reserved=RESERVED_IN_TSV) == "a%09%22b%22 c|d"


@settings(max_examples=50)
@given(name=st.text(st.characters(codec="utf-8"), max_size=8))
def test_percent_encoded_can_be_undone_and_breaks_no_field(name):
    encoded = percent_encoded(name)
    assert not set(encoded) & set(' \t\r\n%;=,|:"') - {"%"}
    assert unquote(encoded) == name
