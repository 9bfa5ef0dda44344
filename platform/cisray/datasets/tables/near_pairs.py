"""Find pairs of sequences that are nearly the same, enough of them to chain every group of such pairs.

Two sequences are near-duplicates if 1 - edits / (length of the longer) is at least `min_identity`. In a small table (up
to some ten thousand rows) all pairs are compared. In a large one pairs are looked for in two ways:

    in place    Sequences are sorted by their bases from position p on, for every p (the positional Burrows-Wheeler
                transform of Durbin 2014). Those that share `seed` bases there are compared base by base.
    shifted     Sequences that share a longer seed at any two positions are compared by edit distance.

Both seeds are as short as the work allows. Two sequences of L bases and d substitutions share a stretch of at least
(L - d) / (d + 1) bases: with a seed no longer than that, no pair is missed; with a longer one, `Search` says how many.
Every link is checked exactly, so that no two sequences are linked by a chance match of seeds. Only links that join two
groups are kept: a family of a thousand mutants costs a thousand links and not a million.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from cisray.genome.ranges import join_ranges
from cisray.genome.sequence import UNKNOWN, reverse_complement

ALL_PAIRS_WORK = 5e9  # squared sequences times bases times words of 64, up to which all pairs are compared: seconds
_WORK = 3e9  # comparisons of 64 bases that choosing a seed may cost, in place: ten seconds
_EDIT_WORK = 1e9  # the same for edit distances, in pairs times bases
_REACH = 256  # neighbours in the order of bases that a sequence is compared with, at least
_SHIFTED_REACH = 64  # the same for shifted seeds: all of up to so many, and fewer neighbours of those of many
_CROWDED_REACH = 32
_PART_SEEDS = 1 << 24  # seeds sorted at once
_CHUNK_PAIRS = 1 << 18  # pairs checked at once
_BLOCK_ROWS = 256  # the same where all pairs are, times all sequences
_BEYOND = 5  # code of a place behind a sequence's end, which differs from N too


class Search(NamedTuple):
    """How near-duplicates were looked for.

    The shares hold for seeds that few sequences have. Of those with a seed that hundreds share, each is compared with
    its nearest neighbours in the order of bases only: a family that large is chained, but for a few of its members.
    """

    seed_bp: int
    """Bases that two sequences must share at one position; 0 where all pairs were compared."""
    shifted_seed_bp: int
    """Bases that they must share at any two positions."""
    found_in_place: float
    """Share of pairs found that differ by as many substitutions, at random places, as allowed: a mean over lengths."""
    found_shifted: float
    """The same share where gaps have moved one against the other."""


NOTHING_MISSED = Search(0, 0, 1.0, 1.0)


def find_links(
    codes: NDArray[np.uint8], lengths: NDArray[np.int64], *, min_identity: float, both_strands: bool
) -> tuple[NDArray[np.int64], Search]:
    """Return links between different sequences, numbers [2, E] that chain all near-duplicates found."""
    links = _Links(len(codes))
    if both_strands:
        codes = np.concatenate([codes, other_strand(codes, lengths)])
        lengths = np.concatenate([lengths, lengths])
    if len(links) * codes.size * -(-codes.shape[1] // 64) <= ALL_PAIRS_WORK:
        _link_all(links, codes, lengths, min_identity=min_identity)
        return links.pairs(), NOTHING_MISSED
    codes = np.where(np.arange(codes.shape[1]) < lengths[:, None], codes, np.uint8(_BEYOND))
    allowed = most_edits(lengths, min_identity)
    length = int(np.median(lengths))
    most = length - int(most_edits(length, min_identity))
    # one base more may allow one edit more, and so ask for a seed half as long: no length is left out
    known, counts = np.unique(lengths, return_counts=True)
    edits = most_edits(known, min_identity)
    seed, shifted_seed = _seeds(codes, least=int((-(-(known - edits) // (edits + 1))).min()), most=most)
    for placed in [codes, _moved(codes, lengths - codes.shape[1])][: 2 if len(np.unique(lengths)) > 1 else 1]:
        _link_in_place(links, placed, allowed, seed)
    links.join()
    _link_shifted(links, codes, lengths, shifted_seed, min_identity=min_identity)
    found = [
        # sequences that may not differ are equal, and were found before
        [_chance_of_run(*each, run) if each[1] else 1.0 for each in zip(known.tolist(), edits.tolist(), strict=True)]
        for run in (seed, shifted_seed)
    ]
    shares = [round(float(np.average(of_lengths, weights=counts)), 6) for of_lengths in found]
    return links.pairs(), Search(seed, shifted_seed, *shares)


def most_edits(length: NDArray[np.int64] | int, min_identity: float) -> NDArray[np.int64]:
    """Return the most edits by which near-duplicates, the longer of this length, differ."""
    return np.floor((1 - min_identity) * np.asarray(length) + 1e-9).astype(np.int64)


def other_strand(codes: NDArray[np.uint8], lengths: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the reverse complements of sequences [M, L] that begin at the left, at the left too."""
    return _moved(reverse_complement(codes), codes.shape[1] - lengths)


