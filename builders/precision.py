"""Precision in the graph: FP32 ONNX → INT8 by Q/DQ, FP16 or BF16 by casts.

In      the export's ``model.onnx``, calibration and golden samples.
Out     a graph whose inputs and outputs keep their names and types, and figures for the record.

INT8 follows what TensorRT accepts: symmetric ranges, zero points 0, per-channel weights as FP32 → Q → DQ, no INT32 bias
pairs, no Q between a convolution and its ReLU. FP16 is refused where real data leaves its range, because ONNX Runtime on
the CPU hides an overflow that a GPU would show.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from builders import answers
from builders.residual import POOLS
from builders.residual import quantize as quantize_residuals
from builders.stage import Job
from planwright.errors import Fault, StageError
from planwright.files import digest
from planwright.golden import Golden, Group

FP16_MAX = 65504.0
MASK = 1e30  # attention masks add the lowest float on purpose; they are clamped, not computed with
CHUNK = 16  # images per calibration step: the entropy calibrator keeps all activations of a step (11.6 GB for 128 ResNet-50 images at once)
WEIGHTED = ["Conv", "ConvTranspose", "Gemm", "MatMul"]
CALIBRATED = [*WEIGHTED, *POOLS]  # more tensors than are quantized by weight: residual edges and pools need ranges too


def convert(job: Job, source: Path, target: Path) -> Mapping[str, Any]:
    """Write the graph at the model's precision and check it against the golden answers.

    Raises:
        StageError: stage 'graph': no calibration data, a value out of range, or wrong answers.
    """
    precision = job.model.precision
    if precision == "int8":
        figures = _int8(job, source, target)
    elif precision in ("fp16", "bf16"):
        figures = _low_float(job, source, target)
    else:
        why = "FP8 Q/DQ needs a GPU target that runs it"
        raise StageError(
            "graph",
            Fault(
                f"{precision} cannot be made here", job.model.where("precision"), why, "use int8, fp16, bf16 or fp32"
            ),
        )
    if precision != "bf16":  # ONNX Runtime's CPU has no BF16 kernels; its types are checked instead
        _check_answers(job, target)
    return {"precision": precision, **figures}


def _check_answers(job: Job, target: Path) -> None:
    from builders.targets.ort import OrtEngine

    # EXTENDED, not ALL: onnxruntime segfaults on some FP16 graphs at full optimisation
    engine = OrtEngine(target, level="extended")
    golden = Golden.load(job.export_folder / "golden.npz")
    tolerances = {name: job.model.tolerance(name) for name in golden.groups[0].outputs}
    size = answers.natural_batch(engine.inputs)
    checks = answers.check_batches(engine.run, golden, tolerances, [size])
    command = f"python builders/build_all.py {job.model.name} --from graph --until graph"
    answers.require(
        "graph",
        f"{job.model.name} in {job.model.precision}",
        checks,
        lambda output: job.model.where("accept", output),
        command,
    )


def _int8(job: Job, source: Path, target: Path) -> dict[str, Any]:
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    prepared = target.with_name("prepared.onnx")
    _prepare(source, prepared)
    ranges = _ranges(job, prepared)
    quantize_static(
        str(prepared), str(target), None, quant_format=QuantFormat.QDQ, op_types_to_quantize=WEIGHTED, per_channel=True,
        reduce_range=False, activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, calibration_cache_path=str(ranges),
        nodes_to_exclude=_products_of_activations(prepared),
        calibrate_method=CalibrationMethod.Entropy if job.model.calibration.method == "entropy" else CalibrationMethod.MinMax,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False,
                       "AddQDQPairToWeight": True, "OpTypesToExcludeOutputQuantization": WEIGHTED},
    )  # fmt: skip
    prepared.unlink()
    model = onnx.load(str(target))
    residual = quantize_residuals(model, _highest(ranges))
    onnx.save_model(model, str(target))
    pairs = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
    return {
        "calibration": job.model.calibration.method,
        "ranges": ranges.stem,
        "qdq_pairs": pairs,
        "skip_edges": residual,
    }


def _highest(ranges: Path) -> dict[str, float]:
    """Return tensor -> largest magnitude, as calibrated."""
    from onnxruntime.quantization.calibrate import load_tensors_data

    found = {}
    for name, data in load_tensors_data(ranges).items():
        low, high = data.range_value
        found[name] = max(abs(float(np.ravel(low)[0])), abs(float(np.ravel(high)[0])))
    return found


def _products_of_activations(prepared: Path) -> list[str]:
    """Return MatMul nodes without a weight (attention): they stay high, where INT8 costs accuracy and gains little."""
    import onnx

    graph = onnx.load(str(prepared)).graph
    weights = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and not weights & set(node.input)]


def _prepare(source: Path, prepared: Path) -> None:
    """Infer shapes, and nothing more.

    onnxruntime's own pre-processing also optimises, which adds eight opset domains that TensorRT does not read, and its
    symbolic inference gives up on a dynamic sequence; its mark is set so that it does not ask for either.
    """
    import onnx
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    model = onnx.shape_inference.infer_shapes(onnx.load(str(source)))
    add_pre_process_metadata(model)
    onnx.save_model(model, str(prepared))


def _ranges(job: Job, prepared: Path) -> Path:
    """Return the calibration file: measured now, or remembered for the same graph, samples and method.

    Samples go through in chunks, so that the entropy calibrator's memory does not grow with their number.
    """
    from onnxruntime.quantization import CalibrationMethod, create_calibrator
    from onnxruntime.quantization.calibrate import save_tensors_data

    method = job.model.calibration.method
    samples = Golden.load(job.export_folder / "calibration.npz")
    parts = {
        "graph": job.cache.of(prepared, read=True),
        "samples": job.cache.of(job.export_folder / "calibration.npz"),
        "method": method,
        "operators": CALIBRATED,
    }
    cache = job.build / "calibration" / f"{digest(parts)}.json"
    if cache.exists():
        return cache
    chosen = CalibrationMethod.Entropy if method == "entropy" else CalibrationMethod.MinMax
    # the calibrator prints a line per chunk and has no switch for it
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        calibrator = create_calibrator(
            str(prepared), CALIBRATED, augmented_model_path=str(Path(scratch) / "augmented.onnx"), calibrate_method=chosen,
            extra_options={"symmetric": True},
        )  # fmt: skip
        for group in samples.batches(CHUNK):
            calibrator.collect_data(_Reader(group))
        found = calibrator.compute_data()
    cache.parent.mkdir(parents=True, exist_ok=True)
    scratch_file = cache.with_suffix(f".{os.getpid()}.tmp")
    save_tensors_data(found, scratch_file)
    scratch_file.replace(cache)
    return cache


class _Reader:
    """Feeds one chunk to onnxruntime's calibrator, which asks until it gets None."""

    def __init__(self, group: Group) -> None:
        self._batches = iter([group.inputs])

    def get_next(self) -> Any:
        """Return the next feed, or None."""
        return next(self._batches, None)

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> Any:
        return next(self._batches)


