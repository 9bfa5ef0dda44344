"""A swap through the command line on conditions whose motifs are known, one that is stopped, and what is refused."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from cisray.baselines.swap_loci import SEEN
from cisray.config import check_settings, load_job
from cisray.datasets.card import read_card
from cisray.datasets.schema import decode_examples, decode_rows, iter_examples, layout_of
from cisray.errors import InputError
from cisray.files import write_json
from cisray.flows.build import TableJob, build
from cisray.flows.swap import swap
from cisray.flows.swap_job import SwapJob

pytestmark = pytest.mark.ray
SHARED = "TGACTCAGCA"
OWN = {"heat": "GGAATTTCCA", "cold": "CACGTGACCA"}
NUM_ROWS, NUM_COMMON, LENGTH = 1200, 60, 40
TOML = """
name = "stress"
[conditions.heat]
dataset = "{folder}/heat"
[conditions.cold]
dataset = "{folder}/cold"
[train.model]
architecture = "linear"
features = [{{ name = "kmers", k = 5 }}]
penalties = [0.03]
"""


def draw_rows(condition, random):
    """Half of the rows are active: a half of these by the motif that conditions share, the others by their own."""
    rows = []
    for number in range(NUM_ROWS):
        bases = random.choice(list("ACGT"), LENGTH)
        kind = number % 4
        if kind > 1:
            at = int(random.integers(0, LENGTH - 10))
            bases[at : at + 10] = list(SHARED if kind == 2 else OWN[condition])
        rows.append(("".join(bases), int(kind > 1)))
    return rows


def build_table(folder, name, rows):
    lines = ["sequence,active", *(f"{sequence},{active}" for sequence, active in rows)]
    (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    settings = {
        "name": name,
        "out": str(folder / name),
        "data_dir": str(folder),
        "kind": "labels",
        "files": [{"path": f"{name}.csv"}],
        "tracks": [{"column": "active"}],
        "split": {"valid_fraction": 0.1, "test_fraction": 0.5, "seed": 7 if name == "heat" else 8},
    }
    return build(check_settings({"source": "table", **settings}, TableJob, source="test"))


@pytest.fixture(scope="module")
def folder(ray_here, tmp_path_factory):
    """Two datasets; cold measured some of heat's sequences too, and wrote them down from the other strand."""
    folder = tmp_path_factory.mktemp("conditions")
    random = np.random.default_rng(0)
    heat = draw_rows("heat", random)
    common = [(sequence[::-1].translate(str.maketrans("ACGT", "TGCA")), 0) for sequence, active in heat if not active]
    build_table(folder, "heat", heat)
    build_table(folder, "cold", draw_rows("cold", random) + common[:NUM_COMMON])
    (folder / "swap.toml").write_text(TOML.format(folder=folder))
    return folder


@pytest.fixture(scope="module")
def swapped(folder, cisray, store):
    outcome = cisray("swap", folder / "swap.toml", "--set", f"out={folder / 'swapped'}")
    assert outcome.code == 0, outcome.err
    return folder / "swapped", outcome


def read_sequences(dataset_dir, split):
    card = read_card(dataset_dir)
    codes = [
        decode_examples(rows, layout_of(card)).codes for rows in iter_examples(dataset_dir, card, split, batch_size=999)
    ]
    return {min(row.tobytes(), (3 - row[::-1]).tobytes()) for row in np.concatenate(codes)}


def test_a_model_is_at_home_in_its_own_condition_and_knows_the_shared_half_of_the_other(swapped):
    folder, outcome = swapped
    results = json.loads((folder / "swap.json").read_text())
    mean = {(cell["trained_on"], cell["tested_on"]): cell["mean"] for cell in results["cells"]}
    assert results["metric"] == "auroc"
    for one, other in (("heat", "cold"), ("cold", "heat")):
        assert mean[one, one] > 0.85
        # of half of the positives it knows as much as the own model, of the other half nothing
        assert mean[one, other] == pytest.approx(mean[other, other] / 2 + 0.25, abs=0.06)
    for cell in results["cells"]:
        assert cell["num_loci"] > 550
        assert cell["lost"] == pytest.approx(mean[cell["tested_on"], cell["tested_on"]] - cell["mean"])
    assert "auroc: rows trained on, columns tested on" in outcome.err
    assert [path.name for path in outcome.paths()][:4] == ["swap.csv", "cells.csv", "swap.json", "report.html"]
    assert all(path.exists() for path in outcome.paths())


def test_the_table_is_that_of_the_predictions_that_were_written(swapped):
    folder, _ = swapped
    for cell in json.loads((folder / "swap.json").read_text())["cells"]:
        path = folder / f"predictions/splits/{cell['trained_on']}.on.{cell['tested_on']}.parquet"
        table = pq.read_table(path)
        score, label = (decode_rows(table[name], "<f4", (1, 1)).ravel() for name in ("prediction", "measured"))
        # loci that hold no chosen k-mer tie, but for the rounding of float32
        logit = np.round(np.log(score / (1 - score.astype(float))), 5)
        assert cell["mean"] == pytest.approx(roc_auc_score(label, logit), abs=2e-4)  # logits are kept to 1/2048
        assert cell["num_loci"] == len(table)
    assert {path.name for path in (folder / "datasets/splits").iterdir()} == set(OWN)


