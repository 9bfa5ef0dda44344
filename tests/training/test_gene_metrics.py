import os
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cisray.config import check_settings
from cisray.errors import InputError
from cisray.genome.genes import Gene, Genes, read_genes
from cisray.genome.tracks import open_signal
from cisray.geometry import Geometry
from cisray.training.gene_metrics import (
    GENE_DEFINITIONS,
    GeneSpec,
    GeneSums,
    find_gene_bins,
    genes_under,
    own_stretches,
    quantile_normalise,
    score_genes,
)

GEOMETRY = Geometry(window_bp=24, bin_bp=4, crop_bins=1, margin_bp=0)  # 4 bins, 16 bp, from 4 bp on


def make_gene(name, contig, *exons):
    edges = np.array(exons, np.int64)
    return Gene(name, name, contig, int(edges[0, 0]), int(edges[-1, 1]), "+", "", edges)


def sum_by_base(genes, contigs, starts, predictions, targets, *, part="exons"):
    """Sum over genes base by base in plain Python: the first window along the contig that has a base counts for it."""
    num_tracks = predictions.shape[2]
    sums, covered = np.zeros((2, len(genes), num_tracks)), np.zeros((len(genes), num_tracks))
    taken = set()
    for row in sorted(range(len(starts)), key=lambda row: (contigs[row], starts[row])):
        for place in range(GEOMETRY.num_bins):
            first = starts[row] + GEOMETRY.crop_bp + place * GEOMETRY.bin_bp
            own = {(contigs[row], base) for base in range(first, first + GEOMETRY.bin_bp)} - taken
            for number, gene in enumerate(genes.genes):
                bases = {(gene.contig, base) for a, b in gene.intervals(part) for base in range(a, b)}
                if shared := len(own & bases):
                    for track in range(num_tracks):
                        if not np.isnan(targets[row, place, track]):
                            share = len(own) / GEOMETRY.bin_bp
                            sums[0, number, track] += share * predictions[row, place, track]
                            sums[1, number, track] += share * targets[row, place, track]
                            covered[number, track] += shared
            taken |= own
    return sums, covered


def add_up(genes, contigs, starts, predictions, targets, *, part="exons", batch=2):
    """Sum over genes as an evaluation does: in batches, each in sums of its own that are added up."""
    own = own_stretches(contigs, starts, GEOMETRY)
    total = GeneSums(len(genes), predictions.shape[2])
    for first in range(0, len(starts), batch):
        rows = slice(first, first + batch)
        bins = find_gene_bins(genes, contigs[rows], starts[rows], own[rows], geometry=GEOMETRY, part=part)
        one = GeneSums(len(genes), predictions.shape[2])
        one.update(torch.from_numpy(predictions[rows]), torch.from_numpy(targets[rows]), bins)
        total.add(*one.touched())
    return total


blocks = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)), min_size=1, max_size=3)
window_lists = st.lists(st.tuples(st.sampled_from("ab"), st.integers(-6, 60)), min_size=1, max_size=7)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("ab"), blocks), min_size=1, max_size=4), window_lists, st.booleans())
def test_sums_are_those_of_every_base_counted_once(specs, windows, span):
    genes = Genes(
        make_gene(f"g{number}", contig, *np.cumsum([[gap + 1, width] for gap, width in parts]).reshape(-1, 2))
        for number, (contig, parts) in enumerate(specs)
    )
    contigs, starts = [contig for contig, _ in windows], np.array([start for _, start in windows])
    random = np.random.default_rng(len(windows))
    predictions, targets = random.normal(3, 2, (2, len(windows), 4, 2)).astype(np.float32)
    targets[random.random(targets.shape) < 0.2] = np.nan
    part = "span" if span else "exons"
    sums, covered = sum_by_base(genes, contigs, starts, predictions, targets, part=part)
    found = add_up(genes, contigs, starts, predictions, targets, part=part)
    np.testing.assert_allclose(found.sums[:2].numpy(), sums, atol=1e-5)
    np.testing.assert_array_equal(found.sums[2].numpy(), covered)
    under = genes_under(genes, contigs, own_stretches(contigs, starts, GEOMETRY), part=part)
    reach = {(c, base) for c, start in windows for base in range(start + 4, start + 20)}
    touched = [
        gene.id
        for gene in genes.genes
        if any((gene.contig, base) in reach for a, b in gene.intervals(part) for base in range(a, b))
    ]
    assert [gene.id for gene in under.genes] == touched


