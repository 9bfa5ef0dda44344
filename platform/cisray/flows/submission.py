"""Send a verb to a Ray cluster as a job, follow what it prints, and stop it.

The job runs the code that submits it: this package is sent along, with the folder that it is started from, less what
that folder's .gitignore names. Its paths are the cluster's: relative ones begin at a folder that all its machines see.
"""

import asyncio
import logging
import os
import re
import shlex
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

import cisray
from cisray.addresses import holds_password, redacted
from cisray.errors import InputError

SENT_ALONG = ("CISRAY_DATA", "MLFLOW_TRACKING_URI")
"""What a job finds in its environment as it stands in that of who submits it."""
NEVER_SENT = (".git", ".venv", "runs", "__pycache__")
"""Left out of what is sent, besides what .gitignore names."""
CONNECT_S = 10
START_S = 60
"""A job that has not begun by then is given up."""
POLL_S = 0.5
SILENCE_S = 60
"""A cluster that has not answered for so long is no longer waited for; its job runs on."""
BAD_INPUT, STOPPED, FAILED = 2, 130, 1
"""Exit codes; any other is the job's own."""
_TALKING = ["ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"]
_TALKING += ["ray._private.runtime_env.packaging", "ray._private.runtime_env.working_dir"]
"""Loggers that tell of every file they pack."""
_RAYS_WORDS = re.compile(r"\A(?:.*job_manager\.py:\d+ -- .*\n|Running entrypoint for job .*\n)*")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Submitted(NamedTuple):
    """A job as its cluster lists it."""

    job_id: str
    status: str
    started: float | None
    """Seconds since 1970; None before it has begun."""
    seconds: float | None
    command: str


def connect(address: str) -> JobSubmissionClient:
    """Return a client of a cluster's job server; raise InputError where none answers or none lets this user in."""
    for name in _TALKING:
        logging.getLogger(name).setLevel(logging.ERROR)
    parts = urlsplit(address)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise InputError(
            f"--on {address}: wanted the address of a cluster's dashboard, such as http://127.0.0.1:8265; ray:// and "
            "host:6379 are not where jobs are submitted"
        )
    try:
        # Ray's own request would wait for minutes
        socket.create_connection((parts.hostname, parts.port or _DEFAULT_PORTS[parts.scheme]), CONNECT_S).close()
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise InputError(
            f"--on {address}: the cluster refused this user; set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, to the token "
            "that it was started with"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"--on {address}: no Ray cluster answers ({error}); look whether it is up, and whether a tunnel or "
            "port-forward leads to its dashboard"
        ) from error


def submit(client: JobSubmissionClient, arguments: Sequence[str], *, folder: Path, run_dir: str) -> str:
    """Submit `cisray ARGUMENTS`, and return the job's identifier.

    Args:
        client: of the cluster.
        arguments: of the command line; job files among them lie below `folder`.
        folder: what is sent, less what its .gitignore names.
        run_dir: the folder on the cluster where relative paths begin.

    Raises:
        InputError: a job file lies elsewhere, credentials would be sent, or the cluster refuses what is sent.
    """
    command = entrypoint(arguments, folder=folder, run_dir=run_dir)
    runtime_env = {
        "working_dir": str(folder),
        "py_modules": [str(Path(cisray.__file__).parent)],
        "excludes": list(NEVER_SENT),
        "env_vars": sent_environment(os.environ),
    }
    limit = time.monotonic() + START_S
    while True:
        try:
            return client.submit_job(
                entrypoint=command,
                runtime_env=dict(runtime_env),  # the client writes addresses into it
                metadata={"command": shlex.join(["cisray", *arguments])},
            )
        except (RuntimeError, ValueError) as error:
            # a cluster that is just up cannot start jobs yet
            if "No available agent" not in str(error) or time.monotonic() > limit:
                raise InputError(f"{folder} could not be submitted: {error}") from error
        time.sleep(POLL_S)


def entrypoint(arguments: Sequence[str], *, folder: Path, run_dir: str) -> str:
    """Return the shell's line that runs `cisray ARGUMENTS` on the cluster: job files are those that were sent."""
    for argument in arguments:
        if holds_password(argument):
            raise InputError(
                f"{redacted(argument)}: was given with a password or a token, which everyone who lists the cluster's "
                "jobs would read; take it out: credentials come from the environment of the cluster's machines"
            )
    words = [_sent_path(argument, folder) or shlex.quote(argument) for argument in arguments]
    missing = shlex.quote(
        f"cisray: the cluster's head has no folder {run_dir}, where relative paths would begin; name one with --in, on "
        "a file system that all its machines share"
    )
    return (
        f"sent=$PWD; cd {shlex.quote(run_dir)} || {{ echo {missing} >&2; exit {BAD_INPUT}; }}; "
        f"exec python -P -m cisray {' '.join(words)}"
    )


