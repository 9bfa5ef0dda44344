import io

from rich.console import Console

from cisray.progress import Progress
from cisray.reports import console


def written(terminal, *progresses):
    text = io.StringIO()
    with console.progress_bars(Console(file=text, force_terminal=terminal, width=120)) as report:
        for progress in progresses:
            report(progress)
    return text.getvalue()


def test_a_log_gets_a_line_at_the_beginning_and_the_end_of_a_stage():
    lines = written(False, *(Progress("build", done, 100, "shards", {"rows": 10.0 * done}) for done in range(101)))
    assert lines.splitlines()[0] == "build: 0 of 100 shards"
    assert lines.splitlines()[-1].startswith("build: 100 of 100 shards")
    assert lines.splitlines()[-1].endswith("1,000 rows")
    assert len(lines.splitlines()) == 2


def test_a_log_gets_more_lines_as_time_goes_by(monkeypatch):
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(clock)))
    lines = written(False, *(Progress("score", done, 10, "shards") for done in range(11))).splitlines()
    assert lines[0] == "score: 0 of 10 shards"
    assert lines[1] == "score: 2 of 10 shards, 0.1/s, 1.3 min left"  # 2 in 20 s, 8 to go
    assert [line.split()[1] for line in lines] == ["0", "2", "4", "6", "8", "10"]


def test_a_terminal_gets_a_bar_per_stage():
    text = written(
        True,
        Progress("train", 5, 10, "steps", {"train.loss": 0.5}),
        Progress("valid", 5, 10, "steps", {"unknown": 1.0}),
    )
    assert "train" in text
    assert "valid" in text
    assert "loss 0.5000" in text
    assert "unknown" not in text
