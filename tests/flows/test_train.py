import json
import shutil

import numpy as np
import pytest
import torch

from cisray.bundle import Predictor
from cisray.datasets.card import read_card
from cisray.datasets.reading import read_order
from cisray.datasets.schema import decode_examples, iter_examples, layout_of
from cisray.datasets.streams import ExampleStream
from cisray.errors import InputError
from cisray.flows.feed import read_through_ray
from cisray.flows.train import train

pytestmark = pytest.mark.ray
MARGIN = slice(16, -16)


def read_metrics(bundle_dir):
    return json.loads((bundle_dir / "metrics.json").read_text())


def steps_after_each_epoch(dataset, job):
    """Return the number of steps that the order of reading promises."""
    workers, training = job.workers.num_workers, job.training
    order = read_order(dataset, read_card(dataset), "train", world=workers, seed=training.seed)
    return np.cumsum([order.steps(epoch, training.examples_per_step) for epoch in range(training.epochs)]).tolist()


def validation_pearson(bundle_dir, dataset):
    """Return the correlation per track over the validation split, by the bundle as it was written."""
    predictor, card = Predictor(bundle_dir), read_card(dataset)
    pairs = []
    for table in iter_examples(dataset, card, "valid", batch_size=16):
        examples = decode_examples(table, layout_of(card))
        pairs.append((predictor(torch.from_numpy(examples.codes[:, MARGIN].copy())).numpy(), examples.targets))
    predictions, targets = (np.concatenate(side).reshape(-1, len(card.tracks)) for side in zip(*pairs, strict=True))
    present = ~np.isnan(targets)
    return [
        np.corrcoef(predictions[present[:, track], track], targets[present[:, track], track])[0, 1]
        for track in range(len(card.tracks))
    ]


def check_history(bundle_dir, job, dataset):
    metrics = read_metrics(bundle_dir)
    history = metrics["history"]
    assert [row["epoch"] for row in history] == list(range(job.training.epochs))
    assert [row["step"] for row in history] == steps_after_each_epoch(dataset, job)
    best = max(history, key=lambda row: row["valid.pearson"])
    assert (metrics["best_epoch"], metrics["valid.pearson"]) == (best["epoch"], best["valid.pearson"])
    pearson = validation_pearson(bundle_dir, dataset)
    np.testing.assert_allclose(best["valid.pearson_per_track"], pearson, atol=1e-5)
    assert best["valid.pearson"] == pytest.approx(np.mean(pearson), abs=1e-5)


def test_ray_data_gives_the_rows_that_a_stream_without_ray_gives(ray_here, dataset):
    card = read_card(dataset)
    stream = ExampleStream(dataset, "train", batch_size=40, seed=3)
    order = read_order(dataset, card, "train", seed=3)
    for rows_seen in (0, 80):
        with_ray = read_through_ray(order, 1, card, batch_size=40, rows_seen=rows_seen)
        for (codes, targets, _), batch in zip(with_ray, stream.read_from(1, rows_seen=rows_seen), strict=True):
            assert torch.equal(codes, batch["codes"])
            assert np.array_equal(targets.numpy(), batch["targets"].numpy(), equal_nan=True)


def test_one_worker_sees_every_example_and_writes_the_best_epochs_weights(bundle, train_job, dataset):
    check_history(bundle, train_job("any"), dataset)
    assert steps_after_each_epoch(dataset, train_job("any")) == [31, 62]  # 973 examples, the last batch is smaller
    metrics = read_metrics(bundle)
    assert metrics["num_parameters"] == sum(weight.numel() for weight in Predictor(bundle).network.parameters())
    assert json.loads((bundle / "card.json").read_text()) == json.loads((dataset / "card.json").read_text())
    assert {path.name for path in bundle.iterdir()} == {
        ".plan.json",
        "card.json",
        "metrics.json",
        "model.json",
        "weights.safetensors",
    }


