from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from pydantic import ValidationError

from cisray.baselines.gkm_filters import GkmSpec, estimate_filter, krawtchouk, mismatch_coefficients, spectrum


def all_words(length):
    return ["".join(word) for word in product("ACGT", repeat=length)]


def mismatches(one, other):
    return sum(a != b for a, b in zip(one, other, strict=True))


def gapped_counts(length, k):
    """Count every gapped k-mer in every l-mer, by writing each out: [features, 4^l]."""
    names = {}
    columns = []
    for word in all_words(length):
        read = ["".join(word[at] if at in places else "-" for at in range(length)) for places in places_of(length, k)]
        columns.append([names.setdefault(name, len(names)) for name in read])
    counts = np.zeros((len(names), len(columns)))
    for column, features in enumerate(columns):
        counts[features, column] += 1
    return counts


def places_of(length, k):
    return list(combinations(range(length), k))


def by_mismatches(matrix, length):
    """Return a matrix of l-mers as a function of their mismatches, which it has to be."""
    first = all_words(length)[0]
    distances = np.array([mismatches(first, word) for word in all_words(length)])
    values = [matrix[0][distances == m] for m in range(length + 1)]
    assert all(np.ptp(group) < 1e-9 for group in values)
    return np.array([group[0] for group in values])


@pytest.mark.parametrize(("length", "k"), [(3, 1), (3, 3), (4, 2), (4, 3)])
def test_coefficients_are_those_of_gapped_kmers_written_out(length, k):
    counts = gapped_counts(length, k)
    spec = {"l": length, "k": k, "d": length}
    found = mismatch_coefficients(GkmSpec(**spec, kernel="gkm_count"))
    np.testing.assert_allclose(found, by_mismatches(counts.T @ counts, length))

    estimate = np.linalg.pinv(counts) @ counts  # the l-mer counts of least norm that explain an l-mer's features
    np.testing.assert_allclose(estimate_filter(length, k), by_mismatches(estimate, length), atol=1e-12)
    full = mismatch_coefficients(GkmSpec(**spec, kernel="gkm_full"))
    np.testing.assert_allclose(full, by_mismatches(estimate.T @ estimate, length), atol=1e-12)

    distances = np.array([[mismatches(one, other) for other in all_words(length)] for one in all_words(length)])
    filter_values = by_mismatches(estimate, length).round(12)
    cut = next((m for m, value in enumerate(filter_values) if value < 0), length + 1)
    truncated = np.where(distances < cut, estimate, 0)
    kernel = mismatch_coefficients(GkmSpec(**spec, kernel="gkm"))
    np.testing.assert_allclose(kernel, by_mismatches(truncated.T @ truncated, length), atol=1e-12)
    np.testing.assert_array_equal(kernel, mismatch_coefficients(GkmSpec(**spec, kernel="wgkm")))


def test_mismatches_beyond_d_count_nothing():
    whole = mismatch_coefficients(GkmSpec(l=10, k=6, d=4))
    for d in range(4):
        cut = mismatch_coefficients(GkmSpec(l=10, k=6, d=d))
        np.testing.assert_array_equal(cut[: d + 1], whole[: d + 1])
        assert (cut[d + 1 :] == 0).all()
    # the filter of l=10, k=6 turns negative at 3 mismatches; two l-mers 4 apart still share neighbours within 2
    assert (estimate_filter(10, 6) < 0).argmax() == 3
    np.testing.assert_allclose(
        whole[:5] / whole[0], [1, 0.32862833, 0.0881524, 0.01638518, 0.00148956], rtol=0, atol=1e-8
    )


def test_without_gaps_the_estimate_is_the_count():
    np.testing.assert_allclose(estimate_filter(6, 6), [1, 0, 0, 0, 0, 0, 0], atol=1e-12)
    assert mismatch_coefficients(GkmSpec(l=6, k=6, d=0, kernel="gkm_count")).tolist() == [1, 0, 0, 0, 0, 0, 0]


def test_the_spectrum_is_that_of_the_kernel_of_all_lmers():
    coefficients = np.array([3.0, -1.0, 0.5, 0.25])
    words = all_words(3)
    kernel = [[coefficients[mismatches(one, other)] for other in words] for one in words]
    times = [comb(3, j) * 3**j for j in range(4)]
    np.testing.assert_allclose(
        np.sort(np.repeat(spectrum(coefficients), times)), np.linalg.eigvalsh(kernel), rtol=1e-12, atol=1e-12
    )


def test_krawtchouk_polynomials_are_orthogonal():
    values = krawtchouk(5)
    weights = np.array([comb(5, m) * 3**m for m in range(6)])
    np.testing.assert_array_equal(values * weights @ values.T, np.diag(4**5 * weights))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"l": 2}, "l=2, k=7; wanted l from 3 to 12 and k from 1 to l"),
        ({"l": 13}, "l=13, k=7; wanted l from 3 to 12"),
        ({"k": 12}, "l=11, k=12; wanted l from 3 to 12 and k from 1 to l"),
        ({"k": 0}, "l=11, k=0; wanted"),
        ({"d": 5}, "d=5; wanted from 0 to 4 mismatches"),
        ({"l": 3, "k": 2, "d": 4}, "d=4; wanted from 0 to 3 mismatches"),
        ({"half_life_bp": 0}, "half_life_bp=0.0; wanted a weight of zero or more and a positive half-life"),
        ({"centre_weight": -1}, "centre_weight=-1.0, "),
        ({"kernel": "rbf"}, "Input should be 'gkm_count', 'gkm_full', 'gkm' or 'wgkm'"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        GkmSpec(**fields)
