import re

import numpy as np
import pytest

from cisray.datasets.card import Track
from cisray.datasets.gene_sums import GeneTable, write_gene_sums
from cisray.datasets.predictions import Predicted
from cisray.errors import InputError
from cisray.files import write_json
from cisray.genome.genes import Gene
from cisray.reports.run_page import (
    PANELS_PER_FIGURE,
    REGION_BP,
    choose_view,
    label_models,
    pair_up,
    write_run_page,
)
from cisray.training.evaluation import CEILING_DEFINITION
from cisray.training.gene_metrics import GENE_DEFINITIONS
from cisray.training.metrics import DEFINITIONS

pytestmark = pytest.mark.usefixtures("unrendered")
ALL_ALONG = "measured and predicted plain, gap, plus, minus along"
EVIL = "<b onclick='x'>&$_{"


def cells(values):
    return ["–" if value is None else f"{value:.3f}" for value in values]


def test_metrics_of_both_models_stand_in_neighbouring_columns(make_evaluation, card_of, read_page):
    folder, *_ = make_evaluation()
    page = read_page(write_run_page(folder))
    rows = page.table("track", "bins with data", *["basenji", "kmer_ridge"] * 3)
    for index, (row, name) in enumerate(zip(rows, card_of().track_names, strict=True)):
        down = index / 50
        expected = [0.912 - down, 0.512 - down, 0.834 - down, 0.434 - down, 0.651, -0.149]
        expected[4:] = [None, None] if index == 1 else expected[4:]
        assert row == [name, "448", *cells(expected)]
    groups = next(rows for rows in page.tables if "basenji" in rows[1])[0]
    assert groups == ["", "Pearson", "Pearson of log(1 + x)", "R²"]


def test_what_the_numbers_mean_stands_below_them(make_evaluation, read_page):
    folder, *_ = make_evaluation()
    page = read_page(write_run_page(folder))
    for definition in (DEFINITIONS[name] for name in ("pearson", "pearson_log1p", "r2")):
        assert definition in page.text
    assert "basenji 123,456 parameters" in page.text
    assert "kmer_ridge 768 parameters" in page.text


def test_headline_numbers_are_means_over_the_tracks_that_have_one(make_evaluation, read_page):
    folder, *_ = make_evaluation()
    page = read_page(write_run_page(folder))
    assert "0.882 Pearson, mean over tracks kmer_ridge: 0.482" in page.text
    assert "0.651 R², mean over tracks kmer_ridge: -0.149" in page.text
    assert "123,456 parameters kmer_ridge: 768" in page.text


def test_a_model_alone_has_columns_of_its_own_only(make_evaluation, read_page):
    folder, *_ = make_evaluation(beside=False)
    page = read_page(write_run_page(folder))
    assert len(page.table("track", "bins with data", *["basenji"] * 3)) == 4
    assert "kmer_ridge" not in page.text


def test_every_track_is_drawn(make_evaluation, read_page):
    folder, *_ = make_evaluation()
    page = read_page(write_run_page(folder))
    alts = [value for _, name, value in page.attributes if name == "alt"]
    assert "loss and validation Pearson of basenji by epoch" in alts
    assert "validation Pearson of kmer_ridge by penalty" in alts
    (where,) = [re.fullmatch(rf"{ALL_ALONG} sim3:([\d,]+)-([\d,]+)", alt) for alt in alts if " along " in alt]
    start, end = (int(text.replace(",", "")) for text in where.groups())
    assert end - start == REGION_BP
    assert f"sim3:{start:,}-{end:,} (0-based, half-open)" in page.text
    assert [alt for alt in alts if alt.startswith("density")] == [
        f"density of bins by measured and predicted {name}" for name in ("plain", "gap", "plus", "minus")
    ]
    assert "The weights of epoch 5 were kept." in page.text


def alone(history, best_epoch):
    def change(results):
        results["models"]["model"] |= {"history": history, "best_epoch": best_epoch}
        return results

    return change


