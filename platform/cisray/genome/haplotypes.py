"""Read a genome with one sample's variants in place of the reference's bases, in the reference's coordinates."""

import bisect
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from cisray.config import STRICT, data_path, data_root
from cisray.errors import InputError
from cisray.genome.contigs import map_contigs
from cisray.genome.genotypes import Carried, Fate, UnphasedRule, read_carried
from cisray.genome.intervals import Interval
from cisray.genome.ranges import join_ranges
from cisray.genome.reference import Reference
from cisray.genome.sequence import BASE_CODES, UNKNOWN
from cisray.genome.variants import variant_contigs


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HaplotypeSpec:
    """Whose variants, on which haplotype, and what becomes of those that do not fit."""

    variants: str
    """VCF or BCF below data_dir; a VCF may be plain, gzip or bgzip."""
    sample: str | None = None
    """The sample's column; None for a file without samples, each record of which then gives its first ALT."""
    haplotype: Literal[1, 2] = 1
    """The allele of a phased genotype a|b that is read; all phased records of a contig are taken as one phase set."""
    indels: Literal["skip", "apply"] = "skip"
    """"skip" leaves the reference's bases there; "apply" shifts what lies beside them, see Haplotype.codes."""
    unphased: UnphasedRule = "refuse"
    """A heterozygous genotype without phase is an error, or gives the reference, or its first allele that is not."""
    failed: Literal["skip", "apply"] = "skip"
    """Records whose FILTER is neither PASS nor "."."""

    def __post_init__(self) -> None:
        if self.sample == "":
            raise InputError("sample is empty; name a column of the variants, or leave it out if they have none")


