"""The command line of ``python -m serving``.

In      the words of the command line, in tritonserver's own flag names.
Out     `Options`, and every fault of the words.

Any flag of tritonserver that is not listed here is passed on as it is, except those that would undo what the launcher
stands for: they are refused with the reason.
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
PORT_FLAGS = ("--http-port", "--grpc-port", "--metrics-port")
_OWN = {
    "--id": "the launcher recognises its own server by it",
    "--model-store": "there is one name for it: --model-repository",
    "--http-address": f"it binds to 127.0.0.1; {UNPATCHED} is the other choice",
    "--grpc-address": f"it binds to 127.0.0.1; {UNPATCHED} is the other choice",
    "--metrics-address": f"it binds to 127.0.0.1; {UNPATCHED} is the other choice",
    "--allow-http": "the launcher asks the server over HTTP whether it is ready",
    "--http-restricted-api": "the launcher restricts the administrative APIs itself, with a key in the server file",
    "--grpc-restricted-protocol": "the launcher restricts the administrative protocols itself, with a key in the server file",
    "--backend-directory": "the launcher makes a backend folder of its own",
    "--strict-model-config": "a published config.pbtxt is complete, so auto-completion is off",
    "--backend-config=python,shm-region-prefix-name": "the launcher cleans the shared memory with its own prefix, and no other",
}


@dataclass(frozen=True)
class Options:
    """What to serve and how.

    Attributes:
        repository: Model repository.
        mode: ``none`` or ``explicit``.
        load: Models to load at start in explicit mode; ``*`` for all.
        ports: http, grpc, metrics.
        host: Address that all three bind to.
        client_shm: Whether clients may register shared memory.
        start_timeout_s: Time until all models must be loaded.
        exit_timeout_s: Time that open requests and connections get at the end.
        server_file: Where to write how to reach the server.
        log: Where the server's own output goes.
        as_json: Print one JSON document when ready.
        extra: Further flags of tritonserver, passed on as they are.
        trust: Load models without comparing their files with what was published.
        until_stdin_ends: Stop when standard input ends, which it does with the process that started this one.
        good: The models to load at start where others are refused; None: as `mode` and `load` say.
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
    as_json: bool = False
    extra: Sequence[str] = ()
    trust: bool = False
    until_stdin_ends: bool = False
    good: tuple[str, ...] | None = None

    @property
    def reachable_host(self) -> str:
        """Where to ask a server that listens everywhere: on the loopback."""
        return "127.0.0.1" if self.host == "0.0.0.0" else self.host


def parser() -> argparse.ArgumentParser:
    """Return the command line; docs and tests read it too."""
    p = console.Parser(
        prog="python -m serving", allow_abbrev=False, epilog="Any other flag of tritonserver is passed on as it is.",
        description="Start Triton on this machine, without Docker, and stay until it is told to stop. Environment: "
        "PLANWRIGHT_TRITONSERVER_DIR and PLANWRIGHT_SERVER_VENV name other places than .tritonserver and .venv-server.",
    )  # fmt: skip
    add = p.add_argument
    add(
        "--model-repository",
        type=Path,
        action="append",
        metavar="FOLDER",
        help="what to serve (default: model_repository, beside --config where that is given)",
    )
    add("--config", type=Path, metavar="FILE", help="serve what build_all.py --config FILE published")
    add("--model-control-mode", choices=["none", "explicit", "poll"], default="none",
        help="explicit: models are loaded and unloaded by API; poll is refused")  # fmt: skip
    add(
        "--load-model",
        action="append",
        default=[],
        metavar="MODEL",
        help="explicit mode: load at start; * for all; repeatable",
    )
    for name, port in zip(PORT_FLAGS, (8000, 8001, 8002), strict=True):
        add(name, type=_port, default=port, metavar="PORT", help="default: %(default)s")
    _add_own_flags(p)
    return p


