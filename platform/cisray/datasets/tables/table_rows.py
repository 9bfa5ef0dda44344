"""Turn the columns of tables into arrays: codes of the sequences, numbers of the measurements, what was left out."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.datasets.tables.table_files import TableFile, read_parts
from cisray.errors import InputError
from cisray.genome.ranges import join_ranges
from cisray.genome.sequence import BASE_CODES

_MISSING = pa.array(["", "na", "n/a", "nan", "null", "none"])
_AMBIGUOUS = b"RYSWKMBDHVXryswkmbdhvx"
"""IUPAC letters of several bases, which are read as N."""
_IS_STRANGE = np.ones(256, bool)
_IS_STRANGE[list(b"ACGTUNacgtun" + _AMBIGUOUS)] = False
_IS_AMBIGUOUS = np.zeros(256, bool)
_IS_AMBIGUOUS[list(_AMBIGUOUS)] = True


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Condition:
    """Which rows are taken, by one column; a row whose value is missing is not."""

    column: str
    at_least: float | None = None
    at_most: float | None = None
    one_of: tuple[str, ...] = ()
    """Texts, one of which the value must be."""

    def __post_init__(self) -> None:
        if (self.at_least is None and self.at_most is None) == (not self.one_of):
            raise InputError(f"where: column {self.column}: wanted at_least or at_most, or one_of")

    def __str__(self) -> str:
        if self.one_of:
            return f"{self.column} one of {', '.join(self.one_of)}"
        bounds = [("at least", self.at_least), ("at most", self.at_most)]
        return f"{self.column} " + " and ".join(f"{word} {value:g}" for word, value in bounds if value is not None)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TableTrack:
    """A column that holds one assay: numbers, or with kind "labels" 0 and 1."""

    column: str
    name: str = ""
    """The track's name; empty: the column's."""
    description: str = ""
    above: float | None = None
    """Makes a label of a number: 1 above this, 0 up to it."""
    positive: tuple[str, ...] = ()
    """Makes a label of a text: 1 for one of these, 0 for any other."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TableColumns:
    """Which files make one table, and what its columns and rows are."""

    files: tuple[TableFile, ...]
    sequences: tuple[str, ...] = ("sequence",)
    """The column of the sequence; several where a row has related ones; or one of lists, in Parquet."""
    id: str | None = None
    """The column of the rows' names; None names them by file and row. One that comes twice gets its row behind it."""
    kind: Literal["measurements", "labels"] = "measurements"
    tracks: tuple[TableTrack, ...]
    covariates: tuple[str, ...] = ()
    """Columns of numbers that a model reads beside the sequence."""
    weight: str | None = None
    """The column of the rows' weights, zero or more."""
    where: tuple[Condition, ...] = ()
    """Rows must meet all of these."""
    limit_rows: int | None = None
    """Only so many rows are taken, the first that meet `where`."""

    def __post_init__(self) -> None:
        if not self.files or not self.sequences or not self.tracks:
            raise InputError("table: wanted at least one of files, one of sequences and one of tracks")
        if self.limit_rows is not None and self.limit_rows < 1:
            raise InputError(f"table: limit_rows={self.limit_rows}; wanted a positive number")
        for track in self.tracks:
            if self.kind == "measurements" and (track.above is not None or track.positive):
                raise InputError(f'tracks: {track.column}: above and positive make labels; set kind = "labels"')
            if track.above is not None and track.positive:
                raise InputError(f"tracks: {track.column}: set above for numbers or positive for texts, not both")

    def columns(self, *more: str | None) -> list[str]:
        """Return every column that is read, each once."""
        names = [*self.sequences, self.id, self.weight, *self.covariates, *more]
        names += [track.column for track in self.tracks] + [condition.column for condition in self.where]
        return list(dict.fromkeys(name for name in names if name is not None))


class Letters(NamedTuple):
    """M sequences of any length, one after the other."""

    codes: NDArray[np.uint8]
    start: NDArray[np.int64]
    """Where each begins in `codes`, [M]."""
    length: NDArray[np.int64]
    """[M]; 0 where a row lacks it."""


