"""``python -m clients``: validate what is served, or ask one question.

In      the command line.
Out     a table or JSON; exit code 0 all right, 1 a wrong or missing answer, 2 bad usage, 3 no server.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from planwright import console
from planwright.errors import EXIT_FAILED, EXIT_OK, Fault, MachineError
from planwright.server_info import SERVER_FILE, ServerInfo

from . import published
from .errors import ConnectionFailed
from .inspect import FORMS, read_inputs, readable
from .sync import TritonModel
from .validate import FAILED, SKIPPED, TRANSPORTS, WRONG, Addresses, Row, validate


def parser() -> argparse.ArgumentParser:
    """Return the command line; docs and tests read it too."""
    p = console.Parser(prog="python -m clients", description="Ask the models that a Triton server serves.")
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check = commands.add_parser("validate", help="golden answers through HTTP, gRPC and shared memory")
    check.add_argument("models", nargs="*", metavar="MODEL", help="models to check; all published ones if none is named")
    check.add_argument("--transport", action="append", choices=TRANSPORTS, help="only this one (repeatable)")
    ask = commands.add_parser("infer", help="one answer, readable")
    ask.add_argument("model", metavar="MODEL")
    ask.add_argument("file", type=Path, metavar="FILE", help=FORMS)
    ask.add_argument("--protocol", choices=("http", "grpc"), default="http")
    for command in (check, ask):
        command.add_argument("--url", help="HTTP address, host:port (default: the server running here)")
        command.add_argument("--grpc-url", help="gRPC address, host:port")
        command.add_argument("--server-file", type=Path, default=SERVER_FILE, help="written by python -m serving")
        command.add_argument("--repository", type=Path, help="model repository with the golden samples")
        console.add_json_flag(command)
    return p


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    args = parser().parse_args(argv)
    console.set_json(args.json)
    try:
        return _validate(args) if args.command == "validate" else _infer(args)
    except ConnectionFailed as error:
        raise MachineError(*error.faults) from None


def _addresses(args: argparse.Namespace) -> Addresses:
    info = ServerInfo.read(args.server_file)
    return Addresses(args.url or (info.http_url if info else None), args.grpc_url or (info.grpc_url if info else None))


def _validate(args: argparse.Namespace) -> int:
    folder = published.repository_folder(args.repository, args.server_file)
    names = published.select(folder, args.models)
    rows = []
    for row in validate(folder, names, args.transport or list(TRANSPORTS), _addresses(args)):
        rows.append(row)
        console.say(f"{row.model:<16} version {row.version}  {row.transport:<5} batch {row.batch:<12} {row.verdict}")
    failed = [row for row in rows if row.verdict in (WRONG, FAILED)]
    _show(rows, folder)
    if args.json:
        console.emit_json({"failures": len(failed), "rows": [row.as_dict() for row in rows]})
    first: dict[str, Row] = {}
    for row in failed:
        first.setdefault(row.model, row)
    for row in first.values():
        command = f"python -m clients validate {row.model} --transport {row.transport}"
        console.say(Fault(f"{row.model}: the first failing stage is {row.transport}", f"version {row.version}, batch {row.batch}", row.reason,
                          "see the server's log; python -m builders lint compares the published files", command).render())  # fmt: skip
    console.say(f"{len(rows) - len(failed)} checks passed or skipped, {len(failed)} failed")
    return EXIT_FAILED if failed else EXIT_OK


def _show(rows: list[Row], folder: Path) -> None:
    random = {name for name in {row.model for row in rows} if _weights(folder, name) == "random"}
    cells = [
        (row.model + (" (random weights)" if row.model in random else ""), row.version, row.transport, row.batch, row.samples,
         "-" if row.verdict == SKIPPED else f"{row.relative:.2g}", "-" if row.verdict == SKIPPED else f"{row.cosine:.6f}", row.verdict, row.reason)
        for row in rows
    ]  # fmt: skip
    console.table("golden answers", ["model", "version", "transport", "batch", "samples", "relative error", "cosine", "verdict", "reason"], cells)


def _weights(folder: Path, name: str) -> str:
    newest = max((path.parent for path in (folder / name).glob("*/build.json")), key=lambda path: int(path.name))
    return published.version(folder, name, newest.name).weights


def _infer(args: argparse.Namespace) -> int:
    where = _addresses(args)
    with TritonModel(args.model, where.grpc if args.protocol == "grpc" else where.http, protocol=args.protocol) as model:
        inputs = read_inputs(args.file, model.info)
        answers = model.infer_sample(inputs) if model.info.batches else model.infer_batch(inputs)
    if args.json:
        console.emit_json({name: array.tolist() for name, array in answers.items()})
        return EXIT_OK
    for name, array in answers.items():
        for line in readable(name, array, _labels(args, name)):
            console.say(line)
    return EXIT_OK


def _labels(args: argparse.Namespace, output: str) -> list[str]:
    """Return class names where the repository is at hand; an answer without names is still an answer."""
    try:
        folder = published.repository_folder(args.repository, args.server_file)
    except MachineError:
        return []
    found = sorted((folder / args.model).glob("*/build.json"), key=lambda path: int(path.parent.name))
    return published.version(folder, args.model, found[-1].parent.name).labels(output) if found else []


if __name__ == "__main__":
    console.run(main)
