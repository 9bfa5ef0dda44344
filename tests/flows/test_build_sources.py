"""Every source through the whole flow: the same bytes whatever the number of workers, and any reader's rows."""

import json

import numpy as np
import pyarrow.dataset
import pytest
import torch

from cisray.bundle import build_network, write_bundle
from cisray.config import check_settings
from cisray.datasets.card import read_card
from cisray.datasets.peaks.mining import MiningSpec
from cisray.datasets.schema import decode_examples, iter_examples, layout_of, to_float, verify_dataset
from cisray.datasets.streams import ExampleStream
from cisray.errors import InputError
from cisray.flows.build import build, forecast
from cisray.flows.build_genomes import AnyBuildJob
from cisray.flows.mine import mine_negatives
from cisray.models.deepbind import DeepBindConfig
from whole_program import read_fasta

pytestmark = pytest.mark.ray
CONTIGS = {"chr1": 40_000, "chr2": 20_000}
SITE = "TGACTCAGCA"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A genome with planted sites, peaks of two factors over them, and a table of measured sequences."""
    folder = tmp_path_factory.mktemp("inputs")
    random = np.random.default_rng(3)
    bases = {contig: random.choice(list("ACGT"), length) for contig, length in CONTIGS.items()}
    peaks = {"one": [], "two": []}
    for contig, length in CONTIGS.items():
        for start in range(500, length - 500, 1000):
            bases[contig][start : start + len(SITE)] = list(SITE)
            for name, lines in peaks.items():
                if name == "one" or start % 2000 == 500:
                    lines.append(f"{contig[3:]}\t{start}\t{start + 10}\t{name}\t0\t.\n")
    (folder / "genome.fa").write_text("".join(f">{contig}\n{''.join(each)}\n" for contig, each in bases.items()))
    for name, lines in peaks.items():
        random.shuffle(lines)
        (folder / f"{name}_peaks.bed").write_text("".join(lines))
    rows = ["id,sequence,level,batch"]
    for number in range(600):
        length = int(random.integers(40, 51))
        sequence = "".join(random.choice(list("ACGU"), length))
        rows.append(f"s{number},{sequence.lower()},{sequence.count('G') / length:.4f},{number % 3}")
    (folder / "levels.csv").write_text("\n".join(rows) + "\n")
    return folder


def peaks_settings():
    return {
        "source": "peaks",
        "genome": {"name": "toy", "fasta": "genome.fa"},
        "geometry": {"window_bp": 200, "bin_bp": 200},
        "folds": {"valid": ["chr1:30000-40000"], "test": ["chr2"]},
        "tracks_from": "*_peaks.bed",
        "strip_suffix": "_peaks",
        "placement": "peaks",
        "labels": {"rule": "summit"},
        "negatives": [{"kind": "gc_matched", "ratio": 2.0}, {"kind": "shuffle", "splits": ["train"]}],
        "shard_rows": 7,
    }


def table_settings():
    return {
        "source": "table",
        "files": [{"path": "levels.csv"}],
        "id": "id",
        "tracks": [{"column": "level"}],
        "split": {"valid_fraction": 0.2, "test_fraction": 0.2},
        "shard_rows": 50,
    }


def job(settings, inputs, out, *, actors=1):
    common = {"name": "toy", "out": str(out), "data_dir": str(inputs), "cluster": {"actors": actors}}
    return check_settings(settings | common, AnyBuildJob, source="job")


def read(folder):
    """Read a dataset without cisray: rows by split."""
    return pyarrow.dataset.dataset(folder / "examples", partitioning="hive").to_table()


@pytest.mark.parametrize("settings", [peaks_settings, table_settings])
def test_two_builds_are_the_same_bytes_whatever_the_number_of_workers(ray_here, inputs, tmp_path, settings, bytes_of):
    one = build(job(settings(), inputs, tmp_path / "one"))
    two = build(job(settings(), inputs, tmp_path / "two", actors=2))
    assert bytes_of(one) == bytes_of(two)
    verify_dataset(one, read_card(one))


def test_peaks_become_labels_and_negatives_that_are_recorded(ray_here, inputs, tmp_path):
    out = build(job(peaks_settings(), inputs, tmp_path / "out"))
    card = read_card(out)
    assert card.kind == "labels"
    assert card.track_names == ["one", "two"]
    assert card.target_type == "u1"
    assert {kind["kind"] for kind in card.facts["negatives"]} == {"gc_matched", "shuffle"}
    rows = read(out)
    labels = np.frombuffer(b"".join(rows["target"].to_pylist()), np.uint8).reshape(-1, 2)
    codes = np.frombuffer(b"".join(rows["sequence"].to_pylist()), np.uint8).reshape(-1, 200)
    has_site = np.array([SITE in "".join("ACGTN"[code] for code in row) for row in codes])
    genomic = np.array(rows["strand"].to_pylist()) == "+"
    assert np.array_equal(labels[genomic, 0] == 1, has_site[genomic])
    assert labels[~genomic].sum() == 0
    splits = np.array(rows["split"].to_pylist())
    positives = {split: int(labels[splits == split, 0].sum()) for split in card.counts}
    assert positives == {"train": 30, "valid": 10, "test": 20} or sum(positives.values()) > 50
    assert set(splits[~genomic]) == {"train"}
    for split, of_tracks in card.statistics.items():
        assert of_tracks["one"].total == positives[split]


def test_a_table_becomes_padded_rows_without_a_genome(ray_here, inputs, tmp_path):
    out = build(job(table_settings(), inputs, tmp_path / "out"))
    card = read_card(out)
    assert card.genome is None
    assert card.kind == "measurements"
    assert sum(card.counts.values()) == 600
    seen = set()
    for split in card.counts:
        for table in iter_examples(out, card, split, batch_size=100):
            examples = decode_examples(table, layout_of(card))
            lengths = table["end"].to_numpy()
            for codes, target, length, name in zip(
                examples.codes, to_float(examples.targets), lengths, table["contig"].to_pylist(), strict=True
            ):
                assert (codes[:length] < 4).all()
                assert (codes[length:] == 4).all()
                assert target[0, 0] == pytest.approx((codes == 2).sum() / length, abs=1e-4)
                seen.add(name)
    assert len(seen) == 600
    assert next(iter(ExampleStream(out, "train", batch_size=8, seed=0)))["targets"].shape == (8, 1, 1)


def test_a_forecast_tells_what_the_build_then_does(ray_here, inputs, tmp_path):
    wanted = job(table_settings(), inputs, tmp_path / "out")
    told = forecast(wanted)
    card = read_card(build(wanted))
    assert told.rows == card.counts
    assert told.row_bytes == layout_of(card).row_bytes
    assert told.num_shards == len(card.files)


def test_a_network_of_today_refuses_what_it_cannot_learn(ray_here, inputs, tmp_path, cisray, store):
    out = build(job(table_settings(), inputs, tmp_path / "out"))
    answer = cisray("train", "jobs/tiny/train.toml", "--set", f"dataset={out}", "--set", f"out={tmp_path / 'm'}")
    assert answer.code == 2
    assert (
        "targets are measurements, and this architecture predicts rates; choose one that returns one number"
        in answer.err
    )


def test_a_card_tells_what_a_job_said(ray_here, inputs, tmp_path):
    out = build(job(peaks_settings(), inputs, tmp_path / "out"))
    told = json.loads((out / "card.json").read_text())["job"]
    assert told["negatives"][0]["kind"] == "gc_matched"
    assert told["source"] == "peaks"
    with pytest.raises(InputError, match="exists, and was not made by this job"):
        build(job(peaks_settings() | {"seed": 1}, inputs, tmp_path / "out"))


@pytest.fixture(scope="module")
def finder(ray_here, inputs, tmp_path_factory):
    """A bundle that takes every window with TGAC for a positive of both tracks: its one detector is that word."""
    folder = tmp_path_factory.mktemp("finder")
    card = read_card(build(job(peaks_settings(), inputs, folder / "dataset")))
    config = DeepBindConfig(motifs=1, motif_width=4)
    network = build_network(config, geometry=card.geometry, num_tracks=2)
    weights = {name: torch.zeros_like(weight) for name, weight in network.state_dict().items()}
    (detector,) = [name for name, weight in weights.items() if weight.ndim == 3]
    for position, base in enumerate("TGAC"):
        weights[detector][0, "ACGT".index(base), position] = 1.0
    (last,) = [name for name, weight in weights.items() if weight.ndim == 2]
    weights[last][:, 0] = 10.0
    weights[last.replace("weight", "bias")][:] = -35.0  # four bases of four make 40
    write_bundle(
        folder / "bundle", weights=weights, config=config, cards=card, metrics={}, objective="binary_cross_entropy"
    )
    return folder / "bundle"


def test_what_a_model_takes_for_a_positive_becomes_a_negative(ray_here, inputs, tmp_path, finder):
    peaks_job = job(peaks_settings(), inputs, tmp_path / "unused")
    spec = MiningSpec(num_loci=7, min_score=0.9, spacing_bp=400)
    first = mine_negatives(peaks_job, finder, inputs / "round1.bed", spec)
    assert len(first.start) == 7 < first.num_false < first.num_scored
    second = mine_negatives(peaks_job, finder, inputs / "round2.bed", spec, earlier=inputs / "round1.bed")
    assert second.round.tolist() == [1] * 7 + [2] * 7
    genome = read_fasta(inputs / "genome.fa")
    for contig, start in zip(second.contig, second.start.tolist(), strict=True):
        assert contig == "chr1"
        assert start < 30_000  # the rest is held out
        assert "TGAC" in genome[contig][start : start + 200]
    again = peaks_settings() | {"negatives": [{"kind": "mined", "file": "round2.bed", "splits": ["train"]}]}
    rows = read(build(job(again, inputs, tmp_path / "mined")))
    starts = set(zip(rows["contig"].to_pylist(), rows["start"].to_pylist(), strict=True))
    assert set(zip(second.contig, second.start.tolist(), strict=True)) <= starts
    with pytest.raises(InputError, match="is there already; name another file"):
        mine_negatives(peaks_job, finder, inputs / "round1.bed", spec)


def test_a_model_of_other_labels_or_windows_cannot_mine(ray_here, inputs, tmp_path, finder, bundle):
    with pytest.raises(InputError, match=r"predicts coverage of strength, .*; wanted a model of the labels one, two"):
        mine_negatives(job(peaks_settings(), inputs, "any"), bundle, tmp_path / "m.bed", MiningSpec(num_loci=1))
    wide = peaks_settings() | {"geometry": {"window_bp": 300, "bin_bp": 300}}
    with pytest.raises(InputError, match=r"reads windows of .*window_bp=200.* the job makes"):
        mine_negatives(job(wide, inputs, "any"), finder, tmp_path / "m.bed", MiningSpec(num_loci=1))