class Rows(NamedTuple):
    """The rows of a table, R of them."""

    letters: Letters
    first: NDArray[np.int64]
    """The number of each row's first sequence, [R + 1]."""
    ids: pa.Array
    """Each row's name, [R]; all differ."""
    role: pa.Array | None
    """Each row's text in the column that tells its split, [R]."""
    file: NDArray[np.int64]
    """The number of each row's file, [R]."""
    number: NDArray[np.int64]
    """The row's number in its file, from 1, [R]."""
    targets: NDArray[np.float32]
    """[R, T], NaN where missing."""
    covariates: NDArray[np.float32]
    """[R, K], NaN where missing."""
    weights: NDArray[np.float32] | None
    dropped: dict[str, int]
    facts: dict[str, int]

    def pick(self, which: NDArray[np.int64]) -> "Rows":
        """Return these rows alone, by their numbers, in that order."""
        count = np.diff(self.first)[which]
        each = join_ranges(self.first[which], count)
        return self._replace(
            letters=Letters(self.letters.codes, self.letters.start[each], self.letters.length[each]),
            first=np.r_[0, np.cumsum(count)],
            ids=self.ids.take(which),
            role=None if self.role is None else self.role.take(which),
            file=self.file[which],
            number=self.number[which],
            targets=self.targets[which],
            covariates=self.covariates[which],
            weights=None if self.weights is None else self.weights[which],
        )


class _Part(NamedTuple):
    """Some rows of one file."""

    file: int
    path: Path
    table: pa.Table
    number: NDArray[np.int64]

    def filter(self, kept: NDArray[np.bool_]) -> "_Part":
        return self._replace(table=self.table.filter(pa.array(kept)), number=self.number[kept])

    def place(self, row: int) -> str:
        return f"{self.path}: row {self.number[row]}"


def read_rows(spec: TableColumns, paths: Sequence[Path], role_column: str | None) -> Rows:
    """Read all rows that have a sequence and a measurement; raise InputError naming the file and row that is wrong."""
    dropped = {f"rows that do not meet: {condition}": 0 for condition in spec.where}
    if spec.limit_rows is not None:
        dropped["rows behind the first limit_rows"] = 0
    dropped |= {"rows without a sequence": 0, "rows without any measurement": 0}
    facts = dict.fromkeys(("rows read", "ambiguous letters read as N", "missing covariates"), 0)
    parts = [part for part in _chosen_parts(spec, paths, role_column, dropped, facts) if len(part.number)]
    if not parts:
        told = "; ".join(f"{count} {reason}" for reason, count in dropped.items() if count) or "the files hold none"
        raise InputError(f"{', '.join(map(str, paths))}: no row is left ({told}); loosen where, or name other columns")
    letters, first = _joined_letters([_letters(spec, part, facts) for part in parts])
    file = np.concatenate([np.full(len(part.number), part.file) for part in parts])
    number = np.concatenate([part.number for part in parts])
    rows = Rows(
        letters=letters,
        first=first,
        ids=_names(spec, parts, facts),
        role=_texts(parts, role_column) if role_column else None,
        file=file,
        number=number,
        targets=np.concatenate([_targets(spec, part) for part in parts]),
        covariates=np.concatenate(
            [np.stack([_numbers(part, name) for name in spec.covariates], axis=1).astype(np.float32) for part in parts]
            if spec.covariates
            else [np.empty((len(number), 0), np.float32)]
        ),
        weights=np.concatenate([_weights(part, spec.weight) for part in parts]) if spec.weight else None,
        dropped=dropped,
        facts=facts,
    )
    facts["missing covariates"] = int(np.isnan(rows.covariates).sum())
    return rows


