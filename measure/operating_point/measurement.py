"""One measurement: locust, run once against a server in its current setting, and the resources that took.

In      a `ConfigurableModel`, a `Load`.
Out     `Measurement`: the figures of locust's own report.json, the server's CPU and memory, the GPU's power.

A new locust process for each repeat means that start-up noise varies between repeats instead of being shared. It runs in a session of
its own, so that Ctrl-C reaches the sweep alone, which then stops it. CPU is measured per request over that process's whole life and
multiplied by the rate: outside the load a server uses next to none, and the exact start of the load need not be known.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from measure.operating_point import locust_process
from measure.operating_point.server import ConfigurableModel
from measure.operating_point.usage import Gpu, Meter, Usage
from measure.report.verdict import LOUD
from planwright.files import ROOT
from planwright.own_server import ended

READ_EVERY_S, STOP_S, EXTRA_S = 0.25, 10.0, 120.0
T = TypeVar("T")


@dataclass(frozen=True)
class Load:
    """The load of one measurement.

    Attributes:
        users: Requests in flight.
        protocol: ``http``, ``grpc``, ``shm`` or ``cuda``.
        batch: Samples per request.
        duration_s: Measured time.
        warmup_s: Time before that, not measured.
        processes: Processes of locust, which share the users.
    """

    users: int
    protocol: str
    batch: int
    duration_s: float
    warmup_s: float
    processes: int = 1


@dataclass(frozen=True)
class Measurement:
    """The result of one measurement.

    Attributes:
        throughput_per_s: Samples per second.
        latency_us: p50, p90, p95, p99, p99.9, mean, min, max.
        requests: Answered after the warm-up.
        failures, wrong: Over the whole run; a request that was never answered is a failure.
        errors: What went wrong, in words.
        mean_batch: Samples per execution, by the server's counters.
        batches: (size, count) of executed batches.
        client_cores: CPU cores that the load used.
        client_limited: The run reported that the client was the limit.
        server_cores: CPU cores that the server used at this rate; None where they cannot be measured.
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


def interleaved(items: Sequence[T], rounds: int) -> Iterator[T]:
    """Yield all items in each round, every other round backwards, so that a slow spell of the machine affects all alike.

    >>> "".join(interleaved("abc", 2))
    'abccba'
    """
    for number in range(rounds):
        yield from items if number % 2 == 0 else reversed(items)


def measure(served: ConfigurableModel, load: Load, repository: Path, scratch: Path, gpu: Gpu | None) -> Measurement:
    """Load the server once.

    Raises:
        StageError: locust left no report.
    """
    runs = Path(tempfile.mkdtemp(prefix="run-", dir=scratch))
    meter = Meter(served.server.pid, gpu)
    output = runs / "locust.txt"
    spread = ["--processes", str(load.processes)] if load.processes > 1 else []
    with output.open("wb") as stream:
        process = subprocess.Popen(
            locust_process.command(load.users, load.protocol, *spread),
            cwd=ROOT, env=_environment(served, load, repository, runs),
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
        )  # fmt: skip
    try:
        _wait(process, meter, time.monotonic() + load.duration_s + load.warmup_s + EXTRA_S)
    finally:
        _end(process)
    report = locust_process.report(runs, output.read_text(errors="replace"))
    written_s_ago = time.time() - next(runs.glob("*/report.json")).stat().st_mtime
    stopped_s = time.monotonic() - written_s_ago
    return _figures(report, served.model, meter.usage(stopped_s - load.duration_s, stopped_s))


def _environment(served: ConfigurableModel, load: Load, repository: Path, runs: Path) -> dict[str, str]:
    file, info = runs / "server.json", served.server
    # where the server's process id is unknown, ours: a file whose process has ended would be ignored
    (info if info.pid else replace(info, pid=os.getpid())).write(file)
    settings = {"batch": load.batch, "warmup_s": load.warmup_s, "length_s": load.duration_s,
                "url": info.http_url, "grpc_url": info.grpc_url}  # fmt: skip
    words = {name: str(value) for name, value in settings.items()}
    return locust_process.environment(served.model, runs, repository, file, **words)


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
        os.killpg(process.pid, signal.SIGKILL)  # its process group is its own, so its workers end too
    process.wait()


def _client_cores(report: dict[str, Any]) -> float:
    """Return the CPU cores used by all processes; ``cpu_share`` is that of the busiest one."""
    client = report["client"]
    return max(float(client["cpu_share"]), float(client["cpu_s"]) / max(float(report["duration_s"]), 1.0))


def _figures(report: dict[str, Any], model: str, usage: Usage) -> Measurement:
    """Read the one model's row; where nothing was measured, the run's verdict says why."""
    server: dict[str, Any] = report["server"].get(model, {})
    nothing: dict[str, Any] = {"throughput_per_s": 0.0, "latency_us": {}, "failures": 0, "wrong": 0, "errors": []}
    row: dict[str, Any] = report["models"][0] if report["models"] else nothing
    answered = sum(count for _, count in row.get("histogram", []))
    errors = [f"{error['count']} × {error['text']}" for error in row["errors"][:3]]
    if not answered:
        errors += [reason for reason in report["verdict"]["reasons"] if reason not in errors][:3]
    inferences = server.get("inferences", 0)
    seen = usage.cpu_s is not None and inferences > 0
    return Measurement(
        throughput_per_s=row["throughput_per_s"], latency_us=row["latency_us"], requests=answered,
        failures=row["failures"] + row.get("unanswered", 0), wrong=row["wrong"], errors=tuple(errors),
        mean_batch=server.get("mean_batch", 0.0),
        batches=tuple((batch["size"], batch["count"]) for batch in server.get("batches", [])),
        client_cores=_client_cores(report),
        client_limited=any(reason.startswith(LOUD) for reason in report["verdict"]["reasons"]),
        server_cores=(usage.cpu_s or 0.0) / inferences * row["throughput_per_s"] if seen else None, usage=usage,
    )  # fmt: skip
