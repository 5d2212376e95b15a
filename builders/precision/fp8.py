"""FP8 in the graph: FP32 ONNX -> Q/DQ pairs in E4M3 that TensorRT 10 and later accept.

In      the export's ``model.onnx``, the ranges found by INT8 calibration, the nodes to keep in FP32.
Out     a Q/DQ graph at opset 19 or later, and figures for the record.

One scale per tensor, weights too: TensorRT's release notes allow a scale per channel from 10.6 on, and for products only.
Nodes for which it has no FP8 kernel or gains nothing (few channels, groups, large filters, ConvTranspose, products of two
activations) stay in FP32, because a strongly typed network cannot fall back and its build may fail; the record names them
with those of `keep_fp32`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from builders.precision import int8
from builders.stage import Job
from planwright.errors import Fault, StageError

FP8_MAX = 448.0  # largest number of E4M3
OPSET = 19  # the first whose QuantizeLinear supports FP8
IR_VERSION = 9  # the first with the FP8 types
LEAST_CHANNELS, MOST_TAPS = 16, 32  # limits of the FP8 kernels, the same as in NVIDIA's Model-Optimizer


def convert(job: Job, source: Path, target: Path) -> dict[str, Any]:
    """Write the Q/DQ graph of the model; raises StageError if no node of it can run in FP8."""
    import onnx

    from builders.graphs.check import opset_of, rewrite

    # the graph that INT8 calibrates, so that its ranges can be used
    with int8.prepared(source, target.parent) as graph:
        if not int8.weighted_nodes(graph):
            raise StageError("graph", _nothing(job))
        ranges = int8.calibrate(job, graph)
    model = _raised(job, onnx.load(str(source)))
    pairs, kept = quantize(model, int8.highest(ranges), int8.matching(source, job.model.keep_fp32))
    if not pairs:
        raise StageError("graph", _nothing(job))
    onnx.checker.check_model(model, full_check=True)
    rewrite(model, target)
    method = {"calibration": job.model.calibration.method, "ranges": ranges.stem}
    return {**method, "qdq_pairs": pairs, "kept_high": kept, "opset": opset_of(model)}


def quantize(model: Any, highest: Mapping[str, float], keep: Collection[str]) -> tuple[int, list[str]]:
    """Add the pairs in place; return their number and the weighted nodes that stay in FP32: those in `keep` or without a peak in `highest`."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    done: set[str] = set()
    placed, left = [], [*keep]
    for node in graph.node:
        scales = {} if node.name in keep else _scales(node, weights, highest)
        if not scales and node.op_type in int8.WEIGHTED and node.name not in keep:
            left.append(node.name)
        for index, name in enumerate(scales):
            placed += [] if name in done else _pair(graph, name, scales[name])
            done.add(name)
            node.input[index] = f"{name}__dq"
        placed.append(node)
    del graph.node[:]
    graph.node.extend(placed)
    return len(done), left


def _scales(node: Any, weights: Mapping[str, Any], highest: Mapping[str, float]) -> dict[str, float]:
    """Return input -> scale of a node that FP8 can compute, in the node's order; empty for any other."""
    first, second = list(node.input)[:2] if node.op_type in int8.WEIGHTED else ("", "")
    if (first in weights) == (second in weights):  # a product of activations, or a constant
        return {}
    weight = weights[first if first in weights else second]
    if not _has_kernel(node, weight):
        return {}
    peaks = {name: _peak(weight) if name in weights else highest.get(name, 0.0) for name in (first, second)}
    return {name: peak / FP8_MAX for name, peak in peaks.items()} if all(peaks.values()) else {}


def _has_kernel(node: Any, weight: Any) -> bool:
    """Return True if TensorRT has an FP8 kernel for the node, by the shape of its weight."""
    import onnx

    dims: list[int] = list(weight.dims)
    if len(dims) < 2 or node.op_type == "ConvTranspose" or weight.data_type != onnx.TensorProto.FLOAT:
        return False
    if node.op_type != "Conv":
        return min(dims[-2:]) >= LEAST_CHANNELS
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return bool(groups == 1 and min(dims[:2]) >= LEAST_CHANNELS and np.prod(dims[2:]) <= MOST_TAPS)


def _peak(weight: Any) -> float:
    import onnx

    return float(np.abs(onnx.numpy_helper.to_array(weight)).max(initial=0.0))


def _pair(graph: Any, name: str, scale: float) -> list[Any]:
    import onnx

    zero = onnx.helper.make_tensor(f"{name}__zero", onnx.TensorProto.FLOAT8E4M3FN, [], b"\0", raw=True)
    return list(int8.qdq_pair(graph, name, scale, zero))


def _raised(job: Job, model: Any) -> Any:
    """Return the model at an opset and IR version that support FP8; raises StageError if an operator has no newer version."""
    import onnx

    from builders.graphs.check import opset_of

    try:
        raised = model if opset_of(model) >= OPSET else onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter raises unrelated classes
        what, fix = f"the graph cannot be converted to opset {OPSET}", f"set export.opset to {OPSET}"
        raise StageError("graph", Fault(what, job.model.where("export", "opset"), str(error), fix)) from None
    raised.ir_version = max(raised.ir_version, IR_VERSION)
    return raised


def _nothing(job: Job) -> Fault:
    why = f"no convolution or matmul has a calibration range, at least {LEAST_CHANNELS} input and output channels and groups=1, or keep_fp32 excludes them all"
    return Fault(f"no node of {job.model.name} can run in fp8", job.model.where("precision"), why, "use fp16 or int8")
