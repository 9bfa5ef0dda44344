"""Read and write targets.txt, the tracks of Calico's datasets (Basenji2, Borzoi): tab-separated, a line per track.

    (no name)     the track's index; a subset keeps the indices of the whole
    genome        the genome's number, in Basenji2's files alone; one file holds tracks of one
    identifier    its name
    file          its signal
    clip, clip_soft, scale, sum_stat    its transform, see datasets.transforms; avg and avg_sqrt are mean and mean_sqrt
    strand_pair   index of the track of the other strand, its own where it has none; where the column is missing,
                  X+ and X- are a pair
    description   ASSAY:what

Three columns are ours, and are written only where a track needs them: uncovered, smooth_bp and order. Without them, a
base that a file leaves out is a zero: Calico's code sets it to the window's median, which NumPy makes NaN there, and
then NaN to 0.
"""

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.datasets.card import Track
from cisray.datasets.transforms import Order
from cisray.errors import InputError
from cisray.files import written_whole
from cisray.genome.compression import GZIP_ERRORS, check_is_file, open_unpacked

_NEEDED = ("identifier", "file", "sum_stat", "description")
_ALIASES = {"avg": "mean", "avg_sqrt": "mean_sqrt"}
_TEMPLATE_FIELDS = "{index}, {identifier}, {name} and {stem}"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Relocation:
    """Where the files that a targets.txt names lie here; by default, where it says."""

    prefix: dict[str, str] = field(default_factory=dict)
    """Folder there to folder here, such as "/home/drk/tillage/datasets" = "mydata"; the longest that fits counts."""
    suffix: dict[str, str] = field(default_factory=dict)
    """Ending there to ending here, such as ".w5" = ".bw"."""
    template: str | None = None
    """Path below data_dir made anew, such as "bigwig/{index:02}_{identifier}.bw"; {name} and {stem} are the file's."""

    def __post_init__(self) -> None:
        if self.template is not None and (self.prefix or self.suffix):
            raise InputError("relocate: template makes the whole path anew; leave out prefix and suffix, or template")


AS_WRITTEN = Relocation()


class Targets(NamedTuple):
    """The tracks of a targets.txt, in its order."""

    tracks: tuple[Track, ...]
    indices: tuple[int, ...]
    """Each track's index: its position in the whole that a subset was taken from."""


class _Line(NamedTuple):
    """A line's number in the file, from 1, and its values by column."""

    path: Path
    number: int
    values: dict[str, str]

    def __str__(self) -> str:
        return f"{self.path}: line {self.number}"

    def number_in(self, column: str) -> float | None:
        """Return the number in a column; None where the column is missing or empty."""
        text = self.values.get(column, "")
        try:
            value = float(text) if text else None
        except ValueError:
            value = math.nan
        if value is not None and not math.isfinite(value):
            raise InputError(f"{self}: {column} is {text!r}; wanted a number, or nothing")
        return value

    def index_in(self, column: str) -> int:
        """Return the index in a column."""
        text = self.values[column]
        try:
            return int(text)
        except ValueError:
            raise InputError(f"{self}: {column} is {text!r}; wanted the index of a track, a whole number") from None


def read_targets(path: Path, *, relocate: Relocation = AS_WRITTEN, order: Order = "new") -> Targets:
    """Read targets.txt, plain or gzip; `order` is the one its dataset was or will be made with.

    Raises:
        InputError: a column is missing; a line holds what is none; two tracks share an identifier or an index; a
            strand pair is not in the file; or a relocation fits no file.
    """
    lines = _read_lines(path)
    _check_one_genome(path, lines)
    indices = tuple(line.index_in("index") for line in lines)
    names = [line.values["identifier"] for line in lines]
    _check_unique(lines, names, column="identifier")
    _check_unique(lines, [str(number) for number in indices], column="index")
    pairs = _strand_pairs(lines, dict(zip(indices, names, strict=True)))
    files = _relocated(path, lines, relocate)
    tracks = [
        _read_track(line, file=file, strand_pair=pair, order=order)
        for line, file, pair in zip(lines, files, pairs, strict=True)
    ]
    return Targets(tuple(tracks), indices)


