import gzip
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_files import TARGETS
from cisray.datasets.calico.targets import Relocation, read_targets, write_targets
from cisray.datasets.card import Track, check_tracks
from cisray.datasets.transforms import SumStat
from cisray.errors import InputError

DATA = os.environ.get("CISRAY_DATA")
BASENJI2 = """index\tgenome\tidentifier\tfile\tclip\tscale\tsum_stat\tdescription
0\t0\tENCFF833POA\t/home/drk/dnase/ENCFF833POA.w5\t32\t2\tmean\tDNASE:cerebellum male adult (27 years)
1\t0\tCNhs1+\t/home/drk/cage/CNhs1+.w5\t384\t1\tsum\tCAGE:liver, "pool 1"
2\t0\tCNhs1-\t/home/drk/cage/CNhs1-.w5\t384\t1\tsum\tCAGE:liver, "pool 1"
3\t0\tCNhs\t/home/drk/cage/CNhs.w5\t384\t1\tavg_sqrt\tCAGE:all
"""


@pytest.fixture
def read(tmp_path):
    def read_text(text, **settings):
        path = tmp_path / "targets.txt"
        path.write_text(text, encoding="utf-8")
        return read_targets(path, **settings)

    return read_text


def changed(line, column, value):
    """Return TARGETS with one value changed; lines count from 1, as in errors."""
    rows = [row.split("\t") for row in TARGETS.splitlines()]
    rows[line - 1][rows[0].index(column)] = value
    return "\n".join("\t".join(row) for row in rows)


def test_the_columns_become_tracks(read):
    targets = read(TARGETS)
    transform = {"scale": 0.3, "clip": 384.0, "clip_soft": 64.0, "statistic": "sum_sqrt", "uncovered": "zero"}
    assert targets.indices == (0, 1, 2)
    assert targets.tracks == (
        Track(name="RNA+", file="rna+.w5", description="RNA:liver", strand_pair="RNA-", **transform),
        Track(name="RNA-", file="rna-.w5", description="RNA:liver", strand_pair="RNA+", **transform),
        Track(
            name="DNASE",
            file="dnase.w5",
            description="DNASE:liver",
            scale=2.0,
            clip=128.0,
            clip_soft=32.0,
            uncovered="zero",
        ),
    )
    assert {track.order for track in read(TARGETS, order="old").tracks} == {"old"}


def test_basenji2s_form_is_read(read):
    tracks = read(BASENJI2).tracks
    assert [track.statistic for track in tracks] == ["mean", "sum", "sum", "mean_sqrt"]
    assert [track.clip_soft for track in tracks] == [None] * 4
    # no column of pairs: X+ and X- are one, and a name that is X alone is none
    assert [track.strand_pair for track in tracks] == [None, "CNhs1-", "CNhs1+", None]
    assert tracks[1].description == 'CAGE:liver, "pool 1"'
    assert read(BASENJI2.replace("avg_sqrt", "avg")).tracks[3].statistic == "mean"


def test_a_compressed_file_and_windows_line_ends_are_read(tmp_path, read):
    path = tmp_path / "targets.txt.gz"
    path.write_bytes(gzip.compress(TARGETS.replace("\n", "\r\n").encode("utf-8-sig")))
    assert read_targets(path) == read(TARGETS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"targets\.txt\.gz: truncated or damaged gzip file"):
        read_targets(path)


