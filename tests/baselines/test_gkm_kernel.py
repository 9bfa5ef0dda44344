from itertools import product

import numpy as np
import pytest
import torch

from cisray.baselines.gkm_filters import GkmSpec, mismatch_coefficients
from cisray.baselines.gkm_kernel import kernel_matrix, neighbour_patterns
from cisray.baselines.gkm_lmers import lmer_weights
from cisray.genome.sequence import decode, encode, reverse_complement

KERNELS = ("gkm_count", "gkm_full", "gkm", "wgkm")


def random_sequences(num, seed=0, *, shortest=12, longest=40, share_unknown=0.0):
    random = np.random.default_rng(seed)
    lengths = random.integers(shortest, longest, num)
    unknown = [random.random(length) < share_unknown for length in lengths]
    return [np.where(where, 4, random.integers(0, 4, len(where))).astype(np.uint8) for where in unknown]


def slow_features(codes, spec):
    """Count l-mers of both strands by their strings, each with its weight: [4^l]."""
    words = {"".join(word): number for number, word in enumerate(product("ACGT", repeat=spec.l))}
    counts = np.zeros(len(words))
    for strand in (codes, reverse_complement(codes)) if spec.reverse_complement else (codes,):
        text = decode(strand)
        for start, weight in enumerate(lmer_weights(len(codes), spec)):
            word = text[start : start + spec.l]
            if "N" not in word:
                counts[words[word]] += weight
    return counts


def slow_kernel(rows, columns, spec):
    """Multiply counts of l-mers with the kernel of all pairs of l-mers, and normalise."""
    letters = np.array(list(product(range(4), repeat=spec.l)))
    apart = (letters[:, None] != letters).sum(axis=2)
    middle = mismatch_coefficients(spec)[apart]
    left, right = (np.stack([slow_features(codes, spec) for codes in each]) for each in (rows, columns))
    lengths = [np.sqrt(np.einsum("bu,uv,bv->b", each, middle, each, optimize=True)) for each in (left, right)]
    return left @ middle @ right.T / lengths[0][:, None] / lengths[1]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("both_strands", [True, False])
def test_the_kernel_is_the_product_of_counts_of_strings(kernel, both_strands):
    spec = GkmSpec(l=5, k=3, d=2, kernel=kernel, reverse_complement=both_strands, half_life_bp=6)
    rows, columns = random_sequences(6, share_unknown=0.05, longest=80), random_sequences(4, seed=1)
    np.testing.assert_allclose(
        kernel_matrix(rows, columns, spec=spec), slow_kernel(rows, columns, spec), rtol=2e-6, atol=1e-7
    )
    np.testing.assert_allclose(kernel_matrix(rows, spec=spec), slow_kernel(rows, rows, spec), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_a_normalised_kernel_keeps(kernel):
    spec = GkmSpec(l=8, k=5, d=3, kernel=kernel)
    sequences = random_sequences(8)
    matrix = kernel_matrix(sequences, spec=spec)
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_allclose(np.diag(matrix), 1, rtol=1e-12)
    assert np.abs(matrix - np.eye(8)).max() < 1
    flipped = [reverse_complement(codes) for codes in sequences]
    np.testing.assert_allclose(kernel_matrix(sequences, flipped, spec=spec), matrix, rtol=2e-6, atol=1e-6)
    one_strand = GkmSpec(l=8, k=5, d=3, kernel=kernel, reverse_complement=False)
    assert np.diag(kernel_matrix(sequences, flipped, spec=one_strand)).max() < 0.9


def test_n_at_the_end_changes_nothing():
    spec = GkmSpec(l=6, k=4, d=2)
    sequences = random_sequences(4)
    longer = [np.append(codes, np.full(9, 4, np.uint8)) for codes in sequences]
    np.testing.assert_array_equal(kernel_matrix(longer, spec=spec), kernel_matrix(sequences, spec=spec))


@pytest.mark.parametrize("kernel", ["gkm", "wgkm"])
def test_a_long_sequence_in_parts_gives_the_same(kernel, monkeypatch):
    spec = GkmSpec(l=6, k=4, d=2, kernel=kernel)
    sequences = random_sequences(3, longest=90)
    whole = kernel_matrix(sequences, spec=spec)
    monkeypatch.setattr("cisray.baselines.gkm_kernel._NEIGHBOURS_AT_ONCE", 1000)  # six l-mers
    np.testing.assert_allclose(kernel_matrix(sequences, spec=spec), whole, rtol=1e-5, atol=1e-7)


def test_patterns_lead_to_every_neighbour_once():
    spec = GkmSpec(l=6, k=3, d=3)
    coefficients = mismatch_coefficients(spec)
    patterns, kernels = neighbour_patterns(spec, coefficients)
    assert patterns.tolist() == sorted(set(patterns.tolist()))
    assert len(patterns) == 1 + 6 * 3 + 15 * 9 + 20 * 27
    letters = torch.stack([patterns >> 2 * place & 3 for place in range(6)])
    expected = torch.from_numpy(coefficients)[(letters > 0).sum(dim=0)]
    torch.testing.assert_close(kernels.double(), expected)


def test_a_sequence_without_an_lmer_is_refused():
    sequences = [encode("ACGTACGT"), encode("ACGTNACGT")]
    for given in ((sequences,), (sequences[:1], sequences)):
        with pytest.raises(ValueError, match="sequence 1 holds no 5-mer without N, as 1 of 2; leave them out"):
            kernel_matrix(*given, spec=GkmSpec(l=5, k=3, d=1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same():
    sequences = random_sequences(6)
    for kernel in KERNELS:
        spec = GkmSpec(l=8, k=5, d=3, kernel=kernel)
        on_gpu = kernel_matrix(sequences, spec=spec, device="cuda")
        np.testing.assert_allclose(on_gpu, kernel_matrix(sequences, spec=spec), rtol=1e-5, atol=1e-6)
