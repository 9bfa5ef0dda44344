"""What a flow promises, with a flow that squares numbers: done work is verified, and a result is whole or not there."""

import hashlib
import json
import os
import subprocess
import sys
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.exceptions

from cisray.errors import InputError
from cisray.flows import shards
from cisray.flows.cluster import ClusterSpec
from cisray.flows.resources import Need
from cisray.flows.shards import Task, file_identity, open_staging, run_tasks
from cisray.progress import silent

pytestmark = pytest.mark.ray
NUMBERS = range(1, 7)


@pytest.fixture
def calls(tmp_path):
    """Count how often each number was worked on; workers leave a file per call."""
    folder = tmp_path / "calls"
    folder.mkdir()

    def count():
        names = [path.name.split("-")[0] for path in folder.iterdir()]
        return {number: names.count(str(number)) for number in NUMBERS if str(number) in names}

    return folder, count


@pytest.fixture
def make_worker(calls):
    """Make a worker's class, which fails in one of its methods at the number 4."""
    folder, _ = calls

    def make(fails_in="", error=InputError):
        class Squares:
            def __init__(self):
                if fails_in == "init":
                    raise error("cannot be made")

            def work(self, values):
                number = values["number"]
                (folder / f"{number}-{uuid.uuid4().hex}").touch()
                if fails_in == "work" and number == 4:
                    raise error("number 4 is bad")
                return pa.table({"square": [number**2] * number}), {"square": number**2}

            def write(self, table, path):
                pq.write_table(table, path)
                if fails_in == "write" and len(table) == 4:
                    raise error("number 4 cannot be written")

        return Squares

    return make


def square(out, worker, *, report=silent):
    """Open the staging folder and do all that is not done."""
    staging = open_staging(out, {"numbers": list(NUMBERS)})
    tasks = [Task(f"n{number}", f"squares/{number}.parquet", {"number": number}) for number in NUMBERS]
    cluster = ClusterSpec(actors=2, cpus_per_actor=0.5)
    receipts = run_tasks(tasks, worker, staging=staging, cluster=cluster, stage="square", report=report)
    return staging, receipts


def test_rounds_are_large_enough_for_all_processes_and_take_up_those_that_have_come(monkeypatch, tmp_path):
    monkeypatch.setattr(shards, "ROUND_TASKS", 5)
    monkeypatch.setattr(shards, "TASKS_PER_PROCESS", 3)
    rounds, room = [], iter([1, 4, 4])

    class Planned:
        need = Need(1.0)

        def num_actors(self, num_shards):
            return min(num_shards, next(room))

    def look(items, *, override_num_blocks):
        assert len(items) == override_num_blocks
        rounds.append([item["name"] for item in items])
        return Pipeline()

    class Pipeline:
        def map(self, function, *, compute, **options):
            rounds[-1].append(compute.max_size)
            return self

        def iter_rows(self):
            yield from [{"name": name} for name in rounds[-1][:-1]]

    monkeypatch.setattr(shards.ray.data, "from_items", look)
    tasks = [Task(f"{number:02d}", "any", {}) for number in range(20)]
    staging = open_staging(tmp_path / "out", {})
    done = [one["name"] for one in shards._outcomes(tasks, object, staging=staging, cluster=Planned())]
    assert done == [task.name for task in tasks]
    assert [(len(one) - 1, one[-1]) for one in rounds] == [(5, 1), (12, 4), (3, 3)]


def test_every_task_is_done_once_and_out_appears_when_all_are(ray_here, make_worker, calls, tmp_path):
    out, told = tmp_path / "out", []
    staging, receipts = square(out, make_worker(), report=told.append)
    assert calls[1]() == dict.fromkeys(NUMBERS, 1)
    assert not out.exists()
    for number in NUMBERS:
        receipt = receipts[f"n{number}"]
        file = staging.path / receipt.file
        assert (receipt.rows, receipt.facts) == (number, {"square": number**2})
        assert receipt.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert [(one.stage, one.done, one.total, one.unit) for one in told] == [
        ("square", done, len(NUMBERS), "shards") for done in range(len(NUMBERS) + 1)
    ]
    assert told[0].figures == {"already_done": 0}
    assert told[-1].figures["rows"] == sum(NUMBERS)
    assert 0 < told[-1].figures["rows_per_s"] < 1e6
    assert "engine_share" not in told[-1].figures  # these tasks have no engine
    staging.finish()
    assert not staging.path.exists()
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {".plan.json", *(f"squares/{number}.parquet" for number in NUMBERS)}
    assert not (out / "receipts").exists()