def test_a_gene_sums_up_all_bins_that_share_a_base_with_it():
    genes = Genes([make_gene("a", "x", (7, 9), (14, 15)), make_gene("b", "x", (18, 30))])
    predictions = np.array([1, 2, 4, 8], np.float32).reshape(1, 4, 1)  # bins from 4, 8, 12 and 16
    found = add_up(genes, ["x"], np.array([0]), predictions, 10 * predictions)
    assert found.sums[:, :, 0].tolist() == [[7, 8], [70, 80], [3, 2]]
    assert found.covered(genes.part_bp("exons"))[:, 0].tolist() == [1, 2 / 12]


def test_large_updates_are_done_piece_by_piece(monkeypatch):
    random = np.random.default_rng(0)
    genes = Genes([make_gene(f"g{start}", "x", (start, start + 30)) for start in range(0, 200, 7)])
    starts = np.arange(0, 200, 16)
    predictions, targets = random.normal(3, 2, (2, len(starts), 4, 3)).astype(np.float32)
    contigs = ["x"] * len(starts)
    whole = add_up(genes, contigs, starts, predictions, targets, batch=99).sums
    monkeypatch.setattr("cisray.training.gene_metrics._MOST_VALUES", 11)
    torch.testing.assert_close(add_up(genes, contigs, starts, predictions, targets, batch=99).sums, whole)


def test_genes_that_windows_do_not_cover_are_left_out_by_share():
    sums = GeneSums(3, 2)
    sums.sums = torch.tensor(
        [[[3.0, 1], [7, 1], [-1, 1]], [[1, 1], [3, 1], [7, 1]], [[10, 10], [9, 10], [10, 5]]]
    ).double()
    part_bp = np.array([10, 10, 10])
    x, y = sums.log_sums(part_bp, least_covered=1.0)
    np.testing.assert_array_equal(x, [[2, 1], [np.nan, 1], [0, np.nan]])  # below 0 counts as 0
    np.testing.assert_array_equal(y, [[1, 1], [np.nan, 1], [3, np.nan]])
    x, _ = sums.log_sums(part_bp, least_covered=0.5)
    np.testing.assert_array_equal(x, [[2, 1], [3, 1], [0, 1]])
    sums.sums[0, 0, 0] = torch.inf
    with pytest.raises(FloatingPointError, match="1 predicted sums of genes are not finite numbers"):
        sums.log_sums(part_bp, least_covered=1.0)


@pytest.mark.parametrize("share", [0.0, 1.1, -1.0])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(InputError, match=rf"genes: least_covered={share}; wanted a share of a gene's bases, above 0"):
        check_settings({"file": "genes.gtf", "least_covered": share}, GeneSpec, source="job")


def normalise_plainly(values):
    """Quantile-normalise [G, T] with scipy's ranks: ties get the mean of what their ranks would get."""
    means = np.sort(values, axis=0).mean(axis=1)
    out = np.empty_like(values)
    for track, column in enumerate(values.T):
        low, high = (scipy.stats.rankdata(column, method).astype(int) for method in ("min", "max"))
        out[:, track] = [means[first - 1 : last].mean() for first, last in zip(low, high, strict=True)]
    return out