def _moved(codes: NDArray[np.uint8], steps: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Move every sequence to the left by its steps, round the end: what was filled up is moved to the other side."""
    if not steps.any():
        return codes
    width = codes.shape[1]
    return np.take_along_axis(codes, (np.arange(width) + steps[:, None]) % width, axis=1)


def components(size: int, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of the connected component of each of `size` things, by pairs that are connected."""
    graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(size, size))
    return connected_components(graph, directed=False)[1].astype(np.int64)


class _Links:
    """Pairs of near-duplicates, and the groups that they make so far."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._label = np.arange(size)
        self._found: list[NDArray[np.int64]] = []
        self._waiting = 0

    def __len__(self) -> int:
        return self._size

    def apart(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which pairs no link has joined yet."""
        return self._label[one % self._size] != self._label[other % self._size]

    def add(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> None:
        """Keep the pairs that join two groups; numbers from `size` on are other strands."""
        new = self.apart(one, other)
        if new.any():
            self._found.append(np.stack([one[new] % self._size, other[new] % self._size]))
            self._waiting += int(new.sum())
            if self._waiting > self._size // 8:
                self.join()

    def join(self) -> None:
        """Bring the groups up to date, and keep no more links than hold them together."""
        one, other = np.concatenate([np.empty((2, 0), np.int64), *self._found], axis=1)
        graph = coo_array((np.ones(len(one)), (one, other)), shape=(self._size, self._size))
        tree = minimum_spanning_tree(graph).tocoo()
        self._found = [np.stack(tree.coords).astype(np.int64)]
        self._label = components(self._size, *self._found[0])
        self._waiting = 0

    def pairs(self) -> NDArray[np.int64]:
        """Return links that hold the groups together, [2, E]."""
        self.join()
        return self._found[0]


def _link_all(links: _Links, codes: NDArray[np.uint8], lengths: NDArray[np.int64], *, min_identity: float) -> None:
    """Link all pairs that are few enough edits apart; other strands are compared with given ones only."""
    texts = [each[:length].tobytes() for each, length in zip(codes, lengths, strict=True)]
    allowed = most_edits(lengths, min_identity)
    for start in range(0, len(links), _BLOCK_ROWS):
        block = slice(start, min(start + _BLOCK_ROWS, len(links)))
        edits = process.cdist(
            texts[block],
            texts[start:],
            scorer=Levenshtein.distance,
            score_cutoff=int(allowed.max()),
            dtype=np.int32,
            workers=1,
        )
        one, other = np.nonzero(edits <= np.maximum.outer(allowed[block], allowed[start:]))
        later = other > one  # each pair once
        links.add(start + one[later], start + other[later])


def _seeds(codes: NDArray[np.uint8], *, least: int, most: int) -> tuple[int, int]:
    """Return the shortest seeds, in place and shifted, of `least` to `most` bases, that keep the work within bounds."""
    num, width = codes.shape
    counts = np.bincount(codes.reshape(-1), minlength=4)[:4].astype(float)
    total = max(1.0, counts.sum())
    alike = float(((counts / total) ** 2).sum())  # the chance that two bases are the same

    def seed(work: float, bound: float) -> int:
        needed = math.log(max(1.0, work / bound)) / -math.log(alike) if 0 < alike < 1 else 0
        return max(1, min(max(least, math.ceil(needed)), most, 31))

    return seed(num**2 * width * -(-width // 64), _WORK), seed(total**2 / 2 * width, _EDIT_WORK)


def _chance_of_run(length: int, edits: int, run: int) -> float:
    """Return the chance that `edits` places out of `length`, drawn at random, leave `run` neighbours untouched."""
    if run > length - edits:
        return 0.0
    ways = sum(
        (-1) ** gaps * math.comb(edits + 1, gaps) * math.comb(length - gaps * run, edits)
        for gaps in range(min(edits + 1, (length - edits) // run) + 1)
    )
    return round(1 - ways / math.comb(length, edits), 6)


def _largest_first(key: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Order places of a sorted key so that long runs of equal values come first; single ones are left out.

    Returns the places, and for each lag from 1 on how many of them are in runs longer than it: within these, each
    place and the one `lag` behind it are of one run, but at the borders of runs.
    """
    start = np.flatnonzero(np.r_[True, key[1:] != key[:-1]]) if len(key) else np.empty(0, np.int64)
    size = np.diff(np.r_[start, len(key)])
    order = np.argsort(-size, kind="stable")
    order = order[size[order] > 1]
    start, size = start[order], size[order]
    ends = np.cumsum(size)
    places = join_ranges(start, size)
    lags = np.arange(1, size[0] if len(size) else 1)
    return places, ends[np.searchsorted(-size, -lags) - 1] if len(size) else lags[:0]


def _link_in_place(links: _Links, codes: NDArray[np.uint8], allowed: NDArray[np.int64], seed: int) -> None:
    """Link sequences that share `seed` bases somewhere and differ in no more than the allowed number of places."""
    num, width = codes.shape
    planes = _bit_planes(codes)
    order = np.arange(num)
    run = np.zeros(num, np.int32)  # known bases from the position on
    key = np.zeros(num, np.int64)
    column = np.ascontiguousarray(codes.T)  # [L, M]
    for position in range(width - 1, -1, -1):
        base = column[position]
        order = order[np.argsort(base[order], kind="stable")]
        run = np.where(base >= UNKNOWN, 0, run + 1).astype(np.int32)
        key = (key >> 2) | ((base & 3).astype(np.int64) << 2 * (seed - 1))
        known = order[run[order] >= seed]
        places, ends = _largest_first(key[known])
        members = known[places]
        sorted_planes, limit = planes[:, :, members], allowed[members]
        reach = max(_REACH, 8 * len(members) >> 2 * seed)
        for lag, end in enumerate(ends[:reach].tolist(), start=1):
            near = _differences(sorted_planes, lag, end) <= np.maximum(limit[: end - lag], limit[lag:end])
            hits = np.flatnonzero(near)
            if len(hits):
                links.add(members[hits], members[hits + lag])


def _bit_planes(codes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the codes' bits, 64 bases a word, uint64 [W, P, M]: two planes, and a third only where there is an N."""
    num, width = codes.shape
    words = -(-width // 64)
    planes = []
    for bit in range(3 if (codes >= UNKNOWN).any() else 2):
        packed = np.zeros((num, words * 8), np.uint8)
        packed[:, : -(-width // 8)] = np.packbits((codes >> bit) & 1, axis=1)
        planes.append(packed.view(np.uint64).T)
    return np.ascontiguousarray(np.stack(planes, axis=1))


def _differences(planes: NDArray[np.uint64], lag: int, end: int) -> NDArray[np.int64]:
    """Count the places where each sequence differs from the one `lag` behind it, [end - lag]."""
    total: NDArray[np.int64] | None = None
    for word in planes:
        differing = word[0, : end - lag] ^ word[0, lag:end]
        for plane in word[1:]:
            differing |= plane[: end - lag] ^ plane[lag:end]
        count = np.bitwise_count(differing)
        total = count if total is None else total + count.astype(np.int32)
    assert total is not None
    return total


def _link_shifted(
    links: _Links, codes: NDArray[np.uint8], lengths: NDArray[np.int64], seed: int, *, min_identity: float
) -> None:
    """Link sequences that share `seed` bases anywhere and are few enough edits apart."""
    for key, member, position in _seed_parts(codes, seed):
        order = np.argsort(key, kind="stable")
        shared = key[order] >> np.uint64(64 - 2 * seed)
        places, ends = _largest_first(shared)
        reach = max(_SHIFTED_REACH, 4 * len(key) // (1 + int(np.count_nonzero(np.diff(shared)))))
        order = order[places]
        who, where = member[order], position[order].astype(np.int64)
        before = np.where(where > 0, codes[who, where - 1], UNKNOWN)
        crowded = int(ends[reach]) if len(ends) > reach else 0
        for lag, end in enumerate(ends[:reach].tolist(), start=1):
            begin = crowded if lag > _CROWDED_REACH else 0
            one, other = slice(begin, end - lag), slice(begin + lag, end)
            # two that share the base before the seed too have met at the seed that begins there
            first = (before[one] != before[other]) | (before[one] >= UNKNOWN)
            hits = begin + np.flatnonzero(first & links.apart(who[one], who[other]))
            pairs = np.stack([who[hits], who[hits + lag]])
            # what precedes the shared seed differs in length by `shift`, what follows by the rest
            shift, (left, right) = where[hits] - where[hits + lag], lengths[pairs]
            least = abs(shift) + abs(shift - (left - right))
            pairs = pairs[:, (least <= most_edits(np.maximum(left, right), min_identity)) & (pairs[0] != pairs[1])]
            for chunk in range(0, pairs.shape[1], _CHUNK_PAIRS):
                _check_edits(links, codes, lengths, pairs[:, chunk : chunk + _CHUNK_PAIRS], min_identity=min_identity)


def _seed_parts(
    codes: NDArray[np.uint8], seed: int
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int32]]]:
    """Yield the 32 bases from every position that begins a seed, with their sequence and position, part by part."""
    num, width = codes.shape
    bits = max(0, math.ceil(math.log2(max(1, num * width / _PART_SEEDS))))
    bits = min(bits, 2 * seed)
    column = np.ascontiguousarray(codes.T)
    for part in range(1 << bits):
        key, run = np.zeros(num, np.uint64), np.zeros(num, np.int32)
        found: list[tuple[NDArray, NDArray, NDArray]] = []
        for position in range(width - 1, -1, -1):
            base = column[position]
            run = np.where(base >= UNKNOWN, 0, run + 1).astype(np.int32)
            key = (key >> np.uint64(2)) | ((base & 3).astype(np.uint64) << np.uint64(62))
            taken = run >= seed
            if bits:
                taken &= (key >> np.uint64(64 - bits)) == part
            (members,) = np.nonzero(taken)
            found.append((key[members], members, np.full(len(members), position, np.int32)))
        if found:
            yield (
                np.concatenate([keys for keys, _, _ in found]),
                np.concatenate([members for _, members, _ in found]),
                np.concatenate([positions for _, _, positions in found]),
            )


def _check_edits(
    links: _Links,
    codes: NDArray[np.uint8],
    lengths: NDArray[np.int64],
    pairs: NDArray[np.int64],
    *,
    min_identity: float,
) -> None:
    num = len(codes)
    pairs = np.stack(np.divmod(np.unique(pairs.min(axis=0) * num + pairs.max(axis=0)), num))
    needed, index = np.unique(pairs, return_inverse=True)
    texts = [codes[each, : lengths[each]].tobytes() for each in needed]
    one, other = index.reshape(pairs.shape)
    allowed = most_edits(np.maximum(lengths[pairs[0]], lengths[pairs[1]]), min_identity)
    edits = process.cpdist(
        [texts[each] for each in one],
        [texts[each] for each in other],
        scorer=Levenshtein.distance,
        score_cutoff=int(allowed.max()),
        dtype=np.int64,
        workers=1,
    )
    near = edits <= allowed
    links.add(pairs[0, near], pairs[1, near])
