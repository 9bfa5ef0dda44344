"""Report what splits have in common: bases they share by sequence or by alignment, and bases they both read."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from itertools import permutations, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.datasets.loci.draws import mix
from cisray.datasets.loci.folds import SPLITS, Region, Split
from cisray.datasets.loci.homology import cut_blocks, layers
from cisray.datasets.loci.tiling import Shard
from cisray.errors import InputError
from cisray.genome.alignments import Extent, read_alignments
from cisray.genome.bed import merge_intervals, overlap_bp
from cisray.genome.intervals import Interval
from cisray.genome.sequence import UNKNOWN
from cisray.geometry import Geometry

Codes = Callable[[str, int, int], NDArray[np.uint8]]
"""Returns the codes [end-start] of contig, start and end."""
_AT_ONCE_BP = 1 << 20  # bases hashed at once, which bounds memory
_MOST_PENDING = 1 << 20  # intervals gathered before they are merged, likewise


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SketchSpec:
    """How sequence that splits share is estimated."""

    k: int = 31
    """Bases of a word; odd, so that no word is its own reverse complement, and at most 31."""
    max_words: int = 4_000_000
    """Words kept of all regions together; one in so many is sampled that about this many are left."""
    stretch_bp: int = 100_000
    """Length of the stretches among which those that share most are looked for."""
    num_worst: int = 20
    """How many of them are reported."""

    def __post_init__(self) -> None:
        if not (1 <= self.k <= 31 and self.k % 2):
            raise InputError(f"leakage: k={self.k}; wanted an odd number of bases, at most 31")
        if min(self.max_words, self.stretch_bp, self.num_worst) < 1:
            raise InputError(
                f"leakage: max_words={self.max_words}, stretch_bp={self.stretch_bp}, num_worst={self.num_worst}; "
                "wanted positive numbers"
            )


@plain_dataclass(frozen=True, kw_only=True)
class SharedSequence:
    """Bases of one split where a word begins that occurs, on either strand, in another split too."""

    split: Split
    other: Split
    shared_bp: int
    """Estimated; a copy of L bases counts L - k + 1."""
    standard_error_bp: int
    """Of the sampling; 0 where every word was looked at."""
    fraction: float
    """Of the split's bases where a word without N begins."""


@plain_dataclass(frozen=True, kw_only=True)
class SharingStretch:
    """A stretch that shares much sequence with another split."""

    region: str
    split: Split
    other: Split
    """The split it shares most with."""
    shared_bp: int
    fraction: float


@plain_dataclass(frozen=True, kw_only=True)
class SequenceLeakage:
    """What the splits of a genome share by sequence; plain values."""

    k: int
    sampled_one_in: int
    num_words: int
    """Words that were kept."""
    pairs: list[SharedSequence]
    worst: list[SharingStretch]


@plain_dataclass(frozen=True, kw_only=True)
class AlignedBases:
    """Bases of the target genome's split that are aligned with the query genome's, and the other way round."""

    target_split: Split
    query_split: Split
    target_bp: int
    """Bases of the target's split, each counted once."""
    target_fraction: float
    """Of the target's split."""
    query_bp: int
    query_fraction: float


@plain_dataclass(frozen=True, kw_only=True)
class AlignmentLeakage:
    """What the splits of two genomes share by alignment; plain values."""

    pairs: list[AlignedBases]
    """All pairs of splits; where the two are one, nothing leaks."""
    leaked_bp: int
    """Bases of the target genome that are aligned with another split of the query genome."""
    skipped: int
    """Alignments on contigs that a genome lacks."""


@plain_dataclass(frozen=True, kw_only=True)
class ReadBases:
    """Bases of another split's regions that windows of a split read, margins included, each counted once."""

    split: Split
    other: Split
    read_bp: int


DEFAULT_SKETCH = SketchSpec()


