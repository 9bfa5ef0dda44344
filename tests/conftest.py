import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import settings

from cisray.datasets.card import CARD_NAME, SCHEMA_VERSION, Card, DataFile, Genome, Statistics, Track, card_to_dict
from cisray.datasets.loci.folds import FoldSpec
from cisray.datasets.schema import Examples, Loci, layout_of, make_rows
from cisray.files import file_digest, write_json
from cisray.geometry import Geometry

pytest_plugins = ["whole_program"]
# All tests in these are marked ray.
WITH_RAY = {"flows", "jobs", "test_cli.py", "test_readme.py", "test_tracking.py"}

# a busy machine is no failure
settings.register_profile("cisray", deadline=None)
settings.load_profile("cisray")

GEOMETRY = Geometry(window_bp=12, bin_bp=2, crop_bins=1, margin_bp=3)
STRANDED = (
    Track(name="fwd", file="fwd.bw", strand_pair="rev", scale=2.0, clip_soft=4.0),
    Track(name="rev", file="rev.bw", strand_pair="fwd", scale=2.0, clip_soft=4.0),
    Track(name="both", file="both.bw"),
)


def pytest_ignore_collect(collection_path, config):
    """Keep the core tests, which run where Ray and MLflow are not installed, from importing what needs them."""
    needs_ray = collection_path.parent == Path(__file__).parent and collection_path.name in WITH_RAY
    return True if needs_ray and config.option.markexpr == "not ray" else None


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Keep torch to one thread: the networks of tests are so small that threads only wait for each other."""
    if "torch" in sys.modules:  # a run of tests that need no torch does not load it
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture
def make_card():
    """Make a card of two stranded tracks and an unstranded one, with the fields given in place of these."""

    def make(**fields) -> Card:
        tracks = fields.get("tracks", STRANDED)
        statistics = Statistics(
            num_bins=4,
            num_masked=1,
            num_zero=0,
            num_soft_clipped=0,
            num_clipped=0,
            total=6.0,
            total_squares=14.0,
            least=1.0,
            greatest=3.0,
        )
        default = {
            "schema_version": SCHEMA_VERSION,
            "name": "toy",
            "cisray_version": "0.1.0",
            "genome": Genome(
                name="toy1",
                fasta="toy.fa",
                digest="ab12",
                contig_lengths={"chr1": 5000, "chr2": 300},
                contig_digests={"chr1": "cd34", "chr2": "ef56"},
            ),
            "geometry": GEOMETRY,
            "tracks": tracks,
            "contig_names": {track.name: {} for track in tracks},
            "absent_contigs": {track.name: [] for track in tracks},
            "folds": FoldSpec(valid=("chr2:0-100",), test=("chr2:100-200",)),
            "regions": {"train": ["chr1:0-5000"], "valid": ["chr2:0-100"], "test": ["chr2:100-200"]},
            "counts": {"train": 0, "valid": 0, "test": 0},
            "dropped": {"windows with too many N": 0},
            "statistics": {"train": {track.name: statistics for track in tracks}},
            "files": (),
            "job": {"name": "toy", "windows": {"stride_bp": None}},
        }
        return Card(**(default | fields))

    return make


@pytest.fixture
def make_dataset(tmp_path, make_card):
    """Write a dataset whose row number i of a split starts at base 8 i, with random codes and targets."""

    def make(rows_per_file: dict[str, list[int]], *, row_group_rows: int = 5, **fields) -> tuple[Path, Card]:
        card, folder = make_card(**fields), tmp_path / "dataset"
        random, files = np.random.default_rng(7), []
        for split, sizes in rows_per_file.items():
            (folder / f"examples/split={split}").mkdir(parents=True)
            first = 0
            for number, size in enumerate(sizes):
                starts = 8 * np.arange(first, first + size)
                codes = random.integers(0, 5, (size, card.geometry.stored_bp), np.uint8)
                targets = random.gamma(2.0, 1.0, (size, *card.target_shape)).astype("<f4")
                loci = Loci(
                    contig=["chr1"] * size,
                    start=starts,
                    end=starts + card.geometry.window_bp,
                    strand=["+"] * size,
                    fold=np.zeros(size),
                )
                rows = make_rows(layout_of(card), loci, Examples(codes, targets))
                path = folder / f"examples/split={split}/part-{number}.parquet"
                pq.write_table(rows, path, row_group_size=row_group_rows)
                files.append(DataFile(path=str(path.relative_to(folder)), rows=size, sha256=file_digest(path)))
                first += size
        counts = {split: sum(sizes) for split, sizes in rows_per_file.items()}
        card = make_card(**(fields | {"files": tuple(files), "counts": counts}))
        write_json(folder / CARD_NAME, card_to_dict(card))
        return folder, card

    return make