def test_two_workers_learn_together_and_the_finished_job_is_not_trained_again(train_job, dataset, tmp_path, bytes_of):
    job, told = train_job(tmp_path / "model", "workers.num_workers=2"), []
    trained = train(job, report=told.append)
    check_history(trained.bundle_dir, job, dataset)
    assert trained.bundle_dir == tmp_path / "model"
    assert trained.metrics["history"] == read_metrics(trained.bundle_dir)["history"]
    last = steps_after_each_epoch(dataset, job)[-1]
    assert [one.done for one in told if one.stage == "valid"] == steps_after_each_epoch(dataset, job)
    assert {one.total for one in told} == {last}
    assert told[-1].figures["epoch"] == job.training.epochs

    before, told = bytes_of(trained.bundle_dir), []
    assert train(job, report=told.append).was_done
    assert told == []
    assert bytes_of(trained.bundle_dir) == before


def test_every_way_of_learning_goes_through_the_workers(train_job, dataset, tmp_path):
    settings = {
        "workers.num_workers": 2,
        "training.optimizer": "sgd",
        "training.accumulate_steps": 2,
        "training.ema_decay": 0.5,
        "training.checkpoint_activations": "both",
        "training.rate_factors.head": 2.0,
        "training.keep_checkpoints": 1,
    }
    job, told = train_job(tmp_path / "model", *(f"{name}={value}" for name, value in settings.items())), []
    trained = train(job, report=told.append)
    check_history(trained.bundle_dir, job, dataset)  # what was measured is what was written, a running mean
    (figures,) = [one.figures for one in told if one.stage == "train" and one.done == one.total]
    assert {"gradient_norm", "input_wait_share", "flop_per_s", "peak_memory_bytes"} <= set(figures)
    assert all(np.isfinite(value) for value in figures.values())


def test_the_linear_baseline_trains_through_the_same_door(ridge, ridge_job, dataset):
    metrics = read_metrics(ridge)
    assert Predictor(ridge).config.architecture == "kmer_ridge"
    penalties = ridge_job("any").model.penalties
    assert [row["penalty"] for row in metrics["history"]] == list(penalties)
    pearson = validation_pearson(ridge, dataset)
    np.testing.assert_allclose(metrics["valid.pearson_per_track"], pearson, atol=1e-5)
    # each track has the penalty that is best for it, so that no single one is better
    assert metrics["valid.pearson"] >= max(row["valid.pearson"] for row in metrics["history"]) - 1e-9
    assert min(pearson) > 0.1


def test_the_linear_baseline_is_not_fitted_by_several_workers_to_a_part_of_the_data_each(ridge_job):
    with pytest.raises(InputError, match=r"kmer_ridge is fitted by one worker"):
        ridge_job("any", "workers.num_workers=2")


@pytest.fixture
def other_dataset(dataset, tmp_path):
    """The same rows with another card."""
    folder = tmp_path / "other"
    shutil.copytree(dataset, folder)
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"name": "other"}))
    return folder


def test_a_bundle_is_not_taken_for_that_of_another_dataset(bundle, train_job, other_dataset, bytes_of):
    before = bytes_of(bundle)
    with pytest.raises(InputError, match="was not made by this job"):
        train(train_job(bundle, f"dataset={other_dataset}"))
    with pytest.raises(InputError, match="was not made by this job"):
        train(train_job(bundle, "training.learning_rate=1e-3"))
    assert bytes_of(bundle) == before


def test_a_damaged_dataset_is_not_learned_from(train_job, other_dataset, tmp_path):
    part = min((other_dataset / "examples/split=train").iterdir())
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(InputError, match=rf"{part.name}: its checksum is not the one in card\.json"):
        train(train_job(tmp_path / "model", f"dataset={other_dataset}"))
    part.unlink()
    with pytest.raises(InputError, match=rf"{part.name}: listed in card\.json but missing"):
        train(train_job(tmp_path / "model", f"dataset={other_dataset}"))
    assert not (tmp_path / "model").exists()


def test_a_shift_beyond_the_stored_margin_is_refused(train_job, tmp_path):
    with pytest.raises(InputError, match=r"shift_bp=17, but .* stores a margin of 16 bp; lower the shift, or build"):
        train(train_job(tmp_path / "model", "training.shift_bp=17"))
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_that_is_not_there_is_refused(train_job, tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no card\.json in it.*run cisray build first"):
        train(train_job(tmp_path / "model", f"dataset={tmp_path / 'nowhere'}"))
    assert list(tmp_path.iterdir()) == []
