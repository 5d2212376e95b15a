"""The house rules that no linter checks: small functions and files, docstrings, module names, no paths of one machine."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import tomllib

from tests import quick
from tests.ux._checkout import ROOT, files, package_files

MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 500
# where users of the code look, every public name has a docstring (pyproject.toml has the same list for ruff)
DOCUMENTED = ("clients", "planwright", "builders/sources", "measure/load/user.py")
# Paths of one machine, and hosts of package registries: a clone must work anywhere.
FOREIGN = re.compile(
    r"(?<![\w./~-])/(?:work|root|home/[a-z]\w*)/|(?:files\.)?python" + r"hosted\.org|pypi\.(?:org|" + r"python)"
)
BINARY = {".png", ".npz", ".onnx", ".jpg"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
# where a reader from outside looks: every public name says what it does (pyproject.toml has the same list for ruff)
DOCUMENTED = ("clients", "planwright", "builders/sources", "measure/load/user.py")


def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), str(path))


def functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, Function))


def test_functions_are_small() -> None:
    long = [
        f"{path}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in files("*.py")
        for node in functions(path)
        if node.end_lineno is not None and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert not long, "\n".join(long)


def test_files_are_small() -> None:
    counts = {path: len((ROOT / path).read_text().splitlines()) for path in files("*.py")}
    assert len(counts) > 50
    long = [f"{path} has {count} lines" for path, count in counts.items() if count > MAX_FILE_LINES]
    assert not long, "\n".join(long)


def test_modules_have_docstrings() -> None:
    bare = [str(path) for path in files("*.py") if (module := tree(path)).body and not ast.get_docstring(module)]
    assert not bare, f"no module docstring: {bare}"


def test_public_functions_and_classes_are_documented() -> None:
    # ruff skips modules whose own name begins with "_"
    bare = [
        f"{path}:{node.lineno} {node.name}"
        for path in package_files()
        if any(path.is_relative_to(place) for place in DOCUMENTED)
        for node in tree(path).body
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert not bare, "\n".join(bare)


def test_ruff_requires_docstrings_in_the_same_places() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]["per-file-ignores"]
    (pattern,) = (pattern for pattern in settings if pattern.startswith("!"))
    assert pattern == "!{" + ",".join(place if place.endswith(".py") else f"{place}/**" for place in DOCUMENTED) + "}"


def test_nothing_names_one_machine_or_a_registry() -> None:
    found = [
        f"{path}:{number}: {line.strip()[:120]}"
        for path in files()
        if path.suffix not in BINARY
        for number, line in enumerate((ROOT / path).read_text(errors="replace").splitlines(), 1)
        if FOREIGN.search(line)
    ]
    assert not found, "\n".join(found)


def test_the_machine_rule_finds_what_it_should() -> None:
    assert FOREIGN.search('open("/' + 'work/main/x")')
    assert FOREIGN.search("cd /" + "home/ann/planwright")
    assert not FOREIGN.search("network/work" + "/x and ~/root" + "/y and https://host.example/home" + "/page")


@pytest.mark.parametrize("package", ["builders", "loadtest"])
def test_no_module_hides_a_library(package: str) -> None:
    # `python builders/build_all.py` and locust put these folders first on the import path
    names = {path.parts[1].removesuffix(".py") for path in files(f"{package}/*.py")} - {"__init__", "__main__"}
    libraries = set(sys.stdlib_module_names) | set(packages_distributions())
    assert names
    assert not names & libraries


def test_the_quick_files_exist() -> None:
    missing = [place for place in (*quick.FILES, *quick.TREE_FILES) if not (ROOT / place).exists()]
    assert not missing
