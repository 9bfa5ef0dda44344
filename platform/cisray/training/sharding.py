"""Split a network over the workers, for one whose weights, gradients and moments do not fit on one device together.

Every worker holds a share of the rows of each tensor (torch's FSDP2), and a block is gathered only while it computes.
The order is: a running mean of the weights is made, activations are recomputed, both networks are split, and the
optimizer is built last, of the shares. All weights stay float32, as do gradients and their sums over workers: bfloat16
is autocast's, because batch norm and the heads want weights in full precision.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.swa_utils import AveragedModel

from cisray.errors import InputError
from cisray.training.recompute import blocks_of

Follow = Callable[[list[Tensor], list[Tensor], Tensor | int], None]
"""Moves the means in a list towards the values in another, in place."""


def mesh_of_workers(device: torch.device) -> DeviceMesh:
    """Return all workers as one row; each calls this with its own device, once the process group stands."""
    if device.type == "cuda":
        torch.cuda.set_device(device)  # which is where torch puts the shares
    return init_device_mesh(device.type, (distributed.get_world_size(),))


def shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Split every parameter of a network over the workers, in place; buffers stay whole on each.

    Blocks of `local` and `context`, and the head, are gathered one at a time; whatever else there is, and all of a
    network that has no such parts, is gathered together. The network may stand on the host: no device holds more of
    it than its share and a block. Workers must start from equal weights, since each keeps its rows of its own.

    Raises:
        InputError: a parameter has no rows.
    """
    for name, weight in network.named_parameters():
        if weight.ndim == 0:
            raise InputError(
                f"sharding: parameter {name} is a single number, which has no rows to split; give it the shape [1], "
                "or train without sharding"
            )
    parts = [part for name in ("local", "context") if isinstance(part := getattr(network, name, None), nn.Module)]
    # all are listed before the first is split: what is split is of another class, by which blocks would not be found
    units = [block for part in parts for block in blocks_of(part)]
    if isinstance(head := getattr(network, "head", None), nn.Module):
        units.append(head)
    for unit in [*(each for each in units if any(True for _ in each.parameters())), network]:
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)


def shard_average(average: AveragedModel, mesh: DeviceMesh) -> None:
    """Split a running mean of a network's weights as `shard` splits the network."""
    shard(average.module, mesh)
    if average.multi_avg_fn is not None:
        average.multi_avg_fn = partial(_follow_shares, average.multi_avg_fn)


def _follow_shares(follow: Follow, means: list[Tensor], values: list[Tensor], number: Tensor | int) -> None:
    """Average shares with shares: torch does not take weights that are split and buffers that are not in one list."""
    follow([_share(mean) for mean in means], [_share(value) for value in values], number)


def _share(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@contextmanager
def without_sync(network: nn.Module) -> Iterator[None]:
    """Let backward passes add up gradients on each worker by itself; the first pass after that sums over workers.

    Until then every worker holds gradients of all weights, and not of its share only.
    """
    assert isinstance(network, FSDPModule)
    network.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        network.set_requires_gradient_sync(True)


def clip_gradients(network: nn.Module, largest: float) -> Tensor:
    """Scale the gradients down to a norm of at most `largest`, and return the norm they had over all workers."""
    norm = nn.utils.clip_grad_norm_(network.parameters(), largest)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


@contextmanager
def whole_on_each(network: nn.Module) -> Iterator[None]:
    """Hold all of a network's weights on every worker for a while; in a plain network they are there already.

    Forward passes need no other worker then, so that each may have as many batches to evaluate as it was dealt. Every
    worker enters and leaves. The weights have to fit on one device, without gradients, moments and activations.
    """
    if not isinstance(network, FSDPModule):
        yield
        return
    ran = False

    def note(*_: object) -> None:
        nonlocal ran
        ran = True

    handle = network.register_forward_pre_hook(note)
    units = [module for module in network.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        handle.remove()
        for unit in units:
            unit.set_reshard_after_forward(True, recurse=False)
            unit.reshard()
        if ran:  # torch keeps the order of forward passes for the next backward one, which is then not that of others
            network.reset_iter_state()


@torch.no_grad()
def gather(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors, each whole, to the first worker's host; the other workers get none.

    Every worker calls this with the same names in the same order. One tensor at a time is whole on a device.
    """
    first = not distributed.is_initialized() or distributed.get_rank() == 0
    gathered = {}
    for name, tensor in tensors.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach()
        if first:
            gathered[name] = whole.to("cpu", copy=True).contiguous()
    return gathered


def load_weights(network: nn.Module, whole: Mapping[str, Tensor]) -> None:
    """Give a network or a running mean, split or not, the weights and buffers that `gather` made of its state.

    Every worker brings all of them, of which it keeps its share; nothing is sent.
    """
    own = network.state_dict()
    network.load_state_dict({name: _split_as(own.get(name), value) for name, value in whole.items()})


def moments_of(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return what an optimizer remembers of each parameter as "parameter's name.moment", split as the parameters are.

    torch.distributed.checkpoint would do so too, but it takes a step with an optimizer that has taken none yet, and
    fails with SGD without momentum and with heads that were never trained.
    """
    return {
        f"{name}.{moment}": value
        for name, weight in network.named_parameters()
        for moment, value in optimizer.state.get(weight, {}).items()
        if value is not None
    }


def load_moments(network: nn.Module, optimizer: torch.optim.Optimizer, whole: Mapping[str, Tensor]) -> None:
    """Give an optimizer the moments that `gather` made of `moments_of`; its rates and groups stay as they are.

    Every worker brings all of them, as in `load_weights`.

    Raises:
        InputError: a moment is of no parameter that the optimizer moves.
    """
    moved = [weight for group in optimizer.param_groups for weight in group["params"]]
    numbers = {weight: number for number, weight in enumerate(moved)}
    known = {name: weight for name, weight in network.named_parameters() if weight in numbers}
    state: dict[int, dict[str, Tensor | None]] = {}
    for key, value in whole.items():
        name, _, moment = key.rpartition(".")
        if name not in known:
            raise InputError(
                f"checkpoint: it holds {moment} of {name}, which is no parameter that this network trains; wanted a "
                "checkpoint of the same network with the same parts frozen: train anew, into another folder"
            )
        weight = known[name]
        state.setdefault(numbers[weight], {})[moment] = _split_as(weight if value.ndim else None, value)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _split_as(like: Tensor | None, whole: Tensor) -> Tensor:
    """Return this worker's share of a tensor, where `like` is split, or else the tensor."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