class Haplotype:
    """The bases of one haplotype of one sample: read like a `Reference`, as cheap to pickle.

    Every worker that unpickles one reads the variants again. A contig without variants is the reference's.
    """

    def __init__(self, reference: Reference, spec: HaplotypeSpec, data_dir: str | None = None) -> None:
        self.reference = reference
        self.spec = spec
        self.path = data_path(spec.variants, data_dir)
        """The file of variants."""
        self._data_dir = data_root(data_dir)  # a worker may have another environment
        self.contig_lengths: dict[str, int] = reference.contig_lengths
        """Bases of each contig of the reference, whose coordinates these are."""
        self._edits, self.counts = _load_edits(self.path, reference, spec)
        """`counts`: records by what became of them; all together they are the records of the file."""
        self.contig_digests: dict[str, str] = {
            contig: _digest(self._edits[contig], md5) if contig in self._edits else md5
            for contig, md5 in reference.contig_digests.items()
        }
        """The reference's MD5, or for a contig with variants the SHA-256 of that and of all that was replaced."""
        lines = sorted(f"{name}\t{self.contig_lengths[name]}\t{one}\n" for name, one in self.contig_digests.items())
        self.digest: str = hashlib.sha256("".join(lines).encode()).hexdigest()
        """SHA-256 of all names, lengths and digests of contigs, in hex, whatever their order."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Haplotype, (self.reference, self.spec, self._data_dir)

    def codes(self, contig: str, start: int, end: int) -> NDArray[np.uint8]:
        """Return the codes [end-start] of an interval, N (4) beyond both ends of the haplotype's contig.

        With indels the interval stays as wide as it is: it is read outward from its centre base
        (start + width // 2; if that is deleted, the next that is not), so that all bases are the haplotype's.
        A base at distance d from the centre then stands where the reference has it, less the net length of the
        indels between the two: that is how far off a target's bin may be. So read every window by itself: a
        part of a longer interval's codes is not the codes of the part.
        """
        edits = self._edits.get(contig)
        if edits is None:
            return self.reference.codes(contig, start, end)
        window = Interval(contig, start, end)
        first = edits.position_of(window.center) - window.width // 2  # in the haplotype, like `written`
        of_written = slice(*np.searchsorted(edits.written, [first, first + window.width]))
        is_written = np.zeros(window.width, bool)
        is_written[edits.written[of_written] - first] = True
        codes = np.empty(window.width, np.uint8)
        codes[is_written] = edits.codes[of_written]
        kept_first = first - of_written.start  # kept bases are those that no variant replaces, counted from 0
        kept_last = kept_first + window.width - int(is_written.sum()) - 1
        if kept_first <= kept_last:
            lowest, highest = edits.reference_position_of(kept_first), edits.reference_position_of(kept_last)
            is_kept = np.ones(highest + 1 - lowest, bool)
            is_kept[edits.replaced[slice(*np.searchsorted(edits.replaced, [lowest, highest]))] - lowest] = False
            codes[~is_written] = self.reference.codes(contig, lowest, highest + 1)[is_kept]
        return codes

    def overreach_bp(self, width_bp: int) -> int:
        """Return by how many bases, at most, intervals of this width hold more than theirs: deletions draw them in."""
        return max((edits.overreach_bp(-(-width_bp // 2)) for edits in self._edits.values()), default=0)


class _Edits(NamedTuple):
    """What the variants of one contig replace by what, base by base, everything in order."""

    replaced: NDArray[np.int64]
    """Positions of the reference, [R]."""
    anchor: NDArray[np.int64]
    """Position of the haplotype that stands for each of them: that of the base after it if it is deleted, [R]."""
    written: NDArray[np.int64]
    """Positions of the haplotype, [K]."""
    codes: NDArray[np.uint8]
    """What stands there, [K]."""
    kept_before_replaced: NDArray[np.int64]
    """How many bases before it are not replaced, [R]."""
    kept_before_written: NDArray[np.int64]
    """The same for what is written, [K]."""

    def position_of(self, base: int) -> int:
        """Return where in the haplotype a position of the reference lies."""
        index = int(np.searchsorted(self.replaced, base))
        if index < len(self.replaced) and self.replaced[index] == base:
            return int(self.anchor[index])
        kept = base - index
        return kept + int(np.searchsorted(self.kept_before_written, kept, side="right"))

    def reference_position_of(self, kept: int) -> int:
        """Return the position in the reference of the base that has `kept` bases before it that are not replaced."""
        return kept + int(np.searchsorted(self.kept_before_replaced, kept, side="right"))

    def overreach_bp(self, half_bp: int) -> int:
        """Return by how many bases less, at most, some `half_bp` beside each other are than what they stand for."""
        change = np.unique(np.r_[self.kept_before_replaced, self.kept_before_written])
        written = np.searchsorted(self.kept_before_written, change, side="right")
        net = np.r_[0, written - np.searchsorted(self.kept_before_replaced, change, side="right")]
        is_indel = net[1:] != net[:-1]
        # between two indels lies a stretch of one shift: where in the haplotype each begins, and the one before it ends
        begin = (change + written)[is_indel]
        end = (change - 1 + np.searchsorted(self.kept_before_written, change, side="left"))[is_indel]
        net = np.r_[0, net[1:][is_indel]]
        most = 0
        for lag in range(1, len(net)):
            near = begin[lag - 1 :] - end[: len(end) - lag + 1] <= half_bp + 1
            if not near.any():
                break
            most = max(most, int((net[:-lag] - net[lag:])[near].max()))
        return most


def _load_edits(path: Path, reference: Reference, spec: HaplotypeSpec) -> tuple[dict[str, _Edits], dict[str, int]]:
    """Read the variants; return the edits of each contig that has any, and the records by their fate."""
    found = read_carried(
        path,
        sample=spec.sample,
        haplotype=spec.haplotype,
        unphased=spec.unphased,
        with_failed=spec.failed == "apply",
    )
    lengths = variant_contigs(path)
    names = map_contigs({name: lengths.get(name) for name in found}, reference.contig_lengths, source=str(path)).names
    if not names:
        raise InputError(
            f"{path}: no record lies on a contig of {reference.path}, but on {', '.join(list(found)[:5])}; "
            "give the FASTA file that the variants were called with"
        )
    counts: Counter[Fate] = Counter()
    edits = {}
    for name, carried in found.items():
        if name not in names:
            counts[Fate.CONTIG_NOT_IN_GENOME] += carried.others.total() + len(carried.pos)
            continue
        if carried.refusal:
            raise InputError(carried.refusal)
        made, fate = _make_edits(carried, names[name], reference, source=path, with_indels=spec.indels == "apply")
        counts.update(carried.others)
        counts.update({each: int((fate == each).sum()) for each in Fate})
        if len(made.replaced) or len(made.written):
            edits[names[name]] = made
    return edits, {fate.label: counts[fate] for fate in Fate}


def _make_edits(
    carried: Carried, contig: str, reference: Reference, *, source: Path, with_indels: bool
) -> tuple[_Edits, NDArray[np.int8]]:
    """Return the edits of a contig's records, and the fate of each record, [M]."""
    fate = carried.fate.copy()
    ref, ref_at, ref_bp = _letters(carried.ref)
    alt, alt_at, alt_bp = _letters(carried.alt)
    start = carried.pos - 1
    unknown = _without_bases(carried, start, ref, ref_bp, contig, reference, source)
    if not with_indels:
        fate[ref_bp != alt_bp] = Fate.INDEL
    # what both alleles share is no edit; starts first, for VCF repeats the base before an indel
    most = np.minimum(ref_bp, alt_bp)
    at_start = _count_shared(ref, alt, ref_at, alt_at, most, step=1)
    at_end = _count_shared(ref, alt, ref_at + ref_bp - 1, alt_at + alt_bp - 1, most - at_start, step=-1)
    start = start + at_start
    replaced_bp, written_bp = ref_bp - at_start - at_end, alt_bp - at_start - at_end
    fate[(replaced_bp == 0) & (written_bp == 0)] = Fate.SAME_AS_REFERENCE
    fate[unknown] = Fate.GENOME_UNKNOWN
    rows = np.flatnonzero(fate <= Fate.APPLIED_WITHOUT_PHASE)
    clashing = rows[_find_overlaps(start[rows], start[rows] + replaced_bp[rows])]
    fate[clashing] = Fate.OVERLAP
    rows = np.setdiff1d(rows, clashing)
    rows = rows[np.lexsort((replaced_bp[rows], start[rows]))]
    start, replaced_bp, written_bp = start[rows], replaced_bp[rows], written_bp[rows]
    shift = np.cumsum(written_bp - replaced_bp) - (written_bp - replaced_bp)  # by the edits before
    replaced, written = join_ranges(start, replaced_bp), join_ranges(start + shift, written_bp)
    # of a replaced base with no written one in its place, the base after the edit stands for it
    within = np.minimum(join_ranges(np.zeros_like(start), replaced_bp), np.repeat(written_bp, replaced_bp))
    edits = _Edits(
        replaced=replaced,
        anchor=np.repeat(start + shift, replaced_bp) + within,
        written=written,
        codes=alt[join_ranges(alt_at[rows] + at_start[rows], written_bp)],
        kept_before_replaced=replaced - np.arange(len(replaced)),
        kept_before_written=written - np.arange(len(written)),
    )
    return edits, fate


def _letters(alleles: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Return the codes of all alleles in one row, and where each begins and how long it is, [M]."""
    large = alleles.cast(pa.large_string())
    _, offsets, letters = large.buffers()
    bounds = np.frombuffer(offsets, np.int64)[large.offset : large.offset + len(large) + 1]
    used = b"" if letters is None else letters[bounds[0] : bounds[-1]]
    return BASE_CODES[np.frombuffer(used, np.uint8)], bounds[:-1] - bounds[0], np.diff(bounds)


def _without_bases(
    carried: Carried,
    start: NDArray[np.int64],
    ref: NDArray[np.uint8],
    ref_bp: NDArray[np.int64],
    contig: str,
    reference: Reference,
    source: Path,
) -> NDArray[np.int64]:
    """Return the rows where the genome has other letters than ACGT; raise InputError where its bases are not REF."""
    length = reference.contig_lengths[contig]
    for row in np.flatnonzero((start < 0) | (start + ref_bp > length))[:1]:
        raise InputError(
            f"{source}: {contig}:{carried.pos[row]}: REF {carried.ref[row]} does not lie within the {length} bases "
            f"that {reference.path} has; give the FASTA file that the variants were called with"
        )
    genome = reference.codes(contig, 0, length)[join_ranges(start, ref_bp)]
    row_of = np.repeat(np.arange(len(start)), ref_bp)
    unknown = np.unique(row_of[genome == UNKNOWN])
    differing = np.setdiff1d(row_of[(genome != ref) & (genome != UNKNOWN)], unknown)
    for row in differing[:1]:
        bases = reference.bases(contig, start[row], start[row] + ref_bp[row])
        raise InputError(
            f"{source}: {contig}:{carried.pos[row]}: REF is {carried.ref[row]}, but {reference.path} has {bases} "
            "there; give the FASTA file that the variants were called with"
        )
    return unknown


def _count_shared(
    ref: NDArray[np.uint8],
    alt: NDArray[np.uint8],
    ref_at: NDArray[np.int64],
    alt_at: NDArray[np.int64],
    most: NDArray[np.int64],
    *,
    step: int,
) -> NDArray[np.int64]:
    """Count for each pair of alleles the bases they share, going by `step` from a base of each, [M]."""
    shared = np.zeros_like(most)
    open_rows = np.flatnonzero(most > 0)
    while len(open_rows):
        far = step * shared[open_rows]
        open_rows = open_rows[ref[ref_at[open_rows] + far] == alt[alt_at[open_rows] + far]]
        shared[open_rows] += 1
        open_rows = open_rows[shared[open_rows] < most[open_rows]]
    return shared


def _find_overlaps(start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the edits that replace a base which an earlier one replaces, or insert in it or where it inserts.

    Only where intervals, or insertions, meet do edits have to be looked at one after the other.
    """
    order = np.lexsort((end, start))
    reach = np.maximum.accumulate(end[order])
    # edits that only touch come into one group too, which does no harm
    bounds = np.r_[0, np.flatnonzero(start[order][1:] > reach[:-1]) + 1, len(order)]
    clashing: list[int] = []
    for group in np.flatnonzero(np.diff(bounds) > 1):
        taken: list[tuple[int, int]] = []  # sorted, so that only neighbours can meet
        for row in np.sort(order[bounds[group] : bounds[group + 1]]):
            edit = (int(start[row]), int(end[row]))
            at = bisect.bisect_left(taken, edit)
            if any(_overlap(edit, other) for other in taken[max(at - 1, 0) : at + 1]):
                clashing.append(row)
            else:
                taken.insert(at, edit)
    return np.array(clashing, np.int64)


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one == other or (one[0] < other[1] and other[0] < one[1])


def _digest(edits: _Edits, reference_md5: str) -> str:
    digest = hashlib.sha256(reference_md5.encode())
    for column in (edits.replaced, edits.written, edits.codes):
        digest.update(f"{len(column)}\t".encode())
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()
