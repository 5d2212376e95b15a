"""Steps 'routes', 'torch' and 'search' of h100.py: other ways to a plan, and PyTorch beside it.

In      graphs prepared for a network built by its source, for native calibration, for the search; an interpreter with PyTorch.
Out     a row each; PyTorch's speed and the plan's in one run of ``python -m builders bench``.

PyTorch may be installed in another interpreter than TensorRT: the environment variable TORCH_PYTHON names it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from benchmarks._h100.steps import BUILD, CONFIG, BenchmarkStep, build_model
from benchmarks._parts.common import run_module
from planwright import console

SCORE_LOST, TIMEOUT_S = 0.005, 420


def routes(step: BenchmarkStep) -> None:
    scores = {}
    for name in ("digits_fp32", "digits_api", "digits_native"):
        report = build_model(name)
        step.require(report["status"] != "failed", f"{name} is built and verified")
        kept = {key: report[key] for key in ("status", "verify", "realised")}
        step.row(route=name, faults=report["errors"], **kept)
        scores[name] = float(report["verify"].get("score", {}).get("accuracy", 0.0))
    for name in ("digits_api", "digits_native"):
        step.figure(f"accuracy lost by {name}", scores["digits_fp32"] - scores[name], "<=", SCORE_LOST)


def torch(step: BenchmarkStep) -> None:
    build_model("resnet50_fp16")
    python = os.environ.get("TORCH_PYTHON", sys.executable)
    flags = ["--batch", "1,128", "--streams", "1", "--seconds", "0.7", "--torch", "--torch-python", python]
    rows = _builders(step, "bench", "resnet50_fp16", *flags).get("rows", [])
    for row in rows:
        step.row(**{key: value for key, value in row.items() if key != "rounds"})
    for batch in (1, 128) if rows else ():
        ours, theirs = (
            max(row["samples_per_s"] for row in rows if row["batch"] == batch and row["engine"].startswith(engine))
            for engine in ("tensorrt", "torch")
        )
        step.figure(f"plan over the fastest of PyTorch, batch {batch}", ours / theirs, ">=", 1.0)


def search(step: BenchmarkStep) -> None:
    found = _builders(step, "search", "minilm_int8", "--engine")
    if found:
        step.row(search="minilm_int8", keep_fp32=found["keep_fp32"], engine=found["engine"])


def _builders(step: BenchmarkStep, command: str, *words: str) -> dict[str, Any]:
    """Return the JSON output of a command of builders; empty, with a missing input noted, where it failed."""
    places = ["--config", str(CONFIG), "--build", str(BUILD)]
    done = run_module("builders", command, *words, *places, "--json", timeout_s=TIMEOUT_S, show_errors=True)
    if not step.need(done.returncode == 0, f"{command} {' '.join(words)}"):
        console.say(done.stdout[-2000:])
        return {}
    found: dict[str, Any] = json.loads(done.stdout)
    return found
