"""The errors that Planwright reports to users.

In      nothing.
Out     `Fault`, one mistake with its place, reason and fix, and the exceptions:

    PlanwrightError            exit code 1
    ├── StageError             1    a stage, gate or SLO failed; names the stage
    ├── SpecError              2    config.yaml or the command line is wrong
    ├── MachineError           3    this machine is not ready
    └── clients.ClientError    1    see clients/errors.py

Only mistakes that a user can fix are raised as these; a bug in Planwright keeps its stack trace.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_MACHINE, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


@dataclass(frozen=True)
class Fault:
    """One mistake: what, where, why, how to fix it, and the command that checks the fix.

    Example:
        >>> print(Fault("no such model", where="config.yaml:4", fix="spell it digits").render())
        error: no such model
          where  config.yaml:4
          fix    spell it digits
    """

    what: str
    where: str = ""
    why: str = ""
    fix: str = ""
    check: str = ""

    def render(self) -> str:
        """Return the fault as indented lines, empty parts left out."""
        lines = [f"error: {self.what}"]
        for label in ("where", "why", "fix", "check"):
            text = getattr(self, label)
            if text:
                indented = text.replace("\n", "\n         ")
                lines.append(f"  {label:<6} {indented}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, str]:
        """Return the parts that are not empty, for ``--json``."""
        return {key: value for key, value in asdict(self).items() if value}


class PlanwrightError(Exception):
    """Base of all errors that are reported without a stack trace."""

    exit_code = EXIT_FAILED

    def __init__(self, *faults: Fault | str) -> None:
        self.faults: tuple[Fault, ...] = tuple(Fault(f) if isinstance(f, str) else f for f in faults)
        super().__init__("\n".join(fault.render() for fault in self.faults))

    def checked_by(self, command: str) -> PlanwrightError:
        """Return the same error, with `command` as the check of faults that have none."""
        self.faults = tuple(fault if fault.check else replace(fault, check=command) for fault in self.faults)
        return self


class StageError(PlanwrightError):
    """A stage failed: `stage` is one of torch, onnx, graph, engine, publish, http, grpc, shm, ..."""

    def __init__(self, stage: str, *faults: Fault | str) -> None:
        self.stage = stage
        super().__init__(*faults)


class SpecError(PlanwrightError):
    """config.yaml or the command line is wrong; carries every fault found, not the first."""

    exit_code = EXIT_USAGE


class MachineError(PlanwrightError):
    """This machine cannot run the command: a tool, a port, a device or disk space is missing."""

    exit_code = EXIT_MACHINE


def missing_package(name: str) -> MachineError:
    """Return the error for a third-party package that cannot be imported; `name` is its name in an import."""
    what = f"the Python module '{name.partition('.')[0]}' is not installed for {sys.executable}"
    check = f'{sys.executable} -c "import {name}"'
    return MachineError(Fault(what, fix="make setup, or install it there", check=check))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` for a near miss, else the available words.

    Example:
        >>> did_you_mean("precison", ["precision", "batch"])
        "did you mean 'precision'?"
        >>> did_you_mean("zzz", ["b", "a"])
        'available: a, b'
    """
    options: Sequence[str] = sorted(known)
    close = difflib.get_close_matches(word, options, n=1)
    return f"did you mean '{close[0]}'?" if close else "available: " + (", ".join(options) or "none")
