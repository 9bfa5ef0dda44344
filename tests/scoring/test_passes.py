import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cisray.errors import InputError
from cisray.genome.sequence import decode, encode
from cisray.scoring.passes import Frame, Pass, frame_of, lay, unchanged
from cisray.scoring.windows import PlacedEdit, WindowEdits

FORWARD, REVERSE = Pass(0, reverse=False), Pass(0, reverse=True)
ANY = np.ones((1, 1), bool)


def window_of(text, *, flank_bp):
    return WindowEdits(100, encode(text), flank_bp, ())


def edit_of(start, removed_bp, inserted):
    return PlacedEdit(start, removed_bp, encode(inserted), ANY)


WINDOW = window_of("GGG" + "ACGTTCAA" + "TTC", flank_bp=3)


@pytest.mark.parametrize(
    ("edit", "anchor", "expected"),
    [
        (edit_of(2, 1, "T"), "left", "ACTTTCAA"),
        (edit_of(2, 1, "T"), "right", "ACTTTCAA"),
        (edit_of(2, 2, ""), "left", "ACTCAATT"),  # two bases are drawn in at the right
        (edit_of(2, 2, ""), "right", "GGACTCAA"),  # or at the left
        (edit_of(2, 0, "CC"), "left", "ACCCGTTC"),  # two are pushed out at the right
        (edit_of(2, 0, "CC"), "right", "CCGTTCAA"),  # or at the left
        (edit_of(7, 0, "CCC"), "left", "ACGTTCAC"),  # some of them at once
        (edit_of(0, 1, "CCG"), "right", "GCGTTCAA"),
        (edit_of(0, 0, "CC"), "right", "ACGTTCAA"),  # all of them
        (edit_of(0, 0, "CC"), "left", "CCACGTTC"),
        (edit_of(2, 3, "G"), "left", "ACGCAATT"),
    ],
)
def test_an_edit_is_anchored_on_either_side(edit, anchor, expected):
    alternate = lay(WINDOW, edit, FORWARD, anchor=anchor)
    assert decode(alternate.codes) == expected


def test_a_pass_is_shifted_to_the_right_and_turned():
    shifted = Pass(2, reverse=False)
    assert decode(frame_of(WINDOW, shifted).window()) == "GTTCAATT"
    assert decode(lay(WINDOW, edit_of(3, 1, "C"), shifted).codes) == "GCTCAATT"
    turned = Pass(2, reverse=True)
    assert decode(frame_of(WINDOW, turned).window()) == "AATTGAAC"
    assert decode(lay(WINDOW, edit_of(3, 1, "C"), turned).codes) == "AATTGAGC"


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_outside_of_its_own_bases_an_alternate_is_the_reference_moved(data):
    length, flank = data.draw(st.integers(9, 20)), 6
    bases = np.array(data.draw(st.lists(st.integers(0, 4), min_size=length + 2 * flank, max_size=length + 2 * flank)))
    window = WindowEdits(0, bases.astype(np.uint8), flank, ())
    reading = Pass(data.draw(st.integers(-2, 2)), reverse=data.draw(st.booleans()))
    removed = data.draw(st.integers(0, 4))
    start = data.draw(st.integers(2 * (reading.shift_bp > 0), length - 3 - max(removed, 1)))
    edit = PlacedEdit(start, removed, np.array(data.draw(st.lists(st.integers(0, 3), max_size=4)), np.uint8), ANY)
    alternate = lay(window, edit, reading, anchor=data.draw(st.sampled_from(["left", "right"])))
    frame = frame_of(window, reading)
    assert len(alternate.codes) == length
    for base in range(length):
        moved = alternate.left_bp if base < alternate.first else alternate.right_bp
        if not alternate.first <= base < alternate.stop:
            assert alternate.codes[base] == frame.part(base, base + 1, moved_bp=moved)[0]
    first, stop = alternate.changed(at_least_bp=3)
    assert 0 <= first <= stop - 3 <= length - 3
    assert first <= alternate.first or first == length - 3
    assert stop >= min(alternate.stop, length)
    back = alternate.turned().turned()
    assert (back.codes == alternate.codes).all()
    assert back[1:] == alternate[1:]


def test_beyond_what_is_known_stands_n():
    assert decode(Frame(encode("ACGT"), 1, 2).part(-3, 5)) == "NNACGTNN"


def test_an_edit_that_changes_nothing_stands_where_another_does():
    like = lay(WINDOW, edit_of(2, 1, "T"), FORWARD)
    null = unchanged(frame_of(WINDOW, FORWARD), like)
    assert decode(null.codes) == "ACGTTCAA"
    assert null[1:] == (2, 3, 0, 0)


def place(edit, reading):
    return frame_of(WINDOW, reading), lay(WINDOW, edit, reading)


@pytest.mark.parametrize(
    ("edit", "reading", "message"),
    [
        (edit_of(8, 1, "A"), FORWARD, r"window at 100: an edit of 1 bp for 1 bp at base 8 of 8 \(shift 0 bp\); wanted"),
        (edit_of(1, 1, "A"), Pass(2, reverse=False), r"at base -1 of 8 \(shift 2 bp\); wanted edits inside the window"),
        (edit_of(2, 4, ""), REVERSE, "draws in more bases than its flanks of 3 bp hold; give flanks of the largest"),
        (edit_of(2, 1, "A"), Pass(4, reverse=False), "flanks of 3 bp, which a shift of 4 bp exceeds; give flanks of"),
    ],
)
def test_edits_and_shifts_that_do_not_fit_are_told(edit, reading, message):
    with pytest.raises(InputError, match=message):
        place(edit, reading)
