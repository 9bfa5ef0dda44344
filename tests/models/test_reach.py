import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.models.basenji import BasenjiConfig, build_basenji
from cisray.models.heads import NamedHeads
from cisray.models.layers import AttentionPool, DilatedResidual, MaxPool, Network, Pyramid, Residual, one_hot
from cisray.models.reach import Reach, check_geometry, patch_around, patch_bp, reach_of, splice
from large_networks import small_borzoi, small_enformer

CHANNELS = 2
LENGTH = 300


class Beside(nn.Module):
    """Convolutions beside each other."""

    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, hidden):
        outputs = [branch(hidden) for branch in self.branches]
        return sum(output[..., : min(each.shape[2] for each in outputs)] for output in outputs)


def conv(width, *, padding, dilation=1, stride=1):
    return nn.Conv1d(CHANNELS, CHANNELS, width, padding=padding, dilation=dilation, stride=stride)


LAYERS = st.one_of(
    st.builds(conv, st.integers(1, 6), padding=st.sampled_from(["same", "valid", 0]), dilation=st.integers(1, 3)),
    st.builds(conv, st.integers(3, 5), padding=st.integers(0, 2), stride=st.integers(1, 3)),
    st.builds(lambda width: Residual(conv(width, padding="same")), st.integers(1, 6)),
    st.builds(lambda dilation: DilatedResidual(2, 2, dilation=dilation, dropout=0.1).eval(), st.integers(1, 3)),
    st.builds(lambda one, other: Beside(conv(one, padding=0), conv(other, padding=0)), st.integers(1, 5), st.just(2)),
    st.builds(lambda before: nn.ConstantPad1d((before, 1), 0.25), st.integers(0, 3)),
    st.sampled_from([nn.ReLU(), nn.BatchNorm1d(CHANNELS).eval(), nn.Dropout(0.5).eval(), nn.Identity()]),
    st.builds(nn.MaxPool1d, st.integers(1, 3), stride=st.integers(1, 3)),
    st.builds(nn.AvgPool1d, st.integers(2, 3), padding=st.integers(0, 1)),
)


def bins_reached(local, length, position):
    """Return which outputs a NaN at one base reaches: it spreads along every connection, whatever the weights."""
    hidden = torch.zeros(1, CHANNELS, length, dtype=torch.float64)
    hidden[0, 0, position] = torch.nan
    outputs = local(hidden)
    return [output[0].isnan().any(dim=0).nonzero()[:, 0].tolist() for output in as_tuple(outputs)], [
        output.shape[2] for output in as_tuple(outputs)
    ]


