"""The card: what a dataset is. It is written last, so that a folder without one is no dataset.

Everything that a model must know about its data is derived from here, and a bundle carries it along.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.datasets.loci.folds import FoldSpec, Split
from cisray.datasets.transforms import Order, SumStat, Transforms
from cisray.errors import InputError
from cisray.files import read_json, value_digest, within
from cisray.genome.tracks import Uncovered
from cisray.geometry import Geometry

SCHEMA_VERSION = 2
CARD_NAME = "card.json"

Kind = Literal["coverage", "labels", "measurements"]
"""What a target is: signal of zero or more in bins, 0 or 1 per class, or numbers of any sign."""
TargetType = Literal["<f4", "<f2", "u1"]
"""How a target is stored: float32, float16, or labels 0 and 1 with 255 for one that is not known."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Track:
    """One assay: where its values come from and how they become targets."""

    name: str
    file: str
    """Below data_dir: a bigWig, bedGraph or BED file of signal, a file of peaks, or the table whose column this is."""
    description: str = ""
    statistic: SumStat = "mean"
    """How the bases of a bin become one value, by the names of Calico's targets.txt; see datasets.transforms."""
    uncovered: Uncovered = "mask"
    """Bases without a value: no data, or a count of zero."""
    smooth_bp: int = 1
    """Width of a centred running mean over bases, before binning; 1 is none."""
    scale: float = 1.0
    """Multiplies every base's value."""
    clip_soft: float | None = None
    """What a scaled bin exceeds this by is replaced by its square root."""
    clip: float | None = None
    """Largest target; what is cut off cannot be restored, and is counted."""
    order: Order = "new"
    """Whether the scale comes first, as in Calico's later code, or last, as in the Borzoi manuscript."""
    strand_pair: str | None = None
    """The track that holds the same assay on the other strand."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[^\s/\\.][^/\\\t\r\n]*", self.name):
            raise InputError(
                f"track {self.name!r}: a name becomes a column and a file; wanted no slash, tab or line end, "
                "and no dot or space at its beginning"
            )
        if self.smooth_bp < 1 or self.smooth_bp % 2 == 0:
            raise InputError(f"track {self.name}: smooth_bp={self.smooth_bp}; wanted an odd, positive width")
        lowest = 1 if self.clip_soft is None else self.clip_soft
        numbers = (number for number in (self.scale, self.clip_soft, self.clip) if number is not None)
        if (
            not all(map(math.isfinite, numbers))
            or self.scale <= 0
            or lowest < 1
            or (self.clip is not None and self.clip < lowest)
        ):
            raise InputError(
                f"track {self.name}: scale={self.scale}, clip_soft={self.clip_soft}, clip={self.clip}; "
                "wanted a positive scale, a clip_soft of 1 or more, and a clip no lower than it"
            )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Genome:
    """The genome that a dataset's coordinates belong to."""

    name: str
    fasta: str
    digest: str
    """Digest over all contigs' names, lengths and bases; see genome.reference."""
    contig_lengths: dict[str, int]
    contig_digests: dict[str, str]
    haplotype_digest: str | None = None
    """Digest of the bases that rows hold, where a sample's variants were applied."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Statistics:
    """What one track holds in one split: running sums over bins, so that parts add up exactly."""

    num_bins: int
    num_masked: int
    """Bins without data."""
    num_zero: int
    num_soft_clipped: int
    """Bins above the track's clip_soft."""
    num_clipped: int
    """Bins cut off at the track's clip."""
    total: float
    total_squares: float
    least: float | None
    """None where every bin is masked, as for `greatest`."""
    greatest: float | None

    @property
    def num_present(self) -> int:
        """Bins with data."""
        return self.num_bins - self.num_masked

    @property
    def mean(self) -> float:
        """Mean over bins with data; NaN where there is none."""
        return self.total / self.num_present if self.num_present else float("nan")

    @property
    def variance(self) -> float:
        """Variance over bins with data; NaN where there is none."""
        return self.total_squares / self.num_present - self.mean**2 if self.num_present else float("nan")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SourceFile:
    """A file that a dataset was made from."""

    path: str
    """Below data_dir."""
    num_bytes: int
    sampled_digest: str
    """See files.sampled_digest."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Inputs:
    """What a row holds beside one sequence and its target."""

    sequences: int = 1
    """Related sequences per row, such as the sites of a gene; rows with fewer are filled up, and masked."""
    covariates: tuple[str, ...] = ()
    """Names of the numbers that come with a row."""
    channels: tuple[Track, ...] = ()
    """Signal along the stored sequence that a model reads beside the bases."""
    channel_bp: int = 1
    """Bases per value of a channel."""
    weighted: bool = False
    """Whether each row has a weight."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataFile:
    """One Parquet file of a dataset."""

    path: str
    """Relative to the dataset's folder."""
    rows: int
    sha256: str

    def __post_init__(self) -> None:
        if Path(self.path).is_absolute() or ".." in Path(self.path).parts:
            raise InputError(f"file {self.path!r}: wanted a path inside the dataset's folder")

    @property
    def split(self) -> str:
        """The split that its rows are in."""
        return Path(self.path).parent.name.removeprefix("split=")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Card:
    """What a dataset is. Everything a model must know about its data is derived from here."""

    schema_version: int
    name: str
    cisray_version: str
    kind: Kind = "coverage"
    genome: Genome | None
    """None for measured sequences that lie on no genome; each is a contig of its own then, named by its row."""
    geometry: Geometry
    tracks: tuple[Track, ...]
    target_type: TargetType = "<f4"
    inputs: Inputs = Inputs()
    contig_names: dict[str, dict[str, str]]
    """Per track, the file's contig names that differ from the genome's, and what they were mapped to."""
    absent_contigs: dict[str, list[str]]
    """Per track, contigs of the genome that its file lacks: masked there."""
    folds: FoldSpec | None
    """None where a table says each row's split; see `job` then."""
    regions: dict[str, list[str]]
    """Per split, the regions of the genome it owns."""
    counts: dict[Split, int]
    """Examples per split."""
    dropped: dict[str, int]
    """Windows (or bases, as the key says) that are not in the dataset, by reason."""
    statistics: dict[Split, dict[str, Statistics]]
    files: tuple[DataFile, ...]
    sources: tuple[SourceFile, ...] = ()
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What the source chose and counted beyond this: negatives, duplicates, variants applied, leakage."""
    job: dict[str, Any]
    """The job file that made it, with its overrides."""

    @property
    def digest(self) -> str:
        """Digest of the card, and so of every file's checksum in it."""
        return value_digest(dataclasses.asdict(self))

    @property
    def track_names(self) -> list[str]:
        """Names of the tracks, in the order of the target's last axis."""
        return [track.name for track in self.tracks]

    @property
    def target_shape(self) -> tuple[int, int]:
        """Bins and tracks of a target, (N, T)."""
        return self.geometry.num_bins, len(self.tracks)

    def strand_swap(self) -> list[int]:
        """Return for each track the index of the track that it becomes on the other strand, [T]."""
        index = {name: position for position, name in enumerate(self.track_names)}
        return [index[track.strand_pair or track.name] for track in self.tracks]

    def transforms(self) -> Transforms:
        """Return the parameters of every track's transform and inverse, for datasets.transforms."""
        return track_transforms(self.tracks)

    def genome_for(self, purpose: str) -> Genome:
        """Return the genome; raise InputError that says what needed it where the dataset has none."""
        if self.genome is None:
            raise InputError(
                f"{self.name}: made of measured sequences that lie on no genome, so that {purpose} is not possible"
            )
        return self.genome