@pytest.mark.parametrize(
    ("history", "best_epoch", "said"),
    [
        ([], None, "its bundle holds no history"),
        ([{"penalty": 0.1, "valid.pearson": 0.4}], None, "a linear model has no epochs"),
        ([{"epoch": 0, "train.loss": None, "valid.pearson": None}], -1, "nothing was measured while it learned"),
        ([{"epoch": 0, "train.loss": 1.0, "valid.loss": None, "valid.pearson": None}], -1, "1 epochs"),
        ([{"epoch": 0, "valid.pearson": 0.5}, {"epoch": 1, "valid.pearson": None}], 0, "epoch 1 were kept"),
    ],
)
def test_a_history_of_any_kind_is_told(make_evaluation, read_page, history, best_epoch, said):
    folder, *_ = make_evaluation(beside=False, change=alone(history, best_epoch))
    assert said in read_page(write_run_page(folder)).text


def test_a_track_without_data_has_no_empty_plot(make_evaluation, card_of, read_page):
    folder, _, measured = make_evaluation(card_of(("gap",)), beside=False)
    assert np.isnan(measured).any()
    page = read_page(write_run_page(folder))
    assert sum(value.startswith("density") for _, name, value in page.attributes if name == "alt") == 1


def test_names_from_outside_are_escaped(make_evaluation, card_of, read_page, rendered):
    folder, *_ = make_evaluation(card_of((EVIL, "b"), name=EVIL))
    page = read_page(write_run_page(folder))
    assert EVIL in page.text
    assert EVIL not in page.source


def test_the_page_is_the_same_each_time(make_evaluation, rendered):
    folder, *_ = make_evaluation()
    before = write_run_page(folder).read_bytes()
    assert write_run_page(folder).read_bytes() == before


def test_a_folder_that_is_no_evaluation_is_refused(tmp_path, make_evaluation):
    with pytest.raises(InputError, match="no such file, but a model's evaluation"):
        write_run_page(tmp_path)
    folder, *_ = make_evaluation()
    write_json(folder / "evaluation.json", {"split": "test"})
    with pytest.raises(InputError, match="not an evaluation of a model"):
        write_run_page(folder)


def test_metrics_of_other_tracks_than_the_cards_are_refused(make_evaluation):
    def rename(results):
        results["models"]["model"]["tracks"]["new"] = results["models"]["model"]["tracks"].pop("plain")
        return results

    folder, *_ = make_evaluation(change=rename)
    with pytest.raises(InputError, match=r"metrics of the tracks \['gap', 'plus', 'minus', 'new'\]"):
        write_run_page(folder)


def signal(num_bins, *, contig="c", first=0, num_tracks=2, bin_bp=64):
    starts = first + np.arange(num_bins) * bin_bp
    flat = np.random.default_rng(0).normal(5, 0.1, (num_bins, num_tracks)).astype(np.float32)
    return Predicted(contig, starts, flat.copy(), flat)


def test_the_region_that_varies_most_is_chosen():
    quiet, lively = signal(2000), signal(2000, contig="d", first=640)
    lively.measured[700:760] += 50
    view = choose_view([quiet, lively], bin_bp=64)
    width = REGION_BP // 64
    assert view.contig == "d"
    assert len(view.starts) == width
    first = (view.starts[0] - 640) // 64
    assert first <= 700 < 760 <= first + width
    assert np.array_equal(view.measured, lively.measured[first : first + width])
    assert np.array_equal(view.predicted, lively.predicted[first : first + width])


def test_a_region_without_data_is_not_chosen_however_it_varies():
    one = signal(2048)
    one.measured[100:120] += 50  # in the first region, most of which lacks data
    one.measured[121:512] = np.nan
    one.measured[1100:1200] += 10
    assert choose_view([one], bin_bp=64).starts[0] == 960 * 64


def test_one_loud_track_does_not_outvote_the_others():
    one = signal(2048, num_tracks=3)
    one.measured[:, 0] *= 1e6
    one.measured[100:300, 1:] += 20
    assert choose_view([one], bin_bp=64).starts[0] == 0


