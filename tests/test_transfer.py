import copy
import dataclasses
import json
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cisray.baselines.kmer_ridge import KmerRidgeConfig
from cisray.bundle import Predictor, build_network, bundle_digest, head_tracks, shared_geometry, write_bundle
from cisray.config import check_settings
from cisray.datasets.card import Track
from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.basenji import BasenjiConfig
from cisray.models.basenji2 import Basenji2Config
from cisray.models.bpnet import BPNetConfig
from cisray.transfer import LoraSpec, StartSpec, bare_weights, start_from
from large_networks import SMALL_ENFORMER, numbered_weights, random_codes

GEOMETRY = Geometry(window_bp=256, bin_bp=16, crop_bins=4)
PARTS = ("local", "context", "head")
BASENJI = BasenjiConfig(stem_channels=6, channels=8, dilated_layers=2, dilated_channels=4, head_channels=8, dropout=0.5)
BASENJI2 = Basenji2Config(stem_channels=6, channels=8, dilated_layers=1, dilated_channels=4, head_channels=8)
ENFORMER = dataclasses.replace(SMALL_ENFORMER, transformer_blocks=1)


def tracks(*names):
    return tuple(Track(name=name, file=f"{name}.bw") for name in names)


@pytest.fixture
def card(make_card):
    return make_card(geometry=GEOMETRY, tracks=tracks("a", "b", "c"))


@pytest.fixture
def other_tracks(make_card):
    return make_card(geometry=GEOMETRY, tracks=tracks("d", "b", "c"))


@pytest.fixture
def make_bundle(tmp_path):
    """Write a bundle with weights of its own and return its folder."""

    def make(config, cards, name="bundle"):
        network = fresh(config, cards)
        weights = numbered_weights(network.state_dict())
        write_bundle(tmp_path / name, weights=weights, config=config, cards=cards, metrics={}, objective="poisson")
        return tmp_path / name

    return make


def fresh(config, cards):
    return build_network(config, geometry=shared_geometry(cards), num_tracks=head_tracks(cards))


def start(config, cards, bundle_dir, *, seed=3, **spec):
    """Build a network, start it from the bundle, and return both what it is and what is told of it."""
    torch.manual_seed(9)
    network = fresh(config, cards)
    spec = StartSpec(model=str(bundle_dir), **spec)
    started = start_from(
        network, spec, bundle_dir=bundle_dir, cards=cards, build=partial(fresh, config, cards), seed=seed
    )
    return network, started


def weights_of(bundle_dir, **settings):
    return Predictor(bundle_dir, **settings).network.state_dict()


def two_steps(network, *head):
    """Take two large steps of training on random windows."""
    network.train()
    optimizer = torch.optim.AdamW([weight for weight in network.parameters() if weight.requires_grad], lr=0.1)
    for seed in range(2):
        optimizer.zero_grad()
        network(random_codes(4, 256, seed=seed), *head).square().mean().backward()
        optimizer.step()
    return network.eval()


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("config", [BASENJI, BASENJI2, ENFORMER], ids=lambda each: each.architecture)
def test_a_network_of_the_same_tracks_begins_where_the_bundle_stands(make_bundle, card, config):
    folder = make_bundle(config, card)
    network, started = start(config, card, folder)
    assert not moved(weights_of(folder), network.state_dict())
    assert set(started.taken) == set(network.state_dict())
    assert (started.left, started.new, started.renewed, started.frozen, started.adapted) == ({}, (), (), (), ())
    assert (started.new_head, started.new_heads) == (False, ())
    assert (started.digest, started.architecture) == (bundle_digest(folder), config.architecture)
    # of the card in conftest.py
    assert started.seen == (("train", "chr1", "cd34", 0, 5000), ("valid", "chr2", "ef56", 0, 100))
    model = json.loads((folder / "model.json").read_text())
    model["made_by"]["started"] = {"seen": [["train", "chr9", "gh78", 3, 5]]}
    (folder / "model.json").write_text(json.dumps(model))
    assert start(config, card, folder)[1].facts["seen"][2:] == [["train", "chr9", "gh78", 3, 5]]
    assert started.num_learning == started.num_parameters == sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize("config", [BASENJI, BASENJI2], ids=lambda each: each.architecture)
