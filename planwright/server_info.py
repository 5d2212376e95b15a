"""The server that is running here: one file, written by serving and read by clients, load tests and rollback.

In      `.planwright/server.json` (mode 0600, because it holds the admin key).
Out     `ServerInfo`.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from planwright.files import read_json, write_json

ADMIN_HEADER = "admin-key"
SERVER_FILE = Path(".planwright/server.json")


@dataclass(frozen=True)
class ServerInfo:
    """How to reach a running server.

    Attributes:
        pid: Process id of the launcher (``python -m serving``).
        id: Unique name given with ``--id``; the server answers it at ``/v2``.
        http_url, grpc_url, metrics_url: ``host:port``, without scheme.
        mode: ``none`` or ``explicit`` (``--model-control-mode``).
        admin_key: Header value that gives access to the restricted APIs; empty where nothing is restricted.
        log: Path of the server's log.
        repository: Model repository it serves.
        version: Server version, such as ``2.51.0``.
        client_shm: True where clients may register shared memory.
    """

    pid: int
    id: str
    http_url: str
    grpc_url: str
    metrics_url: str
    mode: str
    admin_key: str
    log: str
    repository: str
    version: str = ""
    client_shm: bool = False

    def write(self, path: Path = SERVER_FILE) -> None:
        """Write the file, readable by its owner only."""
        write_json(path, asdict(self), mode=0o600)

    @classmethod
    def read(cls, path: Path = SERVER_FILE) -> ServerInfo | None:
        """Return the running server; None where there is no readable file, or its process has ended."""
        stored = read_json(path)  # None also for another user's file, which is not readable
        if not isinstance(stored, dict):
            return None
        known = {field.name for field in fields(cls)}
        try:
            info = cls(**{key: value for key, value in stored.items() if key in known})
            return info if _alive(info.pid) else None
        except (TypeError, OverflowError):
            return None

    @property
    def admin_headers(self) -> dict[str, str]:
        """HTTP headers that give access to the restricted APIs."""
        return {ADMIN_HEADER: self.admin_key} if self.admin_key else {}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True
