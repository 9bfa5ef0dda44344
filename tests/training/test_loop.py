import gc
import itertools
import math
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.basenji import BasenjiConfig, build_basenji
from cisray.progress import silent
from cisray.training import validation
from cisray.training.batches import Batch
from cisray.training.checkpoints import read_learner, write_learner
from cisray.training.loop import Learner, fit
from cisray.training.sharding import gather, mesh_of_workers
from cisray.training.spec import TrainSpec
from cisray.training.tasks import ALONE, Feed, Task, Workers
from cisray.training.validation import validate

GEOMETRY = Geometry(window_bp=64, bin_bp=8, margin_bp=2)
SWAP = torch.tensor([1, 0])


def planted(num_windows, *, seed):
    """Make windows whose first track counts the GA of a bin and whose second one the TC, its reverse complement."""
    codes = np.random.default_rng(seed).integers(0, 4, (num_windows, GEOMETRY.stored_bp), np.uint8)
    inside = codes[:, 2:-2].reshape(num_windows, GEOMETRY.num_bins, 8)
    pairs = (4 * inside[:, :, :-1] + inside[:, :, 1:]).astype(int)
    counts = np.stack([(pairs == 4 * 2 + 0).sum(axis=2), (pairs == 4 * 3 + 1).sum(axis=2)], axis=2)
    targets = (0.5 + 3.0 * counts).astype(np.float32)
    targets[::5, 2, 0] = np.nan
    return torch.from_numpy(codes), torch.from_numpy(targets)


def make_feed(train, valid, *, batch_size=16, swap=SWAP):
    codes, targets = train
    num_steps = -(-len(codes) // batch_size)

    def train_batches(epoch, steps_done):
        order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(epoch))
        for rows in list(order.split(batch_size))[steps_done:]:
            yield Batch(codes[rows], targets[rows])

    def valid_batches():
        yield from Batch(*valid).split(10)

    return Feed(train_batches, valid_batches, lambda epoch: num_steps, {None: Task(swap, GEOMETRY.margin_bp)})


@pytest.fixture(scope="module")
def feed():
    return make_feed(planted(160, seed=1), planted(40, seed=2))


def make_network(seed=0, *, dropout=0.1):
    torch.manual_seed(seed)
    config = BasenjiConfig(
        stem_channels=24,
        stem_width=5,
        channels=24,
        dilated_layers=1,
        dilated_channels=8,
        head_channels=24,
        dropout=dropout,
    )
    return build_basenji(config, geometry=GEOMETRY, num_tracks=2)


