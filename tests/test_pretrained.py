import dataclasses
import json
import os
import pickle
import re

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from cisray import pretrained
from cisray.bundle import Predictor
from cisray.config import check_settings
from cisray.datasets.calico.targets import write_targets
from cisray.datasets.card import Track
from cisray.datasets.loci.folds import FoldSpec
from cisray.datasets.source import GenomeSpec
from cisray.datasets.transforms import to_natural
from cisray.errors import InputError
from cisray.files import file_digest
from cisray.geometry import Geometry
from cisray.models import enformer
from cisray.models.weights import BORZOI_PYTORCH, ENFORMER_PYTORCH, our_name
from cisray.pretrained import ImportSpec, import_weights, read_weights
from large_networks import SMALL_BORZOI, SMALL_ENFORMER, TRACKS, random_codes, small_borzoi, small_enformer

# The tables of models.weights turned round, written anew: from our names to theirs.
_TO_BLOCK = [
    (r"blocks\.(\d+)\.norm\.", r"transformer.\1.0.fn.0."),
    (r"blocks\.(\d+)\.attention\.query\.", r"transformer.\1.0.fn.1.to_q."),
    (r"blocks\.(\d+)\.attention\.key\.", r"transformer.\1.0.fn.1.to_k."),
    (r"blocks\.(\d+)\.attention\.value\.", r"transformer.\1.0.fn.1.to_v."),
    (r"blocks\.(\d+)\.attention\.out\.", r"transformer.\1.0.fn.1.to_out."),
    (r"blocks\.(\d+)\.attention\.relative_key\.", r"transformer.\1.0.fn.1.to_rel_k."),
    (r"blocks\.(\d+)\.attention\.content_bias", r"transformer.\1.0.fn.1.rel_content_bias"),
    (r"blocks\.(\d+)\.attention\.position_bias", r"transformer.\1.0.fn.1.rel_pos_bias"),
    (r"blocks\.(\d+)\.mlp\.", r"transformer.\1.1.fn."),
]
TO_ENFORMER_PYTORCH = [
    (r"local\.stem\.1\.layers\.", "stem.1.fn."),
    (r"local\.stem\.2\.logits\.", "stem.2.to_attn_logits."),
    (r"local\.stem\.", "stem."),
    (r"local\.tower\.(\d+)\.1\.layers\.", r"conv_tower.\1.1.fn."),
    (r"local\.tower\.(\d+)\.2\.logits\.", r"conv_tower.\1.2.to_attn_logits."),
    (r"local\.tower\.", "conv_tower."),
    *((f"^context\\.{ours}", theirs) for ours, theirs in _TO_BLOCK),
    (r"head\.shared\.0\.", "final_pointwise.1."),
    (r"head\.tracks\.(\w+)\.", r"_heads.\1.0."),
]
TO_BORZOI_PYTORCH = [
    *((f"^context\\.transformer\\.{ours}", theirs) for ours, theirs in _TO_BLOCK),
    (r"local\.stages\.0\.stem\.0\.", "conv_dna.conv_layer."),
    (r"local\.stages\.0\.tower\.(\d+)\.0\.", r"res_tower.\1.norm."),
    (r"local\.stages\.0\.tower\.(\d+)\.2\.", r"res_tower.\1.conv_layer."),
    (r"local\.stages\.1\.1\.0\.", "unet1.1.norm."),
    (r"local\.stages\.1\.1\.2\.", "unet1.1.conv_layer."),
    (r"local\.sides\.(\d)\.0\.", r"horizontal_conv\1.norm."),
    (r"local\.sides\.(\d)\.2\.", r"horizontal_conv\1.conv_layer."),
    (r"context\.steps\.0\.widen\.0\.", "upsampling_unet1.0.norm."),
    (r"context\.steps\.0\.widen\.2\.", "upsampling_unet1.0.conv_layer."),
    (r"context\.steps\.1\.widen\.0\.", "upsampling_unet0.0.norm."),
    (r"context\.steps\.1\.widen\.2\.", "upsampling_unet0.0.conv_layer."),
    (r"context\.steps\.0\.mix\.", "separable1.conv_layer."),
    (r"context\.steps\.1\.mix\.", "separable0.conv_layer."),
    (r"head\.shared\.0\.0\.", "final_joined_convs.0.norm."),
    (r"head\.shared\.0\.2\.", "final_joined_convs.0.conv_layer."),
    (r"head\.tracks\.(\w+)\.", r"\1_head."),
]
GEOMETRIES = {
    "enformer-pytorch": Geometry(window_bp=256, bin_bp=16, crop_bins=4),
    "borzoi-pytorch": Geometry(window_bp=1024, bin_bp=32, crop_bins=8),
}


