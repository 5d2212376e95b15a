"""Is our load generator fast enough to measure a server: beside perf_analyzer, and beside a stock tritonclient user.

In      the published models digits and resnet50 (or minilm).
Out     a table and benchmarks/results/load_client.json; ``--check`` exits 1 where a target is missed.

In turn, round by round: our scenario, perf_analyzer at the same concurrency (where the server is the limit), a locust user that
calls tritonclient's own ``infer`` as its examples do, and one that does nothing but call grpcio (requests per second of client CPU). The
server has a core of its own where there are two.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks._parts.common import Inputs, serve, stamp  # noqa: E402
from clients import published  # noqa: E402
from measure.operating_point import locust_process  # noqa: E402
from planwright import console  # noqa: E402
from planwright.errors import Fault, MachineError  # noqa: E402
from planwright.server_info import ServerInfo  # noqa: E402

TARGETS = {"throughput": 0.95, "cpu": 3.0}
SERVER_CORE, CLIENT_CORE = 0, 1
SERVER_BOUND, SMALL = "minilm", "digits"
USERS, SECONDS = 8, 8.0
PERF_ANALYZER = "take it from tritonclient's wheel: 2.60 has one for glibc 2.38, 2.50 one for glibc 2.35 (with libb64 and libcudart 12)"


def main(argv: Sequence[str]) -> int:
    """Measure in rounds."""
    p = console.Parser(prog="benchmarks/load_client.py", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=SECONDS, help="per measurement (default: %(default)s)")
    p.add_argument("--repository", type=Path, default=ROOT / "model_repository")
    p.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    args = p.parse_args(argv)
    inputs = Inputs()
    inputs.models(args.repository, SERVER_BOUND, SMALL)
    args.perf_analyzer = inputs.program("perf_analyzer", PERF_ANALYZER, "PERF_ANALYZER")
    inputs.require()
    pinned = len(os.sched_getaffinity(0)) > 1
    prefix = ("taskset", "-c", str(SERVER_CORE)) if pinned else ()
    with (
        serve(args.repository, prefix=prefix) as server,
        tempfile.TemporaryDirectory(prefix="planwright-bench-") as folder,
    ):
        scratch = Path(folder)
        server.write(scratch / "server.json")
        rounds = [_round(args, server, scratch, pinned=pinned) for _ in range(args.rounds)]
    rows = _rows(rounds)
    _show(rows)
    value = {**stamp(), "pinned": pinned, "users": USERS, "rounds": rounds, "rows": rows}
    return inputs.conclude("load_client", value, met=all(row["met"] for row in rows), check=args.check)


def _round(args: argparse.Namespace, server: ServerInfo, scratch: Path, *, pinned: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    prefix = ["taskset", "-c", str(CLIENT_CORE)] if pinned else []
    for protocol in ("http", "grpc"):
        ours = _load(args, scratch, prefix, SERVER_BOUND, protocol)
        found[f"{protocol} ours"] = ours["throughput_per_s"]
        found[f"{protocol} perf_analyzer"] = _perf_analyzer(args, server, scratch, prefix, SERVER_BOUND, protocol)
        small = _load(args, scratch, prefix, SMALL, protocol)
        found[f"{protocol} ours, requests per client core second"] = small["per_core_s"]
    for side, tag in (("stock", "grpc"), ("bare", "bare")):
        others = _load(args, scratch, prefix, SMALL, tag, "benchmarks/_parts/stock_user.py")
        found[f"{side} grpc, requests per client core second"] = others["per_core_s"]
    console.say(json.dumps({name: round(value, 1) for name, value in found.items()}))
    return found


def _load(
    args: argparse.Namespace,
    scratch: Path,
    prefix: list[str],
    model: str,
    protocol: str,
    file: str = locust_process.FILE,
) -> dict[str, float]:
    """Return samples per second and requests per second of client CPU."""
    runs = Path(tempfile.mkdtemp(dir=scratch))
    environment = locust_process.environment(model, runs, args.repository, scratch / "server.json", warmup_s="2")
    command = [*prefix, *locust_process.command(USERS, protocol, "-t", f"{args.seconds + 2:.0f}s", file=file)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=args.seconds + 120
    )
    report = locust_process.report(runs, done.stdout + done.stderr)
    rows = report["models"]
    requests = sum(row["requests"] for row in rows)
    return {
        "throughput_per_s": sum(row["throughput_per_s"] for row in rows),
        "per_core_s": requests / max(report["client"]["cpu_s"], 1e-9),
    }


def _perf_analyzer(
    args: argparse.Namespace, server: ServerInfo, scratch: Path, prefix: list[str], model: str, protocol: str
) -> float:
    """Return inferences per second of perf_analyzer at the same number in flight, with our golden samples as its data."""
    data, table = scratch / f"{model}.json", scratch / "perf.csv"
    if not data.exists():
        data.write_text(json.dumps(_golden(args.repository, model)))
    url = server.http_url if protocol == "http" else server.grpc_url
    command = [*prefix, args.perf_analyzer, "-m", model, "-u", url, "-i", protocol, "--input-data", str(data), "--concurrency-range", str(USERS),
               "--measurement-mode", "time_windows", "--measurement-interval", f"{args.seconds * 1000 / 3:.0f}", "-f", str(table),
               "--stability-percentage", "100", "--max-trials", "3"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=args.seconds * 10 + 120)
    if done.returncode or not table.exists():
        raise MachineError(Fault("perf_analyzer failed", why=(done.stdout + done.stderr)[-600:], fix="run it by hand"))
    with table.open() as stream:
        return float(next(csv.DictReader(stream))["Inferences/Second"])


def _golden(repository: Path, model: str) -> dict[str, Any]:
    """Return golden samples in perf_analyzer's form, shuffled.

    It sends them in their order; ours are drawn. Neighbours of one length would be batched, as drawn ones seldom are.
    """
    newest = max((repository / model).glob("*/build.json"), key=lambda path: int(path.parent.name)).parent.name
    samples = published.version(repository, model, newest).golden().samples()
    rows = []
    for group in samples:
        rows.append(
            {n: {"content": a[0].ravel().tolist(), "shape": list(a.shape[1:])} for n, a in group.inputs.items()}
        )
    random.Random(1).shuffle(rows)
    return {"data": rows}


def _rows(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for protocol in ("http", "grpc"):
        ratios = [r[f"{protocol} ours"] / r[f"{protocol} perf_analyzer"] for r in rounds]
        rows.append(
            _row(
                f"{protocol}: locust scenario / perf_analyzer, infer/sec, {SERVER_BOUND}", ratios, TARGETS["throughput"]
            )
        )
    stock = "stock grpc, requests per client core second"
    for protocol in ("http", "grpc"):
        ratios = [r[f"{protocol} ours, requests per client core second"] / r[stock] for r in rounds]
        rows.append(
            _row(
                f"{protocol}: our user / stock tritonclient.grpc user, requests per client core, {SMALL}",
                ratios,
                TARGETS["cpu"],
            )
        )
    bare = [r["bare grpc, requests per client core second"] / r[stock] for r in rounds]
    rows.append(_row(f"grpc: grpcio alone, ready bytes, no answer read / the stock user, {SMALL}", bare, None))
    return rows


def _row(what: str, ratios: list[float], target: float | None) -> dict[str, Any]:
    median = statistics.median(ratios)
    return {
        "what": what,
        "ratio": median,
        "low": min(ratios),
        "high": max(ratios),
        "target": target,
        "met": target is None or median >= target,
    }


def _judged(row: dict[str, Any]) -> list[str]:
    return ["", ""] if row["target"] is None else [f">= {row['target']:g}", "met" if row["met"] else "MISSED"]


def _show(rows: list[dict[str, Any]]) -> None:
    console.table(
        "the load generator", ["what", "median", "range", "target", ""],
        [[r["what"], f"{r['ratio']:.3f}", f"{r['low']:.3f} - {r['high']:.3f}", *_judged(r)] for r in rows],
    )  # fmt: skip


if __name__ == "__main__":
    console.run(main)
