"""Errors of user code: the zoo file, and the modules that it imports from the checkout or from the folder of config.yaml.

In      a call into that code.
Out     a `StageError` with the user's own file and line, and the full stack trace in the model's error.log.

The line is that of the last frame in the user's files, also if an exporter raised its own error from it (``raise ... from``): the
frames of the libraries below help the author of twenty lines of PyTorch little.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builders import error_log
from planwright.errors import Fault, PlanwrightError, StageError
from planwright.files import ROOT

_OWN = ("builders", "planwright", "clients", "serving", "measure", "loadtest")  # Planwright's, except builders/zoo


@dataclass(frozen=True)
class Blame:
    """The place and command that errors of one model's code refer to.

    Attributes:
        source: ``zoo/NAME``.
        file: The zoo file.
        root: Folder of config.yaml; its modules are user code too.
        check: The command that loads the zoo file again.
        log: File for the stack trace; None discards it.
    """

    source: str
    file: Path
    root: Path
    check: str = ""
    log: Path | None = None

    @contextlib.contextmanager
    def during(self, what: str, stage: str = "export") -> Iterator[None]:
        """Turn whatever the block raises into a StageError that names `what` was running.

        Its output goes to standard error, because standard output may be a command's JSON.

        Raises:
            StageError: Anything but Planwright's own errors, a full disk and Ctrl-C.
        """
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        except PlanwrightError:
            raise
        except (Exception, SystemExit) as error:
            if self._disk_is_full(error):
                raise
            raise self.error(what, error, stage=stage) from error

    def fault(self, what: str, where: str, why: str = "", fix: str = "", *, stage: str = "export") -> StageError:
        """Return the StageError for a source that breaks its contract."""
        return StageError(stage, Fault(f"{self.source}: {what}", where, why, fix, self.check))

    def error(self, what: str, error: BaseException, *, stage: str, fix: str = "", where: str = "") -> StageError:
        """Return the StageError for `error`, whose stack trace is added to the log; `fix` and `where` override what is derived from it."""
        place = self.record(error)
        seen = f"; the full stack trace is in {self.log}" if self.log else ""
        first = f"{self.source}: {what} raised {type(error).__name__}"
        fix = fix or _fix(error) or "correct that line"
        return StageError(stage, Fault(first, where or place, error_log.reason(error), f"{fix}{seen}", self.check))

    def record(self, error: BaseException) -> str:
        """Add the stack trace to the log and return the `place` of the error."""
        if self.log:
            error_log.append(self.log, "".join(traceback.format_exception(error)))
        return self.place(error)

    def place(self, error: BaseException) -> str:
        """Return ``file:line`` of the last frame in the user's files; the zoo file if there is none."""
        if isinstance(error, SyntaxError) and error.filename and self.is_users(Path(error.filename)):
            return f"{shown(Path(error.filename))}:{error.lineno}"
        found = shown(self.file)
        for part in _chain(error):
            for frame in traceback.extract_tb(part.__traceback__):
                if self.is_users(Path(frame.filename)):
                    found = f"{shown(Path(frame.filename))}:{frame.lineno}"
        return found

    def is_users(self, path: Path) -> bool:
        """Return True if a Python file is user code: neither a library's nor Planwright's."""
        near = {ROOT, self.root.resolve(), self.file.parent}
        return path == self.file or (not of_others(path) and bool(near & {*path.parents}))

    def _disk_is_full(self, error: BaseException) -> bool:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        place = next((folder for folder in self.log.parents if folder.exists()), None) if self.log else None
        return place is not None and error_log.disk_full(place)


def of_others(path: Path) -> bool:
    """Return True if a file belongs to a library or to Planwright."""
    if "site-packages" in path.parts or Path(sys.base_prefix) in path.parents:
        return True
    inside = path.relative_to(ROOT).parts if ROOT in path.parents else ("",)
    return inside[0] in _OWN and inside[:2] != ("builders", "zoo")


def shown(path: Path) -> str:
    """Return a path as a user would type it: relative if it is below the current folder."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def place_of(kind: type, name: str) -> str:
    """Return ``file:line`` where a class or its nearest parent defines `name`; of the class itself if none does."""
    owner = next((part for part in kind.__mro__ if name in vars(part)), kind)
    file = Path(getattr(sys.modules[owner.__module__], "__file__", ""))
    ours = ROOT in file.parents and ROOT / "builders" / "zoo" not in file.parents
    if ours:  # defined in a base class of Planwright's: name the user's class
        owner, file = kind, Path(getattr(sys.modules[kind.__module__], "__file__", ""))
    return f"{shown(file)}:{_line_of(file, owner.__name__, name)}"


def _line_of(file: Path, owner: str, name: str) -> int:
    body = ast.parse(file.read_text(encoding="utf-8")).body
    classes = [node for node in body if isinstance(node, ast.ClassDef) and node.name == owner]
    for node in classes[-1].body if classes else ():
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if name in {getattr(node, "name", None), *(getattr(target, "id", None) for target in targets)}:
            return node.lineno
    return classes[-1].lineno if classes else 1


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, outermost first."""
    seen: set[int] = set()
    part: BaseException | None = error
    while part is not None and id(part) not in seen:
        seen.add(id(part))
        yield part
        part = part.__cause__ or (None if part.__suppress_context__ else part.__context__)


def _fix(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"install the package that provides '{package}' into .venv, or correct the import"
    if "custom C++ ops" in str(error):
        why = "torchvision's compiled operators do not load with this torch, and Planwright replaces only nms and roi_align"
        return f"{why}: install a torchvision built for it"
    return ""
