"""What do features of windows cost to make, and to read again where they were made before, on one core?

Made-up windows of 200 bases, with a few N. Features are made by `baselines.feature_sets` in parts, as a worker makes
its blocks; "write" and "read" are `baselines.feature_cache`, read with the checksum that a block is known by. Motifs
are made up, 12 bases wide; "numpy" adds up their matrices base by base, as a program without a scanner does.
"""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _table import finish, interleave, print_rates, print_table, rates_of, read_options, significant

from cisray.baselines.feature_cache import Block, encode_block, read_blocks, write_block
from cisray.baselines.feature_sets import Composition, FeatureMaker, FeatureSet, GappedKmers, Kmers, RegionKmers
from cisray.baselines.passes import pass_over
from cisray.baselines.windows import Table, Windows
from cisray.files import file_digest
from cisray.genome.motifs import Motif, scan_each

WINDOWS = 20_000
BLOCK = 1024
LENGTH_BP = 200
MOTIFS = 50
MOTIF_BP = 12
SETS: dict[str, tuple[FeatureSet, ...]] = {
    "kmers 6": (Kmers(k=6),),
    "gapped_kmers 6, 4": (GappedKmers(length_bp=6, k=4),),
    "composition": (Composition(),),
    "region_kmers": (RegionKmers(),),
}


def make_windows(num: int) -> Windows:
    """Draw windows with a few N, and one number for each."""
    random = np.random.default_rng(0)
    codes = random.integers(0, 4, (num, LENGTH_BP), np.uint8)
    codes[random.random(codes.shape) < 1e-4] = 4
    return Windows(codes, random.normal(size=(num, 1)).astype(np.float32))


def parts_of(windows: Windows) -> list[Windows]:
    """Cut windows into blocks."""
    rows = [slice(start, start + BLOCK) for start in range(0, len(windows.codes), BLOCK)]
    return [Windows(windows.codes[part], windows.targets[part]) for part in rows]


def make(maker: FeatureMaker, parts: Sequence[Windows]) -> list[Table]:
    """Make the features of every block."""
    return [Table(maker(part.codes), part.targets) for part in parts]


def write(tables: Sequence[Table], folder: Path) -> list[Block]:
    """Write every block."""
    blocks = []
    for number, table in enumerate(tables):
        blocks.append(Block(folder / f"{number}.arrow", table.rows.shape[0], table.rows.nnz))
        write_block(encode_block(table), blocks[-1].path)
    return blocks


def read(blocks: Sequence[Block], num_columns: int) -> Table:
    """Check and read every block."""
    for block in blocks:
        file_digest(block.path)
    return read_blocks(blocks, num_columns=num_columns, num_tracks=1)


def make_motifs(num: int) -> list[Motif]:
    """Draw matrices; N counts as the worst base."""
    scores = np.random.default_rng(1).normal(0, 2, (num, MOTIF_BP, 4)).astype(np.float32)
    return [Motif(f"m{number}", np.c_[one, one.min(axis=1)]) for number, one in enumerate(scores)]


def scan_library(codes: np.ndarray, motifs: Sequence[Motif]) -> None:
    """Scan by the library, a motif at a time."""
    for _ in scan_each(codes, motifs):
        pass


def scan_numpy(codes: np.ndarray, motifs: Sequence[Motif]) -> None:
    """Scan by looking up every base of a match, on both strands."""
    last = codes.shape[1] - MOTIF_BP + 1
    for motif in motifs:
        strands = []
        for table in (motif.scores, motif.scores[::-1, [3, 2, 1, 0, 4]]):
            total = np.zeros((len(codes), last), np.float32)
            for position in range(MOTIF_BP):
                total += table[position].take(codes[:, position : position + last])
            strands.append(total)
        np.maximum(*strands)


def main() -> None:
    """Run the benchmark."""
    options = read_options(__doc__, repeats=3)
    torch.set_num_threads(1)
    windows = make_windows(options.scaled(WINDOWS, at_least=100))
    num, parts, rows, figures = len(windows.codes), parts_of(windows), [], {}
    for name, sets in SETS.items():
        maker = FeatureMaker(sets, window_bp=LENGTH_BP)
        learn = partial(maker.learn, pass_over(*parts))
        learn()
        tables = make(maker, parts)
        with tempfile.TemporaryDirectory() as folder:
            blocks = write(tables, Path(folder))
            size = sum(block.path.stat().st_size for block in blocks)
            steps: dict[str, Callable[[], object]] = {
                "make": partial(make, maker, parts),
                "write": partial(write, tables, Path(folder)),
                "read": partial(read, blocks, len(maker.names)),
            }
            if maker.learns:
                steps["learn"] = learn
            found = interleave(steps, repeats=options.repeats)
        median = {step: float(np.median(seconds)) for step, seconds in found.items()}
        cells = [
            significant(1e3 * median[step]) if step in median else "" for step in ("learn", "make", "write", "read")
        ]
        rows.append(
            [name, *cells, significant(size / num), significant(size / (8 * sum(block.values for block in blocks)))]
        )
        key = name.split()[0]
        figures |= {f"{key}.{step}_windows_per_second": num / seconds for step, seconds in median.items()}
        figures[f"{key}.file_bytes_per_window"] = size / num
        figures[f"{key}.read_to_make_ratio"] = median["make"] / median["read"]
    header = ["", "learn, ms", "make, ms", "write, ms", "read, ms", "bytes/window", "of memory"]
    print_table(f"features of {num} windows of {LENGTH_BP} bases; median of {options.repeats}", header, rows)

    motifs, codes = make_motifs(MOTIFS), windows.codes[:BLOCK]
    contenders = {"library": partial(scan_library, codes, motifs), "numpy": partial(scan_numpy, codes, motifs)}
    amount = codes.size * len(motifs) / 1e6
    rates = rates_of(interleave(contenders, repeats=options.repeats), dict.fromkeys(contenders, amount))
    scanned = print_rates(f"scan for motifs of {MOTIF_BP} bases", rates, unit="million places", against="numpy")
    figures["motifs.places_per_second"] = 1e6 * scanned["library"]
    figures["motifs.ratio_to_numpy"] = scanned["library"] / scanned["numpy"]
    finish("features", {f"features.{key}": value for key, value in figures.items()})


if __name__ == "__main__":
    main()
