import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cisray.errors import InputError
from cisray.flows.cluster import ClusterSpec
from cisray.flows.plans.probe import Piece, Pieces, check_gpus, probe_workers, processes_here

pytestmark = pytest.mark.ray
ROW_S = 0.01


class Sleeper:
    """A worker that takes its time for every row, and much more for its first piece."""

    def __init__(self):
        self.begun = False

    def work(self, values):
        if values["rows"] < 0:
            raise InputError("no row has a negative number")
        time.sleep(values["rows"] * ROW_S + (0 if self.begun else 0.5))
        self.begun = True
        torch.ones(values["rows"], 3) @ torch.ones(3, 5)  # 30 FLOP a row
        return pa.table({"row": list(range(values["rows"]))}), {}

    def write(self, table, path):
        pq.write_table(table, path)


def piece(rows):
    return Piece({"rows": rows}, rows)


def cut(whole, rows, folder):
    assert folder.is_dir()
    return piece(min(whole.rows, rows))


SPEC = ClusterSpec(cpus_per_actor=0.5)


def test_two_processes_tell_what_a_row_takes_once_they_are_warm(ray_here):
    shares = [Pieces([piece(10), piece(20), piece(30)]), Pieces([piece(10), piece(40)])]
    probed = probe_workers(Sleeper, shares, spec=SPEC, limit_s=60)
    assert (probed.processes, probed.rows) == (2, 90)
    assert ROW_S <= probed.row_s < 5 * ROW_S
    assert probed.row_flop == 30
    assert probed.row_bytes > 8
    assert probed.peak_bytes > 50e6
    assert probed.opening_s > 0


def test_time_ends_a_probe_but_for_its_first_two_pieces(ray_here):
    probed = probe_workers(Sleeper, [Pieces([piece(10), piece(15), piece(20)])], spec=SPEC, limit_s=0.01)
    assert probed.rows == 15
    assert probed.row_s >= ROW_S


def test_of_a_single_piece_all_counts(ray_here):
    probed = probe_workers(Sleeper, [Pieces([piece(10)])], spec=SPEC, limit_s=60)
    assert probed.rows == 10
    assert probed.row_s >= ROW_S + 0.05  # its start, too


def test_pieces_are_cut_to_the_time_that_is_left(ray_here):
    # 20 rows take 0.7 s, so that 1.3 s are thought to be worth 37
    probed = probe_workers(Sleeper, [Pieces([piece(1000)] * 2, 20, cut)], spec=SPEC, limit_s=2)
    assert 20 <= probed.rows <= 37
    assert probed.row_flop == 30


def test_bad_input_comes_back_as_it_is(ray_here):
    with pytest.raises(InputError, match=r"^no row has a negative number$"):
        probe_workers(Sleeper, [Pieces([piece(-1)])], spec=SPEC, limit_s=1)


def test_gpus_that_are_not_there_are_not_waited_for(ray_here):
    told = (
        r"^plan: to time this job takes 9 GPUs, and here are \d; plan it where they are \(--on\), or count only, "
        r"with --probe 0$"
    )
    with pytest.raises(InputError, match=told):
        check_gpus(9)
    check_gpus(0)


def test_no_more_processes_are_timed_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert processes_here(100, 100, ClusterSpec()) == 8
    assert processes_here(100, 100, ClusterSpec(cpus_per_actor=3)) == 2
    assert processes_here(100, 100, ClusterSpec(cpus_per_actor=16)) == 1
    assert processes_here(3, 100, ClusterSpec()) == 3
    assert processes_here(100, 5, ClusterSpec()) == 5
