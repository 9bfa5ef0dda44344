import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cisray.bundle import Predictor
from cisray.errors import InputError
from cisray.flows.plans import score as module
from cisray.flows.plans.figures import PlanSpec
from cisray.flows.plans.probe import Piece
from cisray.flows.plans.score import cut_block, plan_score
from cisray.flows.score_job import ScoreJob
from cisray.genome.variant_selection import SubsetSpec
from cisray.genome.variants import Variant
from cisray.scoring.rows import variants_table

pytestmark = pytest.mark.ray


@pytest.fixture
def score_job(simulated, bundle, tmp_path):
    def make(**changes):
        values = {
            "variants": str(simulated / "variants.vcf"),
            "fasta": str(simulated / "genome.fa"),
            "model": str(bundle),
            "out": str(tmp_path / "out"),
            "block_rows": 100,
        }
        return ScoreJob(**values | changes)

    return make


def rows_of(simulated):
    lines = (simulated / "variants.vcf").read_text().splitlines()
    return [line.split("\t") for line in lines if not line.startswith("#")]


def test_blocks_and_rows_are_counted_and_nothing_stays(simulated, bundle, score_job, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "probe_workers", None)  # nothing is timed
    plan = plan_score(score_job(), PlanSpec(probe_s=0, workers=4), [bundle])
    rows = rows_of(simulated)
    assert plan.value("rows") == sum(len(row[4].split(",")) for row in rows) == 615
    assert plan.value("shards") == 7
    assert plan.value("workers") == 4
    assert {figure.basis for figure in plan.figures} == {"counted"}
    assert not list(tmp_path.iterdir())
    sizes = [path.stat().st_size for path in (*bundle.iterdir(), simulated / "variants.vcf", simulated / "genome.fa")]
    assert plan.value("read") == sum(sizes)


def test_a_subset_is_planned_as_it_would_be_scored(simulated, bundle, score_job):
    plan = plan_score(score_job(subset=SubsetSpec(regions=("sim1",))), PlanSpec(probe_s=0), [bundle])
    assert plan.value("rows") == sum(len(row[4].split(",")) for row in rows_of(simulated) if row[0] == "sim1")
    with pytest.raises(InputError, match=r"variants\.vcf: no row of it is to be scored; see \[subset\] in the job"):
        plan_score(score_job(subset=SubsetSpec(regions=("sim1:1-2",))), PlanSpec(probe_s=0), [bundle])


def test_a_probe_counts_the_arithmetic_of_a_variant(ray_here, bundle, score_job, tmp_path):
    plan = plan_score(score_job(), PlanSpec(probe_s=4), [bundle])
    predictor = Predictor(bundle)
    codes = torch.zeros(1, predictor.card.geometry.window_bp, dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        predictor.network(codes)
    forward = counter.get_total_flops()
    # on two strands a reference and an alternate, of which only the patch is new; and rows that fill batches
    assert 2 * forward <= plan.value("FLOP") / plan.value("rows") <= 2 * 2 * forward * 1.5
    assert plan.value("time") > plan.value("work") / plan.value("workers") > 0
    assert plan.value("written") > 600 * 8
    assert plan.value("memory") > 100e6
    assert not list(tmp_path.iterdir())


def test_exports_that_nobody_timed_are_named(ray_here, bundle, score_job):
    plan = plan_score(score_job(export={"vcf": True, "top": 5}), PlanSpec(probe_s=0.1), [bundle])
    (time,) = [figure for figure in plan.figures if figure.name == "time"]
    assert time.why.endswith("exports are not in it: vcf, top")


def test_a_record_is_never_cut(tmp_path):
    records = [0, 1, 1, 1, 2, 3, 3]
    rows = [Variant(record, allele, "chr1", 10 + record, ".", "A", "C") for allele, record in enumerate(records)]
    pq.write_table(variants_table(rows), tmp_path / "0000000.parquet")
    block = Piece({"planned": str(tmp_path / "0000000.parquet")}, len(rows))
    for wanted, expected in {1: 1, 2: 4, 4: 4, 5: 5, 6: 7, 100: 7}.items():
        cut = cut_block(block, wanted, tmp_path)
        assert cut.rows == expected
        kept = pq.read_table(cut.values["planned"])
        assert np.array_equal(kept["record_index"], records[:expected])