@pytest.mark.parametrize("names", [("d", "b", "c"), ("b", "a", "c"), ("a", "b")])
def test_a_head_of_other_tracks_is_new_even_where_its_shape_fits(make_bundle, make_card, card, config, names):
    folder = make_bundle(config, card)
    cards = make_card(geometry=GEOMETRY, tracks=tracks(*names))
    network, started = start(config, cards, folder)
    torch.manual_seed(9)
    unstarted = fresh(config, cards).state_dict()
    ours = {name for name in unstarted if name.startswith("head.tracks")}
    assert {name for name in unstarted if name not in started.taken} == set(started.new) == set(started.left) == ours
    assert not moved({name: unstarted[name] for name in ours}, network.state_dict())
    given = weights_of(folder)
    assert not moved({name: given[name] for name in given if name not in ours}, network.state_dict())
    assert set(started.left.values()) == {"of the tracks a, b, c, which are not the network's"}
    assert (started.new_head, started.new_heads) == (True, (None,))


def test_all_of_a_profile_head_belongs_to_its_tracks(make_bundle, make_card):
    geometry = Geometry(window_bp=64, bin_bp=1)
    config = BPNetConfig(channels=4, dilated_layers=1)
    ours, theirs = (make_card(geometry=geometry, tracks=tracks(name)) for name in "ab")
    _, started = start(config, ours, make_bundle(config, theirs))
    assert set(started.new) == {
        f"head.{layer}.{part}" for layer in ("profile", "counts") for part in ("weight", "bias")
    }
    assert started.new_head
    assert start(config, theirs, make_bundle(config, theirs))[1].new == ()


def test_several_heads_continue_those_of_their_names(make_bundle, card, other_tracks):
    folder = make_bundle(BASENJI2, {"human": card, "mouse": card, "worm": card})
    ours = {"yeast": card, "human": card, "worm": other_tracks}
    network, started = start(BASENJI2, ours, folder)
    assert started.new_heads == ("yeast", "worm")
    assert set(started.new) == {
        f"head.tracks.{head}.{part}" for head in ("yeast", "worm") for part in ("weight", "bias")
    }
    assert {name.split(".")[2]: reason for name, reason in started.left.items()} == {
        "mouse": "the network has no such weight",
        "worm": "of the tracks a, b, c, which are not the network's",
    }
    codes = random_codes(2, 256)
    with torch.inference_mode():
        torch.testing.assert_close(network.eval()(codes, "human"), Predictor(folder, head="human")(codes))


@pytest.mark.parametrize("names", [("human", "mouse"), ("tracks", "human")])
def test_an_only_head_continues_the_one_that_is_named(make_bundle, card, other_tracks, names):
    folder = make_bundle(BASENJI2, {names[0]: other_tracks, names[1]: card})
    network, started = start(BASENJI2, card, folder, head=names[1])
    codes = random_codes(2, 256)
    with torch.inference_mode():
        torch.testing.assert_close(network.eval()(codes), Predictor(folder, head=names[1])(codes))
    assert not started.new_head
    assert len(started.left) == 2  # weight and bias of the other
    _, started = start(BASENJI2, card, folder)
    assert started.new_head
    assert len(started.left) == 4
    _, started = start(BASENJI2, card, folder, head=names[0])
    assert started.new_head  # its tracks are others


def test_a_head_that_is_not_there_is_told(make_bundle, card):
    folder = make_bundle(BASENJI2, {"human": card, "mouse": card})
    with pytest.raises(
        InputError, match=r"bundle \(basenji2\): start.head=rat: no such head; the bundle has human, mouse"
    ):
        start(BASENJI2, card, folder, head="rat")
    with pytest.raises(
        InputError, match=r"start\.head=human: the network has several heads, which continue those of their"
    ):
        start(BASENJI2, {"human": card, "rat": card}, folder, head="human")
    folder = make_bundle(BASENJI, card, "one")
    with pytest.raises(
        InputError, match=r"start\.head=rat: no such head; the bundle has one without a name: leave start"
    ):
        start(BASENJI, card, folder, head="rat")


