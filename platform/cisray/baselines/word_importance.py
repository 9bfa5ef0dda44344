"""Which words of the sequence matter to any model, shallow or deep: what is lost, or changes, when a word is N.

A word is written in the letters of IUPAC, so that RTCRYNNNNNACG is one. It is masked wherever it stands, on either
strand, and as a whole.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from cisray.baselines.features import LETTERS
from cisray.baselines.gkm_lmers import Codes
from cisray.baselines.held_out import METRICS
from cisray.baselines.importance import Importance, accuracies
from cisray.baselines.windows import Windows
from cisray.datasets.card import Kind
from cisray.errors import InputError
from cisray.genome.sequence import UNKNOWN

Reader = Callable[[Codes], NDArray[np.floating]]
"""Codes [B, L] to scores [B, T], or [B, N, T] of N bins."""
IUPAC = dict(
    zip("ACGTRYSWKMBDHVN", "A C G T AG CT CG AT GT AC CGT AGT ACT ACG ACGT".split(), strict=True)  # noqa: SIM905
)
"""The bases that each letter of a word stands for."""


def loss_without_words(predict: Reader, windows: Windows, words: Sequence[str], *, kind: Kind) -> Importance:
    """Measure how much accuracy any model loses when a word is N wherever it stands, on either strand.

    Args:
        predict: such as the `decide` of a shallow model.
        windows: that it has not learned from; targets have the shape of what `predict` returns.
        words: letters of IUPAC, each a word by itself.
        kind: of the targets.

    Raises:
        InputError: a word has other letters, or N alone.
    """
    whole = predict(windows.codes)
    measured = accuracies(kind, whole, windows.targets)
    losses, numbers = [], []
    for held, masked in mask_words(windows.codes, words):
        scores = whole.copy()
        if held.any():
            scores[held] = predict(masked)
        losses.append(measured - accuracies(kind, scores, windows.targets))
        numbers.append(int(held.sum()))
    what = f"{METRICS[kind]} lost when the word is N wherever it stands"
    values = np.array(losses).reshape(len(words), -1)
    return Importance("objective", what, tuple(words), values, None, measured, np.array(numbers, np.int64))


def change_without_words(predict: Reader, codes: Codes, words: Sequence[str]) -> Importance:
    """Measure how much a model's output falls when a word is N wherever it stands: what the model makes of the word.

    The mean is over windows that hold the word, on either strand, and over their bins; NaN where none does. The
    deviation is over windows.

    Raises:
        InputError: a word has other letters, or N alone.
    """
    whole = predict(codes)
    means, deviations, numbers = [], [], []
    for held, masked in mask_words(codes, words):
        change = np.full((1, whole.shape[-1]), np.nan)
        if held.any():
            change = whole[held] - predict(masked)
            change = change.reshape(len(change), -1, whole.shape[-1]).mean(axis=1)  # [windows, T]
        means.append(change.mean(axis=0))
        deviations.append(change.std(axis=0))
        numbers.append(int(held.sum()))
    what = "mean fall of the output of windows with the word when it is N"
    shape = len(words), whole.shape[-1]
    values, spreads = (np.array(each, np.float64).reshape(shape) for each in (means, deviations))
    return Importance("subjective", what, tuple(words), values, spreads, None, np.array(numbers, np.int64))


def mask_words(codes: Codes, words: Sequence[str]) -> Iterator[tuple[NDArray[np.bool_], Codes]]:
    """Yield for each word which windows of codes [B, L] hold it, [B], and those with N in its place, [held, L].

    Raises:
        InputError: a word has letters that IUPAC does not know, or N alone.
    """
    for word in words:
        fits = _fits(word)
        found = np.zeros(codes.shape, np.bool_)
        last = max(0, codes.shape[1] - len(fits) + 1)
        for strand in (fits, fits[::-1, [3, 2, 1, 0, UNKNOWN]]):
            begins = np.ones((len(codes), last), np.bool_)
            for place, letters in enumerate(strand):
                if not letters.all():
                    begins &= letters[codes[:, place : place + last]]
            for place in range(len(strand)):
                found[:, place : place + last] |= begins
        found &= codes != UNKNOWN
        held: NDArray[np.bool_] = np.logical_or.reduce(found, axis=1)
        yield held, np.where(found[held], np.uint8(UNKNOWN), codes[held])


def all_words(k: int) -> list[str]:
    """Return every word of `k` bases, one of each pair that the two strands of a sequence make.

    Raises:
        InputError: there are more of them than can be asked for one by one.
    """
    if not 1 <= k <= 6:
        raise InputError(f"word_bp={k}; wanted 1 to 6 bases: name longer words by themselves")
    words = ("".join(letters) for letters in product(LETTERS, repeat=k))
    turn = str.maketrans("ACGT", "TGCA")
    return [word for word in words if word <= word.translate(turn)[::-1]]


def check_word(word: str) -> None:
    """Raise InputError where a word has letters that IUPAC does not know, or N alone."""
    if set(word) - IUPAC.keys() or not word.strip("N"):
        raise InputError(
            f"word {word!r}; wanted letters ACGT, or RYSWKMBDHVN for several bases, and one at least that is not N"
        )


def _fits(word: str) -> NDArray[np.bool_]:
    """Return for each letter of a word which codes fit it, [K, 5]; N fits what is not known too."""
    check_word(word)
    return np.array([[base in IUPAC[letter] for base in LETTERS] + [letter == "N"] for letter in word])