def test_receipts_are_verified_and_not_trusted(ray_here, make_worker, calls, tmp_path, bytes_of):
    out = tmp_path / "out"
    staging, _ = square(out, make_worker())
    before = bytes_of(staging.path / "squares")
    files = {number: staging.path / f"squares/{number}.parquet" for number in NUMBERS}
    data = bytearray(files[1].read_bytes())
    data[len(data) // 2] ^= 1  # as long as before
    files[1].write_bytes(data)
    files[2].unlink()
    (staging.path / "receipts/n3.json").unlink()
    receipt = staging.path / "receipts/n4.json"
    receipt.write_text(json.dumps(json.loads(receipt.read_text()) | {"sha256": "0" * 64}))
    (staging.path / "receipts/n5.json").write_text("")  # a machine lost power
    told = []
    square(out, make_worker(), report=told.append)
    assert told[0].figures == {"already_done": 1}
    assert calls[1]() == {1: 2, 2: 2, 3: 2, 4: 2, 5: 2, 6: 1}
    assert bytes_of(staging.path / "squares") == before


@pytest.mark.parametrize(
    ("fails_in", "message"),
    [("init", "cannot be made"), ("work", "number 4 is bad"), ("write", "number 4 cannot be written")],
)
def test_bad_input_met_by_a_worker_comes_back_as_an_input_error(
    ray_here, make_worker, calls, tmp_path, fails_in, message
):
    out = tmp_path / "out"
    with pytest.raises(InputError) as caught:
        square(out, make_worker(fails_in))
    assert type(caught.value) is InputError
    assert str(caught.value) == message
    assert not out.exists()
    assert not (tmp_path / "out.unfinished/squares/4.parquet").exists()


def test_what_was_finished_before_an_error_is_not_done_again(ray_here, make_worker, calls, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="number 4 is bad"):
        square(out, make_worker("work"))
    finished = {int(path.stem[1:]) for path in (tmp_path / "out.unfinished/receipts").iterdir()}
    assert {1} <= finished < set(NUMBERS)
    before = calls[1]()
    staging, receipts = square(out, make_worker())
    assert {number: calls[1]()[number] for number in finished} == {number: before[number] for number in finished}
    assert len(receipts) == len(NUMBERS)
    staging.finish()
    assert pq.read_table(out / "squares/4.parquet")["square"].to_pylist() == [16] * 4


def test_a_fault_of_a_worker_is_not_passed_off_as_bad_input(ray_here, make_worker, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ray.exceptions.RayError, match="number 4 is bad") as caught:
        square(out, make_worker("work", ZeroDivisionError))
    assert not isinstance(caught.value, InputError)
    assert not out.exists()


def test_unfinished_work_of_the_same_plan_is_kept_and_that_of_another_is_never_thrown_away(tmp_path):
    out = tmp_path / "out"
    first = open_staging(out, {"k": 1})
    (first.path / "receipts").mkdir()
    for name in ("shard", "receipts/shard.json", ".shard.x7.tmp"):  # the last one: a killed worker's half
        (first.path / name).write_text("{}")
    again = open_staging(out, {"k": 1})
    assert again.path == first.path
    kept = [".lock", ".plan.json", "receipts", "shard", "shard.json"]
    assert sorted(path.name for path in again.path.rglob("*")) == kept
    with pytest.raises(InputError, match=r"out\.unfinished: holds unfinished work of other settings.*remove it"):
        open_staging(out, {"k": 2})
    assert sorted(path.name for path in again.path.rglob("*")) == kept
    assert not out.exists()


def test_two_processes_do_not_work_on_one_result(tmp_path):
    out = tmp_path / "out"
    code = f"""
import time
from pathlib import Path
from cisray.flows.shards import open_staging
staging = open_staging(Path({str(out)!r}), {{"k": 1}})
print("in it", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in it\n"
        with pytest.raises(InputError, match=r"out\.unfinished: another process works on it"):
            open_staging(out, {"k": 1})
        other.kill()
    assert open_staging(out, {"k": 1}).path.exists()  # the lock went with its process


def test_a_finished_job_is_known_again_and_another_job_is_refused(tmp_path, bytes_of):
    out = tmp_path / "out"
    staging = open_staging(out, {"k": 1})
    (staging.path / "result").write_text("whole")
    staging.finish()
    assert open_staging(out, {"k": 1}) is None
    before = bytes_of(out)
    with pytest.raises(InputError, match=r"out: exists, and was not made by this job.*remove it.*--set out="):
        open_staging(out, {"k": 2})
    assert bytes_of(out) == before
    assert not (tmp_path / "out.unfinished").exists()


def test_a_folder_of_the_user_is_never_taken_for_a_result(tmp_path, bytes_of):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    before = bytes_of(mine)
    with pytest.raises(InputError, match="was not made by this job"):
        open_staging(mine, {"k": 1})
    assert bytes_of(mine) == before


def test_a_changed_input_file_makes_another_plan(tmp_path):
    path = tmp_path / "genome.fa"
    path.write_text(">a\nACGT\n")
    before = file_identity(path)
    assert file_identity(path) == before
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert file_identity(path) != before


def test_a_process_killed_in_its_first_moment_leaves_a_folder_that_can_be_gone_on_with(tmp_path):
    staging = tmp_path / "out.unfinished"
    (staging / ".part.x.tmp").mkdir(parents=True)
    (staging / ".lock").touch()  # it had no plan yet
    (staging / ".part.tmp").touch()
    opened = open_staging(tmp_path / "out", {"a": 1})
    assert sorted(path.name for path in staging.iterdir()) == [".lock", ".plan.json"]
    opened.finish()


def test_what_came_to_exist_meanwhile_is_not_overwritten(tmp_path):
    opened = open_staging(tmp_path / "out", {"a": 1})
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(InputError, match="has come to exist while the work was done"):
        opened.finish()
    assert (tmp_path / "out/mine.txt").read_text() == "mine"
    assert opened.path.exists()