def test_quantile_normalisation_gives_each_rank_the_mean_over_tracks():
    values = torch.tensor([[5.0, 4, 3], [2, 1, 4], [3, 4, 6], [4, 2, 8]]).double()
    # the textbook's example: means of the sorted columns are 2, 3, 14/3 and 17/3, and the tie of 4 gets their mean
    expected = [[17 / 3, 31 / 6, 2], [2, 2, 3], [3, 31 / 6, 14 / 3], [14 / 3, 3, 17 / 3]]
    np.testing.assert_allclose(quantile_normalise(values), expected, rtol=1e-12)


@given(st.integers(2, 30), st.integers(1, 6), st.integers(0, 99), st.booleans())
def test_quantile_normalisation_agrees_with_plain_numpy(num_genes, num_tracks, seed, ties):
    values = np.random.default_rng(seed).normal(5, 2, (num_genes, num_tracks)).round(0 if ties else 9)
    np.testing.assert_allclose(quantile_normalise(torch.from_numpy(values)), normalise_plainly(values), rtol=1e-9)


def make_logs(seed, num_genes=60, num_tracks=5):
    """Draw measured values of genes, their level and what each track adds, and predictions that follow both."""
    random = np.random.default_rng(seed)
    measured = random.gamma(4, 2, (num_genes, 1)) + random.normal(0, 1, (num_genes, num_tracks)) + np.arange(num_tracks)
    return (0.7 * measured + random.normal(0, 1, measured.shape), measured)


@pytest.mark.parametrize("seed", range(3))
def test_scores_agree_with_plain_numpy(seed):
    x, y = make_logs(seed)
    absent = np.zeros(y.shape, bool)
    absent[3:9, 1] = absent[7:12, 4] = True
    x[absent] = y[absent] = np.nan
    scores = score_genes(torch.from_numpy(x), torch.from_numpy(y))
    for track in range(5):
        a, b = x[~absent[:, track], track], y[~absent[:, track], track]
        assert scores.num_genes[track] == len(a)
        assert scores.pearson[track] == pytest.approx(scipy.stats.pearsonr(a, b).statistic, abs=1e-9)
        assert scores.spearman[track] == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-9)
    whole = ~absent.any(axis=1)
    assert scores.num_compared == whole.sum() == 51
    a, b = (normalise_plainly(values[whole]) for values in (x, y))
    a, b = (values - values.mean(axis=1, keepdims=True) for values in (a, b))
    expected = [np.corrcoef(a[:, track], b[:, track])[0, 1] for track in range(5)]
    np.testing.assert_allclose(scores.specificity, expected, atol=1e-9)
    varies = [index for index in range(len(a)) if min(np.ptp(a[index]), np.ptp(b[index])) > 1e-9]
    across = np.mean([np.corrcoef(a[index], b[index])[0, 1] for index in varies])
    assert scores.num_across == len(varies) > 40
    assert scores.across_tracks == pytest.approx(across, abs=1e-9)


def test_a_model_that_knows_only_the_level_of_genes_has_no_specificity():
    _, measured = make_logs(0, num_genes=400)
    level = np.broadcast_to(measured.mean(axis=1, keepdims=True), measured.shape).copy()
    scores = score_genes(torch.from_numpy(level), torch.from_numpy(measured))
    assert (scores.pearson > 0.9).all()
    assert scores.specificity.isnan().all()  # nothing is left after the mean over tracks is taken off
    assert np.isnan(scores.across_tracks)
    assert scores.num_across == 0
    noise = level + np.random.default_rng(1).normal(0, 0.1, level.shape)
    scores = score_genes(torch.from_numpy(noise), torch.from_numpy(measured))
    assert (scores.pearson > 0.9).all()
    assert (scores.specificity.abs() < 0.2).all()
    assert abs(scores.across_tracks) < 0.1


def test_a_model_that_knows_all_is_told_so():
    _, measured = (torch.from_numpy(values) for values in make_logs(0))
    scores = score_genes(2 * measured + 1, measured)
    for values in (scores.pearson, scores.spearman, scores.specificity):
        np.testing.assert_allclose(values, 1, atol=1e-9)
    assert scores.across_tracks == pytest.approx(1)


