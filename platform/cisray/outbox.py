"""What a run has to tell its store and the store has not taken yet.

A store that is away holds up no work. What is put here is sent at once; while the store does not answer it is kept, and
trying again takes at most a tenth of the time. What is left at the end is written beside the output, from where it can
be sent later. All that is sent may be sent twice: a record says when it was made. Any thread may put records: one at a
time sends, and waits for none of the others.
"""

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cisray.errors import InputError
from cisray.files import written_whole

RETRY_S = 1.0
"""The least time between two tries."""
_REST = 9
"""Times as long as a try took, it is not tried again."""


class StoreAwayError(Exception):
    """The store does not answer now, and may later."""


class Record(NamedTuple):
    """One thing to tell the store."""

    run: str
    """Name of the nested run that it belongs to; "" for the run itself."""
    kind: Literal["begin", "metrics", "file", "folder", "end"]
    values: dict[str, Any]
    """What JSON can hold."""
    time_ms: int
    """When it was made, since 1970."""


class Outbox:
    """Records on their way to a store."""

    def __init__(
        self,
        deliver: Callable[[Sequence[Record]], int],
        *,
        path: Path,
        run_id: str,
        tell: Callable[[str], None],
        is_back: Callable[[], None],
    ) -> None:
        """Begin empty.

        Args:
            deliver: sends the first of some records, as many as go together, and returns their number; raises
                StoreAwayError.
            path: of the file that holds what was not sent.
            run_id: of the run that all is about, for whoever reads that file.
            tell: is told, in words, when the store goes away and when it is back.
            is_back: is called when it is.
        """
        self.path = path
        self._deliver, self._run_id, self._tell, self._is_back = deliver, run_id, tell, is_back
        self._waiting: list[Record] = []
        self._sending = threading.Lock()
        self._is_away = False
        self._rests_until = 0.0

    def put(self, record: Record) -> None:
        """Send a record, or keep it until the store is back."""
        self._waiting.append(record)
        # looked at again after each round: whoever sent may have ended just before this record came
        while self._waiting and time.monotonic() >= self._rests_until and self.send(patience_s=0):
            pass

    def send(self, *, patience_s: float = RETRY_S) -> bool:
        """Send what waits, and say whether nothing waits any more; for so long another may be at it."""
        if not self._sending.acquire(timeout=patience_s):
            return False
        try:
            return self._send()
        finally:
            self._sending.release()

    def _send(self) -> bool:
        began, number = time.monotonic(), len(self._waiting)
        try:
            while self._waiting:
                del self._waiting[: self._deliver(self._waiting)]
        except StoreAwayError as error:
            if not self._is_away:
                self._tell(f"{error}; the work goes on, and what it measures is kept until it can be sent")
            self._is_away = True
            now = time.monotonic()
            self._rests_until = now + max(RETRY_S, _REST * (now - began))
            return False
        if self._is_away:
            self._tell(f"the store answers again, and has what was kept for it: {number:,} records")
            self._is_away = False
            self._is_back()
        return True

    def send_within(self, patience_s: float) -> bool:
        """Try for so long to send what waits, and say whether nothing waits any more."""
        end = time.monotonic() + patience_s
        while not self.send(patience_s=max(RETRY_S, end - time.monotonic())) or self._waiting:
            if time.monotonic() >= end:
                return False
            time.sleep(RETRY_S)
        return True

    def keep(self) -> int:
        """Write what still waits to the file, whole or not at all, and return the number of records."""
        waiting = list(self._waiting)
        if waiting:
            lines = [{"run_id": self._run_id}, *(record._asdict() for record in waiting)]
            with written_whole(self.path) as aside:
                aside.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return len(waiting)


def read_kept(path: Path) -> tuple[str, list[Record]]:
    """Read what was not sent, and the identifier of its run; raise InputError where a file is something else."""
    try:
        first, *rest = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return str(first["run_id"]), [Record(**line) for line in rest]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path}: not a readable file of what MLflow was not told ({error}); remove it, and what it holds is lost"
        ) from None
