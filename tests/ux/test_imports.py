"""Who may import whom, and how heavy an import may be."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ux._checkout import ROOMS, ROOT, room_files

MAY_IMPORT = {
    "planwright": {"planwright"},
    "builders": {"planwright", "builders"},
    "serving": {"planwright", "serving"},
    "clients": {"planwright"},  # itself only by relative imports: it is also installed as planwright.clients
    "measure": {"planwright", "clients", "measure"},
    "loadtest": {"planwright", "clients", "measure", "loadtest"},
    "benchmarks": {
        "planwright",
        "builders",
        "clients",
        "measure",
        "loadtest",
        "deploy",
        "benchmarks",
    },  # they measure the other rooms
    "deploy": {"planwright"},
}
ENTRIES = {"builders.build_all", "loadtest.scenarios", *(f"{room}.__main__" for room in ROOMS)}
HEAVY = {"torch", "tensorrt", "onnxruntime", "onnx", "sklearn", "scipy", "transformers", "matplotlib"}
# what the SDK must not need either: an application has numpy and tritonclient
NOT_IN_SDK = HEAVY | {"yaml", "pydantic", "rich", "locust", "jinja2", "PIL"}
# what runs inside the server's stub, where the runtime is the point; planwright/trt is copied there, and imported here
# only by functions that have a plan at hand (the test of each room sees to that)
MODEL_SIDE = (Path("serving/backends"), Path("planwright/trt"))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute module name) of every import, also those inside functions."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _model_side(path: Path) -> bool:
    return any(folder in path.parents for folder in MODEL_SIDE)


def test_rooms_import_only_whom_they_may() -> None:
    rooms = set(ROOMS) | {"tests"}
    wrong = [
        f"{path}:{line} imports {name}"
        for path in room_files()
        for line, name in imported(path)
        if name.split(".")[0] in rooms and name.split(".")[0] not in MAY_IMPORT[path.parts[0]]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_setup_needs_nothing_but_python() -> None:
    names = {name for path in room_files() if path.parts[:2] == ("deploy", "setup") for _, name in imported(path)}
    assert names
    assert {name.split(".")[0] for name in names} <= {
        *sys.stdlib_module_names,
        "machine",
        "prepare",
    }  # these lie beside it


def test_nothing_imports_an_entry_script() -> None:
    wrong = [
        f"{path}:{line} imports {name}"
        for path in room_files()
        for line, name in imported(path)
        if name in ENTRIES and path.name != "__main__.py"
    ]
    assert not wrong, "\n".join(wrong)


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    wrong = []
    for path in room_files():
        if _model_side(path):
            continue
        for node in ast.parse((ROOT / path).read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            wrong += [f"{path}:{node.lineno} {name}" for name in names if name.split(".")[0] in HEAVY]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("room", "banned"), [("planwright", HEAVY), ("clients", NOT_IN_SDK), ("builders", HEAVY), ("serving", HEAVY)]
)
def test_a_room_is_light_to_import(room: str, banned: set[str]) -> None:
    paths = [path for path in room_files() if path.parts[0] == room and not _model_side(path)]
    modules = [
        ".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths if path.name != "__main__.py"
    ]
    assert modules
    code = "import importlib, json, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code, *modules], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & banned
