"""Notices a model process that died, which server 2.51 does not.

In      a running server.
Out     the name of the dead instance, or nothing.

After a stub's death the server answers 200 on every health endpoint and fails each request after a second. So the stubs
are counted through /proc: when one is gone, the instances that the ready models are configured for are compared with
the stubs that live. Two looks a second apart must agree, because a load in explicit mode changes stubs on purpose.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from serving import api
from serving.backend_folder import STUB
from serving.process import Server

CONFIRM_S = 1.0


def stubs_of(server_pid: int) -> dict[int, str]:
    """Return the living stubs of a server: process id → model name."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent != server_pid:
                continue
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (OSError, IndexError, ValueError):
            continue
        if words[0].endswith(STUB):
            found[int(entry.name)] = _model_of(words)
    return found


def _model_of(words: list[str]) -> str:
    """Return the model of a stub, whose first argument is ``<repository>/<model>/<version>/<file>``."""
    path = Path(words[1]) if len(words) > 1 else Path()
    return path.parents[1].name if len(path.parents) > 1 else ""


class Watchdog:
    """Remembers the stubs and says which model lost one."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._known = stubs_of(server.process.pid)

    def dead_model(self) -> str:
        """Return the model that lost a process it should have, or an empty string."""
        alive = stubs_of(self._server.process.pid)
        if self._known.keys() <= alive.keys():
            self._known = alive
            return ""
        missing = self._missing()
        if missing:
            time.sleep(CONFIRM_S)
            missing = missing if self._missing() else ""
        self._known = stubs_of(self._server.process.pid)
        return missing

    def _missing(self) -> str:
        url, headers = self._server.http_url, self._server.headers
        alive = Counter(stubs_of(self._server.process.pid).values())
        served = set(self._known.values())
        for model in api.index(url, headers) or []:
            if model.get("state") == "READY" and model["name"] in served and alive[model["name"]] < api.instances(url, model["name"]):
                return str(model["name"])
        return ""
