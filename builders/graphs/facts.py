"""Facts about an ONNX graph, read without its weights.

In      the path of an ONNX file.
Out     names of axes, random nodes, shapes that are baked into Reshape nodes.

Used to explain a measurement: nothing here decides whether a model is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from planwright.tensors import TensorSpec, datatype_from_numpy

# operators whose result differs from run to run, https://onnx.ai/onnx/operators/
RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")

# attributes with the texts that an operator compares with, https://onnx.ai/onnx/operators/index.html#ai-onnx-ml
KNOWN_TEXTS = ("keys_strings", "cats_strings", "pool_strings", "string_vocabulary", "classlabels_strings")


def read(path: Path) -> Any:
    """Return the ModelProto without external weights."""
    import onnx

    return onnx.load(str(path), load_external_data=False)


def nodes(graph: Any) -> Iterator[Any]:
    """Yield every node, those of subgraphs (If, Loop, Scan) included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from nodes(inner)


def given(graph: Any) -> list[Any]:
    """Return the inputs that a caller gives, which are those without a weight as default."""
    weights = {tensor.name for tensor in graph.initializer}
    return [item for item in graph.input if item.name not in weights]


def inputs(model: Any) -> list[TensorSpec]:
    """Return the inputs that a caller gives, -1 for each free axis; raises KeyError if Triton has no such type."""
    import onnx

    kinds = [(item.name, item.type.tensor_type) for item in given(model.graph)]
    return [
        TensorSpec(
            name,
            datatype_from_numpy(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)),
            tuple(-1 if isinstance(axis, str) else axis for axis in map(_length, kind.shape.dim)),
        )
        for name, kind in kinds
    ]


def first_axes(model: Any, *, outputs: bool) -> dict[str, str | int | None]:
    """Return tensor -> symbol or length of axis 0; None for a scalar, an empty string if the axis is free and unnamed."""
    items = model.graph.output if outputs else given(model.graph)
    return {item.name: _first_axis(item.type.tensor_type) for item in items}


def _first_axis(kind: Any) -> str | int | None:
    if not kind.HasField("shape"):
        return ""
    return next(map(_length, kind.shape.dim), None)


def _length(dim: Any) -> int | str:
    return int(dim.dim_value) if dim.HasField("dim_value") else str(dim.dim_param)


def random_nodes(model: Any) -> list[str]:
    """Return the nodes that make the answers random, as ``'name' (Operator)``."""
    return [_described(node) for node in nodes(model.graph) if node.op_type in RANDOM or _training_dropout(model, node)]


def _training_dropout(model: Any, node: Any) -> bool:
    if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2]:
        return False
    flag = _constants(model.graph).get(node.input[2])
    return flag is None or bool(flag.any())


def baked_reshapes(model: Any, output: str) -> list[str]:
    """Return the Reshape nodes behind `output` whose first length is a constant, nearest first."""
    constants = _constants(model.graph)
    made_by = {name: node for node in model.graph.node for name in node.output}
    found, seen, ahead = [], set(), [output]
    while ahead:
        node = made_by.get(ahead.pop(0))
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        shape = constants.get(node.input[1]) if node.op_type == "Reshape" else None
        if shape is not None and shape.size and shape.ravel()[0] > 0:
            found.append(f"{_described(node)} reshapes to {shape.ravel().tolist()}")
        ahead.extend(node.input)
    return found


def _constants(graph: Any) -> dict[str, Any]:
    """Return the small integer and boolean constants by name; weights, which may be in other files, are left out."""
    import onnx

    small = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            tensors.update((node.output[0], item.t) for item in node.attribute if item.name == "value")
    here = onnx.TensorProto.DEFAULT
    return {
        name: onnx.numpy_helper.to_array(tensor)
        for name, tensor in tensors.items()
        if tensor.data_type in small and tensor.data_location == here
    }


def _described(node: Any) -> str:
    return f"node '{node.name or (node.output[0] if node.output else '')}' ({node.op_type})"


def axes(model: Any) -> dict[str, tuple[int | str, ...]]:
    """Return input -> length of each axis, or its symbol if it is free, which may be empty."""
    return {item.name: tuple(map(_length, item.type.tensor_type.shape.dim)) for item in given(model.graph)}


def words(model: Any) -> list[str]:
    """Return the texts that the graph compares its inputs with: keys, categories, vocabularies, constants; without duplicates."""
    found: dict[str, None] = {}
    for node in nodes(model.graph):
        for attribute in node.attribute:
            if attribute.name in KNOWN_TEXTS:
                found.update(dict.fromkeys(item.decode(errors="replace") for item in attribute.strings))
            if attribute.HasField("t"):
                found.update(dict.fromkeys(_texts(attribute.t)))
    for tensor in model.graph.initializer:
        found.update(dict.fromkeys(_texts(tensor)))
    return [word for word in found if word]


def _texts(tensor: Any) -> list[str]:
    return [item.decode(errors="replace") for item in tensor.string_data]
