import copy

import numpy as np
import pytest
import torch
from torch import nn

from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.borzoi import BorzoiConfig, build_borzoi
from cisray.models.enformer import distance_features
from cisray.models.layers import one_hot
from cisray.models.weights import (
    BORZOI_PYTORCH,
    ENFORMER_PYTORCH,
    from_borzoi_pytorch,
    from_enformer_pytorch,
    heads_in,
    our_name,
)
from large_networks import TRACKS, numbered_weights, random_codes, small_enformer

# What enformer-pytorch 0.8.12 and borzoi-pytorch 0.5.1 predict from `random_codes` with these weights: the first
# two bins and first three tracks of the first window, human and mouse.
ENFORMER_SAYS = {
    "human": [[0.562781, 0.622734, 1.418368], [0.570616, 0.633370, 1.443198]],
    "mouse": [[0.307863, 0.327045, 0.908520], [0.304507, 0.337665, 0.888721]],
}
BORZOI_SAYS = {
    "human": [[0.889074, 0.615537, 0.953014], [0.889603, 0.607931, 0.951930]],
    "mouse": [[0.593976, 0.563792, 1.205262], [0.596235, 0.561155, 1.179947]],
}


def build_like_borzoi_pytorch():
    """Build with one transformer block in the channels that borzoi-pytorch has fixed, which are the published ones."""
    config = BorzoiConfig(transformer_blocks=1, key_size=16)
    with torch.device("meta"):
        network = build_borzoi(config, geometry=Geometry(window_bp=1024, bin_bp=32, crop_bins=8), num_tracks=TRACKS)
    network.load_state_dict(numbered_weights(network.state_dict()), assign=True)
    return network.eval()


@pytest.fixture(scope="module")
def borzoi():
    return build_like_borzoi_pytorch()


def fill(reference, ours, names):
    """Give a network of the other package the weights of ours, by the table."""
    shapes = reference.state_dict()
    weights = {name: ours[our_name(name, names)].reshape(shapes[name].shape) for name in shapes}
    reference.load_state_dict(weights, assign=True)
    return reference.eval()


@pytest.fixture(scope="module")
def their_enformer():
    enformer_pytorch = pytest.importorskip("enformer_pytorch", reason="enformer-pytorch is not installed")
    reference = enformer_pytorch.Enformer.from_hparams(
        dim=48,
        depth=2,
        heads=4,
        output_heads=TRACKS,
        target_length=8,
        attn_dim_key=8,
        num_downsamples=4,
        dim_divisible_by=12,
    )
    return fill(reference, small_enformer().state_dict(), ENFORMER_PYTORCH)


@pytest.fixture(scope="module")
def their_borzoi(borzoi):
    pytest.importorskip("borzoi_pytorch", reason="borzoi-pytorch is not installed")
    from borzoi_pytorch.config_borzoi import BorzoiConfig as TheirConfig
    from borzoi_pytorch.pytorch_borzoi_model import Borzoi

    with torch.device("meta"):
        reference = Borzoi(TheirConfig(depth=1, bins_to_return=16, attn_dim_key=16, enable_mouse_head=True))
        reference.human_head = nn.Conv1d(1920, TRACKS["human"], 1)
        reference.mouse_head = nn.Conv1d(1920, TRACKS["mouse"], 1)
    return fill(reference, borzoi.state_dict(), BORZOI_PYTORCH)


@pytest.mark.parametrize("head", ["human", "mouse"])
def test_enformer_predicts_what_enformer_pytorch_was_seen_to_predict(head):
    rates = small_enformer()(random_codes(2, 256), head)
    np.testing.assert_allclose(rates[0, :2, :3].detach().numpy(), ENFORMER_SAYS[head], atol=1e-5)


@pytest.mark.parametrize("head", ["human", "mouse"])
def test_borzoi_predicts_what_borzoi_pytorch_was_seen_to_predict(borzoi, head):
    with torch.no_grad():
        rates = borzoi(random_codes(2, 1024), head)
    np.testing.assert_allclose(rates[0, :2, :3].numpy(), BORZOI_SAYS[head], atol=1e-5)