def sent_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a job gets; raise InputError for a store whose address holds a password."""
    sent = {name: environment[name] for name in SENT_ALONG if name in environment}
    for name, value in sent.items():
        parts = urlsplit(value)
        # a token may stand in the place of a user of an HTTP server
        if holds_password(value) or (parts.scheme in _DEFAULT_PORTS and parts.username):
            raise InputError(
                f"{name} holds a password or a token, which everyone who lists the cluster's jobs would read; set it "
                "in the environment of the cluster's machines instead, and unset it here"
            )
    return sent


def follow(client: JobSubmissionClient, job_id: str, write: Callable[[str], object]) -> int:
    """Pass on what a job prints until it ends, and return its exit code; raise InputError for an unknown job."""
    while _status(client, job_id) == JobStatus.PENDING:
        time.sleep(POLL_S)
    _pass_on_log(client, job_id, write)
    return _exit_code(client.get_job_info(job_id))


def stop(client: JobSubmissionClient, job_id: str) -> bool:
    """End a job, wait until it has ended, and say whether it was under way; raise InputError for an unknown one."""
    if _status(client, job_id).is_terminal():
        return False
    client.stop_job(job_id)
    while not client.get_job_status(job_id).is_terminal():
        time.sleep(POLL_S)
    return True


def list_jobs(client: JobSubmissionClient) -> list[Submitted]:
    """Return the jobs that were submitted to a cluster, the newest last."""
    found = [_submitted(job) for job in client.list_jobs() if job.submission_id]
    return sorted(found, key=lambda job: job.started or float("inf"))


def _submitted(job: JobDetails) -> Submitted:
    assert job.submission_id is not None
    started = None if job.start_time is None else job.start_time / 1000
    ended = time.time() if job.end_time is None else job.end_time / 1000
    command = (job.metadata or {}).get("command", job.entrypoint)
    return Submitted(job.submission_id, job.status.value, started, started and ended - started, command)


def _sent_path(argument: str, folder: Path) -> str | None:
    """Return a job file as the shell on the cluster names it; None for any other argument."""
    path = Path(argument)
    if path.suffix != ".toml" or argument.startswith("-") or not path.is_file():
        return None
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{path} lies outside of {folder}, which is what is sent to the cluster; start the command in a folder "
            "that holds the job file"
        )
    inside = path.resolve().relative_to(folder.resolve())
    if left_out := set(inside.parts) & set(NEVER_SENT):
        raise InputError(f"{path} lies in {left_out.pop()}, which is never sent to a cluster; keep job files elsewhere")
    if holds_password(path.read_text(encoding="utf-8", errors="replace")):
        raise InputError(
            f"{path}: holds a password in an address, and would be sent with it; take it out: credentials come from "
            "the environment of the cluster's machines"
        )
    return '"$sent"/' + shlex.quote(inside.as_posix())


def wait_until_begun(client: JobSubmissionClient, job_id: str) -> None:
    """Wait for a job that was just submitted; raise InputError where it has not begun in a minute: it is stopped."""
    limit = time.monotonic() + START_S
    while _status(client, job_id) == JobStatus.PENDING:
        if time.monotonic() > limit:
            told = client.get_job_info(job_id).message
            client.stop_job(job_id)
            raise InputError(f"job {job_id} had not begun after {START_S} s and was stopped; the cluster says: {told}")
        time.sleep(POLL_S)


def _status(client: JobSubmissionClient, job_id: str) -> JobStatus:
    try:
        return client.get_job_status(job_id)
    except RuntimeError as error:
        if "404" not in str(error):
            raise
        raise InputError(f"the cluster knows no job {job_id}; cisray jobs lists those that it does") from error


def _pass_on_log(client: JobSubmissionClient, job_id: str, write: Callable[[str], object]) -> None:
    """Pass on a job's log as it grows; where the connection breaks off, go on where it did."""
    written = 0

    async def pass_on() -> None:
        nonlocal written
        seen = 0
        async for text in client.tail_job_logs(job_id):  # from its beginning
            fresh = text[max(0, written - seen) :]
            if not written:
                fresh = _RAYS_WORDS.sub("", fresh)
            seen += len(text)
            if seen > written:
                write(fresh)
                written = seen

    heard = time.monotonic()
    while True:
        try:
            ended = client.get_job_status(job_id).is_terminal()
            asyncio.run(pass_on())
            heard = time.monotonic()
            if ended:
                return
        except (RuntimeError, OSError, requests.RequestException) as error:
            if time.monotonic() - heard > SILENCE_S:
                raise InputError(
                    f"the cluster has not answered for {SILENCE_S} s ({error}); job {job_id} goes on without this "
                    f"command: cisray logs {job_id} follows it again, once a tunnel or port-forward leads to the "
                    "dashboard"
                ) from error
        time.sleep(POLL_S)


def _exit_code(job: JobDetails) -> int:
    if job.status == JobStatus.SUCCEEDED:
        return 0
    if job.status == JobStatus.STOPPED:
        return STOPPED
    return job.driver_exit_code or FAILED
