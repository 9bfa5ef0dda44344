import gzip

import pytest

from cisray.datasets.card import Track
from cisray.datasets.peaks.peak_files import PeakFiles, load_peaks
from cisray.errors import InputError

GENOME = {"chr1": 1000, "chr2": 500}
YEAST = {"chrI": 100, "chrII": 100, "chrIII": 100, "chrIV": 100, "chrM": 100}


def load(tmp_path, *names, files=None, genome=GENOME, **options):
    tracks = [Track(name=name.split(".")[0], file=name) for name in names]
    return load_peaks(tracks, files, genome, data_dir=str(tmp_path), **options)


def rows(peaks, contig):
    return list(zip(*(column.tolist() for column in peaks.contigs[contig]), strict=True))


def test_unsorted_files_are_sorted_and_told_apart(tmp_path):
    (tmp_path / "a.bed").write_text("chr2\t90\t100\nchr1\t50\t61\nchr1\t10\t20\n")
    (tmp_path / "b.bed.gz").write_bytes(gzip.compress(b"# made by hand\n1\t15\t18\n"))
    peaks = load(tmp_path, "a.bed", "b.bed.gz")
    assert rows(peaks, "chr1") == [(10, 20, 15, 0), (15, 18, 16, 1), (50, 61, 55, 0)]
    assert rows(peaks, "chr2") == [(90, 100, 95, 0)]
    assert [track.name for track in peaks.tracks] == ["a", "b"]
    assert peaks.contig_names == {"a": {}, "b": {"1": "chr1"}}
    assert peaks.absent_contigs == {"a": [], "b": ["chr2"]}
    assert peaks.num_peaks == 4
    assert [spans.tolist() for spans in peaks.spans("chr1")] == [[10, 50], [20, 61]]
    assert peaks.spans("chr9").start.tolist() == []


def test_files_are_found_by_a_pattern_and_named_after_themselves(tmp_path):
    (tmp_path / "p").mkdir()
    for name in ("Reb1_CX.bed", "Abf1_CX.bed", "Cbf1.v2_CX.bed.gz"):
        text = b"chr1\t1\t2\n"
        (tmp_path / "p" / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    (tmp_path / "p" / "other.txt").write_text("nothing")
    peaks = load(tmp_path, files=PeakFiles(pattern="p/*_CX.bed*", strip_suffix="_CX"))
    assert [(track.name, track.file) for track in peaks.tracks] == [
        ("Abf1", "p/Abf1_CX.bed"),
        ("Cbf1.v2", "p/Cbf1.v2_CX.bed.gz"),
        ("Reb1", "p/Reb1_CX.bed"),
    ]
    assert [path.name for path in peaks.paths] == ["Abf1_CX.bed", "Cbf1.v2_CX.bed.gz", "Reb1_CX.bed"]


def test_a_column_may_name_the_tracks(tmp_path):
    (tmp_path / "all.bed").write_text("chr1\t30\t40\tCTCF\nchr1\t1\t5\tREST\nchr2\t3\t4\tCTCF\n")
    peaks = load(tmp_path, files=PeakFiles(pattern="all.bed", name_column=4))
    assert [track.name for track in peaks.tracks] == ["CTCF", "REST"]
    assert rows(peaks, "chr1") == [(1, 5, 3, 1), (30, 40, 35, 0)]


def test_the_summit_is_column_ten_of_a_narrowpeak_file(tmp_path):
    line = "chr1\t{}\t{}\tp\t0\t.\t1.0\t2.0\t3.0\t{}\n"
    (tmp_path / "x.narrowPeak").write_text(line.format(100, 200, 7) + line.format(300, 400, -1))
    (tmp_path / "x.bed").write_text((tmp_path / "x.narrowPeak").read_text())
    assert load(tmp_path, "x.narrowPeak").contigs["chr1"].summit.tolist() == [107, 350]
    assert load(tmp_path, "x.bed").contigs["chr1"].summit.tolist() == [150, 350]
    assert load(tmp_path, "x.bed", summit_column=10).contigs["chr1"].summit.tolist() == [107, 350]


def test_arabic_numbers_mean_the_roman_ones_of_a_genome_that_counts_so(tmp_path):
    (tmp_path / "a.bed").write_text("chr4\t1\t2\n2\t3\t4\nchrI\t5\t6\n")
    peaks = load(tmp_path, "a.bed", genome=YEAST)
    assert {contig: one.start.tolist() for contig, one in peaks.contigs.items()} == {
        "chrI": [5],
        "chrII": [3],
        "chrIV": [1],
    }
    assert peaks.contig_names["a"] == {"chr4": "chrIV", "2": "chrII"}


@pytest.mark.parametrize(
    "genome",
    [
        {"chrI": 9, "chrII": 9, "chrIII": 9, "chrIV": 9, "chrV": 9, "chrX": 9},  # a worm, whose X is no ten
        {"chr1": 9, "chr2": 9, "chrX": 9},
    ],
)
def test_an_x_that_may_be_a_sex_chromosome_is_no_ten(tmp_path, genome):
    (tmp_path / "a.bed").write_text("chr10\t1\t2\n")
    with pytest.raises(InputError, match="the genome has no contig 'chr10'"):
        load(tmp_path, "a.bed", genome=genome)


def test_contigs_that_are_ignored_are_counted(tmp_path):
    (tmp_path / "a.bed").write_text("chrUn\t1\t2\nchr1\t1\t2\nchrUn\t5\t6\n")
    peaks = load(tmp_path, "a.bed", ignore_contigs=("chrUn",))
    assert (peaks.num_ignored, peaks.num_peaks) == (2, 1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("chr1\t1\t2\nchr7\t5\t9\n", r"a\.bed: line 2 \(chr7:5-9\): the genome has no contig 'chr7'; .*ignore_contigs"),
        ("chr1\t1\t2\nchr1\t990\t1001\n", r"a\.bed: line 2 .*reaches beyond chr1, which has 1000 bases"),
        ("chr1\t-5\t2\n", r"a\.bed: line 1: starts at -5"),
    ],
)
def test_peaks_that_do_not_fit_the_genome_are_refused_with_their_line(tmp_path, text, told):
    (tmp_path / "a.bed").write_text(text)
    with pytest.raises(InputError, match=told):
        load(tmp_path, "a.bed")