def _low_float(job: Job, source: Path, target: Path) -> dict[str, Any]:
    """Cast weights and activations; inputs and outputs keep FP32."""
    import onnx

    from builders import low_float

    model = onnx.load(str(source))
    peak, where = _peak(source, Golden.load(job.export_folder / "golden.npz"))
    if job.model.precision == "fp16" and peak > FP16_MAX:
        why = f"{where} reaches {peak:.3g} on the golden samples, FP16 ends at {FP16_MAX:g}"
        raise StageError(
            "graph",
            Fault(
                f"{job.model.name} does not fit FP16",
                job.model.where("precision"),
                why,
                "use bf16 or fp32, or rescale the model",
            ),
        )
    converted = low_float.convert(model, job.model.precision)
    onnx.checker.check_model(converted, full_check=True)
    onnx.save_model(converted, str(target))
    return {"peak": peak, "peak_tensor": where}


def _peak(source: Path, golden: Golden) -> tuple[float, str]:
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
        for group in golden.batches(4):
            for name, array in zip(names, session.run(names, group.inputs), strict=True):
                if array.dtype.kind == "f" and array.size and np.isfinite(array).any():
                    value = float(np.abs(array[np.isfinite(array)]).max())
                    if value > peak and value < MASK:
                        peak, where = value, name
    return peak, where
