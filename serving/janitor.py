"""Removes what a server leaves behind, also when the launcher was killed and could not.

In      a prefix and a folder as arguments; the server's process id as the first line on standard input.
Out     no process of a model with that prefix, no shared memory region with it, no such folder, and no empty `/tmp/python_env_*` of a server that is gone.

It waits for the end of its input, which comes when the launcher closes it or dies. Run as a script of its own, in a
session of its own, so that neither Ctrl-C nor the launcher's death reaches it; standard library only, to start quickly.

The python backend makes `/tmp/python_env_XXXXXX` and removes it only at a graceful end. Nothing tells whose it is, so one is
removed when it is older than every server that lives.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

_GRACE_S = 10.0
_MODELS_S = 2.0  # a model's process looks for its server twice a second
_CLOCK_S = 2.0  # the kernel tells the time of its start in whole seconds


def main(prefix: str, folder: str) -> None:
    """Wait, then clean."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    pid = sys.stdin.readline().strip()
    sys.stdin.read()
    if pid:
        _wait_gone(int(pid))
    _end_models(prefix)
    for region in Path("/dev/shm").glob(f"{prefix}*"):
        region.unlink(missing_ok=True)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    _remove_environments()


def _end_models(prefix: str) -> None:
    """Wait for the processes of the python backend, and kill those that wait for a lock that the dead server held."""
    deadline = time.monotonic() + _MODELS_S
    while (left := _models(prefix)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _models(prefix: str) -> list[int]:
    """Return the processes that were started with a region of that prefix."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            program, *words = (process / "cmdline").read_bytes().split(b"\0")
            if program.endswith(b"triton_python_backend_stub") and any(w.startswith(prefix.encode()) for w in words):
                found.append(int(process.name))
    return found


def _remove_environments() -> None:
    oldest = min(_server_starts(), default=time.time() + _CLOCK_S)
    for environment in Path("/tmp").glob("python_env_??????"):
        with contextlib.suppress(OSError):  # not ours, not empty, or gone by now
            if environment.stat().st_mtime < oldest - _CLOCK_S and environment.stat().st_uid == os.getuid():
                environment.rmdir()


def _server_starts() -> list[float]:
    """Return when each living tritonserver was started, in seconds since 1970."""
    boot = next(
        float(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime")
    )
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "comm").read_text().strip() == "tritonserver":
                ticks = (process / "stat").read_text().rpartition(")")[2].split()[19]
                found.append(boot + int(ticks) / os.sysconf("SC_CLK_TCK"))
    return found


def _wait_gone(pid: int) -> None:
    """Wait for the server, which the kernel kills together with the launcher."""
    deadline = time.monotonic() + _GRACE_S
    with contextlib.suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.05)


if __name__ == "__main__":
    main(*sys.argv[1:])
