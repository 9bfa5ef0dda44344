import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cisray.genome.sequence import decode, encode, reverse_complement
from cisray.genome.simulated_signal import MOTIFS, REACH_BP, TRACKS, expected_signal, occupancy

A, B, C = ("".join("ACGT"[base] for base in motif.probabilities.argmax(axis=1)) for motif in MOTIFS)
BASELINE = 1.5


def around(*parts):
    """Put sequence in the middle of 1,000 bases without any site."""
    inside = "".join(parts)
    left = (1000 - len(inside)) // 2
    return encode("T" * left + inside + "T" * (1000 - left - len(inside)))


def peak(codes):
    return dict(zip(TRACKS, expected_signal(codes).max(axis=1), strict=True))


def slow_signal(codes):
    """Compute the expected signal base by base, from its definition."""
    strands = {+1: codes, -1: reverse_complement(codes)}
    L = len(codes)

    def bound(motif, strand, center):
        width, half = len(motif.probabilities), motif.half
        if center - half < 0 or center + half >= L:
            return 0.0
        own = center if strand > 0 else L - 1 - center
        site = strands[strand][own - half : own + half + 1]
        score = sum(motif.scores[k, site[k]] for k in range(width))
        return round(65536 / (1 + np.exp(motif.threshold - score))) / 65536

    signal = np.full((4, L), BASELINE)
    a, b, c = MOTIFS
    for center in range(L):
        for strand in (+1, -1):
            of_a, of_b, of_c = (bound(motif, strand, center) for motif in (a, b, c))
            step = len(A) // 2 + 1 + len(B) // 2
            partners = sum(bound(b, strand, center + strand * (step + gap)) for gap in range(10, 31)) if of_a else 0
            pair = round(of_a * partners * 65536) / 65536
            for offset in range(-120, 121):
                if 0 <= center + offset < L and (of_a or of_b):
                    near = round(65536 * np.exp(-0.5 * (offset / 35) ** 2)) / 65536
                    signal[0, center + offset] += 40 * of_a * near
                    signal[1, center + offset] += (4 * (of_a + of_b) + 80 * pair) * near
            for offset in range(10, 251):
                at = center + strand * offset
                if of_c and 0 <= at < L:
                    signal[2 if strand > 0 else 3, at] += (
                        40 * of_c * (round(65536 * np.exp(-(offset - 10) / 70)) / 65536)
                    )
    return signal


def test_motifs_are_odd_informative_and_no_palindromes():
    for motif in MOTIFS:
        assert motif.probabilities.sum(axis=1) == pytest.approx(1)
        assert len(motif.probabilities) in (9, 11)
        information = (motif.probabilities * np.log2(motif.probabilities / 0.25)).sum()
        assert 12 < information < 20
    for bases, motif in zip((A, B, C), MOTIFS, strict=True):
        plus, minus = occupancy(encode(bases), motif)[:, motif.half]
        assert plus > 0.95
        assert minus == 0
        broken = encode(bases)
        broken[2] = (broken[2] + 1) % 4
        assert occupancy(broken, motif)[0, motif.half] < plus / 2


def test_a_site_raises_its_tracks_by_eye():
    assert peak(around("")) == {"strength": 1.5, "spacing": 1.5, "plus": 1.5, "minus": 1.5}
    assert peak(around(A))["strength"] == pytest.approx(41.5, abs=2)
    assert peak(around(A))["spacing"] == pytest.approx(5.5, abs=0.2)
    assert peak(around(B))["strength"] == 1.5
    assert peak(around(C))["plus"] == pytest.approx(41.5, abs=2)
    assert peak(around(C))["minus"] == 1.5


@pytest.mark.parametrize(("gap", "high"), [(9, False), (10, True), (20, True), (30, True), (31, False)])
def test_a_pair_counts_only_at_its_distance_and_in_its_order(gap, high):
    spacer = "T" * gap
    assert (peak(around(A, spacer, B))["spacing"] > 60) == high
    turned = reverse_complement(around(A, spacer, B))
    assert (peak(turned)["spacing"] > 60) == high
    assert peak(around(B, spacer, A))["spacing"] < 12


def test_signal_of_c_lies_downstream_on_its_own_strand():
    plus, minus = expected_signal(around(C))[2:]
    assert (plus[:509] == BASELINE).all()
    assert plus.argmax() == 509  # ten bases after the centre, which is base 499
    assert (minus == BASELINE).all()


OTHER_STRAND = [decode(reverse_complement(encode(bases))) for bases in (A, B, C)]
sequences = st.lists(st.sampled_from([A, B, C, *OTHER_STRAND, "N", "T" * 12, "ACGTTGCA"]), min_size=1, max_size=25).map(
    lambda parts: encode("".join(parts))
)


@settings(deadline=None, max_examples=60)
@given(sequences)
def test_the_other_strand_has_the_same_signal_turned_and_swapped_to_the_bit(codes):
    turned = expected_signal(reverse_complement(codes))
    assert np.array_equal(turned[[0, 1, 3, 2], ::-1], expected_signal(codes))


def test_random_sequence_turns_to_the_bit_too():
    codes = np.random.default_rng(0).integers(0, 5, 100_000).astype(np.uint8)
    assert np.array_equal(expected_signal(reverse_complement(codes))[[0, 1, 3, 2], ::-1], expected_signal(codes))


@settings(deadline=None, max_examples=8)
@given(sequences)
def test_the_signal_is_its_definition(codes):
    np.testing.assert_allclose(expected_signal(codes), slow_signal(codes), rtol=0, atol=1e-9)


def test_a_window_with_its_reach_has_the_signal_of_the_whole_to_the_bit():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 4, 20_000).astype(np.uint8)
    for start in rng.integers(0, 19_900, 60):
        site = encode(A + "TTTTTTTTTTTTT" + B + C)
        codes[start : start + len(site)] = site[: len(codes) - start]
    whole = expected_signal(codes)
    window = expected_signal(codes[5000 - REACH_BP : 7000 + REACH_BP])
    assert np.array_equal(window[:, REACH_BP:-REACH_BP], whole[:, 5000:7000])


@pytest.mark.parametrize("length", [0, 1, 5, 11, 30])
def test_short_sequences_have_a_signal(length):
    assert expected_signal(np.zeros(length, np.uint8)).shape == (4, length)
