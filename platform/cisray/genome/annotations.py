"""Read the lines of an annotation, GTF or GFF3, that say what a gene is: what genome.genes makes genes of."""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from cisray.errors import InputError
from cisray.genome.compression import GZIP_ERRORS, check_bgzip_end, check_is_file, open_unpacked

_EXON, _CODING = "exon", ("CDS", "five_prime_UTR", "three_prime_UTR", "UTR", "5UTR", "3UTR")
_GTF_LINES = frozenset(("gene", "transcript", _EXON, *_CODING))
_GTF_KEY = r'(?:^|;)\s*(?:{})\s+"?([^";]*)'
_GTF_ID, _GTF_NAME, _GTF_BIOTYPE = (
    re.compile(_GTF_KEY.format(keys)) for keys in ("gene_id", "gene_name", "gene_biotype|gene_type")
)
_GFF3_PAIR = re.compile(r"\s*[^\s=;\"]+=")
_MOST_LEVELS = 16  # of parents above an exon: a file with more has a ring


class _Line(NamedTuple):
    """A line of the file, 0-based half-open."""

    number: int
    contig: str
    kind: str
    start: int
    end: int
    strand: str
    attributes: str


class GeneLines:
    """What the lines of one gene say, on one strand of one contig, 0-based half-open."""

    __slots__ = ("biotype", "coding", "contig", "end", "exons", "id", "last_line", "name", "start", "strand")

    def __init__(self, gene_id: str, line: _Line) -> None:
        self.id, self.contig, self.strand = gene_id, line.contig, line.strand
        self.name = self.biotype = ""
        self.start, self.end, self.last_line = line.start, line.end, line.number
        self.exons: list[tuple[int, int]] = []
        self.coding: list[tuple[int, int]] = []
        """Of CDS and UTR lines."""

    def add(self, line: _Line) -> None:
        """Take in another line of the gene."""
        self.start = min(self.start, line.start)
        if line.end > self.end:
            self.end, self.last_line = line.end, line.number
        if line.kind == _EXON:
            self.exons.append((line.start, line.end))
        elif line.kind in _CODING:
            self.coding.append((line.start, line.end))


class Annotation(NamedTuple):
    """What a file says about genes, by its own names of contigs."""

    genes: dict[str, list[GeneLines]]
    """By id; more than one entry where a gene lies on several contigs or strands."""
    contigs: dict[str, int | None]
    """Those that genes lie on, with their length where the file tells it."""


def read_annotation(path: Path) -> Annotation:
    """Read a GTF or GFF3 file, plain, gzip or bgzip, told apart by its first line of data.

    Raises:
        InputError: the file is missing, truncated, neither GTF nor GFF3, or without a gene; or a line is not what it
            should be.
    """
    check_is_file(path, wanted="a gene annotation (GTF or GFF3)")
    check_bgzip_end(path)
    try:
        reader = _Reader(path)
    except GZIP_ERRORS as error:
        raise InputError(f"{path}: truncated or damaged gzip file ({error}); copy or make it again") from error
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file; wanted a gene annotation, GTF or GFF3") from None
    if not reader.genes:
        raise InputError(f"{path}: holds no gene; wanted lines of genes, transcripts or exons")
    named = dict.fromkeys(part.contig for parts in reader.genes.values() for part in parts)
    return Annotation(reader.genes, {name: reader.lengths.get(name) for name in named})


