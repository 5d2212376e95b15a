"""``python -m loadtest``: sweep settings, find the best one under an SLO, re-make, compare and export reports.

In      the command line.
Out     a table, runs/<id>/report.json and report.html; exit code 0 done, 1 failed or wrong answers, 2 bad usage, 3 no server.

Each command sets ``main`` on its own parser, a function from the parsed arguments to the exit code.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure.compare import command as compare
from measure.crosscheck import command as crosscheck
from measure.operating_point import flags
from measure.report import build, perf_analyzer_csv
from planwright import console
from planwright.errors import EXIT_OK
from planwright.files import read_json


def parser() -> argparse.ArgumentParser:
    """Return the command line; docs and tests read it too."""
    p = console.Parser(prog="python -m loadtest", description="Measure served models. Scenarios: locust -f loadtest/")
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_sweep(commands)
    _add_tune(commands)
    _add_report(commands)
    compare.add_commands(commands)
    perf_analyzer_csv.add_command(commands)
    crosscheck.add_command(commands)
    return p


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    args = parser().parse_args(argv)
    console.set_json(args.json)
    return int(args.main(args))


def _add_sweep(commands: Any) -> None:
    sweep = commands.add_parser("sweep", help="throughput and latency for each setting of a grid")
    sweep.add_argument("model", metavar="MODEL")
    flags.add_axes(sweep, instances=(1, 2, 4), told="as published")
    sweep.add_argument("--users", type=int, default=8, help="requests in flight (default: %(default)s)")
    flags.add_load(sweep, duration_s=4.0, repeats=3)
    sweep.set_defaults(main=_sweep)


def _sweep(args: argparse.Namespace) -> int:
    from measure import sweep

    return sweep.main(args)


def _add_tune(commands: Any) -> None:
    tune = commands.add_parser("tune", help="the setting with the most throughput within an SLO")
    tune.add_argument("model", metavar="MODEL")
    flags.add_tune(tune)
    tune.set_defaults(main=_tune)


def _tune(args: argparse.Namespace) -> int:
    from measure.tune import command

    return command.main(args)


def _add_report(commands: Any) -> None:
    again = commands.add_parser("report", help="make report.html again from report.json")
    again.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a folder below runs/, or a report.json")
    console.add_json_flag(again)
    again.set_defaults(main=_report)


def _report(args: argparse.Namespace) -> int:
    made = []
    for run in args.runs:
        made.append(str(build.remake(run)))
        console.say(made[-1])
    if args.json:
        console.emit_json(
            [{"html": path, "verdict": read_json(Path(path).with_name("report.json"))["verdict"]} for path in made]
        )
    return EXIT_OK
