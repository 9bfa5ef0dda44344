"""The whole road as `make demo` walks it, on the genome whose truth is known, with the jobs that come with cisray."""

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from whole_program import JOBS

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]  # the first test waits for the whole road
TRACKS = ["strength", "spacing", "plus", "minus"]
OUTSIDE = ("http-equiv", 'src="http', "src='http", "<link", "@import", "<iframe", "url(http", 'href="http')


def places(**named):
    return [part for name, path in named.items() for part in ("--set", f"{name.replace('__', '.')}={path}")]


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """The commands of the demo, by name, and the folder that they work in."""
    runs = tmp_path_factory.mktemp("tiny")
    dataset, model, baseline, evaluation = (runs / name for name in ("dataset", "model", "baseline", "evaluation"))
    simulated, scores = runs / "simulated", runs / "scores"
    learn = {"dataset": dataset, "workers__cpus_per_worker": 2}
    return runs, {
        "simulate": ["simulate", simulated],
        "build": ["build", JOBS / "dataset.toml", *places(data_dir=simulated, out=dataset)],
        "baseline": ["train", JOBS / "baseline.toml", *places(out=baseline, **learn)],
        "train": ["train", JOBS / "train.toml", *places(out=model, **learn)],
        "evaluate": ["evaluate", model, dataset, "--beside", baseline, "--out", evaluation],
        "score": ["score", JOBS / "score.toml", *places(data_dir=simulated, model="models:/tiny@champion", out=scores)],
        "report dataset": ["report", dataset],
        "report evaluation": ["report", evaluation],
        "report scores": ["report", scores, "--truth", simulated / "truth.tsv"],
    }


@pytest.fixture(scope="module")
def road(ray_here, store, cisray, steps):
    """Walk the road once, and say what each command printed."""
    outcomes = {}
    for name, arguments in steps[1].items():
        outcomes[name] = cisray(*arguments)
        assert outcomes[name].code == 0, f"{name}: {outcomes[name].err}"
    return outcomes


@pytest.fixture(scope="module")
def runs(road, steps):
    return steps[0]


@pytest.fixture(scope="module")
def truth(runs):
    with (runs / "simulated/truth.tsv").open() as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


@pytest.fixture(scope="module")
def scores(runs):
    """The rows of the score table, read without cisray."""
    paths = sorted((runs / "scores/blocks").iterdir())
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    return sorted(rows, key=lambda row: (row["record_index"], row["allele_index"]))


def test_every_path_that_is_printed_is_there(road, runs):
    for name, outcome in road.items():
        assert outcome.paths(), f"{name}: {outcome.out}"
        for path in outcome.paths():
            assert path.exists(), f"{name}: {path}"
            assert name == "score" or path.is_relative_to(runs) or path.name == "mlflow.db"


def test_rows_out_are_rows_in(scores, truth, runs):
    lines = [line for line in (runs / "simulated/variants.vcf").open() if not line.startswith("#")]
    rows = [
        (contig, int(pos), name, ref, alt)
        for contig, pos, name, ref, alts, *_ in (line.split("\t") for line in lines)
        for alt in alts.split(",")
    ]
    assert [(row["chrom"], row["pos"], row["id"], row["ref"], row["alt"]) for row in scores] == rows
    assert len(truth) == len(rows) > 2000
    assert {row["status"] for row in scores} == {"OK"}


def test_broken_motifs_are_told_from_background_on_the_held_out_contig(scores, truth, runs, road):
    assert [(int(t["record_index"]), int(t["allele_index"])) for t in truth] == [
        (row["record_index"], row["allele_index"]) for row in scores
    ]
    largest = np.array([np.abs(row["log2fc"]).max() for row in scores])
    classes = np.array([row["class"] for row in truth])
    held_out = np.array([row["chrom"] == "sim4" for row in scores])
    assert json.loads((runs / "scores/manifest.json").read_text())["model"]["held_out_contigs"] == ["sim4"]
    used = held_out & np.isin(classes, ["breaks_motif", "background"])
    assert min((used & (classes == name)).sum() for name in ("breaks_motif", "background")) > 80
    auroc = roc_auc_score(classes[used] == "breaks_motif", largest[used])
    assert auroc >= 0.90
    assert f"{auroc:.3f}" in road["report scores"].out


def test_predicted_effects_follow_the_true_ones(scores, truth):
    chosen = [index for index, row in enumerate(truth) if row["class"] == "breaks_motif" and row["contig"] == "sim4"]
    for number, track in enumerate(TRACKS):
        true = [float(truth[index][f"true_log2fc_{track}"]) for index in chosen]
        found = [scores[index]["log2fc"][number] for index in chosen]
        assert np.corrcoef(true, found)[0, 1] > 0.5, track


def test_the_network_beats_the_linear_baseline_on_every_track(runs):
    models = json.loads((runs / "evaluation/evaluation.json").read_text())["models"]
    assert models["beside"]["architecture"] == "kmer_ridge"
    for track in TRACKS:
        network, ridge = (models[role]["tracks"][track] for role in ("model", "beside"))
        assert network["pearson"] > ridge["pearson"] + 0.02, track
        assert network["r2"] > ridge["r2"], track
        assert ridge["pearson"] > 0.2, track


@pytest.mark.parametrize("folder", ["dataset", "evaluation", "scores"])
def test_every_report_stands_alone(runs, road, folder):
    page = runs / folder / "report.html"
    assert str(page) in road[f"report {folder}"].out
    source = page.read_text()
    assert len(source) > 10_000
    assert source.count("<svg") + source.count("<img") > 0
    for reference in OUTSIDE:
        assert reference not in source.lower()


def test_the_registered_champion_was_scored_and_measured(runs, store):
    champion = store.get_model_version_by_alias("tiny", "champion")
    manifest = json.loads((runs / "scores/manifest.json").read_text())
    assert manifest["model"]["uri"] == "models:/tiny@champion"
    assert manifest["model"]["version"] == str(champion.version)
    assert manifest["model"]["digest"] == champion.tags["bundle.digest"]
    metrics = store.get_run(champion.run_id).data.metrics
    evaluation = json.loads((runs / "evaluation/evaluation.json").read_text())
    assert metrics["test.pearson.plus"] == evaluation["models"]["model"]["tracks"]["plus"]["pearson"]
    history = json.loads((runs / "model/metrics.json").read_text())["history"]
    steps = [metric.step for metric in store.get_metric_history(champion.run_id, "valid.pearson")]
    assert steps == [row["step"] for row in history]
    assert len(history) == 5


@pytest.mark.parametrize(
    ("step", "words"),
    [("build", "already built: "), ("train", "already trained and registered: "), ("score", "already scored: ")],
)
def test_a_second_run_does_nothing_and_says_so(cisray, steps, road, bytes_of, runs, store, step, words):
    folder = runs / {"build": "dataset", "train": "model", "score": "scores"}[step]
    before = bytes_of(folder)
    versions = len(store.search_model_versions("name = 'tiny'"))
    outcome = cisray(*steps[1][step])
    assert outcome.code == 0
    assert f"{words}{folder}" in outcome.out
    assert bytes_of(folder) == before
    assert len(store.search_model_versions("name = 'tiny'")) == versions
