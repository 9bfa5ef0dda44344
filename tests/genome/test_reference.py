import gzip
import hashlib
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyfaidx
import pysam
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cisray.errors import InputError
from cisray.genome.reference import Reference, check_same_genome, default_cache_dir
from cisray.genome.sequence import encode

FASTA = b">chrI first\nACGTN\nacg\n>chrII\nRTTTT\n"
DATA = os.environ.get("CISRAY_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="CISRAY_DATA names no folder")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def write(path, text=FASTA):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text)
    return path


def cached(cache):
    return sorted(path.name for path in (cache / "genomes").glob("*") if path.name != ".lock")


def test_bases_are_read_with_n_beyond_the_ends(tmp_path, cache):
    reference = Reference(write(tmp_path / "g.fa"), cache)
    assert list(reference.contig_lengths.items()) == [("chrI", 8), ("chrII", 5)]
    assert reference.codes("chrI", -2, 10).tolist() == [4, 4, 0, 1, 2, 3, 4, 0, 1, 2, 4, 4]
    assert reference.codes("chrI", 3, 6).dtype == np.uint8
    assert reference.bases("chrI", -2, 10) == "NNACGTNACGNN"
    assert reference.bases("chrII", 0, 5) == "RTTTT"
    assert reference.codes("chrII", 0, 5).tolist() == [4, 3, 3, 3, 3]
    for start, end in [(-9, -3), (20, 26)]:
        assert reference.bases("chrI", start, end) == "NNNNNN"
        assert reference.codes("chrI", start, end).tolist() == [4] * 6
    assert reference.codes("chrI", 4, 4).shape == (0,)
    assert reference.bases("chrI", 4, 4) == ""


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_interval_of_any_layout_is_what_a_plain_slice_gives(tmp_path, data):
    contigs = data.draw(st.lists(st.text("ACGTNacgtRu", min_size=1, max_size=70), min_size=1, max_size=4))
    newline = data.draw(st.sampled_from(["\n", "\r\n"]))
    lines = []
    for number, bases in enumerate(contigs):
        width = data.draw(st.integers(1, 80))
        lines += [f">c{number} x", *(bases[at : at + width] for at in range(0, len(bases), width))]
        lines += [""] * (newline == "\n" and data.draw(st.booleans()))
    text = newline.join(lines) + newline * data.draw(st.integers(0, 1))
    folder = tmp_path / hashlib.sha256(text.encode()).hexdigest()
    reference = Reference(write(folder / "g.fa", text.encode()), tmp_path / "cache")
    for number, bases in enumerate(contigs):
        start = data.draw(st.integers(-20, 80))
        end = data.draw(st.integers(start, start + 100))
        expected = ("N" * 30 + bases.upper() + "N" * 200)[start + 30 : end + 30]
        assert reference.bases(f"c{number}", start, end) == expected
        assert np.array_equal(reference.codes(f"c{number}", start, end), encode(expected))
        assert reference.contig_digests[f"c{number}"] == hashlib.md5(bases.upper().encode()).hexdigest()


def test_plain_gzip_and_bgzip_are_one_genome(tmp_path, cache):
    plain = write(tmp_path / "g.fa")
    packed = write(tmp_path / "h.fa.gz", gzip.compress(FASTA))
    pysam.tabix_compress(str(plain), str(tmp_path / "i.fa.gz"))
    references = [Reference(path, cache) for path in (plain, packed, tmp_path / "i.fa.gz")]
    assert len({reference.digest for reference in references}) == 1
    assert {reference.bases("chrI", 0, 8) for reference in references} == {"ACGTNACG"}
    assert [name.split("-")[0] for name in cached(cache)] == ["g", "h", "i"]
    assert references[1].path == packed


def test_digests_are_those_of_the_bases_whatever_case_wrapping_and_order(tmp_path, cache):
    one = Reference(write(tmp_path / "a.fa"), cache)
    two = Reference(write(tmp_path / "b.fa", b">chrII\nrt\ntt\nt\n>chrI\nACGTNACG"), cache)
    assert one.contig_digests == {
        "chrI": hashlib.md5(b"ACGTNACG").hexdigest(),
        "chrII": hashlib.md5(b"RTTTT").hexdigest(),
    }
    rows = [f"{name}\t{one.contig_lengths[name]}\t{one.contig_digests[name]}\n" for name in ("chrI", "chrII")]
    assert one.digest == two.digest == hashlib.sha256("".join(rows).encode()).hexdigest()
    assert Reference(write(tmp_path / "c.fa", FASTA + b"T"), cache).digest != one.digest


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"", "holds no sequence"),
        (b"\n \n", "holds no sequence"),
        (b"hello\nworld\n", "not a FASTA file.*b'hello"),
        (b"ACGT\n>b\nACG\n", "not a FASTA file"),
        (b">a\nACGT\n>b\nA\n>a\nACG\n", 'two contigs have one name.*"a"'),
        (b">\nACGT\n", "not a readable FASTA file.*Bad sequence name"),
        (b">a\nACGT\n>b\n", "contig 'b' has no bases"),
        (b">a\n>b\nACGT\n", "contig 'a' has no bases"),
        (b">a\nACGT\nAC\nACGT\n", "not a readable FASTA file.*Line length"),
        (b">a\nA\n\n\n>b\nA\n", "not a readable FASTA file.*remove blank lines"),
        (b">a\nACGT\nA\n\n\n", "not a readable FASTA file.*remove blank lines"),
        (b">a\nACG\nACGT\n", "lines of contig 'a' differ in length"),  # pyfaidx lets this pass
        (b">a\nACGT\nMEFP\n", "contig 'a' holds b'E' within bases 0-8"),
        (b">a\nAC GT\n", "contig 'a' holds b' '"),
        (b">a\nAC\xff\xfe\n", "not a readable FASTA file|holds b"),
        (gzip.compress(b"", mtime=0), "holds no sequence"),
        (gzip.compress(b"hello", mtime=0), "not a FASTA file"),
        (gzip.compress(FASTA * 1, mtime=0)[:-9], "truncated or damaged gzip file.*copy or download it again"),
        (gzip.compress(FASTA, mtime=0)[:-8] + b"12345678", "truncated or damaged gzip file"),
    ],
)
def test_a_bad_file_is_one_error_and_leaves_nothing_behind(tmp_path, cache, text, match):
    path = write(tmp_path / "data" / "bad.fa", text)
    with pytest.raises(InputError, match=match) as caught:
        Reference(path, cache)
    assert str(caught.value).startswith(str(path))
    assert str(cache) not in str(caught.value)
    assert cached(cache) == []
    assert list(path.parent.iterdir()) == [path]


