"""Steps 'served' and 'clients' of h100.py: our Python-based tensorrt backend under perf_analyzer, the clients and locust.

In      plans built and published by the step 'build'.
Out     rates beside that of the engine alone, measured interleaved; verdicts of validate and the load test.

perf_analyzer comes with tritonclient 2.60's wheel; it measures, so that our own code does not count its own requests.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks._h100.steps import REPOSITORY, BenchmarkStep, build_model, plan_path
from benchmarks._parts.common import ROOT, perf_analyzer, run_module, serve
from clients.options import TRANSPORTS
from measure.operating_point import locust_process
from planwright import console
from planwright.errors import MachineError, StageError
from planwright.server_info import ServerInfo

MODEL, BATCH = "resnet50_fp16", 64
INSTANCES = (3, 4, 6)
ROUNDS = 3
KEPT = ("model", "transport", "batch", "verdict", "reason", "cosine", "relative")  # of a row of validate
# case, perf_analyzer's flags, smallest share of the engine alone (or images/s)
CASES: tuple[tuple[str, list[str], float], ...] = (
    ("cuda", ["-b", str(BATCH), "--shared-memory=cuda", "--output-shared-memory-size=262144", "--concurrency-range=12"], 0.8),
    ("system", ["-b", str(BATCH), "--shared-memory=system", "--output-shared-memory-size=262144", "--concurrency-range=12"], 0.6),
    ("single", ["-b", "1", "--shared-memory=system", "--output-shared-memory-size=4096", "--concurrency-range=256"], 12_000.0),
)  # fmt: skip


def served(step: BenchmarkStep) -> None:
    tuning = {count: _all_cases(count) for count in INSTANCES}
    step.row(tuning={case: {count: rates[case] for count, rates in tuning.items()} for case, _, _ in CASES})
    best = {case: max(INSTANCES, key=lambda count: tuning[count][case]) for case, _, _ in CASES}
    for count in sorted(set(best.values())):
        _measure(step, count, [each for each in CASES if best[each[0]] == count])


def _all_cases(count: int) -> dict[str, float]:
    with _serving(count) as server:
        return {case: _rate(server, flags) for case, flags, _ in CASES}


def _measure(step: BenchmarkStep, count: int, cases: Sequence[tuple[str, list[str], float]]) -> None:
    from builders.diagnostics.bench_engine import measure_plan
    from builders.diagnostics.lanes import BenchSetting

    alone: list[float] = []
    rates: dict[str, list[float]] = {case: [] for case, _, _ in cases}
    with _serving(count) as server:
        for _ in range(ROUNDS):
            alone.append(measure_plan(plan_path(MODEL), BenchSetting(BATCH, 1, True), seconds=1.5).samples_per_s)
            for case, flags, _ in cases:
                rates[case].append(_rate(server, flags))
    engine = statistics.median(alone)
    step.row(engine_alone=alone, batch=BATCH, setting="1 stream, CUDA graph, host copies on, the server idle")
    for case, flags, target in cases:
        middle = statistics.median(rates[case])
        share = round(middle / engine, 4)
        step.row(case=case, instances=count, images_per_s=rates[case], share_of_engine=share, flags=" ".join(flags))
        step.figure(f"{case}, {count} instances", middle if target > 1 else middle / engine, ">=", target)


@contextmanager
def _serving(count: int) -> Iterator[ServerInfo]:
    with tempfile.TemporaryDirectory(prefix="planwright-h100-") as scratch:
        copy = Path(scratch) / MODEL
        shutil.copytree(ROOT / REPOSITORY / MODEL, copy)
        path = copy / "config.pbtxt"
        path.write_text(re.sub(r"count: \d+", f"count: {count}", path.read_text()))
        with serve(Path(scratch), "--trust-repository") as server:
            yield server


def _rate(server: ServerInfo, flags: list[str]) -> float:
    """Return perf_analyzer's inferences per second; 0 where it failed, after printing its error."""
    command = ["perf_analyzer", "-m", MODEL, "-u", server.grpc_url, "-i", "grpc", "--measurement-interval=2000",
               "--stability-percentage=25", "--max-trials=8"]  # fmt: skip
    try:
        return perf_analyzer(*command, *flags, timeout_s=90, accept_unstable=True)
    except MachineError as error:
        console.say(error.faults[0].why)
        return 0.0


def clients(step: BenchmarkStep) -> None:
    names = ("digits_int8", "digits_fp16", "minilm_fp16", "resnet50_fp16", "resnet50_int8")
    with tempfile.TemporaryDirectory(prefix="planwright-h100-") as scratch:
        folder = Path(scratch)
        for name in names:
            build_model(name)
            shutil.copytree(ROOT / REPOSITORY / name, folder / name)
        with serve(folder) as server:
            where = ["--url", server.http_url, "--grpc-url", server.grpc_url, "--repository", str(folder)]
            done = run_module("clients", "validate", "--json", *where)
            document = json.loads(done.stdout)
            for row in document["rows"]:
                step.row(**{key: row[key] for key in KEPT})
            transports = {row["transport"] for row in document["rows"] if row["verdict"] == "ok"}
            step.require(done.returncode == 0 and document["failures"] == 0, "validate: no wrong answer")
            step.require(transports == set(TRANSPORTS), f"every transport answered: {sorted(transports)}")
            _load(step, server, folder)


def _load(step: BenchmarkStep, server: ServerInfo, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="planwright-runs-") as runs:
        settings = {"check": "0.1", "url": server.http_url, "grpc_url": server.grpc_url}
        file = Path(runs) / "server.json"
        server.write(file)
        environment = locust_process.environment("", Path(runs), folder, file, **settings)
        command = [sys.executable, "-m", "locust", "-f", locust_process.FILE, "--headless", "-u", "24", "-r", "24", "-t", "20s",
                   "--processes", "4", "--only-summary"]  # fmt: skip
        try:
            report = locust_process.run(command, environment, Path(runs), 120)
        except StageError as error:
            step.require(False, f"the load test left a report: {error.faults[0].why}")
            return
        for row in report["models"]:
            counts = {key: row[key] for key in ("protocol", "requests", "checked", "wrong", "failures")}
            step.row(load=row["model"], **counts)
        bad = sum(row["wrong"] + row["failures"] for row in report["models"])
        step.require(bad == 0, "locust: no wrong and no failed answer")
        step.require(sum(row["checked"] for row in report["models"]) > 100, "locust: answers were checked")