def their_names(weights, rules):
    renamed = {}
    for name, weight in weights.items():
        for pattern, theirs in rules:
            name, hits = re.subn(f"^{pattern}" if not pattern.startswith("^") else pattern, theirs, name)
            if hits:
                break
        else:
            raise AssertionError(name)
        renamed[name] = weight.clone()
    return renamed


def published(source):
    """Return our network with random weights, and those weights by the package's names."""
    if source == "enformer-pytorch":
        network = small_enformer()
        return network, their_names(network.state_dict(), TO_ENFORMER_PYTORCH)
    network = small_borzoi()
    return network, their_names(network.state_dict(), TO_BORZOI_PYTORCH)


def tracks_of(head):
    """Make tracks with a power, a soft clip and a strand pair among them."""
    stranded = [Track(name=f"a{sign}", file="a.bw", strand_pair=f"a{other}") for sign, other in ("+-", "-+")]
    bent = [
        Track(name=f"b{n}", file="b.bw", statistic="sum_sqrt", scale=0.3, clip_soft=384.0, clip=768.0)
        for n in range(TRACKS[head] - 2)
    ]
    return [dataclasses.replace(track, uncovered="zero") for track in stranded + bent]


@pytest.fixture
def folder(tmp_path):
    """Make a folder of a genome and the targets of both heads."""
    letters = np.array(list("ACGT"))[np.random.default_rng(0).integers(0, 4, 4000)]
    (tmp_path / "toy.fa").write_text(">chr1\n" + "".join(letters[:3000]) + "\n>chr2\n" + "".join(letters[3000:]) + "\n")
    for head in TRACKS:
        write_targets(tmp_path / f"{head}.txt", tracks_of(head))
    return tmp_path


def spec_for(folder, source, tensors, **settings):
    """Write weights as safetensors and say how to import them."""
    save_file({name: weight.contiguous() for name, weight in tensors.items()}, folder / "model.safetensors")
    default = {
        "source": source,
        "weights": "model.safetensors",
        "targets": f"{settings.get('head', 'human')}.txt",
        "genome": GenomeSpec(name="toy1", fasta="toy.fa"),
        "model": SMALL_ENFORMER if source == "enformer-pytorch" else SMALL_BORZOI,
        "geometry": GEOMETRIES[source],
        "name": "published",
        "data_dir": str(folder),
        "out": str(folder / "bundle"),
    }
    return ImportSpec(**(default | settings))


@pytest.mark.parametrize("source", sorted(GEOMETRIES))
def test_the_names_of_the_test_are_those_of_the_tables(source):
    network, weights = published(source)
    table = {"enformer-pytorch": ENFORMER_PYTORCH, "borzoi-pytorch": BORZOI_PYTORCH}[source]
    assert [our_name(name, table) for name in weights] == list(network.state_dict())
    assert not set(weights) & set(network.state_dict())


@pytest.mark.parametrize("head", sorted(TRACKS))
@pytest.mark.parametrize("source", sorted(GEOMETRIES))
def test_an_imported_bundle_predicts_what_the_network_does_on_the_natural_scale(folder, source, head):
    network, weights = published(source)
    out = import_weights(spec_for(folder, source, weights, head=head))
    predictor, codes = Predictor(out), random_codes(2, GEOMETRIES[source].window_bp)
    with torch.no_grad():
        rates = network(codes, head)
    expected = to_natural(rates, predictor.card.transforms())
    torch.testing.assert_close(predictor(codes), expected, rtol=1e-6, atol=0)
    # by hand, below the soft clip: the old order divides first and takes the power 4/3, the new one squares first
    last = rates[..., -1].double()
    by_hand = (last / 0.3) ** (4 / 3) if source == "borzoi-pytorch" else ((last + 1) ** 2 - 1) / 0.3
    torch.testing.assert_close(predictor(codes)[..., -1].double(), by_hand, rtol=1e-5, atol=0)


