import os
import struct
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pyBigWig
import pytest

from cisray.errors import InputError
from cisray.genome.bigwig import check_file, open_bigwig, read_runs
from cisray.genome.tracks import SignalFile

DATA = os.environ.get("CISRAY_DATA")
LENGTHS = {"a": 40_000, "b": 20_000}
HEADER = struct.Struct("<IHHQQQHHQQIQ")
ITEMS = {1: "<IIf", 2: "<If", 3: "<f", 4: "<IIf"}  # of each kind of block


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a bigWig of four blocks and a gap, and its values."""
    path = tmp_path_factory.mktemp("bigwig") / "whole.bw"
    rng = np.random.default_rng(0)
    file = pyBigWig.open(str(path), "w")
    file.addHeader(list(LENGTHS.items()))
    for contig, length in LENGTHS.items():
        for start in range(0, length, 2000):
            if start != 6000:
                file.addEntries(contig, start, values=rng.poisson(3, 250).astype(float), span=8, step=8)
    file.close()
    with SignalFile(path) as signal:
        return path.read_bytes(), {contig: signal.values(contig, 0, length) for contig, length in LENGTHS.items()}


def read_all(path, data):
    """Read a file in eight parts; return None where an InputError tells of its damage, or what was read."""
    path.write_bytes(data)
    try:
        with SignalFile(path) as signal:
            if signal.contig_lengths != LENGTHS:
                return signal.contig_lengths
            parts = {c: [signal.values(c, at, at + n // 4) for at in range(0, n, n // 4)] for c, n in LENGTHS.items()}
            return {contig: np.concatenate(values) for contig, values in parts.items()}
    except InputError:
        return None


def sections(data):
    _, _, _, contigs_at, data_at, index_at, *_ = HEADER.unpack_from(data)
    return {
        "header": range(HEADER.size),
        "contigs": range(contigs_at, data_at),
        "index": range(index_at, index_at + 48 + 4 + 4 * 32),
    }


def test_the_index_is_walked_whole_or_for_an_interval(whole, tmp_path):
    path = tmp_path / "f.bw"
    path.write_bytes(whole[0])
    file = open_bigwig(path)
    assert file.contigs.lengths == LENGTHS
    assert check_file(path) == file.num_blocks == 4
    (runs,) = read_runs(file, "a", 5990, 8010)
    assert runs.start.tolist() == [5990, 5992, 8000, 8008]
    assert runs.end.tolist() == [5992, 6000, 8008, 8010]
    assert list(runs.value) == whole[1]["a"][[5990, 5992, 8000, 8008]].tolist()


@pytest.mark.parametrize("section", ["header", "contigs", "index"])
def test_no_flipped_byte_crashes_or_changes_a_value(whole, tmp_path, section):
    data, truth = whole
    told = 0
    for position in sections(data)[section]:
        for mask in (0x01, 0x80):
            damaged = bytearray(data)
            damaged[position] ^= mask
            found = read_all(tmp_path / "f.bw", bytes(damaged))
            if found is None:
                told += 1
            elif found.keys() == truth.keys() and isinstance(found["a"], np.ndarray):
                assert all(np.array_equal(found[contig], truth[contig], equal_nan=True) for contig in truth)
            else:
                assert section == "contigs"  # another name or length, which nothing in the file contradicts
    assert told > len(sections(data)[section]) / 2


def test_a_flipped_byte_of_the_data_is_told_with_its_block(whole, tmp_path):
    data, truth = whole
    start, end = sections(data)["contigs"].stop + 8, sections(data)["index"].start
    told = 0
    for position in np.random.default_rng(1).integers(start, end, 60):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        found = read_all(tmp_path / "f.bw", bytes(damaged))
        told += found is None
        assert found is None or all(np.array_equal(found[c], truth[c], equal_nan=True) for c in truth)
    assert told > 50
    damaged = bytearray(data)
    damaged[(start + end) // 2] ^= 0x10
    (tmp_path / "f.bw").write_bytes(damaged)
    with (
        SignalFile(tmp_path / "f.bw") as signal,
        pytest.raises(InputError, match=r"f\.bw: damaged block of data at byte \d+, a:\d+-\d+ \(.*copy"),
    ):
        signal.values("a", 0, 40_000)


def test_a_truncated_file_is_told_wherever_it_is_cut(whole, tmp_path):
    for size in np.linspace(0, len(whole[0]) - 1, 50).astype(int):
        (tmp_path / "f.bw").write_bytes(whole[0][:size])
        for reads in (check_file, SignalFile):
            with pytest.raises(InputError, match=r"f\.bw: (truncated or damaged|not a) bigWig"):
                reads(tmp_path / "f.bw")


def test_a_zeroed_stretch_is_told_or_does_not_matter(whole, tmp_path):
    data, truth = whole
    for start in np.linspace(0, len(data) - 600, 40).astype(int):
        found = read_all(tmp_path / "f.bw", data[:start] + bytes(500) + data[start + 500 :])
        assert found is None or all(np.array_equal(found[c], truth[c], equal_nan=True) for c in truth)


def test_a_block_whose_bounds_are_wrong_in_the_index_is_told_even_where_it_is_not_read(whole, tmp_path):
    data, truth = whole
    _, _, _, _, _, index_at, *_ = HEADER.unpack_from(data)
    end_at = index_at + 48 + 4 + 12  # of the first block
    end = int.from_bytes(data[end_at : end_at + 4], "little")
    damaged = data[:end_at] + (end - 4000).to_bytes(4, "little") + data[end_at + 4 :]
    (tmp_path / "f.bw").write_bytes(damaged)
    plain = pyBigWig.open(str(tmp_path / "f.bw"))
    assert np.isnan(plain.values("a", end - 2000, end - 1000, numpy=True)).all()  # what the library makes of it
    assert not np.isnan(truth["a"][end - 2000 : end - 1000]).any()
    with (
        SignalFile(tmp_path / "f.bw") as signal,
        pytest.raises(InputError, match=r"damaged block of data at byte \d+, .*bounds are not those of the index"),
    ):
        signal.values("a", end - 2000, end - 1000)


@pytest.mark.parametrize(
    ("start", "match"),
    [
        (struct.pack("<I", 0x8789F2EB), "not a bigWig file .a bigBed file"),
        (struct.pack(">I", 0x888FFC26), "not a bigWig file .a bigWig file of the other byte order"),
        (b"track type=wiggle_0", "not a bigWig file .it starts with b'trac'"),
        (b"", "not a bigWig file .it starts with b''"),
    ],
)
def test_another_format_is_named(tmp_path, start, match):
    (tmp_path / "f.bw").write_bytes(start + bytes(200 if start else 0))
    with pytest.raises(InputError, match=match):
        check_file(tmp_path / "f.bw")


def test_a_missing_file_and_a_folder_are_told(tmp_path):
    with pytest.raises(InputError, match=r"none\.bw: no such file, but a bigWig"):
        check_file(tmp_path / "none.bw")
    with pytest.raises(InputError, match="a folder, but a bigWig"):
        check_file(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: not a file, but a bigWig"):
        check_file(tmp_path / "pipe")  # and does not wait for what comes through it


def test_a_file_that_is_written_or_removed_meanwhile_is_told(whole, tmp_path):
    path = tmp_path / "f.bw"
    path.write_bytes(whole[0])
    signal = SignalFile(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputError, match=r"f\.bw: changed since it was opened"):
        signal.values("a", 0, 10)
    path.unlink()
    with pytest.raises(InputError, match=r"f\.bw: no such file"):
        signal.values("a", 0, 10)


def make_bigwig(path, blocks, *, length=1000, packed=False):
    """Write a bigWig of one contig `c` by hand: blocks are (start, end, step, span, kind, item words)."""
    raws = [
        struct.pack("<IIIIIBBH", 0, *block[:5], 0, len(block[5]))
        + b"".join(struct.pack(ITEMS[block[4]], *item) for item in block[5])
        for block in blocks
    ]
    raws = [zlib.compress(raw) for raw in raws] if packed else raws
    contigs = struct.pack("<IIIIQQ", 0x78CA8C91, 1, 1, 8, 1, 0) + struct.pack("<BBH1sII", 1, 0, 1, b"c", 0, length)
    data_at = HEADER.size + 40 + len(contigs)
    offsets = np.cumsum([data_at + 8, *map(len, raws)]).tolist()
    index_at = offsets.pop()
    leaves = [
        struct.pack("<IIIIQQ", 0, b[0], 0, b[1], at, len(raw)) for b, at, raw in zip(blocks, offsets, raws, strict=True)
    ]
    header = HEADER.pack(0x888FFC26, 4, 0, HEADER.size + 40, data_at, index_at, 0, 0, 0, HEADER.size, 4096 * packed, 0)
    bounds = (0, blocks[0][0], 0, blocks[-1][1])
    index = struct.pack("<IIQIIIIQII", 0x2468ACE0, 256, len(blocks), *bounds, index_at, 1, 0)
    index += struct.pack("<BBH", 1, 0, len(blocks)) + b"".join(leaves)
    body = contigs + struct.pack("<Q", len(blocks)) + b"".join(raws) + index
    path.write_bytes(header + bytes(40) + body + struct.pack("<I", 0x888FFC26))
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_blocks_of_every_kind_are_read(tmp_path, packed):
    blocks = [
        (10, 30, 0, 0, 1, [(10, 12, 1.5), (12, 15, 2.5), (20, 30, -1)]),
        (30, 44, 0, 4, 2, [(30, 3), (40, 4)]),
        (50, 63, 5, 3, 3, [(5,), (6,), (7,)]),
        (70, 73, 1, 1, 3, [(8,), (9,), (10,)]),
    ]
    path = make_bigwig(tmp_path / "f.bw", blocks, packed=packed)
    expected = np.full(1000, np.nan, np.float32)
    for start, end, value in [(10, 12, 1.5), (12, 15, 2.5), (20, 30, -1), (30, 34, 3), (40, 44, 4)]:
        expected[start:end] = value
    for start, end, value in [(50, 53, 5), (55, 58, 6), (60, 63, 7), (70, 71, 8), (71, 72, 9), (72, 73, 10)]:
        expected[start:end] = value
    assert check_file(path) == 4
    signal = SignalFile(path)
    assert np.array_equal(signal.values("c", 0, 1000), expected, equal_nan=True)
    assert np.array_equal(pyBigWig.open(str(path)).values("c", 0, 1000, numpy=True), expected, equal_nan=True)
    for start, end in [(0, 11), (11, 13), (13, 22), (33, 71), (71, 72), (45, 47)]:
        assert np.array_equal(signal.values("c", start, end), expected[start:end], equal_nan=True)


@pytest.mark.parametrize(
    ("block", "match"),
    [
        ((10, 30, 0, 0, 1, [(10, 20, 1), (15, 30, 2)]), "its items overlap, or lie outside"),
        ((10, 30, 0, 0, 1, [(10, 31, 1)]), "its items overlap, or lie outside"),
        ((10, 30, 0, 0, 1, [(9, 30, 1)]), "its items overlap, or lie outside"),
        ((10, 30, 0, 0, 1, [(12, 12, 1)]), "its items overlap, or lie outside"),
        ((10, 30, 0, 5, 2, [(10, 1), (14, 1)]), "its items overlap, or lie outside"),
        ((10, 30, 2, 3, 3, [(1,), (2,)]), "its items overlap, or lie outside"),
        ((10, 30, 0, 0, 4, [(10, 30, 1)]), "it is of no known kind .4."),
        ((10, 30, 0, 0, 1, []), "its 0 items do not fit into 24 bytes"),
    ],
)
def test_a_block_that_contradicts_itself_is_told(tmp_path, block, match):
    path = make_bigwig(tmp_path / "f.bw", [(0, 5, 0, 0, 1, [(0, 5, 1)]), block])
    assert check_file(path) == 2
    with pytest.raises(InputError, match=rf"damaged block of data at byte \d+, c:10-30 \({match}"):
        SignalFile(path).values("c", 0, 50)
    assert SignalFile(path).values("c", 0, 4).tolist() == [1, 1, 1, 1]


def test_an_infinite_value_is_told(tmp_path):
    items = [(0, 5, 1), (5, 9, -np.inf), (9, 10, np.nan)]
    path = make_bigwig(tmp_path / "f.bw", [(0, 10, 0, 0, 1, items)])
    with pytest.raises(InputError, match=r"f\.bw: holds an infinite value at c:5; make the file again"):
        SignalFile(path).values("c", 0, 5)


def test_an_index_that_contradicts_itself_is_told(tmp_path):
    good = [(at, at + 5, 0, 0, 1, [(at, at + 5, 1)]) for at in (0, 10, 20)]
    path = make_bigwig(tmp_path / "f.bw", [good[0], good[2], good[1]])
    with pytest.raises(InputError, match=r"its blocks are not in order|begins or ends elsewhere"):
        check_file(path)
    path = make_bigwig(tmp_path / "f.bw", good, length=20)
    with pytest.raises(InputError, match="a block starts beyond its contig"):
        check_file(path)
    data = make_bigwig(tmp_path / "f.bw", good).read_bytes()
    for at, value, match in [(8, 2, "3 blocks in an index of 2"), (8, 0, "3 blocks of data and an index of none")]:
        index_at = HEADER.unpack_from(data)[5]
        path.write_bytes(data[: index_at + at] + struct.pack("<Q", value) + data[index_at + at + 8 :])
        with pytest.raises(InputError, match=match):
            check_file(path)


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A file of 5,000 blocks in an index of three levels, and its values."""
    path = tmp_path_factory.mktemp("bigwig") / "deep.bw"
    expected = np.full(50_000, np.nan, np.float32)
    with closing(pyBigWig.open(str(path), "w")) as file:
        file.addHeader([("a", 50_000)])
        for start in range(0, 50_000, 10):
            span = 3 + start % 3  # a block has one span
            file.addEntries("a", start, values=[float(start)], span=span, step=span)
            expected[start : start + span] = start
    return path, expected


