"""Each extra of pyproject.toml is enough for the code that it is meant for.

The imports of a package, at any depth, must come from the project's dependencies or the extra's, directly or through what
these require. Of the files that it imports from planwright, only what runs on import counts.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.ux._checkout import PACKAGES, ROOT, files, package_files
from tests.ux._imports import module_graph, module_name

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROVIDERS = packages_distributions()
MODULES = {module_name(path): path for path in package_files()}
GRAPH = module_graph(MODULES.values())
# extra -> the folders that need it; "" is an installation without extras
FOR = {
    "": ("clients",),
    "spec": ("planwright/config",),
    "cli": ("planwright/console.py",),
    "serve": ("serving",),
    "build": ("builders",),
    "load": ("measure", "loadtest"),
    "dev": ("tests",),
}
WITH = {"dev": ("build", "load", "serve")}  # the tests run everything
INSIDE_THE_SERVER = "serving/backends"
# modules that are imported by their bare name, because their folder is on the path
FLAT = {path.stem for path in files(f"{INSIDE_THE_SERVER}/*.py", "deploy/setup/*.py")}
# installed by `make setup-tensorrt`, which chooses the version that fits the driver
NOT_FROM_AN_EXTRA = {"tensorrt"}


def third_party(path: Path, *, lazy: bool) -> Iterator[str]:
    """Yield the top-level names of other projects' packages that a file imports; one that it can do without is left out."""
    known = {*sys.stdlib_module_names, *PACKAGES, *NOT_FROM_AN_EXTRA, *FLAT, "tests"}
    for node in _nodes(ast.parse((ROOT / path).read_text()), lazy=lazy):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        yield from (top for name in names if (top := name.split(".")[0]) not in known)


def _nodes(node: ast.AST, *, lazy: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        guarded = isinstance(child, ast.Try) and any("ImportError" in ast.dump(handler) for handler in child.handlers)
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
        deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not lazy
        if not (guarded or typing_only or deferred):
            yield child
            yield from _nodes(child, lazy=lazy)


def needed(folders: Iterable[str]) -> dict[str, Path]:
    """Return import name -> a file that needs it, for all files below the folders."""
    paths = [path for path in files("*.py") if any(path.is_relative_to(folder) for folder in folders)]
    own = [path for path in paths if not path.is_relative_to(INSIDE_THE_SERVER)]
    found = {name: path for path in own for name in third_party(path, lazy=True)}
    seen, pending = set[str](), [module_name(path) for path in own if module_name(path) in GRAPH]
    while pending:
        new = {target for target in GRAPH[pending.pop()] if target.startswith("planwright")} - seen
        pending += new
        seen |= new
    shared = (MODULES[module] for module in seen)
    return {name: path for path in shared for name in third_party(path, lazy=False)} | found


def installed_by(extra: str) -> set[str]:
    """Return the canonical names of every distribution that the extra brings."""
    optional = PROJECT["optional-dependencies"]
    lines = [
        *PROJECT["dependencies"],
        *optional.get(extra, []),
        *(line for name in WITH.get(extra, ()) for line in optional[name]),
    ]
    found: set[str] = set()
    for line in lines:
        requirement = Requirement(line)
        if canonicalize_name(requirement.name) == "planwright":
            found |= {name for part in requirement.extras for name in installed_by(part)}
        else:
            found |= _closure(canonicalize_name(requirement.name), frozenset(requirement.extras))
    return found


@functools.cache
def _closure(name: str, extras: frozenset[str]) -> frozenset[str]:
    found, pending = set[tuple[str, frozenset[str]]](), [(name, extras)]
    while pending:
        current = pending.pop()
        if current in found:
            continue
        found.add(current)
        try:
            requirements = [Requirement(line) for line in requires(current[0]) or []]
        except PackageNotFoundError:
            continue  # not on this machine; then none of its own requirements counts
        for requirement in requirements:
            wanted = requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in (current[1] or {""})
            )
            if wanted:
                pending.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return frozenset(item for item, _ in found)


@pytest.mark.parametrize("extra", FOR, ids=lambda extra: extra or "none")
def test_an_extra_is_enough(extra: str) -> None:
    brought = installed_by(extra)
    wanted = needed(FOR[extra])
    assert wanted
    missing = {
        name: str(path)
        for name, path in wanted.items()
        if not {canonicalize_name(each) for each in PROVIDERS.get(name, [name])} & brought
    }
    assert not missing, f"add to the extra '{extra}' in pyproject.toml: {missing}"


def test_every_extra_is_checked() -> None:
    assert set(FOR) - {""} == set(PROJECT["optional-dependencies"]) - {"autocast"}  # imported only by its full name


def test_what_an_extra_brings_is_pinned() -> None:
    lock = (ROOT / "constraints/py311.txt").read_text()
    pinned = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}
    named = {
        canonicalize_name(Requirement(line).name)
        for extra in FOR
        if extra
        for line in PROJECT["optional-dependencies"][extra]
    }
    assert named - {"planwright"} <= pinned
