"""The user's files that a model depends on: the modules that its zoo file imports, and whatever its code opened while it ran.

In      a zoo file; blocks of code to watch.
Out     the Python files that it imports, directly or indirectly, found without running them; the files that were read and not
        written. Planwright's own are omitted, except those in builders/zoo: the revision of each stage covers them.

Python reports every file that it opens, those of imports included, to audit hooks
(https://docs.python.org/3/library/audit_events.html); but not those that a native library opens, which `files()` of a zoo
file names. A hook cannot be removed: there is one, which does nothing outside of a watched block.
"""

from __future__ import annotations

import ast
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import source_from_cache
from pathlib import Path
from typing import Any

from builders.sources.user_code import of_others
from planwright.files import ROOT, HashCache

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/sys", "/dev", "/run", "/var")


@dataclass
class _Seen:
    read: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)


_seen: dict[tuple[Path, str], _Seen] = {}
_watched: list[_Seen] = []
_hooks: list[Any] = []


def imported(start: Path, roots: Sequence[Path], is_users: Callable[[Path], bool]) -> list[Path]:
    """Return the files that `start` imports and `is_users` accepts; `roots` are folders on Python's path with user modules."""
    found: dict[Path, None] = {}
    ahead = [start]
    while ahead:
        file = ahead.pop()
        for name in _names_imported(file, roots):
            for path in _resolved(name, roots):
                if path not in found and path != start and is_users(path):
                    found[path] = None
                    ahead.append(path)
    return sorted(found)


def _names_imported(file: Path, roots: Sequence[Path]) -> Iterator[tuple[str, ...]]:
    """Yield the dotted names that a file imports, as parts; for ``from a import b`` also ``a.b``, which may be a module."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError, ValueError):  # the import itself reports it
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
    """Yield what ``importlib.import_module("a.b")`` and ``__import__("a.b")`` import, if the name is a literal."""
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        name = node.args[0].value
        function = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if function in ("import_module", "__import__") and isinstance(name, str) and not name.startswith("."):
            yield tuple(name.split("."))


def _modules(package: tuple[str, ...], roots: Sequence[Path]) -> Iterator[tuple[str, ...]]:
    """Yield the modules of a package, as its ``__all__`` may name any of them."""
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


@contextlib.contextmanager
def watched(code: Path, model: str = "") -> Iterator[None]:
    """Record what zoo file `code` opens in this block for `model`; empty during the import, which all models of that file share."""
    if not _hooks:
        _hooks.append(_opened)
        sys.addaudithook(_opened)
    seen = _seen.setdefault((code, model), _Seen())
    _watched.append(seen)
    try:
        yield
    finally:
        _watched.pop()


def opened_for(code: Path, model: str, root: Path, *others: Path) -> dict[str, Path]:
    """Return the user's files read for a model, by their path from `root`; those below `others`, Planwright's own output, do not count."""
    seen = [_seen.get((code, name), _Seen()) for name in ("", model)]
    written = {path for each in seen for path in each.written}
    paths = sorted({_source(path) for each in seen for path in each.read - written})
    near = [root.resolve(), code.parent.resolve(), ROOT]
    return {label(path, root): path for path in paths if _counts(path, near, [each.resolve() for each in others])}


def hashes(labels: Iterable[str], root: Path, cache: HashCache) -> dict[str, str]:
    """Return the hash of each file that exists; `labels` are paths from `root`."""
    return {label: cache.of(root / label) for label in labels if (root / label).is_file()}


def _opened(event: str, args: tuple[Any, ...]) -> None:
    if event != "open" or not _watched:
        return
    path, mode, flags = args
    if isinstance(path, str | bytes | os.PathLike):
        writes = any(letter in "wax+" for letter in mode) if isinstance(mode, str) else bool((flags or 0) & _WRITES)
        place = os.path.abspath(os.fsdecode(path))
        (_watched[-1].written if writes else _watched[-1].read).add(place)


def _source(path: str) -> Path:
    """Return the Python file of a compiled one."""
    with contextlib.suppress(ValueError, NotImplementedError):
        return Path(source_from_cache(path)) if path.endswith(".pyc") else Path(path)
    return Path(path)


def _counts(path: Path, near: list[Path], others: list[Path]) -> bool:
    above = {*path.parents}
    if not path.is_file() or above & {*others, Path(sys.prefix)} or of_others(path):
        return False
    home = next((folder for folder in near if folder in above), None)
    if home is not None:
        return not any(part.startswith(".") for part in path.relative_to(home).parts)
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and not above & {Path(tempfile.gettempdir()), *map(Path, _SYSTEM)}


def label(path: Path, root: Path) -> str:
    """Return a file's path from `root`; its full path if it is elsewhere."""
    return str(path.relative_to(root)) if root in path.parents else str(path)