def test_enformer_and_its_gradients_are_those_of_enformer_pytorch(their_enformer):
    network, codes = small_enformer(), random_codes(2, 256)
    for weight in network.parameters():
        nn.init.zeros_(weight)
    network.load_state_dict(from_enformer_pytorch(their_enformer.state_dict(), like=network.state_dict()))
    expected = their_enformer(one_hot(codes, torch.float32).mT.contiguous())
    for head in TRACKS:
        torch.testing.assert_close(network(codes, head), expected[head], rtol=0, atol=1e-5)
    sum(rates.square().sum() for rates in expected.values()).backward()
    sum(network(codes, head).square().sum() for head in TRACKS).backward()
    theirs = {name: weight.grad for name, weight in their_enformer.named_parameters()}
    ours = dict(network.named_parameters())
    renamed = from_enformer_pytorch(theirs, like=ours)
    assert set(renamed) == set(ours)
    for name, gradient in renamed.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(ours[name].grad, gradient, rtol=0, atol=1e-4 * scale + 1e-6)


def test_borzoi_and_its_gradients_are_those_of_borzoi_pytorch(their_borzoi, borzoi):
    codes = random_codes(2, 1024)
    weights = from_borzoi_pytorch(their_borzoi.state_dict(), like=borzoi.state_dict())
    assert all(torch.equal(weights[name], weight) for name, weight in borzoi.state_dict().items())
    inputs = one_hot(codes, torch.float32)
    for head in TRACKS:
        expected = their_borzoi(inputs, is_human=head == "human").mT
        found = borzoi(codes, head)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    probes = {
        "local.stages.0.stem.0.weight": "conv_dna.conv_layer.weight",
        "context.transformer.blocks.0.attention.position_bias": "transformer.0.0.fn.1.rel_pos_bias",
        "context.steps.1.mix.0.weight": "separable0.conv_layer.0.weight",
    }
    ours, theirs = dict(borzoi.named_parameters()), dict(their_borzoi.named_parameters())
    found_gradients = torch.autograd.grad(found.square().sum(), [ours[name] for name in probes])
    expected_gradients = torch.autograd.grad(expected.square().sum(), [theirs[name] for name in probes.values()])
    for one, other in zip(found_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, other.reshape(one.shape), rtol=0, atol=1e-4 * float(other.abs().max()))


def test_enformer_pytorch_with_its_table_of_gamma_features_is_as_published():
    enformer_pytorch = pytest.importorskip("enformer_pytorch", reason="enformer-pytorch is not installed")
    from enformer_pytorch.modeling_enformer import TF_GAMMAS

    assert enformer_pytorch.SEQUENCE_LENGTH == 1536 * 128
    ours = distance_features(1536, num_features=192)[:, 64:]  # the gammas, of distances 0 to 1,535
    error = (ours - TF_GAMMAS[1535:].double()).abs()
    assert error.max() < 3e-3  # the table was made in float32, from numbers of 30,000 and more
    assert error.mean() < 3e-5
    wrong = distance_features(1536, num_features=192, gamma_maximum="distance")[:, 64:]
    assert (wrong - TF_GAMMAS[1535:].double()).abs().max() > 0.5


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("stem.0.weight", "local.stem.0.weight"),
        ("_trunk.1.0.weight", "local.stem.0.weight"),
        ("stem.1.fn.0.running_mean", "local.stem.1.layers.0.running_mean"),
        ("stem.2.to_attn_logits.weight", "local.stem.2.logits.weight"),
        ("conv_tower.3.0.2.bias", "local.tower.3.0.2.bias"),
        ("_trunk.2.3.0.2.bias", "local.tower.3.0.2.bias"),
        ("conv_tower.3.1.fn.2.weight", "local.tower.3.1.layers.2.weight"),
        ("conv_tower.3.2.to_attn_logits.weight", "local.tower.3.2.logits.weight"),
        ("transformer.10.0.fn.0.bias", "context.blocks.10.norm.bias"),
        ("_trunk.4.10.0.fn.1.to_rel_k.weight", "context.blocks.10.attention.relative_key.weight"),
        ("transformer.0.1.fn.4.weight", "context.blocks.0.mlp.4.weight"),
        ("final_pointwise.1.0.weight", "head.shared.0.0.weight"),
        ("_heads.human.0.bias", "head.tracks.human.bias"),
    ],
)
def test_names_of_enformer_pytorch(theirs, ours):
    assert our_name(theirs, ENFORMER_PYTORCH) == ours


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("conv_dna.conv_layer.bias", "local.stages.0.stem.0.bias"),
        ("res_tower.4.norm.running_var", "local.stages.0.tower.4.0.running_var"),
        ("res_tower.4.conv_layer.weight", "local.stages.0.tower.4.2.weight"),
        ("unet1.1.conv_layer.weight", "local.stages.1.1.2.weight"),
        ("horizontal_conv1.norm.bias", "local.sides.1.0.bias"),
        ("transformer.7.0.fn.1.rel_content_bias", "context.transformer.blocks.7.attention.content_bias"),
        ("upsampling_unet1.0.conv_layer.weight", "context.steps.0.widen.2.weight"),
        ("separable0.conv_layer.1.bias", "context.steps.1.mix.1.bias"),
        ("final_joined_convs.0.norm.weight", "head.shared.0.0.weight"),
        ("human_head.weight", "head.tracks.human.weight"),
    ],
)
def test_names_of_borzoi_pytorch(theirs, ours):
    assert our_name(theirs, BORZOI_PYTORCH) == ours


