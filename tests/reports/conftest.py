from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure

from cisray.datasets.card import CARD_NAME, SCHEMA_VERSION, Card, DataFile, Genome, Track, card_to_dict
from cisray.datasets.loci.folds import FoldSpec
from cisray.datasets.predictions import EVALUATION_NAME, prediction_schema
from cisray.datasets.schema import encode_rows
from cisray.datasets.statistics import TRACKS_NAME, Tally, write_tracks
from cisray.files import file_digest, write_json
from cisray.genome.variants import Variant
from cisray.geometry import Geometry
from cisray.scoring.alleles import Flag, Status
from cisray.scoring.manifest import Block, GenomeSource, Manifest, ModelSource, VariantSource, write_manifest
from cisray.scoring.rows import ScoredRows, build_rows, variants_table, write_rows
from cisray.scoring.schema import BLOCKS_DIR
from cisray.training.metrics import DEFINITIONS

EVIL = "<script>alert('x')</script>&\"$x_1$"
VOID = {"meta", "img", "br", "hr", "link", "input"}
LENGTHS = {"sim1": 80_000, "sim2": 60_000, "sim3": 30_000}


class Page(HTMLParser):
    """A page taken apart: tables as rows of text, ids, links; raises where tags do not match."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.source, self.open, self.tables, self.attributes, self.words = source, [], [], [], []
        self.feed(source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def table(self, *header):
        """Return the body of the one table whose last heading row is `header`, by first cell where unique."""
        found = [rows for rows in self.tables if list(header) in rows]
        assert len(found) == 1, [rows[:2] for rows in self.tables]
        return found[0][found[0].index(list(header)) + 1 :]

    def check_self_contained(self):
        for tag, name, value in self.attributes:
            if name in ("src", "href", "srcset", "data", "action"):
                assert value.startswith(("data:", "#")), (tag, name, value[:80])
            assert not name.startswith("on"), (tag, name)
        assert "url(" not in self.source
        assert "@import" not in self.source
        assert "script" not in {tag for tag, _, _ in self.attributes}
        assert "<script" not in self.source
        anchors = [value[1:] for _, name, value in self.attributes if name == "href"]
        ids = [value for _, name, value in self.attributes if name == "id"]
        assert anchors == ids
        assert len(set(ids)) == len(ids)


@pytest.fixture(scope="session")
def read_page():
    def read(path):
        page = Page(path.read_text(encoding="utf-8"))
        page.check_self_contained()
        return page

    return read


def make_targets(names):
    """Draw targets [n, 32] per split and track."""
    rng = np.random.default_rng(0)
    sizes = {"train": 3, "valid": 1, "test": 1}
    return {split: {name: rng.gamma(2, 3, (n, 32)) for name in names} for split, n in sizes.items()}


def tally_targets(targets, tracks):
    """Measure each split's targets, by name."""
    return {
        split: Tally.of(np.stack([np.ravel(of_tracks[track.name]) for track in tracks], -1)[None], tracks)
        for split, of_tracks in targets.items()
    }


def make_card(names=("plain", "gap", "plus", "minus"), *, targets=None, **changes):
    """Make the card of a small dataset; `targets` per split and track are what its statistics are of."""
    pairs = {"plus": "minus", "minus": "plus"}
    tracks = changes.get("tracks") or tuple(
        Track(name=name, file=f"{index}.bw", strand_pair=pairs.get(name)) for index, name in enumerate(names)
    )
    tallies = tally_targets(targets or make_targets(names), tracks)
    fields = {
        "schema_version": SCHEMA_VERSION,
        "name": "simulated",
        "cisray_version": "0.1.0",
        "genome": Genome(name="sim", fasta="genome.fa", digest="ab" * 32, contig_lengths=LENGTHS, contig_digests={}),
        "geometry": Geometry(window_bp=2304, bin_bp=64, crop_bins=2, margin_bp=16),
        "tracks": tracks,
        "contig_names": {name: {} for name in names},
        "absent_contigs": {name: [] for name in names},
        "folds": FoldSpec(valid=("sim2:0-20000",), test=("sim3",)),
        "regions": {
            "train": ["sim1:0-80000", "sim2:20000-60000"],
            "valid": ["sim2:0-20000"],
            "test": ["sim3:0-30000"],
        },
        "counts": {"train": 3, "valid": 1, "test": 1},
        "dropped": {"windows with too many N": 4, "test bases under no window": 1328},
        "statistics": {split: tally.statistics([track.name for track in tracks]) for split, tally in tallies.items()},
        "files": (DataFile(path="examples/split=train/part-sim1.parquet", rows=5, sha256="cd" * 32),),
        "job": {"name": "simulated", "note": "</pre><b>"},
    }
    return Card(**(fields | changes))


@pytest.fixture
def unrendered(request, monkeypatch):
    """Build figures but do not draw them, which takes most of a page's time; a test may ask for `rendered` ones."""

    def write_nothing(self, stream, **options):
        stream.write(b"<svg/>")

    if "rendered" not in request.fixturenames:
        monkeypatch.setattr(Figure, "savefig", write_nothing)