def as_tuple(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


@given(
    layers=st.lists(LAYERS, min_size=1, max_size=5),
    positions=st.lists(st.integers(0, LENGTH - 1), min_size=3, max_size=3),
)
@settings(deadline=None, max_examples=60)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@torch.no_grad()
def test_the_derived_reach_is_where_a_nan_spreads(layers, positions):
    local = nn.Sequential(*layers).double().eval()
    (reach,) = reach_of(local)
    for position in positions:
        (found,), _ = bins_reached(local, LENGTH, position)
        first, stop = reach.bins_seeing(position, position + 1)
        assert set(found) <= set(range(first, stop))
        strides = {getattr(each, "stride", 1) for each in local}
        if strides <= {1, (1,)} and 100 <= position < 200:  # a stride may jump over bases, an end cuts
            assert (found[0], found[-1]) == (first, stop - 1)


@pytest.mark.parametrize("position", [0, 1, 17, 64, 100, 127])
@torch.no_grad()
def test_attention_pools_and_several_resolutions(position):
    first = nn.Sequential(conv(5, padding="same"), AttentionPool(CHANNELS), conv(3, padding="same"))
    second = nn.Sequential(MaxPool(4), conv(3, padding="same"))
    local = Pyramid([first, second], [conv(1, padding="same"), nn.Identity()]).double()
    found, lengths = bins_reached(local, 128, position)
    for reach, bins, length in zip(reach_of(local), found, lengths, strict=True):
        begin, stop = reach.bins_seeing(position, position + 1)
        assert bins == list(range(max(0, begin), min(stop, length)))


@given(
    reach=st.builds(Reach, st.integers(1, 9), st.integers(-20, 3), st.integers(4, 30)),
    start_bp=st.integers(0, 60),
    length_bp=st.integers(1, 8),
)
def test_bins_seeing_bases_are_those_whose_bases_overlap(reach, start_bp, length_bp):
    first, stop = reach.bins_seeing(start_bp, start_bp + length_bp)
    for index in range(-40, 120):
        begin, end = reach.bases_seen(index, index + 1)
        assert (first <= index < stop) == (begin < start_bp + length_bp and start_bp < end)


def basenji(**sizes):
    torch.manual_seed(0)
    config = BasenjiConfig(stem_channels=6, stem_width=7, channels=9, tower_width=3, dilated_channels=4, **sizes)
    return build_basenji(config, geometry=Geometry(window_bp=256, bin_bp=8), num_tracks=2).eval()


def valid_network():
    """Build with convolutions that pad nothing, a window that the bins do not fill, and an odd end."""
    torch.manual_seed(0)
    local = nn.Sequential(nn.Conv1d(4, 3, 6), nn.ReLU(), nn.MaxPool1d(3), nn.Conv1d(3, 3, 4), nn.MaxPool1d(2))
    return Network(local=local, context=nn.Identity(), head=nn.Conv1d(3, 2, 1), crop_bins=0).eval()


NETWORKS = {
    "basenji": (basenji, 256),
    "enformer": (small_enformer, 256),
    "borzoi": (small_borzoi, 4096),
    "valid": (valid_network, 250),
}


def test_reaches_of_the_networks_are_those_worked_out_by_hand():
    # stem 7: 3; then convolutions of 3 over 2 and 4 bases: 2 + 4
    assert reach_of(basenji().local) == (Reach(8, -9, 8 + 9),)
    # stem 15: 7; tower of 5 over 2, 4, 8 bases: 4 + 8 + 16
    assert reach_of(small_enformer().local) == (Reach(16, -35, 16 + 35),)
    # stem 15: 7; tower of 5 over 2, 4, 8, 16, 32 bases: 4 + 8 + 16 + 32 + 64, then 128 over 64 bases
    assert reach_of(small_borzoi().local) == (
        Reach(32, -131, 32 + 131),
        Reach(64, -259, 64 + 259),
        Reach(128, -259, 128 + 259),
    )
    assert patch_bp(reach_of(small_borzoi().local)) == 13 * 128
    # 6 bases, pools of 3, 4 positions of 3 bases, pools of 2 positions
    assert reach_of(valid_network().local) == (Reach(6, 0, 6 + 2 + 3 * 3 + 3),)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_geometry_of_a_network_holds(name):
    build, _ = NETWORKS[name]
    network = build()
    weights = {name: weight.clone() for name, weight in network.state_dict().items()}
    for seed in range(3):
        assert check_geometry(network, seed=seed) == reach_of(network.local)
    assert not network.training
    assert all(torch.equal(weight, weights[name]) for name, weight in network.state_dict().items())


def predicted_from(network, outputs):
    hidden = network.context(outputs)
    hidden = hidden[..., network.crop_bins : hidden.shape[-1] - network.crop_bins]
    return network.head(hidden, "human") if isinstance(network.head, NamedHeads) else network.head(hidden)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("changed_bp", [1, 3])
@torch.no_grad()
def test_a_patched_window_predicts_what_the_changed_one_does(name, changed_bp):
    build, window_bp = NETWORKS[name]
    network = build().double()
    reaches = reach_of(network.local)
    random = np.random.default_rng(3)
    codes = torch.from_numpy(random.integers(0, 4, (1, window_bp), np.uint8))
    reference = network.local(one_hot(codes, torch.float64))
    lengths = set()
    for position in [0, 1, window_bp // 2, window_bp // 2 + 7, window_bp - 9, window_bp - changed_bp]:
        changed = codes.clone()
        changed[0, position : position + changed_bp] = (changed[0, position : position + changed_bp] + 1) % 4
        patch = patch_around(reaches, position, window_bp=window_bp, changed_bp=changed_bp)
        lengths.add(patch.end_bp - patch.start_bp)
        assert 0 <= patch.start_bp <= position < position + changed_bp <= patch.end_bp <= window_bp
        patched = network.local(one_hot(changed[:, patch.start_bp : patch.end_bp], torch.float64))
        spliced = splice(reference, patched, patch)
        whole = network.local(one_hot(changed, torch.float64))
        for one, other, old in zip(as_tuple(spliced), as_tuple(whole), as_tuple(reference), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
            assert one is not old
        torch.testing.assert_close(predicted_from(network, spliced), predicted_from(network, whole), rtol=0, atol=1e-10)
    if name != "valid":
        assert lengths == {min(window_bp, patch_bp(reaches, changed_bp=changed_bp))}


@torch.no_grad()
def test_one_reference_takes_the_patches_of_several_rows():
    network = small_borzoi().double()
    codes = torch.from_numpy(np.random.default_rng(3).integers(0, 4, (1, 4096), np.uint8))
    changed = codes.repeat(3, 1)
    changed[:, 2000] = torch.tensor([[0], [1], [2]])[:, 0].to(torch.uint8)
    patch = patch_around(reach_of(network.local), 2000, window_bp=4096)
    patched = network.local(one_hot(changed[:, patch.start_bp : patch.end_bp], torch.float64))
    spliced = splice(network.local(one_hot(codes, torch.float64)), patched, patch)
    for one, other in zip(spliced, network.local(one_hot(changed, torch.float64)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


class Centred(nn.Identity):
    """Sees all positions, and says it sees one."""

    def forward(self, hidden):
        return hidden - hidden.mean(dim=2, keepdim=True)


class Ramp(nn.Identity):
    """Knows where it stands."""

    def forward(self, hidden):
        return hidden + torch.arange(hidden.shape[2], dtype=hidden.dtype)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Centred(), r"a variant at \d+ changes bins .* of `local`, whose layers should reach bins \d+ to \d+ only"),
        (Ramp(), "`local` does not move with the sequence: a shift of 2 bp is not one of 1 bins of 2 bp"),
        (nn.LSTM(3, 3), "LSTM: no rule says how far this layer of `local` reaches"),
        (Residual(nn.MaxPool1d(2)), "Residual: joins positions of 2 bp with positions of 4 bp"),
    ],
)
def test_layers_that_break_the_rules_are_found(layer, message):
    local = nn.Sequential(nn.Conv1d(4, 3, 5, padding="same"), MaxPool(2), layer)
    network = Network(local=local, context=nn.Identity(), head=nn.Conv1d(3, 2, 1), crop_bins=0)
    with pytest.raises(InputError, match=message):
        check_geometry(network)


@pytest.mark.parametrize(("position", "changed_bp"), [(-1, 1), (256, 1), (255, 2)])
def test_a_change_outside_the_window_is_refused(position, changed_bp):
    with pytest.raises(InputError, match=f"a change of {changed_bp} bp at {position} in a window of 256 bp; wanted"):
        patch_around((Reach(8, -9, 17),), position, window_bp=256, changed_bp=changed_bp)
