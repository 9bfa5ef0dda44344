"""What `cisray importance` is asked for."""

from typing import Literal, get_args

from pydantic import Field
from pydantic.dataclasses import dataclass

from cisray.baselines.word_importance import check_word
from cisray.bundle import Strands
from cisray.config import STRICT
from cisray.errors import InputError
from cisray.flows.cluster import ClusterSpec

Measure = Literal["shuffled", "removed", "words", "coefficients", "change", "stability"]
MEASURES: tuple[Measure, ...] = get_args(Measure)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImportanceJob:
    """What `cisray importance` is asked for."""

    model: str
    """A bundle's folder."""
    dataset: str
    out: str
    split: Literal["valid", "test"] = "test"
    """What accuracy is measured on; on the training split none would be objective."""
    head: str | None = None
    """Which head is looked at, of a model that has several."""
    by: tuple[Measure, ...] = ()
    """None takes what says most of this kind of model: shuffled features, or words; and coefficients."""
    groups: Literal["each", "sets"] | dict[str, tuple[str, ...]] = "each"
    """What is shuffled or removed together: each feature by itself, whole sets, or named patterns of features."""
    words: tuple[str, ...] = ()
    """Letters of IUPAC, masked on both strands; none takes all words of `word_bp` bases."""
    word_bp: int = 4
    repeats: int = 10
    """Shuffles of each feature."""
    resamples: int = 20
    """Fits to halves of the training split, whose stability is told."""
    seed: int = Field(default=0, ge=0)
    strands: Strands = "learned"
    """Of words and changes: "both" averages the readings of both strands; a model reads as it learned unless this says
    otherwise, as in an evaluation."""
    batch_size: int = 256
    cluster: ClusterSpec = ClusterSpec()

    def __post_init__(self) -> None:
        if len(set(self.by)) < len(self.by) or len(set(self.words)) < len(self.words):
            raise InputError(f"importance: by={list(self.by)}, words={list(self.words)}; wanted each once")
        if self.repeats < 1 or self.resamples < 2 or self.batch_size < 1:
            raise InputError(
                f"importance: repeats={self.repeats}, resamples={self.resamples}, batch_size={self.batch_size}; "
                "wanted at least 1 shuffle, 2 fits and 1 window"
            )
        if self.split == "valid" and "removed" in self.by:
            raise InputError(
                "importance: by=removed chooses the settings of its fits on the valid split; measure it on test"
            )
        for word in self.words:
            check_word(word)
