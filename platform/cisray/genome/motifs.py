"""Read motifs, from a consensus or from a MEME or JASPAR file, and find their best matches in sequences."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import lightmotif
import numpy as np
from numpy.typing import NDArray

from cisray.errors import InputError
from cisray.genome.compression import check_is_file
from cisray.genome.intervals import suggest_names

_IUPAC = {"A": "A", "C": "C", "G": "G", "T": "T", "U": "T", "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT"}
_IUPAC |= {"M": "AC", "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT"}
_BACKGROUND = 0.25
_PSEUDO_SHARE = 0.01  # of every column is background, so that no base has a score of minus infinity
_LETTERS = np.frombuffer(b"ACGTN", np.uint8)
_Parsed = tuple[str, list[list[float]]]  # the line that names a motif, and its rows of four numbers
_NUMBER = re.compile(r"[-+]?[\d.]+(?:[eE][-+]?\d+)?")


class Motif(NamedTuple):
    """What every base at every position of a motif adds to a match's score."""

    name: str
    scores: NDArray[np.float32]
    """[W, 5], by code; N counts as the worst base."""

    @property
    def width(self) -> int:
        """Bases of a match."""
        return len(self.scores)

    @property
    def greatest(self) -> float:
        """Score of the best possible match."""
        return float(self.scores.max(axis=1).sum())


class Matches(NamedTuple):
    """The best match of a motif in each of B sequences, on either strand."""

    score: NDArray[np.float32]
    """[B]."""
    offset: NDArray[np.int64]
    """Where it begins, on the forward strand, [B]; the first of equal ones."""


def consensus_motif(consensus: str) -> Motif:
    """Return IUPAC letters as a motif whose score is the number of positions that fit; raises InputError for others."""
    letters = consensus.upper()
    if not letters or set(letters) - set(_IUPAC):
        raise InputError(f"motif {consensus!r}; wanted letters of the IUPAC code for nucleotides: {''.join(_IUPAC)}")
    fits = [[float(base in _IUPAC[letter]) for base in "ACGT"] + [0.0] for letter in letters]
    return Motif(consensus, np.array(fits, np.float32))


def read_motif(path: Path, name: str | None = None) -> Motif:
    """Read a motif from a MEME or JASPAR file as log2 odds against equal bases; `name` is its identifier or name.

    Raises:
        InputError: the file is missing or of another format, holds no such motif, or several and no name is given.
    """
    motifs = _parse(path)
    if name is None and len(motifs) == 1:
        return _log_odds(path, *motifs[0])
    return _log_odds(path, *_find(path, motifs, name))


def read_motifs(path: Path, names: Sequence[str] = ()) -> list[Motif]:
    """Read motifs from a MEME or JASPAR file as `read_motif` does: all of them, or those that are named, in that order.

    Raises:
        InputError: the file is missing or of another format, holds no motif or none of such a name, or one comes twice.
    """
    motifs = _parse(path)
    found = [_find(path, motifs, name) for name in names] if names else motifs
    if not found:
        raise InputError(f"{path}: holds no motif; wanted at least one, in MEME or JASPAR format")
    label, times = Counter(label for label, _ in found).most_common(1)[0]
    if times > 1:
        asked = "is asked for" if names else "stands there"
        raise InputError(f"{path}: motif {label} {asked} {times} times; wanted each once")
    return [_log_odds(path, *motif) for motif in found]


def best_matches(codes: NDArray[np.uint8], motif: Motif) -> Matches:
    """Find the best match of a motif in each sequence [B, L]; raises InputError where it is longer than they are."""
    if codes.shape[-1] < motif.width:
        raise InputError(f"motif {motif.name} has {motif.width} bases, more than the window's {codes.shape[-1]}")
    scores = scan(codes, motif)
    offset = scores.argmax(axis=1)
    return Matches(np.take_along_axis(scores, offset[:, None], axis=1)[:, 0], offset)


def scan(codes: NDArray[np.uint8], motif: Motif) -> NDArray[np.float32]:
    """Return the score of a match that begins at each base, the better strand's: [..., L] to [..., L - W + 1]."""
    return next(scan_each(codes, [motif]))