def test_the_card_says_where_the_weights_come_from_and_what_is_not_known(folder):
    source = "borzoi-pytorch"
    _, weights = published(source)
    spec = spec_for(folder, source, weights)
    out = import_weights(spec)
    card = Predictor(out).card
    assert card.facts["weights"] == {
        "file": "model.safetensors",
        "sha256": file_digest(folder / "model.safetensors"),
        "names": "borzoi-pytorch",
        "head": "human",
        "heads_left_out": {"mouse": 3},
        "types": {
            "float32": sum(weight.is_floating_point() for weight in weights.values()),
            "int64": sum(not weight.is_floating_point() for weight in weights.values()),
        },
    }
    assert (card.kind, card.counts, card.statistics) == ("coverage", {"train": 0, "valid": 0, "test": 0}, {})
    assert (card.folds, card.regions) == (None, {"train": [], "valid": [], "test": []})
    assert card.geometry == GEOMETRIES[source]
    assert {track.order for track in card.tracks} == {"old"}
    assert card.strand_swap() == [1, 0, 2, 3, 4]
    assert card.genome_for("this").contig_lengths == {"chr1": 3000, "chr2": 1000}
    assert [file.path for file in card.sources] == ["model.safetensors", "human.txt"]
    assert str(folder) not in (out / "card.json").read_text() + (out / "model.json").read_text()
    metrics, model = (json.loads((out / name).read_text()) for name in ("metrics.json", "model.json"))
    network = small_borzoi(num_tracks=TRACKS["human"])
    assert metrics == {
        "measured": "nothing: weights that others trained",
        "num_parameters": sum(weight.numel() for weight in network.parameters()),
        "history": [],
        "best_epoch": None,
        "definitions": {},
    }
    assert model["objective"] == "poisson_multinomial"
    assert model["made_by"] == {"imported": card.facts["weights"]}


def test_given_folds_and_order_stand_in_the_card(folder):
    source = "enformer-pytorch"
    (folder / "sequences.bed").write_text("chr1\t0\t1000\tfold0\nchr1\t1000\t2000\tfold1\nchr2\t0\t1000\tfold2\n")
    folds = FoldSpec(sequences="sequences.bed", sequences_are="region", test_fold=2, valid_fold=1)
    spec = spec_for(folder, source, published(source)[1], folds=folds, order="old")
    card = Predictor(import_weights(spec)).card
    assert card.folds == folds
    assert card.regions == {"train": ["chr1:0-1000"], "valid": ["chr1:1000-2000"], "test": ["chr2:0-1000"]}
    assert {track.order for track in card.tracks} == {"old"}
    plain = spec_for(folder, source, published(source)[1], out=str(folder / "plain"))
    assert {track.order for track in Predictor(import_weights(plain)).card.tracks} == {"new"}


@pytest.mark.parametrize("ending", [".bin", ".pt", ".pth"])
def test_a_state_dict_of_torch_makes_the_same_bundle(folder, ending):
    source = "enformer-pytorch"
    weights = published(source)[1]
    torch.save(weights, folder / f"model{ending}")
    first = import_weights(spec_for(folder, source, weights, out=str(folder / "first")))
    second = import_weights(spec_for(folder, source, weights, weights=f"model{ending}", out=str(folder / "second")))
    assert file_digest(first / "weights.safetensors") == file_digest(second / "weights.safetensors")


def test_weights_in_half_precision_are_widened_and_told(folder):
    source = "enformer-pytorch"
    weights = {name: w.half() if w.is_floating_point() else w for name, w in published(source)[1].items()}
    predictor = Predictor(import_weights(spec_for(folder, source, weights)))
    assert set(predictor.card.facts["weights"]["types"]) == {"float16", "int64"}
    stem = predictor.network.local.stem[0].weight
    assert torch.equal(stem, weights["stem.0.weight"].float())


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_a_pickle_with_code_is_refused_and_not_run(folder, save):
    mark, path = folder / "it_ran", folder / "model.bin"
    save({"stem.0.weight": torch.zeros(1), "more": Bomb(mark)}, path)
    spec = spec_for(folder, "enformer-pytorch", {"x": torch.zeros(1)}, weights="model.bin")
    with pytest.raises(
        InputError, match=r"model\.bin: damaged, or holds more than tensors, which is not run \(.*state"
    ):
        import_weights(spec)
    assert not mark.exists()
    assert not (folder / "bundle").exists()
    command, arguments = Bomb(mark).__reduce__()
    command(*arguments)
    assert mark.exists()  # the code would have been seen to run