def test_an_index_of_several_levels_is_walked(deep):
    path, expected = deep
    assert check_file(path) == 5000
    signal = SignalFile(path)
    assert np.array_equal(signal.values("a", 0, 50_000), expected, equal_nan=True)
    for start, end in np.sort(np.random.default_rng(2).integers(0, 50_000, (40, 2)), axis=1):
        assert np.array_equal(signal.values("a", start, end), expected[start:end], equal_nan=True)


def test_no_flipped_byte_of_a_branch_changes_a_value(deep, tmp_path):
    path, expected = deep
    data = path.read_bytes()
    index_at, told = HEADER.unpack_from(data)[5], 0
    for position in np.random.default_rng(3).integers(index_at + 48, len(data) - 4, 40):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        (tmp_path / "f.bw").write_bytes(damaged)
        signal = SignalFile(tmp_path / "f.bw")
        for start in range(0, 50_000, 5000):
            try:
                values = signal.values("a", start, start + 5000)
            except InputError:
                told += 1
            else:
                assert np.array_equal(values, expected[start : start + 5000], equal_nan=True)
    assert told > 30


def test_a_reading_touches_its_own_part_of_the_file_alone(tmp_path, monkeypatch):
    blocks = [(at, at + 10, 0, 0, 1, [(at, at + 10, at)]) for at in range(0, 2000, 10)]
    path = make_bigwig(tmp_path / "f.bw", blocks, length=2000)
    signal, taken, pread = SignalFile(path), [], os.pread
    monkeypatch.setattr(os, "pread", lambda *args: taken.append(args[1:]) or pread(*args))
    assert signal.values("c", 500, 510).tolist() == [500] * 10
    (_, _), (size, offset) = taken
    assert (size, offset) == (36, HEADER.unpack_from(path.read_bytes())[4] + 8 + 50 * 36)


def test_thousands_of_files_hold_no_descriptor_and_share_their_contigs(whole, tmp_path):
    (tmp_path / "f.bw").write_bytes(whole[0])
    before = len(list(Path("/dev/fd").iterdir()))
    signals = [SignalFile(tmp_path / "f.bw") for _ in range(2000)]
    assert len({signal.values("a", 5, 6)[0] for signal in signals}) == 1
    assert len(list(Path("/dev/fd").iterdir())) == before
    assert len({id(signal.contig_lengths) for signal in signals}) == 1


@pytest.mark.skipif(DATA is None, reason="CISRAY_DATA names no folder")
def test_real_files_of_two_writers_are_whole():
    for name, blocks in (("MNase", 42), ("mnase_dyads_rep1", 1049)):
        path = Path(DATA) / "yeast" / f"{name}.bw"
        with SignalFile(path) as signal:
            assert check_file(path) == blocks
            contig, length = next(iter(signal.contig_lengths.items()))
            expected = pyBigWig.open(str(path)).values(contig, 0, length, numpy=True)
            assert np.array_equal(signal.values(contig, 0, length), expected, equal_nan=True)
