import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.bpnet import CHROMBPNET, BPNetConfig, ProfileNetwork, build_bpnet
from cisray.models.outputs import ProfileAndCount, apply_link
from label_networks import encode, num_weights, random_codes

SAME = BPNetConfig(channels=5, stem_width=7, dilated_layers=3, profile_width=9)
VALID = BPNetConfig(channels=5, stem_width=7, dilated_layers=3, profile_width=9, padding="valid")  # loses 3 + 14 + 4


def build(config, *, window_bp=120, crop_bins=0, num_tracks=4):
    torch.manual_seed(0)
    geometry = Geometry(window_bp=window_bp, bin_bp=1, crop_bins=crop_bins)
    return build_bpnet(config, geometry=geometry, num_tracks=num_tracks).double().eval()


def test_the_number_of_parameters_is_that_of_the_authors_layers():
    # 64 filters of 25, nine dilated layers of 3, and for each of four factors a deconvolution and a dense layer for two
    # strands
    body = (4 * 64 * 25 + 64) + 9 * (64 * 64 * 3 + 64)
    heads = 4 * ((64 * 2 * 25 + 2) + (64 * 2 + 2))
    network = build_bpnet(BPNetConfig(), geometry=Geometry(window_bp=1000, bin_bp=1), num_tracks=8)
    assert num_weights(network) == body + heads == 130_960
    assert [layer.conv.dilation[0] for layer in network.context] == [2, 4, 8, 16, 32, 64, 128, 256, 512]


def test_the_number_of_parameters_of_chrombpnet_is_that_of_the_authors_layers():
    body = (4 * 512 * 21 + 512) + 8 * (512 * 512 * 3 + 512)
    heads = (512 * 75 + 1) + (512 + 1)
    assert CHROMBPNET.bases_lost == (2114 - 1000) // 2
    geometry = Geometry(window_bp=2114, bin_bp=1, crop_bins=557)
    with torch.device("meta"):
        network = build_bpnet(CHROMBPNET, geometry=geometry, num_tracks=1)
        outputs = network(torch.empty(1, 2114, dtype=torch.uint8))
    assert num_weights(network) == body + heads == 6_377_986
    assert outputs.profile.shape == (1, 1000, 1)


def test_it_is_the_published_computation():
    network = build(SAME)
    codes = random_codes(2, 120)
    stem, head = network.local[0], network.head
    hidden = F.relu(F.conv1d(encode(codes), stem.weight, stem.bias, padding=3))
    for layer, dilation in zip(network.context, (2, 4, 8), strict=True):
        hidden = hidden + F.relu(
            F.conv1d(hidden, layer.conv.weight, layer.conv.bias, padding=dilation, dilation=dilation)
        )
    # a transposed convolution of stride 1 is a convolution with the kernel turned round
    turned = head.profile.weight.flip(2).transpose(0, 1)
    profile = F.conv_transpose1d(hidden, turned, head.profile.bias, padding=4)
    counts = F.linear(hidden.mean(dim=2), head.counts.weight, head.counts.bias)
    outputs = network(codes)
    assert isinstance(outputs, ProfileAndCount)
    torch.testing.assert_close(outputs.profile, profile.mT)
    torch.testing.assert_close(outputs.log_counts, counts)


def test_without_padding_it_is_the_middle_of_the_same_network_on_a_longer_window():
    ours, padded = build(VALID, crop_bins=26), build(SAME, crop_bins=26)
    padded.load_state_dict(ours.state_dict())
    codes = random_codes(2, 120)
    outputs = ours(codes)
    assert outputs.profile.shape == (2, 68, 4)
    torch.testing.assert_close(outputs.profile, padded(codes).profile)
    # the count is of all positions without padding: the window less what the stem and the dilated layers lose
    hidden = padded.context(padded.local(encode(codes)))[:, :, 17:-17]
    torch.testing.assert_close(outputs.log_counts, padded.head.counts(hidden.mean(dim=2)))


def test_local_reaches_half_the_stem_and_context_half_of_all():
    network = build(SAME, window_bp=200)
    codes = random_codes(1, 200)
    changed = codes.clone()
    changed[0, 100] = (changed[0, 100] + 1) % 4
    one, other = (network.local(encode(each)) for each in (codes, changed))
    moved = (one != other).any(dim=1)[0].nonzero()[:, 0].tolist()
    assert moved
    assert set(moved) <= set(range(97, 104))
    moved = (network(codes).profile != network(changed).profile).any(dim=2)[0].nonzero()[:, 0]
    assert (moved - 100).abs().max() == 3 + 14 + 4


def test_predictions_are_counts_that_add_up():
    network = build(SAME)
    outputs = network(random_codes(3, 120))
    rates = apply_link(outputs, network.link)
    assert rates.shape == (3, 120, 4)
    totals = torch.expm1(outputs.log_counts.float()).clamp(min=0)
    torch.testing.assert_close(rates.sum(dim=1), totals, check_dtype=False)


def test_it_starts_at_the_means():
    network = build(SAME, crop_bins=10, num_tracks=3)
    network.head.start_at([0.0, 2.5, float("nan")])
    assert isinstance(network, ProfileNetwork)
    totals = torch.expm1(network(random_codes(50, 120)).log_counts).mean(dim=0)
    torch.testing.assert_close(totals, torch.tensor([0.0, 250.0, 0.0]).double(), rtol=0.1, atol=0.05)


@pytest.mark.parametrize(
    ("config", "geometry", "message"),
    [
        (SAME, Geometry(window_bp=128, bin_bp=2), "bpnet predicts every base, .* bins of 2 bp; wanted bin_bp=1"),
        (VALID, Geometry(window_bp=120, bin_bp=1), "lose 21 bp .* the geometry crops 0; wanted crop_bins=21 or more"),
    ],
)
def test_a_geometry_that_does_not_fit_is_refused(config, geometry, message):
    with pytest.raises(InputError, match=message):
        build_bpnet(config, geometry=geometry, num_tracks=1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"channels": 0}, "bpnet: channels=0; wanted a positive number"),
        ({"dilated_layers": -1}, "bpnet: dilated_layers=-1; wanted zero or more"),
        ({"stem_width": 4}, "bpnet: stem_width=4; wanted an odd number"),
        ({"profile_width": 10}, "bpnet: profile_width=10; wanted an odd number"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, message):
    with pytest.raises(ValidationError, match=message):
        BPNetConfig(**sizes)