def test_what_cannot_be_told_is_nan():
    x, y = (torch.from_numpy(values) for values in make_logs(0))
    x[:, 2], y[:, 2] = torch.nan, torch.nan  # a track without data: the others are compared without it
    scores = score_genes(x, y)
    assert scores.num_genes.tolist() == [60, 60, 0, 60, 60]
    for values in (scores.pearson, scores.spearman, scores.specificity):
        assert values.isnan().tolist() == [False, False, True, False, False]
    assert scores.num_compared == 60
    two = score_genes(x[:, :2], y[:, :2])
    assert not two.specificity.isnan().any()
    assert np.isnan(two.across_tracks)
    for rows in (0, 1):
        few = score_genes(x[:rows], y[:rows])
        assert few.pearson.isnan().all()
        assert few.spearman.isnan().all()
        assert few.specificity.isnan().all()
    nothing = score_genes(torch.full((4, 3), torch.nan), torch.full((4, 3), torch.nan))
    assert (nothing.num_compared, nothing.num_across) == (0, 0)
    assert nothing.specificity.isnan().all()


def test_every_metric_says_what_it_is():
    assert list(GENE_DEFINITIONS) == ["gene_pearson", "gene_spearman", "gene_specificity", "track_specificity"]
    assert all(len(text) > 60 for text in GENE_DEFINITIONS.values())


@pytest.mark.skipif("CISRAY_DATA" not in os.environ, reason="CISRAY_DATA names no folder of real data")
def test_genes_of_yeast_are_transcribed_from_their_own_strand():
    """Windows over chromosome XVI of RNA from both strands: what a gene sums up to is on the strand it lies on."""
    folder = Path(os.environ["CISRAY_DATA"]) / "yeast"
    lengths = dict(line.split() for line in (folder / "sacCer3.chrom.sizes").read_text().splitlines())
    genes = read_genes(folder / "sacCer3.ensGene.gtf.gz", {name: int(bp) for name, bp in lengths.items()})
    geometry = Geometry(window_bp=2048, bin_bp=16)
    starts = np.arange(0, int(lengths["chrXVI"]) - 2048, 1600)  # overlapping
    signals = [open_signal(folder / f"RNA.{strand}.bw") for strand in ("fwd", "rev")]
    bins = np.stack(
        [
            signal.bins("XVI", 0, int(starts[-1] + 2048) // 16, 16, statistic="mean", uncovered="zero")
            for signal in signals
        ],
        axis=1,
    )
    windows = np.stack([bins[start // 16 : start // 16 + 128] for start in starts])
    contigs = ["chrXVI"] * len(starts)
    own = own_stretches(contigs, starts, geometry)
    under = genes_under(genes, contigs, own, part="exons")
    sums = GeneSums(len(under), 2)
    found = find_gene_bins(under, contigs, starts, own, geometry=geometry, part="exons")
    sums.update(torch.from_numpy(windows), torch.from_numpy(windows), found)
    part_bp = under.part_bp("exons")
    x, _ = sums.log_sums(part_bp, least_covered=1.0)
    assert 540 <= len(under) <= 545  # of the 545 of that chromosome
    whole = ~x.isnan().any(dim=1).numpy()
    assert (~whole).sum() <= 2  # at the ends of the chromosome
    is_plus = np.array([gene.strand == "+" for gene in under.genes])[whole]
    forward, reverse = x.numpy()[whole].T
    expressed = np.maximum(forward, reverse) > np.median(forward)
    assert (forward > reverse)[is_plus & expressed].mean() > 0.8  # the rest overlap a gene of the other strand
    assert (reverse > forward)[~is_plus & expressed].mean() > 0.8
    one = under.genes[100]  # and by hand: all bins that a gene touches, each once
    touched = sorted({base // 16 for first, last in one.exons for base in range(first, last)})
    np.testing.assert_allclose(sums.sums[0, 100], bins[touched].sum(axis=0), rtol=1e-6)
