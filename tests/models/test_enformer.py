import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from pydantic import ValidationError
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models import enformer
from cisray.models.enformer import EnformerConfig, build_enformer, distance_features
from cisray.models.reach import patch_bp, reach_of
from large_networks import SMALL_ENFORMER, random_codes, small_enformer

WIDTHS = [768, 768, 896, 1024, 1152, 1280, 1536]


def build_published():
    with torch.device("meta"):
        return build_enformer(EnformerConfig(), geometry=enformer.GEOMETRY, num_tracks=enformer.TRACKS).eval()


def test_the_published_network_has_its_number_of_parameters():
    network = build_published()
    # what enformer-pytorch's class has in its published sizes
    assert sum(weight.numel() for weight in network.parameters()) == 251_221_292
    stem = 4 * 768 * 15 + 768
    pointwise = sum(2 * width + width * width + width for width in WIDTHS)
    pools = sum(width * width for width in WIDTHS)
    tower = sum(2 * before + before * after * 5 + after for before, after in itertools.pairwise(WIDTHS))
    assert sum(weight.numel() for weight in network.local.parameters()) == stem + pointwise + pools + tower


def test_the_published_class_has_the_same_number():
    enformer_pytorch = pytest.importorskip("enformer_pytorch", reason="enformer-pytorch is not installed")
    with torch.device("meta"):
        theirs = enformer_pytorch.Enformer.from_hparams()
    ours = build_published()
    assert sum(weight.numel() for weight in theirs.parameters()) == sum(weight.numel() for weight in ours.parameters())


def test_the_published_network_costs_what_its_layers_do():
    network = build_published()
    codes = torch.empty(1, 196_608, dtype=torch.uint8, device="meta")
    with FlopCounterMode(display=False, depth=2) as counter, torch.no_grad():
        rates = network(codes, "human")
    assert rates.shape == (1, 896, 5313)
    local = 196_608 * 4 * 768 * 15
    for step, width in enumerate(WIDTHS):
        length = 196_608 >> step
        before = WIDTHS[step - 1]
        local += length * before * width * 5 if step else 0
        local += length * width * width  # the pointwise residual
        local += length // 2 * width * width  # the pool's logits, one for every two positions
    block = 1536 * (1536 * (512 + 512 + 1536 + 1536 + 2 * 3072) + 8 * 1536 * (64 + 192)) + 3073 * 512 * (192 + 1536)
    head = 896 * (1536 * 3072 + 3072 * 5313)
    counts = counter.get_flop_counts()
    assert sum(counts["Network.local"].values()) == 2 * local
    assert sum(counts["Network.context"].values()) == 2 * 11 * block
    assert counter.get_total_flops() == 2 * (local + 11 * block + head)


def test_the_published_network_needs_patches_of_thirteen_bins():
    reaches = reach_of(build_published().local)
    half = 7 + 4 + 8 + 16 + 32 + 64 + 128
    assert [tuple(reach) for reach in reaches] == [(128, -half, 128 + half)]
    assert patch_bp(reaches) == 13 * 128


@pytest.mark.parametrize(
    ("window_bp", "bin_bp", "crop_bins"), [(32, 4, 0), (256, 16, 4), (64, 16, 0), (48, 16, 1), (512, 128, 1)]
)
def test_shapes_of_window_bin_and_crop(window_bp, bin_bp, crop_bins):
    network = small_enformer(window_bp=window_bp, bin_bp=bin_bp, crop_bins=crop_bins)
    for head, number in (("human", 5), ("mouse", 3)):
        rates = network(random_codes(2, window_bp), head)
        assert rates.shape == (2, window_bp // bin_bp - 2 * crop_bins, number)
        assert (rates > 0).all()


def test_the_crop_cuts_the_bins_of_both_ends():
    codes = random_codes(2, 256)
    whole, cropped = small_enformer(crop_bins=0), small_enformer(crop_bins=3)
    torch.testing.assert_close(cropped(codes, "human"), whole(codes, "human")[:, 3:-3])


def test_a_base_moves_every_bin():
    network = small_enformer(crop_bins=0).double()
    codes = random_codes(1, 256)
    changed = codes.clone()
    changed[0, 128] = (changed[0, 128] + 1) % 4
    assert (network(codes, "human") != network(changed, "human")).all(dim=2).all()


def test_training_under_autocast_moves_everything_but_the_other_head():
    network = small_enformer().train()
    with torch.autocast("cpu", torch.bfloat16):
        rates = network(random_codes(2, 256), "human")
    assert rates.dtype == torch.float32
    rates.square().sum().backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert without == ["head.tracks.mouse.weight", "head.tracks.mouse.bias"]
    assert all(weight.grad.isfinite().all() for weight in network.parameters() if weight.grad is not None)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]
    assert all(norm.running_mean.dtype == torch.float32 and norm.momentum == 0.1 for norm in norms)


