"""Write a finished score table in other formats beside it."""

from collections.abc import Callable
from pathlib import Path

from cisray.config import data_path
from cisray.flows.score_job import ScoreJob
from cisray.genome.variant_tables import is_table
from cisray.scoring.exports.calico_h5 import write_calico_h5
from cisray.scoring.exports.h5ad import write_h5ad
from cisray.scoring.exports.top import write_top
from cisray.scoring.exports.tsv import write_tsv
from cisray.scoring.exports.vcf import VcfSpec, export_vcf


def export(job: ScoreJob, scores_dir: Path) -> list[Path]:
    """Write the formats that the job asks for and that are not there yet; return all that it asks for."""
    wanted = job.export
    variants_path = data_path(job.variants, job.data_dir)
    source = None if is_table(variants_path) else variants_path
    spec = VcfSpec(per_score=wanted.vcf_numbers)
    writers: dict[str, tuple[object, Callable[[Path], object]]] = {
        "scores.vcf.gz": (wanted.vcf, lambda path: export_vcf(scores_dir, path, source_vcf_path=source, spec=spec)),
        "scores.tsv": (wanted.tsv, lambda path: write_tsv(scores_dir, path)),
        "scores.h5": (wanted.calico_h5, lambda path: write_calico_h5(scores_dir, path)),
        "scores.h5ad": (wanted.h5ad, lambda path: write_h5ad(scores_dir, path)),
        "top.tsv": (wanted.top, lambda path: write_top(scores_dir, path, num_top=wanted.top)),
    }
    written = []
    for name, (is_wanted, write) in writers.items():
        path = scores_dir / name
        if is_wanted:
            if not path.exists():
                write(path)
            written.append(path)
    return written
