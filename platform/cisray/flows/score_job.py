"""What `cisray score` reads from a job file."""

from pydantic import Field
from pydantic.dataclasses import dataclass

from cisray.config import STRICT
from cisray.errors import InputError
from cisray.flows.cluster import ClusterSpec
from cisray.genome.variant_selection import ALL_ROWS, SubsetSpec
from cisray.scoring.alleles import MismatchPolicy
from cisray.scoring.effects import resolve_scores
from cisray.scoring.engine import EngineSpec
from cisray.scoring.manifest import KEEP_ALL, Storage
from cisray.scoring.masks import parse_mask
from cisray.scoring.nulls import NO_NULL, NullSpec
from cisray.scoring.windows import CENTERED, WindowSpec

GENE_SCORES = ("gene_log2fc",)
MOST_PASSES = 255
"""That n_passes can count."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GeneSpec:
    """Scores of every gene in a variant's window, in a table of their own."""

    annotation: str | None = None
    """GTF or GFF3 below data_dir; without one no genes are scored."""
    mask: str = "gene(exon)"
    """gene(exon) or gene(span): which of a gene's bins are summed."""
    scores: tuple[str, ...] = GENE_SCORES
    biotypes: tuple[str, ...] = ()
    """Kinds of genes, such as protein_coding; all by default."""

    def __post_init__(self) -> None:
        for name, score in resolve_scores(self.scores).items():
            if score.is_place:
                raise InputError(f"genes: {name} is counted from a variant, not in a gene; leave it out")
        if not parse_mask(self.mask).of_genes:
            raise InputError(f"genes: mask={self.mask!r}; wanted gene(exon) or gene(span)")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ExportSpec:
    """Other formats that are written beside the table."""

    vcf: bool = False
    """scores.vcf.gz, the scores in one INFO field as the Variant Effect Predictor packs them, with its index."""
    vcf_numbers: bool = False
    """In the VCF, one INFO key per score with its largest value, to filter by."""
    tsv: bool = False
    """scores.tsv, a line per row."""
    calico_h5: bool = False
    """scores.h5, as Basenji's and Borzoi's scripts write it."""
    h5ad: bool = False
    """scores.h5ad for AnnData: variants, tracks and a layer per score."""
    top: int = 0
    """top.tsv: so many rows that each track of each score moves most."""

    def __post_init__(self) -> None:
        if self.top < 0:
            raise InputError(f"export: top={self.top}; wanted 0 or more")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ScoreJob:
    """What `cisray score` reads from a job file."""

    variants: str
    """VCF, VCF.gz, BCF, or a TSV or Parquet table of chrom, pos, ref and alt, below data_dir."""
    fasta: str
    """The genome that the variants' positions refer to, below data_dir; it must be the model's."""
    model: str
    """A bundle's folder, or a registered model: models:/NAME@champion, models:/NAME/3."""
    ensemble: tuple[str, ...] = ()
    """More models of the same tracks; scores are means over all of them."""
    head: str | None = None
    """Of a model with several heads, the one that predicts."""
    out: str
    data_dir: str | None = None
    subset: SubsetSpec = ALL_ROWS
    scores: tuple[str, ...] | None = None
    """By name; unset, what suits the model's targets."""
    mask: str = "crop"
    """Bins that scores read: crop, center(501) or bed(FILE)."""
    tracks: tuple[str, ...] = ()
    """Tracks to predict, by name; none names all."""
    genes: GeneSpec = GeneSpec()
    windows: WindowSpec = CENTERED
    engine: EngineSpec = EngineSpec(strands="both", batch_size=32)
    max_allele_bp: int = 100
    """Longer alleles are not scored but get the status TOO_LONG."""
    ref_mismatch: MismatchPolicy = "skip"
    """What becomes of rows whose REF is not the genome's."""
    calibration: str | None = None
    """The name of a calibration of the model, to add each score's quantile among background variants."""
    null: NullSpec = NO_NULL
    """Windows of shuffled bases, to add what each score is worth beside those of the same alleles there."""
    storage: Storage = KEEP_ALL
    export: ExportSpec = ExportSpec()
    block_rows: int = Field(default=1024, ge=1)
    """Rows of one block of the table, about: the unit of restartable work."""
    cluster: ClusterSpec = ClusterSpec()

    def __post_init__(self) -> None:
        scores = {} if self.scores is None else resolve_scores(self.scores)
        if parse_mask(self.mask).of_genes:
            raise InputError(
                f"mask={self.mask!r}: genes have a table of their own; name their file in genes.annotation"
            )
        if self.calibration is not None and self.ensemble:
            raise InputError("calibration: is of one model, and the job scores with an ensemble; leave one out")
        if self.engine.cuda_graphs and not self.cluster.gpus_per_actor:
            raise InputError(
                "engine: cuda_graphs=true, but cluster.gpus_per_actor=0; give each actor a GPU, or leave it out"
            )
        num_passes = len(self.engine.passes) * (1 + len(self.ensemble))
        if num_passes > MOST_PASSES:
            raise InputError(
                f"engine: {num_passes} passes, strands times shifts times models; a row counts up to {MOST_PASSES}: "
                "name fewer shifts"
            )
        if len(set(self.tracks)) < len(self.tracks):
            raise InputError("tracks names a track twice; name each once")
        lists = {
            "calibration": self.calibration is not None,
            "null": self.null.number > 0,
            "export.calico_h5": self.export.calico_h5,
            "export.top": self.export.top > 0,
        }
        for what, is_wanted in lists.items():
            if is_wanted and self.storage.values == "summary" and not self.storage.tracks:
                raise InputError(
                    f"{what}: is of lists of values, and storage keeps none; name tracks in storage.tracks, or set "
                    'storage.values = "all"'
                )
        for name, one in scores.items():
            if one.is_place:
                self._check_place(name)

    def _check_place(self, name: str) -> None:
        """Raise InputError where a place would be averaged, ranked or rounded."""
        engine = self.engine
        if self.ensemble or len(engine.passes) > 1 or engine.shifts != (0,):
            raise InputError(
                f"scores: {name} is a place, and places of several passes have no mean; score with one model, "
                'engine.strands = "forward" and engine.shifts = [0], or leave it out'
            )
        if self.storage != KEEP_ALL:
            raise InputError(
                f"scores: {name} is a place, of which there is no strongest track, and float16 cannot hold all; leave "
                "[storage] out, and name the tracks to predict in `tracks`"
            )
        if self.calibration is not None:
            raise InputError(f"calibration: {name} is a place, and ranks of places say nothing; leave one out")
