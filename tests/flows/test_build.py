"""The dataset of the simulated genome, held against the genome and the bigWigs as other readers see them."""

import hashlib
import json
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyBigWig
import pytest

from cisray import __version__
from cisray.datasets.card import read_card
from cisray.datasets.loci.folds import FoldSpec
from cisray.datasets.schema import verify_dataset
from cisray.datasets.source import GenomeSpec
from cisray.errors import InputError
from cisray.files import sampled_digest
from cisray.flows.build import build
from cisray.flows.cluster import ClusterSpec
from cisray.genome.simulate import SimulationSpec, simulate
from whole_program import LENGTHS, read_fasta

pytestmark = pytest.mark.ray
TRACKS = ["strength", "spacing", "plus", "minus"]
# windows of 1024 bp, every 512 bp for training, side by side for the rest
STARTS = {
    "sim1": range(0, 300_000 - 1023, 512),
    "sim2": range(0, 200_000 - 1023, 512),
    "sim3": range(0, 60_000 - 1023, 1024),
    "sim4": range(0, 60_000 - 1023, 1024),
}
SPLIT_OF = {"sim1": "train", "sim2": "train", "sim3": "valid", "sim4": "test"}
GAP = (150_000, 165_000)  # of sim1, without values in the first track


def read_rows(folder):
    """Read a dataset without cisray: columns, codes [B, L] and targets [B, N, T], in genome order."""
    table = pyarrow.dataset.dataset(folder / "examples", partitioning="hive").to_table()
    table = table.sort_by([("contig", "ascending"), ("start", "ascending")])
    arrays = []
    for name in ("sequence", "target"):
        metadata = table.schema.field(name).metadata
        shape = json.loads(metadata[b"shape"])
        flat = np.frombuffer(b"".join(table[name].to_pylist()), metadata[b"dtype"].decode())
        arrays.append(flat.reshape(len(table), *shape))
    return table, *arrays


@pytest.fixture(scope="module")
def rows(dataset):
    return read_rows(dataset)


@pytest.fixture(scope="module")
def card(dataset):
    """The card as plain JSON."""
    return json.loads((dataset / "card.json").read_text())


def test_plain_pyarrow_finds_every_window_once_in_the_split_of_its_contig(rows, card):
    table, _, _ = rows
    for contig, starts in STARTS.items():
        mine = table.filter(pa.compute.equal(table["contig"], contig))
        assert mine["start"].to_pylist() == list(starts)
        assert mine["end"].to_pylist() == [start + 1024 for start in starts]
        assert set(mine["split"].to_pylist()) == {SPLIT_OF[contig]}
        assert set(mine["strand"].to_pylist()) == {"+"}
    assert card["counts"] == {"train": 584 + 389, "valid": 58, "test": 58}
    assert len(table) == sum(card["counts"].values())


def test_sequences_are_those_of_the_fasta_with_their_margins(rows, simulated):
    table, codes, _ = rows
    assert table.schema.field("sequence").metadata[b"codes"] == b"ACGTN"
    genome = {name: "N" * 16 + bases + "N" * 16 for name, bases in read_fasta(simulated / "genome.fa").items()}
    letters = np.frombuffer(b"ACGTN", np.uint8)[codes]
    for contig, start, row in zip(table["contig"].to_pylist(), table["start"].to_pylist(), letters, strict=True):
        assert row.tobytes().decode() == genome[contig][start : start + 1024 + 32]


def test_targets_are_the_means_that_pybigwig_gives(rows, simulated):
    table, _, targets = rows
    assert table.schema.field("target").metadata[b"tracks"].decode().split("\t") == TRACKS
    random = np.random.default_rng(0)
    chosen = [0, len(table) - 1, *random.choice(len(table), 40, replace=False)]
    # and the windows over both borders of the gap
    chosen += [291, 292, 293, 320, 321, 322]
    for index, track in enumerate(TRACKS):
        with pyBigWig.open(str(simulated / f"tracks/{track}.bw")) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of means of nothing
            for row in chosen:
                contig, start = table["contig"][row].as_py(), table["start"][row].as_py()
                values = np.array(file.values(contig, start, start + 1024))
                expected = np.nanmean(values.reshape(64, 16), axis=1)
                np.testing.assert_allclose(targets[row, :, index], expected, rtol=1e-6)


