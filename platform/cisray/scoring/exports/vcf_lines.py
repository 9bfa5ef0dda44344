"""The lines of a VCF as they are, and whether they lie in the order that an index needs."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pysam

from cisray.errors import InputError
from cisray.files import written_whole
from cisray.genome.compression import GZIP_ERRORS, open_unpacked

BCF_MAGIC = b"BCF"
# a .tbi index reaches twice as far, which leaves room for long alleles; a .csi index has no end
LARGEST_TBI_BP = 2**28


@dataclass
class SortWatch:
    """Whether the records seen so far lie in the order that an index needs."""

    is_sorted: bool = True
    largest_pos: int = 0
    contigs: set[str] = field(default_factory=set)
    last: tuple[str, int] = ("", 0)
    disorder: str | None = None
    """The first two records that do not, in words."""

    def see(self, contig: str, pos: int) -> None:
        """Take in the next record."""
        if contig == self.last[0]:
            follows = pos >= self.last[1]
        else:
            follows = contig not in self.contigs
            self.contigs.add(contig)
        if self.is_sorted and not follows:
            self.is_sorted = False
            self.disorder = f"{contig}:{pos} comes after {self.last[0]}:{self.last[1]}"
            if contig != self.last[0]:
                self.disorder += f", and records of {contig} before that"
        self.largest_pos = max(self.largest_pos, pos)
        self.last = (contig, pos)


def vcf_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a VCF as they are, plain or compressed, and those of a BCF as htslib writes them.

    Raises InputError for a missing file and for one that cannot be read to its end.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file, but the VCF that was scored was expected here")
    try:
        with open_unpacked(path) as handle:
            is_bcf = handle.read(len(BCF_MAGIC)) == BCF_MAGIC
        if is_bcf:
            with pysam.VariantFile(str(path)) as bcf:
                yield from str(bcf.header).splitlines(keepends=True)
                yield from map(str, bcf)
        else:
            with open_unpacked(path) as handle:
                for line in handle:
                    yield line.decode("utf-8", errors="surrogateescape")  # any bytes pass through
    except (*GZIP_ERRORS, OSError) as error:
        raise InputError(f"{path}: not readable to its end ({error}); copy or make it again") from error


def to_bytes(line: str) -> bytes:
    """Return a line as the bytes that `vcf_lines` read."""
    return line.encode("utf-8", errors="surrogateescape")


def write_index(path: Path, watch: SortWatch) -> Path | None:
    """Index a bgzipped VCF if its records are sorted."""
    if not watch.is_sorted:
        return None
    needs_csi = watch.largest_pos >= LARGEST_TBI_BP
    index_path = path.with_name(path.name + (".csi" if needs_csi else ".tbi"))
    with written_whole(index_path) as aside:
        pysam.tabix_index(str(path), preset="vcf", force=True, csi=needs_csi, index=str(aside))
    return index_path


def drop_indexes(path: Path) -> None:
    """Remove the indexes of an older file of this name."""
    for suffix in (".tbi", ".csi"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