def _add_own_flags(p: argparse.ArgumentParser) -> None:
    """Add what is the launcher's own, not tritonserver's."""
    add = p.add_argument
    add("--allow-client-shm", action="store_true", help="let clients register shared memory, of the system and of CUDA")
    add("--trust-repository", action="store_true",
        help="serve models whose files are not what was published")  # fmt: skip
    add(UNPATCHED, dest="everywhere", action="store_true",
        help="bind to 0.0.0.0: the embedded server has published holes, so only inside a container")  # fmt: skip
    add(
        "--start-timeout-s",
        type=float,
        default=180.0,
        metavar="S",
        help="time until all models must be loaded (default: %(default)s)",
    )
    add(
        "--exit-timeout-secs",
        type=int,
        default=5,
        metavar="S",
        help="time for open requests and connections at the end; 0 ends the server at once (default: %(default)s)",
    )
    add(
        "--server-file",
        type=Path,
        default=SERVER_FILE,
        metavar="FILE",
        help="where to write how to reach it (default: %(default)s)",
    )
    add(
        "--log-file",
        type=Path,
        metavar="FILE",
        help="the server's own log (default: server.log beside the server file)",
    )
    add(
        "--until-stdin-ends",
        action="store_true",
        help="stop when standard input ends, for programs that start this one",
    )
    add(
        "--json",
        action="store_true",
        help="print one line of JSON on standard output as soon as it is ready, then stay",
    )


def parse(argv: Sequence[str]) -> tuple[Options, list[Fault]]:
    """Return the options and what is wrong with them; what argparse itself refuses is raised.

    Raises:
        SpecError: A word that cannot be read at all (exit 2).
    """
    args, words = parser().parse_known_args(argv)
    extra, faults = _passed_on(words)
    repositories = args.model_repository or [repository_folder(server_file=None, config=args.config)]
    if len(repositories) > 1:
        faults.append(
            Fault(
                "more than one model repository",
                why="one repository is built, validated and rolled back here",
                fix="give --model-repository once",
            )
        )
    if args.model_control_mode == "poll":
        why = "it reloads at each rename, so a model could be served between two steps of a publish"
        faults.append(
            Fault(
                "mode poll is not offered",
                why=why,
                fix="use --model-control-mode=explicit; build_all.py then loads what it publishes",
            )
        )
    if args.load_model and args.model_control_mode != "explicit":
        faults.append(
            Fault(
                "--load-model needs explicit mode",
                why="the other modes load every model",
                fix="add --model-control-mode=explicit",
            )
        )
    ports = (args.http_port, args.grpc_port, args.metrics_port)
    faults += [
        Fault(f"port {port} is given twice", fix="give each endpoint a port of its own")
        for port in sorted({p for p in ports if ports.count(p) > 1})
    ]
    options = Options(
        repositories[0], args.model_control_mode, args.load_model, ports, "0.0.0.0" if args.everywhere else "127.0.0.1",
        args.allow_client_shm, args.start_timeout_s, args.exit_timeout_secs, args.server_file,
        args.log_file or args.server_file.parent / "server.log", args.json, extra, args.trust_repository,
        args.until_stdin_ends,
    )  # fmt: skip
    return options, faults


def _port(text: str) -> int:
    number = int(text)
    if not 0 < number < 65536:
        raise argparse.ArgumentTypeError(f"{number} is not a port (1 to 65535)")
    return number


def _passed_on(words: Sequence[str]) -> tuple[list[str], list[Fault]]:
    """Join ``--flag value`` to ``--flag=value`` and refuse the launcher's own flags."""
    joined: list[str] = []
    for word in words:
        if word.startswith("--"):
            joined.append(word)
        elif joined and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        else:
            raise SpecError(
                Fault(
                    f"cannot read '{word}'",
                    why="flags of tritonserver are passed on as --flag=value",
                    fix="see python -m serving --help",
                )
            )
    faults = []
    for flag in joined:
        why = next((why for own, why in _OWN.items() if flag == own or flag.startswith(f"{own}=")), "")
        if why:
            faults.append(Fault(f"{flag.partition('=')[0]} cannot be given", why=why, fix="leave it out"))
    return joined, faults
