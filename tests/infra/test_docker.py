import re
import subprocess
import sys
import sysconfig
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "docker"
TARGETS = {"cpu", "gpu", "mlflow"}


class Stage(NamedTuple):
    """One FROM of a Dockerfile and what stands below it."""

    base: str
    instructions: list[tuple[str, str]]

    def all_of(self, name: str) -> list[str]:
        return [rest for word, rest in self.instructions if word == name]


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    lines = (FOLDER / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#")).replace("\\\n", " ")
    found: dict[str, Stage] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        word, rest = line.split(None, 1)
        if word == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()
            found[name] = Stage(base, [])
        elif found:
            list(found.values())[-1].instructions.append((word, " ".join(rest.split())))
    return found


def lineage(stages: dict[str, Stage], name: str) -> list[Stage]:
    """Return a stage and those that it is built upon."""
    return [stages[name], *lineage(stages, stages[name].base)] if name in stages else []


def test_there_are_the_targets_that_the_manifests_name(stages):
    assert set(stages) > TARGETS
    assert {lineage(stages, name)[-1].base for name in stages} == {"${PYTHON_IMAGE}"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("", ""), None),
        (("WORKDIR /cisray", "WORKDR /cisray"), "unexpected 'W'"),
        (("--from=packages", "--from=package5"), "DL3022"),
        (("apt-get install -y", "apt-get install"), "DL3014"),
    ],
)
def test_a_linter_that_knows_dockerfiles_finds_nothing(tmp_path, change, told):
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    (tmp_path / "Dockerfile").write_text(text.replace(*change), encoding="utf-8")
    program = Path(sysconfig.get_path("scripts")) / "hadolint"
    if not program.exists():
        pytest.skip("hadolint is not installed")
    line = [program, "--no-color", tmp_path / "Dockerfile"]
    found = subprocess.run(line, capture_output=True, text=True, check=False)
    assert bool(found.returncode) == bool(told)
    assert (told or "") in found.stdout + found.stderr


def test_images_run_as_a_user_without_rights(stages):
    for name in TARGETS:
        assert stages[name].all_of("USER") == ["1000:1000"]
        after = [word for word, _ in stages[name].instructions]
        assert "RUN" not in after[after.index("USER") :]


def test_every_package_is_pinned(stages):
    pins = {
        re.split("==", line)[0].lower().replace("_", "-")
        for path in (ROOT / "infra" / "constraints.txt", FOLDER / "constraints.txt")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    installs = [command for stage in stages.values() for command in stage.all_of("RUN") if "pip install" in command]
    assert len(installs) == 5
    named = set()
    for command in installs:
        if "--no-deps" in command:  # the wheel that was built above
            continue
        assert "-c constraints.txt" in command
        words = command.split("pip install", 1)[1].split("&&")[0].split()
        named |= {word.split("==")[0] for word in words if re.fullmatch(r"[a-z][\w-]*(==[\d.]+)?", word)}
    assert named >= {"torch", "boto3", "mlflow", "psycopg2-binary"}
    assert named <= pins
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"[\[=<>~ ]", dependency)[0].lower().replace("_", "-") for dependency in project["dependencies"]}
    assert needed <= pins | named
    # torch is named in the same words as in the package's own metadata
    (torch,) = [one for one in project["dependencies"] if one.startswith("torch")]
    assert any(f" {torch}" in command for command in installs)


def test_the_dependencies_are_read_from_the_package(stages):
    """Run the line that makes requirements.txt."""
    (line,) = [command for command in stages["packages"].all_of("RUN") if "tomllib" in command]
    code = re.search(r'python -c "([^"]*)"', line)[1]
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert ran.stdout.split("\n")[:-1] == project["dependencies"]


def sent_to_the_builder(path: str) -> bool:
    """Say whether a path below the root passes the ignore file; the last line that fits decides."""
    kept = True
    for line in (FOLDER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip().removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        parts = Path(path).parts
        above = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        fits = any(fnmatch(one, pattern) or (pattern[:3] == "**/" and fnmatch(one, pattern[3:])) for one in above)
        if fits:
            kept = line.startswith("!")
    return kept


def test_the_builder_gets_what_is_copied_and_nothing_that_is_private(stages):
    copied = [
        source
        for stage in stages.values()
        for rest in stage.all_of("COPY")
        if not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert {"pyproject.toml", "platform", "infra/constraints.txt"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists()
        assert sent_to_the_builder(source)
    assert sent_to_the_builder("platform/cisray/cli/app.py")
    for path in (
        ".git/config",
        ".env",
        "runs/mlflow.db",
        ".venv/bin/python",
        "infra/cloud/aws.yaml",
        "jobs/tiny/a.toml",
    ):
        assert not sent_to_the_builder(path)


def test_no_credential_is_built_in(stages):
    for stage in stages.values():
        for word in ("ARG", "ENV"):
            for rest in stage.all_of(word):
                assert not re.search(r"(PASSWORD|SECRET|_KEY|AUTH_TOKEN)\w*=", rest)
        assert not stage.all_of("ADD")
    for name in ("cpu", "gpu"):
        environment = " ".join(rest for stage in lineage(stages, name) for rest in stage.all_of("ENV"))
        assert "RAY_AUTH_MODE=token" in environment


def test_a_login_shell_finds_the_programs(stages, tmp_path):
    (line,) = [command for command in stages["runtime"].all_of("RUN") if "profile.d" in command]
    profile = tmp_path / "profile"
    subprocess.run(["sh", "-c", line.split("&&")[-1].replace("/etc/profile.d/cisray.sh", str(profile))], check=True)
    code = f'PATH=/usr/bin; . {profile}; echo "$PATH"'
    assert subprocess.run(["sh", "-c", code], capture_output=True, text=True, check=True).stdout == (
        "/opt/cisray/bin:/usr/bin\n"
    )
