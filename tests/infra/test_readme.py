import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra"
WAYS = ("One machine with Docker", "Slurm", "AWS", "Kubernetes")


@pytest.fixture(scope="module")
def readme():
    return (FOLDER / "README.md").read_text(encoding="utf-8")


def test_what_it_names_is_there(readme):
    paths = set(re.findall(r"\b(?:infra|jobs)/[\w./-]*\w", readme))
    paths |= {f"infra/{path}" for path in re.findall(r"\]\(([^)]+)\)", readme)}
    assert len(paths) > 10
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_each_way_says_how_to_start_submit_look_and_stop(readme):
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL))
    assert {"Security", "What happens when things die"} < set(sections)
    for way in WAYS:
        for word in ("start", "submit", "look", "stop"):
            assert re.search(rf"\b{word}\b", sections[way], re.IGNORECASE), f"{way}: {word}"


def test_its_verbs_exist(readme):
    from cisray.cli.app import app

    verbs = {command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands}
    used = set(re.findall(r"^    cisray ([a-z-]+)", readme, re.MULTILINE))
    assert used >= {"train", "jobs", "logs", "stop"}
    assert used <= verbs


def test_nothing_in_it_belongs_to_one_machine():
    home = re.compile(r"/(?:home/(?!cisray\b|mlflow\b)|root/|Users/|work/)\S*")
    for path in FOLDER.rglob("*"):
        if path.is_file() and path.suffix != ".png":
            assert home.findall(path.read_text(encoding="utf-8")) == [], path
