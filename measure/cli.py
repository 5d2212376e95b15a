"""``python -m loadtest``: sweep settings, find the best one under an SLO, re-make, compare and export reports.

In      the command line.
Out     a table, runs/<id>/report.json and report.html; exit code 0 done, 1 failed or wrong answers, 2 bad usage, 3 no server.

Each command's module has ``add_command(commands)``, which adds its parser and sets ``main``: from parsed arguments to the exit code.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import sweep
from measure.compare import command as compare
from measure.crosscheck import command as crosscheck
from measure.report import build, perf_analyzer_csv
from measure.tune import command as tune
from planwright import console
from planwright.errors import EXIT_OK
from planwright.files import read_json


def parser() -> argparse.ArgumentParser:
    p = console.Parser(prog="python -m loadtest", description="Measure served models. Scenarios: locust -f loadtest/")
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (sweep.add_command, tune.add_command, _add_report, compare.add_command, compare.add_baseline,
                perf_analyzer_csv.add_command, crosscheck.add_command):  # fmt: skip
        add(commands)
    return p


def main(argv: Sequence[str]) -> int:
    args = parser().parse_args(argv)
    console.set_json(args.json)
    return int(args.main(args))


def _add_report(commands: Any) -> None:
    p = commands.add_parser("report", help="make report.html again from report.json")
    p.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a folder below runs/, or a report.json")
    console.add_json_flag(p)
    p.set_defaults(main=_report)


def _report(args: argparse.Namespace) -> int:
    made = []
    for run in args.runs:
        path = build.remake(run)
        console.say(str(path))
        made.append({"html": str(path), "verdict": read_json(path.with_name("report.json"))["verdict"]})
    if args.json:
        console.emit_json(made)
    return EXIT_OK