def test_a_subset_keeps_its_indices(read):
    header, *lines = TARGETS.replace("\t1\tRNA", "\t41\tRNA").replace("\t0\tRNA", "\t40\tRNA").splitlines()
    lines = ["4" + line for line in lines[:2]]
    targets = read("\n".join([header, *lines]))
    assert targets.indices == (40, 41)
    assert [track.strand_pair for track in targets.tracks] == ["RNA-", "RNA+"]
    with pytest.raises(InputError, match=r"line 2: strand_pair 41 is the index of no line; .*its own index, 40"):
        read("\n".join([header, lines[0]]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column identifier; wanted .*; found none"),
        (TARGETS.splitlines()[0], "holds no track"),
        *[
            (TARGETS.replace(f"\t{name}", "\tother", 1), f"no column {name}; .*; found .no name., .*other")
            for name in ("identifier", "file", "sum_stat", "description")
        ],
        (TARGETS.replace("\t", ",", 8), "no column identifier"),
        ("identifier" + TARGETS.replace("\tidentifier", "", 1), "the first column is identifier; wanted the tracks'"),
        (TARGETS.replace("clip_soft", "clip", 1), "two columns are called clip"),
        (TARGETS.replace("RNA:liver\n1", "RNA:liver\tmore\n1"), "line 2: 10 columns; wanted 9"),
        (changed(3, "identifier", "RNA+"), r"lines 2 and 3 have one identifier, RNA\+"),
        (changed(4, "", "1"), "lines 3 and 4 have one index, 1"),
        (changed(4, "", "two"), "line 4: index is 'two'; wanted the index of a track"),
        (changed(4, "strand_pair", ""), "line 4: strand_pair is ''; wanted the index of a track"),
        (changed(4, "strand_pair", "0"), "line 4: strand_pair 0, whose own is 1; a pair must name each other"),
        (changed(3, "clip", "high"), "line 3: clip is 'high'; wanted a number"),
        (changed(3, "clip_soft", "nan"), "line 3: clip_soft is 'nan'; wanted a number"),
        (changed(2, "scale", "0,3"), "line 2: scale is '0,3'; wanted a number"),
        (changed(2, "scale", "0"), "line 2: track RNA.: scale=0.0"),
        (changed(2, "sum_stat", "sqrt"), "line 2: sum_stat is 'sqrt': Input should be 'sum', 'mean'"),
        (changed(4, "identifier", "a/b"), "line 4: track 'a/b': a name becomes a column and a file"),
        (BASENJI2.replace("2\t0\t", "2\t1\t"), "tracks of genomes 0, 1; a dataset has one"),
        ("\0\tidentifier", "no column file|not a readable table"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(read, text, message):
    with pytest.raises(InputError, match=r"targets\.txt: " + message):
        read(text)


def test_what_is_no_text_is_told(tmp_path):
    (tmp_path / "targets.txt").write_bytes(b"\tidentifier\xff\xfe\n")
    with pytest.raises(InputError, match=r"not a readable table .*wanted text, columns parted by tabs"):
        read_targets(tmp_path / "targets.txt")
    with pytest.raises(InputError, match=r"none\.txt: no such file, but a targets\.txt was expected"):
        read_targets(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("relocate", "files"),
    [
        (
            {"prefix": {"/home/drk": "mine"}},
            ["mine/dnase/ENCFF833POA.w5", "mine/cage/CNhs1+.w5", "mine/cage/CNhs1-.w5", "mine/cage/CNhs.w5"],
        ),
        (
            {"prefix": {"/home/drk": "mine", "/home/drk/cage": "/other"}, "suffix": {".w5": ".bw"}},
            ["mine/dnase/ENCFF833POA.bw", "/other/CNhs1+.bw", "/other/CNhs1-.bw", "/other/CNhs.bw"],
        ),
        (
            {"template": "bw/{index:02}_{identifier}.bw"},
            ["bw/00_ENCFF833POA.bw", "bw/01_CNhs1+.bw", "bw/02_CNhs1-.bw", "bw/03_CNhs.bw"],
        ),
        (
            {"template": "bw/{stem}.{name}"},
            ["bw/ENCFF833POA.ENCFF833POA.w5", "bw/CNhs1+.CNhs1+.w5", "bw/CNhs1-.CNhs1-.w5", "bw/CNhs.CNhs.w5"],
        ),
    ],
)
def test_files_are_looked_for_here(read, relocate, files):
    assert [track.file for track in read(BASENJI2, relocate=Relocation(**relocate)).tracks] == files


@pytest.mark.parametrize(
    ("relocate", "message"),
    [
        ({"prefix": {"/home/d": "mine"}}, "relocate '/home/d' fits no file; the first is /home/drk/dnase/ENCFF833POA"),
        ({"suffix": {".h5": ".bw"}}, r"relocate '\.h5' fits no file"),
        ({"template": "{path}.bw"}, "template '{path}.bw' cannot be filled .*its fields are {index}"),
        ({"template": "{}.bw"}, "cannot be filled"),
        ({"template": "{index"}, "cannot be filled"),
        ({"template": "{index:x}{identifier:02d}"}, "cannot be filled"),
    ],
)
def test_a_relocation_that_does_nothing_is_told(read, relocate, message):
    with pytest.raises(InputError, match=message):
        read(BASENJI2, relocate=Relocation(**relocate))


def test_a_template_and_a_rule_at_once_are_refused():
    with pytest.raises(ValueError, match="template makes the whole path anew; leave out prefix and suffix"):
        Relocation(template="{name}", suffix={".w5": ".bw"})


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]) | st.sampled_from("\"', "), max_size=9)
names = st.from_regex(r"[A-Za-z0-9_ ]{1,5}[+-]?", fullmatch=True).filter(lambda name: not name.startswith(" "))


