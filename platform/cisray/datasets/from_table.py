"""Build examples from tables of measured sequences: reporter assays, promoters, untranslated regions, classes in FASTA.

A row of a table becomes an example on a contig of its own, which its name names: start 0, end its true length. The
files are read once per process and not per shard: compressed text has no place to jump to, and what is kept of them,
a byte per base, is less than what a shard of signal tracks takes.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from cisray.config import STRICT, check_settings, data_path
from cisray.datasets.card import Genome, Inputs, Kind, Track, check_tracks
from cisray.datasets.loci.folds import SPLITS
from cisray.datasets.schema import SHUFFLED, Examples, Layout, Loci, make_rows
from cisray.datasets.source import BuiltShard, Plan, PlannedShard
from cisray.datasets.statistics import Tally
from cisray.datasets.tables.crossings import CrossingRecord, crosses, find_crossings, resolve, write_crossings
from cisray.datasets.tables.duplicates import DuplicateSpec, Groups, Sequences, find_groups
from cisray.datasets.tables.row_splits import NO_SPLIT, Roles, SplitSpec, check_filled, deal, given_splits, row_digest
from cisray.datasets.tables.shuffles import ShuffleSpec, positives, shuffled
from cisray.datasets.tables.table_rows import Letters, Rows, TableColumns, read_rows
from cisray.errors import InputError
from cisray.genome.ranges import join_ranges
from cisray.genome.sequence import UNKNOWN, encode
from cisray.geometry import Geometry

_SHOWN = 50  # crossings that the card holds
_CHUNK_ROWS = 4096
_UNCHANGED = "shuffled sequences that have no other order"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TableSpec(TableColumns):
    """What a dataset made of a table reads from its job file."""

    split: SplitSpec
    duplicates: DuplicateSpec = DuplicateSpec()
    negatives: ShuffleSpec | None = None
    """Made of the positives, beside those that the table lists; None makes none."""
    length_bp: int | None = None
    """Length of every example, flanks and all; None: of the longest row."""
    align: Literal["left", "right", "center"] = "left"
    """Where a shorter sequence lies; the rest is filled up with N."""
    too_long: Literal["refuse", "crop"] = "refuse"
    """A longer sequence is an error, or keeps the part that `align` names."""
    prefix: str = ""
    """Bases before every sequence, such as the vector's."""
    suffix: str = ""
    shard_rows: int = 50_000
    """Rows in one shard of work."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shard_rows < 1:
            raise InputError(f"table: shard_rows={self.shard_rows}; wanted a positive number")
        flanks = len(self.prefix) + len(self.suffix)
        if self.length_bp is not None and self.length_bp <= flanks:
            raise InputError(f"table: length_bp={self.length_bp} leaves no base between flanks of {flanks} bp")
        if strange := (self.prefix + self.suffix).upper().strip("ACGTUN"):
            raise InputError(f"table: prefix or suffix holds {strange[0]!r}; wanted letters A, C, G, T, U or N")
        if self.kind == "labels" and self.duplicates.repeats == "mean":
            raise InputError('duplicates: repeats = "mean" is for measurements; the mean of two labels is none')
        if self.kind != "labels" and self.negatives is not None:
            raise InputError('negatives: made of rows whose label is true; measurements have none: set kind = "labels"')


class TableSource:
    """Makes examples of the rows of tables; satisfies datasets.source.Source."""

    def __init__(self, spec: TableSpec, data_dir: str | None) -> None:
        self._spec = spec
        self.kind: Kind = spec.kind
        self.genome: Genome | None = None
        self.paths: list[Path] = [data_path(file.path, data_dir) for file in spec.files]
        self.contig_names: dict[str, dict[str, str]] = {}
        self.absent_contigs: dict[str, list[str]] = {}
        names = ", ".join(dict.fromkeys(file.path for file in spec.files))
        self.tracks: tuple[Track, ...] = tuple(
            check_settings(
                {"name": track.name or track.column, "file": names, "description": track.description},
                Track,
                source=f"tracks: column {track.column}",
            )
            for track in spec.tracks
        )
        check_tracks(self.tracks)
        rows = read_rows(spec, self.paths, spec.split.column)
        rows, self._cropped = _cropped(spec, rows)
        self._rows, self._merged = _averaged(rows) if spec.duplicates.repeats == "mean" else (rows, 0)
        flanks = len(spec.prefix) + len(spec.suffix)
        longest = int(self._rows.letters.length.max())
        length_bp = spec.length_bp if spec.length_bp is not None else longest + flanks
        self.layout = Layout(
            Geometry(window_bp=length_bp, bin_bp=length_bp),
            tuple(track.name for track in self.tracks),
            "u1" if spec.kind == "labels" else "<f4",
            Inputs(
                sequences=int(np.diff(self._rows.first).max()),
                covariates=spec.covariates,
                weighted=spec.weight is not None,
            ),
        )

    def plan(self) -> Plan:
        """Group duplicates, give every row to a split, and cut the splits into shards.

        Raises:
            InputError: a split has no row, or duplicates cross the splits that the table gives and are refused.
        """
        spec, rows = self._spec, self._rows
        sequences = _for_comparison(rows)
        groups = find_groups(sequences, len(rows.number), spec.duplicates)
        dropped, split = dict(rows.dropped), given_splits(spec.split, rows.role)
        across: dict[str, Any] = {}
        if split is not None:
            across = self._look_across(sequences, groups, split)
            dropped["rows whose text in the split's column names none"] = int((split == NO_SPLIT).sum())
            resolved = resolve(spec.duplicates, groups.group, split)
            dropped["rows of duplicates that cross splits"] = int(((resolved == NO_SPLIT) & (split != NO_SPLIT)).sum())
            split = resolved
        digest = [row_digest(spec.split.seed, bases) for bases in _row_bases(rows)]
        roles = deal(spec.split, groups.group, digest, split)
        check_filled(roles.split)
        shards = self._shards(roles, np.arange(len(rows.number)))
        facts = self._facts(groups, roles.split) | across
        if spec.negatives is not None:
            facts["shuffled_rows"] = self._add_negatives(shards, roles, spec.negatives)
        return Plan(shards, dropped, {}, facts)

    def build(self, values: dict[str, Any]) -> BuiltShard:
        """Make the examples of the rows that a planned shard lists."""
        spec, rows, dropped = self._spec, self._rows.pick(np.array(values["rows"], np.int64)), dict[str, int]()
        if spec.negatives is not None:
            dropped[_UNCHANGED] = 0
        if "copies" in values and spec.negatives is not None:
            copies = np.array(values["copies"], np.int64)
            rows, dropped[_UNCHANGED] = shuffled(rows, copies, seed=spec.negatives.seed)
        num_rows = len(rows.number)
        codes, present = _filled(spec, rows, self.layout)
        targets = rows.targets[:, None, :]  # [B, 1, T]
        single = self.layout.inputs.sequences == 1
        examples = Examples(
            codes=codes[:, 0] if single else codes,
            targets=targets,
            present=None if single else present,
            covariates=rows.covariates if spec.covariates else None,
            weights=rows.weights,
        )
        longest = np.maximum.reduceat(rows.letters.length, rows.first[:-1]) if num_rows else np.zeros(0, np.int64)
        loci = Loci(
            contig=rows.ids.to_pylist(),
            start=np.zeros(num_rows, np.int64),
            end=longest + len(spec.prefix) + len(spec.suffix),
            strand=[SHUFFLED if "copies" in values else "+"] * num_rows,
            fold=np.full(num_rows, values["fold"], np.int16),
        )
        return BuiltShard(make_rows(self.layout, loci, examples), Tally.of(targets, self.tracks), dropped)

    def _add_negatives(self, shards: list[PlannedShard], roles: Roles, spec: ShuffleSpec) -> int:
        """Plan shards of negatives beside those of their splits; return how many negatives there are at most."""
        wanted = np.isin(roles.split, [SPLITS.index(name) for name in spec.splits]) & positives(self._rows)
        row = np.repeat(np.flatnonzero(wanted), spec.ratio)
        shards += self._shards(Roles(roles.split[row], roles.fold[row]), row, spec.ratio)
        shards.sort(key=lambda shard: SPLITS.index(shard.split))  # stable
        return len(row)

    def _shards(self, roles: Roles, row: NDArray[np.int64], ratio: int = 0) -> list[PlannedShard]:
        """Cut rows, by their numbers [R] and roles, into shards; of negatives, `ratio` stand in a line of one row."""
        shards = []
        for role, name in enumerate(SPLITS):
            for fold in np.unique(roles.fold[roles.split == role]).tolist():
                members = np.flatnonzero((roles.split == role) & (roles.fold == fold))
                for index, start in enumerate(range(0, len(members), self._spec.shard_rows)):
                    some = members[start : start + self._spec.shard_rows]
                    values = {"fold": fold, "rows": row[some].tolist()}
                    values |= {"copies": (some % ratio).tolist()} if ratio else {}
                    label = f"part-fold{fold}-{index:05d}" + ("-shuffled" if ratio else "")
                    shards.append(PlannedShard(label, name, len(some), values))
        return shards

    def _look_across(self, sequences: Sequences, groups: Groups, split: NDArray[np.int8]) -> dict[str, Any]:
        """Return the facts of groups that cross the table's splits, and list them; raise InputError if not wanted."""
        spec = self._spec.duplicates
        crossings = find_crossings(sequences, groups, split, spec)
        records = [
            CrossingRecord(self._place(row), SPLITS[split[row]], self._place(other), SPLITS[split[other]], edits)
            for row, other, edits in crossings
        ]
        if spec.list_path is not None:
            write_crossings(Path(spec.list_path), records)
        rows, equal = crosses(groups.group, split), crosses(groups.same, split)
        if crossings and spec.across_splits == "refuse":
            counts = ", ".join(f"{name} {int((rows & (split == role)).sum())}" for role, name in enumerate(SPLITS))
            listed = f"All stand in {spec.list_path}" if spec.list_path else "Set duplicates.list_path to list all"
            raise InputError(
                f"{self.paths[0]}: duplicates (identity of {spec.min_identity:g} or more) cross the splits of column "
                f"{self._spec.split.column}; rows of such groups: {counts}. "
                f"The first: {'; '.join(map(str, records[:3]))}. {listed}; "
                'set duplicates.across_splits to "group", "drop_from_train" or "keep"'
            )
        return {
            "duplicates across the table's splits": {
                "rows": {name: int((rows & (split == role)).sum()) for role, name in enumerate(SPLITS)},
                "rows of equal sequences": {
                    name: int((equal & (split == role)).sum()) for role, name in enumerate(SPLITS)
                },
                "rows with a near-duplicate in an earlier split": sum(edits is not None for _, _, edits in crossings),
                "first": [record._asdict() for record in records[:_SHOWN]],
            }
        }

    def _place(self, row: int) -> str:
        """Return a row's name, with its file and number where the name does not hold them."""
        name = self._rows.ids[row].as_py()
        where = f"{self.paths[self._rows.file[row]].name}:{self._rows.number[row]}"
        return name if name.endswith(where) else f"{name} ({where})"

    def _facts(self, groups: Groups, split: NDArray[np.int8]) -> dict[str, Any]:
        rows, inside = self._rows, split != NO_SPLIT
        sizes, equal_sizes = np.bincount(groups.group[inside]), np.bincount(groups.same[inside])
        return {
            **rows.facts,
            "cropped sequences": self._cropped,
            "rows merged into the mean of their repeats": self._merged,
            "missing measurements": int(np.isnan(rows.targets[inside]).sum()),
            "shortest and longest sequence, bp": [int(rows.letters.length.min()), int(rows.letters.length.max())],
            "duplicates": {
                "search": groups.search._asdict(),
                "rows of equal sequences": int(equal_sizes[equal_sizes > 1].sum()),
                "rows of equal sequences that are measured differently": _differing(groups.same, rows.targets, inside),
                "rows of near-duplicates": int(sizes[sizes > 1].sum()),
                "groups of near-duplicates": int((sizes > 1).sum()),
                "rows of the largest group": int(sizes.max()),
            },
        }