def test_what_differs_outside_the_head_is_told_unless_it_is_renewed(make_bundle, card):
    folder = make_bundle(BASENJI, card)
    narrow = dataclasses.replace(BASENJI, dilated_channels=6)
    message = (
        r"start: .*bundle \(basenji\): context.0.layers.1.weight is \[4, 8, 3\] there and \[6, 8, 3\] in the network"
    )
    with pytest.raises(
        InputError, match=message + "; .*; give the network the architecture and sizes of the bundle, or"
    ):
        start(narrow, card, folder)
    network, started = start(narrow, card, folder, renew=("context",))
    assert all(name.startswith("context.") for name in started.renewed)
    torch.manual_seed(3)
    expected = fresh(narrow, card).state_dict()
    assert not moved({name: expected[name] for name in started.renewed}, network.state_dict())
    assert set(started.taken) == {name for name in expected if not name.startswith("context.")}
    assert (started.new, started.new_head) == ((), False)
    for layers in (1, 3):  # a deeper network misses what the bundle lacks, a shallower one has no place for it
        other = dataclasses.replace(BASENJI, dilated_layers=layers)
        with pytest.raises(
            InputError, match=r"context\.\d.* is (missing there and \[|\[.*\] there and missing in the net)"
        ):
            start(other, card, folder)
        assert set(start(other, card, folder, renew=("context",))[1].left.values()) == {"not wanted"}
    with pytest.raises(InputError, match=r"\(basenji\): context\.0\.layers\.0.* and \d+ more; give the network"):
        start(BASENJI2, card, folder)


def test_bins_of_another_length_are_told_unless_local_is_renewed(make_bundle, make_card, card):
    folder = make_bundle(BASENJI, card)  # bins of 2 * 2 * 2 * 2 bp, and of 3 * 3 * 3 * 3
    longer = make_card(geometry=Geometry(window_bp=810, bin_bp=81, crop_bins=1), tracks=card.tracks)
    with pytest.raises(InputError, match=r"predicts bins of 16 bp, and the dataset has bins of 81 bp, for which local"):
        start(BASENJI, longer, folder)
    assert not start(BASENJI, longer, folder, renew=("local",))[1].new_head


def test_a_renewed_head_is_a_new_one(make_bundle, card):
    _, started = start(BASENJI, card, make_bundle(BASENJI, card), renew=("head",))
    assert (started.new_heads, started.new) == ((None,), ())
    assert set(started.left.values()) == {"not wanted"}


@pytest.mark.parametrize(
    "freeze", [("local",), ("context",), ("local", "context"), ("head", "context.0"), ("head.hidden",)]
)
def test_what_is_frozen_keeps_every_bit_of_the_bundle(make_bundle, card, freeze):
    folder = make_bundle(BASENJI, card)
    network, started = start(BASENJI, card, folder, freeze=freeze)
    two_steps(network)
    changed = moved(weights_of(folder), network.state_dict())
    held = {name for name in network.state_dict() if f"{name}.".startswith(tuple(f"{part}." for part in freeze))}
    assert changed == set(network.state_dict()) - held  # statistics of batch norms on either side
    assert set(started.frozen) == held & {name for name, _ in network.named_parameters()}
    assert started.num_learning == sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    assert not moved(network.state_dict(), bare_weights(network))


# one bundle serves all examples, which change a network of their own
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.sampled_from(PARTS), max_size=2), st.data())
def test_every_weight_is_taken_new_or_renewed_and_learns_unless_it_is_frozen(
    make_bundle, card, other_tracks, renew, data
):
    freeze = data.draw(st.sets(st.sampled_from(["local", "context", "head.hidden"]), max_size=3))
    freeze -= renew | ({"head.hidden"} if "head" in renew else set())
    network, started = start(
        BASENJI, other_tracks, make_bundle(BASENJI, card), renew=sorted(renew), freeze=sorted(freeze)
    )
    parts = [set(started.taken), set(started.new), set(started.renewed)]
    assert set.union(*parts) == set(network.state_dict())
    assert sum(map(len, parts)) == len(network.state_dict())
    assert {name.split(".")[0] for name in started.renewed} == renew
    assert started.new_head
    learning = {name for name, weight in network.named_parameters() if weight.requires_grad}
    assert learning == {
        name for name, _ in network.named_parameters() if not any(name.startswith(f"{part}.") for part in freeze)
    }


