"""``python -m serving``: Triton here, without Docker.

In      the command line, in tritonserver's own flag names.
Out     a running server, `.planwright/server.json`, a table of the models, and an exit code: 0 after SIGTERM, 130 after Ctrl-C,
        1 where no model could be loaded or the server or a model's process died, 2 and 3 for what was wrong beforehand.

A model whose files differ from what was published is refused by name, and the others are served.

Under ``--json`` one line with the URLs is printed on standard output when the server is ready, and the process keeps
running: that is how other programs start it. Where it cannot start, standard output holds ``{"errors": [...]}``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

from planwright import console
from planwright.errors import EXIT_OK, Fault, StageError
from planwright.own_server import ended
from planwright.server_info import ServerInfo
from serving import options, preflight, readiness, repository, server
from serving.readiness import READY, ModelRow
from serving.repository import Refused
from serving.server import TritonServer
from serving.watchdog import Watchdog

POLL_S = 0.25


class _Stopped(BaseException):
    """Unwinds the launcher on SIGTERM or SIGHUP; Ctrl-C is KeyboardInterrupt."""


def main(argv: Sequence[str]) -> int:
    console.set_json("--json" in argv)
    chosen, faults = options.parse(argv)
    machine = preflight.check(chosen, faults)
    refused = repository.refused(chosen)
    chosen = repository.without(chosen, refused)
    if chosen.accepted == ():
        raise StageError("serve", *readiness.refusal_faults(refused))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    if chosen.until_stdin_ends:
        threading.Thread(target=_stop_at_end_of_stdin, daemon=True).start()
    with contextlib.suppress(_Stopped):
        _serve(server.start(chosen, machine), refused)
    return EXIT_OK


def _leave(_: int, __: FrameType | None) -> None:
    _ignore_signals()
    raise _Stopped


def _stop_at_end_of_stdin() -> None:
    """Stop as by SIGTERM; end of file also comes when the parent process was killed."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _ignore_signals() -> None:
    """Let nothing interrupt the shutdown: half of it would leave processes and shared memory behind."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _serve(running: TritonServer, refused: Refused) -> None:
    try:
        rows = readiness.rows(running.options, running.wait_ready(), refused)
        readiness.require_one_ready(running.options, rows, refused)
        watchdog = Watchdog(running)  # before the address is published, so that no death is missed
        info = _info(running)
        _announce(running, info, rows, refused)
        info.write(running.options.server_file)  # a program that waits for the file may print at once, below the table
        if running.options.as_json:
            _emit(running, info, rows)
        _watch(running, watchdog)
    finally:
        _ignore_signals()
        _remove_server_file(running)
        running.stop()


def _info(running: TritonServer) -> ServerInfo:
    chosen = running.options
    http, grpc, metrics = (f"{chosen.reachable_host}:{port}" for port in chosen.ports)
    return ServerInfo(
        pid=os.getpid(), id=running.identity.id, http_url=http, grpc_url=grpc, metrics_url=metrics, mode=chosen.mode,
        admin_key=running.identity.admin_key, log=str(chosen.log.resolve()), repository=str(chosen.repository.resolve()),
        version=running.version, client_shm=chosen.client_shm,
    )  # fmt: skip


def _remove_server_file(running: TritonServer) -> None:
    path = running.options.server_file
    stored = ServerInfo.read(path)
    if stored is not None and stored.id == running.identity.id:
        path.unlink(missing_ok=True)


def _announce(running: TritonServer, info: ServerInfo, rows: list[ModelRow], refused: Refused) -> None:
    console.say(f"Triton {running.version} serves {running.options.repository}")
    console.table("", ["Model", "Version", "Status"], rows)
    console.say(f"http {info.http_url}  grpc {info.grpc_url}  metrics {info.metrics_url}/metrics  log {info.log}")
    for fault in readiness.refusal_faults(refused):
        console.say(fault.render())
    failed = sum(row.status != READY for row in rows)
    if failed:
        code = 200 if running.admin.ready() else 400
        served = "the others are served, and /v2/health/ready answers"
        console.warn(f"{failed} of {len(rows)} models are not ready; {served} {code}")


def _emit(running: TritonServer, info: ServerInfo, rows: list[ModelRow]) -> None:
    console.emit_json({
        "pid": info.pid, "server_pid": running.process.pid, "id": info.id, "http_url": info.http_url, "grpc_url": info.grpc_url,
        "metrics_url": info.metrics_url, "version": info.version, "mode": info.mode, "client_shm": info.client_shm,
        "server_file": str(running.options.server_file), "log": info.log,
        "models": [{"name": name, "version": version, "status": status} for name, version, status in rows],
    }, one_line=True)  # fmt: skip


def _watch(running: TritonServer, watchdog: Watchdog) -> None:
    """Return never: raise when the server or a model's process has ended."""
    log = str(running.options.log)
    while not ended(running.process):
        time.sleep(POLL_S)
        dead = watchdog.dead_instance()
        if dead:
            running.kill()
            why = "this server would keep reporting that it is ready while every request fails, so it was stopped"
            fix = "see the log for the cause (out of memory?), then start again"
            raise StageError("serve", Fault(f"the process of model instance {dead} died", log, why, fix))
    what = f"tritonserver exited unexpectedly (exit code {running.process.returncode})"
    raise StageError("serve", Fault(what, log, fix="see the log, then start again"))


if __name__ == "__main__":
    console.run(main, sys.argv[1:])
