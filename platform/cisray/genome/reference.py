"""Read bases of a genome from a FASTA file, and tell one genome from another."""

import fcntl
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyfaidx
from numpy.typing import NDArray

from cisray.errors import InputError
from cisray.files import folder_written_whole, read_json, write_json
from cisray.genome.compression import GZIP_ERRORS, check_is_file, is_gzip, lacks_bgzip_end, open_unpacked
from cisray.genome.intervals import suggest_names
from cisray.genome.sequence import BASE_CODES, UNKNOWN
from cisray.remote import default_cache_dir

_FORMAT = 1  # of contigs.json; another number there means: make the folder again
_CHUNK_BP = 1 << 24  # a human chromosome need not be in memory at once
_NEWLINES = b"\r\n"
# IUPAC nucleotides, a gap and the stop that some assemblers write
_DNA_LETTERS = b"ACGTUNRYSWKMBDHVXacgtunryswkmbdhvx-.*"


class _Contig(NamedTuple):
    """Where a contig lies in the FASTA file: a line of a .fai index, and the digest of its bases."""

    name: str
    length: int
    offset: int
    line_bases: int
    line_bytes: int
    md5: str


class Reference:
    """The bases of a genome, read from a memory map: safe to share among threads and forks, cheap to pickle.

    What opening it once has made (the unpacked bases of a compressed file, the index, the digests) stays in
    a cache folder that is named after the file's absolute path, size and time of change.
    """

    def __init__(self, fasta_path: Path | str, cache_dir: Path | str | None = None) -> None:
        self.path = Path(fasta_path)
        self._cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir)
        folder = _prepared(self.path, self._cache_dir)
        index = read_json(folder / "contigs.json", what="genome index")
        self._contigs = {row[0]: _Contig(*row) for row in index["contigs"]}
        self.contig_lengths: dict[str, int] = {name: contig.length for name, contig in self._contigs.items()}
        """Bases of each contig, in the order of the file."""
        self.contig_digests: dict[str, str] = {name: contig.md5 for name, contig in self._contigs.items()}
        """MD5 of each contig's uppercase bases, in hex, as in the M5 tag of SAM."""
        self.digest: str = index["digest"]
        """SHA-256 of all names, lengths and MD5s, in hex, whatever their order."""
        self._bytes = _map(folder / "genome.fa" if index["unpacked"] else self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        return Reference, (self.path, self._cache_dir)

    def codes(self, contig: str, start: int, end: int) -> NDArray[np.uint8]:
        """Return the codes [end-start] of an interval, N (4) beyond both ends of the contig."""
        codes = np.full(self._checked_width(contig, start, end), UNKNOWN, np.uint8)
        first, last = max(start, 0), min(end, self.contig_lengths[contig])
        if first < last:
            codes[first - start : last - start] = BASE_CODES[_letters(self._bytes, self._contigs[contig], first, last)]
        return codes

    def bases(self, contig: str, start: int, end: int) -> str:
        """Return the uppercase letters of an interval as in the file, N beyond both ends of the contig."""
        self._checked_width(contig, start, end)
        length = self.contig_lengths[contig]
        first, last = max(start, 0), min(end, length)
        if first >= last:
            return "N" * (end - start)
        inside = _letters(self._bytes, self._contigs[contig], first, last).tobytes().decode("ascii").upper()
        return "N" * (first - start) + inside + "N" * (end - last)

    def overreach_bp(self, width_bp: int) -> int:
        """Return by how many bases, at most, intervals of a width hold more than theirs: see Haplotype."""
        return 0

    def _checked_width(self, contig: str, start: int, end: int) -> int:
        if contig not in self._contigs:
            raise InputError(f"{self.path}: no contig {contig!r}{suggest_names(contig, self._contigs)}")
        if start > end:
            raise InputError(f"{self.path}: interval {contig}:{start}-{end} starts after its end")
        return end - start


def check_same_genome(
    reference: Reference,
    contig_lengths: Mapping[str, int],
    contig_digests: Mapping[str, str],
    digest: str,
    *,
    what: str,
) -> None:
    """Check that `what` (a dataset, a model) was made with the genome of `reference`.

    A FASTA that holds more contigs beside the same ones is the same genome: all coordinates agree.
    Raises InputError that names the file and the first contigs that are missing, longer or shorter, or other.
    """
    if digest == reference.digest:
        return
    differing = []
    for name, length in contig_lengths.items():
        if name not in reference.contig_lengths:
            differing.append(f"{name} is missing")
        elif reference.contig_lengths[name] != length:
            differing.append(f"{name} has {reference.contig_lengths[name]} bases instead of {length}")
        elif reference.contig_digests[name] != contig_digests.get(name):
            differing.append(f"{name} has the same length but other bases")
    if not differing and len(reference.contig_lengths) == len(contig_lengths):
        raise InputError(
            f"{what}: its genome digest {digest[:16]} does not fit its own contigs, "
            f"which are those of {reference.path}; the card was changed by hand or by an error: make it again"
        )
    if differing:
        more = f" (and {len(differing) - 3} more)" if len(differing) > 3 else ""
        raise InputError(
            f"{reference.path} is not the genome of {what}: {'; '.join(differing[:3])}{more}; "
            f"give the FASTA file that {what} was made with"
        )


def _prepared(fasta: Path, cache_dir: Path) -> Path:
    """Return the cache folder of a FASTA file, made now if it is not there or not whole."""
    check_is_file(fasta, wanted="a FASTA file")
    stat = fasta.stat()
    key = hashlib.sha256(f"{fasta.absolute()}\t{stat.st_size}\t{stat.st_mtime_ns}".encode()).hexdigest()[:16]
    folder = cache_dir / "genomes" / f"{fasta.name.split('.')[0]}-{key}"
    if _is_ready(folder):
        return folder
    try:
        with _one_at_a_time(folder.parent):
            if not _is_ready(folder):  # another process may have made it meanwhile
                with folder_written_whole(folder) as aside:
                    _prepare(fasta, aside)
    except OSError as error:
        raise InputError(
            f"{fasta}: cannot be prepared in the cache folder {cache_dir} ({error}); make the one readable and "
            "the other writable, or name another cache folder in the environment variable CISRAY_CACHE"
        ) from error
    return folder


def _is_ready(folder: Path) -> bool:
    path = folder / "contigs.json"
    if not path.exists():
        return False
    index = read_json(path, what="genome index")
    if index.get("format") != _FORMAT:
        return False
    unpacked = folder / "genome.fa"
    return not index["unpacked"] or (unpacked.exists() and unpacked.stat().st_size == index["size"])


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the lock of a cache folder; the system lets it go when the process dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _prepare(fasta: Path, folder: Path) -> None:
    """Write what `Reference` needs of a FASTA file into `folder`."""
    plain = fasta
    if is_gzip(fasta):
        plain = folder / "genome.fa"
        _unpack(fasta, plain)
    with plain.open("rb") as handle:
        start = handle.read(1 << 16).lstrip()
    if not start:
        raise InputError(f"{fasta}: holds no sequence, but a FASTA file was expected here")
    if not start.startswith(b">"):
        raise InputError(
            f"{fasta}: not a FASTA file (it starts with {start[:20]!r}); its first line must start with '>'"
        )
    contigs = _index(plain, folder / "genome.fa.fai", shown=fasta)
    lines = sorted(f"{contig.name}\t{contig.length}\t{contig.md5}\n" for contig in contigs)
    write_json(
        folder / "contigs.json",
        {
            "format": _FORMAT,
            "fasta": str(fasta.absolute()),
            "unpacked": plain != fasta,
            "size": plain.stat().st_size,
            "digest": hashlib.sha256("".join(lines).encode()).hexdigest(),
            "contigs": [list(contig) for contig in contigs],
        },
    )


def _unpack(packed: Path, plain: Path) -> None:
    advice = "copy or download it again"
    if lacks_bgzip_end(packed):
        raise InputError(f"{packed}: truncated (the end block of a bgzip file is missing); {advice}")
    try:
        with open_unpacked(packed) as source, plain.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except GZIP_ERRORS as error:
        raise InputError(f"{packed}: truncated or damaged gzip file ({error}); {advice}") from error


def _index(plain: Path, index_path: Path, *, shown: Path) -> list[_Contig]:
    """Index a plain FASTA file with pyfaidx, check the index against every byte, and digest every contig."""
    try:
        faidx = pyfaidx.Faidx(str(plain), indexname=str(index_path))
    except (ValueError, RuntimeError, pyfaidx.FastaIndexingError, pyfaidx.UnsupportedCompressionFormat) as error:
        # pyfaidx quotes the path it was given, which may be the temporary one, and asks for a report to its authors
        told = str(error).replace(str(plain), shown.name).partition("Please report")[0]
        if "Duplicate key" in told:
            raise InputError(f"{shown}: two contigs have one name ({told}); rename or drop one") from error
        raise InputError(
            f"{shown}: not a readable FASTA file ({told}); remove blank lines, and wrap all others alike"
        ) from error
    rows = [(name, row.rlen, row.offset, row.lenc, row.lenb) for name, row in faidx.index.items()]
    faidx.close()
    data = _map(plain)
    return [_digested(data, _Contig(*row, md5=""), shown=shown) for row in rows]


def _digested(data: NDArray[np.uint8], contig: _Contig, *, shown: Path) -> _Contig:
    """Return the contig with its digest; raises InputError for a line or a letter that does not belong."""
    if contig.length == 0:
        raise InputError(
            f"{shown}: contig {contig.name!r} has no bases; the file is truncated or holds an empty record"
        )
    digest, length = hashlib.md5(usedforsecurity=False), 0
    for start in range(0, contig.length, _CHUNK_BP):
        end = min(start + _CHUNK_BP, contig.length)
        letters = _letters(data, contig, start, end).tobytes()
        if strange := letters.translate(None, _DNA_LETTERS):
            raise InputError(
                f"{shown}: contig {contig.name!r} holds {strange[:1]!r} within bases {start}-{end}, "
                "which is no nucleotide; a FASTA file of DNA was expected here"
            )
        length += len(letters)
        digest.update(letters.upper())
    # pyfaidx lets a last line pass that is longer than the others, and then reads the wrong bases
    if length != contig.length or not _lines_are_even(data, contig):
        raise InputError(f"{shown}: lines of contig {contig.name!r} differ in length; wrap the FASTA file evenly")
    return contig._replace(md5=digest.hexdigest())


def _lines_are_even(data: NDArray[np.uint8], contig: _Contig) -> bool:
    """Tell whether line ends stand where the index has them, all whole lines at once."""
    whole = contig.length // contig.line_bases
    if whole * contig.line_bases == contig.length:
        whole -= 1  # the last line's end may be missing at the end of the file
    lines = data[contig.offset : contig.offset + whole * contig.line_bytes].reshape(whole, contig.line_bytes)
    return bool(np.isin(lines[:, contig.line_bases :], list(_NEWLINES)).all())


def _letters(data: NDArray[np.uint8], contig: _Contig, start: int, end: int) -> NDArray[np.uint8]:
    """Return the bytes [end-start] of an interval that is not empty and lies within the contig."""
    first, last = (
        contig.offset + base // contig.line_bases * contig.line_bytes + base % contig.line_bases
        for base in (start, end - 1)
    )
    raw = data[first : last + 1]
    return raw[(raw != _NEWLINES[0]) & (raw != _NEWLINES[1])]


def _map(path: Path) -> NDArray[np.uint8]:
    # a plain array over the map: slicing np.memmap itself costs microseconds
    return np.asarray(np.memmap(path, np.uint8, mode="r"))
