"""``make demo``: from config.yaml to a load-test report, on free ports, leaving nothing running.

In      a set-up checkout.
Out     a built repository, a validated server, runs/<id>/report.html; exit code 0 when every step passed.

Ports are chosen free, so that a taken 8000 does not matter.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
LOAD = ["--headless", "--users", "4", "--spawn-rate", "4", "--run-time", "10s", "--only-summary"]
START_TIMEOUT_S = 180.0


def main() -> int:
    """Run every step; the first that fails ends the demo with its exit code."""
    step("build", [PYTHON, "builders/build_all.py"])
    with server():
        step("validate", [PYTHON, "-m", "clients", "validate"])
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


@contextmanager
def server() -> Iterator[None]:
    """Serve the repository on free ports while the block runs."""
    ports = [flag for name, port in zip(("http", "grpc", "metrics"), free_ports(3), strict=True) for flag in (f"--{name}-port", str(port))]
    command = [PYTHON, "-m", "serving", "--allow-client-shm", "--json", *ports]
    say(f"\n── serve: python {' '.join(command[1:])}")
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        wait_ready(process)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()


def wait_ready(process: subprocess.Popen[str]) -> None:
    """Read the one JSON document that says the server is ready; a server that ends first says why itself."""
    text, deadline = "", time.monotonic() + START_TIMEOUT_S
    assert process.stdout is not None
    while time.monotonic() < deadline:
        line = process.stdout.readline()
        if not line:
            raise SystemExit(process.wait() or 1)
        text += line
        with suppress(json.JSONDecodeError):
            json.loads(text)
            return
    raise SystemExit("the server was not ready in time")


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(item.getsockname()[1]) for item in sockets]
    for item in sockets:
        item.close()
    return ports


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
