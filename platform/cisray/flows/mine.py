"""Look through the training regions of a genome for what a model takes for positives, and is none."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cisray.bundle import Predictor
from cisray.config import data_root
from cisray.datasets.from_peaks import PeaksSource
from cisray.datasets.peaks.mining import NOTHING, Mined, MiningSpec, mine, read_mined, write_mined
from cisray.errors import InputError
from cisray.flows.build import PeaksJob
from cisray.progress import Progress, Report, silent


def mine_negatives(
    job: PeaksJob,
    bundle_dir: Path,
    out: Path,
    spec: MiningSpec,
    *,
    earlier: Path | None = None,
    report: Report = silent,
) -> Mined:
    """Score every window of the train split that has no peak, and write the worst false positives as BED.

    Args:
        job: the dataset that the model learned from: its genome, peaks and folds.
        bundle_dir: the model.
        out: the BED file, which negatives of kind "mined" read.
        spec: which are taken.
        earlier: the file of the round before, whose loci are kept.
        report: told contig by contig.

    Raises:
        InputError: the model does not predict the job's labels on the job's windows.
    """
    if out.exists():
        raise InputError(f"{out}: is there already; name another file, and give this one as --earlier to add to it")
    source = PeaksSource(job, data_root(job.data_dir))
    predictor = Predictor(bundle_dir)
    of_model, geometry = predictor.card, job.geometry
    if of_model.kind != "labels" or list(of_model.track_names) != list(source.layout.tracks):
        raise InputError(
            f"{bundle_dir}: predicts {of_model.kind} of {', '.join(of_model.track_names[:5])}; wanted a model of the "
            f"labels {', '.join(source.layout.tracks[:5])}, which this job's dataset has"
        )
    if dataclasses.replace(of_model.geometry, margin_bp=0) != dataclasses.replace(geometry, margin_bp=0):
        raise InputError(f"{bundle_dir}: reads windows of {of_model.geometry}, the job makes {geometry}")
    contigs = len(of_model.genome_for("mining").contig_lengths)

    def candidates() -> Iterator[tuple[str, NDArray[np.int64]]]:
        for number, (contig, starts) in enumerate(source.candidates("train")):
            report(Progress("mine", min(number, contigs), contigs, "contigs", {"windows": len(starts)}))
            yield contig, starts

    before = NOTHING if earlier is None else read_mined(earlier)
    mined = mine(predictor.predict, candidates(), source.codes, spec, earlier=before)
    report(Progress("mine", contigs, contigs, "contigs", {"false_positives": mined.num_false}))
    write_mined(out, mined, window_bp=geometry.window_bp)
    return mined