def _chosen_parts(
    spec: TableColumns, paths: Sequence[Path], role_column: str | None, dropped: dict[str, int], facts: dict[str, int]
) -> Iterator[_Part]:
    room = spec.limit_rows if spec.limit_rows is not None else 1 << 62
    for index, (file, path) in enumerate(zip(spec.files, paths, strict=True)):
        read = 0
        for table in read_parts(file, path, spec.columns(role_column)):
            part = _Part(index, path, table, np.arange(read + 1, read + len(table) + 1))
            read += len(table)
            facts["rows read"] += len(table)
            for condition in spec.where:
                part = _counted(part, _meets(part, condition), dropped, f"rows that do not meet: {condition}")
            if spec.limit_rows is not None:
                taken = np.arange(len(part.number)) < room
                part = _counted(part, taken, dropped, "rows behind the first limit_rows")
                room -= len(part.number)
            present = np.zeros(len(part.number), bool)
            for name in spec.sequences:
                present |= _num_letters(part.table[name]) > 0
            part = _counted(part, present, dropped, "rows without a sequence")
            measured = np.asarray(~np.isnan(_targets(spec, part)).all(axis=1))
            yield _counted(part, measured, dropped, "rows without any measurement")


def _counted(part: _Part, kept: NDArray[np.bool_], dropped: dict[str, int], reason: str) -> _Part:
    dropped[reason] += int((~kept).sum())
    return part if kept.all() else part.filter(kept)