def test_bins_between_regions_are_gaps():
    one = signal(100)
    kept = np.r_[0:40, 70:100]
    parts = Predicted("c", one.starts[kept], one.predicted[kept], one.measured[kept])
    view = choose_view([parts], bin_bp=64)
    assert np.array_equal(view.starts, one.starts)
    assert np.isnan(view.predicted[40:70]).all()
    assert np.isnan(view.measured[40:70]).all()
    assert np.array_equal(view.predicted[kept], one.predicted[kept])


def test_the_last_stretch_of_a_contig_reaches_back_to_full_width():
    one = signal(600)
    one.measured[590:] += 50
    view = choose_view([one], bin_bp=64)
    assert (view.starts[0], view.starts[-1]) == ((600 - 320) * 64, 599 * 64)


def test_fine_bins_show_a_shorter_region_and_nothing_shows_none():
    assert len(choose_view([signal(5000, bin_bp=1)], bin_bp=1).starts) == 2048
    assert choose_view([], bin_bp=64) is None
    assert choose_view([signal(0)], bin_bp=64) is None


def test_a_signal_that_never_varies_or_never_was_is_shown_all_the_same():
    for value in (3.0, np.nan):
        one = signal(100)
        one.measured[:] = value
        assert len(choose_view([one], bin_bp=64).starts) == 100


def test_overlapping_windows_are_drawn_once(make_evaluation):
    folder, *_ = make_evaluation(beside=False)
    before = re.findall(f'{ALL_ALONG} [^ "]+', write_run_page(folder).read_text())
    again = (folder / "predictions" / "part-a.parquet").read_bytes()
    (folder / "predictions" / "part-c.parquet").write_bytes(again)
    assert re.findall(f'{ALL_ALONG} [^ "]+', write_run_page(folder).read_text()) == before != []


def test_models_of_one_architecture_are_told_apart():
    def model(path):
        return {"architecture": "basenji", "path": path}

    assert list(label_models({"model": model("a"), "beside": model("b")})) == ["basenji (a)", "basenji (b)"]
    assert list(label_models({"model": model("a"), "beside": model("a")})) == [
        "basenji (a), model",
        "basenji (a), beside",
    ]
    assert list(label_models({"model": model("a")})) == ["basenji"]


def test_strand_pairs_come_together_and_no_figure_cuts_one(make_evaluation, card_of, read_page):
    tracks = [Track(name=f"t{index}", file="f") for index in range(PANELS_PER_FIGURE - 1)]
    tracks.insert(0, Track(name="x.rev", file="f", strand_pair="x.fwd"))
    tracks.append(Track(name="x.fwd", file="f", strand_pair="x.rev"))
    assert [track.name for _, track in pair_up(tracks)][:3] == ["x.rev", "x.fwd", "t0"]
    last = [*tracks[1:-1], tracks[-1], tracks[0]]  # the pair stands at 11 and 12, over the end of a figure
    names = tuple(track.name for track in last)
    folder, *_ = make_evaluation(card_of(names, tracks=tuple(last)), beside=False)
    page = read_page(write_run_page(folder))
    alts = [value for _, name, value in page.attributes if name == "alt" and " along " in value]
    shown = [re.search("predicted (.*) along", alt)[1].split(", ") for alt in alts]
    assert shown == [list(names[:11]), ["x.fwd", "x.rev"]]


# --- second measurements and genes


def add_ceiling(results):
    def of_role(shift, first):
        track = {"num_bins": 440.0, "pearson": 0.95 - shift, "pearson_log1p": 0.9 - shift}
        return {"plain": track, "plus": track | {"pearson": first}}

    of_models = {"model": of_role(0.1, None), "beside": of_role(0.5, 0.25)}
    of_models = {role: of_models[role] for role in results["models"]}
    ceiling = {
        "definition": CEILING_DEFINITION,
        "seconds": {"plain": EVIL, "plus": "minus"},
        "models": {"second": of_role(0, 0.99), **of_models},
    }
    return results | {"ceiling": ceiling}


