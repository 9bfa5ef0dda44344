"""Take inputs away, cut them short or change them while a run reads them."""

import os
import shutil
import threading

import pytest

from cisray.errors import InputError
from cisray.flows.build import build
from cisray.flows.score import score
from cisray.flows.score_job import ScoreJob
from cisray.flows.shards import check_unchanged, file_identity
from cisray.flows.train import train
from cisray.scoring.engine import EngineSpec
from cisray.scoring.manifest import ModelSource
from killing import num_receipts, wait_for

pytestmark = pytest.mark.ray


@pytest.fixture
def own_genome(simulated, tmp_path):
    """A copy of the simulated genome, its times of change kept, that a test may spoil."""
    return shutil.copytree(simulated, tmp_path / "genome")


class Spoiler(threading.Thread):
    """Spoil a file once a run has done some tasks."""

    def __init__(self, path, num_done, spoil):
        super().__init__(daemon=True)
        self.path, self._num_done, self._spoil = path, num_done, spoil
        self.kept = path.with_name(f"{path.name}.kept")
        shutil.copy2(path, self.kept)

    def run(self):
        wait_for(lambda: self._num_done() >= 3)
        self._spoil(self.path)

    def put_back(self):
        self.kept.replace(self.path)


def truncate(path):
    """Cut a file short in place: what is mapped of it is gone."""
    os.truncate(path, path.stat().st_size // 2)


def overwrite(path):
    """Change a file in place, its size kept, as a tool that rewrites it would."""
    with path.open("r+b") as handle:
        handle.seek(path.stat().st_size // 2)
        handle.write(b"ACGT")


def unlink(path):
    path.unlink()


@pytest.mark.parametrize(
    ("name", "spoil", "told"),
    [
        ("genome.fa", unlink, "genome.fa: vanished while the run was under way; put it back"),
        ("genome.fa", truncate, "genome.fa: changed while the run was under way"),
        ("genome.fa", overwrite, "genome.fa: changed while the run was under way"),
        ("tracks/spacing.bw", unlink, "spacing.bw: (vanished while|no such file)"),
        ("tracks/spacing.bw", truncate, "spacing.bw: (changed|truncated)"),
    ],
)
def test_an_input_that_is_spoiled_under_way_ends_the_build_and_put_back_lets_it_go_on(
    ray_here, build_job, dataset, own_genome, tmp_path, bytes_of, name, spoil, told
):
    out = tmp_path / "dataset"
    job = build_job(out, data_dir=str(own_genome))
    spoiler = Spoiler(own_genome / name, lambda: num_receipts(out), spoil)
    spoiler.start()
    with pytest.raises(InputError, match=told) as ended:
        build(job)
    assert not out.exists()
    assert "Traceback" not in str(ended.value)
    if spoil is overwrite:
        with pytest.raises(InputError, match="holds unfinished work of other settings, inputs or another version"):
            build(job)
    spoiler.put_back()
    already_done = []
    build(job, report=lambda progress: already_done.append(progress.figures.get("already_done", 0)))
    assert already_done[0] >= 3
    assert bytes_of(out) == bytes_of(dataset)


def test_a_genome_that_is_exchanged_under_way_ends_scoring_and_put_back_lets_it_go_on(
    ray_here, bundle, own_genome, tmp_path, bytes_of
):
    def job(out):
        return ScoreJob(
            variants="variants.vcf",
            fasta="genome.fa",
            data_dir=str(own_genome),
            model=str(bundle),
            out=str(out),
            block_rows=20,
            engine=EngineSpec(strands="both", batch_size=16),
        )

    models = {bundle: ModelSource(uri="model", digest="d")}
    undisturbed, out = score(job(tmp_path / "undisturbed"), models=models), tmp_path / "scores"
    spoiler = Spoiler(own_genome / "genome.fa", lambda: num_receipts(out), overwrite)
    spoiler.start()
    with pytest.raises(InputError, match=r"genome.fa: changed while the run was under way, and no row of it"):
        score(job(out), models=models)
    spoiler.put_back()
    score(job(out), models=models)
    assert bytes_of(out) == bytes_of(undisturbed)


def test_a_dataset_whose_file_vanishes_under_way_ends_the_training_with_its_name(
    ray_here, train_job, dataset, bundle, tmp_path
):
    copy = shutil.copytree(dataset, tmp_path / "dataset")
    path = min(copy.glob("examples/split=valid/*.parquet"))
    job = train_job(tmp_path / "model", f"dataset={copy}")

    def has_stepped(progress):
        if progress.stage == "train" and path.exists():
            path.rename(path.with_suffix(".away"))

    with pytest.raises(InputError) as ended:
        train(job, report=has_stepped)
    assert f"{path}: " in str(ended.value)
    assert "Traceback" not in str(ended.value)
    path.with_suffix(".away").rename(path)
    train(job)
    ours, theirs = ((folder / "weights.safetensors").read_bytes() for folder in (tmp_path / "model", bundle))
    assert ours == theirs


def test_inputs_are_held_against_what_they_were(tmp_path):
    path = tmp_path / "genome.fa"
    path.write_text(">a\nACGT\n")
    planned = [file_identity(path)]
    check_unchanged([path], planned)
    os.utime(path, ns=(0, 0))
    with pytest.raises(InputError, match=r"genome.fa: changed while .* and no row of it as it is now was taken"):
        check_unchanged([path], planned)
    path.unlink()
    with pytest.raises(InputError, match=r"genome.fa: vanished while .* put it back, its time of change kept"):
        check_unchanged([path], planned)
