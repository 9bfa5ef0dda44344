import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from cisray.cli import on_cluster as module
from cisray.cli.on_cluster import on_cluster


@pytest.fixture
def app():
    """A program of two verbs, of which one tells what it is called with."""
    app = typer.Typer()

    def tell(name: str, times: Annotated[int, typer.Option("--times")] = 1) -> None:
        """Say a name."""
        print(name * times)

    app.command()(on_cluster(tell))
    app.command()(lambda: None)
    return app


def test_without_a_cluster_a_verb_runs_here(app):
    ran = CliRunner().invoke(app, ["tell", "ab", "--times", "2"])
    assert (ran.exit_code, ran.output) == (0, "abab\n")


def test_a_verb_says_that_it_can_run_on_a_cluster(app):
    ran = CliRunner().invoke(app, ["tell", "--help"])
    assert "Say a name." in ran.output
    assert "--on" in ran.output
    assert "--in" in ran.output


@pytest.mark.parametrize("given", [["--on", "http://c:1", "--in", "/nfs"], ["--on=http://c:1", "--in=/nfs"]])
def test_on_a_cluster_the_same_line_is_submitted_without_the_options_and_its_exit_code_returned(
    app, given, monkeypatch
):
    submitted = []
    monkeypatch.setattr(module, "_run_there", lambda *settings: submitted.append(settings) or 7)
    line = ["tell", *given, "ab", "--times", "2"]
    monkeypatch.setattr(sys, "argv", ["cisray", *line])
    ran = CliRunner().invoke(app, line)
    assert ran.exit_code == 7
    assert submitted == [("http://c:1", ["tell", "ab", "--times", "2"], "/nfs")]


def test_paths_begin_on_the_cluster_where_they_begin_here(app, monkeypatch):
    submitted = []
    monkeypatch.setattr(module, "_run_there", lambda *settings: submitted.append(settings) or 0)
    monkeypatch.setattr(sys, "argv", ["cisray", "tell", "ab", "--on", "http://c:1"])
    CliRunner().invoke(app, ["tell", "ab", "--on", "http://c:1"])
    assert submitted == [("http://c:1", ["tell", "ab"], str(Path.cwd()))]


def test_a_folder_without_a_cluster_is_refused(app):
    ran = CliRunner().invoke(app, ["tell", "ab", "--in", "/nfs"])
    assert ran.exit_code == 2
    assert "say which one with --on" in " ".join(ran.output.split())
