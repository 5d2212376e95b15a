"""What the steps of h100.py share: the models, building one, the rows and targets of a step.

In      build/h100, prepared.
Out     plans below it, a `BenchmarkStep` that becomes a record.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks._parts.common import ROOT, Inputs, random_weights, stamp, verdict
from builders.targets.tensorrt.target import TensorRTTarget
from planwright import console
from planwright.errors import Fault
from planwright.files import read_json

CONFIG, BUILD = Path("benchmarks/h100.yaml"), Path("build/h100")
REPOSITORY = BUILD / "model_repository"
MODELS, PRECISIONS = ("digits", "minilm", "resnet50"), ("fp32", "tf32", "fp16", "int8")
BUILD_TIMEOUT_S = 460


class BenchmarkStep:
    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: list[dict[str, Any]] = []
        self.figures: list[dict[str, Any]] = []
        self.missed: list[str] = []
        self.inputs = Inputs()

    def row(self, **values: Any) -> None:
        self.rows.append(values)
        short = {k: v for k, v in values.items() if not isinstance(v, (dict, list)) or len(str(v)) < 120}
        console.say(f"{self.name}: {json.dumps(short)}")

    def figure(self, what: str, value: float, sign: str, target: float) -> None:
        met = value >= target if sign == ">=" else value <= target
        self.figures.append({"what": what, "value": round(value, 5), "sign": sign, "target": target, "met": met})
        self.require(met, f"{what}: {value:.5g} {sign} {target:g}")

    def require(self, met: bool, what: str) -> bool:
        console.say(f"{self.name}: {verdict(met)}  {what}")
        if not met:
            self.missed.append(f"{self.name}: {what}")
        return met

    def need(self, there: bool, what: str) -> bool:
        """Like `require`, for a condition without which the step measures nothing."""
        if not self.require(there, what):
            self.inputs.missing.append(Fault(f"{self.name}: not met: {what}", fix="see the output above"))
        return there

    def save(self) -> None:
        """Write the record, unless an input was missing."""
        value = {"step": self.name, "rows": self.rows, "figures": self.figures, "missed": self.missed}
        self.inputs.keep("h100_" + self.name, {**stamp(), **versions(), **value})


def command(name: str, *flags: str, build: Path = BUILD, repository: Path = REPOSITORY) -> list[str]:
    return [sys.executable, "builders/build_all.py", "--config", str(CONFIG), "--build", str(build), "--repository", str(repository),
            "--target", "tensorrt", "--json", name, *random_weights(name), *flags]  # fmt: skip


def build_model(name: str, *, build: Path = BUILD, fresh: bool = False, force: bool = False) -> dict[str, Any]:
    """Build one model and return its report with the figures of its stages.

    Args:
        name: Model in h100.yaml.
        build: Folder of intermediate files; one other than BUILD gets a copy of the export and graph.
        fresh: Without any timing cache.
        force: Compile again even if nothing changed.
    """
    if build != BUILD:
        _copy_inputs(name, build, fresh=fresh)
    flags = ["--from", "compile", "--until", "verify", "--force"] if force or fresh else []
    words = command(name, *flags, build=build)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S)
    console.say(done.stderr[-1500:].strip())
    try:
        report: dict[str, Any] = json.loads(done.stdout)["models"][0]
    except (ValueError, KeyError, IndexError):
        raise SystemExit(f"{name} could not be built:\n{done.stdout}{done.stderr}") from None
    compiled = read_json(plan_path(name, build).parent / "stage.json") or {}
    precision = plan_path(name, build).parent.parent.name
    verified = read_json(build / name / "verify" / precision / TensorRTTarget().key() / "stage.json") or {}
    figures = compiled.get("result", {})
    return {
        **report, "verify": verified.get("result", {}), "realised": figures.get("realised", {}),
        "plan_bytes": figures.get("plan_bytes", 0), "build_seconds": figures.get("build_seconds", 0.0),
    }  # fmt: skip


def plan_path(name: str, build: Path = BUILD) -> Path:
    found = next((p for p in ("fp32", "tf32", "fp16", "bf16", "int8") if f"_{p}" in name), "int8" if name == "digits_native" else "fp32")  # fmt: skip
    return build / name / "compile" / found / TensorRTTarget().key() / "model.plan"


def versions() -> dict[str, Any]:
    return {"gpu": TensorRTTarget().versions()}


def _copy_inputs(name: str, build: Path, *, fresh: bool) -> None:
    if fresh:
        shutil.rmtree(build, ignore_errors=True)
    for part in ("export", "graph"):
        if not (build / name / part).exists():
            shutil.copytree(BUILD / name / part, build / name / part)
