"""``make demo``: from config.yaml to a load-test report, on free ports, leaving nothing running.

In      a set-up checkout.
Out     a built repository, a validated server, runs/<id>/report.html; exit code 0 when every step passed.

Ports are chosen free, so that a taken 8000 does not matter.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
LOAD = ["--headless", "--users", "4", "--spawn-rate", "4", "--run-time", "10s", "--only-summary"]
START_TIMEOUT_S, STOP_S = 240.0, 40.0


def main() -> int:
    """Run every step; the first that fails ends the demo with its exit code."""
    step("build", [PYTHON, "builders/build_all.py"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that `finally` stops the server
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
    ports = [
        flag
        for name, port in zip(("http", "grpc", "metrics"), free_ports(3), strict=True)
        for flag in (f"--{name}-port", str(port))
    ]
    command = [PYTHON, "-m", "serving", "--allow-client-shm", "--json", *ports]
    say(f"\n── serve: python {' '.join(command[1:])}")
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        wait_ready(process)
        yield
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        process.kill()
        process.wait()


def wait_ready(process: subprocess.Popen[str]) -> None:
    """Read the line that says the server is ready; a server that cannot start has said why itself."""
    assert process.stdout is not None
    late = threading.Timer(
        START_TIMEOUT_S, process.kill
    )  # above the launcher's own time-out: for a launcher that hangs
    late.start()
    line = process.stdout.readline()
    late.cancel()
    if "http_url" not in line:
        say("the demo stops: the server did not start")
        raise SystemExit(process.wait(STOP_S) or 1)


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
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        say("stopped by Ctrl-C")
        raise SystemExit(130) from None
