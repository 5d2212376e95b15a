"""The project's imports as a graph: modules, sub-packages, circles.

In      Python files, as paths relative to the root.
Out     `imported`, every import of one file by absolute name; `module_graph`, module -> the project's modules it imports;
        `child_graph`, the same between the children of one package; `circles`, the circles of a graph.

Imports inside functions and under TYPE_CHECKING count: a reader follows them all the same.
"""

from __future__ import annotations

import ast
import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tests.ux._checkout import ROOT

Graph = dict[str, set[str]]


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute name) of every import; ``from a import b`` yields ``a`` and ``a.b``, which may be a module."""
    for line, module, members in _statements(path):
        yield from ((line, name) for name in [module, *members])


def module_graph(paths: Iterable[Path]) -> Graph:
    """Return module -> those of `paths` that it imports; ``from a import b`` means ``a.b`` where that is a module, else ``a``."""
    modules = {module_name(path): path for path in paths}
    return {
        name: {
            target
            for _, module, members in _statements(path)
            for target in ({member if member in modules else module for member in members} or {module})
            if target in modules and target != name
        }
        for name, path in modules.items()
    }


@functools.cache
def _statements(path: Path) -> tuple[tuple[int, str, list[str]], ...]:
    """Return (line, module, members) of every import statement; relative ones are resolved."""
    return tuple(_read_statements(path))


def _read_statements(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = path.parts[: len(path.parts) - node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield node.lineno, module, [f"{module}.{alias.name}" for alias in node.names]


def child_graph(modules: Graph, package: str) -> Graph:
    """Return the imports between the children (modules and sub-packages) of `package`; "" is the root of the tree."""
    children: Graph = defaultdict(set)
    for module, targets in modules.items():
        if child := _child(module, package):
            children[child] |= {_child(target, package) for target in targets} - {child, ""}
    return dict(children)


def _child(module: str, package: str) -> str:
    if package and not module.startswith(f"{package}."):
        return ""
    return module.removeprefix(f"{package}.").split(".")[0]


def packages(modules: Iterable[str]) -> set[str]:
    """Return every package that holds one of the modules; the root is ""."""
    return {".".join(parts[:depth]) for parts in (name.split(".") for name in modules) for depth in range(len(parts))}


def circles(graph: Graph) -> list[list[str]]:
    """Return chains of imports that end where they begin; each is cut at its last import before the next is looked for."""
    rest = {name: set(targets) for name, targets in graph.items()}
    found: list[list[str]] = []
    while True:
        try:
            TopologicalSorter(rest).prepare()
        except CycleError as error:
            chain = error.args[1][::-1]  # graphlib names the imported one first
            found.append(chain)
            rest[chain[-2]].remove(chain[-1])
        else:
            return found
