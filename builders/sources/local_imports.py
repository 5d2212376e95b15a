"""The user's own modules that a zoo file needs: they decide what it builds as much as the file itself.

In      a zoo file.
Out     the Python files of the checkout, or beside it, that it imports, directly or through others, read without running them.

Ours are left out, except those in builders/zoo: what they do is covered by the revision of each stage.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path


def files(start: Path, roots: Sequence[Path], is_users: Callable[[Path], bool]) -> list[Path]:
    """Return the files that `start` imports.

    Args:
        start: The zoo file.
        roots: Folders on Python's path that hold the user's modules: the checkout, the folder of a file of the user's own.
        is_users: Says which files count.
    """
    found: dict[Path, None] = {}
    ahead = [start]
    while ahead:
        file = ahead.pop()
        for name in _imported(file, roots):
            for path in _resolved(name, roots):
                if path not in found and path != start and is_users(path):
                    found[path] = None
                    ahead.append(path)
    return sorted(found)


def _imported(file: Path, roots: Sequence[Path]) -> Iterator[tuple[str, ...]]:
    """Yield the dotted names that a file imports, as parts; for ``from a import b`` also ``a.b``, which may be a module."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError, ValueError):  # the import itself will tell
        return
    root = next((root for root in roots if root in file.parents), file.parent)
    package = file.parent.relative_to(root).parts
    for node in ast.walk(tree):
        yield from _called(node)
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = (*above, *(node.module.split(".") if node.module else ()))
            yield base
            for alias in node.names:
                yield from _modules(base, roots) if alias.name == "*" else [(*base, alias.name)]


def _called(node: ast.AST) -> Iterator[tuple[str, ...]]:
    """Yield what ``importlib.import_module("a.b")`` and ``__import__("a.b")`` import, where the name is written out."""
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        name = node.args[0].value
        function = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if function in ("import_module", "__import__") and isinstance(name, str) and not name.startswith("."):
            yield tuple(name.split("."))


def _modules(package: tuple[str, ...], roots: Sequence[Path]) -> Iterator[tuple[str, ...]]:
    """Yield the modules of a package, any of which its ``__all__`` may name."""
    for root in roots:
        for file in sorted(root.joinpath(*package).glob("*.py")):
            yield (*package, file.stem)


def _resolved(name: tuple[str, ...], roots: Sequence[Path]) -> Iterator[Path]:
    """Yield the files that importing a dotted name runs: each package's ``__init__`` and the module."""
    places = (root.joinpath(*name[:length]) for root in roots for length in range(1, len(name) + 1))
    for place in places:
        for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if path.is_file():
                yield path
