import dataclasses
import json
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import skops.io
import torch
from safetensors.torch import load_file, save_file

from cisray.baselines.feature_sets import Composition, Kmers, RegionKmers
from cisray.baselines.fitting import fit_shallow
from cisray.baselines.gkm_estimator import GkmSvmConfig
from cisray.baselines.gkm_filters import GkmSpec
from cisray.baselines.kmer_ridge import KmerRidgeConfig
from cisray.baselines.linear import LinearConfig
from cisray.baselines.trees import GradientBoostingConfig, RandomForestConfig
from cisray.bundle import (
    SHALLOW,
    WITH_NAMED_HEADS,
    Predictor,
    _load_pyfunc,
    build_network,
    bundle_digest,
    head_tracks,
    read_cards,
    read_config,
    read_weights,
    shared_geometry,
    write_bundle,
)
from cisray.datasets.transforms import to_natural
from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.basenji import BasenjiConfig
from cisray.models.basenji2 import Basenji2Config
from cisray.models.catalog import ARCHITECTURES
from cisray.models.heads import NamedHeads
from cisray.models.reach import reach_of
from cisray.training.batches import reverse_complement, swap_strands

GEOMETRY = Geometry(window_bp=64, bin_bp=8, crop_bins=1)
CONFIGS = {
    "basenji": BasenjiConfig(
        stem_channels=6, channels=8, dilated_layers=2, dilated_channels=4, head_channels=8, dropout=0.5
    ),
    "kmer_ridge": KmerRidgeConfig(k=2, contexts_bp=(8, 32)),
}


def random_codes(num_windows, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 5, (num_windows, 64), np.uint8))


def moved_network(config):
    """Build a network with weights that differ from those a fresh one would have."""
    return moved_weights(build_network(config, geometry=GEOMETRY, num_tracks=3))


def moved_weights(network):
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in network.state_dict().items():
            if weight.is_floating_point():
                value = 3 * torch.randn(weight.shape)
                weight.copy_(value.abs() + 0.5 if name.endswith("running_var") else value)
    return network.eval()


@pytest.fixture(params=sorted(CONFIGS))
def config(request):
    return CONFIGS[request.param]


@pytest.fixture
def card(make_card):
    return make_card(geometry=GEOMETRY)


@pytest.fixture
def bundle(tmp_path, config, card):
    """Write a bundle and return its folder and the network that is in it."""
    network = moved_network(config)
    folder = tmp_path / "bundle"
    metrics = {"valid.pearson": 0.5, "history": [{"valid.r2": float("nan")}]}
    write_bundle(folder, weights=network.state_dict(), config=config, cards=card, metrics=metrics, objective="poisson")
    return folder, network


def change_json(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_a_loaded_bundle_predicts_what_the_network_did_on_the_natural_scale(bundle, config, card):
    folder, network = bundle
    predictor, codes = Predictor(folder), random_codes(5)
    with torch.no_grad():
        targets = network(codes).double().numpy()
    # by hand: above the soft clip of 4, sqrt(x - 4 + 1) was added to 3; then everything was doubled; track 3 is plain
    stranded = np.where(targets > 4, (targets - 4 + 1) ** 2 - 1 + 4, targets) / 2.0
    expected = np.where([True, True, False], stranded, targets)
    assert (targets > 4).any()
    assert (targets < 4).any()
    np.testing.assert_allclose(predictor(codes), expected, rtol=1e-4)
    np.testing.assert_allclose(predictor.predict(codes.numpy()), expected, rtol=1e-4)
    np.testing.assert_allclose(to_natural(targets, card.transforms()), expected, rtol=1e-9)
    assert predictor.config == config
    assert predictor.card == card
    assert predictor(codes).dtype == torch.float32
    assert (predictor.head, predictor.link) == (None, "identity")
    assert torch.equal(predictor.natural_values(predictor.network(codes)), predictor(codes))


def test_predictions_do_not_depend_on_the_company_or_the_call(bundle):
    predictor, codes = Predictor(bundle[0]), random_codes(5)
    assert torch.equal(predictor(codes), predictor(codes))  # dropout is off
    torch.testing.assert_close(predictor(codes)[2:3], predictor(codes[2:3]))
    assert not any(weight.grad for weight in predictor.network.parameters())


@pytest.mark.parametrize(
    ("made_by", "learned"),
    [
        ({"training": {"reverse_complement": False}}, "forward"),
        ({"training": {"reverse_complement": True}}, "both"),
        ({"imported": {"weights": "ab12"}}, "both"),
    ],
)
def test_a_model_reads_the_strands_that_it_learned(bundle, tmp_path, made_by, learned):
    folder = shutil.copytree(bundle[0], tmp_path / "taught")
    model = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(model | {"made_by": made_by}))
    predictor, codes = Predictor(folder), random_codes(5)
    forward, both = predictor(codes), predictor.both_strands(codes)
    assert (predictor.learned_strands, predictor.resolve("learned")) == (learned, learned)
    assert torch.equal(predictor.reading("learned")(codes), forward if learned == "forward" else both)
    assert torch.equal(predictor.reading("forward")(codes), forward)
    assert torch.equal(predictor.reading("both")(codes), both)