def test_low_rank_changes_begin_at_the_bundle_and_move_nothing_else(make_bundle, card, tmp_path):
    folder = make_bundle(ENFORMER, card)
    network, started = start(ENFORMER, card, folder, lora=LoraSpec(rank=2, alpha=4.0, train_head=False))
    codes = random_codes(2, 256)
    with torch.inference_mode():
        assert torch.equal(network.eval()(codes), Predictor(folder).network(codes))
    assert len(started.adapted) == 5
    assert all(".lora_" in name for name in network.state_dict() if name not in started.frozen + started.taken)
    two_steps(network)
    assert moved(weights_of(folder), network.state_dict()) == set()
    changed = bare_weights(network)
    assert moved(weights_of(folder), changed) == {f"{layer}.weight" for layer in started.adapted}
    write_bundle(tmp_path / "tuned", weights=changed, config=ENFORMER, cards=card, metrics={}, objective="poisson")
    tuned = Predictor(tmp_path / "tuned")
    with torch.inference_mode():
        expected = network(codes)
        assert not torch.allclose(expected, Predictor(folder).network(codes), rtol=1e-2)
    torch.testing.assert_close(tuned.network(codes), expected, rtol=1e-5, atol=1e-5)
    again, _ = start(ENFORMER, card, tmp_path / "tuned", lora=LoraSpec(rank=1))  # adapters on what adapters made
    with torch.inference_mode():
        torch.testing.assert_close(again.eval()(codes), expected, rtol=1e-5, atol=1e-5)


def test_an_earlier_state_is_made_bare_without_touching_the_network(make_bundle, card):
    network, _ = start(ENFORMER, card, make_bundle(ENFORMER, card), lora=LoraSpec(rank=2))
    two_steps(network)
    best = copy.deepcopy(network.state_dict())
    expected = copy.deepcopy(bare_weights(network))
    two_steps(network)
    after = copy.deepcopy(network.state_dict())
    assert moved(expected, bare_weights(network))
    assert not moved(expected, bare_weights(network, best))
    assert not moved(after, network.state_dict())
    plain = fresh(BASENJI, card)
    assert bare_weights(plain, {"x": torch.ones(1)}) == {"x": torch.ones(1)}


def test_low_rank_changes_leave_a_new_head_to_learn(make_bundle, card, other_tracks):
    folder = make_bundle(ENFORMER, card)
    network, started = start(
        ENFORMER, other_tracks, folder, lora=LoraSpec(rank=2, targets=("context.blocks.0.attention",))
    )
    assert started.new_head
    assert not any(name.startswith("head.") for name in started.frozen)
    two_steps(network)
    head = {name for name, weight in network.named_parameters() if name.startswith("head.")}
    assert moved(weights_of(folder), network.state_dict()) >= head
    with pytest.raises(
        InputError, match=r"head.tracks.tracks.weight, head.tracks.tracks.bias begin anew and are frozen"
    ):
        start(ENFORMER, other_tracks, folder, lora=LoraSpec(rank=2, train_head=False))


def test_what_begins_anew_and_would_never_learn_is_told(make_bundle, card, other_tracks):
    folder = make_bundle(BASENJI, card)
    with pytest.raises(
        InputError, match=r"start: .*\(basenji\): head.tracks.weight, head.tracks.bias begin anew and are"
    ):
        start(BASENJI, other_tracks, folder, freeze=("head",))
    with pytest.raises(
        InputError, match=r"context.0.* and \d+ more begin anew and are frozen, so that they would never"
    ):
        start(BASENJI, card, folder, renew=("context",), freeze=("context",))
    with pytest.raises(
        InputError, match=r"freeze=\['local', 'context', 'head'\] leaves nothing that learns; leave a part"
    ):
        start(BASENJI, card, folder, freeze=PARTS)


