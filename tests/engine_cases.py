"""Networks of every kind in sizes that a test can run, windows with edits everywhere, and scores by full forwards."""

import functools

import numpy as np
import torch

from cisray.baselines.kmer_ridge import KmerRidge, KmerRidgeConfig
from cisray.geometry import Geometry
from cisray.models import catalog
from cisray.models.basenji import BasenjiConfig
from cisray.models.basenji2 import Basenji2Config
from cisray.models.basenji2018 import Basenji2018Config
from cisray.models.basset import BassetConfig
from cisray.models.bpnet import BPNetConfig
from cisray.models.danq import DanQConfig
from cisray.models.deepbind import DeepBindConfig
from cisray.models.framepool import FramePoolConfig
from cisray.models.optimus5prime import Optimus5PrimeConfig
from cisray.models.outputs import apply_link
from cisray.scoring.engine import Engine, EngineSpec
from cisray.scoring.readout import Model
from cisray.scoring.windows import PlacedEdit, WindowEdits
from large_networks import SMALL_BORZOI, SMALL_ENFORMER, numbered_weights

NUM_TRACKS = 3
SWAP = np.array([1, 0, 2])
FLANK_BP = 24
VALID = BPNetConfig(channels=4, stem_width=5, dilated_layers=3, profile_width=9, padding="valid")
CONFIGS = {
    "basenji": (
        BasenjiConfig(stem_channels=6, channels=9, dilated_channels=4, dilated_layers=4),
        Geometry(window_bp=1024, bin_bp=16, crop_bins=4),
    ),
    "basenji2": (
        Basenji2Config(stem_channels=6, channels=9, dilated_channels=4, dilated_layers=4, head_channels=7),
        Geometry(window_bp=1024, bin_bp=16, crop_bins=3),
    ),
    "basenji2018": (
        Basenji2018Config(
            channels=(5, 6, 7), widths=(8, 1, 6), pools=(1, 2, 4), dilated_layers=2, dilated_channels=3, head_channels=6
        ),
        Geometry(window_bp=512, bin_bp=8),
    ),
    "enformer": (SMALL_ENFORMER, Geometry(window_bp=512, bin_bp=16, crop_bins=4)),
    "borzoi": (SMALL_BORZOI, Geometry(window_bp=1024, bin_bp=32, crop_bins=8)),
    "bpnet": (BPNetConfig(channels=5, dilated_layers=4), Geometry(window_bp=300, bin_bp=1, crop_bins=20)),
    "chrombpnet": (VALID, Geometry(window_bp=250, bin_bp=1, crop_bins=VALID.bases_lost)),
    "basset": (
        BassetConfig(channels=(5, 4, 3), hidden_units=(6, 6)),
        Geometry(window_bp=610, bin_bp=610),
    ),
    "danq": (
        DanQConfig(channels=4, width=8, pool=5, lstm_units=3, hidden_units=5),
        Geometry(window_bp=200, bin_bp=200),
    ),
    "deepbind": (DeepBindConfig(motifs=4, motif_width=9), Geometry(window_bp=101, bin_bp=101)),
    "framepool": (
        FramePoolConfig(channels=4, hidden_units=5, dilations=(1, 3), positions=True),
        Geometry(window_bp=101, bin_bp=101),
    ),
    "optimus5prime": (Optimus5PrimeConfig(channels=4, hidden_units=5), Geometry(window_bp=101, bin_bp=101)),
    "kmer_ridge": (
        KmerRidgeConfig(k=2, contexts_bp=(16, 64)),
        Geometry(window_bp=256, bin_bp=16, crop_bins=2),
    ),
}


@functools.cache
def model_of(name, *, dtype=torch.float64):
    config, geometry = CONFIGS[name]
    if name == "kmer_ridge":
        network = KmerRidge(config, geometry=geometry, num_tracks=NUM_TRACKS)
        link = "identity"
    else:
        network = catalog.build(config, geometry=geometry, num_tracks=NUM_TRACKS)
        link = network.link
    network.load_state_dict(numbered_weights(network.state_dict()))
    return Model(network.to(dtype).eval(), link, None, SWAP, geometry, NUM_TRACKS)


def measure(reference, alternate, masks, rows):
    """Score in float64."""
    masks = masks[:, :, None]
    reference, alternate = reference[rows].double(), alternate[rows].double()
    return {
        "delta_sum": ((alternate - reference) * masks).sum(dim=1),
        "l2": torch.linalg.vector_norm((alternate - reference) * masks, dim=1),
    }