@pytest.fixture
def rendered():
    """Ask for figures that are drawn."""


@pytest.fixture(scope="session")
def card_of():
    return make_card


@pytest.fixture
def make_dataset(tmp_path):
    """Write the card of a dataset and, of the targets that it was made with, its histograms."""

    def make(card, targets=None):
        folder = tmp_path / "dataset"
        folder.mkdir(exist_ok=True)
        tallies = tally_targets(targets or make_targets(card.track_names), card.tracks)
        write_tracks(folder / TRACKS_NAME, card.tracks, tallies)
        write_json(folder / CARD_NAME, card_to_dict(card))
        return folder

    return make


def simulate_signal(card, rng, num_bins):
    """Draw measured values [M, T] with peaks, and predictions that come near them."""
    places = np.arange(num_bins)[:, None]
    measured = np.full((num_bins, len(card.tracks)), 1.0)
    for _ in range(max(1, num_bins // 20)):
        centre, height = rng.integers(num_bins), rng.gamma(2, 8, len(card.tracks))
        measured += height * np.exp(-(((places - centre) / 3) ** 2))
    predicted = measured * rng.lognormal(0, 0.25, measured.shape) - 0.2
    measured = rng.poisson(measured * 4) / 4.0
    if "gap" in card.track_names:
        measured[num_bins // 3 : num_bins // 3 + num_bins // 8, card.track_names.index("gap")] = np.nan
    return predicted.astype("<f4"), measured.astype("<f4")


def make_results(card, *, beside):
    epochs = [
        {
            "epoch": epoch,
            "step": 10 * epoch + 10,
            "train.loss": 1.5 - 0.1 * epoch,
            "valid.loss": 1.6 - 0.2 * epoch + 0.03 * epoch**2,
            "valid.pearson": 0.3 + 0.1 * epoch - 0.01 * epoch**2,
            "valid.pearson_per_track": [0.3 + 0.1 * epoch, None, 0.2, 0.25 + 0.05 * epoch][: len(card.tracks)],
        }
        for epoch in range(6)
    ]
    penalties = [{"penalty": 10.0**p, "valid.pearson": 0.2 - 0.01 * (p + 2) ** 2} for p in range(-4, 0)]

    def of_model(architecture, history, best_epoch, shift):
        return {
            "path": architecture,
            "digest": architecture * 2,
            "architecture": architecture,
            "num_parameters": 123_456 if best_epoch else 768,
            "history": history,
            "best_epoch": best_epoch,
            "tracks": {
                name: {
                    "num_bins": 448.0,
                    "pearson": 0.912 - shift - index / 50,
                    "pearson_log1p": 0.834 - shift - index / 50,
                    "r2": None if index == 1 else 0.651 - 2 * shift,
                }
                for index, name in enumerate(card.track_names)
            },
        }

    models = {"model": of_model("basenji", epochs, 4, 0.0)}
    if beside:
        models["beside"] = of_model("kmer_ridge", penalties, None, 0.4)
    return {
        "split": "test",
        "strands": "both",
        "definitions": {name: DEFINITIONS[name] for name in ("pearson", "pearson_log1p", "r2")},
        "models": models,
        "cisray_version": "0.1.0",
    }


@pytest.fixture
def make_evaluation(tmp_path):
    """Write an evaluation of the windows of sim3 side by side, in two files out of order."""

    def make(card=None, *, beside=True, change=lambda results: results):
        card, folder = card or make_card(), tmp_path / "evaluation"
        (folder / "predictions").mkdir(parents=True, exist_ok=True)
        geometry = card.geometry
        windows = (30_000 - geometry.window_bp) // geometry.target_bp + 1
        predicted, measured = simulate_signal(card, np.random.default_rng(1), windows * geometry.num_bins)
        shape = (windows, *card.target_shape)
        starts = np.arange(windows) * geometry.target_bp
        columns = [
            pa.array(["sim3"] * windows),
            pa.array(starts),
            pa.array(starts + geometry.window_bp),
            pa.array(["+"] * windows),
            encode_rows(predicted.reshape(shape)),
            encode_rows(measured.reshape(shape)),
        ]
        rows = pa.table(columns, schema=prediction_schema(card))
        pq.write_table(rows.slice(5), folder / "predictions" / "part-a.parquet")
        pq.write_table(rows.slice(0, 5), folder / "predictions" / "part-b.parquet")
        write_json(folder / EVALUATION_NAME, change(make_results(card, beside=beside)))
        write_json(folder / CARD_NAME, card_to_dict(card))
        return folder, predicted, measured

    return make


SCORE_TRACKS = ("strength", EVIL)
FORMULAS = {"delta_sum": "sum(a) - sum(r)", "log2fc": "log2(1 + sum(a)) - log2(1 + sum(r))", "l2_log2": "norm2"}


def make_variants(rng, num_variants):
    """Draw rows of every status along two contigs, a tenth of them second alleles, and a class for each."""
    statuses = [Status.OK] * 8 + [Status.REF_MISMATCH, Status.SYMBOLIC]
    rows, record, allele, position = [], -1, 0, 0
    for number in range(num_variants):
        second = number % 10 == 9
        record, allele = (record, 1) if second else (record + 1, 0)
        contig = "1" if number < num_variants * 2 // 3 else "2"
        position = position if second else (position + int(rng.integers(1, 50)))
        if number == num_variants * 2 // 3:
            position = 7
        rows.append(
            (
                Variant(record, allele, contig, position, f"rs{number}", "A", "ACG"[1 + allele]),
                statuses[int(rng.integers(len(statuses)))],
                ("breaks_motif", "background", "other")[number % 3],
            )
        )
    return rows


@pytest.fixture
def make_scores(tmp_path):
    """Write a score table in blocks of `block_rows`, and its truth; return the folder, the truth and all values."""

    def make(num_variants=300, *, block_rows=64, seed=0, tracks=SCORE_TRACKS, all_bad=False):
        rng = np.random.default_rng(seed)
        scores_dir = tmp_path / "scores"
        (scores_dir / BLOCKS_DIR).mkdir(parents=True)
        rows = make_variants(rng, num_variants)
        if all_bad:
            rows = [(variant, Status.STAR, kind) for variant, _, kind in rows]
        scale = np.array([{"breaks_motif": 0.4, "background": 0.15, "other": 0.3}[kind] for *_, kind in rows])
        truth = (rng.normal(0, 1, (num_variants, len(tracks))) * scale[:, None]).round(6)
        log2fc = (truth + rng.normal(0, 0.1, truth.shape)).astype(np.float32)
        values = {"delta_sum": 30 * log2fc, "log2fc": log2fc, "l2_log2": np.abs(log2fc) / 2}
        blocks = []
        cuts = list(range(0, num_variants, block_rows))
        for number, first in enumerate(cuts):
            part = slice(first, min(first + block_rows, num_variants))
            blocks.append(_write_block(scores_dir, rows[part], {k: v[part] for k, v in values.items()}, number, tracks))
        _write_manifest(scores_dir, rows, blocks, tracks)
        header = ["record_index", "allele_index", "contig", "pos", "ref", "alt", "class"]
        lines = ["\t".join([*header, *(f"true_log2fc_{track}" for track in tracks)])]
        lines += [
            "\t".join(map(str, [v.record_index, v.allele_index, v.contig, v.pos, v.ref, v.alt, kind, *true]))
            for (v, _, kind), true in zip(rows, truth.tolist(), strict=True)
        ]
        (tmp_path / "truth.tsv").write_text("\n".join([*lines, ""]), encoding="utf-8")
        return scores_dir, tmp_path / "truth.tsv", rows, values

    return make


def _write_block(scores_dir, rows, values, number, tracks):
    scored = np.flatnonzero([status is Status.OK for _, status, _ in rows])
    variants = [rows[row][0] for row in scored]
    found = ScoredRows(
        rows=scored,
        norm_pos=np.array([variant.pos for variant in variants]),
        norm_ref=[variant.ref for variant in variants],
        norm_alt=[variant.alt for variant in variants],
        flags=np.array([Flag.INDEL if variant.record_index % 7 == 0 else Flag(0) for variant in variants], np.uint16),
        window_start=np.zeros(len(scored), np.int32),
        center_offset=np.zeros(len(scored), np.int32),
        n_passes=np.ones(len(scored), np.uint8),
        values={name: matrix[scored] for name, matrix in values.items()},
    )
    table = build_rows(
        variants_table(variant for variant, _, _ in rows), [status for _, status, _ in rows], found, tracks=tracks
    )
    path = scores_dir / BLOCKS_DIR / f"{number:07d}.parquet"
    write_rows(table, path)
    first, last = rows[0][0].record_index, rows[-1][0].record_index
    return Block(name=path.name, rows=len(rows), sha256=file_digest(path), first=first, last=last)


def _write_manifest(scores_dir, rows, blocks, tracks):
    manifest = Manifest(
        cisray_version="0.1.0",
        model=ModelSource(uri="models:/sim", version="3", digest="ab12"),
        genome=GenomeSource(fasta="genome.fa", digest="cd34", contig_names={"1": "chr1", "2": "chr2"}),
        variants=VariantSource(file="in.vcf", digest="ef56"),
        tracks=tracks,
        scores=FORMULAS,
        window_bp=2048,
        max_allele_bp=100,
        strands="both",
        precision="float32",
        counts=dict(Counter(status for _, status, _ in rows)),
        rows=len(rows),
        records=len({variant.record_index for variant, _, _ in rows}),
        noise_floor={"delta_sum": 0.5, "log2fc": 0.02, "l2_log2": 0.0},
        blocks=tuple(blocks),
    )
    write_manifest(scores_dir, manifest)
