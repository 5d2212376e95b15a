"""``python -m builders``: doctor, lint, rollback, bench, layers and search. ``python builders/build_all.py`` builds.

In      the command line.
Out     a table or JSON; exit code 0 no faults, 1 faults found, 2 bad usage, 3 the machine is not ready.

Each command sets ``main`` on its own parser, a function from the parsed arguments to the exit code.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from builders import doctor, reload
from builders.diagnostics import bench_command, layers_search
from builders.repository.lint import lint, notes
from builders.repository.rollback import rollback
from builders.stage import Job
from builders.targets import choose, get_target
from planwright import console, repository_folder
from planwright.config.load import load_spec
from planwright.errors import EXIT_FAILED, EXIT_OK
from planwright.files import HashCache
from planwright.repository_folder import require_repository
from planwright.server_info import ServerInfo


def parser() -> argparse.ArgumentParser:
    """Return the command line; docs and tests read it too."""
    description = "Inspect, check and roll back what build_all.py published."
    p = console.Parser(prog="python -m builders", description=description)
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    doctor.add_command(commands)
    check = commands.add_parser("lint", help="check that engine, config.pbtxt and config.yaml agree; needs no server")
    check.add_argument("--config", type=Path, default=Path("config.yaml"), help="what was built (default: %(default)s)")
    back = commands.add_parser("rollback", help="undo the last publish: serve what was served before")
    back.add_argument("model", metavar="MODEL")
    check.add_argument("--repository", type=Path, help="where models are published (default: beside the config)")
    repository_folder.add_flags(back)
    for command in (check, back):
        console.add_json_flag(command)
    check.set_defaults(main=_lint)
    back.set_defaults(main=_rollback)
    layers_search.add_to(commands, bench_command.add_to(commands))
    return p


def main(argv: Sequence[str]) -> int:
    args = parser().parse_args(argv)
    console.set_json(args.json)
    return int(args.main(args))


def _lint(args: argparse.Namespace) -> int:
    target, _ = choose("auto")
    spec = load_spec(args.config, target)
    folder = require_repository(args.repository, config=args.config)
    cache = HashCache(spec.root / "build" / "hashes.json")
    jobs = [Job(m, spec.root, spec.root / "build", folder, get_target(target), spec.server, cache) for m in spec.models]
    findings = list(lint(jobs, folder))
    if findings:
        rows = [(f.model, f.what, f.where, f.why, f.fix) for f in findings]
        console.table("lint", ["model", "problem", "where", "why", "fix"], rows)
    for note in notes(folder):
        console.say(f"note: {note}")
    console.say(f"{len(findings)} disagreements")
    if args.json:
        console.emit_json([asdict(finding) for finding in findings])
    return EXIT_FAILED if findings else EXIT_OK


def _rollback(args: argparse.Namespace) -> int:
    folder = require_repository(args.repository, config=args.config)
    step = rollback(folder, args.model)
    console.say(f"{step} ({folder})")
    server = ServerInfo.read()
    if server is not None and Path(server.repository).resolve() == folder.resolve():
        if server.mode == "explicit":
            reload.load(server, args.model)
            console.say(f"loaded by the running server at {server.http_url}")
        else:
            console.say(f"a server runs in mode {server.mode}: restart it to serve this version")
    if args.json:
        console.emit_json(step.as_dict())
    return EXIT_OK


if __name__ == "__main__":
    console.run(main)
