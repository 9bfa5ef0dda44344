"""Predictions beside the measurements they meet, keyed like a dataset's rows: other models can learn from them.

evaluation.json                metrics per model and track, with their definitions
card.json                      the card of the dataset that was predicted
predictions/part-*.parquet     contig, start, end, strand; prediction and measured: little-endian float32 [N, T],
                               on the natural scale
bigwig/<track>.{predicted,measured}.bw
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cisray.datasets.card import Card
from cisray.datasets.schema import decode_rows
from cisray.errors import InputError
from cisray.genome.tracks import write_signal

EVALUATION_NAME = "evaluation.json"


class Predicted(NamedTuple):
    """The predicted bins of one contig, in order."""

    contig: str
    starts: np.ndarray
    """Start of each bin in bases, [M]."""
    predicted: np.ndarray
    """[M, T]"""
    measured: np.ndarray
    """[M, T]; NaN where a track has no data."""


def prediction_schema(card: Card) -> pa.Schema:
    """Return the Arrow schema of a prediction's rows."""
    num_bins, num_tracks = card.target_shape
    metadata = {"dtype": "<f4", "shape": f"[{num_bins},{num_tracks}]", "tracks": "\t".join(card.track_names)}
    values = pa.binary(4 * num_bins * num_tracks)
    return pa.schema(
        [
            pa.field("contig", pa.string()),
            pa.field("start", pa.int64()),
            pa.field("end", pa.int64()),
            pa.field("strand", pa.string()),
            pa.field("prediction", values, metadata=metadata),
            pa.field("measured", values, metadata=metadata),
        ]
    )


def read_predicted(folder: Path, card: Card) -> list[Predicted]:
    """Read all predictions, one entry per contig, in the genome's order, but for bins that begin outside of it."""
    paths = sorted((folder / "predictions").glob("*.parquet"))
    if not paths:
        raise InputError(f"{folder / 'predictions'}: no predictions in it; run cisray evaluate again")
    table = pa.concat_tables([pq.ParquetFile(path).read() for path in paths])
    contigs = np.array(table["contig"].to_pylist())
    starts = table["start"].to_numpy() + card.geometry.crop_bp
    predicted = decode_rows(table["prediction"], "<f4", card.target_shape)
    measured = decode_rows(table["measured"], "<f4", card.target_shape)
    offsets = np.arange(card.geometry.num_bins) * card.geometry.bin_bp
    found = []
    lengths = card.genome_for("predictions along contigs").contig_lengths
    for contig, length in lengths.items():
        rows = np.flatnonzero(contigs == contig)
        if len(rows):
            rows = rows[np.argsort(starts[rows], kind="stable")]
            bins = (starts[rows][:, None] + offsets).ravel()
            inside = (bins >= 0) & (bins < length)  # a padded window reaches beyond
            flat = (len(bins), len(card.tracks))
            values = [part[rows].reshape(flat)[inside] for part in (predicted, measured)]
            found.append(Predicted(contig, bins[inside], *values))
    return found


def write_bigwigs(folder: Path, card: Card) -> None:
    """Write every track's predictions and measurements as bigWig files below `folder`.

    Raises:
        InputError: windows overlap, so that a bin has several predictions.
    """
    contigs = read_predicted(folder, card)
    bin_bp = card.geometry.bin_bp
    for one in contigs:
        if len(one.starts) > 1 and np.diff(one.starts).min() < bin_bp:
            raise InputError(
                f"the windows of {one.contig} overlap, and a bigWig holds one value per base; "
                "build the dataset without windows.eval_stride_bp"
            )
    (folder / "bigwig").mkdir(exist_ok=True)
    lengths = card.genome_for("writing bigWig files").contig_lengths
    for index, track in enumerate(card.track_names):
        for kind in ("predicted", "measured"):
            signal = {one.contig: (one.starts, getattr(one, kind)[:, index]) for one in contigs}
            write_signal(folder / "bigwig" / f"{track}.{kind}.bw", lengths, signal, step_bp=bin_bp)
