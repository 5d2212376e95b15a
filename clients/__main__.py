"""``python -m clients``: validate what is served, or infer one answer.

In      the command line.
Out     a table or JSON; exit code 0 all correct, 1 a wrong or missing answer, 2 bad usage, 3 no server.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from planwright import console, repository_folder
from planwright.errors import EXIT_FAILED, EXIT_OK, Fault, MachineError, SpecError, did_you_mean
from planwright.repository_folder import require_repository
from planwright.server_info import SERVER_FILE

from . import published
from .addresses import Addresses, address, addresses
from .errors import ConnectionFailed, InvalidRequest, ModelUnavailable
from .infer_command import FORMS, jsonable, read_inputs, readable, require_file
from .model import TritonModel
from .options import PROTOCOLS, TRANSPORTS
from .validate import SKIPPED, ValidationRow, condensed, first_failures, show, summaries, validate


def parser() -> argparse.ArgumentParser:
    """Return the command line; docs and tests read it too."""
    p = console.Parser(prog="python -m clients", description="Call models served by Triton.")
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check = commands.add_parser("validate", help="check golden answers through HTTP, gRPC and shared memory")
    check.add_argument("models", nargs="*", metavar="MODEL", help="models to check; by default all that are published")
    check.add_argument("--transport", action="append", choices=tuple(TRANSPORTS), help="only this one (repeatable)")
    check.add_argument("--trust-repository", action="store_true", help="do not check the hashes of published files")
    check.add_argument("--batch", action="append", type=_batch, metavar="SIZE",
                       help="only this batch size, a number or 'max', and no requests in flight together (repeatable)")  # fmt: skip
    check.add_argument("--verbose", action="store_true", help="a table row per batch size, not per transport")
    one = commands.add_parser("infer", help="show the answer for one file")
    one.add_argument("model", metavar="MODEL")
    one.add_argument("file", type=Path, metavar="FILE", help=FORMS)
    one.add_argument("--protocol", choices=PROTOCOLS, default="http")
    for command in (check, one):
        command.add_argument("--url", help="HTTP address, host:port (default: the server running here)")
        command.add_argument("--grpc-url", help="gRPC address, host:port")
        command.add_argument("--server-file", type=Path, default=SERVER_FILE, help="written by python -m serving")
        repository_folder.add_flags(command)
        console.add_json_flag(command)
    return p


def _batch(text: str) -> str:
    if text != "max" and not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"'{text}' is not a batch size: give a number above 0, or max")
    return text


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    args = parser().parse_args(argv)
    console.set_json(args.json)
    try:
        return _validate(args) if args.command == "validate" else _infer(args)
    except ConnectionFailed as error:
        raise MachineError(*error.faults) from None


def _addresses(args: argparse.Namespace) -> Addresses:
    """Return the server's addresses; a flag that is not an address is bad usage."""
    try:
        found = addresses(args.url, args.grpc_url, args.server_file)
        address(found.http, "http"), address(found.grpc, "grpc")
    except InvalidRequest as error:
        raise SpecError(*error.faults) from None
    return found


def _validate(args: argparse.Namespace) -> int:
    where = _addresses(args)
    folder = require_repository(args.repository, args.server_file, config=args.config)
    names = published.select(folder, args.models)
    rows: list[ValidationRow] = []
    gone: ConnectionFailed | None = None
    try:
        transports, batches = args.transport or list(TRANSPORTS), args.batch or ()
        found = validate(folder, names, transports, where, batches, trust=args.trust_repository)
        for _, group in groupby(found, lambda row: row.stage):
            _report_progress(_collect(group, rows), args.verbose)
    except ConnectionFailed as error:
        gone = error  # the rows before that are still shown
    if rows:
        show(rows, verbose=args.verbose)
    if args.json:
        errors = {"errors": [fault.as_dict() for fault in gone.faults]} if gone else {}
        failures = sum(row.bad for row in rows)
        document = {"failures": failures, "models": summaries(rows), "rows": [row.as_dict() for row in rows]}
        console.emit_json({**document, **errors})
    for fault in (*(_fault(row, args) for row in first_failures(rows)), *(gone.faults if gone else ())):
        console.say(fault.render())
    return MachineError.exit_code if gone else _report_counts(rows)


def _collect(found: Iterable[ValidationRow], rows: list[ValidationRow]) -> list[ValidationRow]:
    """Append to `rows` one by one, so that rows are kept when the server goes away in the middle."""
    before = len(rows)
    for row in found:
        rows.append(row)
    return rows[before:]


def _report_progress(rows: list[ValidationRow], verbose: bool) -> None:
    for row in rows if verbose else condensed(rows):
        console.say(f"{row.model:<16} version {row.version}  {row.transport:<5} batch {row.batch:<12} {row.verdict}")


def _report_counts(rows: list[ValidationRow]) -> int:
    """Print how many checks passed; returns the exit code."""
    failures = sum(row.bad for row in rows)
    skipped = sum(row.verdict == SKIPPED for row in rows)
    console.say(f"{len(rows) - failures - skipped} checks passed, {skipped} skipped, {failures} failed")
    return EXIT_FAILED if failures else EXIT_OK


def _fault(row: ValidationRow, args: argparse.Namespace) -> Fault:
    stage = f" --transport {row.transport}" if row.transport in TRANSPORTS else ""
    given = {"--url": args.url, "--grpc-url": args.grpc_url, "--repository": args.repository, "--config": args.config}
    if args.server_file != SERVER_FILE:
        given["--server-file"] = args.server_file
    batches = (("--batch", size) for size in args.batch or ())
    flags = [*batches, *((name, value) for name, value in given.items() if value)]
    what = f"{row.model}: the first failing stage is {row.transport}"
    place = f"version {row.version}, batch {row.batch}"
    fix = "see the server's log; python -m builders lint compares the published files"
    check = " ".join([f"python -m clients validate {row.model}{stage}", *(f"{name} {value}" for name, value in flags)])
    return Fault(what, place, row.reason, fix, check)


def _infer(args: argparse.Namespace) -> int:
    where = _addresses(args)
    require_file(args.file)
    url = where.grpc if args.protocol == "grpc" else where.http
    with TritonModel(args.model, url, protocol=args.protocol, allow_nan=True) as model:
        try:
            info = model.info
        except ModelUnavailable as error:
            raise _with_suggestion(args, error) from None
        inputs = read_inputs(args.file, info)
        call = model.standalone()
        answers = call.infer_sample(inputs) if info.batches else call.infer_batch(inputs)
    if args.json:
        console.emit_json({name: jsonable(array) for name, array in answers.items()})
        return EXIT_OK
    for name, array in answers.items():
        for line in readable(name, array, _labels(args, name)):
            console.say(line)
    return EXIT_OK


def _repository(args: argparse.Namespace) -> Path | None:
    """Return the repository, None where there is none here: answers can be shown without it."""
    try:
        return require_repository(args.repository, args.server_file, config=args.config)
    except MachineError:
        return None


def _with_suggestion(args: argparse.Namespace, error: ModelUnavailable) -> ModelUnavailable:
    """Suggest a published model of a similar name; only administrators may list the server's models."""
    folder = _repository(args)
    known = published.models(folder) if folder else []
    if not known or args.model in known:
        return error
    return ModelUnavailable(replace(error.faults[0], fix=did_you_mean(args.model, known)))


def _labels(args: argparse.Namespace, output: str) -> list[str]:
    folder = _repository(args)
    try:
        version = published.served(folder, args.model) if folder else None
    except InvalidRequest:  # a damaged build.json
        return []
    return version.labels(output) if version else []


if __name__ == "__main__":
    console.run(main)