def windows_of(geometry, *, num_windows=2, seed=0, margin=0):
    """Draw windows with SNVs, longer replacements, insertions and deletions, from end to end."""
    random = np.random.default_rng(seed)
    window_bp, num_bins = geometry.window_bp, geometry.num_bins
    made = []
    for number in range(num_windows):
        bases = random.integers(0, 4, window_bp + 2 * FLANK_BP, dtype=np.uint8)
        if number:
            bases[: FLANK_BP + 11] = 4  # the contig begins in this window
        places = [
            margin,
            margin + 1,
            window_bp // 2,
            window_bp - 1 - margin,
            *random.integers(margin, window_bp - 30, 3),
        ]
        kinds = [(1, 1)] * len(places)
        kinds += [(3, 3), (2, 1), (0, 1), (0, 7), (1, 0), (5, 0), (16, 2), (1, 0), (0, 2)]
        places += [*random.integers(margin, window_bp - 20 - margin, 7), margin, window_bp - 1 - margin]
        edits = []
        for start, (removed, inserted) in zip(map(int, places), kinds, strict=True):
            letters = (bases[FLANK_BP + start] + random.integers(1, 4, inserted)) % 4
            if len(edits) % 3 == 0:
                masks = np.ones((1, num_bins), bool)
            else:
                masks = np.zeros((2, num_bins), bool)
                middle = min(max(0, start // geometry.bin_bp - geometry.crop_bins), num_bins - 1)
                masks[0, max(0, middle - 3) : middle + 3] = True
                masks[1, int(random.integers(num_bins))] = True
            edits.append(PlacedEdit(start, removed, letters.astype(np.uint8), masks))
        made.append(WindowEdits(1000 * number, bases, FLANK_BP, tuple(edits)))
    return made


def engine_of(name, **settings):
    defaults = {"batch_size": 6, "check_rows": 0}
    return Engine([model_of(name)], measure=measure, spec=EngineSpec(**(defaults | settings)))


@torch.no_grad()
def predict(model, codes, *, reverse):
    """Predict one window, float64 [N, T]."""
    codes = torch.from_numpy(np.array(codes, np.uint8))
    if reverse:
        codes = torch.tensor([3, 2, 1, 0, 4], dtype=torch.uint8)[codes.flip(0).long()]
    values = forward(model.network, model.link, codes.numpy().tobytes()).clone()
    return values.flip(0)[:, torch.from_numpy(model.swap)] if reverse else values


@functools.lru_cache(maxsize=1024)  # the edits of a window have their reference in common
def forward(network, link, codes):
    """Run a network on the codes of one window, bytes."""
    return apply_link(network(torch.tensor(list(codes), dtype=torch.uint8)[None]), link, dtype=torch.float64)[0]


def full_scores(model, window, edit, *, align, strands=(False,), shifts=(0,)):
    """Score an edit by full forwards of both alleles, in plain steps."""
    geometry = model.geometry
    length, bases = geometry.window_bp, list(window.bases)
    at = window.flank_bp + edit.start
    edited = bases[:at] + list(edit.inserted) + bases[at + edit.removed_bp :]
    moved = len(edit.inserted) - edit.removed_bp
    found = []
    for shift in shifts:
        begin = window.flank_bp + shift
        for reverse in strands:
            reference = predict(model, bases[begin : begin + length], reverse=reverse)
            alternate = predict(model, edited[begin : begin + length], reverse=reverse)
            if moved and align == "stitch":
                right = predict(model, edited[begin + moved : begin + moved + length], reverse=reverse)
                for index in range(geometry.num_bins):
                    first_base = (index + geometry.crop_bins) * geometry.bin_bp + shift
                    if first_base > edit.start:
                        alternate[index] = right[index]
            if moved and align == "ref_coords":
                alternate = in_reference_coordinates(
                    alternate, reference, edit, start=edit.start - shift, geometry=geometry
                )
            masks = torch.from_numpy(edit.masks)
            rows = torch.zeros(len(masks), dtype=torch.long)
            found.append([reference[None], alternate[None], masks, rows])
    return found


def in_reference_coordinates(alternate, reference, edit, *, start, geometry):
    """Map base by base, in plain steps."""
    removed, inserted = edit.removed_bp, len(edit.inserted)
    aligned = reference.clone()
    crop, length = geometry.crop_bins, geometry.num_bins
    for index in range(length):
        base = index + crop
        if base < start + min(removed, inserted):
            sources = [base]
        elif base < start + removed:
            aligned[index] = 0
            continue
        else:
            sources = [base + inserted - removed]
        if inserted > removed and base == start + removed - 1:
            sources = list(range(base, start + inserted))
        sources = [source - crop for source in sources if 0 <= source - crop < length]
        if sources:
            aligned[index] = alternate[sources].amax(dim=0)
    return aligned
