import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import requests
from ray.job_submission import JobDetails, JobStatus

from cisray.errors import InputError
from cisray.flows import submission
from cisray.flows.submission import connect, entrypoint, follow, sent_environment, wait_until_begun
from loopback import free_ports

pytestmark = pytest.mark.ray
JOB = Path(__file__).parents[2] / "jobs" / "tiny" / "dataset.toml"
# Every process of the cluster reads it: Ray would replace a loopback address by the machine's own.
ON_LOOPBACK = """
from ray._private import services
services.resolve_ip_for_localhost = lambda host: host
"""


class Head(NamedTuple):
    """A cluster that takes jobs."""

    address: str
    environment: dict[str, str]
    folder: Path
    """What is sent, and where paths begin."""

    def start(self, *line) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "cisray", *map(str, line), "--on", self.address]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=pipe, stderr=pipe, text=True)

    def call(self, *line) -> tuple[int, str, str]:
        process = self.start(*line)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A cluster with a job server, for jobs of this module."""
    folder = tmp_path_factory.mktemp("head")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(ON_LOOPBACK)
    (folder / "project").mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "CISRAY_"))}
    environment = kept | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"  # jobs call `python`
    names = ["port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port", "metrics-export-port"]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1"]
    command += ["--dashboard-host=127.0.0.1", "--num-cpus=4", f"--object-store-memory={100 << 20}"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment | {"PYTHONPATH": str(folder / "site")}, stdout=log, stderr=log, text=True
        )
    address = f"127.0.0.1:{ports['dashboard-port']}"
    while True:
        assert process.poll() is None, (folder / "log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", ports["dashboard-port"]), 1):
            break
        time.sleep(0.2)
    yield Head(f"http://{address}", environment, folder / "project")
    process.terminate()
    process.wait(timeout=60)


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
    assert told[1:5] == ["-P", "-m", "cisray", "train"]  # what lies in the shared folder is no code
    assert told[5] == str(project / "sent" / "jobs" / "my train.toml")
    assert told[6:] == ["--set", "name='it is'", "--set=out=runs/a b", "$HOME"]


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


def test_what_a_job_needs_is_sent_and_nothing_else():
    environment = {"CISRAY_DATA": "/data", "MLFLOW_TRACKING_URI": "http://mlflow:5000", "AWS_SECRET_ACCESS_KEY": "x"}
    assert sent_environment(environment) == {"CISRAY_DATA": "/data", "MLFLOW_TRACKING_URI": "http://mlflow:5000"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLFLOW_TRACKING_URI", "postgresql://me:s3cr3t@host/mlflow"),
        ("MLFLOW_TRACKING_URI", "postgresql+psycopg2://me:s3cr3t/x@host/mlflow"),
        ("MLFLOW_TRACKING_URI", "postgresql://host/mlflow?password=s3cr3t"),
        ("MLFLOW_TRACKING_URI", "https://s3cr3t@host"),
        ("CISRAY_DATA", "s3://key:s3cr3t@bucket/data"),
    ],
)
def test_an_address_that_holds_a_password_is_not_sent(name, value):
    with pytest.raises(InputError, match=f"^{name} holds a password or a token, .* in the environment of the") as told:
        sent_environment({name: value})
    assert "s3cr3t" not in str(told.value)


def test_a_command_line_or_a_job_file_that_holds_a_password_is_not_sent(project, monkeypatch):
    monkeypatch.chdir(project / "sent")
    line = ["train", "jobs/my train.toml", "--set", "data_dir=s3://key:s3cr3t@bucket/data"]
    with pytest.raises(InputError, match=r"^data_dir=s3://bucket/data: was given with a password or a token") as told:
        entrypoint(line, folder=Path.cwd(), run_dir="/")
    assert "s3cr3t" not in str(told.value)
    (project / "sent" / "jobs" / "my train.toml").write_text('data_dir = "s3://key:s3cr3t@bucket/data"\n')
    with pytest.raises(InputError, match=r"my train\.toml: holds a password in an address, and would be sent") as told:
        entrypoint(line[:2], folder=Path.cwd(), run_dir="/")
    assert "s3cr3t" not in str(told.value)


def test_a_job_file_in_a_folder_that_is_never_sent_is_refused(project, monkeypatch):
    monkeypatch.chdir(project / "sent")
    Path("runs").mkdir()
    Path("runs/mine.toml").write_text("")
    with pytest.raises(InputError, match=r"runs/mine\.toml lies in runs, which is never sent to a cluster; keep job"):
        entrypoint(["train", "runs/mine.toml"], folder=Path.cwd(), run_dir="/")


class Pending:
    """A cluster on which a job begins when it is asked for the fourth time, if it was not stopped."""

    def __init__(self):
        self.asked, self.stopped = 0, False

    def get_job_status(self, job_id):
        self.asked += 1
        return JobStatus.STOPPED if self.stopped else JobStatus.PENDING if self.asked < 4 else JobStatus.SUCCEEDED

    def get_job_info(self, job_id):
        return JobDetails(type="SUBMISSION", status=self.get_job_status(job_id), entrypoint="", message="no room")

    def stop_job(self, job_id):
        self.stopped = True

    async def tail_job_logs(self, job_id):
        yield "done\n"


def test_who_submits_a_job_stops_it_where_it_does_not_begin_and_who_looks_on_does_not(monkeypatch):
    monkeypatch.setattr(submission, "POLL_S", 0.01)
    monkeypatch.setattr(submission, "START_S", 0)
    written, looked_at, submitted = [], Pending(), Pending()
    assert follow(looked_at, "raysubmit_1", written.append) == 0
    assert (written, looked_at.stopped) == (["done\n"], False)
    with pytest.raises(InputError, match="had not begun after 0 s and was stopped; the cluster says: no room"):
        wait_until_begun(submitted, "raysubmit_1")
    assert submitted.stopped


class Flaky:
    """A cluster that answers a question, then does not, then does again, or no more."""

    def __init__(self, silent):
        self.silent, self.asked = silent, 0

    def get_job_status(self, job_id):
        self.asked += 1
        if 2 <= self.asked < 2 + self.silent:
            raise requests.ConnectionError("connection refused")
        return JobStatus.SUCCEEDED if self.asked > 4 else JobStatus.RUNNING

    def get_job_info(self, job_id):
        return JobDetails(type="SUBMISSION", status=JobStatus.SUCCEEDED, entrypoint="")

    async def tail_job_logs(self, job_id):
        yield "one\n"
        if self.asked > 4:
            yield "two\n"


def test_a_tunnel_that_breaks_is_waited_for_and_the_log_goes_on_where_it_was(monkeypatch):
    monkeypatch.setattr(submission, "POLL_S", 0.01)
    written = []
    assert follow(Flaky(silent=2), "raysubmit_1", written.append) == 0
    assert "".join(written) == "one\ntwo\n"


def test_a_cluster_that_answers_no_more_is_told_and_the_way_back_to_the_job(monkeypatch):
    monkeypatch.setattr(submission, "POLL_S", 0.01)
    monkeypatch.setattr(submission, "SILENCE_S", 0.1)
    with pytest.raises(
        InputError, match=r"has not answered for 0.1 s .*raysubmit_1 goes on .*: cisray logs raysubmit_1"
    ):
        follow(Flaky(silent=1000), "raysubmit_1", print)


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


def test_a_verb_runs_on_a_cluster_as_here_and_is_listed_there(head):
    code, out, err = head.call("simulate", "made", "--seed", "3")
    assert code == 0, out + err
    assert (head.folder / "made" / "genome.fa").exists()
    (job_id,) = re.findall(r"submitted as (\S+) to", err)
    assert "made" in out
    assert "Running entrypoint" not in out  # Ray's words, and a line of the shell
    code, listed, err = head.call("jobs")
    assert code == 0, err
    (line,) = [line for line in listed.splitlines() if job_id in line]
    assert "succeeded" in line
    assert "cisray simulate made --seed 3" in line
    assert head.call("logs", job_id)[:2] == (0, out)
    assert head.call("stop", job_id)[1] == f"{job_id} had ended already\n"


def test_bad_input_ends_with_the_same_word_and_exit_code_as_here(head):
    (head.folder / "dataset.toml").write_text(JOB.read_text() + "\n[windws]\n")
    code, out, _ = head.call("build", "dataset.toml")
    assert code == 2
    assert "unknown key windws" in out
    code, _, err = head.call("logs", "nobody")
    assert code == 2
    assert "the cluster knows no job nobody" in err


def test_an_interrupt_stops_the_job_and_the_same_line_goes_on(head):
    code, _, err = head.call("simulate", "simulated")
    assert code == 0, err
    (head.folder / "build.toml").write_text(JOB.read_text())
    line = ("build", "build.toml", "--set", "data_dir=simulated", "--set", "out=dataset")
    process = head.start(*line)
    (job_id,) = re.findall(r"submitted as (\S+) to", process.stderr.readline())
    while not (head.folder / "dataset.unfinished").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"stopping {job_id}" in err
    (listed,) = [each for each in head.call("jobs")[1].splitlines() if job_id in each]
    assert "stopped" in listed
    assert not (head.folder / "dataset").exists()
    code, out, err = head.call(*line)
    assert code == 0, out + err
    assert (head.folder / "dataset" / "card.json").exists()


def test_a_cluster_keeps_out_who_does_not_hold_its_token(head):
    stranger = head._replace(environment=head.environment | {"RAY_AUTH_TOKEN": secrets.token_hex(32)})
    code, _, err = stranger.call("jobs")
    assert code == 2
    assert "the cluster refused this user; set RAY_AUTH_TOKEN" in err
