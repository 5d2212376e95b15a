"""compare and baseline: what changed between runs, and storing runs to compare with.

In      folders below runs/, report.json files, stored baselines.
Out     a table, a JSON value, a page; exit code 1 where something got worse beyond noise, 2 where nothing can be compared.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure.compare.metrics import bounds_text, change_text, compare, value_text
from measure.report.build import utc_now
from measure.report.records import BASELINE, LAYOUT, Record, read, write
from planwright import console
from planwright.decimals import exact
from planwright.errors import EXIT_FAILED, EXIT_OK, Fault, SpecError

_TWO_SIDES = "give BASE NEW, or --base A B C --new D E F, or --baseline FILE NEW"


def add_command(commands: Any) -> None:
    p = commands.add_parser(
        "compare",
        help="what is better or worse than before, beyond noise",
        epilog="A RUN is a folder below runs/, a report.json, or a stored baseline. Exit code 1: something is worse.",
    )
    p.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="BASE NEW; only NEW with --base or --baseline")
    p.add_argument("--base", nargs="+", type=Path, default=[], metavar="RUN", help="several runs of the base")
    p.add_argument("--new", nargs="+", type=Path, default=[], metavar="RUN", help="several runs of the new version")
    p.add_argument("--baseline", type=Path, metavar="FILE", help="the base, as stored by `baseline`")
    p.add_argument("--strict", action="store_true", help="refuse runs of different machines, servers, models or loads")
    p.add_argument("--html", type=Path, metavar="FILE", help="write an HTML page with both sides")
    console.add_json_flag(p)
    p.set_defaults(main=main)


def add_baseline(commands: Any) -> None:
    p = commands.add_parser("baseline", help="store one run, or several of the same load, to compare with later")
    p.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a folder below runs/, or a report.json")
    p.add_argument("--to", required=True, type=Path, metavar="FILE", help="where to store it")
    console.add_json_flag(p)
    p.set_defaults(main=store)


def main(args: argparse.Namespace) -> int:
    base, new = sides(args)
    comparison = compare(base, new, strict=args.strict)
    _show(comparison)
    if args.html:
        from measure.compare import page

        write(args.html, page.render(comparison).encode())
        console.say(f"page: {args.html}")
    if args.json:
        console.emit_json(comparison)
    return EXIT_FAILED if comparison["verdict"]["status"] == "fail" else EXIT_OK


def store(args: argparse.Namespace) -> int:
    records = read(args.runs)
    for record in records:
        status = record.report["verdict"].get("status")
        if status != "pass":
            console.warn(f'{record.where} is not a reliable baseline: its verdict is "{status}"')
    several = {"schema": LAYOUT, "kind": BASELINE, "created": utc_now(), "runs": [record.report for record in records]}
    value = records[0].report if len(records) == 1 else several
    write(args.to, (json.dumps(value, indent=2) + "\n").encode())
    console.say(f"{args.to}: {console.many(len(records), 'run')}")
    if args.json:
        console.emit_json({"baseline": str(args.to), "runs": [record.id for record in records]})
    return EXIT_OK


def sides(args: argparse.Namespace) -> tuple[list[Record], list[Record]]:
    """Return the runs of both sides.

    Raises:
        SpecError: A side is missing, or a file is not the report of a run; all faults at once.
    """
    base = [*args.base, *([args.baseline] if args.baseline else [])]
    given = list(args.runs)
    if not base:
        base, given = (given, []) if args.new else (given[:1], given[1:])
    new = [*given, *args.new]
    complete = base and new and (args.base or args.baseline or args.new or len(args.runs) == 2)
    faults = [] if complete else [Fault("compare needs two sides", fix=_TWO_SIDES)]
    found = []
    for paths in (base, new):
        try:
            found.append(read(paths))
        except SpecError as error:
            faults += error.faults
    if faults:
        raise SpecError(*faults)
    return found[0], found[1]


def _show(comparison: dict[str, Any]) -> None:
    for warning in comparison["warnings"]:
        console.warn(f"the sides differ: {warning['text']}")
    for note in comparison["notes"]:
        console.warn(note)
    title = f"noise {comparison['noise']}, {comparison['confidence']:.0%} intervals"
    columns = ["model", "protocol", "figure", "base", "new", "change", "interval", "verdict"]
    console.table(title, columns, [row for pair in comparison["models"] for row in _rows(pair)])
    console.say(f"verdict: {comparison['verdict']['status']}")
    for reason in comparison["verdict"]["reasons"]:
        console.say(f"  {reason}")


def _rows(pair: dict[str, Any]) -> list[Sequence[str]]:
    names, slo = (pair["model"], pair["protocol"]), pair["slo"]
    rows: list[Sequence[str]] = [
        (*names, row["name"], *(value_text(row, side) for side in ("base", "new")), change_text(row), bounds_text(row), row["word"])
        for row in pair["figures"]
    ]  # fmt: skip
    if slo:
        rows.append((*names, f"SLO p99 {exact(slo['p99_ms'])} ms", slo["base"], slo["new"], "–", "–", slo["word"]))
    return rows
