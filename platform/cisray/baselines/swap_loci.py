"""Which loci a model of one condition may learn from, so that it has never seen those that any condition is tested on.

Folds belong to loci, not to datasets. Loci of one genome are compared by where they lie: windows that overlap are one
locus. Where conditions have no genome, or different ones, sequences are compared: near-duplicates, on either strand,
are one locus.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from cisray.baselines.gkm_lmers import Codes
from cisray.config import STRICT
from cisray.datasets.card import Card
from cisray.datasets.loci.dealing import deal_to_folds
from cisray.datasets.loci.folds import SPLITS
from cisray.datasets.schema import decode_rows, iter_examples, layout_of, to_float
from cisray.datasets.tables.duplicates import DuplicateSpec, Sequences, find_groups
from cisray.datasets.tables.near_pairs import NOTHING_MISSED, Search
from cisray.datasets.tables.row_splits import NO_SPLIT
from cisray.errors import InputError
from cisray.genome.bed import merge_intervals, overlap_bp
from cisray.genome.sequence import UNKNOWN

CompareBy = Literal["place", "sequence"]
TRAIN, VALID, TEST = range(len(SPLITS))
SEEN = "rows that another condition is tested on"
UNMEASURED = "rows without a measurement of the condition's tracks"
_READ_ROWS = 4096


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LociSpec:
    """Which rows of different conditions are one locus, and how loci are divided."""

    num_folds: int = 0
    """k folds into which all conditions' loci are dealt anew; 0 keeps the splits of the datasets."""
    seed: int = Field(default=0, ge=0)
    """Of the dealing."""
    min_identity: float = 0.8
    """Of sequences without a common genome: from which on two are one locus."""
    apart_bp: int = 0
    """Of windows on a genome: those that are closer than this are one locus, when folds are dealt."""

    def __post_init__(self) -> None:
        if self.num_folds and self.num_folds < 3:
            raise InputError(f"loci: num_folds={self.num_folds}; wanted 3 or more, or 0 to keep the datasets' splits")
        if self.apart_bp < 0:
            raise InputError(f"loci: apart_bp={self.apart_bp}; wanted 0 or more bases")
        if not 0.5 <= self.min_identity <= 1:
            raise InputError(f"loci: min_identity={self.min_identity}; wanted a share from 0.5 to 1")


class Rows(NamedTuple):
    """The rows of a dataset, in the order of its files."""

    split: NDArray[np.int8]
    """Number among SPLITS, [R]."""
    contig: NDArray[np.str_]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    codes: Codes | None
    """Of the windows, [R, L]; None where places are compared."""


class Condition(NamedTuple):
    """What is known of a condition's rows."""

    rows: Rows
    measured: NDArray[np.bool_]
    """Whether any of the condition's tracks has a value, [R]."""
    margin_bp: int = 0
    """Bases beyond each end of a window that a training may read."""


class Dealt(NamedTuple):
    """What each row of a condition is for, in one run."""

    split: NDArray[np.int8]
    """Number among SPLITS, or NO_SPLIT for what is left out, [R]."""
    fold: NDArray[np.int64] | None
    """[R]; None where the datasets' own splits are kept."""
    left_out: dict[str, int]
    """Rows left out, by reason."""


def compare_by(cards: Sequence[Card]) -> CompareBy:
    """Say by what the loci of datasets are compared: by place where all are of one genome."""
    digests = {None if card.genome is None else card.genome.digest for card in cards}
    return "place" if len(digests) == 1 and None not in digests else "sequence"


def read_rows(dataset_dir: Path, card: Card, *, with_codes: bool) -> Rows:
    """Read where all rows of a dataset lie; with their codes, which take a byte for each base."""
    splits, contigs, starts, ends, codes = [], [], [], [], []
    margin, layout = card.geometry.margin_bp, layout_of(card)
    for number, split in enumerate(SPLITS):
        if not card.counts[split]:
            continue
        for rows in iter_examples(dataset_dir, card, split, batch_size=_READ_ROWS):
            splits.append(np.full(len(rows), number, np.int8))
            contigs.append(np.array(rows["contig"].to_pylist(), np.str_))
            starts.append(rows["start"].to_numpy())
            ends.append(rows["end"].to_numpy())
            if with_codes:
                stored = decode_rows(rows["sequence"], "u1", layout.sequence_shape)
                codes.append(stored[:, margin : stored.shape[1] - margin].copy())
    return Rows(
        np.concatenate(splits),
        np.concatenate(contigs),
        np.concatenate(starts),
        np.concatenate(ends),
        np.concatenate(codes) if with_codes else None,
    )


