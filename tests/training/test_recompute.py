import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from benchmarks._live_memory import LiveBytes, peak_bytes
from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models import pieces
from cisray.models.basenji import BasenjiConfig, build_basenji
from cisray.models.borzoi import BorzoiConfig
from cisray.models.catalog import build
from cisray.models.danq import DanQConfig
from cisray.models.enformer import EnformerConfig
from cisray.models.layers import Network
from cisray.training.recompute import blocks_of, recompute_activations

GEOMETRY = Geometry(window_bp=256, bin_bp=16)
CONFIG = BasenjiConfig(stem_channels=8, channels=12, dilated_layers=3, dilated_channels=4, head_channels=8, dropout=0.3)
CODES = torch.randint(0, 4, (3, 256), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def make_network():
    torch.manual_seed(0)
    network = build_basenji(CONFIG, geometry=GEOMETRY, num_tracks=2).train()
    for name, weight in network.named_parameters():
        if name.endswith("5.weight"):
            nn.init.normal_(weight)  # blocks start as the identity, which would hide what they do
    return network


def learn(network, *, steps=3, precision=None):
    """Take steps without an optimizer, and return losses, gradients and buffers."""
    losses = []
    for seed in range(steps):
        torch.manual_seed(seed)  # of the dropout
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = network(CODES).float().square().mean()
        loss.backward()
        losses.append(loss.item())
    gradients = {name: weight.grad for name, weight in network.named_parameters()}
    return losses, gradients, dict(network.named_buffers())


def same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def kept_bytes(network):
    """Return the bytes of all activations that are kept for the gradient."""
    seen = {}

    def note(part):
        seen[part.data_ptr()] = part.nbytes
        kept.append(part)  # or its memory would be given to the next one
        return part

    kept = []
    with saved_tensors_hooks(note, lambda part: part):
        network(CODES)
    weights = {weight.data_ptr() for weight in network.parameters()}
    return sum(size for pointer, size in seen.items() if pointer not in weights)


@pytest.mark.parametrize("precision", [None, "bf16"])
@pytest.mark.parametrize("parts", ["local", "context", "both"])
def test_learning_stays_what_it_was_with_dropout_and_batch_norm(parts, precision):
    expected = learn(make_network(), precision=precision)
    network = make_network()
    recompute_activations(network, parts)
    found = learn(network, precision=precision)
    assert found[0] == expected[0]
    same(found[1], expected[1])
    same(found[2], expected[2])
    assert network.local[0][2].num_batches_tracked == 3


def test_names_stay_and_evaluation_is_untouched():
    network, plain = make_network(), make_network()
    recompute_activations(network, "both")
    same(network.state_dict(), plain.state_dict())
    with torch.inference_mode():
        assert torch.equal(network.eval()(CODES), plain.eval()(CODES))


def test_less_is_kept():
    kept = {}
    for parts in ("none", "local", "context", "both"):
        network = make_network()
        if parts != "none":
            recompute_activations(network, parts)
        kept[parts] = kept_bytes(network)
    assert kept["both"] < min(kept["local"], kept["context"])
    assert max(kept["local"], kept["context"]) < kept["none"]
    assert kept["both"] < kept["none"] / 3


TRANSFORMER = {"transformer_blocks": 2, "attention_heads": 4, "key_size": 4, "width_multiple": 4}
OTHERS = {
    "danq": (DanQConfig(channels=3, lstm_units=2, hidden_units=4), Geometry(window_bp=300, bin_bp=300), (3, 2)),
    "enformer": (
        EnformerConfig(channels=24, position_features=12, **TRANSFORMER),
        Geometry(window_bp=1024, bin_bp=128),
        (7, 2),  # the stem, and each stage of the tower by itself
    ),
    "borzoi": (
        BorzoiConfig(
            stem_channels=8, tower_channels=8, channels=16, position_features=4, head_channels=8, **TRANSFORMER
        ),
        Geometry(window_bp=1024, bin_bp=32),
        (6, 4),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_learn_the_same_too(name):
    config, geometry, num_blocks = OTHERS[name]
    codes = torch.randint(0, 4, (2, geometry.window_bp), dtype=torch.uint8)
    losses, gradients, buffers = [], [], []
    for recomputed in (False, True):
        torch.manual_seed(0)
        network = build(config, geometry=geometry, num_tracks=2).train()
        if recomputed:
            recompute_activations(network, "both")
            assert tuple(len(list(blocks_of(part))) for part in (network.local, network.context)) == num_blocks
        torch.manual_seed(1)
        loss = network(codes).square().mean()
        loss.backward()
        losses.append(loss.item())
        gradients.append({name: weight.grad for name, weight in network.named_parameters()})
        buffers.append(dict(network.named_buffers()))
    assert losses[1] == losses[0]
    same(*gradients)
    same(*buffers)


@pytest.mark.parametrize("name", ["enformer", "borzoi"])
def test_in_pieces_networks_learn_the_same_to_rounding(name, monkeypatch):
    config, geometry, _ = OTHERS[name]
    codes = torch.randint(0, 4, (2, geometry.window_bp), dtype=torch.uint8)
    found = []
    for recomputed in (False, True):
        torch.manual_seed(0)
        network = build(config, geometry=geometry, num_tracks=2).double().train()
        for weight in network.parameters():
            nn.init.normal_(weight, std=0.3)  # blocks start as the identity, which would hide what they do
        if recomputed:
            monkeypatch.setattr(pieces, "PIECE_VALUES", 2048)  # of a stem with 24,576
            recompute_activations(network, "both")
        for seed in (1, 2):
            torch.manual_seed(seed)  # of the dropout
            loss = network(codes).square().mean()
            loss.backward()
        gradients = {name: weight.grad for name, weight in network.named_parameters()}
        found.append({"loss": loss.detach()} | gradients | dict(network.named_buffers()))
    assert all(found[1][name].item() == 2 for name in found[1] if name.endswith("num_batches_tracked"))
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for name, expected in found[0].items():
        # a bias before a batch norm has no gradient but rounding
        assert (found[1][name] - expected).abs().max() <= 1e-10 * expected.abs().max() + 1e-15 * largest, name


def learn_once(parts):
    """Go forward and backward with one window, in an Enformer of half the published width, and of full depth."""
    geometry = Geometry(window_bp=98_304, bin_bp=128, crop_bins=160)
    network = build(EnformerConfig(channels=768), geometry=geometry, num_tracks=2656).train()
    if parts is not None:
        recompute_activations(network, parts)
    network(torch.zeros(1, geometry.window_bp, dtype=torch.uint8)).mean().backward()


def test_a_large_enformer_takes_less_than_a_third():
    assert peak_bytes(lambda: learn_once("both")) < peak_bytes(lambda: learn_once(None)) / 3


def test_live_bytes_are_those_of_tensors_that_are_still_there():
    with LiveBytes() as live:
        _ = (torch.ones(3), torch.ones(4)[:2])  # a slice keeps all of what it is of
        assert live.now == live.peak == 7 * 4
        del _
        kept = torch.ones(5).add_(1)
        assert (live.now, live.peak) == (kept.nbytes, 7 * 4)


def test_lists_of_blocks_are_opened_at_any_depth():
    inner = nn.Module()
    inner.stages = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 2)])
    inner.last = nn.Linear(1, 3)
    part = nn.Sequential(nn.Linear(1, 4), inner)
    assert [block.out_features for block in blocks_of(part)] == [4, 1, 2, 3]
    assert list(blocks_of(nn.Identity())) == []


def test_a_network_without_the_part_is_refused():
    with pytest.raises(InputError, match=r"checkpoint_activations=both, but Linear has no part named local; set it"):
        recompute_activations(nn.Linear(1, 1), "both")
    network = Network(local=nn.Identity(), context=nn.Identity(), head=nn.Identity(), crop_bins=0)
    recompute_activations(network, "both")  # there is nothing to do, which is no error
