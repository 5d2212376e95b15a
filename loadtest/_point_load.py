"""One measurement: locust, run once against a server as it is set, and what that cost.

In      a `Bench`, a `Load`.
Out     `Measured`: the figures of locust's own report.json, the server's CPU and memory, the GPU's power.

locust is a process of its own each time: the load is the one that ``locust -f loadtest/`` makes, and start-up noise
differs from repeat to repeat instead of being shared. It gets a session of its own, so that Ctrl-C reaches the sweep
alone, which then ends it. CPU is taken per request over the whole life of that process and multiplied by the
rate: outside the load a server costs next to nothing, and its exact begin need not be known.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest._honesty import LOUD
from loadtest._point_server import Bench
from loadtest._point_usage import Gpu, Meter, Usage
from planwright.errors import Fault, StageError
from planwright.files import read_json
from planwright.polling import ended

ROOT = Path(__file__).resolve().parents[1]
READ_EVERY_S, STOP_S, EXTRA_S = 0.25, 10.0, 120.0


@dataclass(frozen=True)
class Load:
    """How the server is asked.

    Attributes:
        users: Requests in flight.
        protocol: ``http`` or ``grpc``.
        batch: Samples per request.
        duration_s: Length that counts.
        warmup_s: Start that does not.
    """

    users: int
    protocol: str
    batch: int
    duration_s: float
    warmup_s: float


@dataclass(frozen=True)
class Measured:
    """What one measurement found.

    Attributes:
        throughput_per_s: Samples per second.
        latency_us: p50, p90, p95, p99, p99.9, mean, min, max.
        requests: Answered after the warm-up.
        failures, wrong: Over the whole run.
        errors: What went wrong, in words.
        mean_batch: Samples per execution, by the server's counters.
        batches: (size, count) of executed batches.
        client_cores: CPU cores that the load used.
        client_limited: The run itself said that the client was the limit.
        server_cores: CPU cores that the server used at this rate; None where it cannot be seen.
        usage: See `_point_usage.Usage`.
    """

    throughput_per_s: float
    latency_us: dict[str, float]
    requests: int
    failures: int
    wrong: int
    errors: tuple[str, ...]
    mean_batch: float
    batches: tuple[tuple[int, int], ...]
    client_cores: float
    client_limited: bool
    server_cores: float | None
    usage: Usage


def measure(bench: Bench, load: Load, repository: Path, scratch: Path, gpu: Gpu | None) -> Measured:
    """Load the server once.

    Raises:
        StageError: locust left no report.
    """
    runs = Path(tempfile.mkdtemp(prefix="run-", dir=scratch))
    meter = Meter(bench.server.pid, gpu)
    said = runs / "locust.txt"
    with said.open("wb") as stream:
        process = subprocess.Popen(
            _command(load), cwd=ROOT, env=_environment(bench, load, repository, runs),
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
        )  # fmt: skip
    try:
        _wait(process, meter, time.monotonic() + load.duration_s + load.warmup_s + EXTRA_S)
    finally:
        _end(process)
    found = list(runs.glob("*/report.json"))
    if not found:
        why = "\n".join(said.read_text(errors="replace").splitlines()[-5:])
        fix = "try it by hand: locust -f loadtest/ --headless -t 5s"
        raise StageError("load", Fault("the load left no report", why=why, fix=fix))
    report: dict[str, Any] = read_json(found[0])
    stopped_s = found[0].stat().st_mtime
    return _figures(report, bench.model, meter.usage(stopped_s - load.duration_s, stopped_s))


def _environment(bench: Bench, load: Load, repository: Path, runs: Path) -> dict[str, str]:
    file = runs / "server.json"
    # with our own process id where the server's is unknown: a file whose process is gone would not be believed
    info = bench.server
    (info if info.pid else type(info)(**{**vars(info), "pid": os.getpid()})).write(file)
    # what the caller set for loads of their own must not change this one
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PLANWRIGHT_")}
    return {
        **ours, "PLANWRIGHT_MODELS": bench.model, "PLANWRIGHT_BATCH": str(load.batch), "PLANWRIGHT_WARMUP_S": str(load.warmup_s),
        "PLANWRIGHT_WAIT_S": "0", "PLANWRIGHT_RUNS": str(runs), "PLANWRIGHT_REPOSITORY": str(repository.resolve()),
        "PLANWRIGHT_SERVER_FILE": str(file), "PLANWRIGHT_URL": info.http_url, "PLANWRIGHT_GRPC_URL": info.grpc_url,
    }  # fmt: skip


def _command(load: Load) -> list[str]:
    seconds = max(1, math.ceil(load.duration_s + load.warmup_s))
    return [sys.executable, "-m", "locust", "-f", "loadtest/", "--headless", "--users", str(load.users), "--spawn-rate", str(load.users),
            "--run-time", f"{seconds}s", "--only-summary", "--loglevel", "ERROR",
            "InferGrpc" if load.protocol == "grpc" else "InferHttp"]  # fmt: skip


def _wait(process: subprocess.Popen[bytes], meter: Meter, deadline_s: float) -> None:
    meter.read()
    while not ended(process) and time.monotonic() < deadline_s:
        time.sleep(READ_EVERY_S)
        meter.read()


def _end(process: subprocess.Popen[bytes]) -> None:
    if ended(process):
        return
    process.terminate()
    deadline_s = time.monotonic() + STOP_S
    while not ended(process) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    process.kill()
    process.wait()


def _figures(report: dict[str, Any], model: str, usage: Usage) -> Measured:
    """Read the one model's row; a run that measured nothing says why in its verdict."""
    server: dict[str, Any] = report["server"].get(model, {})
    nothing: dict[str, Any] = {"throughput_per_s": 0.0, "latency_us": {}, "failures": 0, "wrong": 0, "errors": []}
    row: dict[str, Any] = report["models"][0] if report["models"] else nothing
    answered = sum(count for _, count in row.get("histogram", []))
    errors = [f"{error['count']} × {error['text']}" for error in row["errors"][:3]]
    if not answered:
        errors += [reason for reason in report["verdict"]["reasons"] if reason not in errors][:3]
    inferences = server.get("inferences", 0)
    seen = usage.cpu_s is not None and inferences > 0
    return Measured(
        throughput_per_s=row["throughput_per_s"], latency_us=row["latency_us"], requests=answered,
        failures=row["failures"], wrong=row["wrong"], errors=tuple(errors),
        mean_batch=server.get("mean_batch", 0.0),
        batches=tuple((batch["size"], batch["count"]) for batch in server.get("batches", [])),
        client_cores=report["client"]["cpu_share"],
        client_limited=any(reason.startswith(LOUD) for reason in report["verdict"]["reasons"]),
        server_cores=(usage.cpu_s or 0.0) / inferences * row["throughput_per_s"] if seen else None, usage=usage,
    )  # fmt: skip