def shared_sequence(regions: Sequence[Region], codes: Codes, *, spec: SketchSpec = DEFAULT_SKETCH) -> SequenceLeakage:
    """Estimate from a sample of words which bases of every split occur in another one.

    Words are sampled by a fixed hash (FracMinHash), so that the same word is kept, or not, wherever it occurs.
    Memory goes with `spec.max_words`, not with the genome. Regions of one split that overlap count twice.
    """
    one_in = max(1, -(-sum(region.interval.width for region in regions) // spec.max_words))
    stretches = [
        region._replace(interval=Interval(contig, start, min(start + spec.stretch_bp, end)))
        for region in regions
        for contig, first, end in [(region.interval.contig, region.interval.start, region.interval.end)]
        for start in range(first, end, spec.stretch_bp)
    ]
    words, owner, num_valid = _sketch(regions, codes, spec=spec, one_in=one_in)
    split_of = np.array([SPLITS.index(stretch.split) for stretch in stretches], np.int64)
    split = split_of[owner]
    kept = np.bincount(split, minlength=len(SPLITS))
    valid = np.bincount(split_of, weights=num_valid, minlength=len(SPLITS))
    known, word = np.unique(words, return_inverse=True)
    copies = np.stack([np.bincount(word[split == index], minlength=len(known)) for index in range(len(SPLITS))])
    shared = np.zeros((len(stretches), len(SPLITS)), np.int64)  # sampled words of a stretch that another split has
    pairs = []
    for (one, name), (two, other) in permutations(enumerate(SPLITS), 2):
        in_both = (copies[one] > 0) & (copies[two] > 0)
        shared[:, two] += np.bincount(owner[(split == one) & in_both[word]], minlength=len(stretches))
        fraction = copies[one, in_both].sum() / max(1, int(kept[one]))
        pairs.append(
            SharedSequence(
                split=name,
                other=other,
                shared_bp=round(fraction * valid[one]),
                standard_error_bp=round(one_in * float(np.sqrt((copies[one, in_both] ** 2).sum() * (1 - 1 / one_in)))),
                fraction=float(fraction),
            )
        )
    words_in = np.bincount(owner, minlength=len(stretches))
    worst = _worst(stretches, shared, words_in, num_valid, num_worst=spec.num_worst)
    return SequenceLeakage(k=spec.k, sampled_one_in=one_in, num_words=len(words), pairs=pairs, worst=worst)


def aligned_bases(
    path: Path,
    target: tuple[Sequence[Region], Mapping[str, int]],
    query: tuple[Sequence[Region], Mapping[str, int]],
    *,
    extent: Extent = "blocks",
    min_span_bp: int = 0,
    min_score: int = 0,
) -> AlignmentLeakage:
    """Count the bases that a chain or net file aligns between the regions (and contig lengths) of two genomes.

    Raises:
        InputError: the file is missing, damaged, or of another assembly.
    """
    skipped: Counter[str] = Counter()
    sides = (target[0], query[0])
    split_of = [np.array([SPLITS.index(region.split) for region in regions], np.int64) for regions in sides]
    unions = [[[_Union() for _ in SPLITS] for _ in SPLITS] for _ in sides]
    leaked = _Union()
    numbered = [layers([region.interval for region in regions]) for regions in sides]
    found = read_alignments(path, extent=extent, min_span_bp=min_span_bp, min_score=min_score)
    for one in cut_blocks(found, *numbered, lengths=(target[1], query[1]), source=path, skipped=skipped):
        on_target, on_query = split_of[0][one.target_number], split_of[1][one.query_number]
        leaked.add(one.target, one.target_start[on_target != on_query], one.target_end[on_target != on_query])
        for key in np.unique(on_target * len(SPLITS) + on_query).tolist():
            first, second = divmod(key, len(SPLITS))
            rows = (on_target == first) & (on_query == second)
            unions[0][first][second].add(one.target, one.target_start[rows], one.target_end[rows])
            unions[1][first][second].add(one.query, one.query_start[rows], one.query_end[rows])
    given = [
        {split: sum(r.interval.width for r in regions if r.split == split) for split in SPLITS} for regions in sides
    ]
    pairs = []
    for (first, target_split), (second, query_split) in product(enumerate(SPLITS), repeat=2):
        target_bp, query_bp = unions[0][first][second].num_bases, unions[1][first][second].num_bases
        pairs.append(
            AlignedBases(
                target_split=target_split,
                query_split=query_split,
                target_bp=target_bp,
                target_fraction=target_bp / max(1, given[0][target_split]),
                query_bp=query_bp,
                query_fraction=query_bp / max(1, given[1][query_split]),
            )
        )
    return AlignmentLeakage(pairs=pairs, leaked_bp=leaked.num_bases, skipped=skipped.total())


def read_across(shards: Sequence[Shard], regions: Sequence[Region], geometry: Geometry) -> list[ReadBases]:
    """Count the bases of other splits' regions that the stored windows of a split hold, as context if nothing else.

    It is 0 where windows are laid over regions; listed windows may reach into their neighbours.
    """
    read = {split: _Union() for split in SPLITS}
    for shard in shards:
        starts = np.array(shard.starts, np.int64)
        first = starts - geometry.margin_bp
        read[shard.split].add(shard.contig, first, first + geometry.stored_bp)
    rows = {split: layers([region.interval for region in regions if region.split == split]) for split in SPLITS}
    return [
        ReadBases(
            split=split,
            other=other,
            read_bp=sum(
                int(overlap_bp(*read[split].spans(contig), of_start=layer.start, of_end=layer.end).sum())
                for contig, layer in rows[other].items()
            ),
        )
        for split, other in permutations(SPLITS, 2)
    ]


class _Union:
    """Bases that lie in any of the intervals that were added; merged now and then, which bounds memory."""

    def __init__(self) -> None:
        self._parts: dict[str, list[tuple[NDArray[np.int64], NDArray[np.int64]]]] = {}
        self._pending: dict[str, int] = {}

    def add(self, contig: str, start: NDArray[np.int64], end: NDArray[np.int64]) -> None:
        """Add intervals of a contig, in any order."""
        self._parts.setdefault(contig, []).append((start, end))
        self._pending[contig] = self._pending.get(contig, 0) + len(start)
        if self._pending[contig] > _MOST_PENDING:
            self.spans(contig)

    def spans(self, contig: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the contig's merged intervals."""
        none = np.zeros(0, np.int64)
        parts = self._parts.get(contig, [(none, none)])
        start, end = (np.concatenate(side) for side in zip(*parts, strict=True))
        order = np.argsort(start, kind="stable")
        merged = merge_intervals(start[order], end[order])
        self._parts[contig], self._pending[contig] = [merged], 0
        return merged

    @property
    def num_bases(self) -> int:
        return sum(int((end - start).sum()) for start, end in map(self.spans, list(self._parts)))


def _sketch(
    regions: Sequence[Region], codes: Codes, *, spec: SketchSpec, one_in: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the hashes of sampled words, the stretch that each begins in, and per stretch the words without N."""
    words, owner, num_valid = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    num_stretches = 0
    for region in regions:
        contig, start, end = region.interval.contig, region.interval.start, region.interval.end
        valid_in = np.zeros(-(-(end - start) // spec.stretch_bp), np.int64)
        for first in range(start, end, _AT_ONCE_BP):
            last = min(first + _AT_ONCE_BP + spec.k - 1, end)
            hashes, valid = word_hashes(codes(contig, first, last), spec.k)
            stretch = (first - start + np.arange(len(hashes))) // spec.stretch_bp
            valid_in += np.bincount(stretch[valid], minlength=len(valid_in))
            sampled = valid & (hashes <= np.uint64((1 << 64) // one_in - 1))
            words.append(hashes[sampled])
            owner.append(num_stretches + stretch[sampled])
        num_stretches += len(valid_in)
        num_valid.append(valid_in)
    return np.concatenate(words), np.concatenate(owner), np.concatenate(num_valid)


def word_hashes(codes: NDArray[np.uint8], k: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Return a hash of every word of `k` bases, equal for both strands, and whether it is free of N, [L-k+1] each."""
    count = max(0, len(codes) - k + 1)
    unknown = np.concatenate([[0], np.cumsum(codes == UNKNOWN)])
    valid = unknown[k : k + count] == unknown[:count]
    base = (codes & 3).astype(np.uint64)
    forward, backward = _words(base, k, newest_last=True), _words(np.uint64(3) - base, k, newest_last=False)
    return mix(np.minimum(forward, backward)[:count]), valid


def _words(base: NDArray[np.uint64], k: int, *, newest_last: bool) -> NDArray[np.uint64]:
    """Return the word of `k` bases that begins at every base, two bits each, by doubling words of 1, 2, 4 ... bases.

    The first base stands in the highest bits if `newest_last`, otherwise in the lowest.
    """

    def join(left: NDArray[np.uint64], left_k: int, right: NDArray[np.uint64], right_k: int) -> NDArray[np.uint64]:
        count = max(0, min(len(left), len(right) - left_k))
        left, right = left[:count], right[left_k : left_k + count]
        if newest_last:
            return (left << np.uint64(2 * right_k)) | right
        return (right << np.uint64(2 * left_k)) | left

    word, length = base, 1  # words of a power of two bases
    whole, whole_k = np.zeros(len(base) + 1, np.uint64), 0
    while True:
        if k & length:
            whole, whole_k = (join(whole, whole_k, word, length), whole_k + length)
        if 2 * length > k:
            return whole
        word, length = join(word, length, word, length), 2 * length


def _worst(
    stretches: Sequence[Region],
    shared: NDArray[np.int64],
    num_words: NDArray[np.int64],
    num_valid: NDArray[np.int64],
    *,
    num_worst: int,
) -> list[SharingStretch]:
    """Return the stretches with most bases shared with one other split, most first."""
    fraction = shared / np.maximum(num_words, 1)[:, None]  # [stretches, splits]
    bases = fraction * num_valid[:, None]
    most = bases.max(axis=1, initial=0)
    return [
        SharingStretch(
            region=str(stretches[row].interval),
            split=stretches[row].split,
            other=SPLITS[int(bases[row].argmax())],
            shared_bp=round(float(most[row])),
            fraction=float(fraction[row].max()),
        )
        for row in np.argsort(-most, kind="stable")[:num_worst].tolist()
        if most[row] > 0
    ]