def read_measured(dataset_dir: Path, card: Card, tracks: Sequence[int]) -> NDArray[np.bool_]:
    """Say of each row, in the order of `read_rows`, whether any of the tracks has a value, [R]."""
    found = []
    for split in SPLITS:
        if not card.counts[split]:
            continue
        for rows in iter_examples(dataset_dir, card, split, batch_size=_READ_ROWS):
            targets = decode_rows(rows["target"], card.target_type, card.target_shape)[:, :, list(tracks)]
            found.append(~np.isnan(to_float(targets)).all(axis=(1, 2)))
    return np.concatenate(found)


def group_loci(parts: Sequence[Rows], spec: LociSpec, *, by: CompareBy) -> tuple[list[NDArray[np.int64]], Search]:
    """Return the number of each row's locus, [R] for each dataset, and how they were looked for.

    Rows of one locus chain together.
    """
    if by == "sequence":
        codes = [_without_flanks(part.codes) for part in parts if part.codes is not None]
        groups, how = _group_sequences(codes, spec.min_identity)
    else:
        groups, how = _group_places(parts, spec.apart_bp), NOTHING_MISSED
    return np.split(groups, np.cumsum([len(part.split) for part in parts])[:-1]), how


def keep_splits(
    conditions: Mapping[str, Condition], groups: Mapping[str, NDArray[np.int64]] | None
) -> dict[str, Dealt]:
    """Keep the datasets' splits, and leave out of each training what any condition is tested on.

    Args:
        conditions: by name.
        groups: each row's locus; None compares places, by overlap alone and not by chains of it.
    """
    tested = {name: (one.rows.split == TEST) & one.measured for name, one in conditions.items()}
    dealt = {}
    for name, one in conditions.items():
        if groups is None:
            touched = _overlap_tests(one, [(conditions[other].rows, test) for other, test in tested.items()])
        else:
            touched = np.isin(groups[name], np.concatenate([groups[other][test] for other, test in tested.items()]))
        split = one.rows.split.copy()
        split[touched & (split != TEST)] = NO_SPLIT
        dealt[name] = _counted(one, split, None)
    return dealt


def deal_folds(
    conditions: Mapping[str, Condition], groups: Mapping[str, NDArray[np.int64]], spec: LociSpec
) -> list[dict[str, Dealt]]:
    """Deal loci out to folds, each fold the test of one run and the next one its validation; returns a run per fold.

    Raises:
        InputError: there are fewer loci than folds.
    """
    num_loci = 1 + max(int(group.max()) for group in groups.values())
    if num_loci < spec.num_folds:
        raise InputError(
            f"loci: {num_loci} loci cannot fill {spec.num_folds} folds: rows that overlap, or are near-duplicates, "
            "are one; keep the datasets' splits with num_folds = 0"
        )
    sizes = np.stack(
        [np.bincount(groups[name][one.measured], minlength=num_loci) for name, one in conditions.items()], axis=1
    )
    order = np.random.default_rng(spec.seed).permutation(num_loci)  # of loci that are as large as each other
    fold_of = np.empty(num_loci, np.int64)
    fold_of[order] = deal_to_folds(sizes[order], spec.num_folds)
    runs = []
    for test_fold in range(spec.num_folds):
        dealt = {}
        for name, one in conditions.items():
            fold = fold_of[groups[name]]
            split = np.full(len(fold), TRAIN, np.int8)
            split[fold == (test_fold + 1) % spec.num_folds] = VALID
            split[fold == test_fold] = TEST
            dealt[name] = _counted(one, split, fold)
        runs.append(dealt)
    return runs


