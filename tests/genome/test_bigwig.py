import os
import struct
from pathlib import Path

import numpy as np
import pyBigWig
import pytest

from cisray.errors import InputError
from cisray.genome.bigwig import check_blocks, read_index
from cisray.genome.tracks import SignalFile

DATA = os.environ.get("CISRAY_DATA")
LENGTHS = {"a": 40_000, "b": 20_000}
HEADER = struct.Struct("<IHHQQQHHQQIQ")


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


def test_the_index_tells_every_block_in_order(whole, tmp_path):
    (tmp_path / "f.bw").write_bytes(whole[0])
    index = read_index(tmp_path / "f.bw")
    assert index.contig_lengths == LENGTHS
    assert index.blocks["contig"].tolist() == sorted(index.blocks["contig"].tolist())
    assert index.blocks[0]["start"] == 0
    assert index.blocks[-1]["end"] == 20_000
    for contig, length in LENGTHS.items():
        check_blocks(tmp_path / "f.bw", index, contig, 0, length)


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


def test_a_flipped_byte_of_the_data_is_told_with_the_interval(whole, tmp_path):
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
        pytest.raises(InputError, match=r"f\.bw: damaged, cannot read a:0-40000 .*copy"),
    ):
        signal.values("a", 0, 40_000)


def test_a_truncated_file_is_told_wherever_it_is_cut(whole, tmp_path):
    for size in np.linspace(0, len(whole[0]) - 1, 50).astype(int):
        (tmp_path / "f.bw").write_bytes(whole[0][:size])
        with pytest.raises(InputError, match=r"f\.bw: (truncated or damaged|not a) bigWig"):
            read_index(tmp_path / "f.bw")


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
        pytest.raises(InputError, match=rf"damaged block of data at byte \d+, met while reading a:{end - 2000}"),
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
        read_index(tmp_path / "f.bw")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(InputError, match=r"none\.bw: no such file, but a bigWig"):
        read_index(tmp_path / "none.bw")


@pytest.mark.skipif(DATA is None, reason="CISRAY_DATA names no folder")
def test_real_files_of_two_writers_are_whole():
    for name, blocks in (("MNase", 42), ("mnase_dyads_rep1", 1049)):
        path = Path(DATA) / "yeast" / f"{name}.bw"
        with SignalFile(path) as signal:
            assert len(signal._index.blocks) == blocks
            contig, length = next(iter(signal.contig_lengths.items()))
            expected = pyBigWig.open(str(path)).values(contig, 0, length, numpy=True)
            assert np.array_equal(signal.values(contig, 0, length), expected, equal_nan=True)