class Level(nn.Module):
    """Predict one rate per base pair composition: a network without state beside its weights."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.1, 0.2, 0.3, 0.4]))

    def forward(self, codes):
        return self.weight[codes.long()].unflatten(1, (-1, 8)).mean(dim=2, keepdim=True).expand(-1, -1, 2)


class Recorder(Learner):
    """A learner that keeps the loss of every step."""

    def __init__(self, network, *, spec):
        super().__init__(network, spec=spec)
        self.losses = []

    def step(self, batch, feed, *, workers, total_steps):
        loss = super().step(batch, feed, workers=workers, total_steps=total_steps)
        self.losses.append(loss.item())
        return loss


def ignore(learner):
    pass


def test_a_planted_rule_is_learned(feed):
    spec = TrainSpec(epochs=6, batch_size=16, learning_rate=0.01, warmup_steps=5, shift_bp=0)
    learner, told = Learner(make_network(), spec=spec), []
    fit(learner, feed, save=ignore, report=told.append)
    history = learner.learned.history
    assert [row["epoch"] for row in history] == list(range(6))
    assert history[-1]["train.loss"] < history[0]["train.loss"]
    assert history[-1]["valid.loss"] < history[0]["valid.loss"]
    assert history[-1]["valid.pearson"] > 0.8
    assert min(history[-1]["valid.pearson_per_track"]) > 0.8
    assert learner.learned.step == 60
    assert [progress.done for progress in told if progress.stage == "train"] == [20, 40, 60]
    assert [progress.done for progress in told if progress.stage == "valid"] == [10, 20, 30, 40, 50, 60]
    assert all(progress.total == 60 for progress in told)


def test_reading_the_other_strand_with_its_tracks_unswapped_would_spoil_the_rule(feed):
    spec = TrainSpec(epochs=6, batch_size=16, learning_rate=0.01, warmup_steps=5)
    learner = Learner(make_network(), spec=spec)
    unswapped = {None: feed.tasks[None]._replace(swap=torch.tensor([0, 1]))}
    fit(learner, feed._replace(tasks=unswapped), save=ignore, report=silent)
    assert learner.learned.history[-1]["valid.pearson"] < 0.8


OPTIONS = {
    "default": {},
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "rate_factors": {"head": 0.5}},
    "all": {"ema_decay": 0.8, "batch_size": 8, "accumulate_steps": 2, "checkpoint_activations": "both"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_run_taken_up_in_the_middle_of_an_epoch_is_the_undisturbed_run(feed, tmp_path, options):
    values = {"epochs": 3, "batch_size": 16, "learning_rate": 0.01, "warmup_steps": 5, "shift_bp": 2}
    spec = TrainSpec(**(values | {"checkpoint_steps": 7} | options))

    def save(learner):
        write_learner(tmp_path / f"step-{learner.learned.step}", learner)

    undisturbed = Recorder(make_network(seed=1), spec=spec)
    fit(undisturbed, feed, save=save, report=silent)
    assert sorted(int(path.name[5:]) for path in tmp_path.iterdir()) == [7, 10, 14, 20, 21, 28, 30]
    for step in (7, 14, 20):  # in the first epoch, in the second one, and between two
        resumed = Recorder(make_network(seed=2), spec=spec)
        read_learner(tmp_path / f"step-{step}", resumed)
        assert resumed.learned.step == resumed.saved_step == step
        fit(resumed, feed, save=ignore, report=silent)
        assert resumed.losses == undisturbed.losses[step:]
        same_tensors(resumed.network.state_dict(), undisturbed.network.state_dict())
        same_tensors(resumed.evaluated.state_dict(), undisturbed.evaluated.state_dict())
        same_tensors(resumed.best_weights, undisturbed.best_weights)
        assert resumed.learned.best_epoch == undisturbed.learned.best_epoch
        assert without_times(resumed) == without_times(undisturbed)


def test_a_stopped_and_resumed_run_sees_every_example_once_per_epoch(feed, tmp_path):
    codes, targets = planted(70, seed=3)
    seen = []

    class StoppedError(Exception):
        pass

    class Watcher(Learner):
        stop_at = None

        def step(self, batch, feed, *, workers, total_steps):
            if self.learned.step == self.stop_at:
                raise StoppedError(f"at step {self.stop_at}")
            seen.append((self.learned.epoch, self.learned.step, batch[0]))
            return super().step(batch, feed, workers=workers, total_steps=total_steps)

    feed = make_feed((codes, targets), planted(10, seed=2), batch_size=16)  # the last batch has 6 rows
    spec = TrainSpec(epochs=2, batch_size=16, checkpoint_steps=3)
    first = Watcher(make_network(), spec=spec)
    first.stop_at = 8
    with pytest.raises(StoppedError, match=r"^at step 8$"):
        fit(first, feed, save=partial(write_learner, tmp_path / "saved"), report=silent)
    second = Watcher(make_network(), spec=spec)
    read_learner(tmp_path / "saved", second)
    taken_up = second.learned.step
    assert taken_up == 6
    seen = [one for one in seen if one[1] < taken_up]  # what was learned after the checkpoint is forgotten
    fit(second, feed, save=ignore, report=silent)
    assert [step for _, step, _ in seen] == list(range(10))
    for epoch in range(2):
        rows = torch.cat([batch for number, _, batch in seen if number == epoch])
        assert sorted(map(bytes, rows.numpy())) == sorted(map(bytes, codes.numpy()))


def same_tensors(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def without_times(learner):
    return [{key: row[key] for key in row if key != "examples_per_s"} for row in learner.learned.history]


def test_the_best_weights_are_those_of_the_best_epoch(feed):
    spec = TrainSpec(epochs=5, batch_size=16, learning_rate=0.05, warmup_steps=0, patience=5)
    learner, seen = Learner(make_network(dropout=0.5), spec=spec), []

    def save(learner):
        if learner.learned.step_in_epoch == 0:
            seen.append({name: weight.clone() for name, weight in learner.network.state_dict().items()})

    fit(learner, feed, save=save, report=silent)
    scores = [row["valid.pearson"] for row in learner.learned.history]
    assert len(seen) == len(scores) == 5
    assert learner.learned.best_epoch == int(np.argmax(scores))
    assert learner.learned.best_metric == max(scores)
    same_tensors(learner.best_weights, seen[learner.learned.best_epoch])


@pytest.mark.parametrize(
    ("metrics", "best"),
    [([0.2, 0.5, 0.3], 1), ([0.5, 0.5], 0), ([math.nan, -0.1], 1), ([0.3, math.nan, 0.2], 0), ([math.nan] * 2, 0)],
)
def test_the_best_epoch_is_the_first_with_the_highest_metric(metrics, best):
    learner = Learner(Level(), spec=TrainSpec())
    for epoch, metric in enumerate(metrics):
        learner.learned.epoch = epoch
        with torch.no_grad():
            learner.network.weight.fill_(epoch)
        learner.keep_best(metric)
    assert learner.learned.best_epoch == best
    assert learner.best_weights["weight"].tolist() == [best] * 4


def test_training_stops_when_nothing_gets_better(feed):
    spec = TrainSpec(epochs=50, batch_size=16, learning_rate=1e-30, patience=3)
    learner = Learner(Level(), spec=spec)
    fit(learner, feed, save=ignore, report=silent)
    assert learner.learned.epoch == 4  # the first one, and three that were not better
    assert learner.learned.best_epoch == 0
    assert learner.finished
    steps = learner.learned.step
    fit(learner, feed, save=ignore, report=silent)  # finished is finished
    assert learner.learned.step == steps


def test_a_track_without_data_in_validation_does_not_stop_a_run(feed, tmp_path):
    codes, targets = planted(40, seed=2)
    targets[:, :, 1] = torch.nan
    feed = make_feed(planted(32, seed=1), (codes, targets))
    learner = Learner(make_network(), spec=TrainSpec(epochs=2, batch_size=16))
    fit(learner, feed, save=lambda each: write_learner(tmp_path, each), report=silent)
    assert math.isnan(learner.learned.history[0]["valid.pearson_per_track"][1])
    assert learner.learned.history[0]["valid.pearson"] == learner.learned.history[0]["valid.pearson_per_track"][0]
    again = Learner(make_network(), spec=TrainSpec(epochs=2, batch_size=16))
    read_learner(tmp_path, again)
    assert again.learned.best_metric == learner.learned.best_metric


@pytest.mark.parametrize("bad", [math.inf, 1e38])
def test_a_loss_that_is_no_number_ends_the_run(bad):
    codes, targets = planted(32, seed=1)
    targets[3] = bad
    feed = make_feed((codes, targets), planted(10, seed=2))
    learner = Learner(make_network(), spec=TrainSpec(epochs=3, batch_size=16))
    with pytest.raises(
        FloatingPointError, match=r"the loss is (nan|inf|-inf) at step \d+; lower training.learning_rate, or look for"
    ):
        fit(learner, feed, save=ignore, report=silent)


def test_validation_measures_what_it_says_on_windows_without_their_margin(feed):
    network = make_network(dropout=0.5).train()
    found = validate(network, feed, workers=Workers())
    network.eval()
    codes, targets = planted(40, seed=2)
    with torch.no_grad():
        rates = network(codes[:, 2:-2]).double()
    present = ~torch.isnan(targets)
    losses = (rates - targets * torch.log(rates + 1e-6))[present]
    assert found["valid.loss"] == pytest.approx(losses.mean().item(), rel=1e-5)
    for track in range(2):
        mask = present[:, :, track]
        pearson = np.corrcoef(rates[:, :, track][mask], targets[:, :, track][mask])[0, 1]
        assert found["valid.pearson_per_track"][track] == pytest.approx(pearson, abs=1e-6)
    assert found["valid.pearson"] == pytest.approx(np.mean(found["valid.pearson_per_track"]))


def test_validation_adds_up_over_workers(feed):
    network = make_network().eval()
    whole = validate(network, feed, workers=Workers())
    codes, targets = planted(40, seed=2)
    halves = [make_feed(planted(10, seed=1), (codes[part], targets[part])) for part in (slice(0, 13), slice(13, 40))]
    sent = []
    for half in halves:  # each worker says what it would send; then each gets the sum
        values = []
        validate(network, half, workers=Workers(add=lambda value, kept=values: kept.append(value) or value))
        sent.append(values)
    totals = [sum(values) for values in zip(*sent, strict=True)]
    for half in halves:
        answers = iter(totals)
        found = validate(network, half, workers=Workers(add=lambda value, answers=answers: next(answers)))
        for name in ("valid.loss", "valid.pearson", "valid.r2"):
            assert found[name] == pytest.approx(whole[name], rel=1e-4)


def test_a_head_without_a_metric_does_not_take_it_from_the_others():
    rows = {"a": {"pearson": 0.5, "loss": 1.0}, "b": {"pearson": math.nan, "loss": 2.0}}
    assert (validation._mean(rows, "pearson"), validation._mean(rows, "loss")) == (0.5, 1.5)
    rows["a"] |= {"pearson": math.nan, "loss": math.nan}
    assert math.isnan(validation._mean(rows, "pearson"))
    assert math.isnan(validation._mean(rows, "loss"))


def test_a_worker_without_validation_rows_still_takes_part(feed):
    sent = []
    empty = feed._replace(valid=lambda: iter(()))
    validate(make_network(), empty, workers=Workers(add=lambda value: sent.append(value) or value + 1))
    assert [tuple(value.shape) for value in sent] == [(6, 2), (2, 1)]


def test_what_cannot_be_trained_is_refused(feed):
    with pytest.raises(InputError, match="shift_bp=3, but the dataset stores a margin of 2 bp"):
        fit(Learner(Level(), spec=TrainSpec(shift_bp=3)), feed, save=ignore, report=silent)
    nothing = feed._replace(steps=lambda epoch: 0)
    with pytest.raises(InputError, match="fills no batch for every worker"):
        fit(Learner(Level(), spec=TrainSpec()), nothing, save=ignore, report=silent)


@pytest.mark.parametrize(
    "field", ["epochs", "batch_size", "learning_rate", "clip_norm", "patience", "checkpoint_steps"]
)
def test_settings_that_cannot_be_are_refused(field):
    with pytest.raises(ValidationError, match=f"{field}=0"):
        TrainSpec(**{field: 0})


def test_gradients_are_clipped_and_half_precision_trains(feed):
    spec = TrainSpec(epochs=1, batch_size=16, clip_norm=1e-4, precision="bf16")
    learner, workers = Learner(make_network(), spec=spec), Workers()
    batch = next(feed.train(0, 0))
    loss = learner.step(batch, feed, workers=workers, total_steps=10)
    norm = torch.stack([weight.grad.norm() for weight in learner.network.parameters()]).norm()
    assert torch.isfinite(loss)
    assert norm == pytest.approx(1e-4, rel=1e-2)
    assert all(weight.dtype == torch.float32 for weight in learner.network.parameters())


def test_a_loss_that_is_no_number_is_told_with_its_windows_and_the_last_checkpoint(tmp_path):
    codes, targets = planted(160, seed=1)
    feed = make_feed((codes, targets), planted(10, seed=2))
    rows = next(make_feed((codes, torch.arange(160)), (codes, targets)).train(1, 5)).targets
    targets[rows[3]] = math.inf  # an example of the sixth step of the second epoch

    def train_batches(epoch, steps_done):
        for codes, targets, _ in feed.train(epoch, steps_done):
            yield Batch(codes, torch.where(torch.isinf(targets), 1.0, targets) if epoch == 0 else targets)

    calm, saved = feed._replace(train=train_batches, windows=lambda epoch, step: f"w{epoch}.{step}"), []
    learner = Learner(make_network(), spec=TrainSpec(epochs=3, batch_size=16, checkpoint_steps=7))
    with pytest.raises(
        FloatingPointError,
        match=r"the loss is -?inf at step 16; .* It is step 6 of epoch 1, of the windows w1\.5; "
        r"the last checkpoint before it is of step 14$",
    ):
        fit(learner, calm, save=lambda each: saved.append(each.learned.step), report=silent)
    assert saved == [7, 10, 14]  # none holds what came after


class Steep(Level):
    """Has a finite loss and a gradient that is not."""

    def forward(self, codes):
        flat = (self.weight - self.weight.detach()).sum()
        return super().forward(codes) + torch.sqrt(flat * flat + 0.0)


def test_a_gradient_that_is_no_number_ends_the_run_before_any_checkpoint(feed):
    learner, saved = Learner(Steep(), spec=TrainSpec(epochs=1, batch_size=16, checkpoint_steps=1)), []
    with pytest.raises(
        FloatingPointError, match=r"the gradient's norm is nan at step 1; .*; there is no checkpoint before it$"
    ):
        fit(learner, feed, save=saved.append, report=silent)
    assert saved == []


class Pooled(nn.Module):
    """A small network without batch norm: what an example gives does not depend on its batch."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(4, 8, 5, padding="same"), nn.GELU(), nn.AvgPool1d(8), nn.Conv1d(8, 2, 1), nn.Softplus()
        )

    def forward(self, codes):
        return self.layers(nn.functional.one_hot(codes.long(), 4).float().mT).mT


