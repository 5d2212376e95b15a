"""Asking whether a child process has ended, in a program whose signal handlers raise.

In      a ``subprocess.Popen``.
Out     True once it has ended.

An exception that a handler raises inside ``Popen.poll`` (KeyboardInterrupt is one) leaves its lock taken (CPython 3.11), and a
later ``wait`` never returns. So signals are held back while asking; they arrive right after.
"""

from __future__ import annotations

import signal
import subprocess
from typing import Any

_HELD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def ended(process: subprocess.Popen[Any]) -> bool:
    """Say whether `process` has ended."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    try:
        return process.poll() is not None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
