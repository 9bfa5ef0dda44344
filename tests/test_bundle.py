import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cisray.baselines.kmer_ridge import KmerRidgeConfig
from cisray.bundle import Predictor, build_network, write_bundle
from cisray.datasets.transforms import to_natural
from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.basenji import BasenjiConfig
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
    network = build_network(config, geometry=GEOMETRY, num_tracks=3)
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
    write_bundle(folder, weights=network.state_dict(), config=config, card=card, metrics=metrics, objective="poisson")
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


def test_predictions_do_not_depend_on_the_company_or_the_call(bundle):
    predictor, codes = Predictor(bundle[0]), random_codes(5)
    assert torch.equal(predictor(codes), predictor(codes))  # dropout is off
    torch.testing.assert_close(predictor(codes)[2:3], predictor(codes[2:3]))
    assert not any(weight.grad for weight in predictor.network.parameters())


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
    with pytest.raises(InputError, match=r"weights\.safetensors: these weights do not fit the network"):
        Predictor(folder)
    assert not harmed.exists()
    with (folder / "weights.safetensors").open("rb") as handle:  # the attack is a real one
        torch.load(handle, weights_only=False) if dump is torch.save else pickle.load(handle)
    assert harmed.exists()


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
    with pytest.raises(InputError, match="these weights do not fit"):
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
    write_bundle(folder, weights=network.state_dict(), config=config, card=card, metrics={}, objective="poisson")
    assert not (folder / "old").exists()
    assert Predictor(folder).config == config