@pytest.mark.parametrize(
    ("summit", "told"),
    [
        ("100", "summit 100 in column 10 lies outside the peak"),
        ("-2", "summit -2 in column 10 lies outside"),
        ("middle", "line 1 .*: summit 'middle' in column 10; wanted an offset"),
        ("1_0", "line 1 .*: summit '1_0' in column 10; wanted an offset"),
        ("9" * 20, "line 1 .*: summit '9{20}' in column 10; wanted an offset"),
    ],
)
def test_a_summit_outside_its_peak_is_refused(tmp_path, summit, told):
    (tmp_path / "x.narrowPeak").write_text(f"chr1\t100\t200\tp\t0\t.\t1\t2\t3\t{summit}\n")
    with pytest.raises(InputError, match=told):
        load(tmp_path, "x.narrowPeak")


def test_a_file_without_the_summit_column_is_refused(tmp_path):
    (tmp_path / "x.narrowPeak").write_text("chr1\t100\t200\n")
    with pytest.raises(InputError, match="3 columns; wanted the summit's offset from the start in column 10"):
        load(tmp_path, "x.narrowPeak")


def test_tracks_that_are_not_there_are_refused(tmp_path):
    (tmp_path / "a.bed").write_text("chr1\t1\t2\n")
    with pytest.raises(InputError, match="tracks: none; list files"):
        load(tmp_path)
    with pytest.raises(InputError, match=r"no file fits .*q/\*\.bed; check the pattern"):
        load(tmp_path, files=PeakFiles(pattern="q/*.bed"))
    with pytest.raises(InputError, match=r"a\.bed does not end in '_CX'"):
        load(tmp_path, files=PeakFiles(pattern="*.bed", strip_suffix="_CX"))
    with pytest.raises(InputError, match="two are called a"):
        load(tmp_path, "a.bed", files=PeakFiles(pattern="*.bed"))
    with pytest.raises(InputError, match="name_column=2; a BED file's own columns begin with 4"):
        load(tmp_path, files=PeakFiles(pattern="*", name_column=2))


@pytest.mark.parametrize("pattern", ["", "/data/*.bed", "**peaks.bed", "peaks**/a.bed"])
def test_what_is_no_pattern_is_refused(tmp_path, pattern):
    with pytest.raises(InputError, match=r"tracks_from: '.*' is no pattern below data_dir; wanted one such as"):
        load(tmp_path, files=PeakFiles(pattern=pattern))


def test_folders_in_folders_are_searched(tmp_path):
    (tmp_path / "x/y").mkdir(parents=True)
    (tmp_path / "x/y/a.bed").write_text("chr1\t10\t20\n")
    assert [track.file for track in load(tmp_path, files=PeakFiles(pattern="**/*.bed")).tracks] == ["x/y/a.bed"]


def test_a_name_that_cannot_be_a_tracks_is_told_with_its_file(tmp_path):
    for name in ("._a.bed", "all.bed"):
        (tmp_path / name).write_text("chr1\t10\t20\tFOXA1/2\n")
    with pytest.raises(InputError, match=r"/\._a\.bed: track '\._a': a name becomes a column and a file; wanted no"):
        load(tmp_path, files=PeakFiles(pattern="*_a.bed"))
    with pytest.raises(InputError, match=r"all\.bed: track 'FOXA1/2': a name becomes a column and a file"):
        load(tmp_path, files=PeakFiles(pattern="all.bed", name_column=4))
