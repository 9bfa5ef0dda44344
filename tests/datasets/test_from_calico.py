import gzip
import os
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from calico_files import TARGETS, WINDOWS, arrays_of, example, framed, write_folder, write_records
from cisray.config import check_settings
from cisray.datasets.calico.targets import Relocation
from cisray.datasets.card import check_tracks, track_transforms
from cisray.datasets.from_calico import CalicoSource, CalicoSpec
from cisray.datasets.schema import decode_examples, example_schema
from cisray.datasets.source import GenomeSpec, Source
from cisray.datasets.transforms import to_natural
from cisray.errors import InputError
from cisray.genome.sequence import decode, encode

DATA = os.environ.get("CISRAY_DATA")
GENOME = GenomeSpec(name="toy1", fasta="toy.fa")


@pytest.fixture(autouse=True)
def no_cache_of_others(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def make(tmp_path):
    """Write a folder and open it as a source."""

    def make_source(*, spec=None, **folder):
        codes, targets = write_folder(tmp_path / "data", **folder)
        return CalicoSource(CalicoSpec(folder="data", **(spec or {})), str(tmp_path)), codes, targets

    return make_source


def build_all(source: Source) -> dict[str, pa.Table]:
    """Build every planned shard and join those of a split."""
    plan = source.plan()
    assert len({shard.name for shard in plan.shards}) == len(plan.shards)
    rows: dict[str, list[pa.Table]] = {}
    for shard in plan.shards:
        built = source.build(shard.values)
        assert len(built.rows) == shard.num_rows
        rows.setdefault(shard.split, []).append(built.rows)
    return {split: pa.concat_tables(tables) for split, tables in rows.items()}


@pytest.mark.parametrize("seq_1hot", [True, False])
@pytest.mark.parametrize("extent", ["target", "input"])
@pytest.mark.parametrize("per_file", [1, 2, 10])
def test_rows_are_the_records(make, seq_1hot, extent, per_file):
    source, codes, targets = make(seq_1hot=seq_1hot, extent=extent, per_file=per_file)
    tables = build_all(source)
    first = 0
    for fold, (split, count) in enumerate([("train", 5), ("valid", 2), ("test", 2)]):
        rows = tables[split]
        assert rows.schema.equals(example_schema(source.layout), check_metadata=True)
        examples = decode_examples(rows, source.layout)
        assert examples.codes.tolist() == codes[first : first + count].tolist()
        assert examples.targets.tobytes() == targets[first : first + count].tobytes()
        assert rows["contig"].to_pylist() == [contig for contig, _, _ in WINDOWS[first : first + count]]
        assert rows["start"].to_pylist() == [start for _, start, _ in WINDOWS[first : first + count]]
        assert rows["end"].to_pylist() == [start + 16 for _, start, _ in WINDOWS[first : first + count]]
        assert rows["strand"].to_pylist() == ["+"] * count
        assert rows["fold"].to_pylist() == [fold] * count
        first += count
    assert source.plan().facts == {
        "intervals of sequences.bed": extent,
        "labels": {"train": ["train"], "valid": ["valid"], "test": ["test"]},
        "tracks left out": 0,
        "features left out": [],
        "other counts in statistics.json": {},
    }


def test_another_process_builds_the_same_bytes(make, tmp_path):
    source, *_ = make()
    plan = source.plan()
    again = CalicoSource(CalicoSpec(folder="data"), str(tmp_path))
    assert again.plan() == plan
    for shard in plan.shards:
        assert source.build(shard.values).rows.equals(again.build(dict(shard.values)).rows)


def test_the_source_says_what_it_is(make, tmp_path):
    source, *_ = make()
    assert source.kind == "coverage"
    assert source.genome is None
    assert source.layout.target_type == "<f2"
    assert source.layout.geometry.margin_bp == 0
    check_tracks(source.tracks)
    assert source.contig_names == {"sequences.bed": {}}
    assert source.absent_contigs == {}
    assert source.plan().regions == {"train": [], "valid": [], "test": []}
    names = ["statistics.json", "sequences.bed", "targets.txt", *(f"tfrecords/train-{i}.tfr" for i in range(3))]
    names += ["tfrecords/valid-0.tfr", "tfrecords/test-0.tfr"]
    assert source.paths == [tmp_path / "data" / name for name in names]


def test_the_tally_is_that_of_the_whole(make):
    source, _, targets = make()
    plan = source.plan()
    total = None
    for shard in plan.shards:
        tally = source.build(shard.values).tally
        total = tally if total is None else total + tally
    assert total.num_bins == 9 * 4
    flat = targets.reshape(-1, 3).astype(np.float64)
    assert total.total.tolist() == pytest.approx(flat.sum(axis=0).tolist())
    assert total.greatest.tolist() == flat.max(axis=0).tolist()
    assert total.counts["num_soft_clipped"].tolist() == (flat > [64, 64, 32]).sum(axis=0).tolist()


def test_the_tracks_invert_the_stored_targets(make):
    source, _, targets = make()
    natural = to_natural(targets[0].astype(np.float64), track_transforms(source.tracks))
    y = float(targets[0, 2, 0])
    assert y < 64
    assert natural[2, 0] == pytest.approx(((y + 1) ** 2 - 1) / 0.3)


def test_folds_are_kept_and_labels_choose_the_splits(make):
    windows = [("chr1", 20 * i, f"fold{i % 4}") for i in range(8)]
    source, codes, _ = make(windows=windows, per_file=2, spec={"valid": ("fold3",), "test": ("fold1",)})
    tables = build_all(source)
    assert {split: rows["fold"].to_pylist() for split, rows in tables.items()} == {
        "train": [0, 0, 2, 2],
        "valid": [3, 3],
        "test": [1, 1],
    }
    # records are those of a label in order, wherever its lines stand
    assert decode_examples(tables["valid"], source.layout).codes.tolist() == codes[[3, 7]].tolist()
    assert tables["valid"]["start"].to_pylist() == [60, 140]
    assert source.plan().facts["labels"] == {"train": ["fold0", "fold2"], "valid": ["fold3"], "test": ["fold1"]}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"valid": ("fold3",)}, "no line is labelled fold3; say in valid and test which are: train, valid, test"),
        ({"valid": ("valid", "train")}, r"take every label \(train, valid, test\); leave one for train"),
    ],
)
def test_labels_that_do_not_fit_are_told(make, spec, message):
    with pytest.raises(InputError, match=message):
        make(spec=spec)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"valid": ()}, "wanted at least one label in each, and none in both"),
        ({"valid": ("test",)}, "wanted at least one label in each, and none in both"),
        (
            {"genome": {"name": "a", "fasta": "a.fa", "haplotype": {"variants": "a.vcf", "sample": "s"}}},
            "records hold the sequence they were made with; leave it out",
        ),
        ({"relocate": {"template": "x", "suffix": {"a": "b"}}}, "template makes the whole path anew"),
    ],
)
def test_settings_that_do_not_fit_are_told(settings, message):
    with pytest.raises(InputError, match=message):
        check_settings({"folder": "data"} | settings, CalicoSpec, source="dataset.toml")


