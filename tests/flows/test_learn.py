import json

import numpy as np
import pytest
import torch

from cisray.baselines.estimators import build_shallow
from cisray.baselines.fitting import fit_shallow
from cisray.bundle import Predictor, read_cards
from cisray.config import check_settings
from cisray.datasets.card import read_card
from cisray.datasets.schema import decode_examples, iter_examples, layout_of
from cisray.errors import InputError
from cisray.flows.build import build
from cisray.flows.build_genomes import AnyBuildJob
from cisray.flows.train import train
from cisray.flows.train_job import TrainJob
from cisray.transfer import regions_before, regions_of

pytestmark = pytest.mark.ray
BASENJI2 = {
    "architecture": "basenji2",
    "stem_channels": 12,
    "channels": 16,
    "dilated_layers": 1,
    "dilated_channels": 8,
    "head_channels": 16,
}
TRAINING = {"epochs": 2, "batch_size": 32, "learning_rate": 4e-3, "warmup_steps": 5, "shift_bp": 8}


@pytest.fixture(scope="module")
def of_one_track(build_job, ray_here, tmp_path_factory):
    """A dataset of the same windows, with one of the tracks."""
    job = build_job(tmp_path_factory.mktemp("second") / "dataset")
    return build(build_job(job.out, tracks=job.tracks[:1], name="second"))


@pytest.fixture(scope="module")
def make_job(dataset, of_one_track):
    """Jobs of two datasets, each with its head on one trunk."""

    def make(out, *, weights=(None, None), training=TRAINING, **more):
        shared = {
            head: {"dataset": str(path), "weight": weight}
            for head, path, weight in zip(("all", "one"), (dataset, of_one_track), weights, strict=True)
        }
        settings = {"name": "heads", "out": str(out), "datasets": shared, "model": BASENJI2, "training": training}
        return check_settings(settings | {"workers": {"cpus_per_worker": 1}} | more, TrainJob, source="test")

    return make


@pytest.fixture(scope="module")
def two_heads(make_job, tmp_path_factory):
    """What one worker learned from both, everything twice."""
    told = []
    return train(make_job(tmp_path_factory.mktemp("heads") / "model"), report=told.append), told


def validation_pearson(predictor, dataset):
    """Return the correlation per track over the validation split."""
    card, pairs = read_card(dataset), []
    for table in iter_examples(dataset, card, "valid", batch_size=32):
        examples = decode_examples(table, layout_of(card))
        pairs.append((predictor(torch.from_numpy(examples.codes[:, 16:-16].copy())).numpy(), examples.targets))
    predictions, targets = (np.concatenate(side).reshape(-1, len(card.tracks)) for side in zip(*pairs, strict=True))
    return [np.corrcoef(predictions[:, track], targets[:, track])[0, 1] for track in range(len(card.tracks))]


def batches_of(dataset, split):
    """Read a split of a dataset without margins in one batch: codes [B, L] and targets [B, 1, T]."""
    card = read_card(dataset)
    for table in iter_examples(dataset, card, split, batch_size=10_000):
        examples = decode_examples(table, layout_of(card))
        yield torch.from_numpy(examples.codes.copy()), torch.from_numpy(examples.targets.copy())


