import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cisray.datasets.loci.draws import locus_draws, mix


def test_mixing_is_splitmix64():
    # the first outputs of the published generator, which adds the same constant to its state, from states 0 and 1
    assert mix(np.array([0, 1], np.uint64)).tolist() == [0xE220A8397B1DCDAF, 0x910A2DEC89025CC1]


def test_draws_are_spread_evenly_and_differ_between_seeds_and_contigs():
    positions = np.arange(0, 40_000 * 32, 32)
    one = locus_draws("chr1", positions, seed=0)
    assert one.min() >= 0
    assert one.max() < 1
    counts = np.bincount((one * 20).astype(int), minlength=20)
    assert ((counts - 2000) ** 2 / 2000).sum() < 43.8  # chi-square with 19 degrees of freedom, 1 in 1000
    for other in (locus_draws("chr1", positions, seed=1), locus_draws("chr2", positions, seed=0), one[1:]):
        assert abs(np.corrcoef(one[: len(other)], other)[0, 1]) < 0.02


@given(st.text(max_size=8), st.lists(st.integers(-(2**40), 2**40), max_size=9), st.integers(0, 2**40))
def test_a_locus_draws_the_same_whatever_stands_beside_it(contig, positions, seed):
    together = locus_draws(contig, np.array(positions, np.int64), seed=seed)
    apart = [locus_draws(contig, np.array([position], np.int64), seed=seed)[0] for position in positions]
    assert together.tolist() == apart
