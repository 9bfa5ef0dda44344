"""Two genomes of which one is the other's pieces in another order: what is alike gets one role in both."""

import json

import numpy as np
import pytest

from cisray.config import check_settings
from cisray.datasets.card import read_card
from cisray.datasets.schema import iter_examples
from cisray.datasets.streams import ExampleStream, MixedStream
from cisray.errors import InputError
from cisray.flows.build import forecast
from cisray.flows.build_genomes import AnyBuildJob, GenomesJob, build_genomes, divide, member_jobs
from cisray.genome.tracks import write_signal

pytestmark = pytest.mark.ray
PIECE_BP = 4000
PIECES = 24  # of genome a, in one contig; genome b has them in another order, on two contigs


@pytest.fixture(scope="module")
def genomes(tmp_path_factory):
    """Write both genomes, a track of each, and the chain that aligns every piece with its copy."""
    folder = tmp_path_factory.mktemp("genomes")
    random = np.random.default_rng(0)
    pieces = ["".join(random.choice(list("ACGT"), PIECE_BP)) for _ in range(PIECES)]
    order = random.permutation(PIECES)
    contigs = {"a": {"x": pieces}, "b": {}}
    half = PIECES // 2
    contigs["b"] = {"y": [pieces[i] for i in order[:half]], "z": [pieces[i] for i in order[half:]]}
    for name, of_genome in contigs.items():
        (folder / f"{name}.fa").write_text("".join(f">{c}\n{''.join(parts)}\n" for c, parts in of_genome.items()))
        lengths = {contig: PIECE_BP * len(parts) for contig, parts in of_genome.items()}
        signal = {c: (np.arange(0, bp, 16), random.random(bp // 16)) for c, bp in lengths.items()}
        write_signal(folder / f"{name}.bw", lengths, signal, step_bp=16)
    chains = []
    for place, piece in enumerate(order):
        contig, at = ("y", place) if place < half else ("z", place - half)
        target = f"x {PIECES * PIECE_BP} + {piece * PIECE_BP} {(piece + 1) * PIECE_BP}"
        query = f"{contig} {half * PIECE_BP} + {at * PIECE_BP} {(at + 1) * PIECE_BP}"
        chains.append(f"chain 1000 {target} {query} {place + 1}\n{PIECE_BP}\n\n")
    (folder / "a.b.chain").write_text("".join(chains))
    return folder, pieces


def settings(folder, out, **changes):
    def member(name):
        return {
            "genome": {"name": name, "fasta": f"{name}.fa"},
            "geometry": {"window_bp": 512, "bin_bp": 64},
            "tracks": [{"name": f"{name}1", "file": f"{name}.bw"}],
        }

    values = {
        "name": "both",
        "source": "genomes",
        "out": str(out),
        "data_dir": str(folder),
        "cluster": {"actors": 1},
        "genomes": {"a": member("a"), "b": member("b")},
        "homology": {
            "alignments": [{"file": "a.b.chain", "target": "a", "query": "b"}],
            "folds": {"num_folds": 4, "break_bp": PIECE_BP},
            "min_span_bp": 100,
        },
    }
    return values | changes


def load(values):
    return check_settings(values, AnyBuildJob, source="job")


def test_what_is_alike_is_on_one_side_in_both_genomes(ray_here, genomes, tmp_path):
    folder, pieces = genomes
    told = []
    out = build_genomes(load(settings(folder, tmp_path / "out")), report=told.append)
    assert {progress.stage for progress in told} == {"build a", "build b"}
    cards = {name: read_card(out / name) for name in ("a", "b")}
    assert {name: card.genome.name for name, card in cards.items()} == {"a": "a", "b": "b"}
    splits_of = {}
    for name, card in cards.items():
        for split in card.counts:
            for table in iter_examples(out / name, card, split, batch_size=64):
                for row in table.column("sequence").to_pylist():
                    bases = "".join("ACGTN"[code] for code in row[100:140])
                    (piece,) = [number for number, text in enumerate(pieces) if bases in text]
                    splits_of.setdefault(piece, set()).add(split)
    assert len(splits_of) == PIECES
    assert all(len(splits) == 1 for splits in splits_of.values())
    found = json.loads((out / "genomes.json").read_text())
    assert found["homology"]["num_components"] == PIECES
    assert found["leakage"]["a.b.chain"]["leaked_bp"] == 0
    assert found["datasets"]["b"] == {"folder": "b", "genome": "b"}
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    build_genomes(load(settings(folder, tmp_path / "out")))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == before
    streams = {name: ExampleStream(out / name, "train", batch_size=4, seed=0) for name in cards}
    drawn = [name for name, _ in MixedStream(streams, weights={"a": 1.0, "b": 3.0})]
    assert abs(drawn.count("b") - 0.75 * len(drawn)) <= 0.5


def test_a_forecast_of_genomes_that_are_divided_together_is_what_the_build_does(ray_here, genomes, tmp_path):
    job = load(settings(genomes[0], tmp_path / "out"))
    regions, _ = divide(job)
    told = {name: forecast(member, regions[name]) for name, member in member_jobs(job).items()}
    assert not (tmp_path / "out").exists()
    out = build_genomes(job)
    assert {name: one.rows for name, one in told.items()} == {name: read_card(out / name).counts for name in told}


def test_a_member_is_a_job_by_itself(genomes, tmp_path):
    job = load(settings(genomes[0], tmp_path / "out"))
    assert isinstance(job, GenomesJob)
    assert [(name, one.name, one.out) for name, one in member_jobs(job).items()] == [
        ("a", "both.a", str(tmp_path / "out/a")),
        ("b", "both.b", str(tmp_path / "out/b")),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"genomes": {}}, "none; wanted a section"),
        ({"homology": None}, r"genomes\.a: wanted folds in every genome, or homology"),
        ({"nonsense": 1}, "unknown key nonsense"),
    ],
)
def test_genomes_that_cannot_be_divided_are_refused(genomes, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        load(settings(genomes[0], tmp_path / "out", **changes))


def test_a_name_that_is_no_folder_is_refused(genomes, tmp_path):
    values = settings(genomes[0], tmp_path / "out")
    values["genomes"]["../c"] = values["genomes"].pop("b")
    with pytest.raises(InputError, match=r"'\.\./c' is to be a folder"):
        load(values)