def test_the_gap_is_masked_in_its_track_and_nowhere_else(rows, card):
    table, _, targets = rows
    bins = table["start"].to_numpy()[:, None] + 16 * np.arange(64)
    on_sim1 = np.array(table["contig"].to_pylist())[:, None] == "sim1"
    inside = on_sim1 & (bins >= GAP[0]) & (bins + 16 <= GAP[1])  # the bin over the right border has values
    np.testing.assert_array_equal(np.isnan(targets[:, :, 0]), inside)
    assert not np.isnan(targets[:, :, 1:]).any()
    assert inside.sum() > 1000
    assert card["statistics"]["train"]["strength"]["num_masked"] == inside.sum()
    assert card["statistics"]["test"]["strength"]["num_masked"] == 0


def test_the_card_counts_what_is_in_the_rows(rows, card):
    table, _, targets = rows
    splits = np.array(table["split"].to_pylist())
    for split, of_tracks in card["statistics"].items():
        assert list(of_tracks) == TRACKS
        for index, track in enumerate(TRACKS):
            values = targets[splits == split][:, :, index].astype(np.float64).ravel()
            present = values[~np.isnan(values)]
            told = of_tracks[track]
            assert told["num_bins"] == len(values)
            assert told["num_masked"] == len(values) - len(present)
            assert told["total"] == pytest.approx(present.sum(), rel=1e-9)
            assert told["total_squares"] == pytest.approx((present**2).sum(), rel=1e-9)
            assert (told["least"], told["greatest"]) == (present.min(), present.max())
    assert card["dropped"] == {
        "windows with too many N": 0,
        "windows without data in any track": 0,
        "unmappable bins lowered to their window's quantile": 0,
        "bases in no split": 0,
        "train bases under no window": 480 + 320,  # what is left at the ends of sim1 and sim2
        "valid bases under no window": 608,
        "test bases under no window": 608,
    }


def test_the_card_says_what_the_dataset_is(card, simulated):
    genome = read_fasta(simulated / "genome.fa")
    assert card["genome"]["contig_lengths"] == LENGTHS
    assert card["genome"]["contig_digests"] == {
        name: hashlib.md5(bases.encode(), usedforsecurity=False).hexdigest() for name, bases in genome.items()
    }
    assert card["genome"]["fasta"] == "genome.fa"
    assert card["geometry"] == {"window_bp": 1024, "bin_bp": 16, "crop_bins": 0, "margin_bp": 16}
    assert [track["name"] for track in card["tracks"]] == TRACKS
    assert [track["strand_pair"] for track in card["tracks"]] == [None, None, "minus", "plus"]
    assert card["regions"] == {
        "train": ["sim1:0-300000", "sim2:0-200000"],
        "valid": ["sim3:0-60000"],
        "test": ["sim4:0-60000"],
    }
    assert card["contig_names"] == {track: {} for track in TRACKS}
    assert card["absent_contigs"] == {track: [] for track in TRACKS}
    assert card["cisray_version"] == __version__
    assert card["job"]["windows"]["stride_bp"] == 512
    assert not {"out", "data_dir", "cluster"} & set(card["job"])  # neither where it lies nor who made it
    assert [source["path"] for source in card["sources"]] == ["genome.fa", *(f"tracks/{name}.bw" for name in TRACKS)]
    for source in card["sources"]:
        path = simulated / source["path"]
        assert source["num_bytes"] == path.stat().st_size
        assert source["sampled_digest"] == sampled_digest(path)


def test_the_folder_holds_what_the_card_lists_and_nothing_else(dataset, card, bytes_of):
    found = bytes_of(dataset)
    del found["card.json"], found["tracks.parquet"], found[".plan.json"]
    assert found == {file["path"]: file["sha256"] for file in card["files"]}
    verify_dataset(dataset, read_card(dataset))


def test_shards_leave_no_trace_in_the_rows(ray_here, build_job, rows, tmp_path):
    windows = build_job("any").windows
    windows = type(windows)(stride_bp=windows.stride_bp)
    whole = build(build_job(tmp_path / "whole", windows=windows, cluster=ClusterSpec(actors=1)))
    assert len(list(whole.rglob("part-*.parquet"))) == 4  # a shard per contig
    table, codes, targets = read_rows(whole)
    assert table.equals(rows[0])
    np.testing.assert_array_equal(codes, rows[1])
    np.testing.assert_array_equal(targets, rows[2])


