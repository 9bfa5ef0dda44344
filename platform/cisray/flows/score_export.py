"""Write a finished score table in other formats beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cisray.config import data_path
from cisray.files import read_json, write_json
from cisray.flows.score_job import ScoreJob
from cisray.genome.variant_tables import is_table
from cisray.scoring.exports.calico_h5 import write_calico_h5
from cisray.scoring.exports.h5ad import write_h5ad
from cisray.scoring.exports.top import write_top
from cisray.scoring.exports.tsv import write_tsv
from cisray.scoring.exports.vcf import VcfSpec, export_vcf

EXPORTS_NAME = "exports.json"
"""What the files beside a table were written with, each noted when it was whole."""


class _Format(NamedTuple):
    """A file that a job may ask for."""

    is_wanted: bool
    settings: dict[str, Any]
    """What it is written with; one of other settings is another file."""
    write: Callable[[Path], object]


def export(job: ScoreJob, scores_dir: Path) -> list[Path]:
    """Write the formats that the job asks for and that are not there as it asks; return all that it asks for."""
    noted_path = scores_dir / EXPORTS_NAME
    noted = read_json(noted_path, what="note of exports") if noted_path.exists() else {}
    written = []
    for name, one in _formats(job, scores_dir).items():
        path = scores_dir / name
        if not one.is_wanted:
            continue
        if not path.exists() or noted.get(name) != one.settings:
            one.write(path)
            noted[name] = one.settings
            write_json(noted_path, noted)
        written.append(path)
    return written


def _formats(job: ScoreJob, scores_dir: Path) -> dict[str, _Format]:
    """Return all formats by the names of their files."""
    wanted = job.export
    variants_path = data_path(job.variants, job.data_dir)
    source = None if is_table(variants_path) else variants_path
    spec = VcfSpec(per_score=wanted.vcf_numbers)
    vcf = {"per_score": spec.per_score}

    def write_vcf(path: Path) -> object:
        return export_vcf(scores_dir, path, source_vcf_path=source, spec=spec)

    return {
        "scores.vcf.gz": _Format(wanted.vcf, vcf, write_vcf),
        "scores.tsv": _Format(wanted.tsv, {}, lambda path: write_tsv(scores_dir, path)),
        "scores.h5": _Format(wanted.calico_h5, {}, lambda path: write_calico_h5(scores_dir, path)),
        "scores.h5ad": _Format(wanted.h5ad, {}, lambda path: write_h5ad(scores_dir, path)),
        "top.tsv": _Format(
            wanted.top > 0, {"top": wanted.top}, lambda path: write_top(scores_dir, path, num_top=wanted.top)
        ),
    }
