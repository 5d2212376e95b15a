"""A server of one's own: for the demo, the sweep and the benchmarks, on free ports, gone when the block ends.

In      flags of ``python -m serving``.
Out     the `ServerInfo` of a ready server.

A server file is believed only when it names our process: another server may have left one in the same place.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from planwright.errors import Fault, MachineError
from planwright.polling import ended
from planwright.server_info import SERVER_FILE, ServerInfo

ROOT = Path(__file__).resolve().parents[1]
# above the launcher's own time-out: for a launcher that hangs
START_S, STOP_S = 240.0, 40.0


@contextmanager
def own_server(
    *flags: str, file: Path = SERVER_FILE, prefix: Sequence[str] = (), log: Path | None = None
) -> Iterator[ServerInfo]:
    """Run ``python -m serving`` on free ports while the block runs.

    Args:
        flags: Further flags of ``python -m serving``.
        file: Where the server writes its address.
        prefix: Command that starts it, such as ``taskset -c 0``.
        log: Where its words go; to the terminal where none is given.

    Raises:
        MachineError: It did not become ready; the fault carries what it said.
    """
    ports = zip(("http", "grpc", "metrics"), free_ports(), strict=True)
    command = [*prefix, sys.executable, "-m", "serving", "--server-file", str(file),
               *(f"--{name}-port={port}" for name, port in ports), *flags]  # fmt: skip
    if log is None:
        process = subprocess.Popen(command, cwd=ROOT)
    else:
        with log.open("wb") as said:
            process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)
    try:
        yield _ready(process, file, log)
    finally:
        _stop(process)


def free_ports(count: int = 3) -> list[int]:
    """Return ports that nobody listens on now."""
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
    why = log.read_text().strip() if log else ""
    raise MachineError(Fault("the server did not start", why=why, fix="try it by hand: python -m serving"))


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    process.kill()
    process.wait()