def test_a_batch_predicts_what_its_windows_do_one_by_one():
    network, codes = small_enformer(), random_codes(3, 256)
    alone = torch.cat([network(window[None], "mouse") for window in codes])
    torch.testing.assert_close(network(codes, "mouse"), alone, rtol=0, atol=1e-6)


def test_features_of_distance_are_exponentials_masks_and_gamma_densities():
    num_bins, each = 40, 5
    features = distance_features(num_bins, num_features=6 * each).numpy()
    assert features.shape == (num_bins, 3 * each)
    distances = np.arange(num_bins)
    for index in range(each):
        half_life = 2 ** (3 + (math.log2(num_bins) - 3) * index / (each - 1))
        np.testing.assert_allclose(features[:, index], 0.5 ** (distances / half_life), rtol=1e-12)
        np.testing.assert_array_equal(features[:, each + index], distances < 2 ** (index + 1) - 1)
        mean, spread = num_bins / each * (1 + (each - 1) * index / (each - 1)), num_bins / (2 * each)
        density = scipy.stats.gamma.pdf(distances, (mean / spread) ** 2, scale=spread**2 / mean) + 1e-8
        np.testing.assert_allclose(features[:, 2 * each + index], density / density.max(), rtol=1e-9)


def test_gamma_features_may_be_scaled_per_distance():
    gammas = distance_features(40, num_features=30, gamma_maximum="distance")[:, 10:]
    assert (gammas.amax(dim=1) == 1).all()
    of_feature = distance_features(40, num_features=30)[:, 10:]
    torch.testing.assert_close(of_feature / of_feature.amax(dim=1, keepdim=True), gammas, atol=0.7, rtol=0)
    assert not torch.allclose(of_feature, gammas, atol=0.1)


def test_widths_of_the_tower():
    network = build_published()
    convs = [module for module in network.local.modules() if isinstance(module, nn.Conv1d)]
    wide = [conv for conv in convs if conv.kernel_size != (1,)]
    assert [conv.out_channels for conv in wide] == WIDTHS
    assert [conv.kernel_size[0] for conv in wide] == [15, 5, 5, 5, 5, 5, 5]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": 0}, "enformer: channels=0; wanted a positive number"),
        ({"position_features": 0}, "enformer: position_features=0; wanted a positive number"),
        ({"position_features": 100}, "position_features=100; wanted at least 0, and a multiple of 6"),
        ({"transformer_blocks": -1}, "transformer_blocks=-1, position_features=192; wanted at least 0"),
        ({"channels": 1500}, "channels=1500; wanted a multiple of twice width_multiple=128 and of attention_heads=8"),
        ({"attention_heads": 7}, "channels=1536; wanted a multiple of twice width_multiple=128 and of attention_hea"),
        ({"dropout": 1.0}, r"enformer: dropout=1\.0; wanted a share"),
    ],
)
def test_sizes_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        EnformerConfig(**fields)


@pytest.mark.parametrize("bin_bp", [1, 2, 12, 100])
def test_bins_that_halvings_do_not_make_are_refused(bin_bp):
    geometry = Geometry(window_bp=bin_bp * 10, bin_bp=bin_bp)
    with pytest.raises(InputError, match=f"enformer: bin_bp={bin_bp}; it halves its way to a bin: wanted 4, 8, 16"):
        build_enformer(SMALL_ENFORMER, geometry=geometry, num_tracks=1)
