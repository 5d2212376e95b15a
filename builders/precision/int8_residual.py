"""Q/DQ pairs that let TensorRT run a residual network in INT8 from end to end.

In      a graph that onnxruntime quantized at the inputs of its convolutions and products, and the calibrated ranges.
Out     the same graph with the skip edge of each residual Add, and the input of each average pool, quantized too.

onnxruntime leaves ``Conv -> Add`` with a floating skip edge, so TensorRT writes every block's output twice, once in INT8 and
once in FP16. With the skip edge quantized, and the edge of the block's own convolution left floating, convolution, Add and Relu
fuse into one INT8 kernel. Where both edges come from convolutions, the projection (the one with fewer nodes behind it) is
the skip.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

POOLS = ("GlobalAveragePool", "AveragePool")
INT8_MAX = 127.0


def quantize(model: Any, highest: Mapping[str, float]) -> int:
    """Add the pairs in place and return how many edges they quantize.

    Args:
        model: ModelProto with Q/DQ pairs.
        highest: Tensor -> largest magnitude on calibration data; a tensor without one is skipped.
    """
    graph = model.graph
    producers = {output: node for node in graph.node for output in node.output}
    pairs = {node.input[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    done = 0
    for node in list(graph.node):
        index = _edge(node, producers)
        if index is not None:
            done += _quantize_input(graph, node, index, pairs, highest)
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


def _quantize_input(graph: Any, node: Any, index: int, pairs: dict[str, Any], highest: Mapping[str, float]) -> int:
    """Feed input `index` of the node from a Q/DQ pair, an existing one or a new one; return the number of inputs changed."""
    import onnx

    name = node.input[index]
    present = pairs.get(name)
    if present is not None:
        consumers = [
            other for other in graph.node if present.output[0] in other.input and other.op_type == "DequantizeLinear"
        ]
        node.input[index] = consumers[0].output[0]
        return 1
    if not highest.get(name):
        return 0
    zero = onnx.numpy_helper.from_array(np.array(0, np.int8), f"{name}__zero")
    quantize_node, dequantize = qdq_pair(graph, name, highest[name] / INT8_MAX, zero)
    place = next(
        i
        for i, other in enumerate(graph.node)
        if other is node or other.name == node.name and list(other.output) == list(node.output)
    )
    graph.node.insert(place, dequantize)
    graph.node.insert(place, quantize_node)
    # insert copies the message, and the pair may serve another edge
    pairs[name] = graph.node[place]
    node.input[index] = f"{name}__dq"
    return 1
