"""INT8 in the graph: FP32 ONNX -> Q/DQ pairs that TensorRT accepts.

In      the export's ``model.onnx``, its calibration samples, the nodes to keep in FP32.
Out     a Q/DQ graph, and figures for the record.

Symmetric ranges, zero points 0, per-channel weights as FP32 -> Q -> DQ, no INT32 bias pairs, no Q between a convolution and
its ReLU. Products of two activations (attention) stay in FP32: INT8 costs accuracy there and gains little.

onnxruntime leaves ``Conv -> Add`` with a floating skip edge, so TensorRT writes every block's output twice, once in INT8 and
once in FP16. With the skip edge quantized, and the edge of the block's own convolution left floating, convolution, Add and Relu
fuse into one INT8 kernel. Where both edges come from convolutions, the projection (the one with fewer nodes behind it) is the skip.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import json
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from builders.precision import calibration
from builders.stage import Job
from planwright import console
from planwright.errors import Fault, StageError
from planwright.files import digest, write_json
from planwright.golden import Arrays, Golden

POOLS = ("GlobalAveragePool", "AveragePool")
INT8_MAX = 127.0
CHUNK = 16  # samples per calibration step: the entropy calibrator keeps all activations of a step (11.6 GB for 128 ResNet-50 images at once)
WEIGHTED = ["Conv", "ConvTranspose", "Gemm", "MatMul"]
CALIBRATED = [*WEIGHTED, *POOLS]  # more tensors than are quantized by weight: residual edges and pools need ranges too


def convert(job: Job, source: Path, target: Path) -> dict[str, Any]:
    """Write the Q/DQ graph of the model; raises StageError if no node of it can run in INT8."""
    with prepared(source, target.parent) as graph:
        keep = matching(graph, job.model.keep_fp32)
        if not set(weighted_nodes(graph)) - set(keep):  # the calibrator fails if there is nothing to calibrate
            raise StageError("graph", _nothing(job, keep))
        ranges = calibrate(job, graph)
        pairs, residual = quantize(job, graph, ranges, target, keep)
    method = {"calibration": job.model.calibration.method, "ranges": ranges.stem}
    return {**method, "qdq_pairs": pairs, "skip_edges": residual, "kept_high": keep}


def _nothing(job: Job, keep: Collection[str]) -> Fault:
    others = " except those in keep_fp32" if keep else ""
    why = f"the graph has no {', '.join(WEIGHTED[:-1])} or {WEIGHTED[-1]} with weights{others}"
    fix = "use fp32 or fp16: an INT8 engine would compute the same as FP32"
    return Fault(f"no node of {job.model.name} can run in INT8", job.model.where("precision"), why, fix)


def quantize(job: Job, graph: Path, ranges: Path, target: Path, keep: Collection[str]) -> tuple[int, int]:
    """Write `graph` with Q/DQ pairs, except on the nodes `keep`; return the number of pairs and of skip edges."""
    import onnx
    from onnxruntime.quantization import QDQQuantizer, QuantType
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    # quantize_static takes no ranges before onnxruntime 1.24, the first that Python 3.10 does not have; this is its last step
    quantizer = QDQQuantizer(
        load_model_with_shape_infer(graph), per_channel=True, reduce_range=False, weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8, tensors_range=_tensors_range(job, ranges), nodes_to_quantize=[],
        nodes_to_exclude=[*_products_of_activations(graph), *keep], op_types_to_quantize=WEIGHTED,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False,
                       "AddQDQPairToWeight": True, "OpTypesToExcludeOutputQuantization": WEIGHTED},
    )  # fmt: skip
    quantizer.quantize_model()
    quantizer.model.save_model_to_file(str(target), False)
    model = onnx.load(str(target))
    residual = quantize_residuals(model, highest(ranges))
    onnx.save_model(model, str(target))
    return sum(node.op_type == "QuantizeLinear" for node in model.graph.node), residual


def weighted_nodes(graph: Path) -> list[str]:
    """Return the nodes that would run in INT8."""
    import onnx

    left = set(_products_of_activations(graph))
    nodes = onnx.load(str(graph)).graph.node
    return [node.name for node in nodes if node.op_type in WEIGHTED and node.name not in left]


def matching(graph: Path, patterns: Sequence[str]) -> list[str]:
    """Return the nodes whose name or operator matches any of `patterns`."""
    import onnx

    nodes = onnx.load(str(graph)).graph.node
    return [n.name for n in nodes if any(fnmatch.fnmatch(n.name, p) or fnmatch.fnmatch(n.op_type, p) for p in patterns)]


def _tensors_range(job: Job, ranges: Path) -> Any:
    from onnxruntime.quantization.calibrate import TensorData, TensorsData

    def bound(value: Any) -> Any:
        return np.array(value, np.float32)

    found = json.loads(ranges.read_text())
    data = {name: TensorData(lowest=bound(low), highest=bound(high)) for name, (low, high) in found.items()}
    return TensorsData(_method(job), data)


def _method(job: Job) -> Any:
    from onnxruntime.quantization import CalibrationMethod

    return CalibrationMethod.Entropy if job.model.calibration.method == "entropy" else CalibrationMethod.MinMax


def highest(ranges: Path) -> dict[str, float]:
    """Return tensor -> largest calibrated magnitude."""
    found = json.loads(ranges.read_text())
    return {name: max(abs(float(np.ravel(bound)[0])) for bound in bounds) for name, bounds in found.items()}


def _products_of_activations(graph: Path) -> list[str]:
    """Return MatMul nodes without a weight."""
    import onnx

    proto = onnx.load(str(graph)).graph
    weights = {tensor.name for tensor in proto.initializer}
    return [node.name for node in proto.node if node.op_type == "MatMul" and not weights & set(node.input)]


@contextlib.contextmanager
def prepared(source: Path, folder: Path) -> Any:
    """Yield a copy with inferred shapes.

    onnxruntime's own pre-processing also optimizes, which adds eight opset domains that TensorRT does not support, and its
    symbolic inference fails on a dynamic sequence; the metadata keeps it from recommending either.
    """
    import onnx
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    path = folder / "prepared.onnx"
    model = onnx.shape_inference.infer_shapes(onnx.load(str(source)))
    add_pre_process_metadata(model)
    onnx.save_model(model, str(path))
    try:
        yield path
    finally:
        path.unlink()


def calibrate(job: Job, graph: Path) -> Path:
    """Return the file of calibrated ranges, tensor -> [lowest, highest]: measured now, or cached for the same graph, samples and method.

    Samples are processed in chunks, so that the entropy calibrator's memory does not grow with their number.
    """
    from onnxruntime.quantization import create_calibrator

    file = calibration.ensure(job)
    samples = Golden.load(file)
    parts: dict[str, Any] = {"graph": job.cache.of(graph, read=True), "samples": job.cache.of(file)}
    parts |= {"method": job.model.calibration.method, "operators": CALIBRATED, "holds": "ranges"}
    cache = job.build / "calibration" / f"{digest(parts)}.json"
    if cache.exists():
        return cache
    # the calibrator prints a line per chunk and cannot be silenced otherwise
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        calibrator = create_calibrator(
            str(graph), CALIBRATED, augmented_model_path=str(Path(scratch) / "augmented.onnx"), calibrate_method=_method(job),
            extra_options={"symmetric": True},
        )  # fmt: skip
        size = job.model.batch.fixed or CHUNK
        for feed in console.progress(job.line("graph", "calibration"), samples.feeds(size), samples.runs(size)):
            calibrator.collect_data(_OneChunk(feed))
        found = calibrator.compute_data()
    cache.parent.mkdir(parents=True, exist_ok=True)
    ranges = {name: [np.asarray(bound).tolist() for bound in data.range_value] for name, data in found.items()}
    write_json(cache, ranges)
    return cache


class _OneChunk:
    """A reader of one chunk, as onnxruntime's calibrator expects it."""

    def __init__(self, feed: Arrays) -> None:
        self._batches = iter([feed])

    def get_next(self) -> Any:
        return next(self._batches, None)

    def __iter__(self) -> _OneChunk:
        return self

    def __next__(self) -> Any:
        return next(self._batches)