def scan_each(codes: NDArray[np.uint8], motifs: Sequence[Motif]) -> Iterator[NDArray[np.float32]]:
    """Yield for each motif what `scan` returns, codes [..., L] being made ready once."""
    striped = lightmotif.stripe(_LETTERS[codes].tobytes().decode("ascii"))
    for motif in motifs:
        last = codes.shape[-1] - motif.width + 1
        if last <= 0 or not codes.size:
            yield np.zeros((*codes.shape[:-1], max(0, last)), np.float32)
            continue
        forward, other = (
            np.asarray(_matrix(table).calculate(striped))
            for table in (motif.scores, motif.scores[::-1, [3, 2, 1, 0, 4]])
        )
        # stripes lie behind one another in memory; a match that spans two sequences is left out
        scores = np.maximum(forward, other).reshape(-1)[: codes.size].reshape(codes.shape)
        yield scores[..., :last]


def _matrix(scores: NDArray[np.float32]) -> lightmotif.ScoringMatrix:
    return lightmotif.ScoringMatrix({letter: scores[:, code].tolist() for code, letter in enumerate("ACGTN")})


def _parse(path: Path) -> list[_Parsed]:
    """Read the motifs of a file as they stand there."""
    check_is_file(path, wanted="a motif file (MEME or JASPAR)")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file; wanted motifs in MEME or JASPAR format") from None
    first = next((line for line in lines if line.strip()), "")
    if first.startswith("MEME version"):
        return _parse_meme(path, lines)
    if first.startswith(">"):
        return _parse_jaspar(path, lines)
    raise InputError(f"{path}: begins with {first[:40]!r}; wanted motifs in MEME or JASPAR format")


def _find(path: Path, motifs: list[_Parsed], name: str | None) -> _Parsed:
    """Return the one motif of a name."""
    alike = [motif for motif in motifs if name in motif[0].split()]
    if len(alike) == 1:
        return alike[0]
    known = [label.split()[0] for label, _ in motifs if label]
    told = f"no motif {name!r}" if name is not None else "several motifs and none is named"
    told = f"{len(alike)} motifs called {name!r}" if len(alike) > 1 else told
    raise InputError(f"{path}: {told}{suggest_names(name or '', known)}; give the identifier of one")


def _parse_meme(path: Path, lines: list[str]) -> list[_Parsed]:
    motifs: list[_Parsed] = []
    rows = 0
    for number, line in enumerate(lines, start=1):
        if line.startswith("MOTIF"):
            motifs.append((line.removeprefix("MOTIF").strip(), []))
        elif line.startswith("letter-probability matrix"):
            width = re.search(r"w=\s*(\d+)", line)
            if not motifs or width is None:
                raise InputError(f"{path}: line {number}: a matrix without a MOTIF line before it or without its w=")
            rows = int(width[1])
        elif rows and line.strip():
            motifs[-1][1].append(_numbers(path, number, line, 4))
            rows -= 1
    return motifs


def _parse_jaspar(path: Path, lines: list[str]) -> list[_Parsed]:
    motifs: list[_Parsed] = []
    bases: list[list[float]] = []
    for number, line in enumerate(lines, start=1):
        if line.startswith(">"):
            bases = []
            motifs.append((line[1:].strip(), []))
        elif line.strip():
            counts = re.sub(r"^\s*[ACGT]?\s*\[?|\]", "", line)
            bases.append(_numbers(path, number, counts, len(bases[0]) if bases else None))
            if len(bases) == 4:
                motifs[-1][1].extend([list(column) for column in zip(*bases, strict=True)])
    return motifs


def _numbers(path: Path, number: int, text: str, wanted: int | None) -> list[float]:
    found = [float(value) for value in _NUMBER.findall(text)]
    if (wanted is not None and len(found) != wanted) or not found or re.sub(_NUMBER, "", text).strip():
        raise InputError(f"{path}: line {number}: {text.strip()[:60]!r}; wanted {wanted or 'a row of'} numbers")
    return found


def _log_odds(path: Path, label: str, rows: list[list[float]]) -> Motif:
    counts = np.array(rows, np.float64).reshape(-1, 4)
    if not len(counts) or (counts < 0).any() or (counts.sum(axis=1) <= 0).any():
        raise InputError(f"{path}: motif {label}: a column is missing or sums to nothing; copy the file again")
    shares = counts / counts.sum(axis=1, keepdims=True)
    odds = np.log2(((1 - _PSEUDO_SHARE) * shares + _PSEUDO_SHARE * _BACKGROUND) / _BACKGROUND)
    return Motif(label, np.c_[odds, odds.min(axis=1)].astype(np.float32))