def _num_letters(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Count the letters of each row, of all its sequences where it holds a list, [R]."""
    if not _is_list(column):
        return pc.utf8_length(_trimmed(column)).to_numpy().astype(np.int64)
    lists = column.combine_chunks()
    letters = pc.utf8_length(_trimmed(pc.list_flatten(lists))).to_numpy()
    return np.bincount(pc.list_parent_indices(lists).to_numpy(), letters, minlength=len(lists)).astype(np.int64)


def _is_list(column: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_list(column.type) or pa.types.is_large_list(column.type))


def _trimmed(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    return pc.fill_null(pc.utf8_trim_whitespace(column.cast(pa.string())), "")


def _texts(parts: Sequence[_Part], name: str) -> pa.Array:
    return pa.chunked_array([_trimmed(part.table[name]).combine_chunks() for part in parts]).combine_chunks()


def _meets(part: _Part, condition: Condition) -> NDArray[np.bool_]:
    if condition.one_of:
        return pc.is_in(_trimmed(part.table[condition.column]), pa.array(condition.one_of)).to_numpy()
    value = _numbers(part, condition.column)
    meets = ~np.isnan(value)
    if condition.at_least is not None:
        meets &= value >= condition.at_least
    if condition.at_most is not None:
        meets &= value <= condition.at_most
    return meets


def _numbers(part: _Part, name: str) -> NDArray[np.float64]:
    """Return a column's numbers, NaN where one is missing."""
    column = part.table[name].combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = _trimmed(column)
        missing = pc.is_in(pc.utf8_lower(column), _MISSING)
        column = pc.if_else(missing, None, column)
        try:
            column = pc.cast(column, pa.float64())
        except pa.ArrowInvalid:
            row = next(row for row, text in enumerate(column.to_pylist()) if text is not None and not _is_number(text))
            raise InputError(
                f"{part.place(row)}: column {name} holds {column[row].as_py()!r}; wanted a number, or nothing"
            ) from None
    try:
        column = column.cast(pa.float64(), safe=False)  # whole numbers beyond 2^53 are rounded
    except pa.ArrowNotImplementedError:
        raise InputError(f"{part.path}: column {name} is of type {column.type}; wanted numbers") from None
    values = pc.fill_null(column, float("nan")).to_numpy(zero_copy_only=False)
    if np.isinf(values).any():
        row = int(np.flatnonzero(np.isinf(values))[0])
        raise InputError(f"{part.place(row)}: column {name} holds {values[row]}; wanted a number, or nothing")
    return values


def _is_number(text: str) -> bool:
    try:
        pc.cast(pa.array([text]), pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _weights(part: _Part, name: str) -> NDArray[np.float32]:
    values = _numbers(part, name)
    wrong = ~(values >= 0)  # NaN too
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(f"{part.place(row)}: weight {name} is {values[row]:g}; wanted a number of zero or more")
    return values.astype(np.float32)


def _targets(spec: TableColumns, part: _Part) -> NDArray[np.float32]:
    """Return the measurements or labels [R, T]."""
    return np.stack([_target(spec, part, track) for track in spec.tracks], axis=1).astype(np.float32)


def _target(spec: TableColumns, part: _Part, track: TableTrack) -> NDArray[np.float64]:
    if track.positive:
        text = _trimmed(part.table[track.column])
        missing = pc.is_in(pc.utf8_lower(text), _MISSING).to_numpy(zero_copy_only=False)
        return np.where(missing, np.nan, pc.is_in(text, pa.array(track.positive)).to_numpy(zero_copy_only=False))
    values = _numbers(part, track.column)
    if track.above is not None:
        return np.where(np.isnan(values), np.nan, values > track.above)
    if spec.kind == "labels":
        wrong = ~(np.isnan(values) | (values == 0) | (values == 1))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise InputError(
                f"{part.place(row)}: label {track.column} is {values[row]:g}; wanted 0 or 1: set above to make labels "
                'of numbers, or kind = "measurements"'
            )
    return values


def _names(spec: TableColumns, parts: Sequence[_Part], facts: dict[str, int]) -> pa.Array:
    """Return the rows' names; one that is empty or comes again is told apart by its file and row."""
    labels = _file_labels([file.path for file in spec.files])
    places = pa.chunked_array(
        [pc.binary_join_element_wise(labels[part.file], pa.array(part.number).cast(pa.string()), ":") for part in parts]
    ).combine_chunks()
    if spec.id is None:
        return places
    names = _texts(parts, spec.id)
    encoded = pc.dictionary_encode(names).indices.to_numpy()
    again = np.bincount(encoded)[encoded] > 1
    facts["rows with a name that comes again"] = int(again.sum())
    empty = pc.equal(names, "").to_numpy(zero_copy_only=False)
    names = pc.if_else(pa.array(again), pc.binary_join_element_wise(names, places, ":"), names)
    return pc.if_else(pa.array(empty), places, names)


def _file_labels(paths: Sequence[str]) -> list[str]:
    """Return what rows call their file: its name; its path where two have one name, and its number for one path."""
    names, again = Counter(Path(path).name for path in paths), Counter(paths)
    return [
        Path(path).name if names[Path(path).name] == 1 else path if again[path] == 1 else f"{path}#{number}"
        for number, path in enumerate(paths, start=1)
    ]


def _letters(spec: TableColumns, part: _Part, facts: dict[str, int]) -> tuple[NDArray, NDArray, NDArray]:
    """Return codes one after the other, each sequence's length, and each row's number of sequences."""
    if len(spec.sequences) == 1 and _is_list(part.table[spec.sequences[0]]):
        column = part.table[spec.sequences[0]].combine_chunks()
        count = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
        texts = _trimmed(pc.list_flatten(column))
    else:
        columns = [_trimmed(part.table[name]).combine_chunks() for name in spec.sequences]
        count = np.full(len(part.number), len(columns), np.int64)
        order = np.arange(len(columns) * len(count)).reshape(len(columns), -1).T.reshape(-1)
        texts = pa.concat_arrays(columns).take(pa.array(order)) if len(columns) > 1 else columns[0]
    texts = texts.cast(pa.large_binary())
    bounds = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(texts.buffers()[2] or b"", np.uint8)[bounds[0] : bounds[-1]]
    if _IS_STRANGE[data].any():
        at = int(np.flatnonzero(_IS_STRANGE[data])[0])
        which = int(np.searchsorted(bounds - bounds[0], at, side="right")) - 1
        row = int(np.searchsorted(np.cumsum(count), which, side="right"))
        raise InputError(
            f"{part.place(row)}: its sequence holds {chr(data[at])!r} at base {at - bounds[which] + bounds[0] + 1}; "
            "wanted letters of DNA or RNA: A, C, G, T, U, N or an IUPAC code"
        )
    facts["ambiguous letters read as N"] += int(_IS_AMBIGUOUS[data].sum())
    return BASE_CODES[data], np.diff(bounds), count


def _joined_letters(parts: list[tuple[NDArray, NDArray, NDArray]]) -> tuple[Letters, NDArray[np.int64]]:
    length = np.concatenate([lengths for _, lengths, _ in parts])
    count = np.concatenate([counts for _, _, counts in parts])
    start = np.cumsum(length) - length
    return Letters(np.concatenate([codes for codes, _, _ in parts]), start, length), np.r_[0, np.cumsum(count)]
