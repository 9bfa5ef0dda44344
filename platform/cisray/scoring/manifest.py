"""The manifest of a score table, written last: what was scored, with what, how, and which files hold the rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.files import read_json, write_json
from cisray.scoring.alleles import MismatchPolicy, Status
from cisray.scoring.nulls import NullSpec

SCHEMA_VERSION = 3
MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelSource:
    """A model that made the scores."""

    uri: str
    """Path of a bundle, or its address in a registry."""
    digest: str
    version: str | None = None
    """The registry's version; None for a path."""
    held_out_contigs: tuple[str, ...] = ()
    """Contigs of the genome that the model has neither learned from nor been selected on."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GenomeSource:
    """The genome that the windows were cut from."""

    fasta: str
    digest: str
    contig_names: dict[str, str]
    """Names in the variants file -> names in the FASTA, for every contig that was found."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VariantSource:
    """The variants file."""

    file: str
    digest: str


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CalibrationSource:
    """The scores of background variants that quantiles are ranks among."""

    file: str
    digest: str


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Selection:
    """The part of the variants file that was asked for."""

    regions: tuple[str, ...] = ()
    """As they were given; empty for the whole genome."""
    samples: tuple[str, ...] = ()
    """Whose alleles were asked for; empty for all rows."""
    left_out: int
    """Rows of the file that are not in the table."""
    file_rows: int
    """Rows of the file."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Guard:
    """What came of scoring some rows a second time, the plain way."""

    recomputed: int
    """Rows that were scored again."""
    largest_difference: float
    tolerance: float
    """Above this, the run would have ended with an error."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Storage:
    """Which values of a score are kept, and in how many bits."""

    values: Literal["all", "summary"] = "all"
    """"all": per score a list of one value per track; "summary": the track that moves most, and its value."""
    tracks: tuple[str, ...] = ()
    """With "summary": tracks whose values are kept in lists nevertheless."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the lists; a value that float16 cannot hold is refused."""

    def __post_init__(self) -> None:
        if self.tracks and self.values == "all":
            raise InputError(
                f'storage keeps all tracks, and names {len(self.tracks)}; wanted values = "summary" beside named '
                "tracks, or no names"
            )
        if len(set(self.tracks)) < len(self.tracks):
            raise InputError("storage names a track twice; name each once")

    def listed(self, tracks: Sequence[str]) -> tuple[str, ...]:
        """Return which of the scored tracks have their values in lists; raise InputError for one that is not scored."""
        for track in self.tracks:
            if track not in tracks:
                raise InputError(f"storage names the track {track!r}, which is not scored; name tracks of the model")
        return tuple(tracks) if self.values == "all" else self.tracks


