"""Hold scores against variants of which the truth is known: classes told apart, and effects met."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from cisray.errors import InputError
from cisray.reports.score_summary import main_score
from cisray.scoring.manifest import Manifest
from cisray.scoring.rows import score_values
from cisray.scoring.schema import iter_blocks

POSITIVE, NEGATIVE = "breaks_motif", "background"
KEY_COLUMNS = ("record_index", "allele_index")
_COLUMN_TYPES = {
    "record_index": pa.int64(),
    "allele_index": pa.int64(),
    "pos": pa.int64(),
    "contig": pa.string(),
    "ref": pa.string(),
    "alt": pa.string(),
    "class": pa.string(),
}


@dataclass
class Truth:
    """Variants of known classes [V], in the order of their keys, and what was scored for them."""

    path: Path
    keys: NDArray[np.int64]
    """record_index and allele_index in one number."""
    positions: NDArray[np.int64] | None
    """1-based; None where the table has none."""
    classes: NDArray[np.str_]
    effects: dict[str, NDArray[np.float64]]
    """Per track the true value of the main score, for the tracks that have one."""
    largest: dict[str, NDArray[np.float32]]
    """Per score the largest absolute value over tracks; NaN where a row has no score."""
    predicted: dict[str, NDArray[np.float32]]
    """Per track of `effects` the main score; NaN where a row has none."""
    held_out: NDArray[np.bool_]
    """Whether the row lies on a held-out contig."""


class Separation(NamedTuple):
    """How well the size of a score tells broken motifs from the background."""

    score: str
    contigs: str
    """Which contigs the rows lie on, in words."""
    auroc: float | None
    """None where one of the classes has no scored row."""
    num_positive: int
    num_negative: int
    num_unscored: int
    """Rows of the two classes without a score; they are left out."""

    def __str__(self) -> str:
        place = f", {self.contigs}" if self.contigs else ""
        value = "none" if self.auroc is None else f"{self.auroc:.3f}"
        unscored = f", {self.num_unscored} without a score" if self.num_unscored else ""
        return (
            f"AUROC of |{self.score}| (largest over tracks), {POSITIVE} against {NEGATIVE}{place}: {value} "
            f"(n={self.num_positive} against {self.num_negative}{unscored})"
        )


def read_truth(path: Path, scores_dir: Path, manifest: Manifest, *, held_out: tuple[str, ...] = ()) -> Truth:
    """Read a table of known variants, and find each in a score table.

    Args:
        path: tab-separated, with the columns record_index, allele_index and class, and where known contig, pos
            and, per track, true_<score>_<track>, as `cisray simulate` writes it.
        scores_dir: the score table.
        manifest: its manifest.
        held_out: names of contigs, in the genome or in the variants file, that no model learned from.

    Raises:
        InputError: a column is missing or unreadable, or the table belongs to other variants.
    """
    table = _read_table(path)
    keys = table["record_index"].to_numpy() << 16 | table["allele_index"].to_numpy()
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    if len(keys) and (np.diff(keys) == 0).any():
        twice = int(keys[1:][np.diff(keys) == 0][0])
        raise InputError(
            f"{path}: record_index {twice >> 16}, allele_index {twice & 0xFFFF} stands there twice; keep one row"
        )
    effects = {
        track: _numbers(table[column], f"{path}: column {column!r}")[order]
        for track, column in _effect_columns(table, manifest).items()
    }
    positions = table["pos"].to_numpy()[order] if "pos" in table.column_names else None
    truth = Truth(
        path=path,
        keys=keys,
        positions=positions,
        classes=np.array(table["class"].to_pylist(), np.str_)[order],
        effects=effects,
        largest={name: np.full(len(keys), np.nan, np.float32) for name in manifest.scores},
        predicted={track: np.full(len(keys), np.nan, np.float32) for track in effects},
        held_out=np.zeros(len(keys), bool),
    )
    _find(truth, scores_dir, manifest, held_out=held_out)
    return truth


def separations(truth: Truth, *, held_out: tuple[str, ...]) -> list[Separation]:
    """Return how well each score separates the classes, over all contigs and over the held-out ones if named."""
    everywhere = np.ones(len(truth.keys), bool)
    places = {"": everywhere}
    if held_out:
        places = {f"held-out {', '.join(held_out)}": truth.held_out, "all contigs": everywhere}
    return [
        _separate(truth, score, values, place=place, chosen=chosen)
        for score, values in truth.largest.items()
        for place, chosen in places.items()
    ]


def correlate(true: NDArray[np.floating], predicted: NDArray[np.floating]) -> float | None:
    """Return the Pearson correlation of two arrays [V]; None where one of them is constant or too short."""
    if len(true) < 2 or np.ptp(true) == 0 or np.ptp(predicted) == 0:
        return None
    return float(np.corrcoef(true.astype(np.float64), predicted.astype(np.float64))[0, 1])


def _read_table(path: Path) -> pa.Table:
    try:
        table = pyarrow.csv.read_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=pyarrow.csv.ConvertOptions(column_types=_COLUMN_TYPES),
        )
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, but a table of variants of known classes was expected") from None
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not a readable tab-separated table ({error})") from error
    missing = [name for name in (*KEY_COLUMNS, "class") if name not in table.column_names]
    if missing:
        raise InputError(
            f"{path}: no column {missing[0]!r}; it has {', '.join(table.column_names)}; wanted a tab-separated table "
            "as cisray simulate writes it"
        )
    gaps = [name for name in _COLUMN_TYPES if name in table.column_names and table[name].null_count]
    if gaps:
        raise InputError(f"{path}: {table[gaps[0]].null_count} rows have no {gaps[0]!r}; fill them in")
    return table


def _effect_columns(table: pa.Table, manifest: Manifest) -> dict[str, str]:
    """Return for each track the column that holds its true values of the main score, where there is one."""
    score = main_score(manifest)
    candidates = {track: (f"true_{score}_{track}", f"true_{score}:{track}") for track in manifest.listed_tracks}
    return {
        track: column
        for track, columns in candidates.items()
        for column in columns
        if column in table.column_names and not pa.types.is_null(table[column].type)
    }


def _numbers(column: pa.ChunkedArray, what: str) -> NDArray[np.float64]:
    """Return a column's numbers [V], NaN where a row has none."""
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise InputError(f"{what} holds {column.type}; wanted numbers, or nothing where an effect is unknown")
    return column.to_numpy().astype(np.float64)


