"""Score a background set of variants once, and keep the quantiles of its scores with the model."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from cisray.errors import InputError
from cisray.flows.score import score
from cisray.flows.score_job import ScoreJob
from cisray.progress import Report, silent
from cisray.scoring.calibration import calibration_paths, make_calibration, settings_of, write_calibration
from cisray.scoring.effects import resolve_scores
from cisray.scoring.knots import KnotCollector
from cisray.scoring.manifest import ModelSource, read_manifest
from cisray.scoring.rows import score_values
from cisray.scoring.schema import iter_blocks


def calibrate(job: ScoreJob, name: str, *, models: Mapping[Path, ModelSource], report: Report = silent) -> Path:
    """Score the job's variants as a background, and write the model's calibration of that name; return its card.

    The background's score table stands in `job.out`, like any other.

    Raises:
        InputError: what `score` raises; an ensemble; or a table that keeps no values per track.
    """
    if job.ensemble or job.calibration or job.tracks or job.null.number or job.storage.values != "all":
        raise InputError(
            "a calibration is of all tracks of one model: leave out ensemble, calibration, null, tracks and "
            "storage.values"
        )
    if job.storage.dtype != "float32":
        raise InputError(
            f"storage: dtype={job.storage.dtype} makes small scores 0, among which later ones would be ranked; "
            "calibrate in float32"
        )
    for score_name in job.scores or ():
        ((own_name, one),) = resolve_scores([score_name]).items()
        if one.is_place:
            raise InputError(f"a calibration ranks scores, and {own_name} is a place; leave it out")
    (bundle_dir,) = models
    calibration_paths(bundle_dir, name)  # tells of a name that cannot be one, before anything is scored
    job = dataclasses.replace(job, genes=type(job.genes)())  # of genes there are no quantiles
    scores_dir = score(job, models=models, report=report)
    manifest = read_manifest(scores_dir)
    collectors = {score_name: KnotCollector(len(manifest.tracks)) for score_name in manifest.scores}
    for block in iter_blocks(scores_dir, list(manifest.scores)):
        for score_name, collector in collectors.items():
            values, _ = score_values(block, score_name)
            if len(values):
                collector.add(values)
    calibration = make_calibration(
        collectors,
        settings=settings_of(manifest),
        tracks=manifest.tracks,
        background=manifest.variants.file,
        background_digest=manifest.variants.digest,
    )
    return write_calibration(bundle_dir, name, calibration)