def test_two_datasets_teach_a_head_each(two_heads, dataset, of_one_track):
    trained, told = two_heads
    history = trained.metrics["history"]
    steps = sum(-(-read_card(folder).counts["train"] // 32) for folder in (dataset, of_one_track))
    assert [row["step"] for row in history] == [steps, 2 * steps]  # all of both datasets in every epoch
    assert {one.total for one in told if one.stage == "train"} == {2 * steps}
    best = history[trained.metrics["best_epoch"]]
    for head, folder in (("all", dataset), ("one", of_one_track)):
        predictor = Predictor(trained.bundle_dir, head=head)
        assert predictor.card == read_card(folder)
        pearson = validation_pearson(predictor, folder)
        np.testing.assert_allclose(best[f"valid.{head}.pearson_per_track"], pearson, atol=1e-5)
    assert best["valid.all.pearson_per_track"][0] > 0.5
    assert best["valid.pearson"] == pytest.approx((best["valid.all.pearson"] + best["valid.one.pearson"]) / 2)
    with pytest.raises(InputError, match="all, one"):
        Predictor(trained.bundle_dir)


def test_two_workers_and_weights_draw_one_head_more_often(make_job, tmp_path):
    job = make_job(tmp_path / "model", weights=(3.0, 1.0), workers={"num_workers": 2, "cpus_per_worker": 1})
    trained = train(job)
    history = trained.metrics["history"]
    assert history[-1]["train.loss"] < history[0]["train.loss"]
    assert json.loads((tmp_path / "model/model.json").read_text())["made_by"]["dataset"]["all"]["weight"] == 3


def test_a_head_begins_from_a_bundle_whose_trunk_stays(two_heads, train_job, dataset, tmp_path, bytes_of):
    start_dir = two_heads[0].bundle_dir
    before = bytes_of(start_dir)
    settings = {
        "name": "began",
        "dataset": str(dataset),
        "out": str(tmp_path / "model"),
        "model": BASENJI2,
        "training": TRAINING | {"epochs": 1},
        "start": {"model": str(start_dir), "freeze": ["local", "context"]},
        "workers": {"cpus_per_worker": 1},
    }
    trained = train(check_settings(settings, TrainJob, source="test"), start_dir=start_dir)
    old, new = Predictor(start_dir, head="all").network.state_dict(), Predictor(trained.bundle_dir).network.state_dict()
    trunk = [name for name in new if not name.startswith("head.")]
    assert trunk
    assert all(torch.equal(new[name], old[name]) for name in trunk)
    assert not torch.equal(new["head.shared.0.1.weight"], old["head.shared.0.1.weight"])
    made_by = json.loads((trained.bundle_dir / "model.json").read_text())["made_by"]
    assert made_by["start"]["freeze"] == ["local", "context"]
    assert made_by["started"]["seen"] == [list(region) for region in regions_of(read_cards(start_dir).values())]
    both = [*regions_of([read_card(dataset)]), *regions_before(trained.bundle_dir)]
    assert [region.split for region in both].count("train") > len(read_card(dataset).regions["train"])
    assert bytes_of(start_dir) == before
    other = settings | {"start": {"model": str(start_dir)}}
    with pytest.raises(InputError, match="was not made by this job"):
        train(check_settings(other, TrainJob, source="test"), start_dir=start_dir)


def test_low_rank_changes_are_in_the_bundles_plain_weights(two_heads, dataset, tmp_path):
    start_dir = two_heads[0].bundle_dir
    lora = {"rank": 2, "alpha": 4.0, "targets": ["pointwise"], "train_head": True}
    settings = {
        "name": "adapted",
        "dataset": str(dataset),
        "out": str(tmp_path / "model"),
        "model": BASENJI2,
        "training": TRAINING | {"epochs": 1, "checkpoint_steps": 10},
        "start": {"model": str(start_dir), "lora": lora},
        "workers": {"cpus_per_worker": 1},
    }
    trained = train(check_settings(settings, TrainJob, source="test"), start_dir=start_dir)
    predictor = Predictor(trained.bundle_dir)
    assert not [name for name in predictor.network.state_dict() if "lora" in name]
    best = trained.metrics["history"][0]
    np.testing.assert_allclose(
        best["valid.pearson_per_track"], validation_pearson(predictor, dataset), atol=1e-4
    )  # merging rounds once more
    old, new = Predictor(start_dir, head="all").network.state_dict(), predictor.network.state_dict()
    changed = {name for name in new if name.startswith("context") and not torch.equal(new[name], old[name])}
    assert changed == {name for name in new if name.startswith("context") and new[name].shape[2:] == (1,)}


def test_a_loss_that_is_no_number_names_the_windows(train_job, tmp_path):
    job = train_job(tmp_path / "model", "training.learning_rate=1e30", "training.warmup_steps=0")
    with pytest.raises(InputError, match=r"at step \d+; .* of the windows sim[12]:\d+-\d+, .* and 24 more; "):
        train(job)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": {}}, "a job learns from `dataset`, or from several under"),
        ({"weights": (1.0, None)}, "datasets: only all has a weight; give all of them one, or none"),
        ({"weights": (1.0, -1.0)}, r"datasets: weight=-1.0 of .*; wanted a positive number"),
        ({"model": {"architecture": "kmer_ridge"}}, "kmer_ridge is fitted to one dataset from nothing"),
        ({"start": {"freeze": ["local"]}}, "start: head, renew, freeze and lora say what becomes"),
        ({"training": {"compile": True}, "workers": {"strategy": "shard"}}, "goes with neither training.compile nor"),
    ],
)
def test_what_makes_no_job_is_refused(make_job, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        make_job(tmp_path / "model", **changes)


def test_an_architecture_of_one_head_is_refused(make_job, tmp_path):
    job = make_job(tmp_path / "model", model={"architecture": "basenji", "stem_channels": 8, "channels": 8})
    with pytest.raises(InputError, match="basenji: has one head, and the datasets are for all, one"):
        train(job)
    assert not (tmp_path / "model").exists()


def test_a_network_split_over_workers_learns_as_whole_ones_do(train_job, tmp_path):
    settings = ("workers.num_workers=2", "training.epochs=1", "model.dropout=0.0", "training.ema_decay=0.5")
    split = train(train_job(tmp_path / "split", *settings, 'workers.strategy="shard"'))
    whole = train(train_job(tmp_path / "whole", *settings))
    for name in ("train.loss", "valid.loss", "valid.pearson"):
        assert split.metrics["history"][0][name] == pytest.approx(whole.metrics["history"][0][name], abs=1e-3)
    one, other = (Predictor(trained.bundle_dir).network.state_dict() for trained in (split, whole))
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], atol=1e-3, rtol=1e-2)