@pytest.fixture(scope="module")
def numbered(own_cache, tmp_path_factory):
    """A genome of chr1, chr2 and chr3, and a function that writes a track's contigs again under other names."""
    folder = tmp_path_factory.mktemp("numbered") / "genome"
    lengths = {"chr1": 40_000, "chr2": 12_000, "chr3": 12_000}
    simulate(folder, spec=SimulationSpec(contig_lengths=lengths, num_variants=5))
    return folder


def rename_contigs(source, target, names, lengths=None):
    """Copy the contigs in `names` of a bigWig under the names given there."""
    with pyBigWig.open(str(source)) as file:
        found = file.chroms()
        copy = pyBigWig.open(str(target), "w")
        copy.addHeader([(new, (lengths or {}).get(new, found.get(old, 9999))) for old, new in names.items()])
        for old, new in names.items():
            starts, ends, values = zip(*(file.intervals(old) if old in found else [(0, 8, 1.0)]), strict=True)
            copy.addEntries([new] * len(starts), list(starts), ends=list(ends), values=list(values))
        copy.close()


@pytest.fixture
def numbered_job(build_job, numbered, tmp_path):
    """Make a job whose bigWigs have other contigs: the names per track, or for the other tracks as they are."""

    def make(out, names, *, lengths=None, **changes):
        data_dir = tmp_path / f"{out}.inputs"
        (data_dir / "tracks").mkdir(parents=True)
        (data_dir / "genome.fa").write_bytes((numbered / "genome.fa").read_bytes())
        for track in TRACKS:
            same = {name: name for name in ("chr1", "chr2", "chr3")}
            source = numbered / f"tracks/{track}.bw"
            rename_contigs(source, data_dir / f"tracks/{track}.bw", names.get(track, same), lengths)
        folds = FoldSpec(valid=("chr2",), test=("chr3",))
        cluster = ClusterSpec(actors=1)  # there are three shards
        return build_job(tmp_path / out, data_dir=str(data_dir), folds=folds, cluster=cluster, **changes)

    return make


def test_contigs_of_other_names_are_found_and_the_card_says_so(ray_here, numbered_job):
    plain = read_rows(build(numbered_job("plain", {})))
    without_prefix = {"chr1": "1", "chr2": "2", "chr3": "3"}
    roman_without_chr3 = {"chr1": "I", "chr2": "II"}
    folder = build(numbered_job("renamed", {"strength": without_prefix, "plus": roman_without_chr3}))
    card = read_card(folder)
    assert card.contig_names == {
        "strength": {"1": "chr1", "2": "chr2", "3": "chr3"},
        "spacing": {},
        "plus": {"I": "chr1", "II": "chr2"},
        "minus": {},
    }
    assert card.absent_contigs == {"strength": [], "spacing": [], "plus": ["chr3"], "minus": []}
    table, _, targets = read_rows(folder)
    assert table.drop_columns("target").equals(plain[0].drop_columns("target"))
    on_chr3 = np.array(table["contig"].to_pylist()) == "chr3"
    assert np.isnan(targets[on_chr3][:, :, 2]).all()
    expected = plain[2].copy()
    expected[on_chr3, :, 2] = np.nan
    np.testing.assert_array_equal(targets, expected)


def test_a_contig_that_the_genome_lacks_is_refused_or_left_out_knowingly(ray_here, numbered_job):
    names = {"minus": {"chr1": "chr1", "chr2": "chr2", "chr3": "chr3", "none": "plasmid"}}
    job = numbered_job("refused", names)
    with pytest.raises(InputError, match=r"minus\.bw: holds contig plasmid which .*genome\.fa lacks; .*ignore_contigs"):
        build(job)
    genome = GenomeSpec(name="n", fasta="genome.fa", ignore_contigs=("plasmid",))
    assert read_card(build(numbered_job("ignored", names, genome=genome))).counts["test"] == 11


def test_a_track_of_another_assembly_is_refused(numbered_job):
    job = numbered_job("other", {}, lengths={"chr2": 12_008})
    with pytest.raises(InputError, match=r"strength\.bw: contig 'chr2' has 12008 bases there and 12000 in the genome"):
        build(job)


def test_a_split_without_any_data_is_refused_and_leaves_no_dataset(ray_here, numbered_job, tmp_path):
    without_chr3 = {"chr1": "chr1", "chr2": "chr2"}
    job = numbered_job("dataless", dict.fromkeys(TRACKS, without_chr3))
    with pytest.raises(InputError, match="every row of the test split was dropped"):
        build(job)
    assert not (tmp_path / "dataless").exists()
