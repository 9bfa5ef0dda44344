import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from cisray.models import pieces
from cisray.models.freezing import freeze
from cisray.models.layers import AttentionPool, NormFirstConv, Residual, SigmoidGELU
from cisray.models.lora import AdaptedConv
from cisray.models.pieces import InPieces

LAYERS = {
    "conv": lambda: NormFirstConv(5, 3, width=3, activation=SigmoidGELU()),
    "residual": lambda: Residual(NormFirstConv(5, 5, activation=nn.GELU(approximate="tanh"), norm_eps=1e-2)),
    "pool": lambda: AttentionPool(5),
}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_VALUES", 48)
    monkeypatch.setattr(pieces, "POSITIONS", 2)
    assert len(list(pieces._pieces(torch.Size([2, 5, 14]), dim=1))) > 2
    assert len(list(pieces._pieces(torch.Size([2, 5, 14]), dim=2))) > 2


def make_layer(name, *, dtype=torch.float64, in_pieces=False):
    torch.manual_seed(0)
    layer = LAYERS[name]().to(dtype)
    for weight in layer.parameters():
        nn.init.normal_(weight)
    for part in layer.modules():
        if isinstance(part, InPieces):
            part.in_pieces = in_pieces
    return layer


def learn(layer, hidden, *, precision=None):
    """Return output, gradients of what came in and of weights, and buffers."""
    hidden = hidden.clone().requires_grad_()
    before = hidden.detach().clone()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        output = layer(hidden)
    wide = output.to(torch.promote_types(output.dtype, torch.float32))
    weighted = wide * torch.linspace(-1, 2, output.numel()).view(output.shape)
    weighted.square().sum().backward()
    assert torch.equal(hidden, before)
    gradients = {name: weight.grad for name, weight in layer.named_parameters()}
    return {"output": output.detach(), "hidden": hidden.grad} | gradients | dict(layer.named_buffers())


def distance(made, exact):
    return (made.double() - exact).norm() / exact.double().norm().clamp(min=1e-9)


def goes_in_pieces(layer, hidden=None):
    """Return whether anything on the way back is in pieces."""
    todo = [layer(torch.randn(2, 5, 14, dtype=torch.float64) if hidden is None else hidden).grad_fn]
    names = set()
    while todo:
        node = todo.pop()
        names.add(type(node).__name__)
        todo += [before for before, _ in node.next_functions if before is not None]
    return bool(names & {"_NormAndActivateBackward", "_AddPointwiseBackward", "_ByPairsBackward"})


@pytest.mark.parametrize("name", LAYERS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])  # which changes nothing
@given(rows=st.integers(1, 3), pairs=st.integers(1, 20), seed=st.integers(0, 99))
def test_pieces_make_what_the_whole_does(name, rows, pairs, seed):
    hidden = torch.randn(rows, 5, 2 * pairs, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found, expected = (learn(make_layer(name, in_pieces=way), hidden) for way in (True, False))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert name == "pool" or found[next(key for key in found if key.endswith("num_batches_tracked"))] == 1


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_small_changes(name):
    layer = make_layer(name, in_pieces=True)
    hidden = torch.randn(2, 5, 14, dtype=torch.float64, requires_grad=True)
    names, weights = zip(*layer.named_parameters(), strict=True)

    def call(hidden, *weights):
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), hidden)

    assert goes_in_pieces(layer)
    assert torch.autograd.gradcheck(call, (hidden, *(weight.detach().requires_grad_() for weight in weights)))


@pytest.mark.parametrize("name", LAYERS)
def test_in_single_precision_pieces_make_the_same_to_rounding(name):
    hidden = torch.randn(3, 5, 640, generator=torch.Generator().manual_seed(1))
    found, expected = (learn(make_layer(name, dtype=torch.float32, in_pieces=way), hidden) for way in (True, False))
    for key, value in expected.items():
        assert (found[key] - value).abs().max() <= 1e-5 * value.abs().max(), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LAYERS)
def test_under_autocast_types_are_the_same_and_values_nearly(name, dtype):
    hidden = torch.randn(2, 5, 140, generator=torch.Generator().manual_seed(1)).to(dtype)
    one, other = (
        learn(make_layer(name, dtype=torch.float32, in_pieces=way), hidden, precision="bf16") for way in (True, False)
    )
    exact = learn(make_layer(name, dtype=torch.float32), hidden.float())
    for key, value in other.items():
        assert one[key].dtype == value.dtype
        error, usual = (distance(made, exact[key]) for made in (one[key], value))
        assert error <= usual + 2**-8, key  # a piece is rounded as the whole is


@pytest.mark.parametrize("name", LAYERS)
def test_frozen_weights_get_no_gradient_and_the_others_the_same(name):
    hidden = torch.randn(2, 5, 14, dtype=torch.float64)
    every = learn(make_layer(name, in_pieces=True), hidden)
    layer = make_layer(name, in_pieces=True)
    for key, weight in layer.named_parameters():
        weight.requires_grad = key.endswith("bias")
    assert goes_in_pieces(layer, hidden.requires_grad_())
    some = learn(make_layer(name, in_pieces=True).requires_grad_(False), hidden.detach())
    assert all(some[key] is None for key, _ in layer.named_parameters())
    torch.testing.assert_close(some["hidden"], every["hidden"])
    layer(hidden).square().sum().backward()
    assert [weight.grad is not None for _, weight in layer.named_parameters()] == [
        key.endswith("bias") for key, _ in layer.named_parameters()
    ]


@pytest.mark.parametrize("name", LAYERS)
def test_the_plain_way_is_taken_unless_the_other_is_set_and_a_gradient_wanted(name):
    assert not goes_in_pieces(make_layer(name))
    layer = make_layer(name, in_pieces=True)
    assert goes_in_pieces(layer)
    hidden = torch.randn(2, 5, 14, dtype=torch.float64)
    with torch.no_grad():
        assert layer(hidden).grad_fn is None
    assert not goes_in_pieces(layer.to("meta"), hidden.to("meta"))


def test_norms_by_other_statistics_go_the_plain_way():
    for name in ("conv", "residual"):
        layer = make_layer(name, in_pieces=True)
        assert not goes_in_pieces(layer.eval())
        assert goes_in_pieces(layer.train())
        norm = next(name for name, part in layer.named_modules() if isinstance(part, nn.BatchNorm1d))
        freeze(layer, [norm])
        assert not goes_in_pieces(layer.train())


def test_pointwise_layers_that_do_more_go_the_plain_way():
    pool = make_layer("pool", in_pieces=True)
    pool.logits = AdaptedConv(pool.logits, rank=1, scale=1.0)
    assert not goes_in_pieces(pool)
    residual = Residual(NormFirstConv(5, 5, width=3, activation=SigmoidGELU())).double()
    residual.in_pieces = True
    assert not goes_in_pieces(residual)
    assert not goes_in_pieces(Residual(nn.Conv1d(5, 5, 1)).double())


def test_every_piece_is_of_the_size_that_was_said():
    for shape in ((1, 768, 196_608), (4, 3, 64), (1, 5, 2)):
        for dim, multiple in ((1, 1), (2, 2)):
            slices = list(pieces._pieces(torch.Size(shape), dim=dim))
            assert [each.start for each in slices[1:]] == [each.stop for each in slices[:-1]]
            assert (slices[0].start, slices[-1].stop) == (0, shape[dim])
            assert all(each.start % multiple == 0 for each in slices)
