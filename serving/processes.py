"""Questions about other processes: who listens on a port, which children does a process have.

In      port numbers, process ids.
Out     names and command lines; empty where the kernel does not tell this user.
"""

from __future__ import annotations

import time
from pathlib import Path

import psutil

_END_S = 5.0


def listener(port: int) -> str:
    """Return ``name (pid)`` of the process that listens on a TCP port."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return ""
    pids = [c.pid for c in connections if c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port]
    try:
        return f"{psutil.Process(pids[0]).name()} (pid {pids[0]})" if pids and pids[0] else ""
    except psutil.NoSuchProcess:
        return ""


def alive(pid: int) -> bool:
    """Say whether a process lives; one that ended and that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children(pid: int) -> dict[int, list[str]]:
    """Return the living children of a process: process id to command line; a dead one that nobody waited for is left out."""
    found = {}
    try:
        for child in psutil.Process(pid).children():
            words = _command(child)
            if words:
                found[int(child.pid)] = words
    except psutil.NoSuchProcess:
        return {}
    return found


def end(pid: int, words: list[str]) -> None:
    """Kill a process if it is still the one with this command line, and wait until it has ended."""
    deadline = time.monotonic() + _END_S
    try:
        process = psutil.Process(pid)
        if _command(process) == words:
            process.kill()
    except psutil.Error:
        return
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)


def _command(process: psutil.Process) -> list[str]:
    try:
        return [] if process.status() == psutil.STATUS_ZOMBIE else [str(word) for word in process.cmdline()]
    except psutil.Error:
        return []
