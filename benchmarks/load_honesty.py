"""Whether the open loop measures what clients experience: behind a proxy that stalls, beside MLPerf LoadGen and a simulation.

In      the published model digits.
Out     a table and benchmarks/results/load_honesty.json: p99 of our open loop, of LoadGen, of the simulated truth, and of a closed loop, which
        does not see the stall; ``--check`` exits 1 where a target is missed.

The truth is simulated: the very arrivals of our schedule go through a server that answers one at a time at its measured
capacity, behind the same stalls (Lindley's recursion). The runs hold whole periods, so the share of stalled time is exact.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._parts.common import ROOT, Inputs, parser, scratch_folder, serve, spread, stamp, verdict
from measure.crosscheck import command as crosscheck
from measure.workload import arrivals
from planwright import console
from planwright.config import load_profile
from planwright.decimals import exact
from planwright.own_server import free_ports
from planwright.server_info import ServerInfo

Row = dict[str, Any]
MODEL, CONNECTIONS = "digits", 600
STALL_S, PERIOD_S, PERIODS = 1.0, 20.0, 3
RATE = 500.0
TARGETS = {"p99": 0.05, "rate": 0.005}
SEED = 1
SIDES = ("ours", "loadgen", "truth", "closed")


def main(argv: Sequence[str]) -> int:
    p = parser(__doc__)
    p.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: %(default)s)")
    p.add_argument("--rate", type=float, default=RATE, help="requests per second (default: %(default)s)")
    args = p.parse_args(argv)
    inputs = Inputs()
    inputs.models(args.repository, MODEL)
    inputs.package("mlperf_loadgen", "make setup, or: .venv/bin/pip install mlcommons-loadgen")
    inputs.require()
    with serve(args.repository) as server:
        rounds = [_round(args, server) for _ in range(args.rounds)]
    figures = _figures(rounds)
    _show(rounds, figures)
    settings = {"rate": args.rate, "stall_s": STALL_S, "period_s": PERIOD_S}
    value = {**stamp(), **settings, "rounds": rounds, "figures": figures}
    return inputs.conclude("load_honesty", value, met=all(figure["met"] for figure in figures), check=args.check)


def _round(args: argparse.Namespace, server: ServerInfo) -> dict[str, Any]:
    """Measure the capacity, then each side behind its own proxy, so that all see the same stalls."""
    repository, duration_s = args.repository, PERIOD_S * PERIODS
    load = {"model": MODEL, "rate": args.rate, "duration_s": duration_s, "connections": CONNECTIONS, "protocol": "http"}
    with scratch_folder() as scratch:
        file = scratch / "server.json"
        server.write(file)
        with _proxy(server, stall_s=0.0) as url:
            crowd = round(args.rate * STALL_S)  # as many as wait when a stall ends
            capacity = _closed({**load, "duration_s": 15.0}, file, repository, url, users=crowd, warmup_s=7.0)
            calm = crosscheck.ours({**load, "duration_s": 8.0}, file, repository, url)
        with _proxy(server) as url:
            ours = crosscheck.ours(load, file, repository, url)
        with _proxy(server) as url:
            loadgen = crosscheck.loadgen(load, server, repository, url)
        with _proxy(server) as url:
            closed = _closed(load, file, repository, url, users=4)
    truth = simulate(args.rate, duration_s, capacity["answers_per_s"], calm["latency_us"]["p50"])
    sides = {"ours": ours, "loadgen": loadgen, "closed": closed}
    p99_ms = {side: figures_of({**sides, "truth": truth}, side)["p99"] / 1e3 for side in SIDES}
    console.say("p99 in ms: " + ", ".join(f"{side} {value:.1f}" for side, value in p99_ms.items()))
    server_alone = {"capacity_per_s": capacity["answers_per_s"], "calm_p50_us": calm["latency_us"]["p50"]}
    return {**sides, "truth": truth, **server_alone}


def _closed(load: Row, file: Path, repository: Path, url: str, *, users: int, warmup_s: float = 0.0) -> Row:
    settings, length = {"url": url, "warmup_s": str(warmup_s)}, f"{load['duration_s']:.0f}s"
    return crosscheck.drive({**load, "connections": users}, file, repository, settings, "-t", length)


@contextmanager
def _proxy(server: ServerInfo, stall_s: float = STALL_S) -> Iterator[str]:
    port, target = free_ports(1)[0], server.http_url.rpartition(":")[2]
    command = [sys.executable, "-m", "benchmarks._parts.stall_proxy", str(port), target, str(stall_s), str(PERIOD_S)]
    process = subprocess.Popen(command, cwd=ROOT)
    time.sleep(1.0)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def simulate(rate: float, duration_s: float, capacity_per_s: float, base_us: float) -> dict[str, float]:
    """Return the latencies that the schedule's own arrivals would experience, in µs.

    Each request takes ``1 / capacity`` of the server after the one before it (Lindley, Proc. Cambridge Phil. Soc. 48, 1952), cannot start
    in a stall, and additionally takes the latency of an unloaded server.
    """
    profile = load_profile.parse(f"{exact(rate)}:{exact(duration_s)}s")
    schedule = arrivals.poisson(profile, [MODEL], arrivals.Share(), SEED)
    service_s, free_s, latencies = 1 / capacity_per_s, 0.0, []
    for arrival in schedule:
        begins_s = _after_stall(max(arrival.due_s, free_s))
        free_s = begins_s + service_s
        latencies.append((begins_s - arrival.due_s) * 1e6 + base_us)
    found = np.percentile(latencies, [50, 90, 99, 99.9])
    return {**dict(zip(("p50", "p90", "p99", "p99.9"), found.tolist(), strict=True)), "arrivals": len(latencies)}


def _after_stall(moment_s: float) -> float:
    phase_s, begins_s = math.fmod(moment_s, PERIOD_S), (PERIOD_S - STALL_S) / 2
    return moment_s + begins_s + STALL_S - phase_s if begins_s <= phase_s < begins_s + STALL_S else moment_s


def _figures(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def ratios(over: str) -> list[float]:
        return [figures_of(row, "ours")["p99"] / figures_of(row, over)["p99"] for row in rounds]

    sent = [r["ours"]["requests"] / r["truth"]["arrivals"] for r in rounds]
    return [
        _figure("our p99 / LoadGen's", ratios("loadgen"), TARGETS["p99"]),
        _figure("our p99 / the simulated truth", ratios("truth"), TARGETS["p99"]),
        _figure("requests sent / requests scheduled", sent, TARGETS["rate"]),
    ]


def _figure(what: str, ratios: list[float], off: float) -> dict[str, Any]:
    row = spread(ratios)
    return {"what": what, **row, "off": off, "met": abs(row["ratio"] - 1) <= off}


def _show(rounds: list[dict[str, Any]], figures: list[dict[str, Any]]) -> None:
    percentiles = ("p50", "p90", "p99", "p99.9")
    rows = [
        [str(number), side, *(f"{figures_of(row, side)[p] / 1e3:.1f}" for p in percentiles)]
        for number, row in enumerate(rounds, 1)
        for side in SIDES
    ]
    title = f"{STALL_S:g} s stall every {PERIOD_S:g} s"
    console.table(title, ["round", "side", *(f"{p} ms" for p in percentiles)], rows)
    for row in figures:
        values = f"{row['ratio']:.4f} ({row['low']:.4f} to {row['high']:.4f})"
        console.say(f"{verdict(row['met'])}  {row['what']}: {values}, within {row['off']:.1%}")


def figures_of(row: dict[str, Any], side: str) -> dict[str, float]:
    found: dict[str, float] = row[side] if side == "truth" else row[side]["latency_us"]
    return found


if __name__ == "__main__":
    console.run(main)
