"""FP32 ONNX → FP16 or BF16 by casting everything but inputs and outputs.

In      a checked FP32 ModelProto.
Out     the same graph computing in FP16 or BF16, its inputs and outputs still FP32.

Operators whose extra inputs must stay FP32 (Resize's scales) run as FP32 islands between casts. BF16 needs opset 22, the first
whose Conv supports it, so the graph is converted; FP16 keeps its opset. Values beyond the type's range (attention masks
add the lowest FP32) are clamped, as every converter does.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from builders.graphs.check import opset_of

BF16_OPSET = 22
ISLANDS = {"Resize", "RandomNormal", "RandomUniform", "NonMaxSuppression", "Range"}


def convert(model: Any, precision: str, keep: Collection[str] = ()) -> Any:
    """Return a new ModelProto at `precision` (``fp16`` or ``bf16``), the nodes named in `keep` still in FP32."""
    import onnx

    low = onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.BFLOAT16
    source = model
    if precision == "bf16" and opset_of(model) < BF16_OPSET:
        source = onnx.version_converter.convert_version(model, BF16_OPSET)
    converted = onnx.ModelProto()
    converted.CopyFrom(source)
    graph = converted.graph
    del graph.value_info[:]  # they were inferred for FP32; the checker infers them again
    floats = _float_tensors(source)
    kept = _weights_of(graph, keep)
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.name not in kept:
            tensor.CopyFrom(_lowered(tensor, low))
    for node in graph.node:
        if not _is_island(node, keep):
            _lower_attributes(node, low)
    _cast_edges(graph, low)
    _cast_islands(graph, low, floats - kept, keep)
    return converted


def _is_island(node: Any, keep: Collection[str]) -> bool:
    return node.op_type in ISLANDS or node.name in keep


def _weights_of(graph: Any, keep: Collection[str]) -> set[str]:
    """Return the initializers that only islands read and that therefore stay FP32."""
    inside: set[str] = set()
    outside: set[str] = set()
    for node in graph.node:
        (inside if _is_island(node, keep) else outside).update(node.input)
    return {tensor.name for tensor in graph.initializer} & inside - outside


def _float_tensors(model: Any) -> set[str]:
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model).graph
    infos = [*inferred.value_info, *inferred.input, *inferred.output]
    named = {info.name for info in infos if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    return named | {tensor.name for tensor in inferred.initializer if tensor.data_type == onnx.TensorProto.FLOAT}


def _lowered(tensor: Any, low: int) -> Any:
    import onnx

    values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(low)
    limit = 65504.0 if low == onnx.TensorProto.FLOAT16 else 3.38e38
    return onnx.numpy_helper.from_array(np.clip(values, -limit, limit).astype(dtype), tensor.name)


def _lower_attributes(node: Any, low: int) -> None:
    """Lower constants inside nodes and casts to FP32."""
    import onnx

    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == onnx.TensorProto.FLOAT:
            attribute.t.CopyFrom(_lowered(attribute.t, low))
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
            attribute.i = low


def _cast_edges(graph: Any, low: int) -> None:
    """Put a cast after every FP32 input and before every FP32 output; inputs and outputs keep their names."""
    import onnx

    edges = onnx.TensorProto.FLOAT
    for item in graph.input:
        if item.type.tensor_type.elem_type == edges:
            _rename(graph, item.name, f"{item.name}__low", inputs=True)
            graph.node.insert(0, onnx.helper.make_node("Cast", [item.name], [f"{item.name}__low"], to=low))
    for item in graph.output:
        if item.type.tensor_type.elem_type == edges:
            inner = f"{item.name}__low"
            _rename(graph, item.name, inner, inputs=True, outputs=True)
            graph.node.append(onnx.helper.make_node("Cast", [inner], [item.name], to=edges))


def _rename(graph: Any, old: str, new: str, *, inputs: bool = False, outputs: bool = False) -> None:
    for node in graph.node:
        for names, wanted in ((node.input, inputs), (node.output, outputs)):
            for index, name in enumerate(names):
                if wanted and name == old:
                    names[index] = new


def _cast_islands(graph: Any, low: int, floats: set[str], keep: Collection[str]) -> None:
    """Surround operators that must stay FP32 with casts."""
    import onnx

    placed = []
    for node in graph.node:
        if not _is_island(node, keep):
            placed.append(node)
            continue
        for index, name in enumerate(node.input):
            if name in floats or name.endswith("__low"):
                raised = f"{name}__{len(placed)}_fp32"
                placed.append(onnx.helper.make_node("Cast", [name], [raised], to=onnx.TensorProto.FLOAT))
                node.input[index] = raised
        wanted = list(node.output)
        lowered = [name for name in wanted if name.removesuffix("__low") in floats]
        for index, name in enumerate(wanted):
            node.output[index] = f"{name}__fp32" if name in lowered else name
        placed.append(node)
        placed += [onnx.helper.make_node("Cast", [f"{name}__fp32"], [name], to=low) for name in lowered]
    del graph.node[:]
    graph.node.extend(placed)
