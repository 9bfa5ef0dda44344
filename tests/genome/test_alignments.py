import gzip

import numpy as np
import pysam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.errors import InputError
from cisray.genome.alignments import read_alignments

CHAIN = """# a comment
chain 900 c1 100 + 10 40 d1 200 - 50 77 1
10 5 0
8 0 2
7

chain 50 c2 30 + 0 5 d2 60 + 20 25 2
5
"""
# a fill of 60 bases on the minus strand with two gaps, in the first of which another fill lies
NET = """net c1 100
 fill 10 60 d1 - 100 50 id 1 score 700 ali 40 type top
  gap 20 10 d1 - 135 5
   fill 22 6 d2 + 7 6 id 2 score 90 ali 6 type nonSyn
  gap 40 5 d1 - 125 0
net c2 30
 fill 0 30 d2 + 0 30 id 3 score 100 ali 30 type top
"""


def write(folder, text, name="one.chain"):
    (folder / name).write_text(text)
    return folder / name


def sides(blocks):
    columns = (blocks.target_start, blocks.target_end, blocks.query_start, blocks.query_end)
    return [tuple(row) for row in np.stack(columns, axis=1).tolist()]


def names(blocks):
    return (blocks.target, blocks.target_bp, blocks.query, blocks.query_bp, blocks.reversed)


@pytest.mark.parametrize("packed", [False, True])
def test_chains_are_read_on_the_plus_strand(tmp_path, packed):
    path = write(tmp_path, CHAIN)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    first, second = read_alignments(path)
    assert names(first) == ("c1", 100, "d1", 200, True)
    # 50-60, 60-68 and 70-77 of the minus strand
    assert sides(first) == [(10, 20, 140, 150), (25, 33, 132, 140), (33, 40, 123, 130)]
    assert names(second) == ("c2", 30, "d2", 60, False)
    assert sides(second) == [(0, 5, 20, 25)]
    assert [sides(one) for one in read_alignments(path, extent="span")] == [[(10, 40, 123, 150)], [(0, 5, 20, 25)]]
    assert [one.target for one in read_alignments(path, min_span_bp=6)] == ["c1"]
    assert [one.target for one in read_alignments(path, min_score=51)] == ["c1"]


def test_fills_of_a_net_are_cut_at_their_own_gaps(tmp_path):
    path = write(tmp_path, NET, "one.net")
    inner, outer, other = read_alignments(path)
    assert names(outer) == ("c1", 100, "d1", None, True)
    assert sides(outer) == [(10, 20, 140, 150), (30, 40, 125, 135), (45, 70, 100, 125)]
    assert sides(inner) == [(22, 28, 7, 13)]
    assert names(other)[:3] == ("c2", 30, "d2")
    assert [sides(one) for one in read_alignments(path, extent="span")] == [[(10, 70, 100, 150)], [(0, 30, 0, 30)]]
    assert [sides(one) for one in read_alignments(path, min_score=101)] == [sides(outer)]
    assert [one.target for one in read_alignments(path, min_span_bp=31)] == ["c1"]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9)), min_size=1), st.booleans())
def test_blocks_hold_what_was_written(tmp_path_factory, rows, is_reversed):
    sizes, target_gaps, query_gaps = map(list, zip(*rows, strict=True))
    target_bp = sum(sizes) + sum(target_gaps[:-1])
    query_bp = sum(sizes) + sum(query_gaps[:-1])
    lines = [f"{size} {target} {query}" for size, target, query in rows[:-1]] + [str(sizes[-1])]
    header = f"chain 1 c 999999 + 7 {7 + target_bp} d {query_bp + 4} {'-' if is_reversed else '+'} 3 {3 + query_bp} 1"
    path = write(tmp_path_factory.mktemp("chain"), "\n".join([header, *lines, ""]))
    (blocks,) = read_alignments(path)
    expected, target, query = [], 7, 3
    for size, target_gap, query_gap in rows:
        ends = (query, query + size)
        expected.append(
            (target, target + size, *((query_bp + 4 - ends[1], query_bp + 4 - ends[0]) if is_reversed else ends))
        )
        target, query = target + size + target_gap, query + size + query_gap
    assert sides(blocks) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no alignment"),
        ("##maf version=1\na score=1\n", "line 2 begins with 'a'; wanted a UCSC chain or net file"),
        ("chain 1 c 9 + 0 5\n5\n", "line 1 is no chain header"),
        ("chain 1 c 9 - 0 5 d 9 + 0 5 1\n5\n", "line 1 is no chain header"),
        ("chain 1 c 9 + 0 five d 9 + 0 5 1\n5\n", "line 1 holds something else where a chain header has numbers"),
        ("chain 1 c 9 + 5 12 d 9 + 0 7 1\n7\n", "line 1 is a chain that begins after its end or reaches beyond"),
        ("chain 1 c 9 + 0 5 d 9 + 0 5 1\n4\n", "ends at 5 and 5, but its blocks end at 4 and 4"),
        ("chain 1 c 9 + 0 5 d 9 + 0 5 1\n3 2\n", "blocks are not lines of three numbers and one of one"),
        ("chain 1 c 9 + 0 5 d 9 + 0 5 1\nfive\n", "a block that is not three numbers"),
        ("net c\n", "line 1 is no net header"),
        ("net c 9\n fill 0 5 d\n", "line 2 is no fill or gap"),
        ("net c 9\n fill 0 5 d + 0 x\n", "line 2 holds something else where a fill or gap has numbers"),
    ],
)
def test_files_that_are_not_whole_are_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        list(read_alignments(write(tmp_path, text)))


def test_missing_and_cut_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file, but a chain or net file was expected"):
        list(read_alignments(tmp_path / "none.chain"))
    whole = gzip.compress((CHAIN * 200).encode())
    (tmp_path / "cut.chain.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="truncated or damaged gzip file"):
        list(read_alignments(tmp_path / "cut.chain.gz"))
    with pysam.BGZFile(str(tmp_path / "cut.chain.bgz"), "w") as handle:
        handle.write(CHAIN.encode())
    blocked = (tmp_path / "cut.chain.bgz").read_bytes()
    (tmp_path / "cut.chain.bgz").write_bytes(blocked[:-28])
    with pytest.raises(InputError, match="truncated, the block that ends a bgzip file is missing"):
        list(read_alignments(tmp_path / "cut.chain.bgz"))
