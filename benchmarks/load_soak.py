"""Does the load generator's memory stay as it is, however long it runs.

In      the published model digits.
Out     a table and benchmarks/results/load_soak.json: memory of locust's process over time, requests, wrong answers; ``--check`` exits 1
        where the last quarter needs more than the second by over two percent, or anything failed.

The first quarter does not count: buffers, histograms and the series of answers grow until they are full. Every tenth answer is
checked. Each quarter is told by its peak; memory is the proportional set size of locust and its children.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks._parts.common import Inputs, serve, stamp  # noqa: E402
from measure.operating_point import locust_process  # noqa: E402
from measure.operating_point.usage import memory_bytes, tree  # noqa: E402
from planwright import console  # noqa: E402
from planwright.decimals import exact  # noqa: E402
from planwright.polling import ended  # noqa: E402

MODEL, GROWTH = "digits", 1.02
READ_EVERY_S, TELL_EVERY_S = 5.0, 300.0
MIB = 1 << 20


def main(argv: Sequence[str]) -> int:
    """Load for long and watch."""
    p = console.Parser(prog="benchmarks/load_soak.py", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--duration-s", type=int, default=3600, help="default: %(default)s")
    p.add_argument("--rate", type=float, default=200.0, help="requests per second, an open loop (default: %(default)s)")
    p.add_argument("--repository", type=Path, default=ROOT / "model_repository")
    p.add_argument("--check", action="store_true", help="exit 1 where memory grows or an answer is wrong")
    args = p.parse_args(argv)
    inputs = Inputs()
    inputs.models(args.repository, MODEL)
    inputs.require()
    with serve(args.repository) as server, tempfile.TemporaryDirectory(prefix="planwright-bench-") as folder:
        server.write(Path(folder) / "server.json")
        readings = _watch(args, Path(folder))
        report = locust_process.report(Path(folder), (Path(folder) / "locust.txt").read_text(errors="replace"))
    value = {**stamp(), "duration_s": args.duration_s, "rate": args.rate, **_figures(readings, report)}
    _show(value)
    return inputs.conclude("load_soak", value, met=value["met"], check=args.check)


def _watch(args: argparse.Namespace, scratch: Path) -> list[tuple[float, int]]:
    environment = locust_process.environment(
        MODEL,
        scratch,
        args.repository,
        scratch / "server.json",
        check="0.1",
        arrivals="poisson",
        rate=f"{exact(args.rate)}:{args.duration_s}s",
    )
    log = (scratch / "locust.txt").open("wb")
    process = subprocess.Popen(locust_process.command(32, "http"), cwd=ROOT, env=environment, stdout=log, stderr=log)
    began_s, told_s, readings = time.monotonic(), 0.0, []
    while not ended(process):
        time.sleep(READ_EVERY_S)
        now_s, used = time.monotonic() - began_s, sum(map(memory_bytes, tree(process.pid)))
        if used:
            readings.append((now_s, used))
        if now_s - told_s > TELL_EVERY_S:
            told_s = now_s
            console.say(f"{now_s / 60:.0f} min: {used / MIB:.1f} MiB")
    return readings


def _figures(readings: list[tuple[float, int]], report: dict[str, Any]) -> dict[str, Any]:
    """Return the peak of each quarter, without the half minute in which the report is made."""
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
    word = "met" if value["met"] else "MISSED"
    console.say(
        f"{word}  fourth quarter over the second: {value['growth']:.4f} (at most {GROWTH:g}); "
        f"{value['failures']} failed, {value['checked']} checked, {value['wrong']} wrong"
    )


if __name__ == "__main__":
    console.run(main)
