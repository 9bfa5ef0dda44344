"""A score table as a page: what was scored and what not, how far, where, and the variants that change most."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cisray.errors import InputError
from cisray.reports.figures import agreement, distributions, embed, manhattan
from cisray.reports.page import (
    PAGE_NAME,
    Markup,
    Section,
    Tile,
    callout,
    facts,
    grid,
    number,
    share,
    table,
    text,
    tiles,
    write_page,
)
from cisray.reports.score_summary import GRID, Summary, TopRow, summarise
from cisray.reports.truth import NEGATIVE, POSITIVE, Separation, Truth, correlate, read_truth, separations
from cisray.scoring.alleles import SCORED, Flag, Status
from cisray.scoring.effects import SCORES
from cisray.scoring.manifest import Manifest, read_manifest

NUM_TOP = 25
NUM_MOVED = 3
"""Tracks named beside each of the top variants."""
MOST_BASES = 20
"""Longer alleles are cut in tables."""
TRACKS_PER_FIGURE = 20

REASONS = {
    Status.OK: "scored",
    Status.REF_FLIPPED: "scored with alleles exchanged: the genome has ALT there",
    Status.REF_MISMATCH: "REF is not what the genome has there: another genome build, or alleles swapped",
    Status.CONTIG_UNKNOWN: "the genome has no contig of that name",
    Status.OUT_OF_CONTIG: "the position lies outside its contig",
    Status.NON_ACGT: "an allele has letters other than A, C, G and T",
    Status.SYMBOLIC: "the ALT allele is symbolic or a breakend; its bases are not given",
    Status.STAR: "the ALT allele is *: the base is lost to another record's deletion",
    Status.MISSING_ALT: "the record has no ALT allele",
    Status.TOO_LONG: "an allele is longer than max_allele_bp",
    Status.NO_BINS: "no output bin of the window is asked for there: no gene or region near enough",
}
FLAGS = {
    Flag.EDGE_PADDED: "window reaches beyond the contig",
    Flag.HAS_N: "N in the window",
    Flag.INDEL: "changes length",
    Flag.OFF_CENTRE: "off the window's middle",
    Flag.DEDUPLICATED: "same edit as another row",
    Flag.REF_FROM_VCF: "REF written over the genome",
    Flag.INDEL_STITCHED: "both sides of the indel aligned",
}
ALIGNMENTS = {
    "none": "bins are compared by index: right of an indel bases are shifted, and a part of its effect is shift",
    "stitch": "bins left and right of an indel come from two readings, each aligned with the reference",
    "ref_coords": "inserted bins are reduced to their largest, deleted ones are 0",
}


def write_score_page(
    scores_dir: Path, *, truth_path: Path | None = None, held_out: tuple[str, ...] = ()
) -> tuple[Path, list[str]]:
    """Write `report.html` into a score table's folder; return its path and what is to be printed beside it.

    Args:
        scores_dir: the score table.
        truth_path: a table of its variants with a `class` column, as `cisray simulate` writes it.
        held_out: names of contigs that the model never learned from; classes are told apart there, and everywhere.

    Raises:
        InputError: the folder is not a finished score table, or the truth belongs to other variants.
    """
    manifest = read_manifest(scores_dir)
    if not manifest.scores or not manifest.listed_tracks:
        raise InputError(
            f"{scores_dir}: no values per track in it, which a page is made of; score again with all values, or with "
            "the tracks named that a page should show"
        )
    truth = None if truth_path is None else read_truth(truth_path, scores_dir, manifest, held_out=held_out)
    summary = summarise(scores_dir, manifest, num_top=NUM_TOP)
    found = [] if truth is None else separations(truth, held_out=held_out)
    sections = [
        _rows(manifest),
        _made(manifest),
        *([] if truth is None else [_known(truth, found, summary)]),
        _top(summary, manifest),
        _genome_wide(summary),
        _scores(summary, manifest),
    ]
    page = write_page(
        scores_dir / PAGE_NAME,
        title=f"Scores of {manifest.variants.file}",
        subtitle=f"{manifest.rows:,} rows of {manifest.records:,} records, by {_model(manifest)}",
        sections=sections,
    )
    return page, [str(one) for one in found]


def describe_flags(flags: int) -> str:
    """Say a row's flags in words."""
    return "; ".join(words for flag, words in FLAGS.items() if flags & flag) or "–"


