"""Two processes on gloo run all that needs two, once; the tests look at what they left, beside a plain network's."""

import gc
import time
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.basenji import BasenjiConfig
from cisray.models.borzoi import BorzoiConfig
from cisray.models.bpnet import BPNetConfig
from cisray.models.catalog import build
from cisray.models.danq import DanQConfig
from cisray.models.enformer import EnformerConfig
from cisray.models.layers import Network
from cisray.models.outputs import ProfileAndCount
from cisray.training.optimizers import build_average, build_optimizer
from cisray.training.recompute import recompute_activations
from cisray.training.sharding import (
    clip_gradients,
    gather,
    load_moments,
    load_weights,
    mesh_of_workers,
    moments_of,
    shard,
    shard_average,
    whole_on_each,
    without_sync,
)
from cisray.training.spec import TrainSpec

STEPS, TAKEN_UP = 6, 3
ROWS = 8  # of all workers, in a step
MOST_SECONDS = 180  # on a busy machine; otherwise it is ten
BPNET = (BPNetConfig(channels=16, dilated_layers=3, stem_width=5, profile_width=5), Geometry(window_bp=64, bin_bp=1))
TRANSFORMER = {"transformer_blocks": 2, "attention_heads": 4, "key_size": 4, "width_multiple": 4}
NORMED = {  # with batch norms and dropout: these are compared with torch's own DDP
    "basenji": (
        BasenjiConfig(stem_channels=8, channels=12, dilated_layers=2, dilated_channels=4, head_channels=8, dropout=0.3),
        Geometry(window_bp=256, bin_bp=16),
    ),
    "danq": (DanQConfig(channels=4, lstm_units=2, hidden_units=4), Geometry(window_bp=300, bin_bp=300)),
    "enformer": (
        EnformerConfig(channels=24, position_features=12, **TRANSFORMER),
        Geometry(window_bp=1024, bin_bp=128),
    ),
    "borzoi": (
        BorzoiConfig(
            stem_channels=8, tower_channels=8, channels=16, position_features=4, head_channels=8, **TRANSFORMER
        ),
        Geometry(window_bp=1024, bin_bp=32),
    ),
}
BF16 = {"enformer"}
RECOMPUTED = {"enformer", "borzoi"}
OPTIMIZERS = {
    "adamw": {"optimizer": "adamw"},
    "momentum": {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 1.0},
    "sgd": {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 2.0},
}


def spec_of(optimizer="adamw", **settings):
    values = {"learning_rate": 0.01, "clip_norm": 0.05, "ema_decay": 0.5, "rate_factors": {"head": 0.5}}
    return TrainSpec(**(values | OPTIMIZERS[optimizer] | settings))


def batch_of(step, geometry):
    random = torch.Generator().manual_seed(step)
    return torch.randint(0, 4, (ROWS, geometry.window_bp), dtype=torch.uint8, generator=random)


def loss_of(outputs):
    parts = outputs if isinstance(outputs, ProfileAndCount) else (outputs,)
    return torch.stack([(part.float() - 1).square().mean() for part in parts]).sum()


