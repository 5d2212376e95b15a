"""Removes what a server leaves behind, also when the launcher was killed and could not.

In      a prefix and a folder as arguments; the server's process id as the first line on standard input.
Out     no model process with that prefix, no shared-memory region with it, no such folder, and no empty
        `/tmp/python_env_*` of a server that is gone.

It waits for end of file on its input, which comes when the launcher closes it or dies. It runs as ``python -m serving.janitor``
in a session of its own, so that neither Ctrl-C nor the launcher's death reaches it.

The python backend makes `/tmp/python_env_XXXXXX` and removes it only on a graceful exit. Nothing in it names its server, so a
folder is removed when it is older than every running server.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from serving import processes
from serving.processes import STUB

_GRACE_S = 10.0
_STUBS_S = 2.0  # a stub looks for its server twice a second
_CLOCK_S = 2.0  # the kernel reports the boot time in whole seconds


def main(prefix: str, folder: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    pid = sys.stdin.readline().strip()
    sys.stdin.read()
    if pid:
        _wait_until(lambda: not processes.alive(int(pid)), _GRACE_S)  # the kernel kills it together with the launcher
    # a stub that waits for a lock held by the dead server never ends by itself
    _wait_until(lambda: not _stubs(prefix), _STUBS_S)
    processes.kill(_stubs(prefix))
    for region in Path("/dev/shm").glob(f"{prefix}*"):
        region.unlink(missing_ok=True)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    _remove_environments()


def _wait_until(done: Callable[[], bool], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not done() and time.monotonic() < deadline:
        time.sleep(0.05)


def _stubs(prefix: str) -> list[psutil.Process]:
    """Return the model processes whose shared-memory region has this prefix."""
    return [process for process in psutil.process_iter() if _is_stub(processes.arguments(process), prefix)]


def _is_stub(words: list[str], prefix: str) -> bool:
    return bool(words) and words[0].endswith(STUB) and any(word.startswith(prefix) for word in words)


def _remove_environments() -> None:
    found = [p.info for p in psutil.process_iter(["name", "create_time"])]
    servers = [info["create_time"] for info in found if info["name"] == "tritonserver"]
    oldest = min(servers, default=time.time() + _CLOCK_S)
    for environment in Path("/tmp").glob("python_env_??????"):
        with contextlib.suppress(OSError):  # another user's, not empty, or gone by now
            if environment.stat().st_mtime < oldest - _CLOCK_S and environment.stat().st_uid == os.getuid():
                environment.rmdir()


if __name__ == "__main__":
    main(*sys.argv[1:])
