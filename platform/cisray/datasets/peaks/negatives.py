"""Choose windows without a label for windows that have one: a named choice, recorded with what it asked and got."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from cisray.config import STRICT, data_path
from cisray.datasets.loci.folds import SPLITS, Split
from cisray.datasets.loci.regions import Masks, Spans, check_ends, load_spans
from cisray.datasets.peaks.motif_sites import MotifSearch, match_windows, place_on_matches, search_positives
from cisray.datasets.peaks.peak_files import map_bed
from cisray.datasets.peaks.placement import Composition, Ground, Windows, jitter_by_locus, space_out
from cisray.errors import InputError
from cisray.genome.bed import read_bed, rows_by_contig
from cisray.genome.motifs import Matches, Motif, consensus_motif, read_motif
from cisray.genome.ranges import join_ranges
from cisray.genome.reference import Reference

NegativeKind = Literal["others", "unpeaked", "random", "gc_matched", "motif_matched", "accessible", "shuffle", "mined"]
_MOTIF_KEYS = ("motif", "motif_file", "motif_name", "threshold")
_NO_WINDOWS = Windows(np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NegativeSpec:
    """One way to choose negatives."""

    kind: NegativeKind
    """others: none beyond the windows that are positive in other tracks. unpeaked: where no track has a peak. random:
    anywhere, with the labels found there. gc_matched: unpeaked, with the positives' GC content. motif_matched:
    unpeaked, with the motif, as well and at the same places as in the positives. accessible: on the sites of a BED
    file that have no peak. shuffle: the positives' own sequences, dinucleotides kept. mined: loci of a BED file."""
    ratio: float = 1.0
    """Negatives per positive; of "mined" all are taken."""
    seed: int = 0
    splits: tuple[Split, ...] = SPLITS
    """The splits that get such negatives."""
    track: str | None = None
    """Only the positives of this track count, for the ratio and for what is matched; None counts those of any."""
    stride_bp: int | None = None
    """Least distance between the starts of two candidates; None is a window, so that they do not overlap."""
    gc_bin: float = 0.02
    """Width of the classes of GC content that are matched."""
    motif: str | None = None
    """Consensus in IUPAC letters."""
    motif_file: str | None = None
    """MEME or JASPAR file below data_dir, in place of a consensus."""
    motif_name: str | None = None
    """Identifier of a motif of that file."""
    threshold: float | None = None
    """Least score of a match: log2 odds with a file; with a consensus, positions that fit, and all by default."""
    score_bin: float = 1.0
    """Width of the classes of match scores that are matched."""
    file: str | None = None
    """BED file below data_dir: the accessible sites, or the mined loci."""

    def __post_init__(self) -> None:
        where = f"negatives of kind {self.kind!r}"
        if not 0 < self.ratio < math.inf or not self.splits:
            raise InputError(f"{where}: ratio={self.ratio}, splits={self.splits}; wanted a ratio above 0 and a split")
        if (
            not 0 < self.gc_bin <= 1
            or not 0 < self.score_bin < math.inf
            or (self.stride_bp is not None and self.stride_bp < 1)
        ):
            raise InputError(
                f"{where}: gc_bin={self.gc_bin}, score_bin={self.score_bin}, stride_bp={self.stride_bp}; "
                "wanted widths above 0, and a gc_bin of at most 1"
            )
        if (self.file is None) == (self.kind in ("accessible", "mined")):
            raise InputError(
                f"{where}: file={self.file!r}; accessible and mined need a BED file, no other kind has one"
            )
        self._check_motif(where)

    def _check_motif(self, where: str) -> None:
        if self.kind != "motif_matched":
            if given := [key for key in _MOTIF_KEYS if getattr(self, key) is not None]:
                raise InputError(f"{where}: {', '.join(given)} is for motif_matched alone")
            return
        if (self.motif is None) == (self.motif_file is None):
            raise InputError(f"{where}: wanted a consensus in motif, or a file in motif_file, not both")
        if self.motif_file is not None and self.threshold is None:
            raise InputError(f"{where}: motif_file needs a threshold, the least log2 odds of a match")
        if self.motif is not None:
            consensus_motif(self.motif)
            if self.motif_name is not None:
                raise InputError(f"{where}: motif_name names one of motif_file, which is not set")


