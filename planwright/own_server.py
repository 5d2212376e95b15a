"""A temporary server for trial loads, the demo, sweeps and benchmarks: on free ports, stopped when the block ends.

In      flags of ``python -m serving``.
Out     the `ServerInfo` of a ready server.

A server file counts only when it names our process: another server may have left one in the same place. The launcher stops
at end of file on standard input, which comes when this process ends, however it ends: so no server is left behind. Where
another process took a port meanwhile, the server is started again on other ports.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from planwright.errors import Fault, MachineError
from planwright.files import ROOT
from planwright.server_info import SERVER_FILE, ServerInfo

# above the launcher's own time-outs: for a launcher that hangs
START_S, STOP_S = 240.0, 40.0
ATTEMPTS = 3
_BLOCKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TAKEN = re.compile(r"port \d+ is taken|already in use")


@contextmanager
def own_server(
    *flags: str, file: Path = SERVER_FILE, prefix: Sequence[str] = (), log: Path | None = None
) -> Iterator[ServerInfo]:
    """Run ``python -m serving`` on free ports while the block runs.

    Args:
        flags: Further flags of ``python -m serving``.
        file: Where the server writes its address.
        prefix: Command to start it with, such as ``taskset -c 0``.
        log: Where its output goes; by default to the terminal.

    Raises:
        MachineError: It did not become ready; the fault carries its output.
    """
    process, info = _started(flags, file, prefix, log)
    try:
        yield info
    finally:
        _stop(process)


def _started(
    flags: Sequence[str], file: Path, prefix: Sequence[str], log: Path | None
) -> tuple[subprocess.Popen[bytes], ServerInfo]:
    for attempt in range(ATTEMPTS):
        ports = zip(("http", "grpc", "metrics"), free_ports(), strict=True)
        command = [*prefix, sys.executable, "-m", "serving", "--until-stdin-ends", "--server-file", str(file),
                   *(f"--{name}-port={port}" for name, port in ports), *flags]  # fmt: skip
        with log.open("wb") if log else nullcontext() as output:
            process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=output, stderr=output)
        try:
            return process, _ready(process, file, log)
        except BaseException as error:
            _stop(process)
            taken = log is not None and _TAKEN.search(log.read_text(errors="replace"))
            if not isinstance(error, MachineError) or not taken or attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returned or raised")


def free_ports(count: int = 3) -> list[int]:
    """Return ports on which nothing listens now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _ready(process: subprocess.Popen[bytes], file: Path, log: Path | None) -> ServerInfo:
    deadline = time.monotonic() + START_S
    while not ended(process) and time.monotonic() < deadline:
        info = ServerInfo.read(ROOT / file)
        if info is not None and info.pid == process.pid:
            return info
        time.sleep(0.05)
    why, fix = log.read_text().strip() if log else "", "start it directly to see why: python -m serving"
    raise MachineError(Fault("the server did not start", why=why, fix=fix))


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()  # stops it
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    process.kill()
    process.wait()


def ended(process: subprocess.Popen[Any]) -> bool:
    """Return whether `process` has ended, also in a program whose signal handlers raise.

    An exception that a handler raises inside ``Popen.poll`` (such as KeyboardInterrupt) leaves its lock held (CPython 3.11),
    and a later ``wait`` never returns. So signals are blocked during the poll; they are delivered right after.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    try:
        return process.poll() is not None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
