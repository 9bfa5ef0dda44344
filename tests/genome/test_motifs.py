import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.errors import InputError
from cisray.genome.motifs import Motif, best_matches, consensus_motif, read_motif, read_motifs, scan, scan_each
from cisray.genome.sequence import encode, reverse_complement

CLASSES = {"A": "A", "C": "C", "G": "G", "T": "T", "R": "[AG]", "Y": "[CT]", "N": "[ACGT]", "W": "[AT]"}
MEME = """MEME version 4

ALPHABET= ACGT

MOTIF M1 one
letter-probability matrix: alength= 4 w= 2 nsites= 20 E= 0
 1.0 0.0 0.0 0.0
 0.0 0.5 0.5 0.0

MOTIF M2 two
letter-probability matrix: alength= 4 w= 3 nsites= 20 E= 0
 0.25 0.25 0.25 0.25
 0.1 0.2 0.3 0.4
 0 0 0 1
URL http://example.org
"""
JASPAR = """>M1 one
A [ 20 0 ]
C [ 0 10 ]
G [ 0 10 ]
T [ 0 0 ]
"""


@given(st.text("ACGTN", min_size=6, max_size=80), st.text("ACGTRYNW", min_size=1, max_size=6))
def test_a_consensus_matches_where_a_regular_expression_does(sequence, consensus):
    pattern = re.compile("".join(CLASSES[letter] for letter in consensus))
    codes, width = encode(sequence), len(consensus)
    other = "".join("ACGTN"[code] for code in reverse_complement(codes))
    last = len(sequence) - width
    expected = [
        bool(pattern.fullmatch(sequence[first : first + width]) or pattern.fullmatch(other[last - first :][:width]))
        for first in range(last + 1)
    ]
    assert (scan(codes, consensus_motif(consensus)) == width).tolist() == expected


def slow_scan(codes, motif):
    """Add up a match's bases one by one, on either strand."""
    other = reverse_complement(codes)
    found = np.full(len(codes) - motif.width + 1, -np.inf)
    for first in range(len(found)):
        forward = codes[first : first + motif.width]
        backward = other[len(codes) - first - motif.width :][: motif.width]
        found[first] = max(sum(motif.scores[range(motif.width), bases].tolist()) for bases in (forward, backward))
    return found


@given(st.integers(1, 12), st.integers(12, 90), st.integers(1, 5), st.integers(0, 999))
def test_every_score_is_the_sum_over_its_bases(width, length, num, seed):
    random = np.random.default_rng(seed)
    motifs = [Motif("any", random.normal(0, 4, (each, 5)).astype(np.float32)) for each in (width, 3)]
    codes = random.integers(0, 5, (num, length), np.uint8)
    for motif, scores in zip(motifs, scan_each(codes, motifs), strict=True):
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, [slow_scan(row, motif) for row in codes], atol=1e-4)
        np.testing.assert_array_equal(scores, scan(codes, motif))
        np.testing.assert_array_equal(scores[-1], scan(codes[-1], motif))  # whatever stands beside it


def test_there_is_no_match_where_there_is_no_room():
    motif = consensus_motif("ACGT")
    assert scan(np.zeros((2, 3), np.uint8), motif).shape == (2, 0)
    assert scan(np.zeros((0, 9), np.uint8), motif).shape == (0, 6)
    assert scan(np.zeros((3, 2, 4), np.uint8), motif).tolist() == [[[1.0]] * 2] * 3


def test_the_best_match_and_its_place_are_found_on_either_strand():
    codes = np.stack([encode("TTTTGATTACATTT"), encode("TGTAATCTTTTTTT"), encode("CCCCCCGATTGCAC")])
    best = best_matches(codes, consensus_motif("GATTACA"))
    assert best.score.tolist() == [7, 7, 6]
    assert best.offset.tolist() == [4, 0, 6]


def test_a_sequence_shorter_than_the_motif_is_refused():
    with pytest.raises(InputError, match="has 5 bases, more than the window's 3"):
        best_matches(np.zeros((1, 3), np.uint8), consensus_motif("ACGTA"))