def write_targets(path: Path, tracks: Sequence[Track]) -> None:
    """Write tracks as a targets.txt that `read_targets` returns unchanged.

    Raises:
        InputError: a file's name or a description holds a tab or a line end.
    """
    for track in tracks:
        if re.search(r"[\t\r\n]", track.file + track.description):
            raise InputError(
                f"track {track.name}: its file or description holds a tab or a line end, which a line of targets.txt "
                "cannot; replace it by a space"
            )
    index = {track.name: number for number, track in enumerate(tracks)}
    columns: dict[str, list[Any]] = {
        "": list(range(len(tracks))),
        "identifier": [track.name for track in tracks],
        "file": [track.file for track in tracks],
        "clip": [_shortest(track.clip) for track in tracks],
        "clip_soft": [_shortest(track.clip_soft) for track in tracks],
        "scale": [repr(track.scale) for track in tracks],
        "sum_stat": [track.statistic for track in tracks],
        "strand_pair": [index[track.strand_pair or track.name] for track in tracks],
        "description": [track.description for track in tracks],
        "uncovered": [track.uncovered for track in tracks],
        "smooth_bp": [track.smooth_bp for track in tracks],
        "order": [track.order for track in tracks],
    }
    usual = {"clip": "", "clip_soft": "", "uncovered": "zero", "smooth_bp": 1, "order": "new"}
    kept = {name: values for name, values in columns.items() if name not in usual or set(values) != {usual[name]}}
    with written_whole(path) as aside, aside.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, delimiter="\t", lineterminator="\n")
        writer.writerow(kept)
        writer.writerows(zip(*kept.values(), strict=True))


