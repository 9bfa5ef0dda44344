import dataclasses
import json
from typing import Annotated, get_args

import pytest
import torch
from pydantic import Field, TypeAdapter

from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.basenji2 import Basenji2Config
from cisray.models.basenji2018 import Basenji2018Config
from cisray.models.basset import BassetConfig
from cisray.models.bpnet import BPNetConfig
from cisray.models.catalog import ARCHITECTURES, BUILDERS, NetworkConfig, build, describe, find_architecture
from cisray.models.danq import DanQConfig
from cisray.models.deepbind import DeepBindConfig
from cisray.models.deepsea import DeepSEAConfig
from cisray.models.expecto import ExPectoConfig
from cisray.models.framepool import FramePoolConfig
from cisray.models.optimus5prime import Optimus5PrimeConfig
from cisray.models.outputs import ProfileAndCount, apply_link
from cisray.models.reach import check_geometry
from cisray.models.tbinet import TBiNetConfig
from label_networks import random_codes

PARAMETERS = {
    "deepbind": 1_569,
    "deepsea": 52_843_119,
    "basset": 4_135_064,
    "danq": 46_926_479,
    "expecto": 149_536_251,
    "tbinet": 35_566_795,
    "framepool": 283_137,
    "optimus5prime": 474_681,
    "bpnet": 130_960,
    "chrombpnet": 6_377_986,
    "basenji2018": 15_190_636,
    "basenji2": 32_613_519,
    "enformer": 251_221_292,
}
WHOLE = Geometry(window_bp=300, bin_bp=300)
SMALL = {
    "deepbind": (DeepBindConfig(hidden_units=3), WHOLE),
    "deepsea": (DeepSEAConfig(channels=(3, 4, 5), hidden_units=4), WHOLE),
    "basset": (BassetConfig(channels=(3, 4, 5), hidden_units=(4, 3)), WHOLE),
    "danq": (DanQConfig(channels=3, lstm_units=2, hidden_units=4), WHOLE),
    "tbinet": (TBiNetConfig(channels=2, lstm_units=2, attention_units=3, hidden_units=4), WHOLE),
    "expecto": (ExPectoConfig(channels=(3, 4, 5), hidden_units=4), Geometry(window_bp=400, bin_bp=400)),
    "framepool": (FramePoolConfig(channels=3, hidden_units=4), WHOLE),
    "optimus5prime": (Optimus5PrimeConfig(channels=3, hidden_units=4), WHOLE),
    "bpnet": (BPNetConfig(channels=4, dilated_layers=3), Geometry(window_bp=300, bin_bp=1)),
    "chrombpnet": (
        BPNetConfig(channels=4, dilated_layers=3, padding="valid"),
        Geometry(window_bp=300, bin_bp=1, crop_bins=50),
    ),
    "basenji2018": (
        Basenji2018Config(channels=(3, 4), widths=(6, 3), pools=(2, 5), dilated_layers=2, head_channels=4),
        Geometry(window_bp=300, bin_bp=10, crop_bins=2),
    ),
    "basenji2": (
        Basenji2Config(stem_channels=4, channels=6, dilated_layers=2, dilated_channels=3, head_channels=5),
        Geometry(window_bp=320, bin_bp=16, crop_bins=2),
    ),
}


def test_every_configuration_has_a_builder_and_a_published_size():
    assert set(get_args(NetworkConfig)) == set(BUILDERS)
    assert {type(each.config) for each in ARCHITECTURES} == set(BUILDERS)
    names = [each.name for each in ARCHITECTURES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda each: each.name)
def test_a_description_is_of_the_published_network(architecture):
    described = describe(architecture)
    assert described.bins == architecture.geometry.num_bins
    assert described.window_bp == architecture.geometry.window_bp
    assert described.parameters == PARAMETERS.get(architecture.name, described.parameters)
    assert 0 < described.local_share < 1
    assert described.paper


def test_work_is_two_operations_per_multiplication():
    # Basset: positions times multiplications of each layer
    convolutions = 582 * 4 * 300 * 19 + 184 * 300 * 200 * 11 + 40 * 200 * 200 * 7
    dense = 2000 * 1000 + 1000 * 1000 + 1000 * 164
    described = describe(find_architecture("basset"))
    assert described.gflop == pytest.approx(2 * (convolutions + dense) / 1e9)
    assert described.local_share == pytest.approx(convolutions / (convolutions + dense))
    # DanQ: of the LSTM, two directions of four gates per unit and step
    steps = 2 * 75 * 4 * 320 * (321 + 320)
    rest = 975 * 4 * 320 * 26 + 75 * 640 * 925 + 925 * 919
    assert describe(find_architecture("danq")).gflop == pytest.approx(2 * (steps + rest) / 1e9)


def test_work_of_basenji2_is_what_others_count():
    # 117.19 billion multiplications for the human head (MultiMolecule), of which 0.5 are no products
    described = describe(find_architecture("basenji2"))
    assert described.gflop == pytest.approx(2 * 117.19, rel=0.01)
    assert described.local_share == pytest.approx(0.81, abs=0.01)


def test_configurations_are_told_apart_by_their_architecture():
    adapter = TypeAdapter(Annotated[NetworkConfig, Field(discriminator="architecture")])
    for architecture in ARCHITECTURES:
        stored = json.loads(json.dumps(dataclasses.asdict(architecture.config)))
        assert adapter.validate_python(stored) == architecture.config


def test_an_unknown_name_lists_the_known_ones():
    assert find_architecture("danq").num_tracks == 919
    with pytest.raises(InputError, match=r"no architecture 'dank'; wanted one of deepbind, deepsea, .*basenji"):
        find_architecture("dank")


@pytest.mark.parametrize("name", SMALL)
def test_geometry_is_derived_and_proven(name):
    config, geometry = SMALL[name]
    torch.manual_seed(0)
    assert len(check_geometry(build(config, geometry=geometry, num_tracks=2))) == 1


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SMALL)
def test_every_network_trains_and_predicts_in_either_precision(name, precision):
    torch.manual_seed(0)
    config, geometry = SMALL[name]
    network = build(config, geometry=geometry, num_tracks=3).train()
    codes = random_codes(4, geometry.window_bp)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        outputs = network(codes)
        link = "profile" if isinstance(outputs, ProfileAndCount) else "identity"
        rates = apply_link(outputs, getattr(network, "link", link))
    assert rates.shape == (4, geometry.num_bins, 3)
    assert torch.isfinite(rates).all()
    tensors = list(outputs) if isinstance(outputs, ProfileAndCount) else [outputs]
    sum(tensor.float().square().sum() for tensor in tensors).backward()
    assert all(torch.isfinite(weight.grad).all() for weight in network.parameters())
    assert any(weight.grad.abs().max() > 0 for weight in network.local.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_state_dicts_round_trip(name):
    config, geometry = SMALL[name]
    one, other = (build(config, geometry=geometry, num_tracks=2).eval() for _ in "ab")
    other.load_state_dict(one.state_dict())
    codes = random_codes(2, geometry.window_bp)
    for ours, theirs in zip(one(codes), other(codes), strict=True):
        assert torch.equal(ours, theirs)