def _cropped(spec: TableSpec, rows: Rows) -> tuple[Rows, int]:
    """Cut sequences to what `length_bp` leaves beside the flanks; return how many were longer."""
    if spec.length_bp is None:
        return rows, 0
    room = spec.length_bp - len(spec.prefix) - len(spec.suffix)
    excess = np.maximum(rows.letters.length - room, 0)
    num_longer = int((excess > 0).sum())
    if num_longer and spec.too_long == "refuse":
        row = int(np.searchsorted(rows.first, int(np.flatnonzero(excess)[0]), side="right")) - 1
        raise InputError(
            f"{spec.files[rows.file[row]].path}: row {rows.number[row]}: {int((excess + room)[excess > 0][0])} bases, "
            f"and {num_longer - 1} more such sequences; length_bp={spec.length_bp} leaves room for {room} beside the "
            'flanks: raise it, or set too_long = "crop"'
        )
    cut = {"left": 0 * excess, "right": excess, "center": excess // 2}[spec.align]
    letters = Letters(rows.letters.codes, rows.letters.start + cut, rows.letters.length - excess)
    return rows._replace(letters=letters), num_longer


def _row_bases(rows: Rows) -> Iterator[bytes]:
    """Yield each row's sequences as one text that no other sequences make."""
    letters, data = rows.letters, rows.letters.codes.tobytes()
    ends = letters.start + letters.length
    for first, last in zip(rows.first[:-1].tolist(), rows.first[1:].tolist(), strict=True):
        yield b"|".join(data[letters.start[each] : ends[each]] for each in range(first, last))


def _averaged(rows: Rows) -> tuple[Rows, int]:
    """Make one row, the first, of those with equal sequences and one text for their split; count the others."""
    roles = rows.role.to_pylist() if rows.role is not None else [None] * len(rows.number)
    keys = zip(_row_bases(rows), roles, strict=True)
    number_of: dict[tuple[bytes, str | None], int] = {}
    number = np.array([number_of.setdefault(key, len(number_of)) for key in keys])
    kept = np.unique(number, return_index=True)[1]
    weights = np.ones(len(number)) if rows.weights is None else rows.weights.astype(np.float64)
    weights[np.bincount(number, weights)[number] == 0] = 1.0  # where none counts, all count alike

    def mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
        known = ~np.isnan(values)
        total, share = np.zeros((len(kept), values.shape[1])), np.zeros((len(kept), values.shape[1]))
        np.add.at(total, number, np.where(known, values, 0) * weights[:, None])
        np.add.at(share, number, known * weights[:, None])
        with np.errstate(invalid="ignore"):  # 0 / 0: none of them has this value
            return (total / share).astype(np.float32)

    averaged = rows.pick(kept)._replace(
        targets=mean(rows.targets),
        covariates=mean(rows.covariates),
        weights=None if rows.weights is None else np.bincount(number, rows.weights).astype(np.float32),
    )
    return averaged, len(number) - len(kept)


def _differing(same: NDArray[np.int64], targets: NDArray[np.float32], inside: NDArray[np.bool_]) -> int:
    """Count rows of equal sequences whose measurements are not all equal."""
    least = np.full((int(same.max()) + 1, targets.shape[1]), np.inf)
    greatest = -least
    np.fmin.at(least, same[inside], targets[inside])
    np.fmax.at(greatest, same[inside], targets[inside])
    differing = np.asarray((least < greatest).any(axis=1))
    return int((inside & differing[same]).sum())


def _for_comparison(rows: Rows) -> Sequences:
    """Return the sequences without flanks, one matrix."""
    letters = rows.letters
    present = np.flatnonzero(letters.length)
    codes = np.full((len(present), int(letters.length.max())), UNKNOWN, np.uint8)
    _copy(letters, present, codes, np.zeros(len(present), np.int64))
    row = np.repeat(np.arange(len(rows.number)), np.diff(rows.first))
    return Sequences(codes, letters.length[present], row[present])


def _copy(letters: Letters, sequence: NDArray[np.int64], into: NDArray[np.uint8], left: NDArray[np.int64]) -> None:
    """Copy sequences into rows of `into`, each from the place `left` on."""
    for first in range(0, len(sequence), _CHUNK_ROWS):
        some = slice(first, first + _CHUNK_ROWS)
        length = letters.length[sequence[some]]
        row = np.repeat(np.arange(len(length)), length)
        source = join_ranges(letters.start[sequence[some]], length)
        into[some][row, join_ranges(left[some], length)] = letters.codes[source]


def _filled(spec: TableSpec, rows: Rows, layout: Layout) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return codes [B, S, L] with flanks, filled up with N, and which sequences there are [B, S]."""
    num, length_bp = layout.inputs.sequences, layout.geometry.window_bp
    num_rows = len(rows.number)
    sequence = np.flatnonzero(rows.letters.length)
    place = join_ranges(num * np.arange(num_rows), np.diff(rows.first))[sequence]
    length = rows.letters.length[sequence]
    prefix, suffix = encode(spec.prefix), encode(spec.suffix)
    free = length_bp - length - len(prefix) - len(suffix)
    left = {"left": 0 * free, "right": free, "center": free // 2}[spec.align]
    found = np.full((len(sequence), length_bp), UNKNOWN, np.uint8)
    each = np.arange(len(sequence))[:, None]
    found[each, left[:, None] + np.arange(len(prefix))] = prefix
    _copy(rows.letters, sequence, found, left + len(prefix))
    found[each, (left + len(prefix) + length)[:, None] + np.arange(len(suffix))] = suffix
    codes = np.full((num_rows * num, length_bp), UNKNOWN, np.uint8)
    codes[place] = found
    present = np.zeros(num_rows * num, np.uint8)
    present[place] = 1
    return codes.reshape(num_rows, num, length_bp), present.reshape(num_rows, num)