@st.composite
def some_tracks(draw):
    tracks = []
    chosen = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    paired = {chosen[0]: chosen[1], chosen[1]: chosen[0]} if len(chosen) > 1 and draw(st.booleans()) else {}
    for name in chosen:
        clip_soft = draw(st.none() | st.floats(1, 1e3))
        tracks.append(
            Track(
                name=name,
                file=draw(words),
                description=draw(words),
                statistic=draw(st.sampled_from(SumStat.__args__)),
                uncovered=draw(st.sampled_from(["zero", "mask"])),
                smooth_bp=draw(st.sampled_from([1, 101])),
                scale=draw(st.floats(1e-6, 1e6)),
                clip_soft=clip_soft,
                clip=draw(st.none() | st.floats(clip_soft or 1, 1e5)),
                order=draw(st.sampled_from(["new", "old"])),
                strand_pair=paired.get(name),
            )
        )
    return tuple(tracks)


@given(some_tracks())
def test_what_is_written_comes_back(tmp_path_factory, tracks):
    path = tmp_path_factory.mktemp("written") / "targets.txt"
    write_targets(path, tracks)
    targets = read_targets(path)
    assert targets.tracks == tracks
    assert targets.indices == tuple(range(len(tracks)))
    again = path.with_name("again.txt")
    write_targets(again, targets.tracks)
    assert again.read_bytes() == path.read_bytes()


def test_calicos_own_columns_are_written_and_ours_only_where_needed(tmp_path, read):
    tracks = read(TARGETS).tracks
    write_targets(tmp_path / "out.txt", tracks)
    # the shortest text of a float that comes back is the one Calico's files hold
    assert (tmp_path / "out.txt").read_text() == TARGETS
    bare = Track(name="a", file="a.bw", smooth_bp=5)
    write_targets(tmp_path / "out.txt", [bare])
    assert (tmp_path / "out.txt").read_text() == (
        "\tidentifier\tfile\tscale\tsum_stat\tstrand_pair\tdescription\tuncovered\tsmooth_bp\n"
        "0\ta\ta.bw\t1.0\tmean\t0\t\tmask\t5\n"
    )


@pytest.mark.parametrize("end", ["\t", "\r", "\n"])
def test_a_text_that_would_break_its_line_is_refused(tmp_path, end):
    for settings in ({"description": f"two{end}parts"}, {"file": f"b{end}.bw"}):
        with pytest.raises(InputError, match="track a: its file or description holds a tab or a line end"):
            write_targets(tmp_path / "out.txt", [Track(**({"name": "a", "file": "a.bw"} | settings))])
    assert not list(tmp_path.iterdir())


def test_pandas_reads_what_is_written(tmp_path, read):
    pandas = pytest.importorskip("pandas")
    write_targets(tmp_path / "out.txt", read(BASENJI2).tracks)
    table = pandas.read_csv(tmp_path / "out.txt", index_col=0, sep="\t")
    assert table.index.tolist() == [0, 1, 2, 3]
    assert table.description[1] == 'CAGE:liver, "pool 1"'
    assert table.strand_pair.tolist() == [0, 2, 1, 3]
    assert table["clip"].tolist() == [32, 384, 384, 384]


@pytest.mark.skipif(DATA is None, reason="CISRAY_DATA names no folder")
def test_shipped_targets_find_their_bigwigs_by_one_option():
    folder = Path(DATA, "human_tiny/hg38")
    relocate = Relocation(template="human_tiny/hg38/bigwig/{index:02}_{identifier}.bw")
    targets = read_targets(folder / "targets.txt", relocate=relocate)
    assert len(targets.tracks) == 74
    assert all(Path(DATA, track.file).exists() for track in targets.tracks)
    check_tracks(targets.tracks)
    for track in targets.tracks:
        stem, sign = track.name[:-1], track.name[-1]
        assert track.strand_pair == {"+": stem + "-", "-": stem + "+"}.get(sign)
    subset = read_targets(folder / "targets_rna.txt", relocate=relocate)
    assert subset.indices == tuple(range(34, 74))
    # its scales have fewer digits
    assert [track.name for track in subset.tracks] == [track.name for track in targets.tracks[34:]]
    assert [track.file for track in subset.tracks] == [track.file for track in targets.tracks[34:]]
