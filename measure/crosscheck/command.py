"""referee: the same open loop run by our scenarios and by MLPerf LoadGen, side by side.

In      a published model, a rate; the package mlcommons-loadgen.
Out     a table: rate and percentiles of each, and their ratio.

LoadGen is the load generator of the MLPerf benchmarks. Both send the same prepared golden requests over the same protocol with
Poisson arrivals of the same rate, and both count latency from the moment a request was due.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clients import published
from measure.operating_point import locust_process
from planwright import console
from planwright.decimals import exact
from planwright.errors import EXIT_FAILED, EXIT_OK, Fault, MachineError, StageError
from planwright.files import ROOT
from planwright.server_info import SERVER_FILE, ServerInfo

PERCENTILES = ("p50", "p90", "p99", "p99.9")
SPARE_S = 120.0


def add_command(commands: Any) -> None:
    p = commands.add_parser("referee", help="cross-check Planwright's load generator against MLPerf LoadGen")
    p.add_argument("model", metavar="MODEL")
    p.add_argument("--rate", type=float, default=100.0, help="requests per second (default: %(default)s)")
    p.add_argument("--duration-s", type=float, default=20.0, help="length of each run (default: %(default)s)")
    p.add_argument("--connections", type=int, default=64, help="requests in flight at most (default: %(default)s)")
    p.add_argument("--protocol", choices=("http", "grpc"), default="http")
    p.add_argument("--server-file", type=Path, default=SERVER_FILE, help="written by python -m serving")
    console.add_json_flag(p)
    p.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    if find_spec("mlperf_loadgen") is None:
        why, fix = "the package mlcommons-loadgen is missing", "make setup, or: .venv/bin/pip install mlcommons-loadgen"
        raise MachineError(Fault("MLPerf LoadGen is not installed", why=why, fix=fix))
    server = ServerInfo.read(args.server_file)
    if server is None:
        raise MachineError(Fault("no server is running here", str(args.server_file), fix="python -m serving"))
    repository = Path(server.repository)
    published.select(repository, [args.model])
    load = {name: getattr(args, name) for name in ("model", "rate", "duration_s", "connections", "protocol")}
    rows = [ours(load, args.server_file, repository), loadgen(load, server, repository)]
    _show(args, rows)
    return EXIT_FAILED if any(row["failures"] for row in rows) else EXIT_OK


def ours(load: dict[str, Any], server_file: Path, repository: Path, url: str = "") -> dict[str, Any]:
    """Run our open loop; `url` replaces the server's HTTP address."""
    rate = f"{exact(load['rate'])}:{exact(load['duration_s'])}s"
    settings = {"arrivals": load.get("arrivals", "poisson"), "warmup_s": "0", "rate": rate}
    settings |= {"url": url} if url else {}
    return {"by": "planwright, open loop", **drive(load, server_file, repository, settings)}


def drive(load: dict[str, Any], server_file: Path, repository: Path, settings: dict[str, str], *flags: str) -> dict[str, Any]:  # fmt: skip
    """Run locust once with `settings`, named as in docs/loadtest.md, and return its figures.

    Raises:
        StageError: It left no report, or measured nothing.
    """
    command = locust_process.command(load["connections"], load["protocol"], *flags)
    with tempfile.TemporaryDirectory(prefix="planwright-referee-") as runs:
        environment = locust_process.environment(load["model"], Path(runs), repository, server_file, **settings)
        report = locust_process.run(command, environment, Path(runs), load["duration_s"] + SPARE_S)
    if not report["models"]:
        why = "; ".join(report["verdict"]["reasons"])
        raise StageError("load", Fault("the load measured nothing", why=why, fix=locust_process.TRY))
    row = report["models"][0]
    return {
        "requests": row["requests"], "failures": row["failures"] + row["unanswered"], "rate_per_s": report["load"]["offered_per_s"],
        "answers_per_s": row["throughput_per_s"], "latency_us": row["latency_us"], "service_us": row["service_us"],
        "load": report["load"], "client": report["client"],
    }  # fmt: skip


def loadgen(load: dict[str, Any], server: ServerInfo, repository: Path, url: str = "") -> dict[str, Any]:
    """Run LoadGen's server scenario in a child process.

    Raises:
        StageError: It failed.
    """
    from clients import TritonModel

    own = server.http_url if load["protocol"] == "http" else server.grpc_url
    with TritonModel(load["model"], own, protocol=load["protocol"]) as model:
        version = model.versions()[-1]
    address = url or own
    job = {**load, "url": address, "version": version, "repository": str(repository), "timeout_s": 60.0, "seed": 1}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(job, file)
        file.flush()
        done = subprocess.run(
            [sys.executable, "-m", "measure.crosscheck.loadgen", file.name], cwd=ROOT, capture_output=True, text=True,
            timeout=load["duration_s"] + SPARE_S,
        )  # fmt: skip
    if done.returncode:
        why = "\n".join(done.stderr.splitlines()[-3:])
        raise StageError("load", Fault("LoadGen failed", why=why, fix="check that the server answers"))
    return {"by": "MLPerf LoadGen", **json.loads(done.stdout.splitlines()[-1])}


def _show(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    ratios = [rows[0]["latency_us"][p] / max(rows[1]["latency_us"][p], 1e-9) for p in PERCENTILES]
    rate = rows[0]["rate_per_s"] / max(rows[1]["rate_per_s"], 1e-9)
    table = [*map(_row, rows), ["ratio", f"{rate:.3f}", "", "", *(f"{ratio:.3f}" for ratio in ratios)]]
    title = f"{args.model} over {args.protocol}, {args.rate:g} requests/s for {args.duration_s:g} s, latency from the moment due"
    console.table(title, ["by", "requests/s", "requests", "failed", *(f"{p} ms" for p in PERCENTILES)], table)
    if args.json:
        console.emit_json({"rows": rows, "ratios": dict(zip(PERCENTILES, ratios, strict=True))})


def _row(row: dict[str, Any]) -> list[str]:
    figures = [f"{row['latency_us'][p] / 1000:.2f}" for p in PERCENTILES]
    return [row["by"], f"{row['rate_per_s']:.1f}", str(row["requests"]), str(row["failures"]), *figures]
