"""Reload changed models in a running server.

In      the results of a build and `.planwright/server.json`.
Out     the models loaded through Triton's load API (mode explicit), or a line that says to restart the server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from builders.pipeline import Result
from planwright import config_pbtxt, integrity
from planwright.errors import Fault, StageError
from planwright.server_info import ServerInfo
from planwright.triton_admin import RefusedError, TritonAdmin

LOAD_TIMEOUT_S = 120.0


def reload_changed(results: Sequence[Result], repository: Path, say: Callable[[str], None]) -> None:
    """Load what was just published; a model that the server refuses is marked as failed."""
    changed = [r for r in results if r.status == "built" and r.stages.get("publish", "").startswith("run")]
    server = ServerInfo.read()
    if not changed or server is None or Path(server.repository).resolve() != repository.resolve():
        return
    if server.mode != "explicit":
        say(f"a server runs in mode {server.mode}: restart it to serve the changes")
        return
    for result in changed:
        try:
            load(server, result.model)
            say(f"{result.model:<16} loaded by the running server at {server.http_url}")
        except StageError as error:
            result.status, result.error = "failed", error


def load(server: ServerInfo, model: str) -> None:
    """Load one model; raises StageError if its files were damaged, or the server refuses it or does not answer."""
    folder = Path(server.repository) / model
    damaged = integrity.damage(folder, config_pbtxt.served(folder))
    if damaged:
        raise StageError("serve", *(integrity.fault(model, each) for each in damaged))
    admin = TritonAdmin.of(server)
    try:
        admin.load(model, timeout_s=LOAD_TIMEOUT_S)
    except RefusedError as error:
        what, fix = f"the running server did not load {model}", f"see its log: {server.log}"
        fault = Fault(what, admin.url(model, "load"), str(error), fix, "python -m builders lint")
        raise StageError("serve", fault) from None
