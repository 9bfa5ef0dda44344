import json
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest

from cisray.flows import score_plan
from cisray.flows.score_plan import plan_blocks, planned_path
from cisray.genome.variant_selection import SubsetSpec, select_variants
from cisray.genome.variants import Variant
from cisray.scoring.windows import WindowSpec

pytestmark = pytest.mark.ray  # not started, but imported
LENGTHS = {"chr1": 100_000, "chr2": 50_000}
GRID = WindowSpec(policy="grid", grid_bp=1000)


@pytest.fixture
def vcf_path(tmp_path):
    """Records in no order, some with several alternates, some at one position."""
    random = np.random.default_rng(0)
    lines = ["##fileformat=VCFv4.3", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    for number in range(700):
        contig = random.choice(["chr2", "chr1", "elsewhere"], p=[0.4, 0.5, 0.1])
        alts = ",".join(["C", "G", "T"][: random.integers(1, 4)])
        lines.append(f"{contig}\t{random.integers(1, 200) * 100}\tid{number}\tA\t{alts}\t.\t.\t.")
    path = tmp_path / "variants.vcf"
    path.write_text("\n".join(lines) + "\n")
    return path


def plan(path, staging, **how):
    variants = select_variants(path, how.pop("subset", SubsetSpec()), contig_lengths=LENGTHS)
    told = []
    summary = plan_blocks(staging, variants, **({"block_rows": 50, "windows": GRID, "report": told.append} | how))
    blocks = []
    for number in range(summary["blocks"]):
        rows = pq.read_table(planned_path(staging, number)).to_pylist()
        blocks.append([Variant(**row) for row in rows])
    return summary, blocks


@pytest.mark.parametrize("run_rows", [100, 1_000_000])
def test_every_row_is_in_one_block_of_neighbours(vcf_path, tmp_path, monkeypatch, run_rows):
    monkeypatch.setattr(score_plan, "RUN_ROWS", run_rows)
    summary, blocks = plan(vcf_path, tmp_path / "staging")
    rows = list(select_variants(vcf_path, contig_lengths=LENGTHS))
    assert sorted(row for block in blocks for row in block) == rows
    assert summary["rows"] == summary["file_rows"] == len(rows)
    for block in blocks:
        assert block == sorted(block)  # in the order of the file
    contigs = list(dict.fromkeys(row.contig for row in rows))
    spans = [
        (
            min((contigs.index(row.contig), row.pos) for row in block),
            max((contigs.index(row.contig), row.pos) for row in block),
        )
        for block in blocks
    ]
    assert all(before[1] < after[0] for before, after in pairwise(spans))
    cells = [{(row.contig, (row.pos - 1) // 1000) for row in block} for block in blocks]
    assert all(not one & other for number, one in enumerate(cells) for other in cells[number + 1 :])
    assert not (tmp_path / "staging/planned/runs").exists()


def test_blocks_are_about_as_large_as_they_should_be(vcf_path, tmp_path):
    _, blocks = plan(vcf_path, tmp_path / "staging", windows=WindowSpec())
    sizes = [len(block) for block in blocks[:-1]]
    assert all(30 <= size <= 70 for size in sizes)
    _, whole = plan(vcf_path, tmp_path / "one", windows=WindowSpec(policy="grid", grid_bp=100_000), block_rows=20)
    assert all(len(block) <= 4 * 20 + 3 for block in whole)  # a window's rows are kept together up to here


def test_a_plan_is_made_once_and_counts_what_is_left_out(vcf_path, tmp_path):
    subset = SubsetSpec(regions=("chr2:0-5000",))
    summary, blocks = plan(vcf_path, tmp_path / "staging", subset=subset)
    rows = list(select_variants(vcf_path, contig_lengths=LENGTHS))
    wanted = [row for row in rows if row.contig == "chr2" and row.pos <= 5000]
    assert sorted(row for block in blocks for row in block) == wanted
    assert summary["left_out"] == {"outside the regions": len(rows) - len(wanted)}
    assert summary["file_rows"] == len(rows)
    (tmp_path / "staging/planned/summary.json").write_text(json.dumps(summary | {"rows": -1}))
    again, _ = plan(vcf_path, tmp_path / "staging", subset=subset)
    assert again["rows"] == -1


@pytest.mark.parametrize("run_rows", [10, 37])
def test_very_many_sorted_parts_are_merged_in_turns(vcf_path, tmp_path, monkeypatch, run_rows):
    expected = plan(vcf_path, tmp_path / "at_once")
    opened = []
    inner = score_plan._read_rows

    def read(path):
        opened.append(path)
        yield from inner(path)

    monkeypatch.setattr(score_plan, "_read_rows", read)
    monkeypatch.setattr(score_plan, "RUN_ROWS", run_rows)
    monkeypatch.setattr(score_plan, "MOST_MERGED", 3)
    assert plan(vcf_path, tmp_path / "in_turns") == expected
    assert len(opened) > -(-1000 // run_rows)  # merged ones among them
    assert len(opened) == len(set(opened))
    assert not (tmp_path / "in_turns" / "planned" / "runs").exists()


def test_parts_that_a_killed_run_left_are_no_rows(vcf_path, tmp_path, monkeypatch):
    monkeypatch.setattr(score_plan, "RUN_ROWS", 200)
    expected = plan(vcf_path, tmp_path / "whole")
    runs = tmp_path / "again" / "planned" / "runs"
    runs.mkdir(parents=True)
    (runs / "99999.parquet").write_bytes(b"half")
    (runs / "00000.parquet").write_bytes(b"half")
    assert plan(vcf_path, tmp_path / "again") == expected
    assert not runs.exists()
