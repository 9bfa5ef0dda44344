"""The jobs that README prints are jobs: what it leaves out is added, and nothing else."""

import re
import tomllib
from pathlib import Path

import pytest

from cisray.config import check_settings, flatten
from cisray.flows.score_job import ScoreJob
from cisray.flows.swap_job import SwapJob
from cisray.flows.sweep_job import SweepJob
from cisray.flows.train_job import TrainJob

pytestmark = pytest.mark.ray  # the jobs of flows import it
LEFT_OUT = {
    "[datasets.human]": (TrainJob, {}),
    "[space]": (SweepJob, {}),
    "[conditions.ecoli]": (SwapJob, {"name": "cnnprom", "out": "runs/cnnprom/swap"}),
    "[genes]": (ScoreJob, {"model": "m", "variants": "v.vcf", "fasta": "g.fa", "out": "runs/s"}),
}


def printed_jobs():
    """Return the indented parts of README that hold a table of TOML."""
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    parts = re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, flags=re.MULTILINE)
    return [part for part in parts if re.search(r"^    \[[\w.]+\]", part, flags=re.MULTILINE)]


@pytest.mark.parametrize("part", printed_jobs(), ids=lambda part: part.split()[0])
def test_a_printed_job_is_one(part):
    ((job_type, left_out),) = [value for header, value in LEFT_OUT.items() if f"    {header}" in part]
    values = tomllib.loads(part)
    assert not set(flatten(values)) & set(left_out)
    check_settings(left_out | values, job_type, source="README.md")


def test_every_kind_of_job_is_printed():
    assert len(printed_jobs()) == len(LEFT_OUT)