def test_meme_and_jaspar_files_hold_the_same_motif(tmp_path):
    (tmp_path / "a.meme").write_text(MEME)
    (tmp_path / "a.jaspar").write_text(JASPAR)
    one, other = read_motif(tmp_path / "a.meme", "M1"), read_motif(tmp_path / "a.jaspar")
    np.testing.assert_allclose(one.scores, other.scores)
    assert one.scores[0, 0] == pytest.approx(np.log2((0.99 + 0.0025) / 0.25))
    assert one.scores[0, 1] == one.scores[0, 4] == pytest.approx(np.log2(0.01))
    assert read_motif(tmp_path / "a.meme", "two").width == 3
    assert one.greatest == pytest.approx(np.log2(0.9925 * 4) + np.log2(0.4975 * 4), abs=1e-5)


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        (MEME, None, "several motifs and none is named; there are M1, M2; give the identifier"),
        (MEME, "M9", "no motif 'M9'"),
        (MEME.replace("MOTIF M2 two", "MOTIF M1 two"), "M1", "2 motifs called 'M1'"),
        ("M1 1 2 3 4\n", None, "begins with 'M1 1 2 3 4'; wanted motifs in MEME or JASPAR"),
        (MEME.replace(" 0.0 0.5 0.5 0.0", " 0.0 0.5 0.5"), "M1", "line 8: '0.0 0.5 0.5'; wanted 4 numbers"),
        ("MEME version 4\nletter-probability matrix: w= 2\n", None, "line 2: a matrix without a MOTIF line"),
        ("MEME version 4\nMOTIF M1\n", None, "motif M1: a column is missing or sums to nothing"),
        (JASPAR.replace("20 0", "0 0"), None, "motif M1 one: a column is missing or sums to nothing"),
        (JASPAR.replace("10 ]", "ten ]"), None, "line 3: .*wanted 2 numbers"),
    ],
)
def test_a_file_that_holds_no_such_motif_is_refused(tmp_path, text, name, told):
    (tmp_path / "m.txt").write_text(text)
    with pytest.raises(InputError, match=rf"m\.txt: .*{told}"):
        read_motif(tmp_path / "m.txt", name)


def test_all_motifs_of_a_file_are_read_at_once_or_those_that_are_named(tmp_path):
    path = tmp_path / "a.meme"
    path.write_text(MEME)
    for names, labels in (((), ["M1 one", "M2 two"]), (("two", "M1"), ["M2 two", "M1 one"])):
        motifs = read_motifs(path, names)
        assert [motif.name for motif in motifs] == labels
        for motif in motifs:
            np.testing.assert_array_equal(motif.scores, read_motif(path, motif.name.split()[0]).scores)


@pytest.mark.parametrize(
    ("text", "names", "told"),
    [
        (MEME, ("M1", "one"), "motif M1 one is asked for 2 times; wanted each once"),
        (MEME.replace("M2 two", "M1 one"), (), "motif M1 one stands there 2 times; wanted each once"),
        (MEME, ("M1", "M9"), "no motif 'M9'"),
        ("MEME version 4\n", (), "holds no motif; wanted at least one, in MEME or JASPAR format"),
    ],
)
def test_a_file_that_holds_no_such_motifs_is_refused(tmp_path, text, names, told):
    (tmp_path / "m.txt").write_text(text)
    with pytest.raises(InputError, match=rf"m\.txt: {told}"):
        read_motifs(tmp_path / "m.txt", names)


def test_a_missing_or_binary_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file, but a motif file"):
        read_motif(tmp_path / "none.meme")
    (tmp_path / "b.meme").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        read_motif(tmp_path / "b.meme")


@pytest.mark.parametrize("consensus", ["", "ACQ", "AC GT"])
def test_letters_that_are_no_nucleotides_are_refused(consensus):
    with pytest.raises(InputError, match="wanted letters of the IUPAC code"):
        consensus_motif(consensus)