def test_a_ceiling_stands_before_the_models_on_the_same_bins(make_evaluation, read_page):
    folder, *_ = make_evaluation(change=add_ceiling)
    page = read_page(write_run_page(folder))
    names = ["ceiling", "basenji", "kmer_ridge"]
    assert page.table("track", "second measurement", "bins of both", *names, *names) == [
        ["plain", EVIL, "440", "0.950", "0.850", "0.450", "0.900", "0.800", "0.400"],
        ["plus", "minus", "440", "0.990", "–", "0.250", "0.900", "0.800", "0.400"],
    ]
    assert CEILING_DEFINITION in page.text
    folder, *_ = make_evaluation(change=add_ceiling, beside=False)
    page = read_page(write_run_page(folder))
    assert len(page.table("track", "second measurement", "bins of both", *["ceiling", "basenji"] * 2)) == 2


def add_genes(results):
    def of_model(shift):
        tracks = {
            name: {"num_genes": 9, "gene_pearson": 0.8 - shift, "gene_spearman": 0.7 - shift, "gene_specificity": None}
            for name in ("plain", "gap", "plus", "minus")
        }
        tracks["plus"] = tracks["plus"] | {"gene_specificity": 0.5 - shift}
        return {"tracks": tracks, "num_compared": 8, "track_specificity": 0.375 - shift, "num_across": 7}

    genes = {
        "file": "genes.gtf",
        "part": "span",
        "biotypes": [EVIL],
        "least_covered": 0.8,
        "counts": {"genes read": 1234, "genes kept": 1200, "genes under no window": 1190},
        "definitions": GENE_DEFINITIONS,
        "models": {role: of_model(shift) for role, shift in zip(results["models"], (0, 0.25), strict=False)},
    }
    return results | {"genes": genes}


@pytest.fixture
def genes_page(make_evaluation, read_page):
    folder, *_ = make_evaluation(change=add_genes)
    edges = np.array([[0, 9]])
    genes = [Gene(f"g{number}", "", "sim3", 0, 9, "+", "", edges) for number in range(10)]
    values = np.random.default_rng(0).gamma(2, 30, (3, 10, 4)).astype("f4")
    values[2] = 0.8
    values[2, 9] = 0.79
    values[2, :, 1] = 0.5
    write_gene_sums(folder / "genes.parquet", genes, GeneTable(*values), tracks=["plain", "gap", "plus", "minus"])
    return read_page(write_run_page(folder))


def test_genes_have_metrics_of_both_models_and_their_meaning(genes_page):
    rows = genes_page.table("track", "genes", *["basenji", "kmer_ridge"] * 3)
    assert rows[0] == ["plain", "9", "0.800", "0.550", "0.700", "0.450", "–", "–"]
    assert rows[2] == ["plus", "9", "0.800", "0.550", "0.700", "0.450", "0.500", "0.250"]
    assert "0.500 specificity across genes, mean over tracks kmer_ridge: 0.250" in genes_page.text
    assert "0.375 specificity across tracks, mean over 7 genes kmer_ridge: 0.125" in genes_page.text
    assert "What the bins of each gene's span sum up to, predicted against measured" in genes_page.text
    assert f"genes of genes.gtf, biotypes: {EVIL}" in genes_page.text
    assert all(text in genes_page.text for text in GENE_DEFINITIONS.values())
    assert "genes read 1,234 genes kept 1,200 genes under no window 1,190" in genes_page.text
    assert "genes that all tracks have, at least 80% covered 8" in genes_page.text


def test_genes_that_are_covered_enough_are_drawn(genes_page):
    alts = [value for _, name, value in genes_page.attributes if name == "alt" and value.startswith("density of genes")]
    assert alts == [f"density of genes by measured and predicted {name}" for name in ("plain", "plus", "minus")]
    assert genes_page.text.count("9 genes; Pearson across genes 0.800") == 3


def test_a_head_is_named(make_evaluation, read_page):
    folder, *_ = make_evaluation(change=lambda results: results | {"head": "mouse"})
    assert "simulated (sim), head mouse, mean of both strands" in read_page(write_run_page(folder)).text
