"""What matters to shallow and deep bundles, on windows whose motif is known; what was learned is not measured on."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from cisray.baselines.estimators import build_shallow
from cisray.baselines.feature_sets import Kmers
from cisray.baselines.fitting import fit_shallow
from cisray.baselines.gkm_estimator import GkmSvmConfig
from cisray.baselines.gkm_filters import GkmSpec
from cisray.baselines.held_out import accuracy
from cisray.baselines.importance import loss_when_shuffled
from cisray.baselines.linear import LinearConfig
from cisray.baselines.windows import Windows
from cisray.baselines.word_importance import loss_without_words
from cisray.bundle import Predictor, write_bundle
from cisray.config import check_settings
from cisray.datasets.card import read_card
from cisray.errors import InputError
from cisray.files import write_json
from cisray.flows.build import TableJob, build
from cisray.flows.importance import importance, read_split
from cisray.flows.importance_job import ImportanceJob

pytestmark = pytest.mark.ray
MOTIF = "TGACTCA"
LENGTH = 30
CONFIGS = {
    "linear": LinearConfig(features=(Kmers(k=3),), penalties=(0.03,)),
    "gkm": GkmSvmConfig(gkm=GkmSpec(l=6, k=4, d=2), prices=(1.0,)),
}


@pytest.fixture(scope="module")
def sequences(ray_here, tmp_path_factory):
    """Sequences of which half are active, and hold the motif on either strand."""
    folder = tmp_path_factory.mktemp("active")
    random, lines = np.random.default_rng(0), ["sequence,active"]
    for number in range(600):
        bases = random.choice(list("ACGT"), LENGTH)
        if number % 2:
            at = int(random.integers(0, LENGTH - 7))
            bases[at : at + 7] = list(
                MOTIF if number % 4 == 1 else MOTIF[::-1].translate(str.maketrans("ACGT", "TGCA"))
            )
        lines.append(f"{''.join(bases)},{number % 2}")
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    settings = {
        "source": "table",
        "name": "active",
        "out": str(folder / "dataset"),
        "data_dir": str(folder),
        "kind": "labels",
        "files": [{"path": "t.csv"}],
        "tracks": [{"column": "active"}],
        "split": {"valid_fraction": 0.2, "test_fraction": 0.3},
    }
    return build(check_settings(settings, TableJob, source="test"))


@pytest.fixture(scope="module")
def shallow(sequences):
    """Bundles of shallow models, fitted here."""
    card, made = read_card(sequences), {}
    held = {split: read_split(sequences, card, split).stored for split in ("train", "valid")}
    batches = {split: [(torch.from_numpy(one.codes), torch.from_numpy(one.targets))] for split, one in held.items()}
    for name, config in CONFIGS.items():
        network = build_shallow(config, geometry=card.geometry, num_tracks=1)
        fit_shallow(network, batches["train"], batches["valid"], kind="labels")
        made[name] = sequences.parent / name
        write_bundle(
            made[name], weights=network.state_dict(), config=config, cards=card, metrics={}, objective="bernoulli"
        )
    return made


def read_rows(folder):
    with (folder / "importance.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def measured(sequences, shallow, cisray, store):
    """Every measure of the linear model, by the command line."""
    out = sequences.parent / "importance"
    by = [
        part
        for name in ("shuffled", "removed", "words", "change", "coefficients", "stability")
        for part in ("--by", name)
    ]
    words = ["--word", MOTIF, "--word", "TGANTCA", "--word", "CATG", "--word", "GGGCCCAAA"]
    more = ["--resamples", 3, "--repeats", 3]
    outcome = cisray("importance", shallow["linear"], sequences, "--out", out, *by, *words, *more)
    assert outcome.code == 0, outcome.err
    return out, outcome


def test_the_planted_motif_loses_most_and_every_row_says_what_it_is(measured):
    folder, outcome = measured
    rows = read_rows(folder)
    of_motif = {
        min(word, word[::-1].translate(str.maketrans("ACGT", "TGCA"))) for word in ("TGA", "GAC", "ACT", "CTC", "TCA")
    }
    for by in ("shuffled", "removed"):
        own = [row for row in rows if row["by"] == by]
        assert len(own) == 32
        assert {row["sort"] for row in own} == {"objective"}
        assert own[0]["feature"].removeprefix("kmers:") in of_motif
        assert [float(row["value"]) for row in own] == sorted((float(row["value"]) for row in own), reverse=True)
    words = [row for row in rows if row["by"] == "words"]
    assert {row["feature"] for row in words[:2]} == {MOTIF, "TGANTCA"}
    assert float(words[0]["value"]) > 0.2
    assert [row["feature"] for row in words[2:]].count("CATG") == 1
    assert abs(float(words[2]["value"])) < 0.05
    by_word = {row["feature"]: row for row in words}
    assert int(by_word[MOTIF]["windows"]) == pytest.approx(90, abs=12)
    assert by_word["GGGCCCAAA"]["windows"] == "0"
    change = {row["feature"]: row for row in rows if row["by"] == "change"}
    assert change["GGGCCCAAA"]["value"] == ""
    assert {row["sort"] for row in rows if row["by"] in ("change", "coefficients", "stability")} == {"subjective"}
    assert max(float(row["frequency"]) for row in rows if row["by"] == "stability") == 1
    assert "shuffled, objective: auroc lost when shuffled" in outcome.err
    assert [path.name for path in outcome.paths()] == ["importance.csv", "importance.json", "report.html"]
    assert all(path.exists() for path in outcome.paths())


def test_the_rows_are_those_of_the_measures(measured, sequences, shallow):
    rows, card = read_rows(measured[0]), read_card(sequences)
    held, predictor = read_split(sequences, card, "test"), Predictor(shallow["linear"])
    shuffled = loss_when_shuffled(predictor.network, held.table, kind="labels", repeats=3)
    found = {row["feature"]: float(row["value"]) for row in rows if row["by"] == "shuffled"}
    assert found == pytest.approx(dict(zip(shuffled.names, shuffled.values[:, 0], strict=True)))

    def read(codes):
        return predictor.both_strands(torch.from_numpy(codes)).numpy()

    lost = loss_without_words(read, held.natural, [MOTIF], kind="labels")
    (row,) = [row for row in rows if (row["by"], row["feature"]) == ("words", MOTIF)]
    assert float(row["value"]) == pytest.approx(lost.values[0, 0])
    results = json.loads((measured[0] / "importance.json").read_text())
    assert results["measures"]["words"]["accuracy"]["active"] == pytest.approx(lost.accuracy[0])
    assert results["settings"]["digests"] == {"model": predictor.digest, "dataset": card.digest}
    assert results["num_windows"] == card.counts["test"]
    assert results["unseen"] == "another split of the dataset that the model learned from"


def test_finished_measures_are_not_taken_again_and_others_are_refused(measured, sequences, shallow, bytes_of):
    settings = {"by": ("words",), "words": ("TTT", "ACG"), "cluster": {"actors": 1}}
    places = {"model": str(shallow["linear"]), "dataset": str(sequences), "out": str(sequences.parent / "again")}
    job = check_settings(places | settings, ImportanceJob, source="test")
    folder, told = importance(job), []
    before = bytes_of(folder)
    assert importance(job, report=told.append) == folder
    assert told == []
    assert bytes_of(folder) == before
    with pytest.raises(InputError, match="was not made by this job"):
        importance(check_settings(places | settings | {"seed": 3}, ImportanceJob, source="test"))


def test_words_and_lmers_of_a_gapped_kmer_svm(sequences, shallow):
    out = sequences.parent / "of-gkm"
    job = ImportanceJob(
        model=str(shallow["gkm"]), dataset=str(sequences), out=str(out), words=(MOTIF, "CATGCC"), strands="forward"
    )
    rows = read_rows(importance(job))
    assert [row["feature"] for row in rows if row["by"] == "words"] == [MOTIF, "CATGCC"]
    best = next(row["feature"] for row in rows if row["by"] == "coefficients")
    assert best in MOTIF or best[::-1].translate(str.maketrans("ACGT", "TGCA")) in MOTIF


def test_words_of_a_network_of_many_bins_and_tracks(dataset, bundle, tmp_path):
    job = ImportanceJob(
        model=str(bundle),
        dataset=str(dataset),
        out=str(tmp_path / "out"),
        words=("ACGTAC", "T"),
        by=("words", "change"),
    )
    rows = read_rows(importance(job))
    results = json.loads((tmp_path / "out" / "importance.json").read_text())
    assert len(rows) == 2 * 2 * 4
    card, predictor = read_card(dataset), Predictor(bundle)
    held = read_split(dataset, card, "test").natural
    whole = predictor.both_strands(torch.from_numpy(held.codes)).numpy()
    expected = [accuracy("coverage", whole[:, :, t].ravel(), held.targets[:, :, t].ravel()) for t in range(4)]
    assert list(results["measures"]["words"]["accuracy"].values()) == pytest.approx(expected, abs=1e-5)
    masked = np.where((held.codes == 0) | (held.codes == 3), np.uint8(4), held.codes)  # T is A on the other strand
    without = predictor.both_strands(torch.from_numpy(masked)).numpy()
    lost = expected[0] - accuracy("coverage", without[:, :, 0].ravel(), held.targets[:, :, 0].ravel())
    (row,) = [row for row in rows if (row["by"], row["feature"], row["track"]) == ("words", "T", "strength")]
    assert float(row["value"]) == pytest.approx(lost, abs=1e-5)


def test_what_the_model_has_learned_is_not_measured_on(dataset, bundle, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(dataset, folder)
    card = json.loads((folder / "card.json").read_text())
    card["regions"]["test"] = card["regions"]["train"][:1]
    write_json(folder / "card.json", card)
    settings = {"model": str(bundle), "out": str(tmp_path / "out")}
    with pytest.raises(InputError, match=r"sim1.* is in its train split, and .* would be measured as test"):
        importance(ImportanceJob(**settings, dataset=str(folder)))
    with pytest.raises(InputError, match="split = 'train'"):
        check_settings(settings | {"dataset": "any", "split": "train"}, ImportanceJob, source="test")
    assert not (tmp_path / "out.unfinished").exists()


def test_what_cannot_be_measured_is_refused(sequences, shallow, dataset, bundle, tmp_path, cisray, store):
    places = {"dataset": str(sequences), "out": str(tmp_path / "out")}
    shutil.copytree(sequences, tmp_path / "weighted")
    card = json.loads((sequences / "card.json").read_text())
    write_json(tmp_path / "weighted/card.json", card | {"inputs": {"weighted": True}})
    for settings, told in (
        (
            {"model": str(shallow["linear"]), "dataset": str(tmp_path / "weighted")},
            "active: its rows hold more inputs than one sequence",
        ),
        (
            {"model": str(shallow["gkm"]), "by": ("shuffled",)},
            "by=shuffled: needs a model that reads a table of features; .* words, coefficients",
        ),
        ({"model": str(bundle), "dataset": str(dataset), "by": ("coefficients",)}, "a network has none of features"),
        ({"model": str(bundle)}, "predicts the tracks .*, the dataset has"),
        ({"model": str(shallow["linear"]), "groups": {"a": ("kmers:XY*",)}}, r"group a: no feature fits 'kmers:XY\*'"),
    ):
        with pytest.raises(InputError, match=told):
            importance(ImportanceJob(**places | settings))
    for arguments, told in (
        (
            ["--groups", tmp_path / "none.toml"],
            "none.toml: No such file or directory; wanted each, sets, or a TOML file",
        ),
        (["--split", "valid", "--by", "removed"], "by=removed chooses the settings of its fits on the valid split"),
        (["--word", "AXA"], "word 'AXA'; wanted letters ACGT"),
        (["--by", "shuffled", "--by", "shuffled"], "wanted each once"),
        (["--repeats", 0], "repeats=0"),
    ):
        outcome = cisray("importance", shallow["linear"], sequences, "--out", tmp_path / "out", *arguments)
        assert outcome.code == 2
        assert told in outcome.err
    (tmp_path / "bad.toml").write_text("a = [")
    outcome = cisray(
        "importance", shallow["linear"], sequences, "-o", tmp_path / "out", "--groups", tmp_path / "bad.toml"
    )
    assert "bad.toml: not valid TOML" in outcome.err
    assert not (tmp_path / "out").exists()


def test_groups_of_a_file_are_shuffled_together(sequences, shallow, cisray, store, tmp_path):
    (tmp_path / "groups.toml").write_text('cg = ["kmers:*CG*", "kmers:*GC*"]\nall = ["*"]\n')
    out = tmp_path / "out"
    outcome = cisray(
        "importance", shallow["linear"], sequences, "-o", out, "--by", "shuffled", "--groups", tmp_path / "groups.toml"
    )
    assert outcome.code == 0, outcome.err
    rows = read_rows(out)
    assert [row["feature"] for row in rows] == ["all", "cg"]
    results = json.loads((out / "importance.json").read_text())
    assert float(rows[0]["value"]) == pytest.approx(
        results["measures"]["shuffled"]["accuracy"]["active"] - 0.5, abs=0.06
    )


def test_windows_are_cut_from_their_margins(dataset):
    card = read_card(dataset)
    held = read_split(dataset, card, "test")
    assert held.stored.codes.shape == (card.counts["test"], card.geometry.window_bp)
    assert isinstance(held.table, Windows)
