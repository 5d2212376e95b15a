"""Which models are ready, and why the server or a model is not.

In      the log of a server that starts, its repository index, the models that were kept from it.
Out     one `ModelRow` per model and version; an error where the server does not start, or no model is ready.

Server 2.51 waits indefinitely for a model process that died while starting, so the log is searched for the loader's own
lines. The index has the reason for a model that failed to load, only the log for one whose config.pbtxt was rejected.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from planwright import integrity
from planwright.errors import Fault, PlanwrightError, SpecError, StageError
from planwright.triton_admin import load_error
from serving import repository
from serving.options import ServeOptions
from serving.repository import Refused

READY = "READY"
_SETUP = "make setup, which rebuilds the server's environment"
_FATAL = [
    (re.compile(pattern), why, fix)
    for pattern, why, fix in (
        (r"error while loading shared libraries: ([^\s:]+)", "a library is missing: {}", _SETUP),
        (r"what\(\):\s+(sto[a-z]+)\b", "its command line was split ({})", "name the models with letters, digits, . _ -"),
        (r"(triton_python_backend_stub): Permission denied", "{} is not allowed to run", "set TMPDIR to a folder not mounted noexec"),
        (r"(Failed to preinitialize Python|No module named 'encodings')", "its Python does not start: {}", _SETUP),
        (r"(Unable to initialize shared memory key|Bus error)", "{}: /dev/shm is too small",
         "free some, or in a container give --shm-size=1g"),
    )
]  # fmt: skip
_RELEVANT = re.compile(r"E\d{4} |error:|Error:|error while|Traceback|what\(\)|terminate called")
_NOISE = re.compile(r"CudaDriverHelper|NVML|DCGM")  # on every start of a machine without GPU
_SHOWN_LINES = 6


class StartupLog:
    """The log of a server that starts, read as it grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._text, self._offset = path, "", 0

    def read(self) -> None:
        """Read what was written since the last call."""
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            new = stream.read()
        self._offset += len(new)
        self._text += new.decode(errors="replace")

    def fatal(self) -> PlanwrightError | None:
        """Return the error after which the server would wait indefinitely, if the log has one."""
        for pattern, why, fix in _FATAL:
            found = pattern.search(self._text)
            if found:
                return self._error(f"a model's process cannot start: {why.format(found[1])}", self._relevant(), fix)
        return None

    def ended(self, code: int) -> PlanwrightError:
        self.read()
        unknown = re.search(r"unrecognized option '?(--[\w-]+)", self._text)
        if unknown:
            fix = "see python -m serving --help and tritonserver --help"
            return SpecError(Fault(f"tritonserver does not know {unknown[1]}", fix=fix))
        what = f"tritonserver ended while starting (exit code {code})"
        return self._error(what, self._relevant(), "fix what the log reports, then start again")

    def timed_out(self, limit_s: float) -> PlanwrightError:
        what = f"the models were not loaded within {limit_s:g} s"
        return self._error(what, self._last_lines(), "raise --start-timeout-s, or read the log")

    def _error(self, what: str, why: str, fix: str) -> PlanwrightError:
        return StageError("serve", Fault(what, str(self._path), why, fix))

    def _relevant(self) -> str:
        """Return the last lines that report an error; the last lines of all where none does."""
        lines = [line for line in self._lines() if _RELEVANT.search(line) and not _NOISE.search(line)]
        return "\n".join(lines[-_SHOWN_LINES:]) or self._last_lines()

    def _last_lines(self) -> str:
        return "\n".join(self._lines()[-_SHOWN_LINES:])

    def _lines(self) -> list[str]:
        return [line.strip() for line in self._text.splitlines() if line.strip()]


class ModelRow(NamedTuple):
    name: str
    version: str
    status: str


def rows(options: ServeOptions, index: list[dict[str, Any]], refused: Refused) -> list[ModelRow]:
    """Return a row for each model and version in the index, and for each that should have been loaded."""
    wanted = {model.name for model in repository.chosen(options)}
    known = [row for row in index if row["name"] not in refused and (row.get("state") or row["name"] in wanted)]
    found = [ModelRow(row["name"], str(row.get("version", "")), _status(options, row)) for row in known]
    found += [ModelRow(name, "", f"REFUSED: {'; '.join(map(str, files))}") for name, files in refused.items()]
    return sorted(found)


def _status(options: ServeOptions, model: dict[str, Any]) -> str:
    state = str(model.get("state") or "UNAVAILABLE")
    if state == READY:
        return READY
    reason = load_error(str(model.get("reason", "")), str(options.log), model["name"])
    return f"{state}: {reason}" if reason else state


def require_one_ready(options: ServeOptions, table: list[ModelRow], refused: Refused) -> None:
    """Do not keep running where there are models and none is ready.

    Raises:
        StageError: With the reason of each model (exit 1).
    """
    if not table or any(row.status == READY for row in table):
        return
    fix = "correct the model, or build it again: python builders/build_all.py"
    failed = [
        Fault(f"model '{row.name}' could not be loaded", str(options.repository / row.name), row.status, fix)
        for row in table
        if row.name not in refused
    ]
    raise StageError("serve", *failed, *refusal_faults(refused))


def refusal_faults(refused: Refused) -> list[Fault]:
    """Return one fault for each file that keeps a model from being served."""
    found = [integrity.fault(name, each) for name, files in refused.items() for each in files]
    return [Fault(f.what, f.where, f.why, f"{f.fix}; to serve it anyway: --trust-repository", f.check) for f in found]
