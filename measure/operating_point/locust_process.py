"""Run locust for one measurement, and read its report.

In      what to load, over which transport, settings by their names in docs/loadtest.md.
Out     a command and an environment; after the run, its report.

Each load is a process of its own, the same as ``locust -f loadtest/``. PLANWRIGHT_ variables of the caller do not reach it: a setting
that is not given here has its default.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from planwright.errors import Fault, StageError
from planwright.files import ROOT, read_json

FILE = "loadtest/"
TRY = "run it by hand: locust -f loadtest/ --headless -t 5s"


def command(users: int, transport: str, *flags: str, file: str = FILE) -> list[str]:
    """Return the command of a headless load, to be run in `ROOT`.

    Args:
        users: Connections, all opened at the start.
        transport: A tag of the scenarios: ``http``, ``grpc``, ``shm`` or ``cuda``.
        flags: Further flags of locust, such as ``-t 5s``.
        file: Another file of scenarios.
    """
    return [sys.executable, "-m", "locust", "-f", file, "--headless", "--only-summary", "--loglevel", "ERROR", "-u", str(users),
            "-r", str(users), "--tags", transport, *flags]  # fmt: skip


def environment(model: str, runs: Path, repository: Path, server_file: Path, **settings: str) -> dict[str, str]:
    """Return the environment of a load on one model; `settings` are named as in docs/loadtest.md, in small letters.

    >>> environment("digits", Path("runs"), Path("model_repository"), Path("server.json"), rate="50")["PLANWRIGHT_RATE"]
    '50'
    """
    fixed = {
        "models": model,
        "runs": str(runs),
        "repository": str(repository.resolve()),
        "server_file": str(server_file),
        "page": "off",  # the page of a single measurement is not needed, and drawing it takes a second
    }
    others = {name: value for name, value in os.environ.items() if not name.startswith("PLANWRIGHT_")}
    return {**others, **{f"PLANWRIGHT_{name.upper()}": value for name, value in {**fixed, **settings}.items()}}


def run(words: Sequence[str], env: dict[str, str], runs: Path, timeout_s: float) -> dict[str, Any]:
    """Run a command of `command` to its end and return its report.

    Raises:
        StageError: It left none.
    """
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout_s)
    return report(runs, done.stdout + done.stderr)


def report(runs: Path, output: str) -> dict[str, Any]:
    """Return the report of the one run below `runs`.

    Raises:
        StageError: There is none; the message has the last lines of locust's `output`.
    """
    found = next(runs.glob("*/report.json"), None)
    if found is None:
        raise StageError(
            "load", Fault("the load test wrote no report", why="\n".join(output.splitlines()[-5:]), fix=TRY)
        )
    value: dict[str, Any] = read_json(found)
    return value
