"""``python -m serving``: Triton here, without Docker.

In      the command line, in tritonserver's own flag names.
Out     a running server, `.planwright/server.json`, the ready table, and an exit code: 0 after SIGTERM, 130 after Ctrl-C,
        1 where no model could be loaded or the server or a model's process died, 2 and 3 for what was wrong beforehand.

A model whose files are not what was published is refused by name, and the others are served.

Under ``--json`` one line with the URLs is printed on standard output as soon as the server is ready, and the process
keeps running: that is how other programs start it. Where it cannot start, standard output holds ``{"errors": [...]}``.
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
from planwright.polling import ended
from planwright.server_info import ServerInfo
from serving import options, preflight, process, ready_table, trust
from serving.process import Server
from serving.ready_table import READY, Row
from serving.trust import Refused
from serving.watchdog import Watchdog

POLL_S = 0.25


class _Stopped(BaseException):
    """Leaves whatever the launcher is doing when it is asked to stop; Ctrl-C is KeyboardInterrupt."""


def main(argv: Sequence[str]) -> int:
    """Run the server until it is told to stop; returns the exit code."""
    console.set_json("--json" in argv)
    chosen, faults = options.parse(argv)
    machine = preflight.check(chosen, faults)
    refused = trust.refused(chosen)
    chosen = trust.without(chosen, refused)
    if chosen.good == ():
        raise StageError("serve", *ready_table.faults(refused))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    if chosen.until_stdin_ends:
        threading.Thread(target=_stop_at_end_of_stdin, daemon=True).start()
    with contextlib.suppress(_Stopped):
        _serve(process.start(chosen, machine), refused)
    return EXIT_OK


def _leave(_: int, __: FrameType | None) -> None:
    _ignore_signals()
    raise _Stopped


def _stop_at_end_of_stdin() -> None:
    """Stop as by SIGTERM; the end comes also where the process that started this one was killed."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _ignore_signals() -> None:
    """Let nothing interrupt the way out: half of it would leave processes and shared memory behind."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _serve(server: Server, refused: Refused) -> None:
    try:
        rows = ready_table.rows(server.options, server.wait_ready(), refused)
        ready_table.require_one_ready(server.options, rows, refused)
        watchdog = Watchdog(server)  # before its address is known, so that no death is missed
        info = _info(server)
        _announce(server, info, rows, refused)
        info.write(server.options.server_file)  # whoever waits for the file may print at once, below the table
        if server.options.as_json:
            _emit(server, info, rows)
        _watch(server, watchdog)
    finally:
        _ignore_signals()
        _forget(server)
        server.stop()


def _info(server: Server) -> ServerInfo:
    chosen = server.options
    http, grpc, metrics = (f"{chosen.reachable_host}:{port}" for port in chosen.ports)
    return ServerInfo(
        os.getpid(), server.identity.id, http, grpc, metrics, chosen.mode, server.identity.admin_key,
        str(chosen.log.resolve()), str(chosen.repository.resolve()), server.version, chosen.client_shm,
    )  # fmt: skip


def _forget(server: Server) -> None:
    path = server.options.server_file
    stored = ServerInfo.read(path)
    if stored is not None and stored.id == server.identity.id:
        path.unlink(missing_ok=True)


def _announce(server: Server, info: ServerInfo, rows: list[Row], refused: Refused) -> None:
    console.say(f"Triton {server.version} serves {server.options.repository}")
    console.table("", ["Model", "Version", "Status"], rows)
    console.say(f"http {info.http_url}  grpc {info.grpc_url}  metrics {info.metrics_url}/metrics  log {info.log}")
    for fault in ready_table.faults(refused):
        console.say(fault.render())
    failed = sum(row.status != READY for row in rows)
    if failed:
        code = 200 if server.admin.ready() else 400
        console.warn(
            f"{failed} of {len(rows)} models are not ready; the others are served, and /v2/health/ready answers {code}"
        )


def _emit(server: Server, info: ServerInfo, rows: list[Row]) -> None:
    console.emit_json({
        "pid": info.pid, "server_pid": server.process.pid, "id": info.id, "http_url": info.http_url, "grpc_url": info.grpc_url,
        "metrics_url": info.metrics_url, "version": info.version, "mode": info.mode, "client_shm": info.client_shm,
        "server_file": str(server.options.server_file), "log": info.log,
        "models": [{"name": name, "version": version, "status": status} for name, version, status in rows],
    }, one_line=True)  # fmt: skip


def _watch(server: Server, watchdog: Watchdog) -> None:
    log = str(server.options.log)
    while not ended(server.process):
        time.sleep(POLL_S)
        dead = watchdog.dead_instance()
        if dead:
            server.kill()
            why = "this server would go on saying that it is ready and fail each request, so it was stopped"
            raise StageError(
                "serve",
                Fault(
                    f"the process of model instance {dead} died",
                    log,
                    why,
                    "see the log for the cause (out of memory?), then start again",
                ),
            )
    raise StageError(
        "serve",
        Fault(
            f"tritonserver ended by itself (exit code {server.process.returncode})",
            log,
            fix="see the log, then start again",
        ),
    )


if __name__ == "__main__":
    console.run(main, sys.argv[1:])
