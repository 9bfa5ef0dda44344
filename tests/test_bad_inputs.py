"""Every bad input that is known of, through every source: one message that names what is wrong and tells the cure.

A source is asked for its plan, which must not pass where anything can be told before long work; what only the values
themselves show is told by the shard that holds them.
"""

import gzip
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyBigWig
import pytest

from cisray.config import check_settings
from cisray.datasets.from_peaks import PeaksSource, PeaksSpec
from cisray.datasets.from_table import TableSource, TableSpec
from cisray.datasets.from_tracks import TracksSource, TracksSpec
from cisray.datasets.schema import decode_examples, to_float
from cisray.errors import InputError

LENGTHS = {"chr1": 6000, "chr2": 3000, "chr3": 3000}
STEP_BP = 10
SOURCES = {"tracks": (TracksSpec, TracksSource), "peaks": (PeaksSpec, PeaksSource), "table": (TableSpec, TableSource)}
GENOME = {
    "genome": {"name": "toy", "fasta": "genome.fa"},
    "geometry": {"window_bp": 100, "bin_bp": 20, "margin_bp": 5},
    "folds": {"valid": ["chr2"], "test": ["chr3"]},
}
JOBS: dict[str, dict[str, Any]] = {
    "tracks": GENOME | {"tracks": [{"name": "signal", "file": "signal.bw"}]},
    "peaks": GENOME | {"tracks_from": "*_peaks.bed", "strip_suffix": "_peaks"},
    "table": {
        "files": [{"path": "levels.csv"}],
        "tracks": [{"column": "level"}],
        "split": {"column": "part", "train": ["train"], "valid": ["valid"], "test": ["test"]},
    },
}
TARGETS = "\tidentifier\tfile\tsum_stat\tdescription\n0\tone\tsignal.bw\tmean\tA:a\n1\ttwo\tsignal.bw\tmean\tA:b\n"
TARGETS_JOB = {"tracks": (), "targets": "targets.txt"}


class Bad(NamedTuple):
    """What is done to good inputs, and what must be said of it."""

    source: str
    spoil: Callable[[Path], object]
    """Changes files of the folder."""
    told: str
    """Regular expression of the message: what came, what was wanted, what to do."""
    settings: Mapping[str, Any] = {}
    """In place of the job's own."""
    is_late: bool = False
    """Whether only the shard that holds it can tell."""


def write(name: str, text: str | bytes) -> Callable[[Path], object]:
    """Make or replace a file."""
    content = text if isinstance(text, bytes) else text.encode()
    return lambda folder: (folder / name).write_bytes(content)


def append(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text((folder / name).read_text() + text)


def cut(name: str, share: float = 0.5) -> Callable[[Path], object]:
    """Keep the beginning of a file."""

    def spoil(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(len(whole) * share)])

    return spoil


