from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError

from cisray.genome.reference import Reference
from cisray.genome.sequence import decode, encode
from cisray.genome.variants import Variant
from cisray.scoring import nulls
from cisray.scoring.nulls import NullSpec, hold_against, shuffled_windows, windows_with_nulls
from cisray.scoring.windows import PlacedEdit, Placing, WindowEdits, WindowSpec, place_variants

FLANK_BP = 5
MASKS = np.ones((1, 4), bool)


def window_of(bases, *edits, start=100):
    placed = tuple(PlacedEdit(place, removed, encode(inserted), MASKS) for place, removed, inserted in edits)
    return WindowEdits(start, encode(bases), FLANK_BP, placed)


def shuffles(window, spec, contig="chr1"):
    return list(shuffled_windows(window, window.edits[0], spec, contig=contig))


@settings(max_examples=60)
@given(
    bases=st.text("ACGTN", min_size=30, max_size=60),
    place=st.integers(0, 19),
    removed=st.integers(0, 4),
    kept_bp=st.integers(1, 6),
)
def test_dinucleotides_stay_and_so_does_what_stands_at_the_variant(bases, place, removed, kept_bp):
    window = window_of(bases, (place, removed, "AC"))
    made = shuffles(window, NullSpec(number=3, kept_bp=kept_bp))
    assert len(made) == 3
    first, last = FLANK_BP + place - kept_bp, FLANK_BP + place + removed + kept_bp
    for each in made:
        text = decode(each.bases)
        assert text[max(0, first) : last] == bases[max(0, first) : last]
        assert Counter(pairwise(text)) == Counter(pairwise(bases))
        assert (text[0], text[-1]) == (bases[0], bases[-1])
        assert (each.window_start, each.flank_bp) == (100, FLANK_BP)
        assert each.edits[0] is window.edits[0]


def text_of(window, spec=None, **settings):
    return [decode(each.bases) for each in shuffles(window, spec or NullSpec(number=5), **settings)]


def test_shuffles_depend_on_the_variant_and_the_seed_alone(monkeypatch):
    bases = "".join(np.random.default_rng(0).choice(list("ACGT"), 200))
    window = window_of(bases, (90, 1, "G"))
    found = text_of(window)
    assert len({bases, *found}) == 6
    assert text_of(window_of(bases, (90, 1, "G"), (20, 1, "T"))) == found
    others = [
        text_of(window, contig="chr2"),
        text_of(window_of(bases, (90, 1, "T"))),
        text_of(window_of(bases, (90, 0, "G"))),
        text_of(window_of(bases, (90, 1, "G"), start=101)),
        text_of(window, NullSpec(number=5, seed=1)),
    ]
    assert all(not set(other) & set(found) for other in others)
    assert text_of(window, NullSpec(number=9))[:5] == found  # more of them are more, not others
    monkeypatch.setattr(nulls, "SHUFFLED_AT_ONCE", 450)
    assert text_of(window) == found


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("genome")
    bases = "".join(np.random.default_rng(1).choice(list("ACGT"), 400))
    (folder / "genome.fa").write_text(f">chr1\n{bases}\n")
    return Reference(folder / "genome.fa", cache_dir=folder / "cache")


def place(reference, positions, **how):
    """Place SNVs, of which some stand in one window of a grid; a second mask is a gene's."""
    letters = {pos: reference.bases("chr1", pos - 1, pos) for pos in positions}
    rows = [
        Variant(index, 0, "chr1", pos, ".", letters[pos], "ACGT"[("ACGT".index(letters[pos]) + 1) % 4])
        for index, pos in enumerate(positions)
    ]
    return place_variants(
        rows,
        ["chr1"] * len(rows),
        reference,
        placing=Placing(window_bp=64, max_allele_bp=4, **how),
        masks_of=lambda *_: np.array([[True, False], [True, True]]),
    )


def test_each_edit_has_its_windows_behind_that_of_the_genome(reference):
    grid = WindowSpec(policy="grid", grid_bp=32)
    placed = place(reference, [101, 110, 110, 300], windows=grid)
    assert placed.num_edits.tolist() == [2, 1]
    found = list(windows_with_nulls(placed, NullSpec(number=2)))
    assert [len(window.edits) for window in found] == [2, 1, 1, 1, 1, 1, 1, 1]
    assert [window.edits[0].start for window in found[1:5]] == [found[0].edits[0].start] * 2 + [
        found[0].edits[1].start
    ] * 2
    genome = [window.bases.tolist() for window in placed.windows()]
    assert [found[0].bases.tolist(), found[5].bases.tolist()] == genome
    assert all(window.edits[0].masks.tolist() == [[True, False]] for window in found[1:5])
    assert [window.bases.tolist() for window in windows_with_nulls(placed, nulls.NO_NULL)] == genome


def test_the_order_of_rows_changes_no_shuffle(reference):
    def texts(positions):
        return {decode(window.bases) for window in windows_with_nulls(place(reference, positions), NullSpec(number=3))}

    assert texts([101, 200, 300]) == texts([300, 101, 200])


def test_a_score_is_held_against_its_null_as_by_hand():
    null = np.array([[1.0, 0.0], [2.0, 0.0], [-3.0, 0.0], [0.0, 0.0]], np.float32)
    found = hold_against(np.array([2.0, -1.0], np.float32), null)
    assert found.z[0] == pytest.approx(2 / np.sqrt(14 / 3))
    assert found.p.tolist() == pytest.approx([3 / 5, 1 / 5])
    # a null without spread: as far away as can be told
    assert found.z[1] == -(2**14)
    assert hold_against(np.zeros(1, np.float32), np.zeros((2, 1), np.float32)).z.tolist() == [0]
    assert hold_against(np.zeros(1, np.float32), np.zeros((2, 1), np.float32)).p.tolist() == [1]


values = st.floats(-(2.0**99), 2.0**99, width=32)


@given(arrays.arrays(np.float32, (6, 2), elements=values))
def test_what_is_found_is_finite_in_float16_too_and_turns_with_the_sign(drawn):
    found, turned = hold_against(drawn[0], drawn[1:]), hold_against(-drawn[0], -drawn[1:])
    assert (np.abs(found.z) <= 2**15).all()
    assert (found.p >= np.float32(1 / 6)).all()
    assert (found.p <= 1).all()
    assert (turned.z == -found.z).all()
    assert (turned.p == found.p).all()


def test_scores_that_come_from_their_null_have_even_ranks():
    drawn = np.random.default_rng(2).normal(3, 2, (20, 4000)).astype(np.float32)
    found = hold_against(drawn[0], drawn[1:])
    for share in (0.05, 0.1, 0.5):
        assert (found.p <= share + 1e-6).mean() == pytest.approx(share, abs=0.02)
    assert found.z.mean() == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("settings_of", [{"number": 1}, {"number": -2}, {"kept_bp": 0}, {"seed": -1}])
def test_what_makes_no_null_is_told(settings_of):
    with pytest.raises(ValidationError, match=r"null: number=.* wanted a number of 0, or of at least 2"):
        NullSpec(**settings_of)
