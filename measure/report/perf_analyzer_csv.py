"""export: runs as the CSV file that perf_analyzer writes, so that spreadsheets and scripts made for it read them.

In      records of one run, or of several of one model over one protocol (at 1, 2, 4 users, say).
Out     a CSV file, one row per run, sorted by throughput as perf_analyzer sorts; times in whole µs, rounded down.

Columns and number formats are those of perf_analyzer 2.51's ``ReportWriter::GenerateReport`` (report_writer.cc); a test runs the
program itself where it can. What this load test does not measure apart is put where the sum stays right: the client's sending
and receiving are 0, and the network has all of the mean latency that the server did not count.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure.report.records import Record, Row, read, write
from planwright import console
from planwright.errors import EXIT_OK, Fault, SpecError, did_you_mean

CLOSED, OPEN = "Concurrency", "Request Rate"
COLUMNS = (
    "Inferences/Second", "Client Send", "Network+Server Send/Recv", "Server Queue", "Server Compute Input", "Server Compute Infer",
    "Server Compute Output", "Client Recv", "p50 latency", "p90 latency", "p95 latency", "p99 latency",
)  # fmt: skip
VERBOSE = ("Avg latency", "request/response", "response wait")
_NO_SETTINGS = "export runs, one for each number of users; the columns have no place for the settings of a sweep"
SERVER = ("queue", "compute_input", "compute_infer", "compute_output")


def add_command(commands: Any) -> None:
    p = commands.add_parser("export", help="write runs as perf_analyzer's CSV file")
    p.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a folder below runs/, or a report.json")
    p.add_argument("--csv", required=True, type=Path, metavar="FILE", help="where to write it")
    p.add_argument("--model", metavar="MODEL", help="which model, where the runs measured several")
    p.add_argument("--protocol", metavar="PROTOCOL", help="over which protocol, where the runs measured several")
    p.add_argument("--verbose-csv", action="store_true", help="more columns, as perf_analyzer --verbose-csv adds them")
    console.add_json_flag(p)
    p.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    chosen = _choose(read(args.runs, _NO_SETTINGS), args.model, args.protocol)
    first = _same(chosen)
    header = [first, *COLUMNS, *(VERBOSE if args.verbose_csv else ())]
    chosen.sort(key=lambda pair: pair[1].throughput_per_s)
    rows = [_row(record, row)[: len(header)] for record, row in chosen]
    write(args.csv, _text(header, rows).encode())
    for record in (record for record, _ in chosen if len(record.rows) > 1):
        console.warn(
            f"{record.where} measured several models or protocols at once: the first column is this model's share of the load, "
            "and the server's times are over all protocols"
        )
    console.say(f"{args.csv}: {console.many(len(rows), 'row')}")
    if args.json:
        console.emit_json({"csv": str(args.csv), "rows": [dict(zip(header, row, strict=True)) for row in rows]})
    return EXIT_OK


def _choose(records: Sequence[Record], model: str | None, protocol: str | None) -> list[tuple[Record, Row]]:
    """Return each run with the one row to export.

    Raises:
        SpecError: A run has none, or several to choose from; of all runs at once.
    """
    found, faults = [], []
    for record in records:
        rows = [r for r in record.rows.values() if model in (None, r.model) and protocol in (None, r.protocol)]
        found += [(record, row) for row in rows]
        faults += [_not_one(record, rows, model, protocol)] if len(rows) != 1 else []
    if faults:
        raise SpecError(*faults)
    return found


def _not_one(record: Record, rows: Sequence[Row], model: str | None, protocol: str | None) -> Fault:
    names = [f"--model {row.model} --protocol {row.protocol}" for row in record.rows.values()]
    if rows:
        why = f"a file of perf_analyzer is about one model over one protocol, and {len(rows)} were measured"
        fix = "\n".join(["choose one of", *names])
        return Fault("the run covers several models; choose one", record.where, why, fix)
    wanted = f"--model {model or 'ANY'} --protocol {protocol or 'ANY'}"
    return Fault(f"the run did not measure {wanted}", record.where, fix=did_you_mean(wanted, names))


def _same(chosen: Sequence[tuple[Record, Row]]) -> str:
    """Return the name of the first column, which all rows must share.

    Raises:
        SpecError: The runs are of several models, protocols or kinds of load.
    """
    kinds = {(row.name, CLOSED if record.load["arrivals"] == "closed" else OPEN) for record, row in chosen}
    if len(kinds) > 1:
        why = "; ".join(f"{name} by {first.lower()}" for name, first in sorted(kinds))
        fix = "export them into files of their own"
        raise SpecError(Fault("the runs do not fit into one file of perf_analyzer", why=why, fix=fix))
    return kinds.pop()[1]


def _row(record: Record, row: Row) -> list[str]:
    """Return every column's text, those of ``--verbose-csv`` last."""
    server = record.report["server"].get(row.model, {})
    parts = [float(server.get(f"mean_{part}_us", 0.0)) for part in SERVER]
    mean_us = row.latency_us["mean"]
    latencies = [row.latency_us[name] for name in ("p50", "p90", "p95", "p99")]
    # two clocks are subtracted, so that a short run may come out below zero: perf_analyzer caps it too
    times = [0.0, max(mean_us - sum(parts), 0.0), *parts, 0.0, *latencies, mean_us, 0.0, mean_us]
    return [_load(record, row), f"{row.throughput_per_s:g}", *(str(int(us)) for us in times)]


def _load(record: Record, row: Row) -> str:
    """Return the first column: requests in flight, or the configured requests per second.

    The users of a mixed run are shared by its models, so their part is counted by Little's law: arrivals per second times the
    mean time that each stays.
    """
    alone = len(record.rows) == 1
    configured = float(record.load.get("asked_per_s", 0.0))
    requests_per_s = row.throughput_per_s / row.samples_per_request
    if record.load["arrivals"] != "closed":
        return f"{configured if alone and configured else requests_per_s:g}"
    return str(record.report["users"] if alone else max(1, round(requests_per_s * row.latency_us["mean"] / 1e6)))


def _text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()
