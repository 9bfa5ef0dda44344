"""Write a score table in the layout of Basenji's sad.h5, for notebooks that read that."""

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from cisray.files import written_whole
from cisray.scoring.effects import SCORES
from cisray.scoring.manifest import read_manifest
from cisray.scoring.rows import score_values
from cisray.scoring.schema import block_schema, iter_blocks, iter_slices

TEXT_COLUMNS = {"snp": "id", "chr": "chrom", "ref_allele": "ref", "alt_allele": "alt", "status": "status"}
CALICO_NAMES = ("SAD", "SAX", "D1", "D2", "logSED", "logSUM", "logD2", "JS", "nDi")
"""Of scores, in Basenji and Borzoi."""


def write_calico_h5(scores_dir: Path, out_path: Path, *, labels: Mapping[str, str] | None = None) -> None:
    """Write snp, chr, pos (1-based), ref_allele, alt_allele, target_ids, target_labels and a dataset per score.

    A dataset of a score is [variants, tracks], in the table's float type, by the name that it has in Calico's
    programs ("SAD", "logSED") where it has one; its attributes give ours and the formula. A row without scores has
    NaN there, and its reason in `status`. `labels` say more of a track than its name does.

    Raises InputError where the values per track were not kept.
    """
    manifest = read_manifest(scores_dir)
    tracks, text = manifest.listed_tracks, h5py.string_dtype("utf-8")
    dtype = np.float16 if manifest.storage.dtype == "float16" else np.float32
    empty = block_schema(manifest).empty_table()
    for score in manifest.scores:
        score_values(empty, score)  # tells where values were not kept
    with written_whole(out_path) as aside, h5py.File(aside, "w") as file:
        file.create_dataset("target_ids", data=list(tracks), dtype=text)
        file.create_dataset("target_labels", data=[(labels or {}).get(track, track) for track in tracks], dtype=text)
        for name in TEXT_COLUMNS:
            file.create_dataset(name, (manifest.rows,), text)
        file.create_dataset("pos", (manifest.rows,), np.uint32)
        for score, formula in manifest.scores.items():
            dataset = file.create_dataset(calico_name(score), (manifest.rows, len(tracks)), dtype)
            dataset.attrs.update({"cisray_score": score, "formula": formula})
        file.attrs["model"] = " ".join(model.uri for model in manifest.models)
        first = 0
        for table in iter_slices(iter_blocks(scores_dir, [*TEXT_COLUMNS.values(), "pos", *manifest.scores])):
            rows = slice(first, first + table.num_rows)
            for name, column in TEXT_COLUMNS.items():
                file[name][rows] = table[column].to_pylist()
            file["pos"][rows] = table["pos"].to_numpy()
            for score in manifest.scores:
                values, scored = score_values(table, score)
                spread = np.full((table.num_rows, len(tracks)), np.nan, np.float32)
                spread[scored] = values
                file[calico_name(score)][rows] = spread
            first += table.num_rows


def calico_name(score: str) -> str:
    """Return the name of a score in Calico's programs, or ours where they have none."""
    theirs = [alias for alias in SCORES[score].aliases if alias in CALICO_NAMES] if score in SCORES else []
    return theirs[0] if theirs else score
