"""Whether the load generator's memory stays constant, however long it runs.

In      the published model digits.
Out     a table and benchmarks/results/load_soak.json: memory of locust's process over time, requests, wrong answers; ``--check`` exits 1
        where the last quarter needs over two percent more than the second, or anything failed.

The first quarter does not count: buffers, histograms and the series of answers grow until they are full. Every tenth answer is
checked. The figure of a quarter is its peak; memory is the proportional set size of locust and its children.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._parts.common import ROOT, Inputs, parser, scratch_folder, serve, stamp, verdict
from measure.operating_point import locust_process
from measure.operating_point.usage import memory_bytes, processes
from planwright import console
from planwright.decimals import exact
from planwright.own_server import ended

MODEL, GROWTH = "digits", 1.02
READ_EVERY_S, SAY_EVERY_S = 5.0, 300.0
MIB = 1 << 20


def main(argv: Sequence[str]) -> int:
    p = parser(__doc__, check="exit 1 where memory grows or an answer is wrong")
    p.add_argument("--duration-s", type=int, default=3600, help="length of the load (default: %(default)s)")
    p.add_argument("--rate", type=float, default=200.0, help="requests per second, an open loop (default: %(default)s)")
    args = p.parse_args(argv)
    inputs = Inputs()
    inputs.models(args.repository, MODEL)
    inputs.require()
    with scratch_folder() as folder, serve(args.repository, file=folder / "server.json"):
        readings = _watch(args, folder)
        report = locust_process.report(folder, (folder / "locust.txt").read_text(errors="replace"))
    value = {**stamp(), "duration_s": args.duration_s, "rate": args.rate, **_figures(readings, report)}
    _show(value)
    return inputs.conclude("load_soak", value, met=value["met"], check=args.check)


def _watch(args: argparse.Namespace, scratch: Path) -> list[tuple[float, int]]:
    settings = {"check": "0.1", "arrivals": "poisson", "rate": f"{exact(args.rate)}:{args.duration_s}s"}
    environment = locust_process.environment(MODEL, scratch, args.repository, scratch / "server.json", **settings)
    with (scratch / "locust.txt").open("wb") as log:
        command = locust_process.command(32, "http")
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    began_s, said_s, readings = time.monotonic(), 0.0, []
    while not ended(process):
        time.sleep(READ_EVERY_S)
        now_s, used = time.monotonic() - began_s, sum(map(memory_bytes, processes(process.pid)))
        if used:
            readings.append((now_s, used))
        if now_s - said_s > SAY_EVERY_S:
            said_s = now_s
            console.say(f"{now_s / 60:.0f} min: {used / MIB:.1f} MiB")
    return readings


def _figures(readings: list[tuple[float, int]], report: dict[str, Any]) -> dict[str, Any]:
    """Return the peak of each quarter, without the last half minute, in which the report is made."""
    end_s = readings[-1][0] - 30.0
    quarters = [[b for s, b in readings if end_s * q / 4 <= s < end_s * (q + 1) / 4] for q in range(4)]
    peaks = [max(quarter, default=0) for quarter in quarters]
    row = report["models"][0]
    counts = {key: row[key] for key in ("requests", "failures", "checked", "wrong")}
    healthy = not counts["failures"] and not counts["wrong"]
    growth = peaks[3] / max(peaks[1], 1)
    return {
        "quarter_peaks_bytes": peaks, "growth": growth, **counts, "verdict": report["verdict"],
        "readings": readings[:: max(1, len(readings) // 120)], "met": growth <= GROWTH and healthy,
    }  # fmt: skip


def _show(value: dict[str, Any]) -> None:
    peaks = value["quarter_peaks_bytes"]
    rows = [[f"{n + 1}", f"{peak / MIB:.1f}"] for n, peak in enumerate(peaks)]
    console.table(f"{value['requests']} requests in {value['duration_s']} s", ["quarter", "peak MiB"], rows)
    console.say(
        f"{verdict(value['met'])}  fourth quarter over the second: {value['growth']:.4f} (at most {GROWTH:g}); "
        f"{value['failures']} failed, {value['checked']} checked, {value['wrong']} wrong"
    )


if __name__ == "__main__":
    console.run(main)