def describe_moved(values: np.ndarray, tracks: Sequence[str]) -> str:
    """Name the tracks that a variant moves most, with their values [T], signed."""
    order = np.argsort(-np.abs(values), kind="stable")[:NUM_MOVED]
    return ", ".join(f"{tracks[index]} {_signed(float(values[index]))}" for index in order)


def _model(manifest: Manifest) -> str:
    version = f", version {manifest.model.version}" if manifest.model.version else ""
    others = f", and {len(manifest.models) - 1} more" if len(manifest.models) > 1 else ""
    return f"{manifest.model.uri}{version}{others}"


def _signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)


def _rows(manifest: Manifest) -> Section:
    scored = sum(manifest.counts.get(status, 0) for status in SCORED)
    rows = [
        [status.value, count, share(count, manifest.rows), REASONS[status]]
        for status, count in sorted(manifest.counts.items(), key=lambda one: -one[1])
    ]
    content = [
        tiles(
            [
                Tile(manifest.rows, "rows", "one per record and ALT allele"),
                Tile(scored, "scored", f"{share(scored, manifest.rows)} of the rows"),
                Tile(manifest.rows - scored, "not scored", "a status and no values, never zeros"),
                Tile(len(manifest.listed_tracks), "tracks"),
            ]
        )
    ]
    if manifest.rows and scored < manifest.rows / 2:
        content.append(callout("warning", "Less than half of the rows were scored; the statuses say why."))
    content.append(table(["status", "rows", "share", "what it means"], rows))
    return Section("Rows", "Every row of the variants file is in the table, scored or with a reason.", content)


def _made(manifest: Manifest) -> Section:
    place = f"{manifest.window_bp // 2:,} bp stand before the variant's first base"
    if manifest.window_policy != "centered":
        place = "variants of a cell of the grid share the window around it"
    strands = "mean of both strands" if manifest.strands == "both" else "forward strand only"
    pairs = [
        ("model", _model(manifest)),
        ("model digest", manifest.model.digest),
        ("genome", f"{manifest.genome.fasta}, digest {manifest.genome.digest}"),
        ("variants", f"{manifest.variants.file}, digest {manifest.variants.digest}"),
        (
            "window",
            f"{manifest.window_bp:,} bp, {manifest.window_policy}: {place}",
        ),
        ("indels", ALIGNMENTS[manifest.indel_align]),
        ("longest allele", f"{manifest.max_allele_bp:,} bp"),
        ("strands", strands),
        *([("shifts", ", ".join(f"{shift} bp" for shift in manifest.shifts))] if len(manifest.shifts) > 1 else []),
        ("REF unlike the genome", manifest.ref_mismatch),
        ("precision", manifest.precision),
        ("cisray", manifest.cisray_version),
    ]
    renamed = [f"{old} is {new}" for old, new in manifest.genome.contig_names.items() if old != new]
    if renamed:
        pairs.append(("contig names", f"in the variants file, and in the genome: {', '.join(renamed)}"))
    rows = [
        [name, SCORES[name].alias if name in SCORES else "–", formula, manifest.noise_floor[name]]
        for name, formula in manifest.scores.items()
    ]
    header = ["score", "known as", "formula", "noise floor"]
    below = text(
        "r: prediction for the reference, a: for the alternate, on the natural scale; sum and norm2 run over a "
        "window's bins. Noise floor: the largest |score| of a variant that changes nothing; what is not above it "
        "means nothing."
    )
    return Section(
        "How it was made", "The model, the genome and the formulas.", [facts(pairs), table(header, rows), below]
    )


def _known(truth: Truth, found: Sequence[Separation], summary: Summary) -> Section:
    rows = [
        [
            f"|{one.score}|",
            one.contigs or "all contigs",
            one.auroc,
            one.num_positive,
            one.num_negative,
            one.num_unscored,
        ]
        for one in found
    ]
    header = ["score", "rows on", "AUROC", POSITIVE, NEGATIVE, "without a score"]
    content = [
        table(header, rows),
        text(
            f"AUROC: the chance that a variant of class {POSITIVE} has a larger score than one of class {NEGATIVE}; "
            "0.5 is guessing. Of each row counts the largest |score| over tracks."
        ),
    ]
    small = [_agreement(truth, track, summary.main) for track in truth.effects]
    if small:
        content.append(grid(small))
    return Section(
        "Against the truth",
        f"Scores held against {truth.path.name}, which knows each variant's class and what it changes.",
        content,
    )


