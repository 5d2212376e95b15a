"""Everything that can be found wrong before the server starts, reported at once.

In      `ServeOptions`, and the faults of the command line.
Out     a `Machine` that can serve, or one error that carries every fault.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from planwright.console import human_bytes
from planwright.errors import Fault, MachineError, SpecError
from planwright.server_info import ServerInfo
from planwright.triton_admin import RefusedError, TritonAdmin
from serving import installation, processes, repository
from serving.installation import Installation, StubPython
from serving.options import PORTS, ServeOptions

SHM = Path("/dev/shm")
T = TypeVar("T")


@dataclass(frozen=True)
class Machine:
    """What this machine serves with: the server, and the Python of its stubs (None where a C++ backend is used)."""

    installation: Installation
    python: StubPython | None


def check(options: ServeOptions, faults: list[Fault]) -> Machine:
    """Check everything.

    Raises:
        SpecError: Command line, repository or a name is wrong; faults of the machine are reported with it (exit 2).
        MachineError: A port is taken, /dev/shm is small, a tool is missing (exit 3).
    """
    wrong = [*faults, *repository.faults(options)]
    missing = [*_running(options), *_ports(options)]
    server = _collect(installation.find_server, missing)
    python = None
    if server is not None and not server.native:
        python = _collect(installation.find_stub_python, missing)
        if python is not None:
            missing += installation.backend_faults(server, python)
    if not wrong:
        missing += _shared_memory(options)
    if wrong:
        raise SpecError(*wrong, *missing)
    if missing or server is None:
        raise MachineError(*missing)
    return Machine(server, python)


def _collect(find: Callable[[], T], faults: list[Fault]) -> T | None:
    try:
        return find()
    except MachineError as error:
        faults += error.faults
        return None


def _running(options: ServeOptions) -> list[Fault]:
    """Refuse to overwrite the file of a running server: its clients would lose it."""
    info = ServerInfo.read(options.server_file)
    if info is None:
        return []
    try:
        name = TritonAdmin.of(info).metadata(timeout_s=2).get("name")
    except RefusedError:
        return []
    if name != info.id:
        return []
    fix = f"stop it (kill {info.pid}), or give this one --server-file and other ports"
    why = f"pid {info.pid}, http {info.http_url}"
    return [Fault("a server is already running here", str(options.server_file), why, fix)]


def _ports(options: ServeOptions) -> list[Fault]:
    pairs = zip(PORTS, options.ports, strict=True)
    return [_taken(flag, port) for flag, port in pairs if not _free(options.host, port)]


def _free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _taken(flag: str, port: int) -> Fault:
    why = f"{processes.listener(port) or 'another process'} listens on it"
    fix, check = f"stop it, or choose another: {flag} PORT", f"ss -ltnp sport = :{port}"
    return Fault(f"port {port} is taken", why=why, fix=fix, check=check)


def _shared_memory(options: ServeOptions) -> list[Fault]:
    need, count = repository.shared_memory_need(repository.chosen(options))
    free = shutil.disk_usage(SHM).free if SHM.is_dir() else 0
    if free >= need:
        return []
    why = f"{human_bytes(free)} free, {count} model processes need at least {human_bytes(need)}"
    fix = "free some, serve fewer instances, or in a container give --shm-size=1g"
    return [Fault("too little shared memory", str(SHM), why, fix, f"df -h {SHM}")]