KEEP_ALL = Storage()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Block:
    """One Parquet file of a score table."""

    name: str
    """File name within blocks/ or genes/."""
    rows: int
    sha256: str
    first: int
    """Smallest record_index in it."""
    last: int
    """Largest record_index in it."""

    def __post_init__(self) -> None:
        if Path(self.name).name != self.name or not self.name.endswith(".parquet"):
            raise InputError(f"block name {self.name!r}; wanted a plain file name that ends with .parquet")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Manifest:
    """How a score table was made. It holds no time and no place: the same run gives the same bytes."""

    schema_version: int = SCHEMA_VERSION
    cisray_version: str
    model: ModelSource
    """The model, or the first of several."""
    head: str | None = None
    """Of a model with several heads, the one that predicted."""
    ensemble: tuple[ModelSource, ...] = ()
    """All models whose scores were averaged, `model` the first; empty where there is one."""
    genome: GenomeSource
    variants: VariantSource
    selection: Selection | None = None
    """None where every row of the file is in the table."""
    tracks: tuple[str, ...]
    """Names of what was scored; in their order stand the values of a list that holds all of them."""
    storage: Storage = KEEP_ALL
    scores: dict[str, str]
    """Name -> formula, in the order of the columns."""
    gene_scores: dict[str, str] = field(default_factory=dict)
    """Name -> formula, in the order of the columns in genes/."""
    masks: dict[str, str] = field(default_factory=dict)
    """Score -> the bins that it reads, where these are not all of them."""
    quantiles: tuple[str, ...] = ()
    """Scores with a list of quantiles beside them."""
    calibration: CalibrationSource | None = None
    nulls: tuple[str, ...] = ()
    """Scores with lists of z_null and p_null beside them."""
    null: NullSpec | None = None
    """The shuffled windows that these stand against."""
    window_bp: int
    window_policy: Annotated[str, Field(pattern=r"^(centered|grid=[1-9][0-9]*)$")] = "centered"
    """"centered": the window starts window_bp // 2 bases before the variant's first base. "grid=G": the middle of
    the window is the middle of the variant's cell in a grid of G bases."""
    indel_align: Literal["none", "stitch", "ref_coords"] = "none"
    """"none": bins are compared by index, and bases right of an indel are shifted; "stitch": the alternate's left
    part is read from a window that starts where the reference's does, its right part from one that ends there;
    "ref_coords": inserted bins are reduced to their largest, deleted ones are 0."""
    max_allele_bp: int
    ref_mismatch: MismatchPolicy = "skip"
    """What became of rows whose REF is not the genome's."""
    shifts: tuple[int, ...] = (0,)
    """Bases by which the window was moved, pass by pass; scores are means over passes."""
    strands: Literal["forward", "both"]
    precision: str
    counts: dict[Status, int]
    """Rows per status; they add up to `rows`."""
    rows: int
    records: int
    noise_floor: dict[str, float | None]
    """Per score, the largest |score| of a variant that changes nothing, and with a precision below float32 no less than
    the largest difference that the guard saw; None for a score of one allele and for a place."""
    guard: Guard | None = None
    underflows: dict[str, int] = field(default_factory=dict)
    """Score -> values other than 0 that became 0 in float16; without those that have none."""
    blocks: tuple[Block, ...]
    genes: tuple[Block, ...] = ()

    def __post_init__(self) -> None:
        in_blocks, in_counts = sum(block.rows for block in self.blocks), sum(self.counts.values())
        if not self.rows == in_blocks == in_counts:
            raise InputError(f"rows={self.rows}, but blocks hold {in_blocks} and the counts per status {in_counts}")
        if self.selection is not None and self.rows + self.selection.left_out != self.selection.file_rows:
            raise InputError(
                f"rows={self.rows} and left_out={self.selection.left_out}, but the file has "
                f"{self.selection.file_rows} rows"
            )
        names = {*self.scores, *self.gene_scores}
        if self.noise_floor.keys() != names:
            raise InputError(f"noise floor of {sorted(self.noise_floor)} for scores {sorted(names)}")
        if self.ensemble and self.ensemble[0] != self.model:
            raise InputError("the first of the ensemble is not the model; list all models, the first one first")
        self._check_names(names)

    def _check_names(self, names: Iterable[str]) -> None:
        """Raise InputError where a setting of single scores names one that is not there."""
        for setting in ("masks", "quantiles", "nulls", "underflows"):
            unknown = sorted(set(getattr(self, setting)) - set(names))
            if unknown:
                raise InputError(f"{setting} names the score {unknown[0]!r}, which the table does not have")
        if self.genes and not self.gene_scores:
            raise InputError(f"{len(self.genes)} files of genes, but no gene score; name the formulas")
        self.storage.listed(self.tracks)

    @property
    def models(self) -> tuple[ModelSource, ...]:
        """All models."""
        return self.ensemble or (self.model,)

    @property
    def listed_tracks(self) -> tuple[str, ...]:
        """Tracks whose values stand in lists, in the lists' order."""
        return self.storage.listed(self.tracks)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return TypeAdapter(Manifest).dump_python(self, mode="json")

    @staticmethod
    def from_dict(values: Any, *, source: Path) -> "Manifest":
        """Check plain values and return them as a manifest; raise InputError that names `source`."""
        version = values.get("schema_version") if isinstance(values, Mapping) else None
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{source}: score manifest of schema version {version}, but this cisray reads version "
                f"{SCHEMA_VERSION}; score again"
            )
        try:
            return TypeAdapter(Manifest).validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{source}: not a valid score manifest: {where}: {first['msg']}; score again") from None


def write_manifest(scores_dir: Path, manifest: Manifest) -> None:
    """Write the manifest, which makes the folder a score table."""
    write_json(scores_dir / MANIFEST_NAME, manifest.to_dict())


def read_manifest(scores_dir: Path) -> Manifest:
    """Read a score table's manifest; raise InputError where the folder is not a finished score table."""
    path = scores_dir / MANIFEST_NAME
    if not path.exists():
        raise InputError(
            f"{scores_dir}: no {MANIFEST_NAME} in it, so it is not a finished score table; run cisray score first"
        )
    return Manifest.from_dict(read_json(path, what="score manifest"), source=path)
