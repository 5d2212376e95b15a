"""Does the open loop tell the truth: behind a proxy that stalls, beside MLPerf LoadGen and the simulated truth.

In      the published model digits.
Out     a table and benchmarks/results/load_honesty.json: p99 of our open loop, of LoadGen, of the truth, and of a closed loop, which
        does not see the stall; ``--check`` exits 1 where a target is missed.

The truth is simulated: the very arrivals of our schedule go through a server that answers one at a time at its measured
capacity, behind the same stalls (Lindley's recursion). The runs hold whole periods, so the share of stalled time is exact.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks._parts.common import Inputs, serve, stamp  # noqa: E402
from measure.crosscheck import command as crosscheck  # noqa: E402
from measure.operating_point import locust_process  # noqa: E402
from measure.workload import arrivals  # noqa: E402
from planwright import console  # noqa: E402
from planwright.config import load_profile  # noqa: E402
from planwright.decimals import exact  # noqa: E402
from planwright.own_server import free_ports  # noqa: E402
from planwright.server_info import ServerInfo  # noqa: E402

MODEL, CONNECTIONS = "digits", 600
STALL_S, PERIOD_S, PERIODS = 1.0, 20.0, 3
RATE = 500.0
TARGETS = {"p99": 0.05, "rate": 0.005}
SEED = 1
P99 = 99.0


def main(argv: Sequence[str]) -> int:
    """Measure in rounds, ours and LoadGen in turn."""
    p = console.Parser(prog="benchmarks/load_honesty.py", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--rate", type=float, default=RATE, help="requests per second (default: %(default)s)")
    p.add_argument("--repository", type=Path, default=ROOT / "model_repository")
    p.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    args = p.parse_args(argv)
    inputs = Inputs()
    inputs.models(args.repository, MODEL)
    inputs.package("mlperf_loadgen", "make setup, or: .venv/bin/pip install mlcommons-loadgen")
    inputs.require()
    with serve(args.repository) as server:
        rounds = [_round(args, server) for _ in range(args.rounds)]
    figures = _figures(rounds)
    _show(rounds, figures)
    value = {
        **stamp(),
        "rate": args.rate,
        "stall_s": STALL_S,
        "period_s": PERIOD_S,
        "rounds": rounds,
        "figures": figures,
    }
    return inputs.conclude("load_honesty", value, met=all(figure["met"] for figure in figures), check=args.check)


def _round(args: argparse.Namespace, server: ServerInfo) -> dict[str, Any]:
    """One round: capacity, then each side behind a proxy of its own, so that all see the same stalls."""
    repository, duration_s = args.repository, PERIOD_S * PERIODS
    load = {"model": MODEL, "rate": args.rate, "duration_s": duration_s, "connections": CONNECTIONS, "protocol": "http"}
    with tempfile.TemporaryDirectory(prefix="planwright-bench-") as scratch:
        file = Path(scratch) / "server.json"
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
    console.say(
        f"p99: ours {ours['latency_us']['p99'] / 1e3:.0f} ms, LoadGen {loadgen['latency_us']['p99'] / 1e3:.0f} ms, truth {truth['p99'] / 1e3:.0f} ms, "
        f"closed loop {closed['latency_us']['p99'] / 1e3:.1f} ms"
    )
    return {
        **sides,
        "truth": truth,
        "capacity_per_s": capacity["answers_per_s"],
        "calm_p50_us": calm["latency_us"]["p50"],
    }


def _closed(
    load: dict[str, Any], file: Path, repository: Path, url: str, *, users: int, warmup_s: float = 0.0
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="planwright-bench-") as runs:
        environment = locust_process.environment(MODEL, Path(runs), repository, file, url=url, warmup_s=str(warmup_s))
        flags = ("-t", f"{load['duration_s']:.0f}s")
        return crosscheck.drive({**load, "connections": users}, environment, Path(runs), *flags)


@contextmanager
def _proxy(server: ServerInfo, stall_s: float = STALL_S) -> Iterator[str]:
    """Run the proxy on a free port."""
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
    """Return the latencies that the schedule's own arrivals would meet, in µs.

    Each request takes ``1 / capacity`` of the server after the one before it (Lindley, Proc. Cambridge Phil. Soc. 48, 1952), cannot begin
    in a stall, and takes besides what a request takes when nothing is in its way.
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
    def p99(side: str) -> list[float]:
        return [(r[side]["latency_us"] if side != "truth" else r[side])["p99"] for r in rounds]

    pairs = {
        "our p99 / LoadGen's": [a / b for a, b in zip(p99("ours"), p99("loadgen"), strict=True)],
        "our p99 / the simulated truth": [a / b for a, b in zip(p99("ours"), p99("truth"), strict=True)],
    }
    figures = [_figure(what, ratios, TARGETS["p99"]) for what, ratios in pairs.items()]
    sent = [r["ours"]["requests"] / r["truth"]["arrivals"] for r in rounds]
    return [*figures, _figure("requests sent / requests scheduled", sent, TARGETS["rate"])]


def _figure(what: str, ratios: list[float], off: float) -> dict[str, Any]:
    median = statistics.median(ratios)
    return {
        "what": what,
        "ratio": median,
        "low": min(ratios),
        "high": max(ratios),
        "off": off,
        "met": abs(median - 1) <= off,
    }


def _show(rounds: list[dict[str, Any]], figures: list[dict[str, Any]]) -> None:
    sides = ("ours", "loadgen", "truth", "closed")
    rows = [
        [
            str(number + 1),
            side,
            *(f"{figures_of(rounds[number], side)[p] / 1e3:.1f}" for p in ("p50", "p90", "p99", "p99.9")),
        ]
        for number, side in itertools.product(range(len(rounds)), sides)
    ]
    console.table(
        f"{STALL_S:g} s stall every {PERIOD_S:g} s", ["round", "side", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms"], rows
    )
    for figure in figures:
        word = "met" if figure["met"] else "MISSED"
        console.say(
            f"{word}  {figure['what']}: {figure['ratio']:.4f} ({figure['low']:.4f} to {figure['high']:.4f}), within {figure['off']:.1%}"
        )


def figures_of(row: dict[str, Any], side: str) -> dict[str, float]:
    """Return the percentiles of one side of a round."""
    found: dict[str, float] = row[side] if side == "truth" else row[side]["latency_us"]
    return found


if __name__ == "__main__":
    console.run(main)
