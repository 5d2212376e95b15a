"""Graphs that are made for TensorRT: skip edges in INT8, nodes kept in FP32, and the search for those.

In      tiny ONNX graphs made here, and the built digits project.
Out     proof of the edges and types, and that ONNX Runtime still answers the same.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from builders.diagnostics import sensitivity
from builders.diagnostics.sensitivity import confirm
from builders.precision import float16, int8
from tests._project import Project
from tests.tensorrt.conftest import job_of

RNG = np.random.default_rng(0)
IMAGE = [1, 2, 4, 4]


def weight(name: str, *shape: int) -> Any:
    return numpy_helper.from_array(RNG.normal(size=shape).astype(np.float32), name)


def model_of(nodes: list[Any], weights: list[Any], shape: list[int], out: list[int]) -> Any:
    edges = [
        helper.make_tensor_value_info(*item)
        for item in (("x", TensorProto.FLOAT, shape), ("y", TensorProto.FLOAT, out))
    ]
    graph = helper.make_graph(nodes, "g", edges[:1], edges[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def answer(model: Any, x: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime

    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(None, {"x": x})[0]
    return found


def block(*, quantized: bool) -> Any:
    """Relu -> Conv -> Add with the Relu -> pool; the convolution's input from a Q/DQ pair, as onnxruntime leaves it."""
    pair = [
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["r_q"], name="q"),
        helper.make_node("DequantizeLinear", ["r_q", "s", "z"], ["r_dq"], name="dq"),
    ]
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"), *(pair if quantized else []),
        helper.make_node("Conv", ["r_dq" if quantized else "r", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "r"], ["a"], name="add"),
        helper.make_node("GlobalAveragePool", ["a"], ["y"], name="pool"),
    ]  # fmt: skip
    constants = [numpy_helper.from_array(np.float32(0.03), "s"), numpy_helper.from_array(np.int8(0), "z")]
    return model_of(nodes, [weight("w", 2, 2, 3, 3), *constants], IMAGE, [1, 2, 1, 1])


def node(model: Any, name: str) -> Any:
    return next(item for item in model.graph.node if item.name == name)


def test_skip_edge_and_pool_are_quantized() -> None:
    model, x = block(quantized=True), RNG.normal(size=IMAGE).astype(np.float32)
    before = answer(model, x)
    assert int8.quantize_residuals(model, {"a": 12.7}) == 2
    assert list(node(model, "add").input) == ["c", "r_dq"], "the pair that is there serves the skip edge too"
    assert list(node(model, "pool").input) == ["a__dq"]
    assert sum(item.op_type == "QuantizeLinear" for item in model.graph.node) == 2
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert scales["a__scale"] == pytest.approx(0.1)
    assert scales["a__zero"] == 0
    np.testing.assert_allclose(answer(model, x), before, atol=0.1)


def test_the_convolutions_own_edge_stays_floating() -> None:
    model = block(quantized=False)
    assert int8.quantize_residuals(model, {"r": 4.0, "c": 9.0, "a": 12.7}) == 2
    assert list(node(model, "add").input) == ["c", "r__dq"]


def test_a_tensor_without_a_range_is_left_alone() -> None:
    model = block(quantized=False)
    unchanged = model.SerializeToString()
    assert int8.quantize_residuals(model, {}) == 0
    assert model.SerializeToString() == unchanged


def test_the_projection_is_the_skip() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"], name="relu"),
        helper.make_node("Conv", ["r0", "w1"], ["long"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["x", "w2"], ["short"], name="projection", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["long", "short"], ["y"], name="add"),
    ]
    model = model_of(nodes, [weight(f"w{index}", 2, 2, 3, 3) for index in range(3)], IMAGE, IMAGE)
    x = RNG.normal(size=IMAGE).astype(np.float32)
    before = answer(model, x)
    assert int8.quantize_residuals(model, {"long": 50.0, "short": 25.4}) == 1
    assert list(node(model, "add").input) == ["long", "short__dq"]
    np.testing.assert_allclose(answer(model, x), before, atol=0.2)


def chain() -> Any:
    """Three products in a row; the second and third read one weight."""
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h0"], name="first"),
        helper.make_node("MatMul", ["h0", "w1"], ["h1"], name="second"),
        helper.make_node("MatMul", ["h1", "w1"], ["y"], name="third"),
    ]
    return model_of(nodes, [weight("w0", 4, 4), weight("w1", 4, 4)], [2, 4], [2, 4])


