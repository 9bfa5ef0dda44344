"""Find windows that hold a motif as the positives do: as well matched, and at the same places of the window."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cisray.datasets.loci.draws import locus_draws
from cisray.datasets.peaks.placement import Ground, Windows
from cisray.datasets.source import read_windows
from cisray.errors import InputError
from cisray.genome.motifs import Matches, Motif, best_matches, scan
from cisray.genome.reference import Reference

_SCAN_BP = 1 << 22  # bases scanned at once


class MotifSearch(NamedTuple):
    """A motif, the least score of a match, and the best match in each positive."""

    motif: Motif
    threshold: float
    of_positives: Matches

    @property
    def is_held(self) -> NDArray[np.bool_]:
        """Which positives hold the motif."""
        return self.of_positives.score >= self.threshold


def search_positives(
    motif: Motif, threshold: float, positives: Windows, ground: Ground, reference: Reference
) -> MotifSearch:
    """Match a motif with every positive; raise InputError where none holds it."""
    search = MotifSearch(motif, threshold, match_windows(motif, positives, ground, reference))
    if not search.is_held.any():
        best = search.of_positives.score.max(initial=-np.inf)
        raise InputError(
            f"negatives: none of {len(positives.start)} positives holds motif {motif.name} with a score of "
            f"{threshold:g} (the best has {best:.2f}); lower the threshold"
        )
    return search


def match_windows(motif: Motif, windows: Windows, ground: Ground, reference: Reference) -> Matches:
    """Return the best match of a motif in every window, margins left out."""
    width_bp = ground.geometry.window_bp
    score = np.zeros(len(windows.start), np.float32)
    offset = np.zeros(len(windows.start), np.int64)
    at_once = max(1, _SCAN_BP // width_bp)
    for contig, rows in ground.runs(windows):
        for first in range(rows.start, rows.stop, at_once):
            part = slice(first, min(first + at_once, rows.stop))
            codes = read_windows(reference, contig, windows.start[part], width_bp)
            score[part], offset[part] = best_matches(codes, motif)
    return Matches(score, offset)


def place_on_matches(search: MotifSearch, ground: Ground, reference: Reference, *, seed: int) -> Windows:
    """Lay a window over every match of the genome, so that it lies where a drawn positive has its own."""
    offsets = search.of_positives.offset[search.is_held]
    width_bp, motif_bp = ground.geometry.window_bp, search.motif.width
    found = []
    for index, region in enumerate(ground.regions):
        contig = region.interval.contig
        last = int(ground.highest[index]) + width_bp - motif_bp + 1  # past the last start of a match
        for first in range(int(ground.lowest[index]), last, _SCAN_BP):
            codes = reference.codes(contig, first, min(first + _SCAN_BP, last) + motif_bp - 1)
            match = np.flatnonzero(scan(codes, search.motif) >= search.threshold) + first
            drawn = (locus_draws(contig, match, seed=seed) * len(offsets)).astype(np.int64)
            found.append(Windows(np.full(len(match), index), match - offsets[drawn]))
    windows = Windows.of(*(np.concatenate(column) for column in zip(*found, strict=True)))
    return windows.pick(ground.fit(windows))