def test_folds_beyond_what_rows_hold_are_told(make):
    with pytest.raises(InputError, match="is of fold32768; wanted fold32767 at most"):
        make(windows=[("chr1", 0, "fold1"), ("chr1", 20, "fold32768")])


def test_tracks_are_taken_by_their_indices(make, tmp_path):
    header, *lines = TARGETS.splitlines()
    some = tmp_path / "some.txt"
    some.write_text("\n".join([header, lines[2], lines[0], lines[1]]))
    source, _, targets = make(spec={"targets": "some.txt"})
    assert [track.name for track in source.tracks] == ["DNASE", "RNA+", "RNA-"]
    rows = build_all(source)["valid"]
    assert decode_examples(rows, source.layout).targets.tolist() == targets[5:7][:, :, [2, 0, 1]].tolist()
    some.write_text("\n".join([header, lines[2]]))
    spec = CalicoSpec(folder="data", targets="some.txt", relocate=Relocation(suffix={".w5": ".bw"}))
    source = CalicoSource(spec, str(tmp_path))
    assert [(track.name, track.file) for track in source.tracks] == [("DNASE", "dnase.bw")]
    assert source.plan().facts["tracks left out"] == 2
    rows = build_all(source)["valid"]
    assert decode_examples(rows, source.layout).targets.tolist() == targets[5:7, :, 2:].tolist()