def _agreement(truth: Truth, track: str, main: str) -> Markup:
    true, predicted = truth.effects[track], truth.predicted[track]
    both = ~(np.isnan(true) | np.isnan(predicted))
    places = {"": both} | ({" on held-out contigs": both & truth.held_out} if truth.held_out.any() else {})
    correlations = [
        f"{number(correlate(true[rows], predicted[rows]))} over {int(rows.sum()):,} variants{place}"
        for place, rows in places.items()
    ]
    return embed(
        agreement(true[both], predicted[both], title=track, what=main),
        alt=f"predicted against true {main} of {track}",
        caption=f"Pearson {', '.join(correlations)}",
    )


def _top(summary: Summary, manifest: Manifest) -> Section:
    explains = f"The variants with the largest |{summary.main}| over tracks, and the tracks that they move most."
    if not summary.top:
        return Section("Largest effects", explains, [text("No row was scored.")])
    header = ["variant", "id", f"largest |{summary.main}|", f"moves most ({summary.main})", "to know"]
    rows = [_top_row(one, manifest.listed_tracks) for one in summary.top]
    return Section("Largest effects", explains, [table(header, rows)])


def _top_row(one: TopRow, tracks: Sequence[str]) -> list[object]:
    row = one.row
    alleles = f"{_cut(str(row['ref']))}>{_cut(str(row['alt']))}"
    return [
        f"{row['chrom']}:{row['pos']:,} {alleles}",
        _cut(str(row["id"])),
        one.largest,
        describe_moved(one.values, tracks),
        describe_flags(int(str(row["flags"]))),
    ]


def _cut(letters: str) -> str:
    return letters if len(letters) <= MOST_BASES else f"{letters[: MOST_BASES - 1]}… ({len(letters)})"


def _genome_wide(summary: Summary) -> Section:
    explains = f"Largest |{summary.main}| over tracks of every scored row, where it lies."
    if not summary.num_scored:
        return Section("Along the contigs", explains, [text("No row was scored.")])
    columns, levels = np.nonzero(summary.occupied)
    total = max(end for _, end in summary.spans.values())
    figure = manhattan(
        (columns + 0.5) / GRID[0] * total,
        (levels + 0.5) / GRID[1] * summary.largest,
        spans=summary.spans,
        what=f"largest |{summary.main}|",
    )
    caption = "Contigs in the order of the variants file, each as long as its last variant tells."
    alt = f"largest |{summary.main}| by position"
    return Section("Along the contigs", explains, [embed(figure, alt=alt, caption=caption, wide=True)])


def _scores(summary: Summary, manifest: Manifest) -> Section:
    explains = "How each score is distributed over the scored rows, per track; counts are on a log scale."
    if not summary.num_scored:
        return Section("Distributions", explains, [text("No row was scored.")])
    content = []
    for name, one in summary.extents.items():
        signed = name not in SCORES or SCORES[name].signed
        rows = [
            [
                track,
                *(
                    [share(one.raised[index], summary.num_scored), share(one.lowered[index], summary.num_scored)]
                    if signed
                    else []
                ),
                share(one.above_noise[index], summary.num_scored),
                float(one.lowest[index]),
                float(one.highest[index]),
            ]
            for index, track in enumerate(manifest.listed_tracks)
        ]
        header = ["track", *(["raised", "lowered"] if signed else []), "above the noise floor", "lowest", "highest"]
        content.append(table(header, rows, caption=name))
        for first in range(0, len(manifest.listed_tracks), TRACKS_PER_FIGURE):
            part = slice(first, first + TRACKS_PER_FIGURE)
            figure = distributions(manifest.listed_tracks[part], one.counts[part], one.edges, what=name)
            content.append(embed(figure, alt=f"distribution of {name} per track", wide=True))
    return Section("Distributions", explains, content)