def test_both_strands_read_alike_from_either_side(bundle):
    predictor, codes = Predictor(bundle[0]), random_codes(5)
    both = predictor.both_strands(codes)
    turned = predictor.both_strands(reverse_complement(codes))
    torch.testing.assert_close(swap_strands(turned, predictor.swap), both)
    one = predictor(codes)
    assert not torch.allclose(both, one)
    other = predictor(reverse_complement(codes)).flip(1)
    torch.testing.assert_close(both[:, :, 0], (one[:, :, 0] + other[:, :, 1]) / 2)
    torch.testing.assert_close(both[:, :, 2], (one[:, :, 2] + other[:, :, 2]) / 2)


def test_a_bundle_is_four_plain_files(bundle, config):
    folder, network = bundle
    assert sorted(path.name for path in folder.iterdir()) == [
        "card.json",
        "metrics.json",
        "model.json",
        "weights.safetensors",
    ]
    stored = load_file(folder / "weights.safetensors")
    assert all(torch.equal(stored[name], weight) for name, weight in network.state_dict().items())
    model = json.loads((folder / "model.json").read_text())
    assert model["model"]["architecture"] == config.architecture
    assert json.loads((folder / "metrics.json").read_text()) == {
        "valid.pearson": 0.5,
        "history": [{"valid.r2": None}],  # JSON has no NaN
    }


def test_the_digest_tells_what_predicts_apart_and_nothing_else(bundle):
    folder, _ = bundle
    digest = Predictor(folder).digest
    (folder / "metrics.json").write_text("{}")
    assert Predictor(folder).digest == digest
    weights = load_file(folder / "weights.safetensors")
    weights[min(weights)] = weights[min(weights)] + 1
    save_file(weights, folder / "weights.safetensors")
    assert Predictor(folder).digest != digest


