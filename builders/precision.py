"""Precision in the graph: FP32 ONNX → INT8 by Q/DQ, FP16 or BF16 by casts.

In      the export's ``model.onnx``, calibration and golden samples.
Out     a graph whose inputs and outputs keep their names and types, and figures for the record.

INT8 follows what TensorRT accepts: symmetric ranges, zero points 0, per-channel weights as FP32 → Q → DQ, no INT32 bias
pairs, no Q between a convolution and its ReLU. FP16 is refused where real data leaves its range, because ONNX Runtime on
the CPU hides an overflow that a GPU would show.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builders import answers
from builders.stage import Job
from planwright.errors import Fault, StageError
from planwright.files import digest, read_json, write_json
from planwright.golden import Golden

FP16_MAX = 65504.0
CHUNK = 16  # images per calibration step: the entropy calibrator keeps all activations of a step (11.6 GB for 128 ResNet-50 images at once)
WEIGHTED = ["Conv", "ConvTranspose", "Gemm", "MatMul"]


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
        raise StageError("graph", Fault(f"{precision} cannot be made here", job.model.where("precision"), why, "use int8, fp16, bf16 or fp32"))
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
    answers.require("graph", f"{job.model.name} in {job.model.precision}", checks, lambda output: job.model.where("accept", output), command)


def _int8(job: Job, source: Path, target: Path) -> dict[str, Any]:
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = target.with_name("prepared.onnx")
    # skip_optimization: otherwise onnxruntime adds eight extra opset domains that TensorRT does not read
    quant_pre_process(str(source), str(prepared), skip_optimization=True)
    ranges = _ranges(job, prepared, target.with_name("calibration.json"))
    with _calibrated(ranges):
        quantize_static(
            str(prepared), str(target), None, quant_format=QuantFormat.QDQ, op_types_to_quantize=WEIGHTED, per_channel=True,
            reduce_range=False, activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False,
                           "AddQDQPairToWeight": True, "OpTypesToExcludeOutputQuantization": WEIGHTED},
        )  # fmt: skip
    prepared.unlink()
    graph = onnx.load(str(target))
    pairs = sum(node.op_type == "QuantizeLinear" for node in graph.graph.node)
    return {"calibration": job.model.calibration.method, "tensors": len(ranges), "qdq_pairs": pairs}