class _Reader:
    """Reads a file's lines into genes, by the file's own names of contigs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lengths: dict[str, int] = {}
        self.genes: dict[str, list[GeneLines]] = {}
        lines = self._data_lines()
        first = next(lines, None)
        if first is None:
            raise InputError(f"{path}: holds no line of an annotation; wanted GTF or GFF3")
        number, columns = first
        read: Callable[[Iterator[tuple[int, list[str]]]], None] = self._read_gtf
        if _GFF3_PAIR.match(columns[8]):
            read = self._read_gff3
        elif _GTF_ID.search(columns[8]) is None:
            raise self._error(
                number, f'{columns[8][:60]!r} are the attributes neither of GTF (gene_id "...";) nor of GFF3 (ID=...)'
            )
        read(chain([first], lines))

    def _error(self, number: int, says: str) -> InputError:
        return InputError(f"{self._path}: line {number}: {says}")

    def _data_lines(self) -> Iterator[tuple[int, list[str]]]:
        """Give the number and the nine columns of every line that is not a comment."""
        with open_unpacked(self._path) as handle:
            for number, raw in enumerate(handle, start=1):
                if raw.startswith(b"#"):
                    if raw.startswith(b"##FASTA"):
                        return
                    if raw.startswith(b"##sequence-region"):
                        self._take_length(raw.decode("utf-8").split())
                elif raw.strip():
                    columns = raw.decode("utf-8").rstrip("\r\n").split("\t")
                    if len(columns) != 9:
                        raise self._error(
                            number, f"{len(columns)} columns; wanted the nine of GTF or GFF3, parted by tabs"
                        )
                    yield number, columns

    def _take_length(self, words: list[str]) -> None:
        if len(words) == 4 and words[2] == "1" and words[3].isdigit():
            self.lengths[words[1]] = int(words[3])

    def _parsed(self, number: int, columns: list[str]) -> _Line:
        contig, _, kind, first, last, _, strand, _, attributes = columns
        if not (first.isdecimal() and last.isdecimal()):
            raise self._error(number, f"{first!r} to {last!r} are not positions; wanted first and last base, from 1")
        if not 1 <= int(first) <= int(last):
            raise self._error(
                number, f"{contig}:{first}-{last} holds no base; wanted first and last base, counted from 1"
            )
        return _Line(
            number, contig, kind, int(first) - 1, int(last), strand if strand in ("+", "-") else ".", attributes
        )

    def _add(self, gene_id: str, line: _Line) -> GeneLines:
        """Add a line to its gene, which begins with it if it is the first."""
        places = self.genes.setdefault(gene_id, [])
        for place in places:
            if place.contig == line.contig and place.strand == line.strand:
                place.add(line)
                return place
        places.append(GeneLines(gene_id, line))
        places[-1].add(line)
        return places[-1]

    def _read_gtf(self, lines: Iterator[tuple[int, list[str]]]) -> None:
        for number, columns in lines:
            if columns[2] not in _GTF_LINES:
                continue
            line = self._parsed(number, columns)
            found = _GTF_ID.search(line.attributes)
            if found is None or not found[1]:
                raise self._error(number, f'this {line.kind} names no gene; wanted gene_id "..." among its attributes')
            place = self._add(found[1], line)
            if not place.name:
                place.name = _value(_GTF_NAME, line.attributes)
            if not place.biotype:
                place.biotype = _value(_GTF_BIOTYPE, line.attributes)

    def _read_gff3(self, lines: Iterator[tuple[int, list[str]]]) -> None:
        """Read all lines, then follow each exon's parents, which may stand behind it."""
        parents: dict[str, list[str]] = {}
        roots: dict[str, list[tuple[_Line, dict[str, str]]]] = {}
        parts: list[tuple[list[str], _Line]] = []
        for number, columns in lines:
            line = self._parsed(number, columns)
            pairs = dict(pair.strip().split("=", 1) for pair in line.attributes.split(";") if "=" in pair)
            above = pairs.get("Parent", pairs.get("Derives_from", ""))
            if line.kind == _EXON or line.kind in _CODING:
                if above:
                    parts.append((above.split(","), line))
            elif "ID" in pairs and above:
                parents[pairs["ID"]] = above.split(",")
            elif "ID" in pairs:
                roots.setdefault(pairs["ID"], []).append((line, pairs))
        used = dict.fromkeys(name for name, of_root in roots.items() if of_root[0][0].kind.endswith("gene"))
        tops: dict[str, tuple[str, ...]] = {}
        found = []
        for above_it, line in parts:
            for name in dict.fromkeys(top for parent in above_it for top in self._tops(parent, parents, tops, line)):
                if name not in roots:
                    raise self._error(
                        line.number, f"its parent {name!r} stands nowhere in the file; give the whole annotation"
                    )
                used.setdefault(name)
                found.append((name, line))
        for name in used:
            for line, pairs in roots[name]:
                place = self._add(unquote(name), line)
                place.name = unquote(pairs.get("Name", pairs.get("gene_name", pairs.get("gene", ""))))
                place.biotype = pairs.get("gene_biotype", pairs.get("gene_type", pairs.get("biotype", "")))
        for name, line in found:
            self._add(unquote(name), line)

    def _tops(
        self, name: str, parents: Mapping[str, list[str]], known: dict[str, tuple[str, ...]], line: _Line
    ) -> tuple[str, ...]:
        """Return what stands above a feature and has no parent itself."""
        if name not in known:
            level, seen = [name], 0
            while any(each in parents for each in level):
                level = list(dict.fromkeys(above for each in level for above in parents.get(each, [each])))
                seen += 1
                if seen > _MOST_LEVELS:
                    raise self._error(line.number, f"its parents, from {name!r} on, have no end; mend the file")
            known[name] = tuple(level)
        return known[name]


def _value(pattern: re.Pattern[str], attributes: str) -> str:
    found = pattern.search(attributes)
    return found[1] if found else ""