class Run:
    """A network that learns, split or not: what a learner does, in the least of lines."""

    def __init__(self, model=BPNET, *, mesh=None, ddp=False, spec=None, recompute=False, seed=0):
        self.spec, self.geometry = spec or spec_of(), model[1]
        torch.manual_seed(seed)
        self.network = build(model[0], geometry=model[1], num_tracks=1).train()  # one row cannot be split in two
        for name, weight in self.network.named_parameters():
            if weight.ndim > 1 or name.endswith("5.weight"):
                nn.init.normal_(weight, std=0.2)  # blocks start as the identity, which would hide what they do
        self.average = build_average(self.network, self.spec.ema_decay)
        if recompute:
            recompute_activations(self.network, "both")
        if mesh is not None:
            shard(self.network, mesh)
            shard_average(self.average, mesh)
        self.forward = DistributedDataParallel(self.network) if ddp else self.network
        self.optimizer = build_optimizer(self.network, self.spec)
        self.network.to("cpu")  # which changes nothing, and is what a learner does
        self.average.to("cpu")
        self.losses, self.norms, self.done = [], [], 0

    def learn(self, steps, *, rank=0, world=1, parts=1, synced=True, bf16=False):
        """Take steps, each of the worker's rows in `parts`; losses are means over all workers."""
        for _ in range(steps):
            torch.manual_seed(1000 * rank + self.done)  # of the dropout
            self.optimizer.zero_grad()
            rows = batch_of(self.done, self.geometry).chunk(world)[rank].chunk(parts)
            total = torch.zeros(())
            for number, codes in enumerate(rows, start=1):
                with nullcontext() if synced or number == parts else without_sync(self.network):
                    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                        loss = loss_of(self.forward(codes)) / parts
                    loss.backward()
                total += loss.detach()
            self.norms.append(clip_gradients(self.network, self.spec.clip_norm).item())
            self.optimizer.step()
            self.average.update_parameters(self.network)
            self.done += 1
            if world > 1:
                distributed.all_reduce(total)
            self.losses.append(total.item() / world)
        return self

    def state(self):
        return {
            "weights": gather(self.network.state_dict()),
            "moments": gather(moments_of(self.network, self.optimizer)),
            "average": gather(self.average.state_dict()),
        }

    def save(self, folder):
        """Write all of the state, of which other workers than the first have none."""
        for name, tensors in self.state().items():
            if tensors or not distributed.is_initialized():
                folder.mkdir(exist_ok=True)
                save_file(tensors, folder / f"{name}.safetensors")

    def load(self, folder):
        state = {name: load_file(folder / f"{name}.safetensors") for name in ("weights", "average")}
        moments = folder / "moments.safetensors"
        load_weights(self.network, state["weights"])
        load_weights(self.average, state["average"])
        load_moments(self.network, self.optimizer, load_file(moments) if moments.exists() else {})
        self.done = TAKEN_UP
        return self

    def result(self):
        return {"losses": self.losses, "norms": self.norms, **self.state()}


def learn_and_be_taken_up(folder, rank, mesh):
    results = {}
    for optimizer in OPTIMIZERS:
        spec, mine = spec_of(optimizer), {"rank": rank, "world": 2}
        run = Run(mesh=mesh, spec=spec).learn(TAKEN_UP, **mine)
        run.save(folder / f"sharded-{optimizer}")
        results[optimizer] = run.learn(STEPS - TAKEN_UP, **mine).result()
        distributed.barrier()  # until the checkpoint is written
        for kind in ("plain", "sharded"):
            again = Run(mesh=mesh, spec=spec, seed=1).load(folder / f"{kind}-{optimizer}")
            results[f"{optimizer} from {kind}"] = again.learn(STEPS - TAKEN_UP, **mine).result()
            if kind == "plain":
                results[f"{optimizer} held"] = held(again)
    for synced in (True, False):
        run = Run(mesh=mesh).learn(STEPS, rank=rank, world=2, parts=2, synced=synced)
        results[f"accumulated, synced={synced}"] = run.result()
    return results


def held(run):
    """Count the numbers that this worker holds, and those there are; and look for memory behind them that is more."""
    counts = {"mine": {}, "all": {}}
    tensors = {"weights": dict(run.network.named_parameters()), "average": dict(run.average.named_parameters())}
    tensors["moments"] = {
        name: value for name, value in moments_of(run.network, run.optimizer).items() if not name.endswith(".step")
    }
    for kind, named in tensors.items():
        assert all(isinstance(tensor, DTensor) for tensor in named.values())
        locals_ = [tensor.to_local() for tensor in named.values()]
        counts["mine"][kind] = sum(part.numel() for part in locals_)
        counts["all"][kind] = sum(tensor.numel() for tensor in named.values())
        if kind == "moments":  # weights of one block may lie in one piece of memory
            assert all(part.untyped_storage().nbytes() == part.nbytes for part in locals_)
    return counts


def learn_as_ddp_does(rank, mesh):
    results = {}
    for name, model in NORMED.items():
        mine = {"rank": rank, "world": 2, "bf16": name in BF16}
        for kind, how in {"ddp": {"ddp": True}, "sharded": {"mesh": mesh}}.items():
            run = Run(model, recompute=name in RECOMPUTED, **how)
            results[f"{name} {kind}"] = run.learn(3, **mine).result()
    return results


def look_into_blocks(rank, mesh):
    """Count the numbers that are whole while each block computes, on the way forward."""
    run, seen = Run(mesh=mesh), []

    def look(module, *_):
        weights = dict(run.network.named_parameters())
        whole = {name for name, weight in weights.items() if not isinstance(weight, DTensor)}
        names = {name for name, weight in weights.items() if any(weight is own for own in module.parameters())}
        seen.append((type(module).__name__, whole == names, sum(weights[name].numel() for name in whole)))

    for module in run.network.modules():
        if isinstance(module, FSDPModule) and module is not run.network:
            module.register_forward_pre_hook(look)
    run.learn(1, rank=rank, world=2)
    return {"units": seen}


