import os
import subprocess
from pathlib import Path

import pytest

from cisray.errors import InputError
from cisray.flows.submission import connect, entrypoint, sent_environment

pytestmark = pytest.mark.ray


@pytest.fixture
def project(tmp_path):
    """A folder that is sent, and on the cluster one where paths begin; `python` there tells what it is given."""
    (tmp_path / "sent" / "jobs").mkdir(parents=True)
    (tmp_path / "sent" / "jobs" / "my train.toml").write_text("")
    (tmp_path / "shared disk").mkdir()
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\npwd\nfor word in "$@"; do echo "$word"; done\nexit 7\n')
    python.chmod(0o755)
    return tmp_path


def run_shell(line, project):
    """Run an entrypoint as a cluster does: by the shell, in the folder that was sent."""
    environment = {"PATH": f"{project / 'bin'}:{os.environ['PATH']}"}
    command = ["/bin/sh", "-c", line]
    return subprocess.run(command, cwd=project / "sent", env=environment, capture_output=True, text=True, check=False)


def test_a_job_reads_the_job_file_that_was_sent_and_begins_in_the_folder_asked_for(project, monkeypatch):
    monkeypatch.chdir(project / "sent")
    arguments = ["train", "jobs/my train.toml", "--set", "name='it is'", "--set=out=runs/a b", "$HOME"]
    line = entrypoint(arguments, folder=Path.cwd(), run_dir=str(project / "shared disk"))
    ran = run_shell(line, project)
    assert ran.returncode == 7
    told = ran.stdout.splitlines()
    assert told[0] == str(project / "shared disk")
    assert told[1:4] == ["-m", "cisray", "train"]
    assert told[4] == str(project / "sent" / "jobs" / "my train.toml")
    assert told[5:] == ["--set", "name='it is'", "--set=out=runs/a b", "$HOME"]


def test_a_folder_that_the_cluster_does_not_have_ends_the_job_with_a_word(project, monkeypatch):
    monkeypatch.chdir(project / "sent")
    ran = run_shell(entrypoint(["models"], folder=Path.cwd(), run_dir="/no/such folder"), project)
    assert ran.returncode == 2
    assert "the cluster's head has no folder /no/such folder" in ran.stderr
    assert ran.stdout == ""


def test_a_job_file_that_would_not_be_sent_is_refused(project, monkeypatch):
    (project / "elsewhere.toml").write_text("")
    monkeypatch.chdir(project / "sent")
    with pytest.raises(InputError, match=r"elsewhere\.toml lies outside of .*sent, which is what is sent"):
        entrypoint(["train", "../elsewhere.toml"], folder=Path.cwd(), run_dir="/")


def test_what_a_job_needs_is_sent_and_a_password_never():
    environment = {"CISRAY_DATA": "/data", "MLFLOW_TRACKING_URI": "http://mlflow:5000", "AWS_SECRET_ACCESS_KEY": "x"}
    assert sent_environment(environment) == {"CISRAY_DATA": "/data", "MLFLOW_TRACKING_URI": "http://mlflow:5000"}
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI holds a password"):
        sent_environment({"MLFLOW_TRACKING_URI": "postgresql://me:secret@host/mlflow"})


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("ray://127.0.0.1:10001", "wanted the address of a cluster's dashboard"),
        ("127.0.0.1:8265", "wanted the address of a cluster's dashboard"),
        ("http://127.0.0.1:9", "no Ray cluster answers"),
    ],
)
def test_an_address_without_a_cluster_is_refused(address, told):
    with pytest.raises(InputError, match=told):
        connect(address)
