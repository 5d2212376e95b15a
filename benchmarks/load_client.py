"""Whether our load generator is fast enough to measure a server: beside perf_analyzer and a stock tritonclient user.

In      the published models digits and minilm.
Out     a table and benchmarks/results/load_client.json; ``--check`` exits 1 where a target is missed.

Interleaved, round by round: our scenario, perf_analyzer at the same concurrency (where the server is the limit), a locust user that
calls tritonclient's own ``infer`` as its examples do, and one that only calls grpcio (requests per second of client CPU). The
server is pinned to a core of its own where there are two.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._parts.common import Inputs, parser, perf_analyzer, ratio_row, scratch_folder, serve, show_ratios, stamp
from clients import published
from measure.operating_point import locust_process
from measure.operating_point.locust_process import FILE
from planwright import console
from planwright.server_info import ServerInfo

TARGETS = {"throughput": 0.95, "cpu": 3.0}
SERVER_CORE, CLIENT_CORE = 0, 1
SERVER_BOUND, SMALL = "minilm", "digits"
USERS, SECONDS = 8, 8.0
PERF_ANALYZER = "get it from tritonclient's wheel: 2.60 has one for glibc 2.38, 2.50 one for glibc 2.35 (with libb64 and libcudart 12)"


def main(argv: Sequence[str]) -> int:
    p = parser(__doc__)
    p.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default: %(default)s)")
    p.add_argument("--seconds", type=float, default=SECONDS, help="per measurement (default: %(default)s)")
    args = p.parse_args(argv)
    inputs = Inputs()
    inputs.models(args.repository, SERVER_BOUND, SMALL)
    args.perf_analyzer = inputs.program("perf_analyzer", PERF_ANALYZER, "PERF_ANALYZER")
    inputs.require()
    pinned = len(os.sched_getaffinity(0)) > 1
    prefix = ("taskset", "-c", str(SERVER_CORE)) if pinned else ()
    with scratch_folder() as scratch, serve(args.repository, prefix=prefix, file=scratch / "server.json") as server:
        rounds = [_round(args, server, scratch, pinned=pinned) for _ in range(args.rounds)]
    rows = _rows(rounds)
    show_ratios("the load generator", rows)
    value = {**stamp(), "pinned": pinned, "users": USERS, "rounds": rounds, "rows": rows}
    return inputs.conclude("load_client", value, met=all(row["met"] for row in rows), check=args.check)


def _round(args: argparse.Namespace, server: ServerInfo, scratch: Path, *, pinned: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    prefix = ["taskset", "-c", str(CLIENT_CORE)] if pinned else []
    for protocol in ("http", "grpc"):
        ours = _load(args, scratch, prefix, SERVER_BOUND, protocol)
        found[f"{protocol} ours"] = ours["throughput_per_s"]
        found[f"{protocol} perf_analyzer"] = _perf_analyzer(args, server, scratch, prefix, protocol)
        small = _load(args, scratch, prefix, SMALL, protocol)
        found[f"{protocol} ours, requests per client core second"] = small["per_core_s"]
    for side, tag in (("stock", "grpc"), ("bare", "bare")):
        others = _load(args, scratch, prefix, SMALL, tag, "benchmarks/_parts/stock_user.py")
        found[f"{side} grpc, requests per client core second"] = others["per_core_s"]
    console.say(json.dumps({name: round(value, 1) for name, value in found.items()}))
    return found


def _load(args: argparse.Namespace, scratch: Path, prefix: list[str], model: str, protocol: str, file: str = FILE) -> dict[str, float]:  # fmt: skip
    """Return samples per second and requests per second of client CPU."""
    runs = Path(tempfile.mkdtemp(dir=scratch))
    environment = locust_process.environment(model, runs, args.repository, scratch / "server.json", warmup_s="2")
    command = [*prefix, *locust_process.command(USERS, protocol, "-t", f"{args.seconds + 2:.0f}s", file=file)]
    report = locust_process.run(command, environment, runs, args.seconds + 120)
    requests, rate = (sum(row[key] for row in report["models"]) for key in ("requests", "throughput_per_s"))
    return {"throughput_per_s": rate, "per_core_s": requests / max(report["client"]["cpu_s"], 1e-9)}


def _perf_analyzer(args: argparse.Namespace, server: ServerInfo, scratch: Path, prefix: list[str], protocol: str) -> float:  # fmt: skip
    """Return perf_analyzer's inferences per second with as many requests in flight and our golden samples as its data."""
    data = scratch / "perf_analyzer.json"
    if not data.exists():
        data.write_text(json.dumps(_golden(args.repository, SERVER_BOUND)))
    url = server.http_url if protocol == "http" else server.grpc_url
    return perf_analyzer(
        *prefix, args.perf_analyzer, "-m", SERVER_BOUND, "-u", url, "-i", protocol, "--input-data", str(data), "--concurrency-range", str(USERS),
        "--measurement-mode", "time_windows", "--measurement-interval", f"{args.seconds * 1000 / 3:.0f}",
        "--stability-percentage", "100", "--max-trials", "3", timeout_s=args.seconds * 10 + 120,
    )  # fmt: skip


def _golden(repository: Path, model: str) -> dict[str, Any]:
    """Return golden samples in perf_analyzer's format, shuffled.

    It sends them in order, we draw them at random: adjacent samples of equal length would be batched more often than drawn ones.
    """
    version = published.served(repository, model)
    assert version is not None
    rows = [
        {name: {"content": a[0].ravel().tolist(), "shape": list(a.shape[1:])} for name, a in group.inputs.items()}
        for group in version.golden().samples()
    ]
    random.Random(1).shuffle(rows)
    return {"data": rows}


def _rows(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def ratios(side: str, over: str) -> list[float]:
        return [each[side] / each[over] for each in rounds]

    per_core = "requests per client core second"
    rows = [
        ratio_row(f"{protocol}: locust scenario / perf_analyzer, infer/sec, {SERVER_BOUND}",
                  ratios(f"{protocol} ours", f"{protocol} perf_analyzer"), TARGETS["throughput"])
        for protocol in ("http", "grpc")
    ]  # fmt: skip
    rows += [
        ratio_row(f"{protocol}: our user / stock tritonclient.grpc user, requests per client core, {SMALL}",
                  ratios(f"{protocol} ours, {per_core}", f"stock grpc, {per_core}"), TARGETS["cpu"])
        for protocol in ("http", "grpc")
    ]  # fmt: skip
    bare = ratios(f"bare grpc, {per_core}", f"stock grpc, {per_core}")
    return [*rows, ratio_row(f"grpc: grpcio alone, ready bytes, no answer read / the stock user, {SMALL}", bare, None)]


if __name__ == "__main__":
    console.run(main)
