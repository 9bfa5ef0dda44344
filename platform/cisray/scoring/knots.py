"""Keep of many scores the few order statistics that say where another score stands among them.

Of up to KNOTS scores per track every one is kept. Of more, the TAIL lowest and highest are kept one by one, and
others at even steps of rank between them.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from cisray.errors import InputError

KNOTS = 1024
TAIL = 128
# Of one buffer of a collector, before it is thinned out: all tracks of one score.
BUFFER_BYTES = 64 << 20
FEWEST_BUFFERED = 2048


class KnotCollector:
    """Background scores [S, T], block after block, kept whole while they fit and thinned out evenly after that.

    Two full buffers of one weight are sorted together, and every other value kept, each standing for twice as many
    (Munro and Paterson 1980, doi:10.1016/0304-3975(80)90061-4). The tails are kept beside them. Memory is BUFFER_BYTES
    for each doubling of the background beyond the first buffer; 300,000 variants of 5,313 tracks take half a gigabyte.
    How the scores are cut into blocks changes nothing.
    """

    def __init__(self, num_tracks: int, *, buffer_rows: int | None = None) -> None:
        self.num_tracks = num_tracks
        self.num_variants = 0
        fitting = BUFFER_BYTES // (4 * max(num_tracks, 1))
        self._buffer_rows = max(FEWEST_BUFFERED, fitting // 2 * 2) if buffer_rows is None else buffer_rows
        self._incoming: list[NDArray[np.float32]] = []
        self._num_incoming = 0
        self._levels: list[NDArray[np.float32] | None] = []
        """Sorted values [buffer_rows, T], each of weight 2**level; None where a level is free."""
        self._tails = np.empty((2, 0, num_tracks), np.float32)
        """The lowest and the highest seen, sorted."""
        self._misplaced = 0
        """Ranks by which thinning out can have moved a value."""
        self._takes_odd = False

    def add(self, values: NDArray[np.float32]) -> None:
        """Add scores of some variants, float32 [S, T]; raise InputError for one that is not finite."""
        if values.ndim != 2 or values.shape[1] != self.num_tracks:
            raise InputError(f"scores are {values.shape}; wanted [variants, {self.num_tracks}]")
        if not np.isfinite(values).all():
            raise InputError("the background has scores that are not finite; leave out rows that have a status")
        self.num_variants += len(values)
        for start in range(0, len(values), self._buffer_rows):
            piece = np.asarray(values[start : start + self._buffer_rows], np.float32)
            while self._num_incoming + len(piece) >= self._buffer_rows:
                free = self._buffer_rows - self._num_incoming
                self._incoming.append(piece[:free])
                piece = piece[free:]
                self._fill()
            if len(piece):
                self._incoming.append(piece.copy())
                self._num_incoming += len(piece)

    @property
    def rank_error(self) -> float:
        """The largest share of the background by which a value that is not in a tail can be misplaced."""
        heaviest = 1 << max(len(self._levels) - 1, 0)
        return (self._misplaced + heaviest - 1) / max(self.num_variants, 1)

    def knots(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the ranks that are kept, int64 [Q], and each track's values there, float32 [T, Q].

        Raises InputError where there are no scores.
        """
        if not self.num_variants:
            raise InputError("the background has no scored variant; give one whose variants lie on the genome")
        ranks = _kept_ranks(self.num_variants)
        parts = [(part, 1) for part in self._incoming]
        parts += [(level, 1 << number) for number, level in enumerate(self._levels) if level is not None]
        weights = np.concatenate([np.full(len(part), weight, np.int64) for part, weight in parts])
        values = np.empty((self.num_tracks, len(ranks)), np.float32)
        for track in range(self.num_tracks):
            column = np.concatenate([part[:, track] for part, _ in parts])
            order = np.argsort(column, kind="stable")
            last_ranks = np.cumsum(weights[order])  # of a value, one above the highest rank it stands for
            values[track] = column[order][np.searchsorted(last_ranks, ranks, side="right")]
        if any(level is not None for level in self._levels[1:]):
            lowest, highest = self._all_tails()
            values[:, :TAIL], values[:, -TAIL:] = lowest.T, highest.T
            middle = values[:, TAIL:-TAIL]
            np.clip(middle, lowest[-1][:, None], highest[0][:, None], out=middle)
        return ranks, values

    def _fill(self) -> None:
        """Sort what came into a full buffer, and merge it with those of its weight."""
        full = np.sort(np.concatenate(self._incoming), axis=0)
        self._incoming, self._num_incoming = [], 0
        self._tails = self._join_tails(full)
        level = 0
        while level < len(self._levels) and (other := self._levels[level]) is not None:
            both = np.sort(np.concatenate([other, full]), axis=0)
            full = both[int(self._takes_odd) :: 2]  # in turn, so that what one time raises the next time lowers
            self._takes_odd = not self._takes_odd
            self._misplaced += 1 << level
            self._levels[level] = None
            level += 1
        self._levels += [None] * (level + 1 - len(self._levels))
        self._levels[level] = np.ascontiguousarray(full)

    def _all_tails(self) -> NDArray[np.float32]:
        """Return the lowest and highest of everything, float32 [2, TAIL, T]."""
        return self._join_tails(np.sort(np.concatenate([*self._incoming, self._tails[0][:0]]), axis=0))

    def _join_tails(self, ordered: NDArray[np.float32]) -> NDArray[np.float32]:
        lowest = np.sort(np.concatenate([self._tails[0], ordered[:TAIL]]), axis=0)[:TAIL]
        highest = np.sort(np.concatenate([self._tails[1], ordered[-TAIL:]]), axis=0)[-TAIL:]
        return np.stack([lowest, highest])


def collect(blocks: Iterable[Mapping[str, NDArray[np.float32]]], *, num_tracks: int) -> dict[str, KnotCollector]:
    """Collect the scores of blocks, each score -> float32 [S, T], one block in memory at a time."""
    collectors: dict[str, KnotCollector] = {}
    for block in blocks:
        for score, values in block.items():
            collectors.setdefault(score, KnotCollector(num_tracks)).add(values)
    return collectors


def _kept_ranks(num_variants: int) -> NDArray[np.int64]:
    """Return the ranks, from 0, of the values that stand for a background, int64 [at most KNOTS]."""
    if num_variants <= KNOTS:
        return np.arange(num_variants)
    middle = np.linspace(TAIL - 1, num_variants - TAIL, KNOTS - 2 * TAIL + 2)[1:-1].round().astype(np.int64)
    return np.concatenate([np.arange(TAIL), middle, np.arange(num_variants - TAIL, num_variants)])