def test_a_bgzip_file_cut_between_blocks_is_refused(tmp_path, cache):
    pysam.tabix_compress(str(write(tmp_path / "g.fa")), str(tmp_path / "g.fa.gz"))
    whole = (tmp_path / "g.fa.gz").read_bytes()
    with pytest.raises(InputError, match=r"g\.fa\.gz: truncated .the end block"):
        Reference(write(tmp_path / "g.fa.gz", whole[:-28]), cache)
    assert cached(cache) == []


def test_a_missing_file_and_a_folder_are_refused(tmp_path, cache):
    for path, found in ((tmp_path / "none.fa", "no such file"), (tmp_path, "a folder")):
        with pytest.raises(InputError, match=f"{found}, but a FASTA file was expected here"):
            Reference(path, cache)


def test_a_cache_that_cannot_be_written_says_which(tmp_path):
    blocked = write(tmp_path / "blocked")
    with pytest.raises(InputError, match=r"cache folder .*blocked.*CISRAY_CACHE"):
        Reference(write(tmp_path / "g.fa"), blocked)


def test_an_unknown_contig_and_a_turned_interval_are_refused(tmp_path, cache):
    reference = Reference(write(tmp_path / "g.fa"), cache)
    for read in (reference.codes, reference.bases):
        with pytest.raises(InputError, match=r"g\.fa: no contig 'II'; the nearest are chrII"):
            read("II", 0, 5)
        with pytest.raises(InputError, match="chrI:5-4 starts after its end"):
            read("chrI", 5, 4)


def test_a_second_opening_reads_the_cache(tmp_path, cache, monkeypatch):
    path = write(tmp_path / "data" / "g.fa.gz", gzip.compress(FASTA))
    first = Reference(path, cache)
    monkeypatch.setattr(pyfaidx, "Faidx", None)
    second = Reference(path, cache)
    assert second.digest == first.digest
    assert second.bases("chrI", 0, 8) == "ACGTNACG"
    assert list(path.parent.iterdir()) == [path]  # data folders may be read-only


