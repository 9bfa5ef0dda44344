"""Mine hard negatives: windows without a peak that a trained model takes for positives.

A round scores candidates all over the genome, takes the worst false positives, and writes them as BED; a dataset with
negatives of kind "mined" reads them, a model is trained on it, and the next round begins. Each file holds all rounds.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.files import written_whole
from cisray.genome.bed import read_bed

Predict = Callable[[NDArray[np.uint8]], NDArray[np.floating]]
"""Codes uint8 [B, L] to probabilities [B, N, T]."""
ReadCodes = Callable[[str, NDArray[np.int64]], NDArray[np.uint8]]
"""A contig and starts [B] to codes uint8 [B, L]."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MiningSpec:
    """Which false positives are taken in one round."""

    num_loci: int
    """The most that are taken, those of the highest score."""
    min_score: float = 0.5
    """A window is a false positive above this probability, in any bin and any of the tracks."""
    tracks: tuple[int, ...] = ()
    """Indices of the tracks that count; none means all."""
    spacing_bp: int = 1000
    """Least distance between the starts of two loci, those of earlier rounds too."""
    batch_size: int = 256

    def __post_init__(self) -> None:
        if self.num_loci < 1 or self.spacing_bp < 1 or self.batch_size < 1:
            raise InputError(
                f"mining: num_loci={self.num_loci}, spacing_bp={self.spacing_bp}, batch_size={self.batch_size}; "
                "wanted numbers of 1 or more"
            )


class Mined(NamedTuple):
    """Loci taken for positives, sorted by round and falling score."""

    contig: list[str]
    start: NDArray[np.int64]
    """[M]."""
    score: NDArray[np.float64]
    """The greatest probability among the bins and tracks, [M]."""
    round: NDArray[np.int64]
    """The round that found each, from 1, [M]."""
    num_scored: int
    """Candidates of the last round."""
    num_false: int
    """Those of them above min_score, near ones and such of earlier rounds included."""


NOTHING = Mined([], np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64), 0, 0)


def mine(
    predict: Predict,
    candidates: Iterable[tuple[str, NDArray[np.int64]]],
    read_codes: ReadCodes,
    spec: MiningSpec,
    *,
    earlier: Mined = NOTHING,
) -> Mined:
    """Score candidates, one batch in memory at a time, and return the earlier loci with those of one more round.

    Equal scores are taken in genome order, so that equal predictions give equal loci.

    Args:
        predict: a trained model.
        candidates: contigs and starts of windows without a peak, of the training split alone.
        read_codes: gives the bases of windows.
        spec: which are taken.
        earlier: what earlier rounds found.

    Raises:
        InputError: predictions are no probabilities, or of another shape.
    """
    contigs: list[str] = []
    contig_of, starts, scores = [], [], []
    num_scored = 0
    for contig, start in candidates:
        if contig not in contigs:
            contigs.append(contig)
        for first in range(0, len(start), spec.batch_size):
            part = start[first : first + spec.batch_size]
            score = _scores(predict(read_codes(contig, part)), len(part), spec)
            num_scored += len(part)
            is_false = score > spec.min_score
            starts.append(part[is_false])
            scores.append(score[is_false])
            contig_of.append(np.full(int(is_false.sum()), contigs.index(contig)))
    if not num_scored:
        raise InputError("mining: no candidate to score; the training split has no window without a peak")
    near = _Spaced(spec.spacing_bp)
    for contig, locus in zip(earlier.contig, earlier.start.tolist(), strict=True):
        near.add(contig, locus)
    start, score, number = np.concatenate(starts), np.concatenate(scores), np.concatenate(contig_of)
    taken: list[int] = []
    for row in np.lexsort((start, number, -score)).tolist():
        if len(taken) == spec.num_loci:
            break
        if near.is_free(contigs[number[row]], int(start[row])):
            near.add(contigs[number[row]], int(start[row]))
            taken.append(row)
    this_round = int(earlier.round.max(initial=0)) + 1
    return Mined(
        contig=earlier.contig + [contigs[number[row]] for row in taken],
        start=np.r_[earlier.start, start[taken]],
        score=np.r_[earlier.score, score[taken]],
        round=np.r_[earlier.round, np.full(len(taken), this_round)],
        num_scored=num_scored,
        num_false=len(start),
    )


def write_mined(path: Path, mined: Mined, *, window_bp: int) -> None:
    """Write loci as BED: contig, start, end, "round1", probability; equal loci give equal bytes."""
    rows = zip(mined.contig, mined.start.tolist(), mined.score.tolist(), mined.round.tolist(), strict=True)
    with written_whole(path) as aside:
        aside.write_text(
            "".join(
                f"{contig}\t{start}\t{start + window_bp}\tround{number}\t{score:.6f}\n"
                for contig, start, score, number in rows
            ),
            encoding="utf-8",
        )


def read_mined(path: Path) -> Mined:
    """Read what `write_mined` wrote; raise InputError with the line where it did not."""
    bed = read_bed(path)
    names, texts = bed.column(4, called="round"), bed.column(5, called="probability")
    rounds, scores = [], []
    for row, (name, text) in enumerate(zip(names.tolist(), texts.tolist(), strict=True)):
        number = name.removeprefix("round")
        try:
            rounds.append(int(number))
            scores.append(float(text))
        except ValueError:
            raise InputError(
                f"{bed.where(row)}: {name!r} and {text!r}; wanted mined loci: round1, round2 and on in column 4, "
                "a probability in column 5"
            ) from None
    return Mined(
        contig=[bed.contigs[index] for index in bed.contig.tolist()],
        start=bed.start,
        score=np.array(scores),
        round=np.array(rounds, np.int64),
        num_scored=0,
        num_false=0,
    )


class _Spaced:
    """Loci of which no two begin nearer than `spacing_bp`, and that are found fast."""

    def __init__(self, spacing_bp: int) -> None:
        self._spacing_bp = spacing_bp
        self._at: dict[tuple[str, int], list[int]] = {}

    def add(self, contig: str, start: int) -> None:
        self._at.setdefault((contig, start // self._spacing_bp), []).append(start)

    def is_free(self, contig: str, start: int) -> bool:
        cell = start // self._spacing_bp
        near = [other for step in (-1, 0, 1) for other in self._at.get((contig, cell + step), [])]
        return all(abs(other - start) >= self._spacing_bp for other in near)


def _scores(predictions: NDArray[np.floating], num_windows: int, spec: MiningSpec) -> NDArray[np.float64]:
    """Return the greatest probability of each window, [B]."""
    if predictions.ndim != 3 or len(predictions) != num_windows:
        raise InputError(f"mining: predictions of shape {predictions.shape}; wanted [{num_windows}, bins, tracks]")
    if spec.tracks and not 0 <= min(spec.tracks) <= max(spec.tracks) < predictions.shape[2]:
        raise InputError(f"mining: tracks={list(spec.tracks)}; the model has {predictions.shape[2]}, counted from 0")
    chosen = predictions[:, :, list(spec.tracks)] if spec.tracks else predictions
    score = chosen.reshape(num_windows, -1).astype(np.float64).max(axis=1)
    if not ((score >= 0) & (score <= 1)).all():
        raise InputError(
            f"mining: a prediction from {score.min():g} to {score.max():g}; wanted probabilities, so give a model of "
            "labels, and its sigmoid"
        )
    return score