def sparse(num_windows):
    """Make windows of which some have data in few bins, so that a mean of means is another one."""
    codes, targets = planted(num_windows, seed=5)
    targets[torch.arange(num_windows) % 16 < 5, 1:] = torch.nan
    return codes, targets


def pooled_run(spec, feed, *, workers=ALONE, mesh=None):
    torch.manual_seed(3)
    network = Pooled()
    forward = DistributedDataParallel(network) if workers.world > 1 and mesh is None else None
    learner = Learner(network, spec=spec, forward=forward, mesh=mesh)
    if mesh is not None:
        learner.flop_per_example = 0.0
    fit(learner, feed, save=ignore, report=silent, workers=workers)
    return learner


def curve(learner):
    return {name: [row[name] for row in learner.learned.history] for name in ("train.loss", "valid.loss")}


SAME = {"epochs": 3, "learning_rate": 0.02, "warmup_steps": 2, "reverse_complement": False}


@pytest.mark.parametrize("number", [2, 4])
def test_accumulated_batches_are_one_large_one(number):
    feed = make_feed(sparse(150), planted(20, seed=2), batch_size=32)  # the last batch has 22 rows
    whole = pooled_run(TrainSpec(batch_size=32, **SAME), feed)
    parts = pooled_run(TrainSpec(batch_size=32 // number, accumulate_steps=number, **SAME), feed)
    assert parts.learned.step == whole.learned.step == 15
    assert curve(parts)["train.loss"] == pytest.approx(curve(whole)["train.loss"], abs=1e-6)
    for one, other in zip(parts.network.parameters(), whole.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def rank_feed(rank, *, batch_size):
    """Give each of two workers its half of every batch of twice the size."""
    feed = make_feed(sparse(160), planted(20, seed=2), batch_size=2 * batch_size)
    half = slice(rank * batch_size, (rank + 1) * batch_size)
    return feed._replace(
        train=lambda epoch, done: (Batch(one.codes[half], one.targets[half]) for one in feed.train(epoch, done)),
        valid=lambda: (batch for number, batch in enumerate(feed.valid()) if number % 2 == rank),
    )


def add(value):
    summed = value.clone()
    distributed.all_reduce(summed)
    return summed


def learn_as_one_of_two(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    workers = Workers(rank, torch.device("cpu"), add, 2)
    for number, mesh in itertools.product((1, 2), (None, mesh_of_workers(workers.device))):
        spec = TrainSpec(batch_size=16 // number, accumulate_steps=number, ema_decay=0.5, **SAME)
        feed = rank_feed(rank, batch_size=16)
        if mesh is not None:  # one worker has no batch to validate
            feed = feed._replace(
                valid=lambda: (
                    make_feed(sparse(160), planted(20, seed=2), batch_size=32).valid() if rank == 1 else iter(())
                )
            )
        learner = pooled_run(spec, feed, workers=workers, mesh=mesh)
        name = f"{number}-{mesh is not None}"
        write_learner(folder / f"learner-{name}", learner, first=rank == 0)
        result = {
            "curve": curve(learner),
            "weights": gather(learner.network.state_dict()),
            "best": learner.best_weights,
        }
        torch.save(result, folder / f"{name}-{rank}.pt")
        del learner
    gc.collect()  # the wrapped networks go before their group does, and no worker before the other has finished
    distributed.barrier()
    distributed.destroy_process_group()


def test_two_workers_learn_as_one_with_batches_of_twice_the_size(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # where the processes find this module again
    torch.multiprocessing.spawn(learn_as_one_of_two, (tmp_path,), nprocs=2)
    feed = make_feed(sparse(160), planted(20, seed=2), batch_size=32)
    whole = pooled_run(TrainSpec(batch_size=32, ema_decay=0.5, **SAME), feed)
    for number, sharded in itertools.product((1, 2), (False, True)):
        for rank in range(2):
            found = torch.load(tmp_path / f"{number}-{sharded}-{rank}.pt")
            for name, values in curve(whole).items():
                assert found["curve"][name] == pytest.approx(values, abs=1e-5)
        found = torch.load(tmp_path / f"{number}-{sharded}-0.pt")
        again = Learner(Pooled(), spec=TrainSpec(ema_decay=0.5, **SAME))
        read_learner(tmp_path / f"learner-{number}-{sharded}", again)
        for weights in (found["weights"], again.network.state_dict()):
            for name, weight in whole.network.state_dict().items():
                torch.testing.assert_close(weights[name], weight, atol=1e-5, rtol=0)
        for weights in (found["best"], again.best_weights):
            for name, weight in whole.best_weights.items():
                torch.testing.assert_close(weights[name], weight, atol=1e-5, rtol=0)


def test_the_running_mean_is_what_is_measured_and_kept(feed):
    spec = TrainSpec(epochs=2, batch_size=16, learning_rate=0.02, warmup_steps=0, ema_decay=0.9)
    learner, plain, seen = Learner(make_network(), spec=spec), [], []

    def save(learner):
        plain.append({name: value.clone() for name, value in learner.network.state_dict().items()})
        seen.append({name: value.clone() for name, value in learner.evaluated.state_dict().items()})

    fit(learner, feed, save=save, report=silent)
    best = learner.learned.best_epoch
    same_tensors(learner.best_weights, seen[best])
    again = make_network(seed=5)
    again.load_state_dict(learner.best_weights)  # the names are the network's own
    assert validate(again, feed, workers=Workers())["valid.pearson"] == learner.learned.best_metric
    assert not all(torch.equal(plain[best][name], seen[best][name]) for name in seen[best])
    unaveraged = Learner(make_network(), spec=TrainSpec(epochs=2, batch_size=16, learning_rate=0.02, warmup_steps=0))
    fit(unaveraged, feed, save=ignore, report=silent)
    same_tensors(unaveraged.network.state_dict(), plain[-1])  # it does not touch the learning itself


def test_minutes_make_checkpoints_too(monkeypatch):
    feed, saved = make_feed(planted(480, seed=1), planted(10, seed=2), batch_size=4), []
    spec = TrainSpec(epochs=1, batch_size=4, checkpoint_steps=1000, checkpoint_minutes=1)
    start = time.monotonic()
    learner = Recorder(Level(), spec=spec)
    monkeypatch.setattr(time, "monotonic", lambda: start + len(learner.losses))  # a second a step
    fit(learner, feed, save=lambda each: saved.append(each.learned.step), report=silent)
    assert saved == [60, 120]
    monkeypatch.undo()
    learner, saved = Learner(Level(), spec=TrainSpec(epochs=1, batch_size=4, checkpoint_steps=50)), []
    fit(learner, feed, save=lambda each: saved.append(each.learned.step), report=silent)
    assert saved == [50, 100, 120]


def test_every_report_says_what_the_steps_cost(feed):
    told, learner = [], Learner(make_network(), spec=TrainSpec(epochs=2, batch_size=16))
    fit(learner, feed, save=ignore, report=told.append)
    (figures,) = [progress.figures for progress in told if progress.stage == "train"]
    assert set(figures) == {
        "train.loss",
        "learning_rate",
        "gradient_norm",
        "examples_per_s",
        "input_wait_share",
        "flop_per_s",
        "peak_memory_bytes",
    }
    assert figures["learning_rate"] == learner.optimizer.param_groups[0]["lr"]
    assert figures["gradient_norm"] == pytest.approx(learner.gradient_norm.item())
    assert 0 <= figures["input_wait_share"] <= 1
    assert figures["flop_per_s"] == pytest.approx(figures["examples_per_s"] * learner.flop_per_example)
    assert "examples_per_s" not in learner.learned.history[0]


def test_the_gradients_norm_is_that_before_it_was_clipped(feed):
    batch = next(feed.train(0, 0))
    norms = []
    for clip_norm in (1e-4, 1e6):
        learner = Learner(make_network(), spec=TrainSpec(batch_size=16, clip_norm=clip_norm))
        learner.step(batch, feed, workers=Workers(), total_steps=10)
        norms.append(learner.gradient_norm.item())
    assert norms[0] == norms[1] > 1e-3


def test_compiling_is_a_switch(feed, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda forward: compiled.append(forward) or forward)
    network = make_network()
    Learner(network, spec=TrainSpec())
    assert compiled == []
    learner = Learner(network, spec=TrainSpec(compile=True))
    assert compiled == [network] == [learner.forward]


def test_where_a_run_pauses_changes_nothing_of_what_it_learns(feed, tmp_path):
    spec = TrainSpec(epochs=4, batch_size=16, learning_rate=0.01, warmup_steps=5, shift_bp=1)
    whole = Learner(make_network(), spec=spec)
    fit(whole, feed, save=ignore, report=silent)
    learner = Learner(make_network(), spec=spec)
    for number, until_epoch in enumerate((1, 1, 3, None)):
        fit(learner, feed, save=ignore, report=silent, until_epoch=until_epoch)
        assert learner.learned.epoch == (until_epoch or spec.epochs)
        assert learner.finished == (until_epoch is None)
        write_learner(tmp_path / f"{number}", learner)
        learner = Learner(make_network(seed=1), spec=spec)
        read_learner(tmp_path / f"{number}", learner)
    assert learner.learned.history == whole.learned.history
    for name, weight in whole.network.state_dict().items():
        assert torch.equal(learner.network.state_dict()[name], weight)
