import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.basenji import BasenjiConfig, build_basenji
from cisray.models.danq import DanQConfig, build_danq
from cisray.models.lora import AdaptedConv, AdaptedLinear, add_lora, merge_lora, merged_weights
from cisray.models.reach import reach_of
from large_networks import numbered_weights, random_codes, small_borzoi, small_enformer

PROJECTIONS = ("query", "key", "value", "relative_key", "out")


def small_basenji():
    config = BasenjiConfig(stem_channels=6, channels=8, dilated_layers=2, dilated_channels=4, head_channels=8)
    network = build_basenji(config, geometry=Geometry(window_bp=256, bin_bp=16, crop_bins=4), num_tracks=3)
    network.load_state_dict(numbered_weights(network.state_dict()))
    return network.eval()


def one_head_enformer():
    return small_enformer(num_tracks={"human": 5})


CASES = {
    "enformer attention": (one_head_enformer, ("attention",), 256),
    "enformer all": (one_head_enformer, ("attention", "pointwise", "context.blocks.0.mlp", "head"), 256),
    "borzoi": (lambda: small_borzoi(num_tracks=4), ("attention", "pointwise"), 1024),
    "basenji": (small_basenji, ("pointwise",), 256),
}


@pytest.fixture(params=sorted(CASES))
def case(request):
    build, targets, window_bp = CASES[request.param]
    return build(), targets, random_codes(2, window_bp)


def randomise(adapted, seed):
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in adapted.values():
            layer.lora_up.copy_(0.3 * torch.randn(layer.lora_up.shape, generator=random))


def test_the_first_output_is_that_of_the_base(case):
    network, targets, codes = case
    before = network(codes)
    names = list(network.state_dict())
    adapted = add_lora(network, rank=2, alpha=4, targets=targets)
    assert torch.equal(network(codes), before)
    assert [name for name in network.state_dict() if "lora_" not in name] == names
    extra = [name for name in network.state_dict() if "lora_" in name]
    assert sorted(extra) == sorted(f"{name}.lora_{end}" for name in adapted for end in ("down", "up"))


@pytest.mark.parametrize("name", sorted(CASES))
@settings(max_examples=4)
@given(rank=st.integers(1, 3), alpha=st.floats(0.5, 8), seed=st.integers(0, 1000))
def test_merged_is_unmerged(name, rank, alpha, seed):
    build, targets, window_bp = CASES[name]
    network, codes = build().double(), random_codes(2, window_bp)
    base = network(codes)
    plain_names = list(network.state_dict())
    adapted = add_lora(network, rank=rank, alpha=alpha, targets=targets)
    randomise(adapted, seed)
    expected = network(codes)
    scale = float(expected.detach().abs().max())
    assert (expected - base).abs().max() > 1e-3 * scale
    other = build().double()
    other.load_state_dict(merged_weights(network))  # strict: the names are those of the plain network
    torch.testing.assert_close(other(codes), expected, rtol=0, atol=1e-12 * max(1, scale))
    assert torch.equal(network(codes), expected)  # which merged_weights has left as it was
    assert sorted(merge_lora(network)) == sorted(adapted)
    assert list(network.state_dict()) == plain_names
    assert not any(isinstance(module, AdaptedLinear | AdaptedConv) for module in network.modules())
    assert torch.equal(network(codes), other(codes))


def test_merging_in_float64_is_exact_to_rounding():
    network, codes = one_head_enformer().double(), random_codes(2, 256)
    adapted = add_lora(network, rank=3, alpha=1.5, targets=("attention", "pointwise"))
    randomise(adapted, 3)
    layer = adapted["context.blocks.1.attention.query"]
    by_hand = layer.weight + 0.5 * layer.lora_up @ layer.lora_down
    expected = network(codes)
    merge_lora(network)
    torch.testing.assert_close(network.context.blocks[1].attention.query.weight, by_hand, rtol=0, atol=1e-14)
    torch.testing.assert_close(network(codes), expected, rtol=0, atol=1e-12)


