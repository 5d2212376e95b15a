"""Detects a model process that died, which server 2.51 does not.

In      a running server.
Out     the name of the dead instance, or nothing.

After a stub's death the server answers 200 on every health endpoint and fails each request after a second. So the stubs
are counted: where one is gone, the configured instances of each ready version are compared with the stubs that run. In
explicit mode a second must pass in which no stub starts or ends, because loading and unloading change them on purpose.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from planwright.triton_admin import RefusedError
from serving import processes
from serving.processes import STUB
from serving.server import TritonServer

CONFIRM_S = 1.0
SCAN_S = 1.0
# stub <model>/<version>/<file> <region> <size> <growth> <parent> <backends> <handle> <instance> <folder>
_INSTANCE_WORD = 8


@dataclass(frozen=True)
class Stub:
    instance: str
    model: str
    version: str


def stubs_of(server_pid: int) -> dict[int, Stub]:
    """Return the running stubs of a server by process id."""
    found = {}
    for process in processes.children(server_pid):
        words = processes.arguments(process)
        if len(words) > _INSTANCE_WORD and words[0].endswith(STUB):
            version = Path(words[1]).parent
            found[process.pid] = Stub(words[_INSTANCE_WORD], version.parent.name, version.name)
    return found


class Watchdog:
    """Compares the stubs of a server with those seen before."""

    def __init__(self, server: TritonServer) -> None:
        self._server = server
        self._known = stubs_of(server.process.pid)
        self._suspects: set[Stub] = set()
        self._since = 0.0
        self._next_scan = 0.0

    def dead_instance(self) -> str:
        """Return the name of an instance that should run and does not, or ""; called a few times a second."""
        if not self._due():
            return ""
        alive = stubs_of(self._server.process.pid)
        gone = {stub for pid, stub in self._known.items() if pid not in alive}
        if alive.keys() != self._known.keys():
            self._since = time.monotonic()  # a load or unload is under way: what is missing may yet start
        self._known = alive
        self._suspects |= gone
        if not self._suspects:
            return ""
        dead = self._short_of(Counter((stub.model, stub.version) for stub in alive.values()))
        if dead is None:
            return ""
        if not dead:
            self._suspects.clear()
        confirmed = self._server.options.mode == "none" or time.monotonic() - self._since >= CONFIRM_S
        return dead if confirmed else ""

    def _due(self) -> bool:
        """Return whether to scan: it reads every process of the machine, so only where a stub is gone, or once a second."""
        if self._suspects or not all(map(processes.alive, self._known)) or time.monotonic() >= self._next_scan:
            self._next_scan = time.monotonic() + SCAN_S
            return True
        return False

    def _short_of(self, alive: Counter[tuple[str, str]]) -> str | None:
        """Return a suspect whose ready version has too few processes, "" where none is short, None where that is unknown."""
        admin = self._server.admin
        try:
            loaded = [row for row in admin.index() if row.get("state") == "READY"]
            ready = {(str(row["name"]), str(row.get("version"))) for row in loaded}
            for stub in sorted(self._suspects, key=lambda stub: stub.instance):
                place = (stub.model, stub.version)
                groups = admin.config(*place).get("instance_group", []) if place in ready else []
                if alive[place] < sum(group.get("count", 0) for group in groups):
                    return stub.instance
        except RefusedError:
            return None
        return ""