def computed_in(model: Any) -> dict[str, int]:
    """Product -> the type of its result."""
    known = {
        info.name: info.type.tensor_type.elem_type for info in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    known |= {info.name: info.type.tensor_type.elem_type for info in model.graph.output}
    return {item.name: known[item.output[0]] for item in model.graph.node if item.op_type == "MatMul"}


@pytest.mark.parametrize(
    "high", [[], ["first"], ["second"], ["third"], ["second", "third"], ["first", "second", "third"]], ids="+".join
)
def test_kept_nodes_compute_in_fp32(high: list[str]) -> None:
    source, x = chain(), RNG.normal(size=(2, 4)).astype(np.float32)
    model = float16.convert(source, "fp16", high)
    expected = {
        name: TensorProto.FLOAT if name in high else TensorProto.FLOAT16 for name in ("first", "second", "third")
    }
    assert computed_in(model) == expected
    assert [item.type.tensor_type.elem_type for item in model.graph.output] == [TensorProto.FLOAT]
    np.testing.assert_allclose(answer(model, x), answer(source, x), rtol=2e-2, atol=2e-2)


def test_weights_that_only_kept_nodes_read_stay_in_fp32() -> None:
    types = {tensor.name: tensor.data_type for tensor in float16.convert(chain(), "fp16", ["first"]).graph.initializer}
    assert types == {"w0": TensorProto.FLOAT, "w1": TensorProto.FLOAT16}
    shared = float16.convert(chain(), "fp16", ["second"])  # the third reads it too
    assert {tensor.data_type for tensor in shared.graph.initializer} == {TensorProto.FLOAT16}


def test_bf16_raises_the_opset() -> None:
    model = float16.convert(chain(), "bf16", ["second"])
    assert model.opset_import[0].version == float16.BF16_OPSET
    assert computed_in(model)["first"] == TensorProto.BFLOAT16
    assert computed_in(model)["second"] == TensorProto.FLOAT


def search(project: Project, settings: str) -> sensitivity.Found:
    project.edit("source: zoo/digits", f"source: zoo/digits\n    precision: int8{settings}")
    said: list[str] = []
    found = sensitivity.search(job_of(project, "onnxruntime"), said.append)
    assert len(said) == len(found.errors) == 4, "two convolutions and two products"
    return found


def test_nothing_is_kept_high_where_int8_is_good_enough(project: Project) -> None:
    found = search(project, "")
    assert found.keep_fp32 == []
    assert found.cost == 0
    assert found.before == found.after >= 0.98


def test_the_fewest_nodes_that_meet_the_gate(project: Project) -> None:
    found = search(project, "\n    accept: {scores: {cosine: 0.99999}}")
    assert found.keep_fp32
    assert found.keep_fp32 == sorted(found.errors, key=lambda name: -found.errors[name])[: len(found.keep_fp32)]
    assert found.before < 0.99999 <= found.after
    assert 0 < found.cost <= 1


def test_the_engine_confirms_the_list_and_its_cost(project: Project) -> None:
    found = search(project, "\n    accept: {scores: {cosine: 0.99999}}")
    said: list[str] = []
    held = confirm(job_of(project, "onnxruntime"), found, said.append)
    assert held.keep_fp32[: len(found.keep_fp32)] == found.keep_fp32
    assert "meets the gate" in said[-1]
    assert min(held.before_per_s, held.after_per_s) > 0
    assert held.builds >= 2
    assert not list((project.folder / "build/digits/graph").glob(".search-*")), "trials are not left behind"


def test_an_engine_that_rounds_more_gets_a_longer_list(project: Project) -> None:
    found = search(project, "\n    accept: {scores: {cosine: 0.99999}}")
    short = dataclasses.replace(found, keep_fp32=[])
    said: list[str] = []
    held = confirm(job_of(project, "onnxruntime"), short, said.append)
    assert "misses" in said[0]
    assert len(held.keep_fp32) >= len(found.keep_fp32)


@pytest.mark.parametrize("least", range(6))
def test_bisection_finds_the_smallest_number(least: int) -> None:
    assert sensitivity._fewest(lambda number: number >= least, 5) == least


def test_bisection_says_when_nothing_helps() -> None:
    assert sensitivity._fewest(lambda number: False, 5) is None
