"""The command line of ``python -m serving``.

In      the arguments, in tritonserver's own flag names.
Out     `ServeOptions`, and every fault in the arguments.

Any flag of tritonserver that is not listed here is passed on unchanged, except those that would break what the launcher
guarantees: they are refused with the reason.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from planwright import console
from planwright.errors import Fault, SpecError
from planwright.repository_folder import repository_folder
from planwright.server_info import SERVER_FILE

UNPATCHED = "--listen-on-all-interfaces-unpatched"
PORTS = {"--http-port": 8000, "--grpc-port": 8001, "--metrics-port": 8002}
_LOOPBACK = f"the server binds to 127.0.0.1; {UNPATCHED} is the alternative"
_RESERVED = {
    "--id": "the launcher identifies its own server by it",
    "--model-store": "use --model-repository",
    "--http-address": _LOOPBACK,
    "--grpc-address": _LOOPBACK,
    "--metrics-address": _LOOPBACK,
    "--allow-http": "the launcher checks over HTTP whether the server is ready",
    "--http-restricted-api": "the launcher restricts the administrative APIs itself, with a key in the server file",
    "--grpc-restricted-protocol": "the launcher restricts the administrative protocols itself, with a key in the server file",
    "--backend-directory": "the launcher creates its own backend folder",
    "--strict-model-config": "a published config.pbtxt is complete, so auto-completion is off",
    "--backend-config=python,shm-region-prefix-name": "the launcher removes only shared memory with its own prefix",
}


@dataclass(frozen=True)
class ServeOptions:
    """What to serve and how.

    Attributes:
        load: Models to load at start in explicit mode; ``*`` for all.
        ports: http, grpc, metrics.
        host: Address that all three bind to.
        start_timeout_s: Time until all models must be loaded.
        exit_timeout_s: Time that open requests and connections get at shutdown.
        extra: Further flags of tritonserver, passed on unchanged.
        trust: Load models without comparing their files with what was published.
        accepted: The models to load at start where others are refused; None: as `mode` and `load` say.
    """

    repository: Path
    mode: str
    load: list[str]
    ports: tuple[int, int, int]
    host: str
    client_shm: bool
    start_timeout_s: float
    exit_timeout_s: int
    server_file: Path
    log: Path
    extra: Sequence[str] = ()
    trust: bool = False
    as_json: bool = False
    until_stdin_ends: bool = False
    accepted: tuple[str, ...] | None = None

    @property
    def reachable_host(self) -> str:
        """The address to reach it at: the loopback where it listens on all interfaces."""
        return "127.0.0.1" if self.host == "0.0.0.0" else self.host


def parser() -> argparse.ArgumentParser:
    p = console.Parser(
        prog="python -m serving", allow_abbrev=False, epilog="Any other flag of tritonserver is passed on unchanged.",
        description="Start Triton on this machine, without Docker, and run until stopped. Environment: "
        "PLANWRIGHT_TRITONSERVER_DIR and PLANWRIGHT_SERVER_VENV replace .tritonserver and .venv-server.",
    )  # fmt: skip
    add = p.add_argument
    add("--model-repository", type=Path, action="append", metavar="FOLDER",
        help="what to serve (default: model_repository, beside --config where that is given)")  # fmt: skip
    add("--config", type=Path, metavar="FILE", help="serve what build_all.py --config FILE published")
    add("--model-control-mode", choices=["none", "explicit", "poll"], default="none",
        help="explicit: models are loaded and unloaded by API; poll is refused")  # fmt: skip
    add("--load-model", action="append", default=[], metavar="MODEL",
        help="explicit mode: load at start; * for all; repeatable")  # fmt: skip
    for name, port in PORTS.items():
        add(name, type=_port, default=port, metavar="PORT", help="default: %(default)s")
    _add_launcher_flags(p)
    return p


def _add_launcher_flags(p: argparse.ArgumentParser) -> None:
    """Add the flags that tritonserver does not have, or not with this meaning."""
    add = p.add_argument
    add("--allow-client-shm", action="store_true", help="let clients register system and CUDA shared memory")
    add("--trust-repository", action="store_true", help="also serve models whose files differ from what was published")
    add(UNPATCHED, dest="everywhere", action="store_true",
        help="bind to 0.0.0.0: the embedded server has known vulnerabilities, so only inside a container")  # fmt: skip
    add("--start-timeout-s", type=float, default=180.0, metavar="S",
        help="time until all models must be loaded (default: %(default)s)")  # fmt: skip
    add("--exit-timeout-secs", type=int, default=5, metavar="S",
        help="time for open requests and connections at shutdown; 0 kills the server at once (default: %(default)s)")  # fmt: skip
    add("--server-file", type=Path, default=SERVER_FILE, metavar="FILE",
        help="where to write the server's addresses and admin key (default: %(default)s)")  # fmt: skip
    add("--log-file", type=Path, metavar="FILE", help="the server's log (default: server.log beside the server file)")
    add("--until-stdin-ends", action="store_true",
        help="stop at end of file on standard input, for programs that start this one")  # fmt: skip
    add("--json", action="store_true", help="print one line of JSON on standard output when ready, then keep running")


def parse(argv: Sequence[str]) -> tuple[ServeOptions, list[Fault]]:
    """Return the options and their faults; what argparse itself refuses is raised.

    Raises:
        SpecError: An argument that cannot be read at all (exit 2).
    """
    args, words = parser().parse_known_args(argv)
    extra, faults = _passed_on(words)
    options = ServeOptions(
        repository=(args.model_repository or [repository_folder(server_file=None, config=args.config)])[0],
        mode=args.model_control_mode,
        load=args.load_model,
        ports=(args.http_port, args.grpc_port, args.metrics_port),
        host="0.0.0.0" if args.everywhere else "127.0.0.1",
        client_shm=args.allow_client_shm,
        start_timeout_s=args.start_timeout_s,
        exit_timeout_s=args.exit_timeout_secs,
        server_file=args.server_file,
        log=args.log_file or args.server_file.parent / "server.log",
        extra=extra,
        trust=args.trust_repository,
        as_json=args.json,
        until_stdin_ends=args.until_stdin_ends,
    )
    return options, [*faults, *_faults(options, len(args.model_repository or []))]


def _faults(options: ServeOptions, repositories: int) -> list[Fault]:
    faults = []
    if repositories > 1:
        why = "one repository is built, validated and rolled back here"
        faults.append(Fault("more than one model repository", why=why, fix="give --model-repository once"))
    if options.mode == "poll":
        why = "it reloads at each rename, so a model could be served between two steps of a publish"
        fix = "use --model-control-mode=explicit; build_all.py then loads what it publishes"
        faults.append(Fault("mode poll is not supported", why=why, fix=fix))
    if options.load and options.mode != "explicit":
        why, fix = "the other modes load every model", "add --model-control-mode=explicit"
        faults.append(Fault("--load-model needs explicit mode", why=why, fix=fix))
    repeated = {port for port in options.ports if options.ports.count(port) > 1}
    fix = "give each endpoint its own port"
    return faults + [Fault(f"port {port} is specified twice", fix=fix) for port in sorted(repeated)]


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError(f"invalid port: '{text}' (must be 1 to 65535)")
    return int(text)


def _passed_on(words: Sequence[str]) -> tuple[list[str], list[Fault]]:
    """Join ``--flag value`` to ``--flag=value`` and refuse the flags that the launcher sets."""
    joined: list[str] = []
    for word in words:
        if word.startswith("--"):
            joined.append(word)
        elif joined and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        else:
            why = "flags of tritonserver are passed on as --flag=value"
            raise SpecError(Fault(f"unexpected argument '{word}'", why=why, fix="see python -m serving --help"))
    return joined, [
        Fault(f"{flag.partition('=')[0]} cannot be given", why=why, fix="leave it out")
        for flag in joined
        for reserved, why in _RESERVED.items()
        if flag == reserved or flag.startswith(f"{reserved}=")
    ]
