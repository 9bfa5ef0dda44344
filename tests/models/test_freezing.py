import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.basenji import BasenjiConfig, build_basenji
from cisray.models.freezing import StillBatchNorm, freeze, is_in, reinitialise, take_weights, unfreeze
from large_networks import numbered_weights, random_codes, small_enformer

PARTS = ("local", "context", "head")


def fresh_basenji(num_tracks=3):
    config = BasenjiConfig(
        stem_channels=6, channels=8, dilated_layers=2, dilated_channels=4, head_channels=8, dropout=0.5
    )
    return build_basenji(config, geometry=Geometry(window_bp=64, bin_bp=8, crop_bins=1), num_tracks=num_tracks)


def small_basenji(num_tracks=3):
    network = fresh_basenji(num_tracks)
    network.load_state_dict(numbered_weights(network.state_dict()))
    return network


def one_step(network):
    """Take one large step of training on random windows."""
    network.train()
    learning = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=0.1, weight_decay=0.1)
    network(random_codes(4, 64)).square().mean().backward()
    optimizer.step()


def moved(before, network):
    return {name for name, weight in network.state_dict().items() if not torch.equal(weight, before[name])}


@settings(max_examples=8)
@given(st.sets(st.sampled_from(PARTS), min_size=1, max_size=2))
def test_what_is_frozen_does_not_move_in_a_step_and_the_rest_does(parts):
    network = small_basenji()
    before = copy.deepcopy(network.state_dict())
    frozen = freeze(network, sorted(parts))
    assert frozen == [name for name, _ in network.named_parameters() if name.split(".")[0] in parts]
    one_step(network)
    changed = moved(before, network)
    assert {name.split(".")[0] for name in changed} == set(PARTS) - parts
    assert changed == {name for name in before if name.split(".")[0] not in parts}  # statistics of norms among them


def test_without_freezing_a_step_moves_the_statistics_of_all_norms():
    network = small_basenji()
    before = copy.deepcopy(network.state_dict())
    one_step(network)
    assert moved(before, network) == set(before)


def test_a_frozen_local_computes_in_training_what_it_does_in_evaluation():
    network = small_basenji().eval()
    hidden = torch.randn(2, 4, 64, generator=torch.Generator().manual_seed(0))
    expected = network.local(hidden)
    assert not torch.equal(network.train().local(hidden), expected)
    network.load_state_dict(numbered_weights(network.state_dict()))  # training has moved the norms
    freeze(network, ["local"])
    assert torch.equal(network.train().local(hidden), expected)
    assert torch.equal(copy.deepcopy(network).local(hidden), expected)


def test_a_part_is_a_prefix_that_ends_at_a_dot():
    network = small_basenji()
    frozen = freeze(network, ["context.0", "local.1.2.weight"])
    of_block = [name for name, _ in network.named_parameters() if name.startswith("context.0.")]
    assert len(of_block) == 6
    assert frozen == ["local.1.2.weight", *of_block]
    assert type(network.local[1][2]) is nn.BatchNorm1d  # only its weight is frozen, not the layer
    assert is_in("context.1.a", ["context.1"])
    assert not is_in("context.10.a", ["context.1"])


def test_freezing_changes_no_name_and_unfreezing_takes_it_back():
    network = small_basenji().train()
    names = list(network.state_dict())
    freeze(network, PARTS)
    assert list(network.state_dict()) == names
    assert not any(weight.requires_grad for weight in network.parameters())
    assert any(type(module) is StillBatchNorm for module in network.modules())
    unfreeze(network)
    assert all(weight.requires_grad for weight in network.parameters())
    assert all(module.training for module in network.modules())
    assert not any(type(module) is StillBatchNorm for module in network.modules())


@pytest.mark.parametrize("part", ["loca", "tower", ""])
def test_a_part_that_names_nothing_is_told(part):
    with pytest.raises(InputError, match=rf"part '{part}' names no weight; wanted one of local, context, head, or the"):
        freeze(small_basenji(), ["head", part])


def test_no_part_is_told():
    with pytest.raises(InputError, match="no part is named; wanted local, context, head or finer"):
        freeze(small_basenji(), [])


def test_what_begins_anew_is_what_a_new_network_has_and_the_rest_stays():
    network = small_basenji()
    before = copy.deepcopy(network.state_dict())
    state = torch.random.get_rng_state()
    renewed = reinitialise(network, ["context", "head.tracks"], build=fresh_basenji, seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert moved(before, network) <= set(renewed)
    assert set(renewed) == {name for name in before if name.startswith(("context.", "head.tracks."))}
    torch.manual_seed(5)
    expected = fresh_basenji().state_dict()
    assert all(torch.equal(network.state_dict()[name], expected[name]) for name in renewed)
    assert not network.context[0].layers[5].weight.any()  # the residual blocks begin as the identity again
    again, other = small_basenji(), small_basenji()
    reinitialise(again, ["context", "head.tracks"], build=fresh_basenji, seed=5)
    reinitialise(other, ["context", "head.tracks"], build=fresh_basenji, seed=6)
    assert not moved(network.state_dict(), again)
    assert moved(network.state_dict(), other)


def test_a_network_that_begins_otherwise_is_told():
    with pytest.raises(InputError, match=r"head.tracks.weight is \[3, 8, 1\], and \[4, 8, 1\] there in the network"):
        reinitialise(small_basenji(), ["head"], build=lambda: fresh_basenji(4), seed=0)
    with pytest.raises(InputError, match=r"context.0.layers.1.weight is .*, and not there in the network it is to"):
        reinitialise(small_basenji(), ["context"], build=small_enformer, seed=0)


def test_weights_that_fit_are_taken_and_all_others_are_told():
    network, given = fresh_basenji(3), small_basenji(4).state_dict()
    before = copy.deepcopy(network.state_dict())
    given["head.third.weight"] = torch.zeros(1)
    del given["local.0.1.weight"]
    told = take_weights(network, given, but_not=["context.1"])
    after = network.state_dict()
    assert all(torch.equal(after[name], given[name]) for name in told.taken)
    assert all(torch.equal(after[name], before[name]) for name in told.missing)
    assert set(told.taken) | set(told.left) == set(given)
    assert set(told.taken) | set(told.missing) == set(before)
    assert told.left["head.third.weight"] == "the network has no such weight"
    assert told.left["head.tracks.weight"] == "[4, 8, 1], and [3, 8, 1] in the network"
    assert {name for name, why in told.left.items() if why == "not wanted"} == {
        name for name in before if name.startswith("context.1.")
    }
    assert {"local.0.1.weight", "head.tracks.weight", "head.tracks.bias"} <= set(told.missing)


def test_weights_of_the_same_network_are_all_taken():
    network, given = fresh_basenji(), small_basenji().state_dict()
    told = take_weights(network, given)
    assert told == (tuple(given), {}, ())
    assert not moved(given, network)


def test_weights_of_which_none_fits_are_told():
    with pytest.raises(InputError, match=r"none of 1 weights fits the network: x: the network has no such weight"):
        take_weights(small_basenji(), {"x": torch.zeros(1)})
    given = {f"x{number}": torch.zeros(1) for number in range(10)}
    with pytest.raises(InputError, match=r"none of 10 weights fits the network: x0: .*x7: .*; and 2 more"):
        take_weights(small_basenji(), given)
    with pytest.raises(InputError, match="none of 0 weights fits the network: there are none"):
        take_weights(small_basenji(), {})
    with pytest.raises(InputError, match="part 'heads' names no weight"):
        take_weights(small_basenji(), small_basenji().state_dict(), but_not=["heads"])
