import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models import borzoi
from cisray.models.borzoi import BorzoiConfig, UpStep, build_borzoi, distance_features
from cisray.models.layers import one_hot
from cisray.models.reach import patch_bp, reach_of
from large_networks import SMALL_BORZOI, random_codes, small_borzoi

WIDTHS = [608, 736, 896, 1056, 1280, 1536]


def build_published():
    with torch.device("meta"):
        return build_borzoi(BorzoiConfig(), geometry=borzoi.GEOMETRY, num_tracks=borzoi.TRACKS).eval()


def test_the_published_network_has_its_number_of_parameters():
    network = build_published()
    # what borzoi-pytorch's class has with both heads
    assert sum(weight.numel() for weight in network.parameters()) == 190_902_667
    heads = 1920 * 7611 + 7611 + 1920 * 2608 + 2608
    assert sum(weight.numel() for weight in network.head.tracks.parameters()) == heads


def test_the_published_class_has_the_same_number():
    pytest.importorskip("borzoi_pytorch", reason="borzoi-pytorch is not installed")
    from borzoi_pytorch.config_borzoi import BorzoiConfig as TheirConfig
    from borzoi_pytorch.pytorch_borzoi_model import Borzoi

    with torch.device("meta"):
        theirs = Borzoi(TheirConfig(enable_mouse_head=True))
    ours = build_published()
    assert sum(weight.numel() for weight in theirs.parameters()) == sum(weight.numel() for weight in ours.parameters())


def test_the_published_network_costs_what_its_layers_do():
    network = build_published()
    codes = torch.empty(1, 524_288, dtype=torch.uint8, device="meta")
    with FlopCounterMode(display=False, depth=2) as counter, torch.no_grad():
        rates = network(codes, "mouse")
    assert rates.shape == (1, 6144, 2608)
    local = 524_288 * 4 * 512 * 15
    for step, (before, after) in enumerate(zip([512, *WIDTHS], WIDTHS, strict=False)):
        local += (262_144 >> step) * before * after * 5
    local += 16_384 * 1280 * 1536 + 8192 * 1536 * 1536
    block = 4096 * (1536 * (512 + 512 + 1536 + 1536 + 2 * 3072) + 8 * 4096 * (64 + 192)) + 8193 * 512 * (32 + 4096)
    up = (4096 + 8192) * 1536 * 1536 + (8192 + 16_384) * 1536 * (3 + 1536)
    head = 6144 * 1920 * (1536 + 2608)
    counts = counter.get_flop_counts()
    assert sum(counts["Network.local"].values()) == 2 * local
    assert sum(counts["Network.context"].values()) == 2 * (8 * block + up)
    assert counter.get_total_flops() == 2 * (local + 8 * block + up + head)


def test_the_published_network_has_three_resolutions_and_one_patch():
    reaches = reach_of(build_published().local)
    finest = 7 + 4 + 8 + 16 + 32 + 64
    assert [tuple(reach) for reach in reaches] == [
        (32, -finest, 32 + finest),
        (64, -finest - 128, 64 + finest + 128),
        (128, -finest - 128, 128 + finest + 128),
    ]
    assert patch_bp(reaches) == 13 * 128


