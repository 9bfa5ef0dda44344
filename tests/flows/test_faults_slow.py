"""Stop processes that work, for a while and for good, or let each one die that takes up a task."""

import os
import signal
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cisray.errors import InputError
from cisray.flows.build import build
from cisray.flows.cluster import ClusterSpec
from cisray.flows.shards import MOST_DEATHS, Task, open_staging, run_tasks
from cisray.progress import silent
from killing import num_receipts, wait_for, working_processes

pytestmark = pytest.mark.ray
# Ray gives a process the next tasks while it works, so that a stopped one holds some.
MOST_HELD = 4


class Stopper(threading.Thread):
    """Stop one process under way, wait until all is done but what it holds, and send it another signal."""

    def __init__(self, num_done, total, then):
        super().__init__(daemon=True)
        self._num_done, self._total, self._then = num_done, total, then
        self.done_meanwhile = 0

    def run(self):
        wait_for(lambda: self._num_done() >= 3)
        process = working_processes("_DoTask")[0]
        process.send_signal(signal.SIGSTOP)
        before = self._num_done()
        wait_for(lambda: self._num_done() >= self._total - MOST_HELD)
        self.done_meanwhile = self._num_done() - before
        process.send_signal(self._then)


@pytest.mark.parametrize("then", [signal.SIGCONT, signal.SIGKILL], ids=["goes on", "is killed"])
def test_others_take_over_from_a_process_that_stands_still_until_it(
    ray_here, build_job, dataset, tmp_path, bytes_of, then
):
    out = tmp_path / "dataset"
    total = len(list(dataset.glob("examples/*/*.parquet")))
    stopper = Stopper(lambda: num_receipts(out), total, then)
    stopper.start()
    build(build_job(out, cluster=ClusterSpec(actors=2)))
    stopper.join()
    assert stopper.done_meanwhile >= total // 2
    assert bytes_of(out) == bytes_of(dataset)


def test_a_task_that_ends_every_process_is_given_up_with_its_name_and_the_others_are_kept(ray_here, tmp_path):
    begun = tmp_path / "begun"

    class Mortal:
        def work(self, values):
            if values["number"] == 2 and not (tmp_path / "mended").exists():
                with begun.open("a") as handle:
                    handle.write(".")
                os.kill(os.getpid(), signal.SIGKILL)
            return pa.table({"number": [values["number"]]}), {}

        def write(self, table, path):
            pq.write_table(table, path)

    def run():
        staging = open_staging(tmp_path / "out", {"of": "mortals"})
        tasks = [Task(f"n{number}", f"{number}.parquet", {"number": number}) for number in range(4)]
        spec = ClusterSpec(actors=2, cpus_per_actor=0.5)
        return staging, run_tasks(tasks, Mortal, staging=staging, cluster=spec, stage="work", report=silent)

    told = (
        f"n2: {MOST_DEATHS} processes that worked on it died one after another, .* leave more memory to each .* or "
        "mend the input, then run again, which goes on"
    )
    with pytest.raises(InputError, match=told):
        run()
    assert len(begun.read_text()) == MOST_DEATHS
    (tmp_path / "mended").touch()
    staging, receipts = run()
    assert [receipts[f"n{number}"].rows for number in range(4)] == [1] * 4
    staging.finish()
    assert sorted(path.name for path in staging.out.iterdir()) == [".plan.json", *(f"{n}.parquet" for n in range(4))]