def track_transforms(tracks: Sequence[Track]) -> Transforms:
    """Return the parameters of the tracks' transforms, one entry per track."""
    return Transforms.of(
        statistic=[track.statistic for track in tracks],
        order=[track.order for track in tracks],
        scale=[track.scale for track in tracks],
        clip_soft=[track.clip_soft for track in tracks],
        clip=[track.clip for track in tracks],
    )


def check_tracks(tracks: Sequence[Track]) -> None:
    """Raise InputError unless names are unique and strand pairs name each other."""
    if not tracks:
        raise InputError("tracks: none; wanted at least one")
    files: dict[str, str] = {}
    for track in tracks:
        if track.name in files:
            raise InputError(
                f"tracks: two are called {track.name} ({files[track.name]} and {track.file}); give each its own name"
            )
        files[track.name] = track.file
    partner = {track.name: track.strand_pair for track in tracks}
    for name, other in partner.items():
        if other is not None and (partner.get(other) != name or other == name):
            raise InputError(f"tracks: {name} names {other} as its strand pair; {other} must name {name} in return")


def card_to_dict(card: Card) -> dict[str, Any]:
    """Return the card as plain values, ready for JSON."""
    return dataclasses.asdict(card)


def card_from_dict(values: Mapping[str, Any], *, source: Path) -> Card:
    """Check plain values and return them as a card; raise InputError naming `source` where they are not one."""
    version = values.get("schema_version") if isinstance(values, Mapping) else None
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{source}: card of schema version {version}; this cisray reads version {SCHEMA_VERSION}; build it again"
        )
    try:
        return TypeAdapter(Card).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{source}: not a valid card: {where}: {first['msg']}; build it again") from None


def read_card(dataset_dir: Path) -> Card:
    """Read a dataset's card; raise InputError where the folder is not a finished dataset."""
    path = within(dataset_dir, CARD_NAME, what="dataset")
    if not path.exists():
        raise InputError(
            f"{dataset_dir}: no {CARD_NAME} in it, so this is not a finished dataset; run cisray build first"
        )
    return card_from_dict(read_json(path, what="dataset card"), source=path)