def _shortest(value: float | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if value.is_integer() else repr(value)


def _read_lines(path: Path) -> list[_Line]:
    check_is_file(path, wanted="a targets.txt")
    try:
        with open_unpacked(path) as handle, io.TextIOWrapper(handle, encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, delimiter="\t")
            header = next(reader, [])
            _check_header(path, header)
            rows = [(reader.line_num, row) for row in reader if row]
    except GZIP_ERRORS as error:
        raise InputError(f"{path}: truncated or damaged gzip file ({error}); copy or make it again") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable table ({error}); wanted text, columns parted by tabs") from None
    for number, row in rows:
        if len(row) != len(header):
            raise InputError(f"{path}: line {number}: {len(row)} columns; wanted {len(header)}, as in the first line")
    if not rows:
        raise InputError(f"{path}: holds no track; wanted a line for each below the first")
    names = ["index", *header[1:]]
    return [_Line(path, number, dict(zip(names, row, strict=True))) for number, row in rows]


def _check_header(path: Path, header: Sequence[str]) -> None:
    present = ", ".join(name or "(no name)" for name in header) or "none"
    for name in _NEEDED:
        if name not in header:
            raise InputError(f"{path}: no column {name}; wanted {', '.join(_NEEDED)}, parted by tabs; found {present}")
    if header[0] not in ("", "index"):
        raise InputError(
            f"{path}: the first column is {header[0]}; wanted the tracks' index there, called index or nothing"
        )
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise InputError(f"{path}: two columns are called {twice[0] or '(no name)'}; give each its own name")


def _check_one_genome(path: Path, lines: Sequence[_Line]) -> None:
    genomes = sorted({line.values["genome"] for line in lines if "genome" in line.values})
    if len(genomes) > 1:
        raise InputError(
            f"{path}: tracks of genomes {', '.join(genomes)}; a dataset has one: keep the lines of one genome"
        )


def _check_unique(lines: Sequence[_Line], values: Sequence[str], *, column: str) -> None:
    first: dict[str, int] = {}
    for line, value in zip(lines, values, strict=True):
        if value in first:
            raise InputError(
                f"{line.path}: lines {first[value]} and {line.number} have one {column}, {value}; give each its own"
            )
        first[value] = line.number


def _strand_pairs(lines: Sequence[_Line], name_of: dict[int, str]) -> list[str | None]:
    """Return the name of each track's pair on the other strand; None where it has none."""
    if "strand_pair" not in lines[0].values:
        names = set(name_of.values())
        flipped = {
            name: name[:-1] + ("-" if name.endswith("+") else "+") for name in names if name.endswith(("+", "-"))
        }
        return [flipped[name] if flipped.get(name) in names else None for name in name_of.values()]
    number_of = {line.index_in("index"): line.index_in("strand_pair") for line in lines}
    for line in lines:
        own, other = line.index_in("index"), line.index_in("strand_pair")
        if other not in number_of:
            raise InputError(
                f"{line}: strand_pair {other} is the index of no line; keep both strands of an assay, "
                f"or write its own index, {own}, for a track without strands"
            )
        if number_of[other] != own:
            raise InputError(
                f"{line}: strand_pair {other}, whose own is {number_of[other]}; a pair must name each other"
            )
    return [None if own == other else name_of[other] for own, other in number_of.items()]


def _relocated(path: Path, lines: Sequence[_Line], relocate: Relocation) -> list[str]:
    """Return where each track's file lies here; raise InputError for a rule that fits none of them."""
    used: set[str] = set()
    files = []
    for line in lines:
        file = line.values["file"]
        if relocate.template is not None:
            file = _filled(relocate.template, line)
        folders = [folder for folder in relocate.prefix if PurePosixPath(file).is_relative_to(folder)]
        if folders:
            folder = max(folders, key=len)
            file = str(relocate.prefix[folder] / PurePosixPath(file).relative_to(folder))
            used.add(folder)
        endings = [ending for ending in relocate.suffix if file.endswith(ending)]
        if endings:
            ending = max(endings, key=len)
            file = file.removesuffix(ending) + relocate.suffix[ending]
            used.add(ending)
        files.append(file)
    idle = [rule for rule in (*relocate.prefix, *relocate.suffix) if rule not in used]
    if idle:
        raise InputError(f"{path}: relocate {idle[0]!r} fits no file; the first is {lines[0].values['file']}")
    return files


def _filled(template: str, line: _Line) -> str:
    name = PurePosixPath(line.values["file"]).name
    stem = name.split(".")[0]
    try:
        return template.format(index=line.index_in("index"), identifier=line.values["identifier"], name=name, stem=stem)
    except (KeyError, IndexError, AttributeError, ValueError) as error:
        raise InputError(
            f"relocate: template {template!r} cannot be filled ({error!r}); its fields are {_TEMPLATE_FIELDS}, "
            "as in bigwig/{index:02}_{identifier}.bw"
        ) from None


def _read_track(line: _Line, *, file: str, strand_pair: str | None, order: Order) -> Track:
    statistic = line.values["sum_stat"]
    scale = line.number_in("scale")
    settings: dict[str, Any] = {
        "name": line.values["identifier"],
        "file": file,
        "description": line.values["description"],
        "statistic": _ALIASES.get(statistic, statistic),
        "uncovered": line.values.get("uncovered") or "zero",
        "smooth_bp": line.number_in("smooth_bp") or 1,
        "scale": 1.0 if scale is None else scale,
        "clip_soft": line.number_in("clip_soft"),
        "clip": line.number_in("clip"),
        "order": line.values.get("order") or order,
        "strand_pair": strand_pair,
    }
    try:
        return Track(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        setting = str(first["loc"][0]) if first["loc"] else ""
        column = {"statistic": "sum_stat", "name": "identifier"}.get(setting, setting)
        problem = first["msg"].removeprefix("Value error, ")
        raise InputError(
            f"{line}: {column} is {first['input']!r}: {problem}" if column else f"{line}: {problem}"
        ) from None