def _counted(condition: Condition, split: NDArray[np.int8], fold: NDArray[np.int64] | None) -> Dealt:
    """Leave out what has no measurement, and count what is left out."""
    seen = int(((split == NO_SPLIT) & condition.measured).sum())
    split = np.where(condition.measured, split, np.int8(NO_SPLIT))
    return Dealt(split, fold, {SEEN: seen, UNMEASURED: int((~condition.measured).sum())})


def _overlap_tests(condition: Condition, tests: Sequence[tuple[Rows, NDArray[np.bool_]]]) -> NDArray[np.bool_]:
    """Say which rows, with what a training may read beyond them, overlap a row that is tested, [R]."""
    rows, margin_bp = condition.rows, condition.margin_bp
    touched = np.zeros(len(rows.split), np.bool_)
    for contig in np.unique(rows.contig):
        own = np.flatnonzero(rows.contig == contig)
        chosen = [(part, test & (part.contig == contig)) for part, test in tests]
        start = np.concatenate([part.start[test] for part, test in chosen])
        end = np.concatenate([part.end[test] for part, test in chosen])
        order = np.argsort(start, kind="stable")
        spans = merge_intervals(start[order], end[order])
        first, last = rows.start[own] - margin_bp, rows.end[own] + margin_bp
        touched[own] = overlap_bp(*spans, of_start=first, of_end=last) > 0
    return touched


def _group_places(parts: Sequence[Rows], apart_bp: int) -> NDArray[np.int64]:
    """Number the stretches of the genome that windows which overlap, or are closer than so many bases, chain to."""
    contig, start, end = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("contig", "start", "end")
    )
    group = np.empty(len(start), np.int64)
    count = 0
    for name in np.unique(contig):
        own = np.flatnonzero(contig == name)
        own = own[np.argsort(start[own], kind="stable")]
        reach = np.maximum.accumulate(end[own])
        begins = np.r_[True, start[own][1:] >= reach[:-1] + apart_bp]
        group[own] = count + np.cumsum(begins) - 1
        count += int(begins.sum())
    return group


def _group_sequences(
    parts: Sequence[tuple[Codes, NDArray[np.int64]]], min_identity: float
) -> tuple[NDArray[np.int64], Search]:
    """Number the near-duplicates on either strand among sequences from the left, filled up with N."""
    width = max(codes.shape[1] for codes, _ in parts)
    codes = np.concatenate(
        [np.pad(codes, ((0, 0), (0, width - codes.shape[1])), constant_values=UNKNOWN) for codes, _ in parts]
    )
    lengths = np.concatenate([lengths for _, lengths in parts])
    present = np.flatnonzero(lengths)
    spec = DuplicateSpec(min_identity=min_identity, both_strands=True)
    found = find_groups(Sequences(codes[present], lengths[present], present), len(codes), spec)
    return found.group, found.search


def _without_flanks(codes: Codes) -> tuple[Codes, NDArray[np.int64]]:
    """Return sequences [R, L] from the left and their lengths, without N at the ends and without flanks.

    A flank is what all begin or end with, such as a vector's: it would make unrelated sequences alike.
    """
    known = codes != UNKNOWN
    length_bp = codes.shape[1]
    first = np.where(known.any(axis=1), known.argmax(axis=1), length_bp)
    last = np.where(known.any(axis=1), length_bp - known[:, ::-1].argmax(axis=1), length_bp)
    inside = last > first
    if inside.any():
        shortest = int((last - first)[inside].min())
        left = _num_alike(codes[inside], first[inside], 1, shortest)
        right = _num_alike(codes[inside], last[inside] - 1, -1, shortest)
        if left + right < shortest:
            first, last = np.where(inside, first + left, first), np.where(inside, last - right, last)
    lengths = last - first
    places = np.minimum(first[:, None] + np.arange(max(1, int(lengths.max(initial=0)))), length_bp - 1)
    moved = np.take_along_axis(codes, places, axis=1)
    return np.where(np.arange(moved.shape[1]) < lengths[:, None], moved, np.uint8(UNKNOWN)), lengths


def _num_alike(codes: Codes, begin: NDArray[np.int64], step: int, most: int) -> int:
    """Count the bases from `begin` on, one way or the other, in which all sequences are the same."""
    rows = np.arange(len(codes))
    for number in range(most):
        bases = codes[rows, begin + step * number]
        if (bases != bases[0]).any():
            return number
    return most
