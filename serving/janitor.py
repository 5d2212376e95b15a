"""Removes what a server leaves behind, also when the launcher was killed and could not.

In      a prefix and a folder as arguments; the server's process id as the first line on standard input.
Out     no shared memory region with that prefix, no such folder.

It waits for the end of its input, which comes when the launcher closes it or dies. Run as a script of its own, in a
session of its own, so that neither Ctrl-C nor the launcher's death reaches it; standard library only, to start quickly.
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


def main(prefix: str, folder: str) -> None:
    """Wait, then clean."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    pid = sys.stdin.readline().strip()
    sys.stdin.read()
    if pid:
        _wait_gone(int(pid))
    for region in Path("/dev/shm").glob(f"{prefix}*"):
        region.unlink(missing_ok=True)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_gone(pid: int) -> None:
    """Wait for the server, which the kernel kills together with the launcher."""
    deadline = time.monotonic() + _GRACE_S
    with contextlib.suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.05)


if __name__ == "__main__":
    main(*sys.argv[1:])