def _find(truth: Truth, scores_dir: Path, manifest: Manifest, *, held_out: tuple[str, ...]) -> None:
    """Look every known variant up in the score table, block by block."""
    met = np.zeros(len(truth.keys), bool)
    columns = [*KEY_COLUMNS, "chrom", "pos", *manifest.scores]
    for block in iter_blocks(scores_dir, columns):
        record, allele = (block[name].to_numpy().astype(np.int64) for name in KEY_COLUMNS)
        keys = record << 16 | allele
        places = np.minimum(np.searchsorted(truth.keys, keys), max(0, len(truth.keys) - 1))
        known = truth.keys[places] == keys if len(truth.keys) else np.zeros(len(keys), bool)  # [R]
        places = places[known]
        met[places] = True
        _check_positions(truth, places, block["pos"].to_numpy()[known])
        truth.held_out[places] = _on_contigs(block, manifest.genome.contig_names, held_out)[known]
        _take_scores(truth, block, manifest, known=known, places=places)
    if not met.all():
        lost = int(truth.keys[~met][0])
        raise InputError(
            f"{truth.path}: record_index {lost >> 16}, allele_index {lost & 0xFFFF} is not in {scores_dir}; "
            "give the table that belongs to the variants that were scored"
        )


def _check_positions(truth: Truth, places: NDArray[np.intp], positions: NDArray[np.integer]) -> None:
    if truth.positions is None:
        return
    differ = np.flatnonzero(truth.positions[places] != positions)
    if len(differ):
        key = int(truth.keys[places[differ[0]]])
        raise InputError(
            f"{truth.path}: record_index {key >> 16} lies at {truth.positions[places[differ[0]]]}, but at "
            f"{positions[differ[0]]} among the scores; give the table that belongs to the variants that were scored"
        )


def _on_contigs(block: pa.Table, contig_names: Mapping[str, str], wanted: tuple[str, ...]) -> NDArray[np.bool_]:
    """Say which rows [R] lie on the wanted contigs, by the genome's names or the variants file's."""
    names = block["chrom"].combine_chunks().dictionary_encode()
    inside = [name in wanted or contig_names.get(name) in wanted for name in names.dictionary.to_pylist()]
    return np.array(inside, bool)[names.indices.to_numpy()]


def _take_scores(
    truth: Truth,
    block: pa.Table,
    manifest: Manifest,
    *,
    known: NDArray[np.bool_],
    places: NDArray[np.intp],
) -> None:
    """Copy the scores of a block's known rows; `known` is [R], `places` where those rows stand in the truth."""
    main = main_score(manifest)
    for name in manifest.scores:
        values, scored = score_values(block, name)  # [S, T], [R]
        rows = known[scored]  # [S]
        to = places[scored[known]]
        truth.largest[name][to] = np.abs(values[rows]).max(axis=1, initial=0)
        if name == main:
            for index, track in enumerate(manifest.listed_tracks):
                if track in truth.predicted:
                    truth.predicted[track][to] = values[rows, index]


def _separate(
    truth: Truth, score: str, values: NDArray[np.float32], *, place: str, chosen: NDArray[np.bool_]
) -> Separation:
    positive, negative = (chosen & (truth.classes == name) for name in (POSITIVE, NEGATIVE))
    scored = ~np.isnan(values)
    used = (positive | negative) & scored
    num_positive, num_negative = int((positive & scored).sum()), int((negative & scored).sum())
    auroc = float(roc_auc_score(positive[used], values[used])) if num_positive and num_negative else None
    unscored = int(((positive | negative) & ~scored).sum())
    return Separation(score, place, auroc, num_positive, num_negative, unscored)
