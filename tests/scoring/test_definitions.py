import re

from cisray.scoring.definitions import DEFINED


def test_every_score_says_where_it_comes_from():
    for score in DEFINED.values():
        assert re.fullmatch(r"doi:10\.\d{4,}/\S+|baskerville", score.source)
        assert score.formula.count("(") == score.formula.count(")")
        assert score.alias
        assert score.kinds


def test_a_place_is_no_number_to_compare():
    places = [name for name, score in DEFINED.items() if score.is_place]
    assert places == ["gain_offset", "loss_offset"]
    for name in places:
        assert not DEFINED[name].compares
        assert DEFINED[name].one_way
