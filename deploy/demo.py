"""``make demo``: from config.yaml to a load-test report, on free ports, with nothing left running.

In      a set-up checkout.
Out     a built repository, a validated server, runs/<id>/report.html; exit code 0 when every step passed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from planwright import console
from planwright.errors import EXIT_INTERRUPTED, PlanwrightError
from planwright.files import ROOT
from planwright.own_server import own_server

PYTHON = sys.executable
LOAD = ["--headless", "--users", "4", "--spawn-rate", "4", "--run-time", "10s", "--only-summary"]


def main() -> int:
    step("build", [PYTHON, "builders/build_all.py"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that `finally` stops the server
    say("\n── serve: python -m serving --allow-client-shm")
    with own_server("--allow-client-shm"):
        step("validate", [PYTHON, "-m", "clients", "validate"])
        os.environ["PLANWRIGHT_PAGE"] = "on"  # the demo ends with it
        step("load", [PYTHON, "-m", "locust", "-f", "loadtest/", *LOAD])
    newest = max((ROOT / "runs").glob("*/report.html"), key=lambda path: path.stat().st_mtime)
    say(f"\ndone: open {newest.relative_to(ROOT)}")
    return 0


def step(title: str, command: list[str]) -> None:
    say(f"\n── {title}: {' '.join([Path(command[0]).name, *command[1:]])}")
    code = subprocess.run(command, cwd=ROOT).returncode
    if code:
        say(f"the demo stopped: {title} failed with exit code {code}")
        raise SystemExit(code)


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except PlanwrightError as error:
        raise SystemExit(console.fail(error)) from None
    except KeyboardInterrupt:
        say("stopped by Ctrl-C")
        raise SystemExit(EXIT_INTERRUPTED) from None