@pytest.mark.parametrize("keep", [0, 1, 40, 1000])
def test_a_file_cut_short_is_told(folder, keep):
    torch.save({"a": torch.zeros(1000)}, folder / "whole.pt")
    whole = (folder / "whole.pt").read_bytes()
    (folder / "cut.pt").write_bytes(whole[:keep])
    with pytest.raises(InputError, match=r"cut\.pt: damaged, or holds more than tensors"):
        read_weights(folder / "cut.pt")
    save_file({"a": torch.zeros(1000)}, folder / "whole.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "whole.safetensors").read_bytes()[:keep])
    with pytest.raises(InputError, match=r"cut\.safetensors: not a readable safetensors file \(.*\); copy it again"):
        read_weights(folder / "cut.safetensors")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([torch.zeros(1)], r"holds a list; wanted a dictionary of names and tensors: save the network's state_dict"),
        ({}, r"holds an empty dictionary; wanted a dictionary"),
        ({"epoch": 3, "state_dict": {}}, r"'epoch' is a int; wanted a dictionary"),
        ({"state_dict": {"a": torch.zeros(1)}}, r"'state_dict' is a dict; wanted a dictionary"),
        ({3: torch.zeros(1)}, r"3 is a Tensor; wanted a dictionary"),
    ],
)
def test_what_is_no_state_dict_is_told(tmp_path, value, told):
    torch.save(value, tmp_path / "model.pt")
    with pytest.raises(InputError, match=rf"model\.pt: {told}"):
        read_weights(tmp_path / "model.pt")


def test_files_of_other_kinds_are_told(tmp_path):
    (tmp_path / "model.h5").write_bytes(b"x")
    with pytest.raises(InputError, match=r"model\.h5: a file of weights ends in \.safetensors, \.bin, \.pt or \.pth"):
        read_weights(tmp_path / "model.h5")
    with pytest.raises(InputError, match="but a file of weights was expected here"):
        read_weights(tmp_path)


def test_all_misfits_are_told_at_once_and_nothing_is_written(folder):
    source = "enformer-pytorch"
    weights = published(source)[1]
    weights["stem.0.weight"] = weights["stem.0.weight"][:, :, :13]
    weights["stem.0.bias"][1] = float("nan")
    weights["conv_tower.0.0.2.bias"] = weights["conv_tower.0.0.2.bias"].to(torch.int8)
    del weights["transformer.1.0.fn.0.bias"]
    with pytest.raises(InputError, match=r"model\.safetensors: ") as raised:
        import_weights(spec_for(folder, source, weights, targets="mouse.txt"))
    message = str(raised.value)
    assert "the human head has 5 tracks, and mouse.txt has 3; wanted the targets that it was trained on" in message
    assert "stem.0.bias has values that are NaN or infinite" in message
    assert "conv_tower.0.0.2.bias is torch.int8; wanted floating-point numbers" in message
    assert "stem.0.weight is [24, 4, 13] and local.stem.0.weight is [24, 4, 15]" in message
    assert "nothing is context.blocks.1.norm.bias" in message
    assert not (folder / "bundle").exists()
    assert not [path for path in folder.iterdir() if path.name.startswith(".bundle")]


def test_many_bad_values_are_counted(folder):
    source = "enformer-pytorch"
    weights = {name: w * float("nan") if w.is_floating_point() else w for name, w in published(source)[1].items()}
    number = sum(weight.is_floating_point() for weight in weights.values())
    with pytest.raises(InputError, match=rf"NaN or infinite; and {number - 8} more such$"):
        import_weights(spec_for(folder, source, weights))


def test_a_head_that_is_not_there_and_weights_of_the_other_package_are_told(folder):
    source = "enformer-pytorch"
    weights = published(source)[1]
    human = {name: weight for name, weight in weights.items() if "mouse" not in name}
    with pytest.raises(InputError, match=r"model\.safetensors: no head mouse; found human$"):
        import_weights(spec_for(folder, source, human, head="mouse"))
    with pytest.raises(InputError, match=r"no head human; found none; these weights do not fit .* has no place here"):
        import_weights(spec_for(folder, source, published("borzoi-pytorch")[1]))


def test_weights_with_one_head_alone_are_imported(folder):
    source = "borzoi-pytorch"
    human = {name: weight for name, weight in published(source)[1].items() if "mouse" not in name}
    card = Predictor(import_weights(spec_for(folder, source, human))).card
    assert card.facts["weights"]["heads_left_out"] == {}


def test_the_published_sizes_and_geometry_are_the_default(folder):
    spec = spec_for(folder, "borzoi-pytorch", published("borzoi-pytorch")[1], model=None, geometry=None)
    with pytest.raises(InputError, match=r"conv_dna.conv_layer.weight is \[6, 4, 15\] and .* is \[512, 4, 15\]"):
        import_weights(spec)