def test_the_heads_of_published_weights_are_found():
    weights = {"_heads.human.0.weight": torch.zeros(7, 4), "_heads.human.0.bias": torch.zeros(7)}
    weights |= {"_heads.mouse.0.weight": torch.zeros(2, 4), "stem.0.weight": torch.zeros(3, 4, 15)}
    assert heads_in(weights, ENFORMER_PYTORCH) == {"human": 7, "mouse": 2}
    assert heads_in({"mouse_head.weight": torch.zeros(5, 4, 1)}, BORZOI_PYTORCH) == {"mouse": 5}


def as_theirs(network):
    """Return the weights of a network by names that the table leaves alone, with a bias of theirs among them."""
    weights = dict(network.state_dict())
    weights["_heads.human.0.bias"] = weights.pop("head.tracks.human.bias")
    return weights


def test_every_misfit_is_told_at_once():
    network = small_enformer()
    weights = as_theirs(network)
    weights["_heads.fly.0.weight"] = torch.zeros(3, 96)
    weights["stem.0.weight"] = weights.pop("local.stem.0.weight")[:, :, :13]
    del weights["context.blocks.1.norm.bias"]
    with pytest.raises(InputError, match="these weights do not fit the network") as raised:
        from_enformer_pytorch(weights, like=network.state_dict())
    message = str(raised.value)
    assert "_heads.fly.0.weight has no place here" in message
    assert "stem.0.weight is [24, 4, 13] and local.stem.0.weight is [24, 4, 15]" in message
    assert "nothing is context.blocks.1.norm.bias" in message
    assert message.endswith("build it with the sizes and the heads that the weights were made with")


def test_a_long_list_of_misfits_is_cut_and_counted():
    network = small_enformer()
    with pytest.raises(InputError, match=rf"nothing is .*; and {len(parameters_of(network)) - 8} more; build it"):
        from_enformer_pytorch({}, like=network.state_dict())


def parameters_of(network):
    return [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]


def test_two_weights_for_one_place_must_be_the_same():
    network = small_enformer()
    weights = as_theirs(network)
    weights["_trunk.1.0.weight"] = weights["local.stem.0.weight"].clone()
    from_enformer_pytorch(weights, like=network.state_dict())
    weights["_trunk.1.0.weight"][0] += 1
    with pytest.raises(InputError, match=r"_trunk\.1\.0\.weight differs from another weight that is local\.stem"):
        from_enformer_pytorch(weights, like=network.state_dict())


def test_counters_of_batches_may_be_missing():
    network = small_enformer()
    weights = {name: weight for name, weight in network.state_dict().items() if "num_batches" not in name}
    renamed = from_enformer_pytorch(weights, like=network.state_dict())
    copy.deepcopy(network).load_state_dict(renamed)
    assert set(renamed) == set(network.state_dict())
