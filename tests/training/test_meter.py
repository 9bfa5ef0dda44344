import time

import pytest
import torch
from torch import nn

from cisray.geometry import Geometry
from cisray.models.basenji import BasenjiConfig, build_basenji
from cisray.models.bpnet import BPNetConfig
from cisray.models.catalog import build
from cisray.models.danq import DanQConfig
from cisray.training import meter as meter_module
from cisray.training.batches import Batch
from cisray.training.meter import Meter, count_flop
from cisray.training.recompute import recompute_activations

CPU = torch.device("cpu")


class Plain(nn.Module):
    """One convolution of codes, whose arithmetic can be counted by hand."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv1d(4, 6, 5, padding="same", bias=False)

    def forward(self, codes):
        return self.layer(nn.functional.one_hot(codes.long() % 4, 4).float().mT)


class Stubborn(Plain):
    """Looks at a value, which no tensor without any has."""

    def forward(self, codes):
        return super().forward(codes) * float(codes.sum())


def test_arithmetic_is_two_operations_per_multiplication_forward_and_as_many_for_the_weights():
    forward = 2 * 4 * 6 * 5 * 30
    hot = torch.zeros(1)
    network = Plain()
    # the codes need no gradient: forward, and once more for the weights
    assert count_flop(network, 30) == 2 * forward
    assert all(weight.grad is None and weight.device == hot.device for weight in network.parameters())


def test_nothing_is_counted_where_it_cannot_be():
    assert count_flop(Stubborn(), 30) == 0


def test_counting_leaves_the_network_alone_and_leaves_recomputation_out():
    geometry = Geometry(window_bp=256, bin_bp=16)
    network = build_basenji(BasenjiConfig(stem_channels=8, channels=12), geometry=geometry, num_tracks=2).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    plain = count_flop(network, 256)
    recompute_activations(network, "both")
    assert count_flop(network, 256) == plain > 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert count_flop(network, 512) == pytest.approx(2 * plain)  # convolutions only


@pytest.mark.parametrize("config", [DanQConfig(), BPNetConfig()], ids=["recurrent", "profile"])
def test_other_networks_can_be_counted(config):
    one_label = Geometry(window_bp=1000, bin_bp=1000) if isinstance(config, DanQConfig) else None
    network = build(config, geometry=one_label or Geometry(window_bp=512, bin_bp=1), num_tracks=2)
    assert count_flop(network, 1000 if one_label else 512) > 1e6


def batches(number, *, size, wait_s=0.0):
    for _ in range(number):
        time.sleep(wait_s)
        yield Batch(torch.zeros(size, 3), torch.zeros(size, 1))


def test_rates_are_those_since_the_last_question(monkeypatch):
    clock = iter([0.0, *[1.0, 2.0], *[3.0, 5.0], 10.0, *[11.0, 11.0], 14.0])
    monkeypatch.setattr(meter_module.time, "monotonic", lambda: next(clock))
    meter = Meter(device=CPU, world=2, precision="bf16")
    timed = meter.timed(batches(3, size=10))
    next(timed), next(timed)
    figures = meter.figures(100.0)
    assert figures.pop("peak_memory_bytes") > 1e6
    assert figures == {"examples_per_s": 4.0, "input_wait_share": 0.3, "flop_per_s": 400.0}
    next(timed)
    figures = meter.figures(0.0)  # arithmetic that is not known is not told
    assert figures.pop("peak_memory_bytes") > 1e6
    assert figures == {"examples_per_s": 5.0, "input_wait_share": 0.0}


def test_waiting_is_seen():
    meter = Meter(device=CPU, world=1, precision="float32")
    assert len(list(meter.timed(batches(3, size=4, wait_s=0.02)))) == 3
    assert meter.figures(0.0)["input_wait_share"] > 0.9
    assert meter.examples == 12
    assert meter.examples_per_s < 12 / 0.06


def test_utilisation_is_told_where_the_peak_is_known(monkeypatch):
    names = {"NVIDIA H200": 989e12, "NVIDIA H100 PCIe": 756e12, "NVIDIA A100-SXM4-80GB": 312e12, "Some GPU": None}
    monkeypatch.setattr(meter_module, "_peak_memory_bytes", lambda device: 0.0)
    gpu = torch.device("cuda")
    for name, peak in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert Meter(device=gpu, world=1, precision="bf16").peak == peak
        assert Meter(device=gpu, world=1, precision="float32").peak is None
    clock = iter([0.0, 0.0, 0.0, 2.0])
    monkeypatch.setattr(meter_module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    meter = Meter(device=gpu, world=4, precision="bf16")
    next(meter.timed(batches(1, size=8)))
    assert meter.figures(312e10)["flop_utilisation"] == pytest.approx(4 / 100)  # 4 examples/s on each of 4 devices