@torch.no_grad()
def evaluate(rank, mesh):
    """Evaluate on one worker only, before the first step, between steps and with the other weights."""
    run, outputs = Run(NORMED["basenji"], mesh=mesh), []
    for steps in (0, 2, 1):
        with torch.enable_grad():
            run.learn(steps, rank=rank, world=2)
        for network in (run.network, run.average.module):
            network.eval()
            with whole_on_each(network):
                if rank == 1:
                    outputs += [network(batch_of(number, run.geometry)) for number in (90, 91)]
            assert all(isinstance(weight, DTensor) for weight in network.parameters())
            network.train()
    return {"outputs": outputs, **run.result()}


def be_one_of_two(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=MOST_SECONDS / 3),
    )
    mesh = mesh_of_workers(torch.device("cpu"))
    results = learn_and_be_taken_up(folder, rank, mesh) | learn_as_ddp_does(rank, mesh)
    results["blocks"] = look_into_blocks(rank, mesh)
    results["evaluated"] = evaluate(rank, mesh)
    torch.save(results, folder / f"{rank}.pt")
    gc.collect()  # the wrapped networks go before their group does, and no worker before the other has finished
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def plain():
    return {name: Run(spec=spec_of(name)).learn(STEPS) for name in OPTIMIZERS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Run the two processes, which take up what a plain network has written, and leave what they have learned."""
    folder = tmp_path_factory.mktemp("sharding")
    for name in OPTIMIZERS:
        Run(spec=spec_of(name)).learn(TAKEN_UP).save(folder / f"plain-{name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2])  # where the processes find this module again
        context = torch.multiprocessing.spawn(be_one_of_two, (folder,), nprocs=2, join=False)
        end = time.monotonic() + MOST_SECONDS
        while not context.join(timeout=1):
            if time.monotonic() > end:
                for process in context.processes:
                    process.kill()
                pytest.fail(f"two workers did not end within {MOST_SECONDS} s")
    return folder


@pytest.fixture(scope="module")
def workers(folder):
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def same(one, other, *, atol=1e-5):
    assert one.keys() == other.keys()
    for name in other:
        torch.testing.assert_close(
            one[name], other[name], atol=atol, rtol=1e-5, msg=lambda text, name=name: name + text
        )


def same_run(found, run, *, first=0):
    assert found["losses"] == pytest.approx(run.losses[first:], abs=1e-5)
    assert found["norms"] == pytest.approx(run.norms[first:], rel=1e-4)
    for name, tensors in run.state().items():
        same(found[name], tensors)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_workers_learn_as_one_with_batches_of_twice_the_size(plain, workers, optimizer):
    run = plain[optimizer]
    assert run.losses[-1] < run.losses[0]
    assert min(run.norms) > run.spec.clip_norm  # or clipping would not be looked at
    same_run(workers[0][optimizer], run)
    assert workers[1][optimizer]["losses"] == workers[0][optimizer]["losses"]
    assert workers[1][optimizer]["norms"] == workers[0][optimizer]["norms"]


@pytest.mark.parametrize("synced", [True, False])
def test_accumulated_batches_are_one_large_one(plain, workers, synced):
    same_run(workers[0][f"accumulated, synced={synced}"], plain["adamw"])


def test_whole_tensors_are_on_the_first_worker_only(workers):
    assert workers[0]["adamw"]["weights"].keys() == Run().network.state_dict().keys()
    for name in ("weights", "moments", "average"):
        assert all(type(tensor) is torch.Tensor for tensor in workers[0]["adamw"][name].values())
        assert workers[1]["adamw"][name] == {}


def test_every_worker_holds_its_share(workers):
    run = Run()
    number = sum(weight.numel() for weight in run.network.parameters())
    for optimizer, moments in (("adamw", 2), ("momentum", 1), ("sgd", 0)):
        counts = [worker[f"{optimizer} held"] for worker in workers]
        expected = {"weights": number, "average": number, "moments": moments * number}
        for kind, whole in expected.items():
            mine = [count["mine"][kind] for count in counts]
            assert [count["all"][kind] for count in counts] == [whole, whole]
            assert sum(mine) == whole
            assert max(mine) <= 0.6 * whole
    adamw = workers[0]["adamw held"]
    assert sum(adamw["mine"].values()) < 0.6 * 4 * number  # weights, their mean, and two moments


def test_one_block_at_a_time_is_whole(workers):
    for worker in workers:
        units = worker["blocks"]["units"]
        assert [name for name, *_ in units] == ["FSDPConv1d", *3 * ["FSDPDilatedLayer"], "FSDPProfileHead"]
        assert all(alone for _, alone, _ in units)
        assert max(number for *_, number in units) == 16 * 16 * 3 + 16


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_plain_network_takes_up_what_two_workers_wrote(plain, workers, folder, optimizer):
    spec = plain[optimizer].spec
    again = Run(spec=spec, seed=1).load(folder / f"sharded-{optimizer}").learn(STEPS - TAKEN_UP)
    same_run(again.result(), plain[optimizer], first=TAKEN_UP)
    assert again.losses == pytest.approx(workers[0][optimizer]["losses"][TAKEN_UP:], abs=1e-5)
    files = {kind: {path.name for path in (folder / f"{kind}-{optimizer}").iterdir()} for kind in ("plain", "sharded")}
    assert files["plain"] - files["sharded"] <= {"moments.safetensors"}  # of which there are none
    for name in files["sharded"]:
        one, other = (load_file(folder / f"{kind}-{optimizer}" / name) for kind in ("plain", "sharded"))
        same(one, other)


@pytest.mark.parametrize("kind", ["plain", "sharded"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_workers_take_up_what_was_written(plain, workers, optimizer, kind):
    same_run(workers[0][f"{optimizer} from {kind}"], plain[optimizer], first=TAKEN_UP)


@pytest.mark.parametrize("name", NORMED)
def test_batch_norm_dropout_bf16_and_recomputed_activations_are_as_in_ddp(workers, name):
    for worker in workers:
        ddp, sharded = (worker[f"{name} {kind}"] for kind in ("ddp", "sharded"))
        assert sharded["losses"] == pytest.approx(ddp["losses"], abs=1e-5)
        assert sharded["norms"] == pytest.approx(ddp["norms"], rel=1e-4)
        for kind in ("weights", "moments", "average"):
            same(sharded[kind], ddp[kind])


def test_workers_evaluate_without_each_other(workers):
    outputs, state = (worker["evaluated"] for worker in workers[::-1])
    assert len(outputs["outputs"]) == 12
    run = Run(NORMED["basenji"]).network.eval()
    with torch.no_grad():
        for found, number in zip(outputs["outputs"][:2], (90, 91), strict=True):
            torch.testing.assert_close(found, run(batch_of(number, NORMED["basenji"][1])), atol=1e-6, rtol=1e-5)
    # evaluation is no part of learning
    assert state["losses"] == pytest.approx(workers[0]["basenji sharded"]["losses"], abs=1e-6)
    same(state["weights"], workers[0]["basenji sharded"]["weights"])


def test_a_plain_network_needs_no_workers():
    run = Run().learn(1)
    with whole_on_each(run.network):
        assert not isinstance(run.network, FSDPModule)
    same(gather(run.network.state_dict()), run.network.state_dict(), atol=0)


def test_what_is_gathered_is_a_copy():
    run = Run()
    gathered = gather(run.network.state_dict())
    with torch.no_grad():
        next(run.network.parameters()).add_(1)
    assert not torch.equal(next(iter(gathered.values())), next(run.network.parameters()))


def test_moments_of_what_is_not_trained_are_refused():
    run = Run().learn(1)
    moments = gather(moments_of(run.network, run.optimizer))
    other = Run()
    other.network.local.requires_grad_(requires_grad=False)
    other.optimizer = build_optimizer(other.network, other.spec)
    with pytest.raises(InputError, match=r"it holds \w+ of local\.0\.weight, which is no parameter that this network"):
        load_moments(other.network, other.optimizer, moments)


def test_parts_that_were_never_trained_have_no_moments_and_need_none():
    network = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    optimizer = torch.optim.AdamW(network.parameters())
    network["used"](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    moments = moments_of(network, optimizer)
    assert {name.rpartition(".")[0] for name in moments} == {"used.weight", "used.bias"}
    again = torch.optim.AdamW(network.parameters())
    load_moments(network, again, moments)
    same(moments_of(network, again), moments, atol=0)


def test_a_parameter_without_rows_is_refused():
    network = Network(local=nn.Identity(), context=nn.Identity(), head=nn.Linear(2, 2), crop_bins=0)
    network.head.temperature = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(InputError, match=r"parameter head\.temperature is a single number.* give it the shape \[1\]"):
        shard(network, mesh=None)