def pack_and_cut(name: str) -> Callable[[Path], object]:
    """Pack a file as gzip, under its own name, and lose its end."""

    def spoil(folder: Path) -> None:
        packed = gzip.compress((folder / name).read_bytes())
        (folder / name).write_bytes(packed[: len(packed) * 2 // 3])

    return spoil


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def make_folder(name: str) -> Callable[[Path], object]:
    """Put a folder in a file's place."""
    return lambda folder: ((folder / name).unlink(missing_ok=True), (folder / name).mkdir())


def repeat_first_row_in_test(folder: Path) -> None:
    """Add the first row of the table, which is a train row, as a test row."""
    first = (folder / "levels.csv").read_text().splitlines()[1]
    append("levels.csv", first.replace("train", "test") + "\n")(folder)


def write_bigwig(path: Path, lengths: dict[str, int], *, level: float = 1.0) -> None:
    writer = pyBigWig.open(str(path), "w")
    writer.addHeader(list(lengths.items()))
    for contig, length in lengths.items():
        values = level * (1 + np.arange(length // STEP_BP) % 7)
        writer.addEntries(contig, 0, values=values.astype(np.float64), span=STEP_BP, step=STEP_BP)
    writer.close()


def signal_over(lengths: dict[str, int], *, level: float = 1.0) -> Callable[[Path], object]:
    return lambda folder: write_bigwig(folder / "signal.bw", lengths, level=level)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A genome, a track, peaks of two factors and a table that nothing is wrong with."""
    folder, random = tmp_path_factory.mktemp("good"), np.random.default_rng(5)
    bases = {contig: "".join(random.choice(list("ACGT"), length)) for contig, length in LENGTHS.items()}
    (folder / "genome.fa").write_text("".join(f">{contig}\n{each}\n" for contig, each in bases.items()))
    write_bigwig(folder / "signal.bw", LENGTHS)
    for number, factor in enumerate(("one", "two")):
        starts = [(contig, start) for contig, length in LENGTHS.items() for start in range(200, length - 200, 500)]
        (folder / f"{factor}_peaks.bed").write_text(
            "".join(f"{contig}\t{start + 40 * number}\t{start + 40 * number + 60}\n" for contig, start in starts)
        )
    rows = [
        f"r{number},{''.join(random.choice(list('ACGT'), 30))},{number / 7:.3f},{part}\n"
        for number, part in enumerate(["train", "train", "valid", "test"] * 10)
    ]
    (folder / "levels.csv").write_text("id,sequence,level,part\n" + "".join(rows))
    (folder / "targets.txt").write_text(TARGETS)
    return folder


@pytest.fixture
def folder(good, tmp_path, monkeypatch):
    """A copy of the good inputs, to be spoilt."""
    monkeypatch.setenv("CISRAY_CACHE", str(tmp_path / "cache"))
    shutil.copytree(good, tmp_path / "data")
    return tmp_path / "data"


def open_source(source, settings, folder):
    spec, kind = SOURCES[source]
    return kind(check_settings(JOBS[source] | settings, spec, source="job.toml"), str(folder))


def bed_signal(text: str) -> dict[str, Any]:
    """Track settings for a text file of signal."""
    return {"tracks": [{"name": "signal", "file": text}]}


def masks(text: str) -> Callable[[Path], object]:
    return write("mask.bed", text)


MASK = {"masks": {"blacklist": "mask.bed"}}
LISTED = {"folds": {"sequences": "seq.bed"}}
JSON = {"folds": {"chromosomes": "chromosomes.json"}}
NOTHING = write("unused", "")

BAD = {
    # --- files that are not there, not whole, or not what they are said to be
    "missing FASTA": Bad(
        "tracks", remove("genome.fa"), "genome.fa: no such input file.*check the name, or set data_dir"
    ),
    "missing bigWig": Bad("tracks", remove("signal.bw"), "signal.bw: no such input file.*check the name"),
    "missing table": Bad("table", remove("levels.csv"), "levels.csv: no such input file.*check the name"),
    "missing mask": Bad("peaks", NOTHING, "mask.bed: no such input file.*check the name", MASK),
    "missing targets.txt": Bad("tracks", remove("targets.txt"), "targets.txt: no such input file", TARGETS_JOB),
    "no peaks by the pattern": Bad(
        "peaks", NOTHING, r"no file fits .*/none\*\.bed; check the pattern, or data_dir", {"tracks_from": "none*.bed"}
    ),
    "truncated bigWig": Bad(
        "tracks", cut("signal.bw"), "signal.bw: truncated or damaged bigWig.*copy or make it again"
    ),
    "bigWig without its last bytes": Bad("tracks", cut("signal.bw", 0.999), "signal.bw: truncated or damaged bigWig"),
    "text as bigWig": Bad(
        "tracks", write("signal.bw", "chr1\t0\t10\t1\n"), "signal.bw: not a bigWig file.*give a bigWig"
    ),
    "bigWig as peaks": Bad(
        "peaks",
        signal_over(LENGTHS),
        "signal.bw: not a text file; wanted BED",
        {"tracks_from": "*.bw", "strip_suffix": ""},
    ),
    "text as FASTA": Bad("tracks", write("genome.fa", "chr1 ACGT"), r"genome.fa: not a FASTA.*must start with '>'"),
    "text as gzip table": Bad(
        "table", write("levels.csv", b"\x1f\x8b\x08not packed"), "levels.csv: truncated or damaged gzip"
    ),
    "empty FASTA": Bad("tracks", write("genome.fa", ""), "genome.fa: holds no sequence, but a FASTA file was expected"),
    "FASTA that ends in a header": Bad(
        "tracks", append("genome.fa", ">chr4\n"), "genome.fa: contig 'chr4' has no bases"
    ),
    "empty bigWig": Bad("tracks", write("signal.bw", ""), "signal.bw: not a bigWig file"),
    "empty bedGraph": Bad("tracks", write("s.bdg", ""), "s.bdg: holds no line of data", bed_signal("s.bdg")),
    "empty peaks": Bad("peaks", write("one_peaks.bed", ""), "one_peaks.bed: holds no interval; wanted lines of contig"),
    "empty table": Bad("table", write("levels.csv", ""), "levels.csv: its first line is empty; wanted a table"),
    "table of a header": Bad("table", write("levels.csv", "sequence,level,part\n"), "levels.csv: no row is left"),
    "empty targets.txt": Bad("tracks", write("targets.txt", ""), "targets.txt: no column identifier", TARGETS_JOB),
    "gzip FASTA truncated": Bad("tracks", pack_and_cut("genome.fa"), "genome.fa: truncated or damaged gzip.*again"),
    "gzip peaks truncated": Bad(
        "peaks", pack_and_cut("one_peaks.bed"), "one_peaks.bed: truncated or damaged gzip.*again"
    ),
    "gzip table truncated": Bad("table", pack_and_cut("levels.csv"), "levels.csv: truncated or damaged gzip.*again"),
    "gzip targets.txt truncated": Bad(
        "tracks", pack_and_cut("targets.txt"), "targets.txt: truncated.*again", TARGETS_JOB
    ),
    "folder as FASTA": Bad("tracks", make_folder("genome.fa"), "genome.fa: a folder, but a FASTA file was expected"),
    "folder as bigWig": Bad("tracks", make_folder("signal.bw"), "signal.bw: a folder, but a bigWig file was expected"),
    "folder as peaks": Bad(
        "peaks", make_folder("one_peaks.bed"), "one_peaks.bed: a folder, but a BED file was expected"
    ),
    "folder as table": Bad("table", make_folder("levels.csv"), "levels.csv: a folder; wanted a file"),
    "folder as targets.txt": Bad(
        "tracks", make_folder("targets.txt"), "targets.txt: a folder, but a targets", TARGETS_JOB
    ),
    "folder as mask": Bad("tracks", make_folder("mask.bed"), "mask.bed: a folder, but a BED file was expected", MASK),
    "pipe as bigWig": Bad(
        "tracks",
        lambda folder: ((folder / "signal.bw").unlink(), os.mkfifo(folder / "signal.bw")),
        "signal.bw: not a file, but a bigWig file was expected",
    ),
    "pattern from the root": Bad(
        "peaks", NOTHING, "no pattern below data_dir; wanted one such", {"tracks_from": "/a*.bed"}
    ),
    # --- genomes that do not fit each other
    "two contigs of one name": Bad(
        "tracks", append("genome.fa", ">chr1\nACGT\n"), "two contigs have one name.*rename or drop"
    ),
    "contig that the FASTA lacks": Bad(
        "tracks",
        signal_over(LENGTHS | {"chrUn_7": 500}),
        r"signal.bw: holds contig chrUn_7 which .*genome.fa lacks; use the FASTA .* or list the contig in",
    ),
    "contig of another length": Bad(
        "tracks",
        signal_over(LENGTHS | {"chr2": 2990}),
        "signal.bw: contig 'chr2' has 2990 bases there and 3000 in the genome",
    ),
    "prefix, and another length": Bad(
        "tracks",
        signal_over({"1": 6000, "2": 2990}),
        "signal.bw: holds contig 2 which .*genome.fa lacks; use the FASTA",
    ),
    "names of another kind": Bad("tracks", signal_over({"NC_000001": 6000}), "signal.bw: holds contig NC_000001 which"),
    "peaks on an unknown contig": Bad(
        "peaks",
        append("one_peaks.bed", "chr9\t10\t20\n"),
        r"one_peaks.bed: line 25 .chr9:10-20.: the genome has no contig 'chr9'.*or list the contig",
    ),
    "two names for one contig": Bad(
        "peaks",
        write("one_peaks.bed", "1\t10\t20\nCHR1\t10\t20\n"),
        "one_peaks.bed: contigs '1' and 'CHR1' both mean chr1; rename one there, or have it ignored",
    ),
    "mask of another assembly": Bad(
        "tracks", masks("x1\t0\t9\n"), "mask.bed: none of its 1 contigs is in the genome", MASK
    ),
    # --- intervals that cannot be
    "unsorted bedGraph": Bad(
        "tracks",
        write("s.bdg", "chr1\t50\t60\t1\nchr1\t10\t20\t1\n"),
        r"s.bdg: line 2 .*starts before the line",
        bed_signal("s.bdg"),
    ),
    "unsorted BED signal": Bad(
        "tracks",
        write("s.bed", "chr1\t50\t60\nchr1\t10\t20\n"),
        r"s.bed: line 2 .*starts before the line",
        bed_signal("s.bed"),
    ),
    "contig that comes back": Bad(
        "tracks",
        write("s.bed", "chr1\t1\t6\nchr2\t1\t2\nchr1\t10\t20\n"),
        "s.bed: line 3 .*comes back to contig chr1",
        bed_signal("s.bed"),
    ),
    "overlapping bedGraph": Bad(
        "tracks",
        write("s.bdg", "chr1\t5\t15\t1\nchr1\t10\t20\t1\n"),
        "s.bdg: line 2 .*overlaps the line",
        bed_signal("s.bdg"),
    ),
    "negative bedGraph": Bad(
        "tracks", write("s.bdg", "chr1\t-5\t15\t1\n"), "s.bdg: line 1 .*wanted a start of 0", bed_signal("s.bdg")
    ),
    "negative BED signal": Bad(
        "tracks", write("s.bed", "chr1\t-5\t15\n"), "s.bed: line 1 .*wanted a start of 0", bed_signal("s.bed")
    ),
    "negative peak": Bad(
        "peaks", append("two_peaks.bed", "chr1\t-5\t15\n"), "two_peaks.bed: line 25: starts at -5; BED counts"
    ),
    "negative mask": Bad(
        "tracks", masks("chr1\t-5\t15\n"), "mask.bed: line 1: starts at -5; BED counts bases from 0", MASK
    ),
    "peak that ends before it starts": Bad(
        "peaks", append("two_peaks.bed", "chr1\t50\t15\n"), "line 25: chr1:50-15 holds no base"
    ),
    "bedGraph beyond its contig": Bad(
        "tracks",
        write("s.bdg", "chr2\t2990\t3001\t1\n"),
        "s.bdg: line 1 .*ends beyond chr2, which has 3000",
        bed_signal("s.bdg"),
    ),
    "BED signal beyond its contig": Bad(
        "tracks",
        write("s.bed", "chr2\t2990\t3001\n"),
        "s.bed: line 1 .*ends beyond chr2, which has 3000",
        bed_signal("s.bed"),
    ),
    "peak beyond its contig": Bad(
        "peaks",
        append("two_peaks.bed", "chr2\t2990\t3001\n"),
        r"line 25 .chr2:2990-3001. reaches beyond chr2, which has 3000",
    ),
    "mask beyond its contig": Bad(
        "tracks", masks("chr2\t0\t3001\n"), "mask.bed: line 1 .*reaches beyond chr2.*same assembly", MASK
    ),
    "NaN in a bedGraph": Bad(
        "tracks", write("s.bdg", "chr1\t5\t15\tnan\n"), "s.bdg: line 1 .*wanted a finite", bed_signal("s.bdg")
    ),
    # --- tracks
    "column missing in targets.txt": Bad(
        "tracks",
        write("targets.txt", TARGETS.replace("sum_stat", "stat")),
        "targets.txt: no column sum_stat; wanted",
        TARGETS_JOB,
    ),
    "one identifier twice in targets.txt": Bad(
        "tracks",
        write("targets.txt", TARGETS.replace("two", "one")),
        "lines 2 and 3 have one identifier, one; give",
        TARGETS_JOB,
    ),
    "one name twice": Bad(
        "tracks",
        NOTHING,
        r"job.toml: tracks: two are called s \(a.bw and b.bw\); give each its own name",
        {"tracks": [{"name": "s", "file": "a.bw"}, {"name": "s", "file": "b.bw"}]},
    ),
    "scale that is no number": Bad(
        "tracks",
        NOTHING,
        "job.toml: .*track s: scale=nan.*wanted a positive scale",
        {"tracks": [{"name": "s", "file": "signal.bw", "scale": float("nan")}]},
    ),
    "beyond float16": Bad(
        "tracks",
        signal_over(LENGTHS, level=1e5),
        "track signal: a target of .* is beyond float16.*or store float32",
        {"store": "float16"},
        is_late=True,
    ),
    # --- windows and folds
    "window longer than every contig": Bad(
        "tracks",
        NOTHING,
        r"the train split has no window of 6400 bp \(6000 bp were given to it\).*use a shorter window",
        {"geometry": {"window_bp": 6400, "bin_bp": 20}},
    ),
    "no window with a label": Bad(
        "peaks",
        NOTHING,
        "the train split has no window with a label.*see labels",
        {"labels": {"min_overlap_fraction": 0.99}, "geometry": {"window_bp": 300, "bin_bp": 300}},
    ),
    "no folds": Bad("tracks", NOTHING, "folds: missing; say which regions validate and test", {"folds": None}),
    "empty folds": Bad(
        "tracks", NOTHING, "job.toml: folds.*both valid and test need at least one region", {"folds": {}}
    ),
    "overlapping folds": Bad(
        "tracks",
        NOTHING,
        "folds: chr2:0-3000 and chr2:5-90 overlap; a locus can play one role only",
        {"folds": {"valid": ["chr2"], "test": ["chr2:5-90"]}},
    ),
    "fold on an unknown contig": Bad(
        "tracks",
        NOTHING,
        "region 'chr9': no such contig; there are chr1, chr2, chr3",
        {"folds": {"valid": ["chr9"], "test": ["chr3"]}},
    ),
    "fold beyond its contig": Bad(
        "tracks",
        NOTHING,
        "region 'chr2:0-3001' ends at 3001, beyond chr2",
        {"folds": {"valid": ["chr2:0-3001"], "test": ["chr3"]}},
    ),
    "windows of the other extent": Bad(
        "tracks",
        write("seq.bed", "chr1\t0\t100\ttrain\nchr2\t0\t100\tvalid\nchr3\t0\t100\ttest\n"),
        "seq.bed: line 1 .*has 100 bp, but predicted parts have 60 bp; that is the input extent: set folds",
        LISTED | {"geometry": {"window_bp": 100, "bin_bp": 20, "crop_bins": 1}},
    ),
    "window listed in two splits": Bad(
        "tracks",
        write("seq.bed", "chr1\t0\t100\ttrain\nchr1\t50\t150\ttest\n"),
        "seq.bed: line 2 .* test and line 1 train overlap; a locus can play one role only",
        LISTED,
    ),
    "label that is none": Bad(
        "tracks",
        write("seq.bed", "chr1\t0\t100\ttrian\n"),
        "seq.bed: label 'trian' in column 4; wanted train, valid, test",
        LISTED,
    ),
    "unknown contig in chromosomes": Bad(
        "tracks",
        write("chromosomes.json", json.dumps({"train": ["chr1"], "valid": ["chr2"], "test": ["chr9"]})),
        "chromosomes.json: no contig 'chr9' in the genome; there are chr1, chr2, chr3",
        JSON,
    ),
    "contig in two splits of chromosomes": Bad(
        "tracks",
        write("chromosomes.json", json.dumps({"train": ["chr1"], "valid": ["chr2"], "test": ["chr2"]})),
        "chromosomes.json: contig 'chr2' is listed in valid and again in test; a locus can play one role only",
        JSON,
    ),
    "chromosomes that are no JSON": Bad(
        "tracks", write("chromosomes.json", "chr1"), "not a readable chromosome JSON", JSON
    ),
    # --- tables
    "infinity in a table": Bad(
        "table",
        append("levels.csv", "q,ACGT,inf,train\n"),
        "levels.csv: row 41: column level holds inf; wanted a number",
    ),
    "number beyond float64": Bad(
        "table", append("levels.csv", "q,ACGT,1e400,train\n"), "row 41: column level holds inf; wanted"
    ),
    "text for a number": Bad(
        "table",
        append("levels.csv", "q,ACGT,high,train\n"),
        "row 41: column level holds 'high'; wanted a number, or nothing",
    ),
    "letter that is no base": Bad(
        "table", append("levels.csv", "q,ACG*T,1,train\n"), r"row 41: its sequence holds '\*' at base 4; wanted letters"
    ),
    "row of another width": Bad(
        "table", append("levels.csv", "q,ACGT\n"), "levels.csv: not a readable table .*Expected 4 columns, got 2"
    ),
    "column that is not there": Bad(
        "table", NOTHING, "levels.csv: no column 'levels'; the nearest are level", {"tracks": [{"column": "levels"}]}
    ),
    "text of no row": Bad(
        "table",
        NOTHING,
        "split.test: no row has 'tets' in column part; the nearest are test",
        {"split": {"column": "part", "valid": ["valid"], "test": ["tets"]}},
    ),
    "duplicates across splits": Bad(
        "table",
        repeat_first_row_in_test,
        "levels.csv: duplicates .* cross the splits of column part; rows of such groups: train 1, valid 0, test 1",
    ),
    "measurements as labels": Bad(
        "table", NOTHING, "row 2: label level is .*wanted 0 or 1: set above", {"kind": "labels"}
    ),
    "longer than its room": Bad(
        "table", NOTHING, "row 1: 30 bases, and 39 more.*raise it, or set too_long", {"length_bp": 20}
    ),
    # --- negatives
    "negatives of an unknown track": Bad(
        "peaks",
        NOTHING,
        "negatives: no track is called 'three'; there are one, two",
        {"negatives": [{"kind": "unpeaked", "track": "three"}]},
    ),
    "negatives without end": Bad(
        "peaks",
        NOTHING,
        "job.toml: .*ratio=inf.*wanted a ratio above 0",
        {"negatives": [{"kind": "unpeaked", "ratio": float("inf")}]},
    ),
    "motif that no positive holds": Bad(
        "peaks",
        NOTHING,
        "none of .* positives holds motif ACGTACGTACGTACGT.*lower the threshold",
        {"negatives": [{"kind": "motif_matched", "motif": "ACGTACGTACGTACGT"}]},
    ),
}


@pytest.mark.parametrize("source", SOURCES)
def test_good_inputs_pass(folder, source):
    opened = open_source(source, {}, folder)
    plan = opened.plan()
    assert {shard.split for shard in plan.shards} == {"train", "valid", "test"}
    assert len(opened.build(plan.shards[0].values).rows) > 0


@pytest.mark.parametrize("name", BAD)
def test_a_bad_input_ends_in_one_message(folder, name):
    bad = BAD[name]
    bad.spoil(folder)
    if bad.is_late:
        opened = open_source(bad.source, bad.settings, folder)
        shards = opened.plan().shards
        with pytest.raises(InputError, match=bad.told) as ended:
            opened.build(shards[0].values)
    else:
        with pytest.raises(InputError, match=bad.told) as ended:
            open_source(bad.source, bad.settings, folder).plan()
    assert "\n" not in str(ended.value)


# --- what is no error is counted, and said


def test_a_contig_that_a_track_lacks_is_masked_and_recorded(folder):
    signal_over({"chr1": 6000, "chr2": 3000})(folder)
    settings = {"tracks": [{"name": "signal", "file": "signal.bw"}, {"name": "all", "file": "all.bw"}]}
    write_bigwig(folder / "all.bw", LENGTHS)
    opened = open_source("tracks", settings, folder)
    assert opened.absent_contigs == {"signal": ["chr3"], "all": []}
    for shard in opened.plan().shards:
        built = opened.build(shard.values)
        targets = to_float(decode_examples(built.rows, opened.layout).targets)
        assert np.isnan(targets[:, :, 0]).all() == (shard.split == "test")
        assert not np.isnan(targets[:, :, 1]).any()
        assert built.dropped["windows without data in any track"] == 0


def test_windows_without_any_data_are_counted(folder):
    signal_over({"chr1": 6000, "chr2": 3000})(folder)
    opened = open_source("tracks", {}, folder)
    (shard,) = [shard for shard in opened.plan().shards if shard.split == "test"]
    built = opened.build(shard.values)
    assert (len(built.rows), built.dropped["windows without data in any track"]) == (0, shard.num_rows)


@pytest.mark.parametrize("names", [("1", "2", "3"), ("CHR1", "CHR2", "CHR3"), ("chrI", "chrII", "chrIII")])
def test_other_names_for_contigs_are_mapped_and_recorded(folder, names):
    ours = open_source("tracks", {}, folder)
    expected = [ours.build(shard.values).rows for shard in ours.plan().shards]
    signal_over(dict(zip(names, LENGTHS.values(), strict=True)))(folder)
    theirs = open_source("tracks", {}, folder)
    assert theirs.contig_names == {"signal": dict(zip(names, LENGTHS, strict=True))}
    assert [theirs.build(shard.values).rows for shard in theirs.plan().shards] == expected


def test_contigs_are_ignored_where_that_is_said(folder):
    signal_over(LENGTHS | {"chrUn_7": 500})(folder)
    genome = GENOME["genome"] | {"ignore_contigs": ["chrUn_7"]}
    assert open_source("tracks", {"genome": genome}, folder).plan().shards
    append("one_peaks.bed", "chrUn_7\t10\t20\n")(folder)
    plan = open_source("peaks", {"genome": genome}, folder).plan()
    assert plan.dropped["peaks on ignored contigs"] == 1


def test_mask_intervals_on_other_contigs_are_counted(folder):
    masks("chr1\t0\t50\nchrUn_7\t0\t9\nchrUn_7\t20\t29\n")(folder)
    for source in ("tracks", "peaks"):
        facts = open_source(source, MASK, folder).plan().facts
        assert facts["intervals_on_other_contigs"] == {"blacklist": {"chrUn_7": 2}}


def test_rows_that_name_no_split_and_rows_without_a_number_are_counted(folder):
    append("levels.csv", "q,ACGTTTGAC,1,tset\nr,GGGTCATTT,nan,train\ns,,1,train\n")(folder)
    dropped = open_source("table", {}, folder).plan().dropped
    assert dropped["rows whose text in the split's column names none"] == 1
    assert dropped["rows without any measurement"] == 1
    assert dropped["rows without a sequence"] == 1


def test_negatives_that_cannot_be_found_are_counted(folder):
    opened = open_source("peaks", {"negatives": [{"kind": "unpeaked", "ratio": 1000.0}]}, folder)
    plan = opened.plan()
    (negatives,) = plan.facts["negatives"]
    num_positives = sum(plan.facts["positives"].values())
    num_negatives = sum(shard.num_rows for shard in plan.shards) - num_positives
    assert 0 < num_negatives < 120  # windows of 100 bp in 12,000 bases
    assert plan.dropped["unpeaked negatives asked for and not found"] == 1000 * num_positives - num_negatives
    assert negatives["short"] == 1000 * num_positives - num_negatives