def test_the_folders_own_tracks_are_in_the_order_of_its_lines(make, tmp_path):
    """A dataset made for a subset of tracks keeps their indices in the whole."""
    make()
    path = tmp_path / "data/targets.txt"
    header, *lines = [line.split("\t") for line in TARGETS.splitlines()]
    for row, index, pair in zip(lines, ("41", "40", "7"), ("40", "41", "7"), strict=True):
        row[0], row[7] = index, pair
    path.write_text("\n".join("\t".join(row) for row in [header, *lines]))
    source = CalicoSource(CalicoSpec(folder="data"), str(tmp_path))
    assert [track.name for track in source.tracks] == ["RNA+", "RNA-", "DNASE"]
    assert source.tracks[0].strand_pair == "RNA-"
    _, targets = arrays_of(9)
    rows = build_all(source)["valid"]
    assert decode_examples(rows, source.layout).targets.tolist() == targets[5:7].tolist()
    spec = CalicoSpec(folder="data", targets="data/targets.txt")
    with pytest.raises(InputError, match=r"targets\.txt: indices from 7 to 41, but the records hold 3 tracks; wanted"):
        CalicoSource(spec, str(tmp_path))


def test_more_tracks_than_the_records_hold_are_told(make):
    with pytest.raises(InputError, match=r"targets\.txt: indices from 0 to 2, but the records hold 2 tracks"):
        make(num_targets=2)


def records_of(codes, targets, **more):
    return [
        example(sequence=one.tobytes(), target=other.tobytes(), **more)
        for one, other in zip(codes, targets, strict=True)
    ]


def test_counts_and_features_that_rows_do_not_hold_are_told(make, tmp_path):
    source, codes, targets = make(valid_seqs=12)
    more = records_of(codes[7:], targets[7:], umap=b"\0")
    write_records(tmp_path / "data/tfrecords/test-0.tfr", more)
    facts = source.plan().facts
    assert facts["features left out"] == ["umap"]
    assert facts["other counts in statistics.json"] == {"valid_seqs": 12}


def test_an_empty_last_file_is_one_that_calicos_builder_writes(make, tmp_path):
    source, *_ = make(per_file=1)
    (tmp_path / "data/tfrecords/valid-2.tfr").write_bytes(zlib.compress(b""))
    source = CalicoSource(CalicoSpec(folder="data"), str(tmp_path))
    assert len(build_all(source)["valid"]) == 2
    write_records(tmp_path / "data/tfrecords/valid-2.tfr", [b"a record too many"])
    with pytest.raises(InputError, match="3 files of valid, the first of 1 records, are not the 2 lines of"):
        source.plan()


@pytest.mark.parametrize(("per_file", "removed"), [(2, 2), (10, 0)])
def test_files_that_are_not_the_lines_are_told_before_any_work(make, tmp_path, per_file, removed):
    source, *_ = make(per_file=per_file)
    bed = tmp_path / "data/sequences.bed"
    bed.write_text(bed.read_text() + "chr1\t500\t508\ttrain\n" * 2)
    source = CalicoSource(CalicoSpec(folder="data"), str(tmp_path))
    with pytest.raises(InputError, match=r"files of train, the first of \d records, are not the 7 lines of"):
        source.plan()


def test_a_file_of_another_length_is_told(make, tmp_path):
    source, codes, targets = make()
    shard = source.plan().shards[1]
    assert shard.name == "part-train-000001"
    record = example(sequence=codes[2].tobytes(), target=targets[2].tobytes())
    for count in (0, 1, 3):
        write_records(tmp_path / "data/tfrecords/train-1.tfr", [record] * count)
        with pytest.raises(InputError, match=rf"train-1\.tfr: {count} records; .*in train-0\.tfr, wanted 2; copy"):
            source.build(shard.values)


def test_a_damaged_record_is_told_with_file_and_number(make, tmp_path):
    source, codes, targets = make()
    records = [framed(record) for record in records_of(codes[2:4], targets[2:4])]
    flipped = bytearray(b"".join(records))
    flipped[len(records[0]) + 40] ^= 1
    (tmp_path / "data/tfrecords/train-1.tfr").write_bytes(zlib.compress(bytes(flipped)))
    with pytest.raises(InputError, match=r"train-1\.tfr: record 1: its checksum does not match"):
        source.build(source.plan().shards[1].values)


