"""A dataset as a page: what may be wrong with it first, then what it holds and how it was made."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cisray.datasets.card import Card, Genome, read_card
from cisray.datasets.checks import find_suspicions
from cisray.datasets.loci.folds import FoldSpec
from cisray.datasets.statistics import TRACKS_NAME
from cisray.errors import InputError
from cisray.genome.intervals import parse_region
from cisray.geometry import Geometry
from cisray.reports.dataset_tracks import (
    contigs_section,
    files_section,
    histograms_section,
    statistics_section,
    suspicions_section,
    transforms_section,
)
from cisray.reports.figures import MOST_CONTIGS, Stretch, contig_map, embed
from cisray.reports.page import (
    NO_VALUE,
    PAGE_NAME,
    Markup,
    Section,
    facts,
    folded,
    number,
    table,
    text,
    write_page,
)

MOST_ROWS = 100
"""Rows of a table of files or facts."""
MOST_LISTED = 20
"""Values in one cell, and entries of a long list in the job."""
SHOWN_DIGITS = 16
"""Of the digests of files, which stand whole in the card."""
MOST_COLUMNS = 8
"""Of a table of facts; more are names, such as those of contigs, and stand in rows."""
MOST_STRETCHES = 1500
"""More make the map of contigs heavier than the rest of the page."""
KINDS = {
    "coverage": "signal along the genome, 0 or more in every bin",
    "labels": "labels, 0 or 1 for every class",
    "measurements": "numbers as they were measured",
}
NUMBERS = {"<f4": "float32, NaN where there is no data", "<f2": "float16, NaN where there is no data"}
NUMBERS["u1"] = "uint8: 0, 1, and 255 where there is no label"


def write_dataset_page(dataset_dir: Path) -> Path:
    """Write `report.html` into a dataset's folder and return its path.

    Raises:
        InputError: the folder is not a finished dataset.
    """
    card = read_card(dataset_dir)
    if not (dataset_dir / TRACKS_NAME).exists():
        raise InputError(f"{dataset_dir}: no {TRACKS_NAME} beside the card; copy the whole folder, or build it again")
    suspicions = find_suspicions(card)
    sections = [
        suspicions_section(card, suspicions),
        _description(card),
        _splits(card),
        statistics_section(card, suspicions),
    ]
    if card.kind != "labels":
        sections.append(histograms_section(dataset_dir, card, suspicions))
    sections += [_dropped(card), files_section(card, suspicions)]
    if card.genome is not None:
        sections.append(contigs_section(card))
    sections.append(transforms_section(card))
    if card.facts:
        content = lay_out(card.facts)
        sections.append(
            Section("What was chosen and counted", "What the source says of how it made the rows.", content)
        )
    sections += [_sources(card), _origin(card)]
    return write_page(
        dataset_dir / PAGE_NAME, title=f"Dataset {card.name}", subtitle=_subtitle(card), sections=sections
    )


def _subtitle(card: Card) -> str:
    many = len(card.tracks) > 1
    noun = {"coverage": "track", "labels": "class", "measurements": "measurement"}[card.kind]
    plural = {"coverage": "tracks", "labels": "classes", "measurements": "measurements"}[card.kind]
    elsewhere = "of a genome that was not given" if card.kind == "coverage" else "of sequences that lie on no genome"
    place = f"over {card.genome.name}" if card.genome else elsewhere
    return f"{len(card.tracks):,} {plural if many else noun} {place}, {sum(card.counts.values()):,} examples"


def describe_geometry(geometry: Geometry) -> list[tuple[str, str]]:
    """Say in words how a window becomes bins."""
    crop = (
        f"{geometry.crop_bins:,} bins ({geometry.crop_bp:,} bp) are cut from each end"
        if geometry.crop_bins
        else "none: every bin of the window is predicted"
    )
    margin = (
        f"{geometry.margin_bp:,} bp of real sequence are stored on each side, so that training can shift a window; "
        f"{geometry.stored_bp:,} bp an example"
        if geometry.margin_bp
        else "none: a window cannot be shifted"
    )
    return [
        ("window", f"a model reads {geometry.window_bp:,} bp"),
        ("bin", f"one value for {geometry.bin_bp:,} bp"),
        ("crop", crop),
        ("margin", margin),
        ("bins per example", f"{geometry.num_bins:,}, which cover {geometry.target_bp:,} bp"),
    ]


def describe_inputs(card: Card) -> list[tuple[str, str]]:
    """Say in words what a model reads beside one sequence."""
    inputs, said = card.inputs, []
    if inputs.sequences > 1:
        said.append(("sequences", f"{inputs.sequences:,} per row; rows with fewer are filled up, and masked"))
    if inputs.covariates:
        said.append(("covariates", _join(inputs.covariates)))
    if inputs.channels:
        names = [f"{channel.name} ({channel.file})" for channel in inputs.channels]
        said.append(("channels", f"one value for {inputs.channel_bp:,} bp of {_join(names)}"))
    if inputs.weighted:
        said.append(("weight", "one per row"))
    return said or [("further inputs", "none")]


def describe_folds(folds: FoldSpec) -> str:
    """Say in words how the genome was divided."""
    excluded = f" {', '.join(folds.exclude)}: in no split." if folds.exclude else ""
    labelled = f"fold {folds.valid_fold} is valid, fold {folds.test_fold} is test, the others are train."
    if folds.num_folds:
        cut = f"Pieces of at most {folds.break_bp:,} bp were dealt out to {folds.num_folds} folds"
        return f"{cut}; {labelled}{excluded}"
    if folds.valid_fraction:
        return (
            f"Pieces of at most {folds.break_bp:,} bp were drawn with seed {folds.seed}: up to "
            f"{folds.valid_fraction:.1%} of the bases for valid, {folds.test_fraction:.1%} for test; "
            f"the rest is train.{excluded}"
        )
    if folds.sequences is not None:
        what = {"input": "windows", "target": "predicted parts of windows", "region": "regions"}[folds.sequences_are]
        return f"{folds.sequences} lists {what} and their splits; where it numbers folds, {labelled}{excluded}"
    if folds.chromosomes is not None:
        return f"{folds.chromosomes} lists the contigs of every split.{excluded}"
    return (
        f"Named regions: valid is {', '.join(folds.valid)}; test is {', '.join(folds.test)}; "
        f"the rest is train.{excluded}"
    )


def _description(card: Card) -> Section:
    pairs: list[tuple[str, object]] = [("name", card.name), ("tracks", len(card.tracks)), ("targets", KINDS[card.kind])]
    pairs += [("stored as", NUMBERS[card.target_type]), *_describe_genome(card.genome)]
    pairs += [*describe_geometry(card.geometry), *describe_inputs(card)]
    return Section(
        "What was built",
        "What a row holds: bases that a model reads, and what every track measured over them.",
        [facts(pairs)],
    )


def _describe_genome(genome: Genome | None) -> list[tuple[str, object]]:
    if genome is None:
        return [("genome", "none: each sequence is a contig of its own")]
    genome_bp = sum(genome.contig_lengths.values())
    said: list[tuple[str, object]] = [
        ("genome", f"{genome.name}, {len(genome.contig_lengths):,} contigs, {genome_bp:,} bp"),
        ("FASTA", genome.fasta),
    ]
    if genome.haplotype_digest is not None:
        said.append(
            ("sample", f"a sample's variants were applied; its bases have the digest {genome.haplotype_digest}")
        )
    return said


def _splits(card: Card) -> Section:
    rows: list[list[object]] = [[split, count] for split, count in card.counts.items()]
    said = [text(describe_folds(card.folds))] if card.folds else []
    if card.genome is None:
        return Section("Splits", "What each example is for.", [table(["split", "examples"], rows), *said])
    lengths, stretches = card.genome.contig_lengths, []
    for row, split in zip(rows, card.counts, strict=True):
        intervals = [parse_region(region, lengths) for region in card.regions.get(split, [])]
        stretches += [Stretch(one.contig, one.start, one.end, split) for one in intervals]
        row += [sum(one.width for one in intervals), len(intervals)]
    drawn, words = join_stretches(stretches, most=MOST_STRETCHES), []
    if len(drawn) < len(stretches):
        words.append(
            f"{len(stretches):,} stretches are too many to draw: short ones are drawn as part of the one before them, "
            "so that only the table tells how many bases each split has."
        )
    if len(lengths) > MOST_CONTIGS:
        hidden = len(lengths) - MOST_CONTIGS
        words.append(f"The {MOST_CONTIGS:,} longest contigs; {hidden:,} shorter ones are not drawn.")
    picture = embed(
        contig_map(lengths, drawn),
        alt="contigs as bars, coloured by the split that each stretch belongs to",
        caption=" ".join(words),
        wide=True,
    )
    return Section(
        "Splits",
        "Every stretch of the genome belongs to one split, so that what is measured was never learned from.",
        [table(["split", "examples", "bases", "regions"], rows), *said, picture],
    )


def join_stretches(stretches: Sequence[Stretch], *, most: int) -> list[Stretch]:
    """Return at most about `most` stretches for a map: of more, the short ones go to the one before them."""
    if len(stretches) <= most:
        return list(stretches)
    ends: dict[str, int] = {}
    for one in stretches:
        ends[one.contig] = max(ends.get(one.contig, 0), one.end)
    dot_bp = -(-sum(ends.values()) // most)
    joined: list[Stretch] = []
    for one in sorted(stretches):
        last = joined[-1] if joined and joined[-1].contig == one.contig else None
        far = last is not None and one.start - last.end > dot_bp
        if last is None or far or (one.split != last.split and last.end - last.start >= dot_bp):
            joined.append(one)
        else:
            joined[-1] = last._replace(end=max(last.end, one.end))
    return joined


def _dropped(card: Card) -> Section:
    rows: list[list[object]] = [[reason, count] for reason, count in card.dropped.items()]
    content = [table(["reason", "count"], rows)] if rows else [text("Nothing was left out.")]
    return Section("Left out", "What could have been in the examples and is not, and why.", content)


def lay_out(values: Mapping[str, Any], caption: str = "") -> list[Markup]:
    """Lay out nested plain values: single ones in a list, then a table for what is itself a dict or a list of dicts."""
    plain = [[_words(key), _said(value)] for key, value in values.items() if _is_plain(value)]
    content = []
    if plain and caption:
        content += _first([caption, "value"], plain)
    elif plain:
        content.append(facts([(str(name), value) for name, value in plain]))
    for key, value in values.items():
        if not _is_plain(value):
            content += _lay_out_one(value, f"{caption}: {_words(key)}" if caption else _words(key))
    return content


def _lay_out_one(value: Any, caption: str) -> list[Markup]:
    named = isinstance(value, Mapping)
    rows = list(value.values()) if named else value
    if all(isinstance(row, Mapping) and all(map(_is_plain, row.values())) for row in rows):
        columns = list(dict.fromkeys(key for row in rows for key in row))
        header, cells = [_words(key) for key in columns], [[_said(row.get(key)) for key in columns] for row in rows]
        if columns and not named:
            return _first(header, cells, caption)
        if named and 0 < len(columns) <= MOST_COLUMNS:
            cells = [[_words(key), *row] for key, row in zip(value, cells, strict=True)]
            return _first(["", *header], cells, caption)
    if named:
        return lay_out(value, caption)
    return [folded(caption, json.dumps(shortened(value), indent=2, ensure_ascii=False))]


def _is_plain(value: Any) -> bool:
    """Say whether a value fits in one cell."""
    return not value or not isinstance(value, Mapping | list | tuple) or _is_flat(value)


def _is_flat(value: Any) -> bool:
    return not isinstance(value, Mapping) and not any(isinstance(one, Mapping | list | tuple) for one in value)


def _said(value: Any) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping | list | tuple):
        return _join([number(one) for one in value]) or "none"
    return NO_VALUE if value in ("", None) else value


def _words(key: object) -> str:
    """Write a key as words; what is no key, such as the name of a contig, stays."""
    return str(key).replace("_", " ") if re.fullmatch("[a-z]+(_[a-z]+)*", str(key)) else str(key)


def _join(values: Sequence[str]) -> str:
    more = f" and {len(values) - MOST_LISTED:,} more" if len(values) > MOST_LISTED else ""
    return ", ".join(values[:MOST_LISTED]) + more


def _first(header: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> list[Markup]:
    content = [table(header, rows[:MOST_ROWS], caption=caption)]
    if len(rows) > MOST_ROWS:
        content.append(text(f"{len(rows) - MOST_ROWS:,} more rows are in card.json, in the dataset's folder."))
    return content


def _sources(card: Card) -> Section:
    rows = [[source.path, source.num_bytes, source.sampled_digest[:SHOWN_DIGITS]] for source in card.sources]
    header = ["file", "bytes", "digest of samples, its beginning"]
    content = _first(header, rows) if rows else [text("The card names none.")]
    return Section("Source files", "What the dataset was made from.", content)


def _origin(card: Card) -> Section:
    pairs = [("digest", card.digest)]
    if card.genome is not None:
        pairs.append(("genome digest", card.genome.digest))
    pairs += [
        ("files", f"{len(card.files):,} Parquet files, {sum(file.rows for file in card.files):,} rows"),
        ("cisray", card.cisray_version),
        ("schema version", str(card.schema_version)),
    ]
    job = json.dumps(shortened(card.job), indent=2, ensure_ascii=False)
    return Section(
        "Where it comes from",
        "What identifies this dataset, and the job that makes it again.",
        [facts(pairs), folded("The job, with its overrides", job)],
    )


def shortened(value: Any) -> Any:
    """Return plain values with long lists cut, and the rest of each counted."""
    if isinstance(value, Mapping):
        return {key: shortened(one) for key, one in value.items()}
    if not isinstance(value, list | tuple):
        return value
    kept = [shortened(one) for one in value[:MOST_LISTED]]
    return [*kept, f"... and {len(value) - MOST_LISTED:,} more, in card.json"] if len(value) > MOST_LISTED else kept
