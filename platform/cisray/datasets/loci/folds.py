"""Give every stretch of the genome to one split: by name, by folds or shares of nucleotides, or as a file lists them.

Folds belong to loci: they depend on the genome and on this choice alone, so that datasets of one genome made
with the same folds never share a test locus.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from cisray.config import STRICT, data_path
from cisray.datasets.loci.dealing import ALWAYS_TRAIN, TEST, VALID, Shares, deal_by_share, deal_to_folds
from cisray.datasets.loci.draws import locus_draws
from cisray.datasets.loci.listed import Extent, ListedRun, fold_of, label_of, read_chromosomes, read_runs
from cisray.datasets.loci.regions import NO_SPANS, Spans
from cisray.errors import InputError
from cisray.files import written_whole
from cisray.genome.intervals import Interval, parse_region
from cisray.geometry import Geometry

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


class Region(NamedTuple):
    """A stretch of one contig whose windows all play one role."""

    interval: Interval
    split: Split
    fold: int
    starts: tuple[int, ...] | None = None
    """Starts of the only windows it has, where a file lists them; None where windows are to be laid over it."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FoldSpec:
    """One of five ways to divide a genome.

    `valid` and `test` name regions and the rest is train; `num_folds` cuts the genome evenly; `valid_fraction` and
    `test_fraction` draw shares of it; `sequences` lists windows, or regions; `chromosomes` lists contigs.
    """

    valid: tuple[str, ...] = ()
    """Regions of the validation split: "chrIX" or "chrIV:1000000-1531933"."""
    test: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    """Regions that belong to no split."""
    num_folds: int = 0
    """k of a k-fold cut; 0 means another way."""
    valid_fold: int = 1
    """The fold that is the validation split, of num_folds or of the labels foldN in `sequences`."""
    test_fold: int = 0
    valid_fraction: float = 0.0
    """Share of the genome's bases that the validation split is to get, in whole pieces of at most break_bp."""
    test_fraction: float = 0.0
    abstain_fraction: float = 0.2
    """A piece larger than this part of what validation (or test) still lacks is not for it."""
    seed: int = 0
    """Seed of the draw by fractions."""
    sequences: str | None = None
    """BED file of intervals labelled train, valid and test, or foldN."""
    sequences_are: Extent = "target"
    """What its intervals are: "input" windows, their predicted "target", or a "region" to lay windows over."""
    chromosomes: str | None = None
    """JSON file {"train": [...], "valid": [...], "test": [...]} of contigs; a contig not there is in no split."""
    break_bp: int = 1_000_000
    """Contigs are broken at this length before they are dealt out to folds or by fractions."""

    def __post_init__(self) -> None:
        ways = {
            "valid and test": bool(self.valid or self.test),
            "num_folds": bool(self.num_folds),
            "valid_fraction and test_fraction": bool(self.valid_fraction or self.test_fraction),
            "sequences": self.sequences is not None,
            "chromosomes": self.chromosomes is not None,
        }
        chosen = [way for way, is_chosen in ways.items() if is_chosen]
        if len(chosen) > 1:
            raise InputError(f"folds: {', '.join(chosen)} are set; choose one way to divide the genome, not both")
        if not chosen or (chosen == ["valid and test"] and not (self.valid and self.test)):
            raise InputError(
                "folds: both valid and test need at least one region, or set num_folds to 3 or more, "
                "or valid_fraction and test_fraction, or sequences, or chromosomes"
            )
        self._check_numbers()
        if self.sequences is not None and self.valid_fold == self.test_fold:
            raise InputError(f"folds: valid_fold and test_fold are both {self.test_fold}; wanted two different folds")
        if self.sequences is not None and self.exclude:
            raise InputError(f"folds: exclude={self.exclude} beside sequences; take the rows out of {self.sequences}")
        if self.break_bp < 1:
            raise InputError(f"folds: break_bp={self.break_bp}; wanted a positive length")

    def _check_numbers(self) -> None:
        if self.num_folds and not (
            self.num_folds >= 3
            and self.valid_fold != self.test_fold
            and {self.valid_fold, self.test_fold} <= set(range(self.num_folds))
        ):
            raise InputError(
                f"folds: num_folds={self.num_folds}, valid_fold={self.valid_fold}, test_fold={self.test_fold}; "
                "wanted at least 3 folds and two different ones below that number"
            )
        shares = (self.valid_fraction, self.test_fraction)
        if any(shares) and not (min(shares) > 0 and sum(shares) < 1):
            raise InputError(
                f"folds: valid_fraction={shares[0]}, test_fraction={shares[1]}; wanted two shares above 0 that leave "
                "some for train"
            )
        if not 0 < self.abstain_fraction <= 1:
            raise InputError(f"folds: abstain_fraction={self.abstain_fraction}; wanted a share above 0, at most 1")

    def split_of(self, fold: int) -> Split:
        """Return the role of a numbered fold."""
        return "valid" if fold == self.valid_fold else "test" if fold == self.test_fold else "train"

    @property
    def files(self) -> tuple[str, ...]:
        """The input files it names."""
        return tuple(name for name in (self.sequences, self.chromosomes) if name is not None)


