"""Polling a child process in a program whose signal handlers raise.

In      a ``subprocess.Popen``.
Out     True once it has ended.

An exception that a handler raises inside ``Popen.poll`` (such as KeyboardInterrupt) leaves its lock held (CPython 3.11), and a
later ``wait`` never returns. So signals are blocked during the poll; they are delivered right after.
"""

from __future__ import annotations

import signal
import subprocess
from typing import Any

_BLOCKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def ended(process: subprocess.Popen[Any]) -> bool:
    """Return whether `process` has ended."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    try:
        return process.poll() is not None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
