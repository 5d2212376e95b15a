"""``python -m serving``: Triton here, without Docker.

In      the command line, in tritonserver's own flag names.
Out     a running server, `.planwright/server.json`, the ready table (or one JSON document), and an exit code: 0 after
        SIGTERM, 130 after Ctrl-C, 1 when the server or a model's process died, 2 and 3 for what was wrong beforehand.

Under ``--json`` one document with the URLs is printed as soon as the server is ready, and the process keeps running:
that is how other programs start it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from planwright import console
from planwright.errors import EXIT_OK, Fault, SpecError, StageError
from planwright.server_info import SERVER_FILE, ServerInfo
from serving import preflight, process
from serving.process import Options, Server
from serving.watchdog import Watchdog

POLL_S = 0.5
UNPATCHED = "--listen-on-all-interfaces-unpatched"


def parser() -> argparse.ArgumentParser:
    """Return the command line; docs and tests read it too."""
    p = console.Parser(prog="python -m serving", allow_abbrev=False,
                       description="Start Triton on this machine. Further --flag=value of tritonserver are passed on.")  # fmt: skip
    p.add_argument("--model-repository", type=Path, default=Path("model_repository"), help="what to serve (default: %(default)s)")
    p.add_argument("--model-control-mode", choices=["none", "explicit", "poll"], default="none", help="explicit: models are loaded and unloaded by API")
    p.add_argument("--load-model", action="append", default=[], metavar="MODEL", help="explicit mode: load at start; * for all")
    p.add_argument("--http-port", type=int, default=8000)
    p.add_argument("--grpc-port", type=int, default=8001)
    p.add_argument("--metrics-port", type=int, default=8002)
    p.add_argument("--allow-client-shm", action="store_true", help="let clients register system shared memory")
    p.add_argument(UNPATCHED, dest="everywhere", action="store_true",
                   help="bind to 0.0.0.0; the embedded server has known holes, so only inside a container")  # fmt: skip
    p.add_argument("--start-timeout-s", type=float, default=180.0, help="time until all models must be loaded (default: %(default)s)")
    p.add_argument("--server-file", type=Path, default=SERVER_FILE, help="where to write how to reach it (default: %(default)s)")
    p.add_argument("--log-file", type=Path, help="the server's own log (default: server.log beside the server file)")
    console.add_json_flag(p)
    return p


def main(argv: Sequence[str]) -> int:
    """Run the server until it is told to stop."""
    args, extra = parser().parse_known_args(argv)
    console.set_json(args.json)
    options = _options(args, extra)
    preflight.check_repository(options.repository)
    preflight.check_machine(dict(zip(("--http-port", "--grpc-port", "--metrics-port"), options.ports, strict=True)), options.host)
    _catch_sigterm()
    server = process.start(options)
    try:
        index = server.wait_ready()
        info = _write_info(server, args.server_file)
        _announce(server, info, index, args.json)
        return _watch(server)
    finally:
        server.stop()
        _forget(args.server_file)


def _options(args: argparse.Namespace, extra: list[str]) -> Options:
    strange = [word for word in extra if not word.startswith("--")]
    if strange:
        raise SpecError(Fault(f"cannot read '{strange[0]}'", why="flags of tritonserver are passed on as --flag=value", fix="see python -m serving --help"))
    if args.model_control_mode == "poll":
        why = "it reloads at each rename, so a model could be served between two steps of a publish"
        raise SpecError(Fault("mode poll is not offered", why=why, fix="use --model-control-mode=explicit; build_all.py then loads what it publishes"))
    return Options(
        args.model_repository, args.model_control_mode, (args.http_port, args.grpc_port, args.metrics_port),
        "0.0.0.0" if args.everywhere else "127.0.0.1", args.allow_client_shm, args.start_timeout_s,  # noqa: S104
        args.log_file or args.server_file.parent / "server.log",
        [*(f"--load-model={name}" for name in args.load_model), *extra],
    )  # fmt: skip


class _Stopped(BaseException):
    """Leaves whatever the launcher is doing when SIGTERM asks it to stop; Ctrl-C is KeyboardInterrupt."""


def _catch_sigterm() -> None:
    def leave(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the way out must not be interrupted by a second one
        raise _Stopped

    signal.signal(signal.SIGTERM, leave)


def _write_info(server: Server, path: Path) -> ServerInfo:
    host = server.http_url.rpartition(":")[0]
    http, grpc, metrics = (f"{host}:{port}" for port in server.options.ports)
    info = ServerInfo(
        os.getpid(), server.id, http, grpc, metrics, server.options.mode, server.admin_key, str(server.options.log.resolve()),
        str(server.options.repository.resolve()), server.version, server.options.client_shm,
    )  # fmt: skip
    info.write(path)
    return info


def _forget(path: Path) -> None:
    stored = ServerInfo.read(path)
    if stored is not None and stored.pid == os.getpid():
        path.unlink(missing_ok=True)


def _announce(server: Server, info: ServerInfo, index: list[dict[str, Any]], as_json: bool) -> None:
    rows = [(m["name"], m.get("version", ""), _status(m)) for m in index if m.get("state") or server.options.mode == "none"]
    console.table(f"Triton {server.version}, {server.options.repository}", ["Model", "Version", "Status"], rows)
    console.say(f"http {info.http_url}  grpc {info.grpc_url}  metrics {info.metrics_url}/metrics  log {info.log}")
    if as_json:
        console.emit_json({
            "pid": info.pid, "server_pid": server.process.pid, "id": info.id, "http_url": info.http_url, "grpc_url": info.grpc_url,
            "metrics_url": info.metrics_url, "version": info.version,
            "models": [{"name": name, "version": version, "status": status} for name, version, status in rows],
        }, one_line=True)  # fmt: skip


def _status(model: dict[str, Any]) -> str:
    reason = str(model.get("reason", "")).strip()
    state = str(model.get("state", "")) or "not loaded"
    return state if state == "READY" or not reason else f"{state}: {reason}"


def _watch(server: Server) -> int:
    watchdog = Watchdog(server)
    while server.process.poll() is None:
        time.sleep(POLL_S)
        dead = watchdog.dead_model()
        if dead:
            server.kill()
            why = "this server would go on saying that it is ready and fail each request; so it was stopped"
            raise StageError("serve", Fault(f"a process of model '{dead}' died", str(server.options.log), why, "see the log for the cause (out of memory?), then start again"))
    raise StageError("serve", Fault(f"tritonserver ended by itself (exit code {server.process.returncode})", str(server.options.log), fix="see the log, then start again"))


def _entry(argv: Sequence[str]) -> int:
    try:
        return main(argv)
    except _Stopped:
        return EXIT_OK


if __name__ == "__main__":
    console.run(_entry, sys.argv[1:])