def test_a_changed_file_and_a_damaged_cache_are_prepared_again(tmp_path, cache):
    path = write(tmp_path / "g.fa.gz", gzip.compress(FASTA))
    old = Reference(path, cache)
    (folder,) = (cache / "genomes" / name for name in cached(cache))
    (folder / "genome.fa").write_bytes(FASTA[:-3])
    assert Reference(path, cache).bases("chrII", 0, 5) == "RTTTT"
    (folder / "contigs.json").write_text('{"format": 0}')
    assert Reference(path, cache).digest == old.digest
    write(path, gzip.compress(FASTA.replace(b"RTTTT", b"CCCCC")))
    assert Reference(path, cache).bases("chrII", 0, 5) == "CCCCC"
    assert len(cached(cache)) == 2


def test_processes_that_open_one_file_at_once_all_get_it(tmp_path, cache):
    path = write(tmp_path / "g.fa.gz", gzip.compress(b">a\n" + b"ACGTACGTAC\n" * 50_000))
    program = (
        "import sys; from cisray.genome.reference import Reference; sys.stdin.readline();"
        "r = Reference(*sys.argv[1:]); print(r.digest, r.bases('a', 0, 4))"
    )
    command = [sys.executable, "-c", program, str(path), str(cache)]
    workers = [subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    answers = [worker.communicate(timeout=60) for worker in workers]
    assert {answer for answer, _ in answers} == {f"{Reference(path, cache).digest} ACGT\n"}
    assert [errors for _, errors in answers] == ["", ""]
    assert len(cached(cache)) == 1
    assert len(list((cache / "genomes").iterdir())) == 2  # the genome and the lock, nothing half-made


def test_a_reference_is_pickled_by_its_path(tmp_path, cache):
    reference = Reference(write(tmp_path / "g.fa", b">a\n" + b"A" * 100_000), cache)
    text = pickle.dumps(reference)
    assert len(text) < 1000
    assert pickle.loads(text).bases("a", 99_999, 100_001) == "AN"


def test_the_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("CISRAY_CACHE", raising=False)
    assert default_cache_dir() == Path("/home/somebody/.cache/cisray")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_cache_dir() == Path("/xdg/cisray")
    monkeypatch.setenv("CISRAY_CACHE", "/own")
    assert default_cache_dir() == Path("/own")


def test_the_same_genome_is_told_from_another(tmp_path, cache):
    ours = Reference(write(tmp_path / "ours.fa"), cache)

    def check(text):
        theirs = Reference(write(tmp_path / "theirs.fa", text), cache)
        check_same_genome(ours, theirs.contig_lengths, theirs.contig_digests, theirs.digest, what="model M")

    check(FASTA)
    check(b">chrII\nRTTTT\n>chrI\nACGTNACG\n")
    check(b">chrII\nRTTTT\n")  # ours has one more: every coordinate of theirs is one of ours
    with pytest.raises(InputError, match=r"ours\.fa is not the genome of model M: chrIII is missing; give"):
        check(FASTA + b">chrIII\nA\n")
    with pytest.raises(InputError, match="chrII has 5 bases instead of 6; give"):
        check(FASTA + b"A\n")
    with pytest.raises(InputError, match="chrI has the same length but other bases; give"):
        check(FASTA.replace(b"ACGTN", b"ACGTA"))
    with pytest.raises(InputError, match=r"a is missing; b is missing; c is missing \(and 1 more\)"):
        check(b">a\nA\n>b\nA\n>c\nA\n>d\nA\n")
    with pytest.raises(InputError, match="model M: its genome digest 0000 does not fit its own contigs"):
        check_same_genome(ours, ours.contig_lengths, ours.contig_digests, "0000", what="model M")


@needs_data
def test_the_yeast_genome_opens_in_no_time_and_has_its_known_digest(cache):
    path = Path(DATA) / "yeast" / "sacCer3.fa.gz"
    start = time.perf_counter()
    reference = Reference(path, cache)
    middle = time.perf_counter()
    Reference(path, cache)
    assert middle - start < 2
    assert time.perf_counter() - middle < 0.05
    assert sum(reference.contig_lengths.values()) == 12_157_105
    assert reference.contig_digests["chrI"] == "6681ac2f62509cfc220d78751b8dc524"  # M5 of UCSC's sacCer3
    assert reference.bases("chrI", -1, 9) == "NCCACACCAC"