def test_no_tested_locus_was_learned_by_any_model(swapped, folder):
    results = json.loads((swapped[0] / "swap.json").read_text())
    tested, learned, before = set(), set(), set()
    for name in OWN:
        dataset = swapped[0] / "datasets/splits" / name
        tested |= read_sequences(dataset, "test")
        learned |= read_sequences(dataset, "train") | read_sequences(dataset, "valid")
        before |= read_sequences(folder / name, "train") | read_sequences(folder / name, "valid")
    assert not tested & learned
    assert len(tested & before) > 10
    left_out = [one["left_out"][SEEN] for one in results["loci"]["runs"]["splits"].values()]
    assert sum(left_out) == len(tested & before)
    assert results["loci"]["compared_by"] == "sequence"


def test_a_swap_that_was_stopped_goes_on_and_ends_with_the_same_bytes(swapped, folder, bytes_of, cisray):
    out, begun = folder / "stopped", []

    def stop(progress):
        if progress.stage == "models":
            begun.append(progress.done)
            if progress.done == 1:
                raise KeyboardInterrupt

    job = load_job(folder / "swap.toml", SwapJob, [f"out={out}"])
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        swap(job, report=stop)
    assert not out.exists()
    model = folder / "stopped.unfinished/models/splits/heat"
    trained_at = (model / "weights.safetensors").stat().st_mtime_ns
    assert swap(job) == out
    assert (out / "models/splits/heat/weights.safetensors").stat().st_mtime_ns == trained_at
    undisturbed = {name: digest for name, digest in bytes_of(swapped[0]).items() if name != "report.html"}
    assert bytes_of(out) == undisturbed
    assert swap(job) == out  # which takes no time
    outcome = cisray("swap", folder / "swap.toml", "--set", f"out={swapped[0]}")
    assert outcome.out == f"already swapped: {swapped[0]}\n"
    with pytest.raises(InputError, match="was not made by this job"):
        swap(load_job(folder / "swap.toml", SwapJob, [f"out={out}", "train.model.penalties=[0.1]"]))


@pytest.fixture(scope="module")
def changed(folder):
    """Return a job with some settings changed."""

    def make(*overrides):
        return load_job(folder / "swap.toml", SwapJob, [f"out={folder / 'other'}", *overrides])

    return make


def test_conditions_that_do_not_compare_are_refused(changed, folder, dataset, tmp_path):
    for settings, told in (
        ([f"conditions.cold.dataset={dataset}"], "the kind of targets of cold is coverage, of heat labels"),
        (["metric=pearson_log1p"], "metric=pearson_log1p: of labels there are auroc, average_precision, pearson, r2"),
        (["conditions.cold.tracks=['rl']"], "conditions: cold: no track 'rl' in cold; it has active"),
    ):
        with pytest.raises(InputError, match=told):
            swap(changed(*settings))
    one = [f"conditions.{name}.dataset={dataset}" for name in OWN]
    with pytest.raises(InputError, match=r"number of tracks of cold is 2, of heat 1; .* name as many tracks"):
        swap(changed(*one, "conditions.heat.tracks=['strength']", "conditions.cold.tracks=['plus', 'minus']"))
    longer = [(sequence + "A", active) for sequence, active in draw_rows("cold", np.random.default_rng(2))]
    build_table(tmp_path, "cold", longer)
    with pytest.raises(InputError, match="the geometry of cold is window_bp=41, bin_bp=41, crop_bins=0, of heat"):
        swap(changed(f"conditions.cold.dataset={tmp_path / 'cold'}"))
    weighted = copy_with_card(folder / "heat", tmp_path / "weighted", inputs={"weighted": True})
    with pytest.raises(InputError, match="conditions: heat: rows of heat hold more inputs than one sequence"):
        swap(changed(f"conditions.heat.dataset={weighted}"))
    assert not (folder / "other").exists()
    assert not (folder / "other.unfinished").exists()


def copy_with_card(source, target, **changes):
    """Copy a dataset, and change fields of its card."""
    shutil.copytree(source, target)
    card = json.loads((target / "card.json").read_text())
    write_json(target / "card.json", card | changes)
    return target


def test_where_no_locus_is_left_other_settings_may_begin_in_the_same_place(changed, folder, tmp_path):
    # the twin is tested on all that heat learns from
    card = json.loads((folder / "heat/card.json").read_text())
    names = {"train": "test", "test": "train", "valid": "valid"}
    files = [
        file | {"path": "/".join(names_in(part, names) for part in file["path"].split("/"))} for file in card["files"]
    ]
    counts = {names[split]: count for split, count in card["counts"].items()}
    twin = copy_with_card(folder / "heat", tmp_path / "twin", files=files, counts=counts)
    (twin / "examples/split=train").rename(twin / "examples/aside")
    (twin / "examples/split=test").rename(twin / "examples/split=train")
    (twin / "examples/aside").rename(twin / "examples/split=test")
    settings = [f"out={tmp_path / 'out'}", f"conditions.cold.dataset={twin}"]
    with pytest.raises(InputError, match=r"stress-heat: no row is left for the train split \(left out: \d+ rows that"):
        swap(changed(*settings))
    assert not (tmp_path / "out.unfinished").exists()


def names_in(part, names):
    """Exchange the splits in one part of a path."""
    return f"split={names[part.removeprefix('split=')]}" if part.startswith("split=") else part