class Scene(NamedTuple):
    """Where negatives are looked for."""

    ground: Ground
    reference: Reference
    masks: Masks
    peaks: Mapping[str, Spans]
    """Stretches under a peak of any track."""
    max_n_fraction: float
    jitter_bp: int
    data_dir: str | None

    def screen(self, windows: Windows) -> tuple[NDArray[np.bool_], dict[str, int], Composition]:
        """Return which windows are fit for a dataset [M], how many are not by reason, and what all are made of."""
        ground = self.ground
        composition = ground.composition(windows, self.reference)
        unmappable = np.zeros(len(windows.start))
        for contig, rows in ground.runs(windows) if self.masks.unmappable else ():
            unmappable[rows] = self.masks.unmappable_fraction(contig, windows.start[rows], ground.geometry)
        kept, dropped = np.ones(len(windows.start), bool), {}
        for reason, unfit in (
            ("windows with too many N", composition.n_fraction > self.max_n_fraction),
            ("windows that touch the blacklist", ground.overlap_bp(windows, self.masks.blacklist) > 0),
            ("windows with too many unmappable bins", unmappable > self.masks.max_unmappable_fraction),
        ):
            dropped[reason] = int((kept & unfit).sum())
            kept &= ~unfit
        return kept, dropped, composition


class Chosen(NamedTuple):
    """Negatives of one kind."""

    windows: Windows
    copy: NDArray[np.int64] | None
    """Of shuffled sequences, the number of the copy, [M]; None for sequences of the genome."""
    facts: dict[str, Any]


class _Candidates(NamedTuple):
    """All windows that a kind allows, and what they are compared by."""

    windows: Windows
    gc_fraction: NDArray[np.float64]
    gc_of_positives: NDArray[np.float64]
    search: MotifSearch | None
    matches: Matches | None
    """The motif's best match in every candidate; None without one."""
    dropped: dict[str, int]


def choose_negatives(spec: NegativeSpec, scene: Scene, positives: Windows, *, taken: Mapping[str, Spans]) -> Chosen:
    """Choose the negatives of one kind for `positives`, none on the stretches `taken` unless they may lie anywhere.

    Raises:
        InputError: a file is missing or damaged, or no positive holds the motif.
    """
    unread = {"gc_bin"} if spec.kind != "gc_matched" else set()
    unread |= {"score_bin"} if spec.kind != "motif_matched" else set()
    told = {key: value for key, value in dataclasses.asdict(spec).items() if value is not None and key not in unread}
    told["splits"] = list(spec.splits)
    if spec.kind == "others":
        return Chosen(_NO_WINDOWS, None, told | {"asked": {}, "got": {}, "short": 0})
    if spec.kind == "shuffle":
        return _shuffled(spec, scene.ground, positives, told)
    if spec.kind == "mined":
        return _mined(spec, scene, taken, told)
    ground = scene.ground
    found = _find(spec, scene, positives, taken)
    asked, wanted, classes = _classes_wanted(spec, ground, positives, found)
    draws = ground.draws(found.windows, seed=spec.seed + 1)  # the seed itself places the candidates
    chosen = _draw_classes(ground.group_of[found.windows.region], classes, draws, wanted)
    windows = found.windows.pick(chosen)
    got = ground.counts(windows)
    told |= {
        "candidates": len(found.windows.start),
        "dropped_candidates": found.dropped,
        "asked": ground.by_split(asked),
        "got": ground.by_split(got),
        "short": int((asked - got).sum()),
    }
    return Chosen(windows, None, told | _bias(found, chosen=chosen, window_bp=ground.geometry.window_bp))


def unpeaked(ground: Ground, *, taken: Mapping[str, Spans], stride_bp: int | None, seed: int) -> Windows:
    """Return windows of the genome, side by side or `stride_bp` apart, with no base on the stretches `taken`."""
    lattice = ground.lattice(stride_bp or ground.geometry.window_bp, seed=seed)
    return lattice.pick(ground.overlap_bp(lattice, taken) == 0)


