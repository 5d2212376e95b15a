"""Why a server did not become ready, read from its log.

In      the log file of a starting server.
Out     errors that say what happened, what to do, and show the lines that matter.

Server 2.51 waits without end for a model process that died at its start, so the loader's own lines are looked for.
"""

from __future__ import annotations

import re
from pathlib import Path

from planwright.errors import Fault, PlanwrightError, SpecError, StageError

_SETUP = "make setup, which makes the server's environment anew"
_FATAL = (
    (re.compile(r"error while loading shared libraries: ([^\s:]+)"), "a library is missing: {}", _SETUP),
    (
        re.compile(r"what\(\):\s+(sto[a-z]+)\b"),
        "its command line was cut apart ({})",
        "give the models names of letters, digits, . _ -",
    ),
    (
        re.compile(r"(triton_python_backend_stub): Permission denied"),
        "{} may not run",
        "set TMPDIR to a folder that allows programs to run",
    ),
    (
        re.compile(r"(Failed to preinitialize Python|No module named 'encodings')"),
        "its Python does not start: {}",
        _SETUP,
    ),
    (
        re.compile(r"(Unable to initialize shared memory key|Bus error)"),
        "{}: /dev/shm is too small",
        "free some, or in a container give --shm-size=1g",
    ),
)
_TELLING = re.compile(r"E\d{4} |error:|Error:|error while|Traceback|what\(\)|terminate called")
_NOISE = re.compile(r"CudaDriverHelper|NVML|DCGM")  # a machine without GPU, on every start
_SHOWN_LINES = 6


class Log:
    """The server's log, read on as it grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._text, self._offset = path, "", 0

    def read(self) -> None:
        """Take in what was written since the last time."""
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            new = stream.read()
        self._offset += len(new)
        self._text += new.decode(errors="replace")

    def fatal(self) -> Fault | None:
        """Return the fault after which the server would wait without end, if the log shows one."""
        for pattern, why, fix in _FATAL:
            found = pattern.search(self._text)
            if found:
                return Fault(
                    f"a model's process cannot start: {why.format(found[1])}", str(self._path), self.lines(), fix
                )
        return None

    def lines(self) -> str:
        """Return the last lines that tell something; the last lines of all where none does."""
        telling = [line for line in self._lines() if _TELLING.search(line) and not _NOISE.search(line)]
        return "\n".join(telling[-_SHOWN_LINES:]) or self.last_lines()

    def last_lines(self) -> str:
        """Return what the server wrote last."""
        return "\n".join(self._lines()[-_SHOWN_LINES:])

    def _lines(self) -> list[str]:
        return [line.strip() for line in self._text.splitlines() if line.strip()]

    def failure(self, fault: Fault) -> PlanwrightError:
        """Return the error for a fault found in the log."""
        return StageError("serve", fault)

    def ended(self, code: int) -> PlanwrightError:
        """Return the error for a server that ended while starting."""
        self.read()
        unknown = re.search(r"unrecognized option '?(--[\w-]+)", self._text)
        if unknown:
            return SpecError(
                Fault(
                    f"tritonserver does not know {unknown[1]}",
                    fix="see python -m serving --help and tritonserver --help",
                )
            )
        return StageError(
            "serve",
            Fault(
                f"tritonserver ended while starting (exit code {code})",
                str(self._path),
                self.lines(),
                "mend what the log says",
            ),
        )

    def late(self, limit_s: float) -> PlanwrightError:
        """Return the error for a server that was not ready in time."""
        return StageError(
            "serve",
            Fault(
                f"the models were not loaded within {limit_s:g} s",
                str(self._path),
                self.last_lines(),
                "give --start-timeout-s more, or look into the log",
            ),
        )