@pytest.mark.parametrize(
    ("window_bp", "bin_bp", "crop_bins", "levels"),
    [(1024, 32, 8, 2), (128, 32, 0, 2), (384, 32, 1, 2), (256, 4, 3, 2), (1024, 16, 2, 3), (512, 32, 0, 1)],
)
def test_shapes_of_window_bin_crop_and_levels(window_bp, bin_bp, crop_bins, levels):
    config = BorzoiConfig(**{**vars(SMALL_BORZOI), "unet_levels": levels})
    network = small_borzoi(config, window_bp=window_bp, bin_bp=bin_bp, crop_bins=crop_bins)
    outputs = network.local(one_hot(random_codes(1, window_bp), torch.float32))
    assert [window_bp // output.shape[2] for output in outputs] == [bin_bp << level for level in range(levels + 1)]
    assert {output.shape[1] for output in outputs} == {16}
    for head, number in (("human", 5), ("mouse", 3)):
        rates = network(random_codes(2, window_bp), head)
        assert rates.shape == (2, window_bp // bin_bp - 2 * crop_bins, number)
        assert (rates > 0).all()


def test_the_crop_cuts_the_bins_of_both_ends():
    codes = random_codes(2, 1024)
    whole, cropped = small_borzoi(crop_bins=0), small_borzoi(crop_bins=5)
    torch.testing.assert_close(cropped(codes, "human"), whole(codes, "human")[:, 5:-5])


def test_a_base_moves_every_bin():
    network = small_borzoi(crop_bins=0).double()
    codes = random_codes(1, 1024)
    changed = codes.clone()
    changed[0, 512] = (changed[0, 512] + 1) % 4
    assert (network(codes, "human") != network(changed, "human")).all(dim=2).all()


def test_a_step_up_repeats_adds_and_mixes():
    torch.manual_seed(0)
    step = UpStep(3, width=3).eval()
    hidden, side = torch.randn(2, 3, 4), torch.randn(2, 3, 8)
    wide = F.interpolate(step.widen(hidden), scale_factor=2, mode="nearest") + side
    weight = step.mix[0].weight
    depthwise = torch.cat([F.conv1d(wide[:, c : c + 1], weight[c : c + 1], padding=1) for c in range(3)], dim=1)
    torch.testing.assert_close(step(hidden, side), F.conv1d(depthwise, step.mix[1].weight, step.mix[1].bias))


def test_training_under_autocast_moves_everything_but_the_other_head():
    network = small_borzoi().train()
    with torch.autocast("cpu", torch.bfloat16):
        rates = network(random_codes(2, 1024), "mouse")
    assert rates.dtype == torch.float32
    rates.square().sum().backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert without == ["head.tracks.human.weight", "head.tracks.human.bias"]
    assert all(weight.grad.isfinite().all() for weight in network.parameters() if weight.grad is not None)


def test_norms_have_the_published_constants():
    norms = [module for module in build_published().modules() if isinstance(module, nn.BatchNorm1d | nn.LayerNorm)]
    assert len(norms) == 6 + 2 + 2 + 1 + 2 * 8
    assert {norm.eps for norm in norms} == {1e-3}
    assert {norm.momentum for norm in norms if isinstance(norm, nn.BatchNorm1d)} == {0.1}


def test_features_of_distance_are_masks_of_geometric_widths():
    features = distance_features(50, num_features=12, span=63).numpy()
    assert features.shape == (50, 6)
    for index in range(6):
        width = 64 ** ((index + 1) / 6) - 1  # 1, 3, 7, 15, 31, 63
        np.testing.assert_array_equal(features[:, index], np.arange(50) < round(width))


def test_a_shorter_window_keeps_the_meaning_of_its_features():
    assert torch.equal(
        distance_features(4096, num_features=32, span=4096)[:100], distance_features(100, num_features=32, span=4096)
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": 0}, "borzoi: channels=0; wanted a positive number"),
        ({"unet_levels": 0}, "borzoi: unet_levels=0; wanted a positive number"),
        ({"position_features": 31}, "position_features=31; wanted at least 0, and an even number"),
        ({"transformer_blocks": -1}, "transformer_blocks=-1, position_features=32; wanted at least 0"),
        ({"channels": 1500}, "tower_channels=608, channels=1500; wanted multiples of width_multiple=32"),
        ({"attention_heads": 7}, "channels=1536; wanted a multiple of attention_heads=7"),
        ({"attention_dropout": -0.1}, r"borzoi: attention_dropout=-0\.1; wanted a share"),
    ],
)
def test_sizes_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        BorzoiConfig(**fields)


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        (Geometry(window_bp=240, bin_bp=24), "borzoi: bin_bp=24; it halves its way to a bin: wanted 4, 8, 16"),
        (Geometry(window_bp=240, bin_bp=2), "borzoi: bin_bp=2; it halves its way to a bin"),
        (
            Geometry(window_bp=320, bin_bp=32),
            r"borzoi: window_bp=320 is not a multiple of 128, the transformer's bin \(bin_bp=32 doubled unet_levels=2",
        ),
    ],
)
def test_windows_and_bins_that_halvings_do_not_make_are_refused(geometry, message):
    with pytest.raises(InputError, match=message):
        build_borzoi(SMALL_BORZOI, geometry=geometry, num_tracks=1)