def gc_histogram(gc_fraction: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count GC fractions in steps of 0.02, the last one with 1; int64 [50]."""
    return np.histogram(gc_fraction, bins=50, range=(0, 1))[0]


def distance(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """Return the total variation distance of two histograms, from 0 (alike) to 1; to an empty one it is 1."""
    if not one.sum() or not other.sum():
        return 1.0
    return round(float(np.abs(one / one.sum() - other / other.sum()).sum()) / 2, 4)


def _find(spec: NegativeSpec, scene: Scene, positives: Windows, taken: Mapping[str, Spans]) -> _Candidates:
    ground, reference = scene.ground, scene.reference
    step_bp = spec.stride_bp or ground.geometry.window_bp
    search = None
    dropped: dict[str, int] = {}
    if spec.kind == "motif_matched":
        search = search_positives(*_motif_of(spec, scene.data_dir), positives, ground, reference)
        windows = place_on_matches(search, ground, reference, seed=spec.seed)
    elif spec.kind == "accessible":
        windows, dropped = _on_sites(spec, scene)
    elif spec.kind == "random":
        windows = ground.lattice(step_bp, seed=spec.seed)
    else:
        windows = unpeaked(ground, taken=taken, stride_bp=spec.stride_bp, seed=spec.seed)
    if spec.kind != "random":
        free = ground.overlap_bp(windows, taken) == 0
        dropped["windows on a peak, a positive or a negative"] = int((~free).sum())
        windows = windows.pick(free)
    kept, screened, composition = scene.screen(windows)
    dropped |= screened
    if spec.kind in ("accessible", "motif_matched"):  # they lie where the sites are; the others lie apart already
        rows = np.flatnonzero(kept)
        priority = ground.draws(windows.pick(rows), seed=spec.seed)
        kept[rows] = space_out(windows.pick(rows), priority, spacing_bp=step_bp)
        dropped["windows too near to another"] = int((~kept[rows]).sum())
    windows = windows.pick(kept)
    return _Candidates(
        windows=windows,
        gc_fraction=composition.gc_fraction[kept],
        gc_of_positives=ground.composition(positives, reference).gc_fraction,
        search=search,
        matches=None if search is None else match_windows(search.motif, windows, ground, reference),
        dropped=dropped,
    )


def _motif_of(spec: NegativeSpec, data_dir: str | None) -> tuple[Motif, float]:
    """Return the motif and the least score of a match."""
    if spec.motif is not None:
        motif = consensus_motif(spec.motif)
        return motif, motif.width if spec.threshold is None else spec.threshold
    motif = read_motif(data_path(str(spec.motif_file), data_dir), spec.motif_name)
    threshold = motif.greatest if spec.threshold is None else spec.threshold
    if threshold > motif.greatest:
        raise InputError(
            f"negatives: threshold={threshold} is beyond the best match of {motif.name}, {motif.greatest:.2f}"
        )
    return motif, threshold


def _classes_wanted(
    spec: NegativeSpec, ground: Ground, positives: Windows, found: _Candidates
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return how many are asked of each group [G], of each of its classes [G, S], and the candidates' classes [C].

    The classes share a group's number as its positives do, rounded so that they add up to it. A positive without the
    motif is in no class: what it adds to the number falls to the others' classes.
    """
    own: NDArray[np.floating] = np.zeros(len(found.gc_fraction))
    theirs: NDArray[np.floating] = np.zeros(len(found.gc_of_positives))
    if found.search is not None and found.matches is not None:
        own = (found.matches.score - found.search.threshold) / spec.score_bin
        theirs = (found.search.of_positives.score - found.search.threshold) / spec.score_bin
    elif spec.kind == "gc_matched":
        own, theirs = found.gc_fraction / spec.gc_bin, found.gc_of_positives / spec.gc_bin
    classes, known = np.floor(own).astype(np.int64), theirs >= 0
    their_classes = np.floor(theirs[known]).astype(np.int64)
    G, S = len(ground.groups), 1 + int(np.r_[classes, their_classes].max(initial=0))
    group = ground.group_of[positives.region]
    asked = np.floor(spec.ratio * np.bincount(group, minlength=G) + 0.5).astype(np.int64)
    asked[~ground.in_splits(spec.splits)] = 0
    counts = np.bincount(group[known] * S + their_classes, minlength=G * S).reshape(G, S)
    share = asked[:, None] * counts.cumsum(axis=1) / np.maximum(1, counts.sum(axis=1, keepdims=True))
    return asked, np.diff(np.floor(share + 0.5).astype(np.int64), axis=1, prepend=0), classes


def _draw_classes(
    group: NDArray[np.int64], classes: NDArray[np.int64], draws: NDArray[np.float64], wanted: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Take from each group and class as many as are wanted, those with the lowest draws; tells which, [C]."""
    cell = group * wanted.shape[1] + classes
    order = np.lexsort((draws, cell))
    sorted_cell = cell[order]
    rank = np.arange(len(cell)) - np.searchsorted(sorted_cell, sorted_cell)
    chosen = np.zeros(len(cell), bool)
    chosen[order] = rank < wanted.ravel()[sorted_cell]
    return chosen


def _bias(found: _Candidates, *, chosen: NDArray[np.bool_], window_bp: int) -> dict[str, Any]:
    """Measure how far candidates and chosen negatives are from the positives in what could tell them apart."""
    facts: dict[str, Any] = {"gc_histogram": gc_histogram(found.gc_fraction[chosen]).tolist()}
    compared: dict[str, tuple[NDArray, NDArray, tuple[float, float]]]
    compared = {"gc_distance": (found.gc_of_positives, found.gc_fraction, (0.0, 1.0))}
    if found.search is not None and found.matches is not None:
        held, best = found.search.is_held, found.search.motif.greatest
        of_positives = found.search.of_positives
        compared["score_distance"] = (of_positives.score[held], found.matches.score, (found.search.threshold, best))
        compared["position_distance"] = (of_positives.offset[held], found.matches.offset, (0.0, float(window_bp)))
        facts["motif_in_positives"] = int(held.sum())
    for name, (positives, candidates, (low, high)) in compared.items():
        # 20 classes: enough to see a shift, few enough that a small set does not differ by chance alone
        edges = np.linspace(low, max(high, low + 1e-6), 21)
        theirs, of_all, of_chosen = (
            np.histogram(values, bins=edges)[0] for values in (positives, candidates, candidates[chosen])
        )
        facts[name] = {"candidates": distance(theirs, of_all), "chosen": distance(theirs, of_chosen)}
    return facts


def _on_sites(spec: NegativeSpec, scene: Scene) -> tuple[Windows, dict[str, int]]:
    """Centre windows on the sites of a BED file, several on one that is longer than a window, with the jitter.

    Returns the windows and the counts of what was left out.
    """
    ground = scene.ground
    sites = load_spans(str(spec.file), scene.reference.contig_lengths, data_dir=scene.data_dir)
    step_bp = spec.stride_bp or ground.geometry.window_bp
    found, outside = [_NO_WINDOWS], 0
    for contig, spans in sites.spans.items():
        width = spans.end - spans.start
        count = np.maximum(1, width // step_bp)
        site = np.repeat(np.arange(len(width)), count)
        number = join_ranges(np.zeros_like(count), count)
        middle = spans.start[site] + (2 * number + 1) * width[site] // (2 * count[site])
        middle = jitter_by_locus(contig, middle, jitter_bp=scene.jitter_bp, seed=spec.seed)
        middle = np.minimum(np.maximum(middle, spans.start[site]), spans.end[site] - 1)  # stays on its site
        region = ground.locate(contig, middle)
        held = region >= 0
        outside += int((~held).sum())
        found.append(Windows(region[held], middle[held] - ground.geometry.window_bp // 2))
    windows = _joined(found)
    fits = ground.fit(windows)
    return windows.pick(fits), {
        "sites on contigs that the genome lacks": sum(sites.left_out.values()),
        "windows outside the splits": outside,
        "windows beyond the ends of their region": int((~fits).sum()),
    }


def _joined(parts: Sequence[Windows]) -> Windows:
    return Windows.of(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _mined(spec: NegativeSpec, scene: Scene, taken: Mapping[str, Spans], told: dict[str, Any]) -> Chosen:
    """Take the loci of a BED file, one window over the middle of each, but not where there are positives by now."""
    ground, lengths = scene.ground, scene.reference.contig_lengths
    bed = read_bed(data_path(str(spec.file), scene.data_dir))
    rows_of = rows_by_contig(bed, map_bed(bed, lengths, ()))
    check_ends(bed, rows_of, lengths)
    in_splits = ground.in_splits(spec.splits)
    found = [_NO_WINDOWS]
    for contig, rows in rows_of.items():
        middle = bed.start[rows] + (bed.end[rows] - bed.start[rows]) // 2
        region = ground.locate(contig, middle)
        inside = np.flatnonzero(region >= 0)
        inside = inside[in_splits[ground.group_of[region[inside]]]]
        found.append(Windows(region[inside], middle[inside] - ground.geometry.window_bp // 2))
    windows = _joined(found)
    dropped = {"loci outside the splits, or named twice": len(bed) - len(windows.start)}
    asked = ground.by_split(ground.counts(windows))
    for reason, kept in (
        ("windows beyond the ends of their region", ground.fit),
        ("windows on a peak, a positive or a negative", lambda some: ground.overlap_bp(some, taken) == 0),
    ):
        wanted = kept(windows)
        dropped[reason] = int((~wanted).sum())
        windows = windows.pick(wanted)
    fit, screened, _ = scene.screen(windows)
    windows = windows.pick(fit)
    got = ground.by_split(ground.counts(windows))
    short = sum(asked.values()) - sum(got.values())
    return Chosen(
        windows, None, told | {"dropped_candidates": dropped | screened, "asked": asked, "got": got, "short": short}
    )


def _shuffled(spec: NegativeSpec, ground: Ground, positives: Windows, told: dict[str, Any]) -> Chosen:
    """Copy the positives as often as the ratio says, the lowest draws once more where it is no whole number."""
    source = positives.pick(ground.in_splits(spec.splits)[ground.group_of[positives.region]])
    group = ground.group_of[source.region]
    size = np.bincount(group, minlength=len(ground.groups))
    asked = np.floor(spec.ratio * size + 0.5).astype(np.int64)
    whole = asked // np.maximum(1, size)
    order = np.lexsort((ground.draws(source, seed=spec.seed), group))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.searchsorted(group[order], group[order])
    copies = whole[group] + (rank < (asked - whole * size)[group])
    row = np.repeat(np.arange(len(copies)), copies)
    copy = join_ranges(np.zeros_like(copies), copies)
    windows = source.pick(row)
    got = ground.by_split(ground.counts(windows))
    return Chosen(windows, copy, told | {"asked": ground.by_split(asked), "got": got, "short": 0})
