"""One measurement: locust, run once against a server as it is set, and what that cost.

In      a `Bench`, a `Load`.
Out     `Measured`: the figures of locust's own report.json, the server's CPU and memory, the GPU's power.

Start-up noise differs from repeat to repeat instead of being shared. locust gets a session of its own, so that Ctrl-C reaches
the sweep alone, which then ends it. CPU is taken per request over the whole life of that process and multiplied by the
rate: outside the load a server costs next to nothing, and its exact begin need not be known.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure.operating_point import locust_process
from measure.operating_point.server import Bench
from measure.operating_point.usage import Gpu, Meter, Usage
from measure.report.verdict import LOUD
from planwright.polling import ended

READ_EVERY_S, STOP_S, EXTRA_S = 0.25, 10.0, 120.0


@dataclass(frozen=True)
class Load:
    """How the server is asked.

    Attributes:
        users: Requests in flight.
        protocol: ``http``, ``grpc``, ``shm`` or ``cuda``.
        batch: Samples per request.
        duration_s: Length that counts.
        warmup_s: Start that does not.
        processes: Of locust, which share the users.
    """

    users: int
    protocol: str
    batch: int
    duration_s: float
    warmup_s: float
    processes: int = 1


@dataclass(frozen=True)
class Measured:
    """What one measurement found.

    Attributes:
        throughput_per_s: Samples per second.
        latency_us: p50, p90, p95, p99, p99.9, mean, min, max.
        requests: Answered after the warm-up.
        failures, wrong: Over the whole run; a request that was never answered is a failure.
        errors: What went wrong, in words.
        mean_batch: Samples per execution, by the server's counters.
        batches: (size, count) of executed batches.
        client_cores: CPU cores that the load used.
        client_limited: The run itself said that the client was the limit.
        server_cores: CPU cores that the server used at this rate; None where it cannot be seen.
        usage: See `usage.Usage`.
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
            _command(load), cwd=locust_process.ROOT, env=_environment(bench, load, repository, runs),
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
        )  # fmt: skip
    try:
        _wait(process, meter, time.monotonic() + load.duration_s + load.warmup_s + EXTRA_S)
    finally:
        _end(process)
    report = locust_process.report(runs, said.read_text(errors="replace"))
    written_s_ago = time.time() - next(runs.glob("*/report.json")).stat().st_mtime
    stopped_s = time.monotonic() - written_s_ago
    return _figures(report, bench.model, meter.usage(stopped_s - load.duration_s, stopped_s))


def _environment(bench: Bench, load: Load, repository: Path, runs: Path) -> dict[str, str]:
    file = runs / "server.json"
    # with our own process id where the server's is unknown: a file whose process is gone would not be believed
    info = bench.server
    (info if info.pid else type(info)(**{**vars(info), "pid": os.getpid()})).write(file)
    return locust_process.environment(
        bench.model,
        runs,
        repository,
        file,
        batch=str(load.batch),
        warmup_s=str(load.warmup_s),
        length_s=str(load.duration_s),
        url=info.http_url,
        grpc_url=info.grpc_url,
    )


def _command(load: Load) -> list[str]:
    spread = ["--processes", str(load.processes)] if load.processes > 1 else []
    return locust_process.command(load.users, load.protocol, *spread)


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
    if not ended(process):
        os.killpg(process.pid, signal.SIGKILL)  # its group is its own: its workers end too
    process.wait()


def _client_cores(report: dict[str, Any]) -> float:
    """Return the cores of all processes; ``cpu_share`` is the busiest one's."""
    client = report["client"]
    return max(float(client["cpu_share"]), float(client["cpu_s"]) / max(float(report["duration_s"]), 1.0))


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
        failures=row["failures"] + row.get("unanswered", 0), wrong=row["wrong"], errors=tuple(errors),
        mean_batch=server.get("mean_batch", 0.0),
        batches=tuple((batch["size"], batch["count"]) for batch in server.get("batches", [])),
        client_cores=_client_cores(report),
        client_limited=any(reason.startswith(LOUD) for reason in report["verdict"]["reasons"]),
        server_cores=(usage.cpu_s or 0.0) / inferences * row["throughput_per_s"] if seen else None, usage=usage,
    )  # fmt: skip
