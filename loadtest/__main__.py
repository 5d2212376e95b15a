"""``python -m loadtest``: sweep settings, find the best one under an SLO, re-make, compare and export reports.

In      the command line.
Out     a table, runs/<id>/report.json and report.html; exit code 0 done, 1 failed or wrong answers, 2 bad usage, 3 no server.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from loadtest import _compare, _export, _point_args, _referee, _report
from planwright import console
from planwright.errors import EXIT_OK
from planwright.files import read_json


def parser() -> argparse.ArgumentParser:
    """Return the command line; docs and tests read it too."""
    p = console.Parser(prog="python -m loadtest", description="Measure served models. Scenarios: locust -f loadtest/")
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    sweep = commands.add_parser("sweep", help="throughput and latency for each setting of a grid")
    sweep.add_argument("model", metavar="MODEL")
    _point_args.add_axes(sweep, instances=(1, 2, 4), told="as published")
    sweep.add_argument("--users", type=int, default=8, help="requests in flight (default: %(default)s)")
    _point_args.add_load(sweep, duration_s=4.0, repeats=3)
    tune = commands.add_parser("tune", help="the setting with the most throughput within an SLO")
    tune.add_argument("model", metavar="MODEL")
    _point_args.add_tune(tune)
    again = commands.add_parser("report", help="make report.html again from report.json")
    again.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a folder below runs/, or a report.json")
    console.add_json_flag(again)
    _compare.add_commands(commands)
    _export.add_command(commands)
    _referee.add_command(commands)
    return p


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    args = parser().parse_args(argv)
    console.set_json(args.json)
    if args.command in ("compare", "baseline", "export", "referee"):
        return int(args.main(args))
    if args.command == "sweep":
        from loadtest import _sweep

        return _sweep.main(args)
    if args.command == "tune":
        from loadtest import _tune

        return _tune.main(args)
    made = []
    for run in args.runs:
        made.append(str(_report.remake(run)))
        console.say(made[-1])
    if args.json:
        console.emit_json(
            [{"html": path, "verdict": read_json(Path(path).with_name("report.json"))["verdict"]} for path in made]
        )
    return EXIT_OK


if __name__ == "__main__":
    console.run(main)