class Attack:
    """What runs code when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("dump", [pickle.dump, torch.save])
def test_a_pickle_in_place_of_the_weights_is_refused_and_does_not_run(bundle, tmp_path, dump):
    folder, _ = bundle
    harmed = tmp_path / "harmed"
    with (folder / "weights.safetensors").open("wb") as handle:
        dump(Attack(harmed), handle)
    with pytest.raises(InputError, match=r"weights\.safetensors: these weights are damaged, or none: .*copy them"):
        Predictor(folder)
    assert not harmed.exists()
    with (folder / "weights.safetensors").open("rb") as handle:  # the attack is a real one
        torch.load(handle, weights_only=False) if dump is torch.save else pickle.load(handle)
    assert harmed.exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "model.json", "card.json"])
def test_a_file_that_a_link_leads_out_of_the_bundle_is_not_read(bundle, tmp_path, name):
    folder, _ = bundle
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"'{re.escape(name)}' leads out of this bundle, and is not read; copy the"):
        Predictor(folder)
    with pytest.raises(InputError, match="leads out of this bundle"):
        bundle_digest(folder)


def test_trees_that_a_link_leads_out_of_the_bundle_are_not_read(bundle, tmp_path):
    folder, _ = bundle
    (folder / "trees.skops").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match=r"'trees\.skops' leads out of this bundle"):
        read_weights(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model["model"].update(architecture="os.system"), r"model\.json: .*'os\.system'"),
        (lambda model: model["model"].update(layers=3), r"model\.json: .*layers: Unexpected keyword"),
        (lambda model: model["model"].pop("architecture"), r"model\.json: .*discriminator 'architecture'"),
        (lambda model: model.update(schema_version=9), r"schema version 9; this cisray reads 1"),
        (lambda model: model.pop("model"), r"model\.json: .*Input should be"),
    ],
)
def test_a_model_that_is_none_of_ours_is_refused(bundle, change, message):
    folder, _ = bundle
    change_json(folder / "model.json", change)
    with pytest.raises(InputError, match=message):
        Predictor(folder)


def test_weights_of_another_shape_or_name_are_refused(bundle):
    folder, network = bundle
    path, weights = folder / "weights.safetensors", network.state_dict()
    name = next(iter(weights))
    for changed in (
        weights | {name: weights[name][..., :-1].contiguous()},
        weights | {"more": torch.zeros(1)},
        {other: weights[other] for other in weights if other != name},
    ):
        save_file(changed, path)
        with pytest.raises(
            InputError, match=r"weights\.safetensors: these weights do not fit the network of model\.json"
        ):
            Predictor(folder)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        InputError, match=r"weights\.safetensors: these weights are damaged, or none: .*; copy them again"
    ):
        Predictor(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "model.json", "card.json"])
def test_a_missing_file_is_named(bundle, name):
    (bundle[0] / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file"):
        Predictor(bundle[0])


def test_a_card_of_other_tracks_does_not_belong_to_the_weights(bundle):
    folder, _ = bundle
    change_json(folder / "card.json", lambda card: card["tracks"].pop())
    with pytest.raises(InputError, match="these weights do not fit the network"):
        Predictor(folder)


def test_a_bundle_is_replaced_whole(bundle, config, card):
    folder, network = bundle
    (folder / "old").touch()
    write_bundle(folder, weights=network.state_dict(), config=config, cards=card, metrics={}, objective="poisson")
    assert not (folder / "old").exists()
    assert Predictor(folder).config == config


TWO_HEADS = Basenji2Config(
    stem_channels=6, channels=8, dilated_layers=1, dilated_channels=4, head_channels=8, dilated_dropout=0.5
)


@pytest.fixture
def cards(card, make_card):
    """Make the cards of two heads: three tracks, and one of them with a margin of its own."""
    geometry = dataclasses.replace(GEOMETRY, margin_bp=5)
    return {
        "mouse": card,
        "human": make_card(geometry=geometry, tracks=(dataclasses.replace(card.tracks[2], scale=0.5),)),
    }


def write_two(folder, cards, **changes):
    network = build_network(TWO_HEADS, geometry=GEOMETRY, num_tracks=head_tracks(cards))
    moved = moved_weights(network)
    given = {"weights": moved.state_dict(), "config": TWO_HEADS, "cards": cards, "metrics": {}, "objective": "poisson"}
    write_bundle(folder, **(given | changes))
    return moved


@pytest.fixture
def two_heads(tmp_path, cards):
    """Write a bundle of two heads and return its folder and its network."""
    return tmp_path / "heads", write_two(tmp_path / "heads", cards)


def test_each_head_of_a_bundle_predicts_its_own_tracks(two_heads, cards):
    folder, network = two_heads
    codes = random_codes(4)
    for name, card in cards.items():
        predictor = Predictor(folder, head=name)
        assert (predictor.head, predictor.card, predictor.cards) == (name, card, cards)
        with torch.no_grad():
            expected = to_natural(network(codes, name), card.transforms())
        torch.testing.assert_close(predictor(codes), expected)
        turned = swap_strands(predictor(reverse_complement(codes)), torch.tensor(card.strand_swap()))
        torch.testing.assert_close(predictor.both_strands(codes), (expected + turned) / 2)
        assert predictor(codes).shape == (4, 6, len(card.tracks))
        np.testing.assert_array_equal(_load_pyfunc(str(folder), {"head": name}).predict(codes.numpy()), expected)


def test_a_bundle_of_several_heads_has_a_card_for_each(two_heads, cards):
    folder, _ = two_heads
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == ["cards/human.json", "cards/mouse.json", "metrics.json", "model.json", "weights.safetensors"]
    assert json.loads((folder / "model.json").read_text())["heads"] == ["mouse", "human"]
    assert list(read_cards(folder).items()) == list(cards.items())
    assert read_config(folder) == TWO_HEADS
    write_two(folder.parent / "again", read_cards(folder))
    assert bundle_digest(folder.parent / "again") == bundle_digest(folder)


def test_one_card_has_no_heads_and_a_head_may_be_named(bundle, card, tmp_path, cards):
    assert read_cards(bundle[0]) == {None: card}
    assert "heads" not in json.loads((bundle[0] / "model.json").read_text())
    assert head_tracks(card) == head_tracks({None: card}) == 3
    one = {"mouse": cards["mouse"]}
    write_two(tmp_path / "one", one)
    assert torch.equal(
        Predictor(tmp_path / "one")(random_codes(1)), Predictor(tmp_path / "one", head="mouse")(random_codes(1))
    )
    assert Predictor(tmp_path / "one").head == "mouse"


def test_the_head_that_is_meant_must_be_said_and_be_there(two_heads, bundle):
    folder, _ = two_heads
    with pytest.raises(InputError, match=r"heads: this bundle has several heads; add head=\.\.\., it has mouse, human"):
        Predictor(folder)
    with pytest.raises(InputError, match=r"heads: this bundle has no head 'rat'; it has mouse, human"):
        Predictor(folder, head="rat")
    with pytest.raises(
        InputError, match=r"bundle: this bundle has no head 'rat'; its only head has no name: leave head"
    ):
        Predictor(bundle[0], head="rat")


def test_the_digest_is_over_the_cards_of_all_heads(two_heads):
    folder, _ = two_heads
    digest = Predictor(folder, head="human").digest
    assert Predictor(folder, head="mouse").digest == digest == bundle_digest(folder)
    change_json(folder / "cards/mouse.json", lambda card: card.update(name="other"))
    assert bundle_digest(folder) != digest


def test_heads_of_other_windows_do_not_share_a_trunk(tmp_path, cards, two_heads):
    assert shared_geometry(cards) == GEOMETRY  # the margin is not the network's
    for change in ({"window_bp": 72}, {"bin_bp": 4, "crop_bins": 1}, {"crop_bins": 2}):
        geometry = dataclasses.replace(GEOMETRY, **change)
        other = cards | {"human": dataclasses.replace(cards["human"], geometry=geometry)}
        message = (
            r"other: head human has window_bp=.*, head mouse has window_bp=64, bin_bp=8, crop_bins=1; heads of one"
        )
        with pytest.raises(InputError, match=message):
            write_two(tmp_path / "other", cards=other, weights={})
        assert not (tmp_path / "other").exists()
    folder, _ = two_heads
    change_json(folder / "cards/human.json", lambda card: card["geometry"].update(crop_bins=2))
    with pytest.raises(InputError, match=r"heads: head human has window_bp=64, bin_bp=8, crop_bins=2, head mouse has"):
        Predictor(folder, head="mouse")


@pytest.mark.parametrize("heads", ["human", [], ["human", "human"], ["../human"], ["human", 3], [None, "human"], {}])
def test_heads_that_are_no_names_are_refused(two_heads, heads):
    folder, _ = two_heads
    change_json(folder / "model.json", lambda model: model.update(heads=heads))
    with pytest.raises(InputError, match=r"model\.json: heads is .*; wanted a list of different names of letters"):
        Predictor(folder, head="human")


def test_a_head_that_cannot_be_called_so_is_refused(tmp_path, cards):
    with pytest.raises(InputError, match=r"other: head 'a/b'; wanted a name of letters, digits and _"):
        write_bundle(
            tmp_path / "other",
            weights={},
            config=TWO_HEADS,
            cards={"a/b": cards["mouse"]},
            metrics={},
            objective="poisson",
        )
    assert not (tmp_path / "other").exists()


def test_the_missing_card_of_a_head_is_named(two_heads):
    (two_heads[0] / "cards/human.json").unlink()
    with pytest.raises(InputError, match=r"cards/human\.json: no such file, but a bundle's card was expected here"):
        Predictor(two_heads[0], head="mouse")


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda each: each.name)
def test_an_architecture_has_named_heads_or_says_that_it_has_not(architecture):
    config = architecture.config
    with torch.device("meta"):
        if isinstance(config, WITH_NAMED_HEADS):
            network = build_network(config, geometry=architecture.geometry, num_tracks={"a": 2, "b": 1})
            assert isinstance(network.head, NamedHeads)
            assert list(network.head.tracks) == ["a", "b"]
        else:
            message = (
                rf"model.architecture={config.architecture}: has one head, and the datasets are for a, b; wanted one"
            )
            with pytest.raises(
                InputError, match=message + " of basenji2, enformer, borzoi, or a model for each dataset"
            ):
                build_network(config, geometry=architecture.geometry, num_tracks={"a": 2, "b": 1})


def test_linear_baselines_have_one_head():
    with pytest.raises(InputError, match="architecture=kmer_ridge: has one head"):
        build_network(KmerRidgeConfig(), geometry=GEOMETRY, num_tracks={"a": 2})


def test_a_check_proves_the_reach_of_what_was_loaded(bundle, config):
    predictor = Predictor(bundle[0])
    if isinstance(config, KmerRidgeConfig):
        assert predictor.check() == ()
        return
    assert predictor.check() == reach_of(predictor.network.local) != ()
    predictor.network.local.append(torch.nn.Softmax(dim=2))
    with pytest.raises(InputError, match="bundle: Softmax: no rule says how far this layer of `local` reaches"):
        predictor.check()


def test_a_call_does_not_bring_the_transforms_to_the_device_again(bundle, monkeypatch):
    predictor, codes = Predictor(bundle[0]), random_codes(2)
    expected = predictor.both_strands(codes)
    monkeypatch.delattr(torch, "from_numpy")
    assert torch.equal(predictor.both_strands(codes), expected)


ONE_BIN = Geometry(window_bp=64, bin_bp=64)
SHALLOW_CONFIGS = {
    "linear": LinearConfig(features=(Kmers(k=2), RegionKmers(longest=3, num_kept=9)), penalties=(0.1,)),
    "gkm_svm": GkmSvmConfig(gkm=GkmSpec(l=4, k=3, d=1), prices=(1.0,)),
    "random_forest": RandomForestConfig(features=(Kmers(k=2), Composition()), num_trees=4, leaf_sizes=(3,)),
    "gradient_boosting": GradientBoostingConfig(features=(Kmers(k=2),), rounds=(4,), leaf_size=5),
}


def shallow_batches(kind, seed=0):
    """Make 80 windows with the shares of A, C and G, as numbers or whether they are above a quarter."""
    codes = random_codes(80, seed)
    shares = torch.stack([(codes == base).float().mean(dim=1) for base in range(3)], dim=1)
    return [(codes, (shares > 0.2).float()[:, None] if kind == "labels" else shares[:, None])]


@pytest.fixture(params=sorted(SHALLOW_CONFIGS))
def shallow(request, tmp_path, make_card):
    """Write a bundle of a shallow model that learned labels, and return its folder and the model."""
    return write_shallow(tmp_path / "shallow", SHALLOW_CONFIGS[request.param], make_card, kind="labels")


def write_shallow(folder, config, make_card, *, kind):
    model = build_network(config, geometry=ONE_BIN, num_tracks=3)
    rows = fit_shallow(model, shallow_batches(kind), shallow_batches(kind, seed=1), kind=kind)
    card = make_card(geometry=ONE_BIN, kind=kind)
    write_bundle(
        folder, weights=model.state_dict(), config=config, cards=card, metrics={"history": rows}, objective="any"
    )
    return folder, model


def test_a_shallow_bundle_predicts_the_bits_that_the_model_did(shallow):
    folder, model = shallow
    predictor, codes = Predictor(folder), random_codes(9, seed=5)
    assert torch.equal(predictor.network(codes), model(codes))
    assert predictor.link == "sigmoid"
    assert predictor.config == model.config
    assert predictor(codes).shape == (9, 1, 3)
    assert predictor.check() == ()
    np.testing.assert_array_equal(predictor.predict(codes.numpy()), predictor(codes))
    again = folder.parent / "again"
    write_bundle(
        again,
        weights=predictor.network.state_dict(),
        config=predictor.config,
        cards=predictor.card,
        metrics={},
        objective="any",
    )
    assert bundle_digest(again) == bundle_digest(folder)


def test_trees_stand_in_a_file_of_their_own(shallow):
    folder, model = shallow
    names = {path.name for path in folder.iterdir()}
    of_trees = isinstance(model.config, RandomForestConfig | GradientBoostingConfig)
    assert names == {"card.json", "metrics.json", "model.json", "weights.safetensors"} | (
        {"trees.skops"} if of_trees else set()
    )
    assert "trees.skops" not in load_file(folder / "weights.safetensors")
    if of_trees:
        digest = bundle_digest(folder)
        (folder / "trees.skops").write_bytes(b"")
        assert bundle_digest(folder) != digest


@pytest.mark.parametrize("kind", ["measurements", "coverage"])
@pytest.mark.parametrize("name", ["linear", "gradient_boosting"])
def test_a_shallow_bundle_of_numbers_predicts_them(tmp_path, make_card, kind, name):
    folder, model = write_shallow(tmp_path / "numbers", SHALLOW_CONFIGS[name], make_card, kind=kind)
    predictor, codes = Predictor(folder), random_codes(9, seed=5)
    assert predictor.link == "identity"
    torch.testing.assert_close(predictor(codes), to_natural(model(codes).float(), predictor.card.transforms()))


@pytest.mark.parametrize("name", ["random_forest", "gradient_boosting"])
def test_trees_with_a_foreign_kind_are_refused_and_do_not_run(tmp_path, make_card, name):
    folder, model = write_shallow(tmp_path / "trees", SHALLOW_CONFIGS[name], make_card, kind="labels")
    harmed = tmp_path / "harmed"
    model.trees.estimators[0].foreign = Attack(harmed)
    skops.io.dump(model.trees.estimators, folder / "trees.skops")
    with pytest.raises(InputError, match=r"trees: trees\.skops holds .*Attack.*; wanted scikit-learn's trees alone"):
        Predictor(folder)
    assert not harmed.exists()
    with (folder / "trees.skops").open("wb") as handle:
        pickle.dump(Attack(harmed), handle)
    with pytest.raises(InputError, match=r"trees: trees\.skops: not a readable file of trees"):
        Predictor(folder)
    assert not harmed.exists()
    (folder / "trees.skops").unlink()
    with pytest.raises(InputError, match=r"these weights do not fit the network of model\.json: .*trees\.skops"):
        Predictor(folder)


def test_every_shallow_architecture_is_one_of_the_bundles(shallow):
    assert {kind.architecture for kind in SHALLOW} == set(SHALLOW_CONFIGS)
    assert isinstance(read_config(shallow[0]), SHALLOW)
    with pytest.raises(InputError, match="has one head, and the datasets are for a; wanted one of"):
        build_network(shallow[1].config, geometry=ONE_BIN, num_tracks={"a": 2})
