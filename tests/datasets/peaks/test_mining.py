import numpy as np
import pytest

from cisray.config import check_settings
from cisray.datasets.peaks.mining import MiningSpec, mine, read_mined, write_mined
from cisray.errors import InputError

WINDOW_BP = 20
LENGTHS = {"chr1": 4000, "chr2": 2000}
DECOYS = {"chr1": [300, 310, 1000, 3500], "chr2": [40, 1960]}


@pytest.fixture
def genome():
    """Bases without G, and a decoy of 1 to 6 of them at known places: the more, the more it looks like a peak."""
    codes = {contig: np.random.default_rng(1).choice([0, 1, 3], length) for contig, length in LENGTHS.items()}
    strength = 1
    for contig, starts in DECOYS.items():
        for start in starts:
            codes[contig][start + 5 : start + 5 + strength] = 2
            strength += 1
    return {contig: one.astype(np.uint8) for contig, one in codes.items()}


@pytest.fixture
def read_codes(genome):
    return lambda contig, starts: np.stack([genome[contig][start : start + WINDOW_BP] for start in starts])


def predict(codes):
    """A model of two bins and two tracks that takes G for a peak in its second track; the first is always sure."""
    is_peak = (codes == 2).sum(axis=1) / 8
    return np.stack([np.stack([np.ones(len(codes)), is_peak], 1), np.zeros((len(codes), 2))], 1).astype(np.float32)


def candidates(step=10):
    for contig, length in LENGTHS.items():
        yield contig, np.arange(0, length - WINDOW_BP + 1, step)


SPEC = MiningSpec(num_loci=4, min_score=0.05, tracks=(1,), spacing_bp=30, batch_size=7)


def loci(mined):
    return list(zip(mined.contig, mined.start.tolist(), mined.round.tolist(), strict=True))


def test_the_decoys_are_found_worst_first_and_apart(read_codes):
    mined = mine(predict, candidates(), read_codes, SPEC)
    # of several windows that hold a decoy, the first; the one at 300 holds two decoys
    assert loci(mined) == [("chr2", 1960, 1), ("chr2", 30, 1), ("chr1", 3490, 1), ("chr1", 300, 1)]
    assert mined.score.tolist() == [6 / 8, 5 / 8, 4 / 8, 3 / 8]
    assert mined.num_scored == 399 + 199
    assert mined.num_false > 4


def test_a_round_goes_on_where_the_last_one_ended(read_codes):
    first = mine(predict, candidates(), read_codes, SPEC)
    second = mine(predict, candidates(), read_codes, SPEC, earlier=first)
    assert loci(second)[:4] == loci(first)
    assert loci(second)[4:] == [("chr1", 990, 2)]
    assert loci(mine(predict, candidates(), read_codes, SPEC, earlier=second)) == loci(second)


def test_neither_batches_nor_the_order_of_equal_scores_matter(read_codes):
    whole = MiningSpec(num_loci=4, min_score=0.05, tracks=(1,), spacing_bp=30, batch_size=10_000)
    assert loci(mine(predict, candidates(), read_codes, whole)) == loci(mine(predict, candidates(), read_codes, SPEC))
    alike = MiningSpec(num_loci=3, tracks=(0,), spacing_bp=25)
    mined = mine(predict, candidates(), read_codes, alike)
    assert loci(mined) == [("chr1", 0, 1), ("chr1", 30, 1), ("chr1", 60, 1)]


def test_every_track_counts_where_none_is_named(read_codes):
    mined = mine(predict, candidates(), read_codes, MiningSpec(num_loci=2, spacing_bp=10))
    assert mined.num_false == mined.num_scored


def test_no_batch_is_larger_than_asked(read_codes):
    sizes = []

    def watched(codes):
        sizes.append(len(codes))
        return predict(codes)

    mine(watched, candidates(), read_codes, SPEC)
    assert max(sizes) == 7
    assert sum(sizes) == 598


def test_loci_come_back_from_their_file(tmp_path, read_codes):
    first = mine(predict, candidates(), read_codes, SPEC)
    second = mine(predict, candidates(), read_codes, SPEC, earlier=first)
    write_mined(tmp_path / "mined.bed", second, window_bp=WINDOW_BP)
    lines = (tmp_path / "mined.bed").read_text().splitlines()
    assert lines[0] == "chr2\t1960\t1980\tround1\t0.750000"
    assert lines[4] == "chr1\t990\t1010\tround2\t0.375000"
    back = read_mined(tmp_path / "mined.bed")
    assert loci(back) == loci(second)
    np.testing.assert_allclose(back.score, second.score, atol=1e-6)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "mined.bed").write_text("chr1\t1\t2\tpeak7\t0.5\n")
    with pytest.raises(InputError, match=r"line 1 .*'peak7' and '0\.5'; wanted mined loci"):
        read_mined(tmp_path / "mined.bed")


@pytest.mark.parametrize(
    ("predictions", "spec", "told"),
    [
        (lambda codes: predict(codes)[:, 0], SPEC, r"predictions of shape \(7, 2\); wanted \[7, bins, tracks\]"),
        (lambda codes: predict(codes) * 3, SPEC, "wanted probabilities, so give a model of labels"),
        (lambda codes: predict(codes) * np.nan, SPEC, "wanted probabilities"),
        (predict, MiningSpec(num_loci=1, tracks=(2,)), r"tracks=\[2\]; the model has 2, counted from 0"),
    ],
)
def test_predictions_that_are_no_probabilities_are_refused(read_codes, predictions, spec, told):
    with pytest.raises(InputError, match=told):
        mine(predictions, candidates(), read_codes, spec)


def test_settings_and_candidates_that_leave_nothing_to_do_are_refused(read_codes):
    with pytest.raises(InputError, match=r"num_loci=0, .*wanted numbers of 1 or more"):
        check_settings({"num_loci": 0}, MiningSpec, source="job")
    with pytest.raises(InputError, match="no candidate to score"):
        mine(predict, [("chr1", np.zeros(0, np.int64))], read_codes, SPEC)
