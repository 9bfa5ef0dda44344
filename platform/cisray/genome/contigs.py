"""Find which contig of ours another file means by its own name for it."""

import re
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import NamedTuple, TypeVar

from cisray.errors import InputError

_Key = TypeVar("_Key", bound=Hashable)
_PREFIX = re.compile(r"^(chromosome|chrom|chr)[ _.-]?(?=.)", re.IGNORECASE)
_MITOCHONDRION = {"M", "MT", "MITO", "MTDNA", "MITOCHONDRION"}
_TENS, _ONES = ("", "X", "XX", "XXX"), ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX")
_ROMAN = {_TENS[number // 10] + _ONES[number % 10]: number for number in range(1, 40)}


class ContigMap(NamedTuple):
    """Which of our contigs each foreign name means, and which mean none."""

    names: dict[str, str]
    """Foreign name -> our name; no two foreign names mean one contig."""
    unmatched: tuple[str, ...]
    """Foreign names that mean none of ours, in the order they came; the caller decides what that means."""


def map_contigs(
    foreign: Mapping[str, int | None],
    contig_lengths: Mapping[str, int],
    *,
    source: str,
    ignore: Collection[str] = (),
) -> ContigMap:
    """Match the contigs (name -> length, or None) of `source` with ours, by name first, then by likeness.

    Likeness: `chr` and `chromosome`, letter case, M and MT, and arabic or roman numbers do not count. It
    needs exactly one contig of the same length; where the foreign length is unknown, exactly one contig,
    and no guess between arabic and roman numbers (X may be a sex chromosome). Raises InputError for the
    same name with another length, for a name that may mean two contigs, and for two that mean one.
    """
    wanted = {name: length for name, length in foreign.items() if name not in ignore}
    names = {}
    for name, length in wanted.items():
        if name in contig_lengths:
            _check_length(name, length, contig_lengths[name], source=source)
            names[name] = name
    free = {name: length for name, length in contig_lengths.items() if name not in names}
    by_core, by_number = _grouped(free, _core), _grouped(free, _number)
    for name, length in wanted.items():
        if name in names:
            continue
        alike = dict.fromkeys(by_core.get(_core(name), []))
        if length is not None:
            number = _number(name)
            alike |= dict.fromkeys(by_number.get(number, []) if number is not None else [])
            alike = {ours: None for ours in alike if free[ours] == length}
        if len(alike) > 1:
            raise InputError(f"{source}: contig {name!r} may mean {' or '.join(alike)}; rename it, or have it ignored")
        names.update((name, ours) for ours in alike)
    _check_one_each(names, source=source)
    return ContigMap(
        {name: names[name] for name in wanted if name in names}, tuple(n for n in wanted if n not in names)
    )


def _check_length(name: str, theirs: int | None, ours: int, *, source: str) -> None:
    if theirs is not None and theirs != ours:
        raise InputError(
            f"{source}: contig {name!r} has {theirs} bases there and {ours} in the genome; another assembly? "
            "Give the FASTA file that it was made with"
        )


def _check_one_each(names: Mapping[str, str], *, source: str) -> None:
    for ours, theirs in _grouped(names, names.__getitem__).items():
        if len(theirs) > 1:
            raise InputError(
                f"{source}: contigs {' and '.join(map(repr, theirs))} both mean {ours}; rename one there, "
                "or have it ignored"
            )


def _core(name: str) -> str:
    """Return what is left of a name without its prefix, its case and leading zeros."""
    core = _PREFIX.sub("", name).upper()
    if core in _MITOCHONDRION:
        return "M"
    return str(int(core)) if core.isascii() and core.isdigit() else core


def _number(name: str) -> int | None:
    """Return the number that a name's core writes in arabic or roman digits, if it does."""
    core = _core(name)
    return int(core) if core.isascii() and core.isdigit() else _ROMAN.get(core)


def _grouped(names: Iterable[str], key: Callable[[str], _Key]) -> dict[_Key, list[str]]:
    groups: dict[_Key, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return groups
