"""graph: FP32 ONNX → the graph that carries the precision.

In      ``model.onnx`` and the golden samples of the export.
Out     ``model.<precision>.onnx`` and, for INT8, the calibration record.

TensorRT 11 has no precision flags any more, so precision is decided here for every target and version.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builders.graphs.external_data import with_data
from builders.precision import autocast, calibration
from builders.stage import Job, Stage, installed
from planwright.config.spec import CALIBRATED


def _run(job: Job, folder: Path) -> Mapping[str, Any]:
    source = job.export_folder / "model.onnx"
    target = folder / f"model.{job.model.precision}.onnx"
    if job.model.precision in ("fp32", "tf32") or _native(job):
        shutil.copyfile(source, target)
        for name, part in with_data(source).items():
            if part != source:
                shutil.copyfile(part, folder / name)
        return {"precision": job.model.precision, **_native_figures(job, source)}
    from builders.precision.convert import convert

    figures = convert(job, source, target)
    return {**figures, "warnings": calibration.warnings(job)} if job.model.precision in CALIBRATED else figures


def _native(job: Job) -> bool:
    """Return True if TensorRT itself will find the INT8 ranges, so that the graph stays FP32."""
    return job.model.precision == "int8" and job.model.calibration.native


def _native_figures(job: Job, source: Path) -> dict[str, Any]:
    if not _native(job):
        return {}
    from builders.precision.int8 import matching

    calibration.ensure(job)  # for the GPU machine, which may lack the source's libraries
    return {"calibration": "native", "kept_high": matching(source, job.model.keep_fp32)}


def _spec_part(job: Job) -> dict[str, Any]:
    part: dict[str, Any] = {"precision": job.model.precision, "keep_fp32": job.model.keep_fp32}
    if job.model.autocast:
        part["autocast"] = True
    if job.model.precision in CALIBRATED:
        part["calibration"] = job.model.calibration.model_dump()
    return part


def _inputs(job: Job) -> dict[str, Path]:
    names = ["model.onnx", "golden.npz"] if job.model.precision not in ("fp32", "tf32") else ["model.onnx"]
    if job.model.precision in CALIBRATED:
        names.append("calibration.npz")
    return {name: job.export_folder / name for name in names} | with_data(job.export_folder / "model.onnx")


def _tools(job: Job) -> dict[str, str | None]:
    if job.model.precision in ("fp32", "tf32"):
        return {}
    cast = job.model.autocast and job.model.precision in ("fp16", "bf16")
    return installed("onnx", "onnxruntime", *([autocast.PACKAGE] if cast else []))


GRAPH = Stage("graph", 2, lambda job: job.graph_folder, _spec_part, _inputs, _tools, _run)
