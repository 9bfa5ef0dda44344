"""Records reach a store that goes away and comes back, in order and each once; what does not is kept in a file."""

import json
import math
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray import outbox
from cisray.errors import InputError
from cisray.outbox import Outbox, Record, StoreAwayError, read_kept


class Store:
    """Takes records unless it is away."""

    def __init__(self, *, most=1):
        self.is_away, self.most = False, most
        self.told, self.tries, self.returned = [], 0, 0
        self.taken = []

    def deliver(self, records):
        self.tries += 1
        if self.is_away:
            raise StoreAwayError("the store does not answer")
        number = min(self.most, len(records))
        self.taken += records[:number]
        return number

    def is_back(self):
        self.returned += 1

    def outbox(self, path):
        return Outbox(self.deliver, path=path, run_id="r7", tell=self.told.append, is_back=self.is_back)


def record(number):
    return Record(
        "trial 1", "metrics", {"metrics": {"loss": number / 7, "odd": math.inf}, "step": number}, 1000 + number
    )


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on only when somebody sleeps."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

        def sleep(self, seconds):
            self.now += seconds

    monkeypatch.setattr(outbox, "time", Clock())
    return outbox.time


def test_what_is_put_is_sent_at_once_while_the_store_answers(tmp_path):
    store = Store()
    box = store.outbox(tmp_path / "kept")
    for number in range(3):
        box.put(record(number))
        assert len(store.taken) == number + 1
    assert (store.told, store.returned, box.keep()) == ([], 0, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_away_is_told_of_once_and_tried_at_most_a_tenth_of_the_time(tmp_path, clock):
    store = Store()
    box = store.outbox(tmp_path / "kept")
    store.is_away = True
    plain = store.deliver

    def slow(records):
        clock.now += 3.0
        return plain(records)

    box._deliver = slow
    for number in range(100):
        box.put(record(number))
        clock.now += 1.0
    assert store.taken == []
    assert store.tries * 3.0 <= clock.now / 10 + 3.0
    assert store.tries >= 4
    assert store.told == [
        "the store does not answer; the work goes on, and what it measures is kept until it can be sent"
    ]
    store.is_away = False
    assert box.send_within(0)
    assert store.taken == [record(number) for number in range(100)]
    assert store.told[1:] == ["the store answers again, and has what was kept for it: 100 records"]
    assert store.returned == 1


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5))
def test_whenever_the_store_is_away_nothing_is_lost_doubled_or_turned_round(tmp_path_factory, pattern, most):
    store = Store(most=most)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, "RETRY_S", 0)
        patch.setattr(outbox, "_REST", 0)
        path = tmp_path_factory.mktemp("box") / "kept"
        box = store.outbox(path)
        for number, is_away in enumerate(pattern):
            store.is_away = is_away
            box.put(record(number))
        left = box.keep()
    kept = read_kept(path)[1] if left else []
    assert len(kept) == left
    assert store.taken + kept == [record(number) for number in range(len(pattern))]
    if pattern:
        assert bool(left) == pattern[-1]


def test_of_several_threads_one_sends_and_nothing_is_lost_doubled_or_turned_round(tmp_path, monkeypatch):
    monkeypatch.setattr(outbox, "RETRY_S", 0.01)
    monkeypatch.setattr(outbox, "_REST", 0)
    store, sending = Store(most=3), []
    plain, box = store.deliver, store.outbox(tmp_path / "kept")

    def slow(records):
        sending.append(threading.get_ident())
        time.sleep(0.001)
        assert sending[-1] == threading.get_ident()  # nobody has begun meanwhile
        return plain(records)

    box._deliver = slow

    def talk(name):
        for number in range(60):
            store.is_away = name == 0 and 20 <= number < 40
            box.put(record(number)._replace(run=str(name)))

    threads = [threading.Thread(target=talk, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert box.send_within(5)
    assert len(store.taken) == 4 * 60
    for name in range(4):
        own = [one for one in store.taken if one.run == str(name)]
        assert own == [record(number)._replace(run=str(name)) for number in range(60)]


def test_one_who_waits_gives_up_in_time_and_what_is_left_is_read_again(tmp_path, clock):
    store = Store()
    store.is_away = True
    box = store.outbox(tmp_path / "model.unrecorded.jsonl")
    box.put(record(1))
    box.put(Record("", "end", {"failure": ""}, 5))
    assert not box.send_within(30)
    assert 30 <= clock.now <= 31 + outbox.RETRY_S
    assert box.keep() == 2
    assert read_kept(box.path) == ("r7", [record(1), Record("", "end", {"failure": ""}, 5)])
    assert [path.name for path in tmp_path.iterdir()] == ["model.unrecorded.jsonl"]


@pytest.mark.parametrize(
    "text",
    ["", "{}\n", "no json", json.dumps({"run_id": "r"}) + '\n{"run": 1}\n', "[1]\n", '{"run_id": 3'],
)
def test_a_file_that_is_something_else_is_refused(tmp_path, text):
    (tmp_path / "kept").write_text(text)
    with pytest.raises(InputError, match=r"kept: not a readable file of what MLflow was not told .*; remove it"):
        read_kept(tmp_path / "kept")
