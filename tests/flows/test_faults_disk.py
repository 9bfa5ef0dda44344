"""Fill the disk that a result goes to, make room, and go on."""

import re
import shutil
import subprocess
from typing import NamedTuple

import pytest

from cisray.errors import InputError
from cisray.flows.score import score
from cisray.flows.score_job import ScoreJob
from cisray.flows.train import train
from cisray.scoring.engine import EngineSpec
from cisray.scoring.manifest import ModelSource
from killing import num_receipts
from whole_program import JOBS

pytestmark = pytest.mark.ray
PAGE = 4096


class Disk(NamedTuple):
    """A disk of its own, in memory."""

    path: object

    def resize(self, num_bytes):
        subprocess.run(["mount", "-o", f"remount,size={num_bytes}", self.path], check=True)

    def leftovers(self):
        """Return what has a temporary name."""
        return list(self.path.rglob("*.tmp"))


@pytest.fixture
def disk(tmp_path):
    """A disk that is almost full."""
    path = tmp_path / "disk"
    path.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("no program to mount a disk with")
    line = ["mount", "-t", "tmpfs", "-o", f"size={64 << 10}", "tmpfs", path]
    if subprocess.run(line, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a disk")
    yield Disk(path)
    subprocess.run(["umount", "--lazy", path], check=True)


def says_full(told, disk):
    """Say whether a message is one line that names the folder, the room there is, and what to do."""
    pattern = (
        rf"{re.escape(str(disk.path))}\S*: no room for \S+ \(0 of \d+ MiB are free\); make room, then run again, "
        "which goes on where this run ended"
    )
    return re.fullmatch(pattern, told) is not None


def test_a_build_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    ray_here, cisray, simulated, dataset, disk, bytes_of
):
    out = disk.path / "dataset"
    disk.resize(sum(path.stat().st_size for path in dataset.rglob("*") if path.is_file()) // 2)
    line = ["build", JOBS / "dataset.toml"]
    for setting in (f"data_dir={simulated}", f"out={out}", "windows.shard_bp=20000"):
        line += ["--set", setting]
    full = cisray(*line)
    assert full.code == 2
    *progress, told = full.err.splitlines()
    assert all(line.startswith("build: ") for line in progress)
    assert says_full(told.removeprefix("cisray: "), disk)
    assert not out.exists()
    assert not disk.leftovers()
    kept = num_receipts(out)
    assert kept > 0
    disk.resize(16 << 20)
    again = cisray(*line)
    assert again.code == 0
    assert bytes_of(out) == bytes_of(dataset)


def test_a_training_on_a_full_disk_says_so_and_goes_on_when_there_is_room(ray_here, train_job, bundle, disk, bytes_of):
    out = disk.path / "model"
    disk.resize(100 << 10)  # one checkpoint takes more
    stages = []
    with pytest.raises(InputError) as full:
        train(train_job(out), report=lambda progress: stages.append(progress.stage))
    assert says_full(str(full.value), disk)
    assert "resume" not in stages  # to try once more would be in vain
    assert not out.exists()
    disk.resize(16 << 20)
    train(train_job(out))
    assert bytes_of(out).keys() == bytes_of(bundle).keys()
    assert bytes_of(out)["weights.safetensors"] == bytes_of(bundle)["weights.safetensors"]


def test_scoring_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    ray_here, simulated, bundle, disk, tmp_path, bytes_of
):
    def job(out):
        return ScoreJob(
            variants="variants.vcf",
            fasta="genome.fa",
            data_dir=str(simulated),
            model=str(bundle),
            out=str(out),
            block_rows=20,
            engine=EngineSpec(strands="both", batch_size=16),
        )

    models = {bundle: ModelSource(uri="model", digest="d")}
    undisturbed = score(job(tmp_path / "scores"), models=models)
    out = disk.path / "scores"
    # in pages, as the disk counts: room for what is planned, and for half of what is made of it
    made = sum(-(-path.stat().st_size // PAGE) * PAGE for path in undisturbed.rglob("*") if path.is_file())
    disk.resize(made // 2 + len(list(undisturbed.glob("blocks/*"))) * 3 * PAGE)
    with pytest.raises(InputError) as full:
        score(job(out), models=models)
    assert says_full(str(full.value), disk)
    assert not out.exists()
    assert not disk.leftovers()
    disk.resize(64 << 20)
    score(job(out), models=models)
    assert bytes_of(out) == bytes_of(undisturbed)
