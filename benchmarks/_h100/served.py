"""Steps 'served' and 'clients' of h100.py: our Python-based tensorrt backend under perf_analyzer, the clients and locust.

In      plans that the step 'build' made and published.
Out     rates beside that of the engine alone, measured in turn; validate's and the load test's verdicts.

perf_analyzer comes with tritonclient 2.60's wheel; it is the judge, so that no code of ours counts its own requests.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks._h100.steps import REPOSITORY, ROOT, Step, build_model, plan_path
from benchmarks._parts.common import serve
from planwright import console
from planwright.server_info import ServerInfo

MODEL, BATCH = "resnet50_fp16", 64
INSTANCES = (3, 4, 6)
ROUNDS = 3
# what is asked, perf_analyzer's flags, least share of the engine alone (or images/s)
CASES: tuple[tuple[str, list[str], float], ...] = (
    (
        "cuda",
        ["-b", str(BATCH), "--shared-memory=cuda", "--output-shared-memory-size=262144", "--concurrency-range=12"],
        0.8,
    ),
    (
        "system",
        ["-b", str(BATCH), "--shared-memory=system", "--output-shared-memory-size=262144", "--concurrency-range=12"],
        0.6,
    ),
    (
        "single",
        ["-b", "1", "--shared-memory=system", "--output-shared-memory-size=4096", "--concurrency-range=256"],
        12_000.0,
    ),
)


def served(step: Step) -> None:
    """Find the best number of instances for each case, then measure it and the engine alone in turn."""
    tuning = {count: _all_cases(count) for count in INSTANCES}
    step.row(tuning={case: {count: rates[case] for count, rates in tuning.items()} for case, _, _ in CASES})
    best = {case: max(INSTANCES, key=lambda count: tuning[count][case]) for case, _, _ in CASES}
    for count in sorted(set(best.values())):
        _measure(step, count, [each for each in CASES if best[each[0]] == count])


def _all_cases(count: int) -> dict[str, float]:
    with _serving(count) as server:
        return {case: _judge(server, flags) for case, flags, _ in CASES}


def _measure(step: Step, count: int, cases: Sequence[tuple[str, list[str], float]]) -> None:
    from builders.diagnostics.bench_engine import measure_plan
    from builders.diagnostics.bench_figures import BenchSetting

    alone: list[float] = []
    rates: dict[str, list[float]] = {case: [] for case, _, _ in cases}
    with _serving(count) as server:
        for _ in range(ROUNDS):
            alone.append(measure_plan(plan_path(MODEL), BenchSetting(BATCH, 1, True), seconds=1.5).samples_per_s)
            for case, flags, _ in cases:
                rates[case].append(_judge(server, flags))
    engine = sorted(alone)[ROUNDS // 2]
    step.row(engine_alone=alone, batch=BATCH, setting="1 stream, CUDA graph, host copies on, the server idle")
    for case, flags, target in cases:
        middle = sorted(rates[case])[ROUNDS // 2]
        step.row(
            case=case,
            instances=count,
            images_per_s=rates[case],
            share_of_engine=round(middle / engine, 4),
            flags=" ".join(flags),
        )
        step.figure(f"{case}, {count} instances", middle if target > 1 else middle / engine, ">=", target)


@contextmanager
def _serving(count: int) -> Iterator[ServerInfo]:
    """Serve a copy of the model with `count` instances."""
    with tempfile.TemporaryDirectory(prefix="planwright-h100-") as scratch:
        copy = Path(scratch) / MODEL
        shutil.copytree(ROOT / REPOSITORY / MODEL, copy)
        path = copy / "config.pbtxt"
        path.write_text(re.sub(r"count: \d+", f"count: {count}", path.read_text()))
        with serve(Path(scratch), "--trust-repository") as server:
            yield server


def _judge(server: ServerInfo, flags: list[str]) -> float:
    """Return perf_analyzer's inferences per second; 0 where it failed, and says why."""
    with tempfile.NamedTemporaryFile(suffix=".csv") as out:
        command = ["perf_analyzer", "-m", MODEL, "-u", server.grpc_url, "-i", "grpc", "--measurement-interval=2000",
                   "--stability-percentage=25", "--max-trials=8", "-f", out.name, *flags]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=90)
        rows = list(csv.DictReader(Path(out.name).read_text().splitlines()))
    if not rows:
        console.say(done.stdout[-800:] + done.stderr[-800:])
        return 0.0
    return float(rows[0]["Inferences/Second"])


def clients(step: Step) -> None:
    """Answer golden samples by every transport, then load all models and check every tenth answer."""
    names = ("digits_int8", "digits_fp16", "minilm_fp16", "resnet50_fp16", "resnet50_int8")
    with tempfile.TemporaryDirectory(prefix="planwright-h100-") as scratch:
        folder = Path(scratch)
        for name in names:
            build_model(name)
            shutil.copytree(ROOT / REPOSITORY / name, folder / name)
        with serve(folder) as server:
            where = ["--url", server.http_url, "--grpc-url", server.grpc_url, "--repository", str(folder)]
            done = subprocess.run(
                [sys.executable, "-m", "clients", "validate", "--json", *where],
                cwd=ROOT,
                capture_output=True,
                text=True,
            )
            document = json.loads(done.stdout)
            for row in document["rows"]:
                step.row(
                    **{k: row[k] for k in ("model", "transport", "batch", "verdict", "reason", "cosine", "relative")}
                )
            transports = {row["transport"] for row in document["rows"] if row["verdict"] == "ok"}
            step.require(done.returncode == 0 and document["failures"] == 0, "validate: no wrong answer")
            step.require(
                transports == {"http", "grpc", "shm", "cuda"}, f"every transport answered: {sorted(transports)}"
            )
            _load(step, server, folder)


def _load(step: Step, server: ServerInfo, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="planwright-runs-") as runs:
        environment = {**os.environ, "PLANWRIGHT_URL": server.http_url, "PLANWRIGHT_GRPC_URL": server.grpc_url, "PLANWRIGHT_CHECK": "0.1",
                       "PLANWRIGHT_REPOSITORY": str(folder), "PLANWRIGHT_RUNS": runs}  # fmt: skip
        command = [
            sys.executable,
            "-m",
            "locust",
            "-f",
            "loadtest/",
            "--headless",
            "-u",
            "24",
            "-r",
            "24",
            "-t",
            "20s",
            "--processes",
            "4",
            "--only-summary",
        ]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        found = list(Path(runs).glob("*/report.json"))
        if not found:
            step.require(False, f"the load test left a report: {done.stdout[-500:]}{done.stderr[-500:]}")
            return
        report = json.loads(found[0].read_text())
        for row in report["models"]:
            step.row(
                load=row["model"],
                protocol=row["protocol"],
                requests=row["requests"],
                checked=row["checked"],
                wrong=row["wrong"],
                failures=row["failures"],
            )
        step.require(
            sum(row["wrong"] + row["failures"] for row in report["models"]) == 0,
            "locust: no wrong and no failed answer",
        )
        step.require(sum(row["checked"] for row in report["models"]) > 100, "locust: answers were checked")
