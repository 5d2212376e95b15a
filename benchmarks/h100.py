"""TensorRT on one GPU: built, verified, fast, served, and with clear errors.

In      ``--prepare`` on any machine with PyTorch: exports and graphs below build/h100. Then, on the GPU machine, the steps.
Out     a table per step and benchmarks/results/h100_<step>.json, written when the step has ended; ``--check`` exits 1
        where a stated target is missed.

Steps: build (twelve plans, verified, precision checked), engine (ResNet-50 alone, host copies on), served (our Python-based
backend, measured by perf_analyzer), cache (cold against warm builds), clients (every client and the load test, no wrong
answer), wrong (what must fail with a clear error), routes (a network built by its source, native calibration), torch (PyTorch
beside the plan), search (what INT8 must keep in FP32, judged on engines), exhaustive, tune, pair and graphs (settings
of the server found by measurement). An interrupted step can be resumed: current builds are kept. Both sides of a ratio
are measured in one step, interleaved. The timing cache is in build/h100/timing.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._h100 import routes, served, tune, wrong
from benchmarks._h100.steps import BUILD, CONFIG, MODELS, PRECISIONS, BenchmarkStep, build_model, plan_path
from benchmarks._parts.common import ROOT, Inputs, parser, random_weights
from builders.targets import choose
from measure.operating_point.measurement import interleaved
from planwright import console
from planwright.errors import EXIT_FAILED, EXIT_OK, MachineError

TARGETS = {"fp16": 30_000.0, "int8": 50_000.0, "cache": 0.25, "drift": 0.02, "accuracy": 0.005, "minilm_cosine": 0.999}
BATCHES, STREAMS, ROUNDS, SECONDS = (64, 128, 256), (1, 2), 3, 1.2


def main(argv: Sequence[str]) -> int:
    p = parser(__doc__, repository=False)
    p.add_argument("--prepare", action="store_true", help="export and quantize; needs PyTorch, no GPU")
    p.add_argument("--only", action="append", choices=list(STEPS), help="only this step (repeatable)")
    args = p.parse_args(argv)
    if args.prepare:
        return prepare()
    steps, missed = args.only or list(STEPS), []
    _require(steps)
    for name in steps:
        step = BenchmarkStep(name)
        STEPS[name](step)
        missed += step.missed
        step.save()
    console.say("; ".join(missed) or "all targets met")
    return EXIT_FAILED if missed and args.check else EXIT_OK


def _require(steps: Sequence[str]) -> None:
    """Stop where the machine, or the output of ``--prepare``, is missing."""
    inputs = Inputs()
    try:
        choose("tensorrt")
    except MachineError as error:
        inputs.missing += error.faults
    inputs.folder(BUILD, "python benchmarks/h100.py --prepare")
    if "served" in steps:
        inputs.program("perf_analyzer", "get it from tritonclient 2.60's wheel")
    inputs.require()


def prepare() -> int:
    command = [sys.executable, "builders/build_all.py", "--config", str(CONFIG), "--build", str(BUILD)]
    names = [f"{model}_{precision}" for model in MODELS for precision in PRECISIONS]
    names += ["resnet50_fp16_fixed", "no_such_op", "digits_bf16", "digits_api", "digits_native"]
    flags = ["--target", "tensorrt", "--until", "graph", *names, *random_weights(*names)]
    return subprocess.run([*command, *flags], cwd=ROOT).returncode


def build(step: BenchmarkStep) -> None:
    for name in [*(f"{m}_{p}" for m in MODELS for p in PRECISIONS), "resnet50_fp16_fixed"]:
        report = build_model(name)
        kept = ("status", "seconds", "verify", "realised", "plan_bytes", "build_seconds")
        step.row(model=name, faults=report["errors"], **{key: report[key] for key in kept})
        step.require(report["status"] != "failed", f"{name} is built and verified")
    figures = {row["model"]: row["verify"] for row in step.rows}
    lost = _score(figures["digits_fp32"]) - _score(figures["digits_int8"])
    step.figure("digits accuracy lost at int8", lost, "<=", TARGETS["accuracy"])
    cosine = min(output["cosine"] for output in figures["minilm_fp16"].get("outputs", [{"cosine": 0.0}]))
    step.figure("minilm fp16 cosine", cosine, ">=", TARGETS["minilm_cosine"])


def _score(verify: dict[str, Any]) -> float:
    return float(verify.get("score", {}).get("accuracy", 0.0))


def engine(step: BenchmarkStep) -> None:
    from builders.diagnostics.bench_engine import measure_plan
    from builders.diagnostics.lanes import BenchSetting

    cases = [
        (f"resnet50_{precision}", BenchSetting(batch, streams, graphs))
        for precision in ("fp16", "int8") for batch in BATCHES for streams in STREAMS for graphs in (True, False)
    ]  # fmt: skip
    cases += [(f"resnet50_{p}", BenchSetting(1, 1, True)) for p in PRECISIONS]
    cases += [(f"resnet50_{p}", BenchSetting(128, 1, True)) for p in ("fp32", "tf32")]
    shapes = ("resnet50_fp16", "resnet50_fp16_fixed")  # dynamic, static
    cases += [(name, BenchSetting(128, streams, True)) for name in shapes for streams in (1, 2, 4)]
    found: dict[int, list[Any]] = {}
    for _ in range(ROUNDS):
        for index, (name, setting) in enumerate(cases):
            found.setdefault(index, []).append(measure_plan(plan_path(name), setting, seconds=SECONDS, warm_up_s=0.3))
    for index, (name, setting) in enumerate(cases):
        ranked = sorted(found[index], key=lambda figures: figures.samples_per_s)
        low, middle, high = ranked[0], ranked[len(ranked) // 2], ranked[-1]
        figures = {key: value for key, value in vars(middle).items() if key not in ("batches", "graphs")}
        step.row(model=name, **vars(setting), low=low.samples_per_s, high=high.samples_per_s, **figures)
    for precision in ("fp16", "int8"):
        rows = [row for row in step.rows if row["model"] == f"resnet50_{precision}"]
        best = max(rows, key=lambda row: row["samples_per_s"])
        what = f"resnet50 {precision} images/s at {best['batch']} x {best['streams']} streams"
        step.figure(what, best["samples_per_s"], ">=", TARGETS[precision])


def cache(step: BenchmarkStep) -> None:
    from builders.diagnostics.bench_engine import measure_plan
    from builders.diagnostics.lanes import BenchSetting

    name, folder = "resnet50_fp16", BUILD.with_name("h100_cold")
    paths = [BUILD / f"cache_{word}.plan" for word in ("cold", "warm")]
    cold = build_model(name, build=folder, fresh=True)
    shutil.copy(plan_path(name, folder), paths[0])
    warm = [build_model(name, build=folder, force=True) for _ in range(2)]
    shutil.copy(plan_path(name, folder), paths[1])
    rates: list[list[float]] = [[], []]
    for index in interleaved(range(len(paths)), ROUNDS):
        rates[index].append(measure_plan(paths[index], BenchSetting(128, 1, True), seconds=SECONDS).samples_per_s)
    seconds = [cold["build_seconds"], *(each["build_seconds"] for each in warm)]
    found = {"cold_seconds": seconds[0], "warm_seconds": seconds[1:]}
    step.row(**found, cold_samples_per_s=rates[0], warm_samples_per_s=rates[1])
    step.figure("warm build over cold", max(seconds[1:]) / seconds[0], "<=", TARGETS["cache"])
    middle = [statistics.median(each) for each in rates]
    drift = abs(middle[1] / middle[0] - 1)
    step.figure("difference in speed of the warm plan from the cold one", drift, "<=", TARGETS["drift"])


STEPS: dict[str, Callable[[BenchmarkStep], None]] = {
    "build": build,
    "engine": engine,
    "served": served.served,
    "cache": cache,
    "clients": served.clients,
    "wrong": wrong.wrong,
    "routes": routes.routes,
    "torch": routes.torch,
    "search": routes.search,
    "exhaustive": tune.exhaustive,
    "tune": tune.tune,
    "pair": tune.pair,
    "graphs": tune.graphs,
}


if __name__ == "__main__":
    console.run(main)