def assign_regions(
    spec: FoldSpec,
    contig_lengths: Mapping[str, int],
    *,
    gaps: Mapping[str, Spans] | None = None,
    geometry: Geometry | None = None,
    data_dir: str | None = None,
) -> list[Region]:
    """Cut the genome into regions that do not overlap, each with its split and fold, in genome order.

    Regions end at assembly gaps, and contigs are broken there before they are dealt out; listed windows stay what
    they are. `geometry` says how wide listed windows must be.

    Raises:
        InputError: a region is unknown, two named regions overlap, a file of `spec` does not fit, or the genome has
            too few pieces for the folds.
    """
    if spec.sequences is not None:
        runs = read_runs(
            data_path(spec.sequences, data_dir), contig_lengths, extent=spec.sequences_are, geometry=geometry
        )
        regions = _listed_regions(spec, runs)
    elif spec.num_folds or spec.valid_fraction:
        regions = _dealt_regions(spec, contig_lengths, gaps or {})
    else:
        regions = _named_regions(spec, contig_lengths, data_dir)
    order = {contig: index for index, contig in enumerate(contig_lengths)}
    regions.sort(key=lambda region: (order[region.interval.contig], region.interval.start))
    return [
        part for region in regions for part in _cut_at_gaps(region, (gaps or {}).get(region.interval.contig, NO_SPANS))
    ]


def break_contigs(
    spec: FoldSpec, contig_lengths: Mapping[str, int], *, gaps: Mapping[str, Spans] | None = None
) -> list[Interval]:
    """Return what `exclude` and the gaps leave of the genome in pieces of at most `break_bp`, in genome order."""
    taken = [parse_region(text, contig_lengths) for text in spec.exclude]
    taken += [
        Interval(contig, int(start), int(end))
        for contig, spans in (gaps or {}).items()
        for start, end in zip(*spans, strict=True)
    ]
    return [
        Interval(free.contig, start, min(start + spec.break_bp, free.end))
        for free in _complement(taken, contig_lengths)
        for start in range(free.start, free.end, spec.break_bp)
    ]


def deal_roles(spec: FoldSpec, sizes_bp: NDArray[np.int64], draws: NDArray[np.float64]) -> list[tuple[Split, int]]:
    """Return split and fold of every piece, of `sizes_bp` [M, G] bases in each genome, as `spec` deals them out.

    Raises:
        InputError: a fold, or a split that is to get a share, gets no piece.
    """
    if spec.num_folds:
        folds = deal_to_folds(sizes_bp, spec.num_folds)
        if len(np.unique(folds)) < spec.num_folds:
            raise InputError(
                f"folds: {len(folds)} pieces of at most {spec.break_bp} bp cannot fill {spec.num_folds} folds; "
                "lower break_bp"
            )
        return [(spec.split_of(fold), fold) for fold in folds.tolist()]
    shares = Shares(spec.valid_fraction, spec.test_fraction, spec.abstain_fraction)
    numbers = deal_by_share(sizes_bp, draws, shares)
    for number in (VALID, TEST):
        if not (numbers == number).any():
            share = (shares.valid, shares.test)[number - VALID]
            most = int(spec.abstain_fraction * share * sizes_bp.sum(axis=0).min())
            raise InputError(
                f"folds: no piece for the {SPLITS[number]} split, whose {SPLITS[number]}_fraction={share} takes pieces "
                f"of at most {most} bp (abstain_fraction={spec.abstain_fraction}); lower break_bp={spec.break_bp}"
            )
    return [(SPLITS[number], number) for number in numbers.tolist()]


def piece_draws(pieces: Sequence[Interval], *, seed: int) -> NDArray[np.float64]:
    """Return a number in [0, 1) for every piece, made of its locus and the seed alone, [M]."""
    drawn = [locus_draws(piece.contig, np.array([piece.start]), seed=seed)[0] for piece in pieces]
    return np.array(drawn)


def rejoin(regions: Sequence[Region]) -> list[Region]:
    """Join regions (in genome order) that touch and play the same role, so that windows may lie across."""
    joined: list[Region] = []
    for region in regions:
        last = joined[-1] if joined else None
        here = region.interval
        if (
            last is not None
            and (here.contig, here.start) == (last.interval.contig, last.interval.end)
            and (region.split, region.fold) == (last.split, last.fold)
        ):
            joined[-1] = last._replace(interval=Interval(here.contig, last.interval.start, here.end))
        else:
            joined.append(region)
    return joined