def test_only_adapters_move_in_a_step(case):
    network, targets, codes = case
    adapted = add_lora(network, rank=2, alpha=4, targets=targets)
    randomise(adapted, 1)  # else lora_down has no gradient in the first step
    before = copy.deepcopy(network.state_dict())
    learning = {name for name, weight in network.named_parameters() if weight.requires_grad}
    assert learning == {name for name in before if "lora_" in name}
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1)
    network(codes).square().mean().backward()
    optimizer.step()
    moved = {name for name, weight in network.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved == learning


def test_the_head_learns_too_where_it_is_asked_to():
    network = small_basenji()
    add_lora(network, rank=1, alpha=1, targets=["pointwise"], train_head=True)
    learning = {name for name, weight in network.named_parameters() if weight.requires_grad}
    heads = {name for name, _ in network.named_parameters() if name.startswith("head.")}
    assert heads < learning
    assert all("lora_" in name for name in learning - heads)
    assert type(network.head.hidden[2]) is nn.BatchNorm1d


def test_the_layers_of_a_target_and_their_numbers_of_weights():
    network = one_head_enformer()
    adapted = add_lora(network, rank=3, alpha=1, targets=["attention"])
    assert set(adapted) == {f"context.blocks.{block}.attention.{name}" for block in (0, 1) for name in PROJECTIONS}
    # 48 channels, 4 heads of 8 for queries and keys, 12 features of distance
    each = 3 * ((48 + 32) + (48 + 32) + (48 + 48) + (12 + 32) + (48 + 48))
    assert sum(weight.numel() for weight in network.parameters() if weight.requires_grad) == 2 * each
    basenji = small_basenji()
    assert set(add_lora(basenji, rank=2, alpha=1, targets=["pointwise"])) == {
        "context.0.layers.4",
        "context.1.layers.4",
    }
    assert sum(weight.numel() for weight in basenji.parameters() if weight.requires_grad) == 2 * 2 * (4 + 8)
    first = add_lora(one_head_enformer(), rank=1, alpha=1, targets=["context.blocks.0"])
    assert set(first) == {f"context.blocks.0.attention.{name}" for name in PROJECTIONS} | {
        "context.blocks.0.mlp.1",
        "context.blocks.0.mlp.4",
    }


def test_the_reach_of_an_adapted_local_is_still_derived():
    network = one_head_enformer()
    reaches = reach_of(network.local)
    adapted = add_lora(network, rank=2, alpha=1, targets=["pointwise"])
    assert any(name.startswith("local.") for name in adapted)
    assert reach_of(network.local) == reaches


def test_adapted_networks_load_their_own_state_and_are_the_same_by_seed():
    one, other = one_head_enformer(), one_head_enformer()
    randomise(add_lora(one, rank=2, alpha=1, seed=1), 4)
    add_lora(other, rank=2, alpha=1, seed=1)
    same = "context.blocks.0.attention.key.lora_down"
    assert torch.equal(one.state_dict()[same], other.state_dict()[same])
    other.load_state_dict(one.state_dict())
    codes = random_codes(1, 256)
    assert torch.equal(one(codes), other(codes))
    assert torch.equal(copy.deepcopy(one)(codes), one(codes))
    third = one_head_enformer()
    add_lora(third, rank=2, alpha=1, seed=2)
    assert not torch.equal(one.state_dict()[same], third.state_dict()[same])


@pytest.mark.parametrize(
    ("settings_", "told"),
    [
        ({"rank": 0, "alpha": 1}, r"lora: rank=0, alpha=1; wanted a rank of at least 1 and a positive alpha"),
        ({"rank": 1, "alpha": 0}, r"lora: rank=1, alpha=0; wanted"),
        ({"rank": 1, "alpha": float("nan")}, r"lora: rank=1, alpha=nan; wanted"),
        ({"rank": 5, "alpha": 1}, r"lora: rank=5, but context.0.layers.4 has a side of 4 channels; lower the rank"),
        ({"rank": 1, "alpha": 1, "targets": ["attention"]}, r"lora: target 'attention' has no linear layer and no"),
        ({"rank": 1, "alpha": 1, "targets": ["trunk"]}, r"lora: target 'trunk' has no linear layer"),
        ({"rank": 1, "alpha": 1, "targets": []}, r"lora: targets is empty; wanted attention, pointwise, or"),
        (
            {"rank": 1, "alpha": 1, "targets": ["head"], "train_head": True},
            r"lora: head.hidden.1 is of the head, all of which learns; leave it out of targets",
        ),
    ],
)
def test_what_cannot_be_adapted_is_told_and_nothing_is_changed(settings_, told):
    network = small_basenji()
    with pytest.raises(InputError, match=told):
        add_lora(network, **({"targets": ["pointwise"]} | settings_))
    assert all(weight.requires_grad for weight in network.parameters())
    assert not any(isinstance(module, AdaptedLinear | AdaptedConv) for module in network.modules())


def test_adapters_are_added_once_and_merged_once():
    network = small_basenji()
    with pytest.raises(InputError, match="lora: this network has no adapters to merge"):
        merge_lora(network)
    add_lora(network, rank=1, alpha=1, targets=["pointwise"])
    with pytest.raises(InputError, match="lora: this network has adapters; merge them before others are added"):
        add_lora(network, rank=1, alpha=1, targets=["pointwise"])


def test_linear_layers_of_other_networks_are_adapted_by_name():
    geometry = Geometry(window_bp=1000, bin_bp=200, crop_bins=2)
    network = build_danq(DanQConfig(channels=4, lstm_units=4, hidden_units=6), geometry=geometry, num_tracks=3)
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    assert linear
    assert set(add_lora(network, rank=1, alpha=1, targets=["head"])) >= set(linear)
