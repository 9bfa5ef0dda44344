"""What may import what, how long a thing may be, and what must not exist: read from the source, not from prose."""

import ast
import graphlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "platform" / "cisray"
# A module imports only from its own room and from rooms above it.
ROOMS = ["__init__", "errors", "addresses", "files", "stores", "remote", "progress", "config", "geometry"]
ROOMS += ["genome", "datasets"]
ROOMS += ["models", "training", "baselines", "goals", "bundle", "pretrained", "transfer", "scoring", "sweeps"]
ROOMS += ["reports", "outbox", "mlflow_store", "tracking", "registry", "flows", "cli", "__main__"]
FORBIDDEN_ROOMS = {  # beyond the order
    "training": {"models"},
    "flows": {"mlflow_store", "tracking", "registry"},
    "models": {"files", "genome", "datasets", "progress"},
}
OUTSIDE_THE_CORE = ("flows", "mlflow_store", "tracking", "registry", "cli", "__main__")
MOST_FUNCTION_LINES = 60  # without the docstring
MOST_MODULE_LINES = 400
MOST_ARGUMENTS = 7
Function = ast.FunctionDef | ast.AsyncFunctionDef


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imported(node: ast.AST) -> list[str]:
    """Return the modules that an import statement names; `from cisray import files` names cisray.files."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"relative import on line {node.lineno}"
        whole = [f"{node.module}.{alias.name}" for alias in node.names]
        return [name if name in SOURCES else node.module for name in whole]
    return []


def imports_of(module: str) -> set[str]:
    return {name for node in ast.walk(TREES[module]) for name in imported(node)}


def own_imports_of(module: str) -> set[str]:
    return {name for name in imports_of(module) if name.split(".")[0] == "cisray"}


def functions() -> list[tuple[str, Function]]:
    return [
        (f"{module}:{node.lineno} {node.name}", node)
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, Function)
    ]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_source_was_found():
    assert len(SOURCES) > 30
    assert "cisray.datasets.schema" in SOURCES
    assert "cisray.config" in own_imports_of("cisray.geometry")


def test_the_source_root_does_not_hide_the_standard_library():
    assert not (ROOT / "platform.py").exists()
    assert not (ROOT / "platform" / "__init__.py").exists()
    answer = run_python("import platform, sys; print(platform.machine(), platform.__file__)")
    assert answer.returncode == 0, answer.stderr
    assert str(ROOT) not in answer.stdout.replace(sys.prefix, "")


def test_every_room_is_in_the_order():
    assert {room_of(module) for module in SOURCES} <= set(ROOMS)


def test_rooms_import_only_from_rooms_above():
    wrong = [
        f"{module} imports {other}"
        for module in SOURCES
        for other in own_imports_of(module)
        if ROOMS.index(room_of(other)) > ROOMS.index(room_of(module))
        or room_of(other) in FORBIDDEN_ROOMS.get(room_of(module), set())
    ]
    assert not wrong


def test_ray_and_mlflow_stay_in_their_rooms():
    homes = {"ray": {"flows"}, "mlflow": {"mlflow_store", "tracking", "registry"}}
    wrong = [
        f"{module} imports {name}"
        for module in SOURCES
        for name in imports_of(module)
        if room_of(module) not in homes.get(name.split(".")[0], {room_of(module)})
    ]
    assert not wrong


def test_imports_make_no_ring():
    graph = {module: own_imports_of(module) - {module} for module in SOURCES}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(SOURCES)


def test_own_imports_stand_at_the_top():
    wrong = []
    for module, tree in TREES.items():
        if room_of(module) == "cli":
            continue
        at_top = {node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)}
        wrong += [
            f"{module}:{node.lineno}"
            for node in ast.walk(tree)
            if node not in at_top and any(name.split(".")[0] == "cisray" for name in imported(node))
        ]
    assert not wrong


def test_functions_fit_on_a_screen():
    wrong = []
    for where, function in functions():
        assert function.end_lineno is not None
        lines = function.end_lineno - function.lineno + 1
        if ast.get_docstring(function) is not None:
            docstring = function.body[0]
            lines -= docstring.end_lineno - docstring.lineno + 1
        if lines > MOST_FUNCTION_LINES:
            wrong.append(f"{where}: {lines} lines")
    assert not wrong


def test_modules_stay_short():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in SOURCES.items()}
    assert not {name: length for name, length in lengths.items() if length > MOST_MODULE_LINES}


def test_functions_take_few_arguments():
    wrong = []
    for where, function in functions():
        arguments = function.args
        names = [each.arg for each in arguments.posonlyargs + arguments.args + arguments.kwonlyargs]
        count = len([name for name in names if name not in ("self", "cls")])
        if count > MOST_ARGUMENTS:
            wrong.append(f"{where}: {count} arguments")
    assert not wrong


def test_no_module_is_a_drawer():
    drawers = {"utils", "util", "common", "helpers", "core", "misc"}
    assert not [module for module in SOURCES if drawers & set(module.split("."))]


def test_no_broad_except():
    wrong = []
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                kinds = {each.id for each in ast.walk(node.type) if isinstance(each, ast.Name)} if node.type else {""}
                if kinds & {"", "Exception", "BaseException"}:
                    wrong.append(f"{module}:{node.lineno}")
    assert not wrong


def test_rooms_do_not_re_export():
    for module, path in SOURCES.items():
        if path.name != "__init__.py":
            continue
        assert ast.get_docstring(TREES[module]), f"{module} has no charter"
        assert not own_imports_of(module), f"{module} re-exports"
        if module == "cisray":
            (version,) = TREES[module].body[1:]
            assert isinstance(version, ast.Assign)
            assert ast.unparse(version.targets[0]) == "__version__"
        elif module != "cisray.flows":  # which sets Ray's environment, before Ray is imported
            assert len(TREES[module].body) == 1, f"{module} holds more than its charter"


def is_overload(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Name) and decorator.id == "overload"


def test_every_public_thing_says_what_it_is():
    silent = []

    def look(node: ast.Module | ast.ClassDef, where: str) -> None:
        if not ast.get_docstring(node):
            silent.append(where)
        for child in node.body:
            if isinstance(child, ast.ClassDef | Function) and not child.name.startswith("_"):
                if isinstance(child, ast.ClassDef):
                    look(child, f"{where}.{child.name}")
                elif not ast.get_docstring(child) and not any(map(is_overload, child.decorator_list)):
                    silent.append(f"{where}.{child.name}")

    for module, tree in TREES.items():
        look(tree, module)
    assert not silent


def test_the_project_file_stays_short():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["project"]["name"] == "cisray"
    assert len(text.splitlines()) < 120


def test_jobs_are_toml_only():
    files = [path for path in (ROOT / "jobs").rglob("*") if path.is_file() and path != ROOT / "jobs" / "README.md"]
    assert files
    assert not [path for path in files if path.suffix != ".toml"]
    for path in files:
        assert tomllib.loads(path.read_text(encoding="utf-8")), path


@pytest.mark.ray
def test_every_job_file_is_one_that_its_verb_reads():
    from cisray.config import load_job
    from cisray.flows.build_genomes import AnyBuildJob
    from cisray.flows.score_job import ScoreJob
    from cisray.flows.swap_job import SwapJob
    from cisray.flows.sweep_job import SweepJob
    from cisray.flows.train_job import TrainJob
    from cisray.pretrained import ImportSpec

    kinds = {"dataset": AnyBuildJob, "train": TrainJob, "baseline": TrainJob, "score": ScoreJob, "import": ImportSpec}
    kinds |= {"sweep": SweepJob, "swap": SwapJob}
    for path in sorted((ROOT / "jobs").rglob("*.toml")):
        (kind,) = [kind for prefix, kind in kinds.items() if path.name.startswith(prefix)]
        assert load_job(path, kind).out.startswith("runs/"), path


def test_the_core_works_without_ray_and_mlflow():
    core = [module for module in SOURCES if room_of(module) not in OUTSIDE_THE_CORE]
    answer = run_python(
        f"""
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "mlflow"):
            raise ImportError(f"{{name}} is not installed")

sys.meta_path.insert(0, Blocked())
for module in {core!r}:
    importlib.import_module(module)
print(len([name for name in sys.modules if name.split(".")[0] == "cisray"]))
"""
    )
    assert answer.returncode == 0, answer.stderr
    assert int(answer.stdout) == len(core)


@pytest.mark.parametrize(("option", "told"), [("--help", "score"), ("--version", "cisray 0.")])
def test_the_command_line_answers_without_loading_the_heavy_libraries(option, told):
    answer = run_python(
        f"""
import sys
from cisray.cli.app import main
sys.argv = ["cisray", {option!r}]
try:
    main()
except SystemExit as end:
    heavy = sorted({{"ray", "torch", "mlflow", "pyarrow", "numpy"}} & set(sys.modules))
    print("code", end.code, "heavy", heavy)
"""
    )
    assert told in answer.stdout
    assert answer.stdout.endswith("code 0 heavy []\n"), answer.stdout + answer.stderr
