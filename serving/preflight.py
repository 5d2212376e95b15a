"""What can be known to be wrong before the server starts; all of it is told at once.

In      `Options`, and what is wrong with the command line already.
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
from serving import backend_folder, find, processes, repository
from serving.options import PORT_FLAGS, Options

SHM = Path("/dev/shm")
T = TypeVar("T")


@dataclass(frozen=True)
class Machine:
    """What this machine serves with: the server, and the Python of its stubs (None where a C++ backend does the work)."""

    installation: find.Installation
    python: find.StubPython | None


def check(options: Options, faults: list[Fault]) -> Machine:
    """Check everything.

    Raises:
        SpecError: Command line, repository or a name is wrong; machine faults are told with it (exit 2).
        MachineError: A port is taken, /dev/shm is small, a tool is missing (exit 3).
    """
    later = options.mode == "explicit" and not options.load
    wrong = [*faults, *repository.faults(options.repository, options.load, may_be_empty=later)]
    missing = [*_running(options), *_ports(options)]
    installation = _collect(find.find_server, missing)
    python = None
    if installation is not None and not installation.native:
        python = _collect(find.find_stub_python, missing)
        if python is not None:
            missing += backend_folder.faults(installation, python)
    if not wrong:
        missing += _shared_memory(options)
    if wrong:
        raise SpecError(*wrong, *missing)
    if missing or installation is None:
        raise MachineError(*missing)
    return Machine(installation, python)


def _collect(look: Callable[[], T], faults: list[Fault]) -> T | None:
    try:
        return look()
    except MachineError as error:
        faults += error.faults
        return None


def _running(options: Options) -> list[Fault]:
    """Refuse to overwrite the file of a server that runs: its clients would lose it."""
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
    return [Fault("a server runs here already", str(options.server_file), f"pid {info.pid}, http {info.http_url}", fix)]


def _ports(options: Options) -> list[Fault]:
    return [
        _taken(flag, port)
        for flag, port in zip(PORT_FLAGS, options.ports, strict=True)
        if not _free(options.host, port)
    ]


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
    return Fault(
        f"port {port} is taken",
        why=why,
        fix=f"stop it, or choose another: {flag} PORT",
        check=f"ss -ltnp sport = :{port}",
    )


def _shared_memory(options: Options) -> list[Fault]:
    need, count = repository.shared_memory_need(repository.chosen(options.repository, options.mode, options.load))
    free = shutil.disk_usage(SHM).free if SHM.is_dir() else 0
    if free >= need:
        return []
    why = f"{human_bytes(free)} free, {count} model processes need at least {human_bytes(need)}"
    return [
        Fault(
            "too little shared memory",
            str(SHM),
            why,
            "free some, serve fewer instances, or in a container give --shm-size=1g",
            f"df -h {SHM}",
        )
    ]
