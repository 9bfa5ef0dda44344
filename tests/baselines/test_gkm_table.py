import numpy as np
import pytest

from cisray.baselines.gkm_filters import GkmSpec
from cisray.baselines.gkm_kernel import kernel_matrix
from cisray.baselines.gkm_table import DeltaSvm, GkmTable, weight_table
from cisray.genome.sequence import encode, reverse_complement

KERNELS = ("gkm_count", "gkm_full", "gkm", "wgkm")


def random_sequences(num, seed=0, *, shortest=12, longest=40, share_unknown=0.0):
    random = np.random.default_rng(seed)
    lengths = random.integers(shortest, longest, num)
    unknown = [random.random(length) < share_unknown for length in lengths]
    return [np.where(where, 4, random.integers(0, 4, len(where))).astype(np.uint8) for where in unknown]


def make_table(spec, num=7, rho=0.25):
    sequences = random_sequences(num, share_unknown=0.05, longest=60)
    coefficients = np.random.default_rng(5).normal(size=num)
    return weight_table(sequences, coefficients, rho=rho, spec=spec), sequences, coefficients


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("both_strands", [True, False])
def test_scores_by_table_are_those_of_the_support_vectors(kernel, both_strands):
    spec = GkmSpec(l=6, k=4, d=3, kernel=kernel, reverse_complement=both_strands, half_life_bp=5)
    table, sequences, coefficients = make_table(spec)
    fresh = random_sequences(9, seed=1, share_unknown=0.05, longest=90)
    expected = kernel_matrix(fresh, sequences, spec=spec) @ coefficients - 0.25
    np.testing.assert_allclose(table.score(fresh), expected, rtol=0, atol=2e-6)
    assert np.ptp(expected) > 0.1


def test_the_table_is_the_same_for_both_strands():
    table, _, _ = make_table(GkmSpec(l=6, k=4, d=2))
    words = np.arange(4**6)
    letters = np.stack([words >> 2 * place & 3 for place in range(5, -1, -1)], axis=1)
    other = (3 - letters[:, ::-1]) @ 4 ** np.arange(5, -1, -1)
    np.testing.assert_allclose(table.weights, table.weights[other], rtol=0, atol=1e-6)


def test_a_sequence_of_n_has_no_score():
    table, _, _ = make_table(GkmSpec(l=6, k=4, d=2))
    scores = table.score([encode("ACGTACGTA"), encode("ACGTANACGTA"), encode("NNNNNNNN"), encode("ACGTACGTANN")])
    assert np.isnan(scores).tolist() == [False, True, True, False]
    assert scores[0] == pytest.approx(scores[3], abs=1e-12)
    assert table.score([]).shape == (0,)


@pytest.mark.parametrize("kernel", KERNELS)
def test_delta_svm_sums_the_scores_of_single_lmers(kernel):
    spec = GkmSpec(l=5, k=3, d=2, kernel=kernel)
    table, _, _ = make_table(spec)
    delta_svm = table.delta_svm()
    words = np.arange(4**5)
    singles = (words[:, None] >> 2 * np.arange(4, -1, -1) & 3).astype(np.uint8)  # among them those that pair with
    scores = table.score(list(singles)) + table.rho  # their other strand in part, as GAATTC does
    np.testing.assert_allclose(delta_svm.scores, scores, rtol=0, atol=1e-5)

    random = np.random.default_rng(2)
    reference = random.integers(0, 4, (50, 9)).astype(np.uint8)
    alternate = reference.copy()
    alternate[:, 4] = (alternate[:, 4] + random.integers(1, 4, 50)) % 4
    expected = [
        sum(scores[word(alternate[row, at : at + 5])] - scores[word(reference[row, at : at + 5])] for at in range(5))
        for row in range(50)
    ]
    np.testing.assert_allclose(delta_svm.delta(reference, alternate), expected, rtol=0, atol=1e-4)


def word(codes):
    return int("".join(map(str, codes)), 4)