def test_a_layer_is_adapted_or_frozen(make_bundle, card):
    folder = make_bundle(ENFORMER, card)
    lora = LoraSpec(rank=2)
    with pytest.raises(
        InputError, match=r"context\.blocks\.0.* is adapted by lora and frozen by freeze=\['context'\]; leave it"
    ):
        start(ENFORMER, card, folder, lora=lora, freeze=("context",))
    _, started = start(ENFORMER, card, folder, lora=lora, freeze=("head.shared",))
    assert {name for name in started.taken if name.startswith("head.shared")} & set(started.frozen)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"renew": ("stem",)},
            r"start: .*bundle \(basenji\): part 'stem' names no weight; wanted one of local, context",
        ),
        (
            {"freeze": ("stem",)},
            r"start: .*bundle \(basenji\): part 'stem' names no weight; wanted one of local, context",
        ),
        ({"lora": LoraSpec()}, r"start: .*\(basenji\): lora: target 'attention' has no linear layer"),
        ({"lora": LoraSpec(rank=99, targets=("pointwise",))}, r"start: .*\(basenji\): lora: rank=99, but context"),
        ({"renew": PARTS}, r"start: .*\(basenji\): none of \d+ weights fits the network"),
    ],
)
def test_parts_and_layers_that_are_not_there_are_told(make_bundle, card, spec, message):
    folder = make_bundle(BASENJI, card)
    with pytest.raises(InputError, match=message):
        start(BASENJI, card, folder, **spec)


def test_a_linear_baseline_begins_with_nothing(make_bundle, card):
    folder = make_bundle(BASENJI, card)
    with pytest.raises(
        InputError, match=r"\(basenji\): a KmerRidge has no local, context and head that it could begin"
    ):
        start(KmerRidgeConfig(k=2, contexts_bp=(8,)), card, folder)
    folder = make_bundle(KmerRidgeConfig(k=2, contexts_bp=(8,)), card, "linear")
    with pytest.raises(InputError, match=r"\(kmer_ridge\): local.0.* is missing there and"):
        start(BASENJI, card, folder)


def test_the_facts_are_plain_values(make_bundle, card, other_tracks):
    _, started = start(ENFORMER, other_tracks, make_bundle(ENFORMER, card), lora=LoraSpec(rank=2))
    facts = json.loads(json.dumps(started.facts))
    assert facts["left"]["count"] == len(facts["left"]["names"]) == 2
    assert facts["taken"] == {"count": len(started.taken), "names": list(started.taken)}
    assert facts["adapted"]["count"] == 5
    assert facts["new_heads"] == [None]
    assert facts["num_learning"] < facts["num_parameters"]
    assert facts["digest"] == started.digest


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"freeze": ["local"]},
            "start: head, renew, freeze and lora say what becomes of a trained network; set start.mod",
        ),
        ({"lora": {}}, "start: head, renew, freeze and lora say what becomes of a trained network"),
        (
            {"model": "m", "lora": {"rank": 0}},
            r"start.lora: rank=0, alpha=8.0, targets=\['attention'\]; wanted a rank of",
        ),
        ({"model": "m", "lora": {"alpha": float("inf")}}, "lora.alpha = inf; wanted a finite number"),
        ({"model": "m", "lora": {"targets": []}}, r"start.lora: .* targets=\[\]; wanted .* at least one target"),
        ({"model": "m", "frozen": ["local"]}, "unknown key frozen"),
    ],
)
def test_settings_that_make_no_sense_are_told(values, message):
    with pytest.raises(InputError, match=message):
        check_settings(values, StartSpec, source="job.toml")


def test_a_section_of_a_job_file_is_read():
    values = {"model": "models:/yeast@champion", "freeze": ["local"], "lora": {"rank": 4, "targets": ["pointwise"]}}
    spec = check_settings(values, StartSpec, source="job.toml")
    assert spec == StartSpec(
        model="models:/yeast@champion", freeze=("local",), lora=LoraSpec(rank=4, targets=("pointwise",))
    )
    assert StartSpec().model is None