def quantize_residuals(model: Any, peaks: Mapping[str, float]) -> int:
    """Add the pairs in place, except for tensors without a peak on calibration data; return how many edges they quantize."""
    graph = model.graph
    producers = {output: node for node in graph.node for output in node.output}
    pairs = {node.input[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    done = 0
    for node in list(graph.node):
        index = _edge(node, producers)
        if index is not None:
            done += _quantize_input(graph, node, index, pairs, peaks)
    return done


def qdq_pair(graph: Any, name: str, scale: float, zero: Any) -> tuple[Any, Any]:
    """Add scale and zero point to the graph; return the nodes that quantize `name` and dequantize it to ``<name>__dq``."""
    import onnx

    numbers = [f"{name}__scale", zero.name]
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(scale, np.float32), numbers[0]))
    graph.initializer.append(zero)
    make = onnx.helper.make_node
    return (
        make("QuantizeLinear", [name, *numbers], [f"{name}__q"], name=f"{name}__quantize"),
        make("DequantizeLinear", [f"{name}__q", *numbers], [f"{name}__dq"], name=f"{name}__dequantize"),
    )


def _edge(node: Any, producers: Mapping[str, Any]) -> int | None:
    """Return the index of the input to quantize, or None."""
    if node.op_type in POOLS:
        return 0
    if node.op_type != "Add" or any(name not in producers for name in node.input):
        return None
    kinds = [producers[name].op_type for name in node.input]
    if kinds.count("Conv") == 1:
        return 1 - kinds.index("Conv")
    if kinds == ["Conv", "Conv"]:
        depths = [_depth(name, producers) for name in node.input]
        return depths.index(min(depths))
    return None


def _depth(name: str, producers: Mapping[str, Any]) -> int:
    """Count the nodes behind a tensor along first inputs, back to the last Add, pool or input."""
    count = 0
    while name in producers and producers[name].op_type not in ("Add", "MaxPool", *POOLS):
        name, count = producers[name].input[0], count + 1
    return count


def _quantize_input(graph: Any, node: Any, index: int, pairs: dict[str, Any], peaks: Mapping[str, float]) -> int:
    """Feed input `index` of the node from a Q/DQ pair, an existing one or a new one; return the number of inputs changed."""
    import onnx

    name = node.input[index]
    present = pairs.get(name)
    if present is not None:
        readers = (other for other in graph.node if present.output[0] in other.input)
        node.input[index] = next(other.output[0] for other in readers if other.op_type == "DequantizeLinear")
        return 1
    if not peaks.get(name):
        return 0
    zero = onnx.numpy_helper.from_array(np.array(0, np.int8), f"{name}__zero")
    quantize_node, dequantize = qdq_pair(graph, name, peaks[name] / INT8_MAX, zero)
    place = next(i for i, other in enumerate(graph.node) if other.name == node.name and other.output == node.output)
    graph.node.insert(place, dequantize)
    graph.node.insert(place, quantize_node)
    # insert copies the message, and the pair may serve another edge
    pairs[name] = graph.node[place]
    node.input[index] = f"{name}__dq"
    return 1
