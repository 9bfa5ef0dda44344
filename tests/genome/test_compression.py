import gzip
import os

import pysam
import pytest

from cisray.errors import InputError
from cisray.genome.compression import GZIP_ERRORS, check_is_file, is_gzip, lacks_bgzip_end, open_unpacked

TEXT = b"".join(b"line %d\n" % number for number in range(30_000))


@pytest.fixture
def paths(tmp_path):
    plain, packed, blocked = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    plain.write_bytes(TEXT)
    packed.write_bytes(gzip.compress(TEXT))
    pysam.tabix_compress(str(plain), str(blocked))
    return plain, packed, blocked


def test_files_are_known_by_their_first_bytes_and_read_alike(paths):
    assert [is_gzip(path) for path in paths] == [False, True, True]
    for path in paths:
        with open_unpacked(path) as handle:
            assert b"".join(handle) == TEXT


def test_only_a_bgzip_file_without_its_last_block_lacks_its_end(paths):
    assert [lacks_bgzip_end(path) for path in paths] == [False, False, False]
    whole = paths[2].read_bytes()
    paths[2].write_bytes(whole[:-28])
    assert lacks_bgzip_end(paths[2])
    with open_unpacked(paths[2]) as handle:
        assert handle.read() == TEXT  # this is why the end block must be asked for


@pytest.mark.parametrize("number", [1, 2])
def test_a_cut_file_raises_one_of_the_gzip_errors(paths, number):
    paths[number].write_bytes(paths[number].read_bytes()[:-40])
    with pytest.raises(GZIP_ERRORS, match="end-of-stream"), open_unpacked(paths[number]) as handle:
        handle.read()


def test_what_is_no_file_is_told_for_what_it_is(tmp_path, paths):
    check_is_file(paths[0], wanted="a BED file")
    os.mkfifo(tmp_path / "pipe")
    for name, found in (("none", "no such file"), (".", "a folder"), ("pipe", "not a file")):
        with pytest.raises(InputError, match=f"{found}, but a BED file was expected here"):
            check_is_file(tmp_path / name, wanted="a BED file")
