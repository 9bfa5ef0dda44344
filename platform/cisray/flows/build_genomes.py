"""Build one dataset per genome from one job, the genomes divided together where alignments say what is alike.

OUT/<genome>/       a dataset
OUT/genomes.json    written last: the datasets, how the genomes were divided, and what their splits share
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag
from pydantic.dataclasses import dataclass

from cisray.config import STRICT, data_path, data_root
from cisray.datasets.from_tracks import TracksSpec
from cisray.datasets.loci.folds import Region, write_regions
from cisray.datasets.loci.homology import HomologySpec, divide_homologous
from cisray.datasets.loci.leakage import aligned_bases
from cisray.datasets.loci.regions import load_masks
from cisray.datasets.source import open_genome
from cisray.errors import InputError
from cisray.files import write_json
from cisray.flows.build import BuildSettings, CalicoJob, PeaksJob, TableJob, TracksJob, build
from cisray.flows.cluster import cluster
from cisray.progress import Progress, Report, silent

GENOMES_NAME = "genomes.json"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GenomesJob(BuildSettings):
    """Build from several genomes, each with its tracks; a training draws from them with weights."""

    source: Literal["genomes"]
    genomes: dict[str, TracksSpec]
    """Settings per genome; its name is its folder's."""
    homology: HomologySpec | None = None
    """Divides all genomes together; each has folds of its own where this is missing."""

    def __post_init__(self) -> None:
        if not self.genomes:
            raise InputError("genomes: none; wanted a section [genomes.NAME] for each")
        for name, spec in self.genomes.items():
            if not name.replace("_", "").replace("-", "").replace(".", "").isalnum() or name.startswith("."):
                raise InputError(f"genomes: {name!r} is to be a folder; wanted letters, numbers, '_', '-' and '.'")
            if (spec.folds is None) == (self.homology is None):
                raise InputError(
                    f"genomes.{name}: wanted folds in every genome, or homology, which divides all of them; not both"
                )


def _source_of(values: Any) -> str:
    return str(values.get("source", "tracks") if isinstance(values, dict) else values.source)


AnyBuildJob = Annotated[
    Annotated[TracksJob, Tag("tracks")]
    | Annotated[PeaksJob, Tag("peaks")]
    | Annotated[TableJob, Tag("table")]
    | Annotated[CalicoJob, Tag("calico")]
    | Annotated[GenomesJob, Tag("genomes")],
    Discriminator(_source_of),
]
"""What `cisray build` reads from a job file; its key `source` says which, "tracks" where it is missing."""


def build_genomes(job: GenomesJob, *, report: Report = silent) -> Path:
    """Build every genome's dataset, or go on with them, and return the folder that holds them.

    Raises:
        InputError: an input of any genome is missing, damaged, or does not fit the others.
    """
    out = Path(job.out).absolute()
    job = dataclasses.replace(job, data_dir=data_root(job.data_dir))
    regions, found = divide(job)
    with cluster(job.cluster):
        for name, member in member_jobs(job).items():

            def told(progress: Progress, genome: str = name) -> None:
                report(progress._replace(stage=f"{progress.stage} {genome}"))

            build(member, report=told, regions=regions.get(name))
    for name, of_genome in regions.items():
        write_regions(out / f"{name}.regions.bed", of_genome)
    datasets = {name: {"folder": name, "genome": spec.genome.name} for name, spec in job.genomes.items()}
    write_json(out / GENOMES_NAME, {"datasets": datasets} | found)
    return out


def member_jobs(job: GenomesJob) -> dict[str, TracksJob]:
    """Return the job of each genome by itself."""
    return {
        name: TracksJob(
            **{field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)},
            name=f"{job.name}.{name}",
            out=str(Path(job.out) / name),
            data_dir=job.data_dir,
            cluster=job.cluster,
        )
        for name, spec in job.genomes.items()
    }


def divide(job: GenomesJob) -> tuple[dict[str, list[Region]], dict[str, Any]]:
    """Divide the genomes together, and measure what their splits share by the same alignments.

    Returns the regions of each genome and the facts for genomes.json; nothing where each has folds of its own.
    """
    spec = job.homology
    if spec is None:
        return {}, {}
    lengths = {name: open_genome(one.genome, job.data_dir).contig_lengths for name, one in job.genomes.items()}
    gaps = {name: load_masks(one.masks, lengths[name], data_dir=job.data_dir).gaps for name, one in job.genomes.items()}
    divided = divide_homologous(spec, lengths, gaps=gaps, data_dir=job.data_dir)
    leakage = {}
    for one in spec.alignments:
        target, query = ((divided.regions[name], lengths[name]) for name in (one.target, one.query))
        shared = aligned_bases(data_path(one.file, job.data_dir), target, query)
        leakage[one.file] = {"target": one.target, "query": one.query} | dataclasses.asdict(shared)
    return divided.regions, {"homology": dataclasses.asdict(divided.summary), "leakage": leakage}
