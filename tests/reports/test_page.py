import numpy as np
import pytest

from cisray.reports.page import (
    Section,
    Tile,
    callout,
    facts,
    folded,
    grid,
    number,
    share,
    table,
    text,
    tiles,
    write_page,
)

EVIL = "</style><script>alert(1)</script> & \"quoted\" 'too'"


def write(path, content, *, title="A page", subtitle="below", heading="Heading"):
    return write_page(path, title=title, subtitle=subtitle, sections=[Section(heading, "What it shows.", content)])


def test_a_page_is_well_formed_and_needs_nothing_from_outside(tmp_path, read_page):
    content = [
        table(["a", "b"], [["x", 1]], caption="Caption", groups=[("", 1), ("of b", 1)]),
        facts([("one", 1), ("two", "words")]),
        text("words"),
        callout("warning", "Look", ["here", "there"]),
        tiles([Tile(0.5, "half", "of all")]),
        folded("more", "{}"),
        grid([text("small")]),
    ]
    page = read_page(write(tmp_path / "page.html", content))
    assert page.text.startswith("A page A page below Heading")
    assert ("html", "lang", "en") in page.attributes
    assert ("meta", "charset", "utf-8") in page.attributes


@pytest.mark.parametrize(
    "content",
    [
        table([EVIL, "b"], [["x", 1]]),
        table(["a", "b"], [[EVIL, EVIL]], caption=EVIL, groups=[(EVIL, 2)]),
        facts([(EVIL, EVIL)]),
        text(EVIL),
        callout("note", EVIL, [EVIL]),
        tiles([Tile(EVIL, EVIL, EVIL)]),
        folded(EVIL, EVIL),
    ],
)
def test_every_text_is_escaped(tmp_path, read_page, content):
    page = read_page(write(tmp_path / "page.html", [content], title=EVIL, subtitle=EVIL, heading=EVIL))
    assert "<script>" not in page.source
    assert page.source.count("</style>") == 1
    assert page.text.count("alert(1)") + str(page.tables).count("alert(1)") >= 5


def test_headings_that_are_equal_get_anchors_of_their_own(tmp_path, read_page):
    sections = [Section("Same!", "one", []), Section("Same?", "two", []), Section("ä", "three", [])]
    page = read_page(write_page(tmp_path / "page.html", title="t", subtitle="s", sections=sections))
    assert len({value for tag, name, value in page.attributes if (tag, name) == ("section", "id")}) == 3


def test_equal_content_gives_equal_bytes(tmp_path):
    one, other = (write(tmp_path / name, [text("words")]) for name in ("one.html", "other.html"))
    assert one.read_bytes() == other.read_bytes()


def test_a_page_that_fails_leaves_the_old_one_and_nothing_else(tmp_path):
    path = write(tmp_path / "page.html", [text("old")])
    with pytest.raises(UnicodeEncodeError, match="surrogates"):
        write(path, [text("\ud800")])
    assert "old" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (0.0, "0"),
        (1234567, "1,234,567"),
        (-5, "-5"),
        (0.91234, "0.912"),
        (-0.5, "-0.500"),
        (12.3456, "12.35"),
        (1234.567, "1,235"),
        (0.01234, "0.0123"),
        (2.77e-6, "2.77e-06"),
        (1.5e7, "1.5e+07"),
        (float("nan"), "–"),
        (float("inf"), "–"),
        (None, "–"),
        ("chr1", "chr1"),
        (True, "True"),
    ],
)
def test_numbers_are_written_for_a_reader(value, words):
    assert number(value) == words


def test_written_numbers_are_near_the_numbers():
    for value in np.random.default_rng(0).lognormal(0, 8, 500):
        assert float(number(float(value)).replace(",", "")) == pytest.approx(value, rel=5.1e-3)


def test_share_of_nothing_is_no_number():
    assert [share(1, 8), share(0, 3), share(2, 2), share(0, 0)] == ["12.5%", "0.0%", "100.0%", "–"]


def test_columns_of_numbers_stand_on_the_right_and_groups_span_them(tmp_path, read_page):
    rows = [["a", 1, "x", "12.5%", None], ["b", None, 3, "–", None]]
    source = table(["name", "n", "mixed", "share", "none"], rows, groups=[("", 1), ("left", 2), ("right", 2)])
    page = read_page(write(tmp_path / "page.html", [source]))
    heads = [value for tag, name, value in page.attributes if tag == "th" and name == "class"]
    assert heads[3:8] == ["text", "number starts", "text", "number starts", "text"]
    assert [value for _, name, value in page.attributes if name == "colspan"] == ["1", "2", "2"]
    assert page.table("name", "n", "mixed", "share", "none") == [
        ["a", "1", "x", "12.5%", "–"],
        ["b", "–", "3", "–", "–"],
    ]


def test_a_row_of_another_length_than_the_header_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        table(["a", "b", "c"], [["x", 1, 2], ["y", 1, 2, 3]])