def test_flanks_beyond_the_overlap_cancel_and_so_do_filled_up_ends():
    delta_svm = make_table(GkmSpec(l=5, k=3, d=2))[0].delta_svm()
    text = "ACGTTGCATTAGACCA"
    lost = text[:7] + text[10:]
    exact = delta_svm.delta(encode(text[3:14])[None], encode(lost[3:11])[None])
    filled = delta_svm.delta(encode(text)[None], encode(lost + "NNN")[None])
    np.testing.assert_allclose(filled, exact, rtol=0, atol=1e-5)
    assert abs(exact[0]) > 1e-3
    flipped = [reverse_complement(encode(each))[None] for each in (text, lost)]
    np.testing.assert_allclose(delta_svm.delta(*flipped), exact, rtol=0, atol=1e-4)


def test_many_sequences_are_scored_in_pieces():
    table, _, _ = make_table(GkmSpec(l=4, k=3, d=1))
    sequences = random_sequences(600, seed=8)
    scores = table.score(sequences)
    for number in (0, 255, 256, 599):
        assert scores[number] == pytest.approx(table.score([sequences[number]])[0], abs=1e-12)
    with pytest.raises(ValueError, match="sequence 600: 3 bases"):
        table.score([*sequences, encode("ACG")])


def test_many_variants_are_scored_in_pieces():
    delta_svm = make_table(GkmSpec(l=4, k=3, d=1))[0].delta_svm()
    codes = np.random.default_rng(4).integers(0, 5, (9001, 7)).astype(np.uint8)
    sums = delta_svm.sums(codes)
    for row in (0, 4095, 4096, 9000):
        np.testing.assert_array_equal(sums[row], delta_svm.sums(codes[row : row + 1])[0])
    without = np.array([all(4 in row[at : at + 4] for at in range(4)) for row in codes])
    np.testing.assert_array_equal(np.isnan(sums), without)
    assert without.any()


def test_a_table_comes_back_from_its_arrays():
    table, _, _ = make_table(GkmSpec(l=6, k=4, d=2), rho=-1.5)
    state = table.state()
    assert {name: array.dtype.kind for name, array in state.items()} == {"gkm.weights": "f", "gkm.rho": "f"}
    again = GkmTable.from_state(table.spec, state)
    np.testing.assert_array_equal(again.weights, table.weights)
    assert again.rho == -1.5
    with pytest.raises(ValueError, match=r"a gapped k-mer model lacks gkm\.weights; it has gkm\.rho"):
        GkmTable.from_state(table.spec, {"gkm.rho": state["gkm.rho"]})
    with pytest.raises(ValueError, match=r"lacks gkm\.weights, gkm\.rho; it has nothing"):
        GkmTable.from_state(table.spec, {})
    with pytest.raises(ValueError, match=r"gkm.weights has shape \(4096,\); wanted 4\^5 weights, and one rho"):
        GkmTable.from_state(GkmSpec(l=5, k=4, d=2), state)


def test_what_cannot_be_scored_is_refused():
    table, _, _ = make_table(GkmSpec(l=6, k=4, d=2))
    with pytest.raises(ValueError, match="sequence 1: 5 bases, fewer than an l-mer's 6"):
        table.score([encode("ACGTACGT"), encode("ACGTA")])
    delta_svm = table.delta_svm()
    for codes in (np.zeros((2, 5), np.uint8), np.zeros((2, 9), np.int64), np.full((2, 9), 7, np.uint8)):
        with pytest.raises(ValueError, match=r"of shape \(2, \d\); wanted codes 0 to 4, uint8 \[B, L\], of at least 6"):
            delta_svm.sums(codes)
    with pytest.raises(ValueError, match="2 reference and 3 alternate windows; wanted pairs"):
        delta_svm.delta(np.zeros((2, 9), np.uint8), np.zeros((3, 9), np.uint8))
    with pytest.raises(ValueError, match="sequence 0 holds no 6-mer without N"):
        weight_table([encode("NNNNNNNN")], np.ones(1), rho=0.0, spec=table.spec)


def test_the_scores_of_lmers_fit_a_width():
    assert DeltaSvm(3, np.arange(64, dtype=np.float32)).sums(encode("AACG")[None]).tolist() == [1 + 6]