def write_genome(path: Path, codes: np.ndarray, *, prefix: str = "chr") -> None:
    """Write a FASTA that holds the windows' sequences, N elsewhere."""
    contigs = {"1": np.full(156, 4, np.uint8), "2": np.full(50, 4, np.uint8)}
    for row, (contig, start, _) in enumerate(WINDOWS):
        stretch = contigs[contig[3:]][start : start + 16]
        stretch[:] = codes[row][: len(stretch)]
    path.write_text("".join(f">{prefix}{name}\n{decode(bases)}\n" for name, bases in contigs.items()))


def test_a_genome_is_compared_and_described(make, tmp_path):
    _, codes, _ = make()
    write_genome(tmp_path / "toy.fa", codes, prefix="")
    source = CalicoSource(CalicoSpec(folder="data", genome=GENOME), str(tmp_path))
    assert source.genome is not None
    assert source.genome.contig_lengths == {"1": 156, "2": 50}
    assert source.contig_names == {"sequences.bed": {"chr1": "1", "chr2": "2"}}
    assert source.paths[-1] == tmp_path / "toy.fa"
    plan = source.plan()
    # windows of 16 bases predict the middle 8; those that touch or overlap are joined
    assert plan.regions == {
        "train": ["1:4-12", "1:20-28", "1:36-44", "1:52-60", "1:68-76"],
        "valid": ["2:4-12", "2:44-50"],
        "test": ["1:124-132", "1:144-152"],
    }
    assert set(build_all(source)["train"]["contig"].to_pylist()) == {"1"}


def test_another_genome_is_told(make, tmp_path):
    _, codes, _ = make()
    spec = CalicoSpec(folder="data", genome=GENOME)
    write_genome(tmp_path / "toy.fa", (codes + 1) % 4)
    with pytest.raises(
        InputError, match=r"train-0\.tfr: record 0: \d+% of its bases are those of chr1:0-16 in the FASTA"
    ):
        CalicoSource(spec, str(tmp_path)).plan()
    (tmp_path / "toy.fa").write_text(">chr1\nACGT\n")
    with pytest.raises(
        InputError, match=r"sequences\.bed: no contig 'chr2' in toy\.fa.*; use the FASTA of its assembly"
    ):
        CalicoSource(spec, str(tmp_path))


@pytest.mark.skipif(DATA is None, reason="CISRAY_DATA names no folder")
def test_a_shipped_dataset_is_imported_as_it_is():
    folder = Path(DATA, "human_tiny/hg38")
    source = CalicoSource(CalicoSpec(folder="human_tiny/hg38"), DATA)
    tables = build_all(source)
    assert {split: len(rows) for split, rows in tables.items()} == {"train": 45, "valid": 10, "test": 10}
    rows = pa.concat_tables([tables[split] for split in ("train", "valid", "test")])
    loci = [f"{c}_{s}_{e}" for c, s, e in zip(*(rows[n].to_pylist() for n in ("contig", "start", "end")), strict=True)]
    archive = np.load(folder / "targets_f16.npz")
    windows = gzip.decompress((folder / "windows.fa.gz").read_bytes()).decode().split(">")[1:]
    bases = {window.split("\n", 1)[0]: window.split("\n", 1)[1].replace("\n", "") for window in windows}
    assert archive["names"].tolist() == loci
    examples = decode_examples(rows, source.layout)
    assert examples.targets.tobytes() == archive["targets"].tobytes()
    assert all(np.array_equal(codes, encode(bases[locus])) for codes, locus in zip(examples.codes, loci, strict=True))
    assert source.plan().facts["intervals of sequences.bed"] == "target"
    subset = CalicoSource(CalicoSpec(folder="human_tiny/hg38", targets="human_tiny/hg38/targets_rna.txt"), DATA)
    built = subset.build(subset.plan().shards[0].values)
    assert np.array_equal(decode_examples(built.rows, subset.layout).targets, archive["targets"][:4, :, 34:])