def write_regions(path: Path, regions: Sequence[Region]) -> None:
    """Write regions as the BED file that FoldSpec.sequences reads with sequences_are = "region"."""
    numbered = {(region.split, region.fold) for region in regions} - set(zip(SPLITS, range(3), strict=True)) != set()
    with written_whole(path) as aside:
        aside.write_text(
            "".join(
                f"{region.interval.contig}\t{region.interval.start}\t{region.interval.end}\t"
                f"{label_of(region.split, region.fold, numbered=numbered)}\n"
                for region in regions
            ),
            encoding="utf-8",
        )


def _listed_regions(spec: FoldSpec, runs: Sequence[ListedRun]) -> list[Region]:
    """Give every run the role that its label names.

    Raises:
        InputError: a label is unknown, labels are of two kinds, or a split has none.
    """
    labels = dict.fromkeys(run.label for run in runs)
    numbered = any(fold_of(label) is not None for label in labels)
    for label in labels:
        if fold_of(label) is None and label not in (("train",) if numbered else SPLITS):
            wanted = "fold0, fold1 and so on, or train for what is in no fold" if numbered else ", ".join(SPLITS)
            raise InputError(f"{spec.sequences}: label {label!r} in column 4; wanted {wanted}")
    regions = []
    for run in runs:
        fold = fold_of(run.label)
        split: Split = spec.split_of(fold) if fold is not None else next(each for each in SPLITS if each == run.label)
        if fold is None:
            fold = ALWAYS_TRAIN if numbered else SPLITS.index(split)
        regions.append(Region(Interval(run.contig, run.start, run.end), split, fold, run.starts))
    for split in SPLITS:
        if not any(region.split == split for region in regions):
            picked = f" (valid_fold={spec.valid_fold}, test_fold={spec.test_fold})" if numbered else ""
            raise InputError(
                f"{spec.sequences}: no interval for the {split} split{picked}; its labels are {', '.join(labels)}"
            )
    return regions


def _named_regions(spec: FoldSpec, contig_lengths: Mapping[str, int], data_dir: str | None) -> list[Region]:
    """Return the regions that `spec` names, or the contigs that its file does."""
    excluded = [parse_region(text, contig_lengths) for text in spec.exclude]
    if spec.chromosomes is not None:
        listed = read_chromosomes(data_path(spec.chromosomes, data_dir), contig_lengths, splits=SPLITS)
        return [
            Region(free, split, fold)
            for fold, split in enumerate(SPLITS)
            for free in _complement(excluded, {contig: contig_lengths[contig] for contig in listed[split]})
        ]
    named = [Region(parse_region(text, contig_lengths), "valid", 1) for text in spec.valid]
    named += [Region(parse_region(text, contig_lengths), "test", 2) for text in spec.test]
    # excluded regions play one role and may overlap: twice the complement is their union
    union = _complement(_complement(excluded, contig_lengths), contig_lengths)
    taken = sorted([*(region.interval for region in named), *union], key=lambda i: (i.contig, i.start))
    for one, other in pairwise(taken):
        if one.contig == other.contig and other.start < one.end:
            raise InputError(f"folds: {one} and {other} overlap; a locus can play one role only")
    return named + [Region(interval, "train", 0) for interval in _complement(taken, contig_lengths)]


def _dealt_regions(spec: FoldSpec, contig_lengths: Mapping[str, int], gaps: Mapping[str, Spans]) -> list[Region]:
    pieces = break_contigs(spec, contig_lengths, gaps=gaps)
    sizes_bp = np.array([[piece.width] for piece in pieces], np.int64).reshape(-1, 1)
    roles = deal_roles(spec, sizes_bp, piece_draws(pieces, seed=spec.seed))
    regions = [Region(piece, *role) for piece, role in zip(pieces, roles, strict=True)]
    return regions if spec.num_folds else rejoin(regions)


def _complement(taken: Sequence[Interval], contig_lengths: Mapping[str, int]) -> list[Interval]:
    """Return what `taken` leaves of the genome, in genome order."""
    of_contig: dict[str, list[Interval]] = {}
    for interval in sorted(taken, key=lambda i: i.start):
        of_contig.setdefault(interval.contig, []).append(interval)
    free = []
    for contig, length in contig_lengths.items():
        start = 0
        for interval in of_contig.get(contig, []):
            if interval.start > start:
                free.append(Interval(contig, start, interval.start))
            start = max(start, interval.end)
        if start < length:
            free.append(Interval(contig, start, length))
    return free


def _cut_at_gaps(region: Region, spans: Spans) -> list[Region]:
    """Return the stretches of a region between gaps; a region of listed windows stays whole."""
    here = region.interval
    if region.starts is not None:
        return [region]
    first, last = np.searchsorted(spans.end, here.start, "right"), np.searchsorted(spans.start, here.end, "left")
    starts = [here.start, *spans.end[first:last].tolist()]
    ends = [*spans.start[first:last].tolist(), here.end]
    return [
        region._replace(interval=Interval(here.contig, start, end))
        for start, end in zip(starts, ends, strict=True)
        if start < end
    ]
