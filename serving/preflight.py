"""What can be known to be wrong before the server starts; all of it is told at once.

In      the repository, the ports, the installation.
Out     nothing, or an error that carries every fault.

Names are checked because server 2.51 hands model paths to a shell: a folder called ``m$(touch x)`` would run.
"""

from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path

from planwright.errors import Fault, MachineError, SpecError

_SAFE_PATH = re.compile(r"[A-Za-z0-9._/-]+")
_SAFE_NAME = re.compile(r"[A-Za-z0-9._-]+")
SHM = Path("/dev/shm")  # noqa: S108 - the kernel's place for shared memory, not a scratch file
SHM_NEED_BYTES = 64 << 20


def models_in(repository: Path) -> list[str]:
    """Return the model folders: every folder whose name does not begin with a dot."""
    return sorted(entry.name for entry in repository.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def check_repository(repository: Path) -> None:
    """Check path and names.

    Raises:
        SpecError: Missing, empty or unsafe (exit 2).
    """
    if not repository.is_dir():
        raise SpecError(Fault("there is no model repository", str(repository), fix="python builders/build_all.py, or name it with --model-repository"))
    faults = []
    why = "this server hands paths to a shell"
    if not _SAFE_PATH.fullmatch(str(repository.resolve())):
        faults.append(Fault("the repository's path is not safe", str(repository.resolve()), why, "move it to a path of letters, digits, . _ - /"))
    names = models_in(repository)
    for name in names:
        if not _SAFE_NAME.fullmatch(name):
            faults.append(Fault(f"the model name '{name}' is not safe", str(repository / name), why, "rename the folder: letters, digits, . _ -"))
    if not names:
        faults.append(Fault("the model repository is empty", str(repository), fix="python builders/build_all.py"))
    if faults:
        raise SpecError(*faults)


def check_machine(ports: dict[str, int], host: str) -> None:
    """Check ports and shared memory.

    Raises:
        MachineError: A port is taken or /dev/shm is full (exit 3).
    """
    faults = [_taken(flag, port) for flag, port in ports.items() if not _free(host, port)]
    doubled = {port for port in ports.values() if list(ports.values()).count(port) > 1}
    faults += [Fault(f"port {port} is given twice", fix="give each endpoint a port of its own") for port in doubled]
    free = shutil.disk_usage(SHM).free if SHM.is_dir() else 0
    if free < SHM_NEED_BYTES:
        faults.append(Fault("too little shared memory", str(SHM), f"{free >> 20} MiB free, {SHM_NEED_BYTES >> 20} MiB are needed", "free some, or in a container give --shm-size=1g"))
    if faults:
        raise MachineError(*faults)


def _free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _taken(flag: str, port: int) -> Fault:
    owner = _owner(port)
    why = f"{owner} listens on it" if owner else "another process listens on it"
    return Fault(f"port {port} is taken", why=why, fix=f"stop it, or choose another: {flag} PORT", check=f"ss -ltnp sport = :{port}")


def _owner(port: int) -> str:
    """Return ``name (pid)`` of the listener, empty where the kernel does not tell this user."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:] if Path(table).exists() else []:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == "0A":
                inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(link.readlink()) in inodes for link in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:
            continue
    return ""
