"""``make demo``: from config.yaml to a load-test report, on free ports, leaving nothing running.

In      a set-up checkout.
Out     a built repository, a validated server, runs/<id>/report.html; exit code 0 when every step passed.

Ports are chosen free, so that a taken 8000 does not matter.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from planwright import console  # noqa: E402
from planwright.errors import PlanwrightError  # noqa: E402
from planwright.own_server import own_server  # noqa: E402

PYTHON = sys.executable
LOAD = ["--headless", "--users", "4", "--spawn-rate", "4", "--run-time", "10s", "--only-summary"]


def main() -> int:
    """Run every step; the first that fails ends the demo with its exit code."""
    step("build", [PYTHON, "builders/build_all.py"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that `finally` stops the server
    say("\n── serve: python -m serving --allow-client-shm")
    with own_server("--allow-client-shm"):
        step("validate", [PYTHON, "-m", "clients", "validate"])
        os.environ["PLANWRIGHT_PAGE"] = "on"  # it is what the demo ends with
        step("load", [PYTHON, "-m", "locust", "-f", "loadtest/", *LOAD])
    newest = max((ROOT / "runs").glob("*/report.html"), key=lambda path: path.stat().st_mtime)
    say(f"\ndone: open {newest.relative_to(ROOT)}")
    return 0


def step(title: str, command: list[str]) -> None:
    """Run one command in sight of the user."""
    say(f"\n── {title}: {' '.join([Path(command[0]).name, *command[1:]])}")
    code = subprocess.run(command, cwd=ROOT).returncode
    if code:
        say(f"the demo stops: {title} ended with exit code {code}")
        raise SystemExit(code)


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except PlanwrightError as error:
        raise SystemExit(console.fail(error)) from None
    except KeyboardInterrupt:
        say("stopped by Ctrl-C")
        raise SystemExit(130) from None
