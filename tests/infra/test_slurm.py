import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "infra" / "slurm"
SCRIPTS = ("cisray.sbatch", "test.sh")
NOT_RUN = 77


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_well_formed(name):
    parsed = subprocess.run(["bash", "-n", str(FOLDER / name)], capture_output=True, text=True, check=False)
    assert parsed.returncode == 0, parsed.stderr
    # what runs on a node is text to the script
    text = (FOLDER / name).read_text(encoding="utf-8")
    for inner in re.findall(r"^readonly \w+='\n(.*?)\n[^\n]*'$", text, re.MULTILINE | re.DOTALL):
        code = inner.replace("'\\''", "'")
        parsed = subprocess.run(["bash", "-n"], input=code, capture_output=True, text=True, check=False)
        assert parsed.returncode == 0, parsed.stderr


@pytest.mark.parametrize(
    ("arguments", "job", "told"),
    [
        (["build", "job.toml"], {}, "this is no Slurm job; submit the script with sbatch"),
        ([], {"SLURM_JOB_ID": "1"}, "no verb was given; wanted for example: sbatch"),
        (["build", "job.toml"], {"SLURM_JOB_ID": "1"}, "there is no ray on PATH; activate cisray's environment"),
    ],
    ids=["outside of Slurm", "without a verb", "without Ray"],
)
def test_what_is_wrong_is_said_before_anything_is_started(tmp_path, arguments, job, told):
    for program in ("bash", "env"):
        (tmp_path / program).symlink_to(shutil.which(program))
    environment = {"PATH": str(tmp_path)} | job
    ran = subprocess.run(
        [str(tmp_path / "bash"), str(FOLDER / "cisray.sbatch"), *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    assert told in ran.stderr
    assert ran.stdout == ""


def test_the_token_is_never_printed_or_written():
    text = (FOLDER / "cisray.sbatch").read_text(encoding="utf-8")
    assert "RAY_AUTH_MODE=token" in text
    for line in text.splitlines():
        assert not re.search(r"(echo|printf|cat|>).*\$\{?RAY_AUTH_TOKEN", line)


@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_jobs_run_die_and_go_on_in_a_slurm_of_two_nodes():
    missing = [program for program in ("slurmctld", "slurmd", "munged", "sbatch") if not shutil.which(program)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
    ran = subprocess.run([str(FOLDER / "test.sh")], env=environment, capture_output=True, text=True, check=False)
    if ran.returncode == NOT_RUN:
        pytest.skip(ran.stdout.strip())
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-5000:]
    assert ran.stdout.count("bytes like the undisturbed build's") == 2
    assert "all passed" in ran.stdout
