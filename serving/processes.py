"""Other processes on this machine: who listens on a port, the children of a process, and ending them.

In      port numbers, process ids.
Out     names, `psutil.Process` objects, which a reused process id does not match.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import psutil

STUB = "triton_python_backend_stub"  # the program that runs a Python-based model
_END_S = 5.0


def listener(port: int) -> str:
    """Return ``name (pid 1)`` of the process that listens on a TCP port; empty where this user may not know."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            here = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if here and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return _runs(psutil.Process(pid))
    return False


def children(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children()
    return []


def arguments(process: psutil.Process) -> list[str]:
    """Return the command line; empty for a process that has ended, a zombie, or one of another user."""
    with contextlib.suppress(psutil.Error):
        return [str(word) for word in process.cmdline()]
    return []


def kill(processes: Sequence[psutil.Process]) -> None:
    """Kill processes and wait until they have ended; psutil never signals a process that reused the id."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    deadline = time.monotonic() + _END_S
    while any(map(_runs, processes)) and time.monotonic() < deadline:
        time.sleep(0.01)


def _runs(process: psutil.Process) -> bool:
    """Return whether it runs; a zombie does not, and where nothing reaps orphans it stays one."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    return False
