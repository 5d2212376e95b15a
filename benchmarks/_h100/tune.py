"""Steps 'exhaustive', 'tune', 'pair' and 'graphs' of h100.py: settings found by measurement, on a GPU.

In      the plan of resnet50_fp16, published.
Out     benchmarks/results/h100_bench_*.json, made by benchmarks/tune.py, and their rows; a sweep over CUDA graphs with the GPU's
        power.

Requests hold eight images in system shared memory, sent by four processes, so that the server is the limit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks._h100.steps import REPOSITORY, BenchmarkStep, build_model
from benchmarks._parts.common import ROOT, read_record, run_module
from planwright import console

MODEL, TIMEOUT_S = "resnet50_fp16", 540
LOAD = ["--protocol", "shm", "--batch", "8", "--processes", "4"]
GRID = ["--instances", "1,2,3,4", "--queue-delay-us", "off,500", "--users", "16,64", "--whole-batch"]
TUNE = ["--points", "16", "--minutes", "5", "--rounds", "13"]
PREFIX = "h100_bench_"  # of the records that benchmarks/tune.py writes itself


def exhaustive(step: BenchmarkStep) -> None:
    build_model(MODEL)
    if not step.need(_benchmark("--until", "search") == 0, "the exhaustive search is stored"):
        return
    found = read_record(f"{PREFIX}tune_exhaustive_{MODEL}")
    for row in found["rows"]:
        step.row(**{key: row[key] for key in ("label", "rates_per_s", "latency_us", "within")})


def tune(step: BenchmarkStep) -> None:
    build_model(MODEL)
    if not step.need(_benchmark("--until", "tune") == 0, "tune found a setting within the SLO"):
        return
    found = read_record(f"{PREFIX}tuned_{MODEL}")
    step.row(**{key: found[key] for key in ("slo", "took_s", "pick")}, points=len(found["points"]))


def pair(step: BenchmarkStep) -> None:
    build_model(MODEL)
    if not step.need(_benchmark("--tuned") == 0, "pick, best and defaults were measured"):
        return
    row = read_record(f"{PREFIX}tune")["rows"][0]
    step.row(**row)
    step.require(row["met"], "tune's targets")


def _benchmark(*flags: str) -> int:
    places = ["--model", MODEL, "--repository", str(REPOSITORY), "--prefix", PREFIX]
    command = [sys.executable, "benchmarks/tune.py", *places, *LOAD, *GRID, *TUNE, *flags]
    return subprocess.run(command, cwd=ROOT, timeout=TIMEOUT_S).returncode


def graphs(step: BenchmarkStep) -> None:
    build_model(MODEL)
    with tempfile.TemporaryDirectory(prefix="planwright-h100-") as runs:
        load = ["--protocol", "cuda", *LOAD[2:], "--users", "32", "--repeats", "2", "--duration-s", "3"]
        grid = ["--instances", "1,3", "--cuda-graphs", "off,on"]
        places = ["--json", "--runs", runs, "--repository", str(REPOSITORY)]
        done = run_module("loadtest", "sweep", MODEL, *places, *load, *grid, timeout_s=TIMEOUT_S)
    if not step.need(done.returncode == 0, "the sweep over CUDA graphs"):
        console.say(done.stdout[-1500:] + done.stderr[-1500:])
        return
    report: dict[str, Any] = json.loads(done.stdout)
    for point in report["points"]:
        step.row(label=point["label"], sweep=point)