def test_what_is_there_is_not_overwritten(folder):
    spec = spec_for(folder, "enformer-pytorch", {"x": torch.zeros(1)})
    (folder / "bundle").mkdir()
    with pytest.raises(InputError, match="bundle: there already; name another folder in out, or remove it"):
        import_weights(spec)


def test_a_missing_file_is_told(folder):
    spec = spec_for(folder, "enformer-pytorch", published("enformer-pytorch")[1], weights="other.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors: no such input file"):
        import_weights(spec)


def test_the_architecture_is_that_of_the_source(folder):
    with pytest.raises(
        ValidationError, match=r"model\.architecture=borzoi; weights of enformer-pytorch are enformer's"
    ):
        spec_for(folder, "enformer-pytorch", {"x": torch.zeros(1)}, model=SMALL_BORZOI)


def test_the_command_line_can_fill_it():
    values = {
        "source": "enformer-pytorch",
        "weights": "model.bin",
        "targets": "targets.txt",
        "genome": {"name": "hg38", "fasta": "hg38.fa"},
        "model": {"architecture": "enformer", "gamma_maximum": "distance"},
        "geometry": {"window_bp": 1024, "bin_bp": 128},
        "name": "enformer",
        "out": "runs/enformer",
    }
    spec = check_settings(values, ImportSpec, source="here")
    assert spec.model == enformer.EnformerConfig(gamma_maximum="distance")
    assert (spec.head, spec.order, spec.folds, spec.geometry.window_bp) == ("human", None, None, 1024)
    with pytest.raises(InputError, match="here: head = 'fly'"):
        check_settings(values | {"head": "fly"}, ImportSpec, source="here")
    with pytest.raises(InputError, match="here: unknown key wieghts; did you mean weights"):
        check_settings(values | {"wieghts": "x"}, ImportSpec, source="here")


def test_the_weights_of_enformer_pytorch_itself(folder):
    enformer_pytorch = pytest.importorskip("enformer_pytorch", reason="enformer-pytorch is not installed")
    torch.manual_seed(0)
    theirs = enformer_pytorch.Enformer.from_hparams(
        dim=48,
        depth=2,
        heads=4,
        output_heads=TRACKS,
        target_length=8,
        attn_dim_key=8,
        num_downsamples=4,
        dim_divisible_by=12,
    ).eval()
    torch.save(theirs.state_dict(), folder / "theirs.bin")  # every layer twice, as its trunk has them
    spec = spec_for(folder, "enformer-pytorch", {"x": torch.zeros(1)}, weights="theirs.bin")
    predictor, codes = Predictor(import_weights(spec)), random_codes(2, 256)
    with torch.no_grad():
        expected = theirs((codes[..., None] == torch.arange(4)).float())["human"]
    torch.testing.assert_close(predictor.network(codes), expected, rtol=0, atol=1e-5)


def test_the_names_of_borzoi_pytorch_itself():
    pytest.importorskip("borzoi_pytorch", reason="borzoi-pytorch is not installed")
    from borzoi_pytorch.config_borzoi import BorzoiConfig as TheirConfig
    from borzoi_pytorch.pytorch_borzoi_model import Borzoi

    with torch.device("meta"):  # its channels are the published ones and cannot be made small
        theirs = Borzoi(TheirConfig(depth=1, enable_mouse_head=True))
    assert set(published("borzoi-pytorch")[1]) == set(theirs.state_dict())


def test_a_network_whose_reach_is_not_proven_makes_no_bundle(folder, monkeypatch):
    def refuse(network):
        raise InputError(f"{type(network).__name__} cannot be patched")

    monkeypatch.setattr(pretrained, "check_geometry", refuse)
    with pytest.raises(InputError, match="Network cannot be patched"):
        import_weights(spec_for(folder, "enformer-pytorch", published("enformer-pytorch")[1]))
    assert not [path for path in folder.iterdir() if "bundle" in path.name]


def test_a_statistic_without_a_formula_in_the_order_makes_no_bundle(folder):
    tracks = [dataclasses.replace(track, statistic="sum_exp75") for track in tracks_of("human")]
    write_targets(folder / "human.txt", tracks)
    spec = spec_for(folder, "borzoi-pytorch", published("borzoi-pytorch")[1])
    with pytest.raises(InputError, match='statistic sum_exp75 has no order "old"'):
        import_weights(spec)
    assert not [path for path in folder.iterdir() if "bundle" in path.name]