def test_a_shallow_model_goes_the_same_road(ray_here, tmp_path):
    random = np.random.default_rng(0)
    codes = random.integers(0, 4, (600, 40))
    counts = (codes[:, :-1] * 4 + codes[:, 1:] == 4 * 2 + 3).sum(axis=1)  # GT
    lines = ["sequence,activity,opposite,part"]
    for row, count in zip(codes, counts, strict=True):
        part = random.choice(["train", "valid", "test"], p=[0.6, 0.2, 0.2])
        lines.append(f"{''.join('ACGT'[base] for base in row)},{count + 0.1 * random.normal():.3f},{-count},{part}")
    (tmp_path / "measured.csv").write_text("\n".join(lines) + "\n")
    table = {
        "source": "table",
        "name": "measured",
        "out": str(tmp_path / "dataset"),
        "data_dir": str(tmp_path),
        "files": [{"path": "measured.csv"}],
        "tracks": [{"column": "activity"}, {"column": "opposite"}],
        "split": {"column": "part", "train": ["train"], "valid": ["valid"], "test": ["test"]},
    }
    folder = build(check_settings(table, AnyBuildJob, source="test"))
    settings = {
        "name": "shallow",
        "dataset": str(folder),
        "out": str(tmp_path / "model"),
        "model": {"architecture": "linear", "features": [{"name": "kmers", "k": 2, "fold_strands": False}]},
    }
    trained = train(check_settings(settings, TrainJob, source="test"))
    assert trained.metrics["valid.pearson"] > 0.98
    assert {row["penalty"] for row in trained.metrics["history"]} == {1.0, 0.3, 0.1, 0.03, 0.01, 0.003}
    predictor = Predictor(trained.bundle_dir)
    predictions = predictor.predict(codes[:50].astype(np.uint8))[:, 0]
    assert predictions[:, 0] == pytest.approx(counts[:50], abs=0.5)
    assert np.corrcoef(predictions[:, 1], counts[:50])[0, 1] < -0.98
    here = build_shallow(predictor.config, geometry=predictor.card.geometry, num_tracks=2)
    history = fit_shallow(here, *(batches_of(folder, split) for split in ("train", "valid")), kind="measurements")
    assert [row["num_chosen"] for row in trained.metrics["history"]] == [row["num_chosen"] for row in history]
    states = here.state_dict(), predictor.network.state_dict()
    assert all(torch.equal(states[0][name], values) for name, values in states[1].items())

    told = []
    trees = {"architecture": "gradient_boosting", "rounds": [20], "features": settings["model"]["features"]}
    other = settings | {"model": trees, "out": str(tmp_path / "trees")}
    assert train(check_settings(other, TrainJob, source="test"), report=told.append).metrics["valid.pearson"] > 0.9
    (features,) = [one for one in told if one.stage == "features"]
    assert features.done == features.total == 2  # read, not made
    with pytest.raises(InputError, match="linear is fitted by one worker in one pass"):
        check_settings(settings | {"workers": {"num_workers": 2}}, TrainJob, source="test")
