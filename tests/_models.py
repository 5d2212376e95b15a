"""Tiny ONNX models and repositories for any test: made in milliseconds, served by the real server.

In      a repository folder, a name, and text for config.pbtxt.
Out     a model folder that the server loads.

Opset 17 and IR 10, so that every onnxruntime that is served with reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str]
ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "STRING": TensorProto.STRING,
}


def value(name: str, datatype: str, shape: Shape) -> Any:
    """Return the declaration of an input or output; a word in `shape` leaves that dim open."""
    return helper.make_tensor_value_info(name, ONNX_TYPES[datatype], list(shape))


def constant(name: str, array: Any) -> Any:
    """Return a tensor to be used as an initializer."""
    return numpy_helper.from_array(np.asarray(array), name)


def model(nodes: list[Any], inputs: list[Any], outputs: list[Any], initializers: Sequence[Any] = ()) -> Any:
    """Return a checked ONNX model."""
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, list(initializers))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


def publish(repository: Path, name: str, made: Any, config: str, version: int = 1) -> Path:
    """Write a model folder; `config` is config.pbtxt without name, platform and backend."""
    folder = repository / name
    (folder / str(version)).mkdir(parents=True)
    onnx.save(made, folder / str(version) / "model.onnx")
    head = (
        f'name: "{name}"\nplatform: "onnxruntime_onnx"\nbackend: "onnxruntime"\ndefault_model_filename: "model.onnx"\n'
    )
    (folder / "config.pbtxt").write_text(head + config)
    return folder


def tensors(kind: str, *items: tuple[str, str, Sequence[int]]) -> str:
    """Return the ``input`` or ``output`` entries of a config.pbtxt from (name, datatype, dims)."""
    return "".join(
        f'{kind} {{ name: "{name}" data_type: TYPE_{datatype} dims: {list(dims)} }}\n' for name, datatype, dims in items
    )


def reshaped(kind: str, *items: tuple[str, str, Sequence[int], Sequence[int]]) -> str:
    """Return entries of a config.pbtxt from (name, datatype, dims, the model's own shape)."""
    return "".join(
        f'{kind} {{ name: "{name}" data_type: TYPE_{datatype} dims: {list(dims)} reshape {{ shape: {list(own)} }} }}\n'
        for name, datatype, dims, own in items
    )


def instances(count: int) -> str:
    """Return an ``instance_group`` for the CPU."""
    return f"instance_group {{ count: {count} kind: KIND_CPU }}\n"


def adder(repository: Path, name: str = "adder", *, max_batch_size: int = 8, extra: str = "", count: int = 1) -> Path:
    """Publish y = x + 1 (FP32, 4 wide) that also answers, in ``rows``, how many rows its run had."""
    nodes = [
        helper.make_node("Add", ["x", "one"], ["y"]),
        helper.make_node("Shape", ["x"], ["n"], start=0, end=1),
        helper.make_node("Concat", ["n", "unit"], ["shape"], axis=0),
        helper.make_node("Expand", ["n", "shape"], ["rows"]),
    ]
    made = model(
        nodes,
        [value("x", "FP32", ["n", 4])],
        [value("y", "FP32", ["n", 4]), value("rows", "INT64", ["n", 1])],
        [constant("one", np.float32(1)), constant("unit", np.array([1], np.int64))],
    )
    io = tensors("input", ("x", "FP32", [4])) + tensors("output", ("y", "FP32", [4]), ("rows", "INT64", [1]))
    return publish(repository, name, made, f"max_batch_size: {max_batch_size}\n{io}{instances(count)}{extra}")


def picker(repository: Path, name: str = "picker", *, extra: str = "") -> Path:
    """Publish y = table[i] (INT32 to FP32) of ten rows: an index beyond them fails while it runs, not before."""
    made = model(
        [helper.make_node("Gather", ["table", "i"], ["y"])],
        [value("i", "INT32", ["n", 1])],
        [value("y", "FP32", ["n", 1])],
        [constant("table", np.arange(10, dtype=np.float32) * 10)],
    )
    io = tensors("input", ("i", "INT32", [1])) + tensors("output", ("y", "FP32", [1]))
    return publish(repository, name, made, f"max_batch_size: 8\n{io}{instances(1)}{extra}")


def sleeper(
    repository: Path, name: str = "sleeper", *, max_batch_size: int = 1, extra: str = "", count: int = 1
) -> Path:
    """Publish a model that counts to its input (INT64) one by one: a million take about a second of one core."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["count", "step"], ["counted"]),
        ],
        "body",
        [value("turn", "INT64", []), value("go", "BOOL", []), value("count", "FP32", [])],
        [value("go_on", "BOOL", []), value("counted", "FP32", [])],
        [constant("step", np.float32(1))],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["trips"], keepdims=0),
        helper.make_node("Loop", ["trips", "", "zero"], ["total"], body=body),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Expand", ["total", "shape"], ["y"]),
    ]
    made = model(
        nodes, [value("x", "INT64", ["n", 1])], [value("y", "FP32", ["n", 1])], [constant("zero", np.float32(0))]
    )
    io = tensors("input", ("x", "INT64", [1])) + tensors("output", ("y", "FP32", [1]))
    return publish(repository, name, made, f"max_batch_size: {max_batch_size}\n{io}{instances(count)}{extra}")


def echo(repository: Path, name: str, datatypes: Sequence[str]) -> Path:
    """Publish a model that answers each input ``in_<datatype>`` (3 wide) as ``out_<datatype>``."""
    made = model(
        [helper.make_node("Identity", [f"in_{d}"], [f"out_{d}"]) for d in datatypes],
        [value(f"in_{d}", d, ["n", 3]) for d in datatypes],
        [value(f"out_{d}", d, ["n", 3]) for d in datatypes],
    )
    io = tensors("input", *((f"in_{d}", d, [3]) for d in datatypes))
    io += tensors("output", *((f"out_{d}", d, [3]) for d in datatypes))
    return publish(repository, name, made, f"max_batch_size: 4\n{io}{instances(1)}dynamic_batching {{ }}\n")


def varied(repository: Path, name: str = "varied") -> Path:
    """Publish a model that answers numbers ``a`` and text ``w`` of any length and numbers ``b`` of two, as ``a_out`` and so on."""
    kinds: dict[str, tuple[str, int | str, int]] = {
        "a": ("FP32", "m", -1),
        "w": ("STRING", "k", -1),
        "b": ("INT32", 2, 2),
    }
    made = model(
        [helper.make_node("Identity", [k], [f"{k}_out"]) for k in kinds],
        [value(k, d, ["n", dim]) for k, (d, dim, _) in kinds.items()],
        [value(f"{k}_out", d, ["n", dim]) for k, (d, dim, _) in kinds.items()],
    )
    io = tensors("input", *((k, d, [dim]) for k, (d, _, dim) in kinds.items()))
    io += tensors("output", *((f"{k}_out", d, [dim]) for k, (d, _, dim) in kinds.items()))
    return publish(repository, name, made, f"max_batch_size: 4\n{io}{instances(1)}")


def steps(repository: Path, name: str = "steps", *, how: str = "direct { }") -> Path:
    """Publish a model of sequences that answers x + x, and what the server says of each request: ``flags`` (start, end) and ``who`` (the id)."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["y"]),
        helper.make_node("Concat", ["START", "END"], ["flags"], axis=1),
        helper.make_node("Identity", ["ID"], ["who"]),
    ]
    made = model(
        nodes,
        [
            value("x", "FP32", ["n", 4]),
            value("START", "INT32", ["n", 1]),
            value("END", "INT32", ["n", 1]),
            value("ID", "UINT64", ["n", 1]),
        ],
        [value("y", "FP32", ["n", 4]), value("flags", "INT32", ["n", 2]), value("who", "UINT64", ["n", 1])],
    )
    io = tensors("input", ("x", "FP32", [4])) + tensors(
        "output", ("y", "FP32", [4]), ("flags", "INT32", [2]), ("who", "UINT64", [1])
    )
    flags = "".join(
        f'control_input {{ name: "{flag}" control {{ kind: CONTROL_SEQUENCE_{flag} int32_false_true: [0, 1] }} }} '
        for flag in ("START", "END")
    )
    who = 'control_input { name: "ID" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } }'
    batching = f"sequence_batching {{ max_sequence_idle_microseconds: 20000000 {how} {flags} {who} }}\n"
    return publish(repository, name, made, f"max_batch_size: 4\n{io}{instances(1)}{batching}")
