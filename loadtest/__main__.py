"""``python -m loadtest``: sweep instances, re-make a report.

In      the command line.
Out     a table, runs/<id>/report.json and report.html; exit code 0 done, 1 failed or wrong answers, 2 bad usage, 3 no server.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from loadtest import _report
from planwright import console
from planwright.errors import EXIT_OK, Fault, SpecError
from planwright.files import read_json


def parser() -> argparse.ArgumentParser:
    """Return the command line; docs and tests read it too."""
    p = console.Parser(prog="python -m loadtest", description="Measure served models. Scenarios: locust -f loadtest/")
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    sweep = commands.add_parser("sweep", help="throughput and latency for each number of model instances")
    sweep.add_argument("model", metavar="MODEL")
    sweep.add_argument(
        "--instances", type=_numbers, default=(1, 2, 4), metavar="1,2,4", help="numbers of instances (default: 1,2,4)"
    )
    sweep.add_argument("--users", type=int, default=8, help="requests in flight (default: %(default)s)")
    sweep.add_argument("--protocol", choices=("http", "grpc"), default="grpc")
    sweep.add_argument("--batch", type=int, default=1, help="samples per request (default: %(default)s)")
    sweep.add_argument("--duration-s", type=float, default=4.0, help="length of one measurement (default: %(default)s)")
    sweep.add_argument(
        "--warmup-s",
        type=float,
        default=1.0,
        help="start of each measurement that does not count (default: %(default)s)",
    )
    sweep.add_argument(
        "--repeats", type=int, default=3, help="measurements per point, interleaved (default: %(default)s)"
    )
    sweep.add_argument(
        "--repository", type=Path, default=Path("model_repository"), help="where the model is published; only read"
    )
    sweep.add_argument(
        "--server",
        metavar="URL",
        help="use this server (explicit mode) instead of one of its own; its config is restored",
    )
    sweep.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the run records")
    console.add_json_flag(sweep)
    again = commands.add_parser("report", help="make report.html again from report.json")
    again.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a folder below runs/, or a report.json")
    console.add_json_flag(again)
    return p


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    args = parser().parse_args(argv)
    console.set_json(args.json)
    if args.command == "sweep":
        from loadtest import _sweep

        return _sweep.main(args)
    made = []
    for run in args.runs:
        made.append(str(_report.remake(run)))
        console.say(made[-1])
    if args.json:
        console.emit_json(
            [{"html": path, "verdict": read_json(Path(path).with_name("report.json"))["verdict"]} for path in made]
        )
    return EXIT_OK


def _numbers(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or any(number < 1 or number > 64 for number in found) or len(set(found)) < len(found):
        raise SpecError(
            Fault(f"--instances {text}", why="numbers of instances are 1 to 64, each once", fix="--instances 1,2,4")
        )
    return found


if __name__ == "__main__":
    console.run(main)
