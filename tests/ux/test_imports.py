"""Who may import whom, no circles, how heavy an import may be, and how many files a folder holds."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.ux._checkout import PACKAGES, ROOT, files, package_files
from tests.ux._imports import child_graph, circles, imported, module_graph, module_name, packages

# Who may import whom, each package itself included: dependencies go down only.
MAY_IMPORT = {
    "planwright": {"planwright"},
    "builders": {"planwright", "builders"},
    "serving": {"planwright", "serving"},
    "clients": {"planwright", "clients"},
    "measure": {"planwright", "clients", "measure"},
    "loadtest": {"planwright", "clients", "measure", "loadtest"},
    "benchmarks": {"planwright", "clients", "builders", "measure", "deploy", "benchmarks"},  # of deploy only the demo
    "deploy": {"planwright"},
}
REPORTS = {
    "measure.report",
    "measure.record",
    "measure.workload",
    "measure.statistics",
    "clients",
    "planwright",
}  # no locust
# Folders with a stricter rule: all that they may import of this project.
SUBPACKAGE_MAY_IMPORT = {
    "serving/backends": {"planwright.trt"},  # runs inside the server's own Python
    "planwright/trt": {"planwright.trt"},  # is copied into the TensorRT backend
    "builders/zoo": {
        "builders.error_log",
        "builders.sources",
        "builders.graphs",
        "builders.targets.ort",
        "builders.zoo",
        "planwright",
    },
    "measure/report": REPORTS,
    "measure/compare": {"measure.compare", *REPORTS},
}
ENTRIES = {"builders.build_all", "loadtest.scenarios", *(f"{package}.__main__" for package in PACKAGES)}
MAX_FILES = 16
MAX_LOADTEST_FILES = 5
HEAVY = {"torch", "tensorrt", "onnxruntime", "onnx", "scipy", "sklearn", "transformers", "matplotlib"}
# what the SDK must not need either: an application has numpy and tritonclient
NOT_IN_SDK = HEAVY | {"yaml", "pydantic", "rich", "locust", "jinja2", "PIL", "psutil"}
# what runs inside the server needs its runtime at once; planwright/trt is copied there
MODEL_SIDE = (Path("serving/backends"), Path("planwright/trt"))
LOCUST_SIDE = (Path("measure/load"), Path("loadtest"), Path("benchmarks/_parts/stock_user.py"))

PATHS = package_files()
MODULES = module_graph(PATHS)


def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def absolute(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the names of the import statements among the nodes, relative ones left out."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""


def within(path: Path, folders: tuple[Path, ...]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def test_packages_import_only_whom_they_may() -> None:
    ours = {*PACKAGES, "tests"}
    wrong = [
        f"{path}:{line} imports {name}"
        for path in PATHS
        for line, name in imported(path)
        if (top := name.split(".")[0]) in ours and top not in MAY_IMPORT[path.parts[0]]
    ]
    assert not wrong, "\n".join(wrong)


def test_clients_names_itself_only_relatively() -> None:
    """It is also installed as planwright.clients, where an absolute import would find another package or none."""
    names = {name for path in PATHS if path.parts[0] == "clients" for name in absolute(ast.walk(tree(path)))}
    assert "numpy" in names
    assert "clients" not in {name.split(".")[0] for name in names}


@pytest.mark.parametrize("folder", SUBPACKAGE_MAY_IMPORT)
def test_subpackages_import_only_whom_they_may(folder: str) -> None:
    allowed = SUBPACKAGE_MAY_IMPORT[folder]
    inside = {path: name for path, name in zip(PATHS, MODULES, strict=True) if path.is_relative_to(folder)}
    assert inside
    wrong = [
        f"{path} imports {target}"
        for path, name in inside.items()
        for target in MODULES[name]
        if not any(f"{target}.".startswith(f"{prefix}.") for prefix in allowed)
    ]
    assert not wrong, "\n".join(wrong)


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    found = [" -> ".join(chain) for chain in circles(MODULES)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("package", sorted(packages(MODULES)), ids=lambda name: name or "root")
def test_the_children_of_a_package_do_not_import_each_other_in_a_circle(package: str) -> None:
    found = [" -> ".join(chain) for chain in circles(child_graph(MODULES, package))]
    assert not found, "\n".join(found)


def test_the_circle_finder_finds_circles() -> None:
    graph = {"a.x": {"b.y"}, "b.z": {"a.w"}, "a.w": set(), "b.y": set()}
    assert circles(graph) == []
    (chain,) = circles(child_graph(graph, ""))
    assert (chain[0], set(chain)) == (chain[-1], {"a", "b"})
    assert len(circles({"a": {"b", "c"}, "b": {"a"}, "c": {"a"}})) == 2


def test_the_graph_sees_every_form_of_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import p.a\nfrom . import b\nfrom .c import f\nfrom p import d, value\ndef g():\n    from ..p.e import h\n"
    (tmp_path / "p").mkdir()
    paths = [Path("p/__init__.py"), *(Path(f"p/{name}.py") for name in ("a", "b", "c", "d", "e", "m"))]
    for path in paths:
        (tmp_path / path).write_text(text if path.stem == "m" else "")
    monkeypatch.setattr("tests.ux._imports.ROOT", tmp_path)
    assert module_graph(paths)["p.m"] == {"p", "p.a", "p.b", "p.c", "p.d", "p.e"}


def test_folders_are_small() -> None:
    counts = Counter(path.parent for path in PATHS if path.parent != Path("builders/zoo"))
    wide = [f"{folder} has {count} Python files" for folder, count in counts.items() if count > MAX_FILES]
    assert not wide, "\n".join(wide)
    assert len(files("loadtest/")) <= MAX_LOADTEST_FILES


def test_the_setup_needs_nothing_but_python() -> None:
    names = {name for path in PATHS if path.is_relative_to("deploy/setup") for _, name in imported(path)}
    beside = {"machine", "prepare"}  # the files of the folder itself
    assert names
    assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names, *beside}


def test_nothing_imports_an_entry_script() -> None:
    wrong = [
        f"{path}:{line} imports {name}"
        for path in PATHS
        for line, name in imported(path)
        if name in ENTRIES and path.name != "__main__.py"
    ]
    assert not wrong, "\n".join(wrong)


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    wrong = []
    for path in PATHS:
        if within(path, MODEL_SIDE):
            continue
        banned = HEAVY if within(path, LOCUST_SIDE) else HEAVY | {"locust"}
        wrong += [f"{path} {name}" for name in absolute(tree(path).body) if name.split(".")[0] in banned]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("package", "banned"), [("planwright", HEAVY), ("clients", NOT_IN_SDK), ("builders", HEAVY), ("serving", HEAVY)]
)
def test_a_package_is_light_to_import(package: str, banned: set[str]) -> None:
    paths = [path for path in PATHS if path.parts[0] == package and not within(path, MODEL_SIDE)]
    modules = [module_name(path) for path in paths if path.name != "__main__.py"]
    assert modules
    code = "import importlib, json, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code, *modules], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & banned
