"""Precision in the graph: FP32 ONNX → INT8 or FP8 by Q/DQ, FP16 or BF16 by casts.

In      the export's ``model.onnx``, calibration and golden samples.
Out     a graph whose inputs and outputs keep their names and types, and figures for the record.

INT8 follows what TensorRT accepts: symmetric ranges, zero points 0, per-channel weights as FP32 → Q → DQ, no INT32 bias
pairs, no Q between a convolution and its ReLU. FP8 (`builders.precision.fp8`) has one scale per tensor. FP16 is refused if real
data leaves its range, because ONNX Runtime on the CPU hides an overflow that occurs on a GPU.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from builders import answers
from builders.stage import Job
from planwright.errors import Fault, StageError
from planwright.golden import Golden

FP16_MAX = 65504.0
MASK = 1e30  # attention masks add the lowest float on purpose; they are clamped and do not count


def convert(job: Job, source: Path, target: Path) -> Mapping[str, Any]:
    """Write the graph at the model's precision; raises StageError if that is not possible or it misses the golden answers."""
    precision = job.model.precision
    _require_version(job)
    if precision == "int8":
        from builders.precision import int8

        figures = int8.convert(job, source, target)
    elif precision == "fp8":
        from builders.precision import fp8

        figures = fp8.convert(job, source, target)
    else:
        figures = _low_float(job, source, target)
    if precision != "bf16":  # ONNX Runtime's CPU has no BF16 kernels; its types are checked instead
        _check_answers(job, target)
    return {"precision": precision, **figures}


def _require_version(job: Job) -> None:
    """Refuse a type that the target's TensorRT lacks, if its version is known, before any work is done."""
    from builders.targets.tensorrt.versions import NEEDS

    version, needed = job.target.versions().get("tensorrt", ""), NEEDS.get(job.model.precision, (0, 0))
    if version[:1].isdigit() and tuple(int(part) for part in version.split(".")[:2]) < needed:
        what, why = f"TensorRT {version} has no {job.model.precision}", f"it needs TensorRT {needed[0]} or later"
        fix = "use int8, fp16 or fp32, or a newer TensorRT"
        raise StageError("graph", Fault(what, job.model.where("precision"), why, fix))


def _check_answers(job: Job, target: Path) -> None:
    from builders.targets.ort import OrtEngine

    # not ALL: onnxruntime (1.31) segfaults on some FP16 graphs. Not EXTENDED for FP8: it drops the Relu before a Q, as if FP8's zero
    # were its lowest value, which gives wrong answers, or makes integer operators that refuse FP8
    engine = OrtEngine(target, level="basic" if job.model.precision == "fp8" else "extended")
    checks = answers.check_engine(job, engine, Golden.load(job.export_folder / "golden.npz"))
    what, fix = f"{job.model.name} in {job.model.precision}", answers.precision_fix(job.model)
    command = job.model.build_command("--from", "graph", "--until", "graph")
    answers.require("graph", what, checks, partial(job.model.where, "accept"), command, fix)


def _low_float(job: Job, source: Path, target: Path) -> dict[str, Any]:
    """Cast weights and activations; inputs and outputs keep FP32."""
    import onnx

    from builders.graphs.check import opset_of
    from builders.precision import autocast, float16
    from builders.precision.int8 import matching

    golden, size = Golden.load(job.export_folder / "golden.npz"), job.model.batch.fixed or 4
    peak, where = _peak(source, golden, size)
    keep = matching(source, job.model.keep_fp32)
    if job.model.autocast:
        converted = autocast.convert(source, job.model.precision, golden, keep, size)
    else:
        _require_range(job, peak, where)
        converted = float16.convert(onnx.load(str(source)), job.model.precision, keep)
    onnx.checker.check_model(converted, full_check=True)
    onnx.save_model(converted, str(target))
    return {"peak": peak, "peak_tensor": where, "kept_high": keep, "opset": opset_of(converted)}


def _require_range(job: Job, peak: float, where: str) -> None:
    """Refuse FP16 if real data leaves its range; AutoCast keeps such nodes in FP32 instead."""
    if job.model.precision != "fp16" or peak <= FP16_MAX:
        return
    why = f"{where} reaches {peak:.3g} on the golden samples, the largest FP16 number is {FP16_MAX:g}"
    fix = "use bf16 or fp32, rescale the model, or set autocast: true"
    raise StageError("graph", Fault(f"{job.model.name} does not fit FP16", job.model.where("precision"), why, fix))


def _peak(source: Path, golden: Golden, size: int) -> tuple[float, str]:
    """Return the largest magnitude of any tensor in the FP32 graph on real data, and its name."""
    import onnx

    from builders.targets.ort import open_session

    model = onnx.shape_inference.infer_shapes(onnx.load(str(source)))
    floats = [info.name for info in model.graph.value_info if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in floats if name not in known)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "all.onnx"
        onnx.save_model(model, str(path))
        session = open_session(path, level="extended")
        names = [output.name for output in session.get_outputs()]
        peak, where = 0.0, ""
        for feed in golden.feeds(size):
            for name, array in zip(names, session.run(names, feed), strict=True):
                if array.dtype.kind != "f":
                    continue
                value = float(np.abs(array[np.isfinite(array)]).max(initial=0.0))
                if peak < value < MASK:
                    peak, where = value, name
    return peak, where
