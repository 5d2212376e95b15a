"""FP8 graphs: where the pairs are, what stays in FP32, and that wrong scales are found.

In      tiny ONNX graphs made here, and the built digits project.
Out     proof of types, scales and edges, and that ONNX Runtime rounds as FP8 does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from builders.precision import convert as precision_convert
from builders.precision import fp8, int8
from builders.stage import Job
from builders.targets.ort import OrtEngine
from planwright.errors import StageError
from tests._project import Project
from tests.tensorrt.conftest import job_of

SOURCE = "source: zoo/digits"
FIRST, SECOND, THIRD, LAST = (
    "/layers/layers.0/Conv",
    "/layers/layers.2/Conv",
    "/layers/layers.7/Gemm",
    "/layers/layers.9/Gemm",
)
RNG = np.random.default_rng(0)
Floats = NDArray[np.float32]


def set_fp8(project: Project, settings: str = "") -> None:
    project.edit(SOURCE, f"{SOURCE}\n    precision: fp8{settings}")


def convert(project: Project) -> dict[str, Any]:
    """Make and check the graph in this process."""
    job = job_of(project)
    return dict(precision_convert.convert(job, job.export_folder / "model.onnx", project.folder / "fp8.onnx"))


def quantizers(model: Any) -> dict[str, Any]:
    """Tensor -> its only QuantizeLinear."""
    nodes = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    found = {node.input[0]: node for node in nodes}
    assert len(found) == len(nodes), "one pair per tensor"
    return found


def edges(model: Any) -> list[bytes]:
    return [item.SerializeToString() for item in (*model.graph.input, *model.graph.output)]


def weights_of(model: Any) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def highest(job: Job, folder: Path) -> dict[str, float]:
    with int8.prepared(job.export_folder / "model.onnx", folder) as graph:
        return int8.highest(int8.calibrate(job, graph))


@pytest.fixture(scope="module")
def made(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Digits with an FP8 graph, as the command line makes it; read only."""
    import shutil

    folder = tmp_path_factory.mktemp("fp8") / "project"
    shutil.copytree(built.folder, folder, copy_function=shutil.copy2)
    project = Project(folder)
    set_fp8(project)
    done = project.build("--target", "tensorrt", "--until", "graph")
    assert done.code == 0, done.out + done.err
    return project


def test_digits_builds_and_says_what_was_done(made: Project) -> None:
    job = job_of(made)
    result = json.loads((job.graph_folder / "stage.json").read_text())["result"]
    assert result["precision"] == "fp8"
    assert result["calibration"] == "entropy"
    assert (made.folder / "build" / "calibration" / f"{result['ranges']}.json").is_file()
    assert result["qdq_pairs"] == 4, "input and weight of the second convolution and the first product"
    assert result["kept_high"] == [FIRST, LAST], "one channel in, ten out"
    assert result["opset"] == fp8.OPSET


def test_the_graph_is_as_tensorrt_takes_it(made: Project) -> None:
    job = job_of(made)
    model, source = onnx.load(str(job.graph_file)), onnx.load(str(job.export_folder / "model.onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert [item.version for item in model.opset_import] == [fp8.OPSET]
    assert fp8.IR_VERSION <= model.ir_version <= 13
    assert edges(model) == edges(source)
    weights = weights_of(model)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert weights[node.input[1]].data_type == TensorProto.FLOAT
            assert weights[node.input[2]].data_type == TensorProto.FLOAT8E4M3FN
            assert float(numpy_helper.to_array(weights[node.input[2]])) == 0
    assert not [name for name in quantizers(model) if name.endswith("bias")]


def test_scales_are_the_largest_magnitude_over_448(made: Project, tmp_path: Path) -> None:
    job = job_of(made)
    model, ranges = onnx.load(str(job.graph_file)), highest(job, tmp_path)
    weights = weights_of(model)
    for name, node in quantizers(model).items():
        peak = np.abs(numpy_helper.to_array(weights[name])).max() if name in weights else ranges[name]
        scale = numpy_helper.to_array(weights[node.input[1]])
        assert scale.shape == ()
        np.testing.assert_allclose(scale, peak / 448, rtol=1e-6)


def test_ranges_are_those_of_int8(made: Project) -> None:
    files = list((made.folder / "build" / "calibration").glob("*.json"))
    job = job_of(made)
    with int8.prepared(job.export_folder / "model.onnx", made.folder) as graph:
        assert [int8.calibrate(job, graph)] == files


def test_keep_fp32_leaves_a_node_alone(project: Project) -> None:
    set_fp8(project, f'\n    keep_fp32: ["{THIRD}"]')
    result = convert(project)
    assert result["kept_high"] == [THIRD, FIRST, LAST]
    assert result["qdq_pairs"] == 2
    model = onnx.load(str(project.folder / "fp8.onnx"))
    assert not [name for node in model.graph.node if node.name == THIRD for name in node.input if name.endswith("__dq")]


def test_a_model_without_fp8_nodes_is_refused(project: Project) -> None:
    set_fp8(project, '\n    keep_fp32: ["*"]')
    with pytest.raises(StageError, match="no node of digits can run in fp8"):
        convert(project)


def test_a_wrong_largest_number_is_found(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    set_fp8(project)
    assert convert(project)["qdq_pairs"] == 4
    monkeypatch.setattr(fp8, "FP8_MAX", 44800.0)
    with pytest.raises(StageError, match="output 'scores' is wrong"):
        convert(project)


def test_ranges_that_are_too_small_are_found(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    set_fp8(project)
    right = int8.highest
    monkeypatch.setattr(int8, "highest", lambda ranges: {name: value / 100 for name, value in right(ranges).items()})
    with pytest.raises(StageError, match="output 'scores' is wrong"):
        convert(project)


@pytest.mark.parametrize("name", ["fp8", "bf16"])
def test_a_tensorrt_that_is_too_old_is_refused(project: Project, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    project.edit(SOURCE, f"{SOURCE}\n    precision: {name}")
    monkeypatch.setattr("builders.targets.tensorrt.target.installed_version", lambda: "8.6.1")
    with pytest.raises(StageError, match=f"TensorRT 8.6.1 has no {name}"):
        convert(project)
    monkeypatch.setattr("builders.targets.tensorrt.target.installed_version", lambda: "10.0.1")
    assert convert(project)["precision"] == name


def weight(name: str, *shape: int) -> Any:
    return numpy_helper.from_array(RNG.normal(size=shape).astype(np.float32), name)


def model_of(nodes: list[Any], weights: list[Any], *shape: int | str) -> Any:
    """A graph from 'x' to 'y', both of this shape."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", fp8.OPSET)], ir_version=fp8.IR_VERSION)


def rounded(values: Floats, peak: float) -> Floats:
    """What a pair makes of its input."""
    scale = np.float32(peak / 448)
    small = np.clip(values / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    return np.asarray(small.astype(np.float32) * scale)


def test_answers_are_those_of_fp8_rounding(tmp_path: Path) -> None:
    """A Relu before a pair is kept, which onnxruntime drops above its basic level."""
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w1"], ["y"], name="second"),
    ]
    arrays = [weight("w0", 16, 16), weight("w1", 16, 16)]
    model = model_of(nodes, arrays, 2, 16)
    assert fp8.quantize(model, {"x": 3.0, "r": 12.0}, []) == (4, [])
    onnx.save_model(model, str(tmp_path / "relu.onnx"))
    x = RNG.normal(size=(2, 16)).astype(np.float32)
    w0, w1 = [rounded(w, float(np.abs(w).max())) for w in map(numpy_helper.to_array, arrays)]
    expected = rounded(np.maximum(rounded(x, 3.0) @ w0, 0), 12.0) @ w1
    np.testing.assert_allclose(OrtEngine(tmp_path / "relu.onnx", level="basic").run({"x": x})["y"], expected, rtol=1e-4)


def test_a_tensor_has_one_pair_for_all_its_readers() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("MatMul", ["x", "w"], ["b"], name="second"),
        helper.make_node("MatMul", ["w", "x"], ["c"], name="turned"),
        helper.make_node("Sum", ["a", "b", "c", "x"], ["y"], name="sum"),
    ]
    model = model_of(nodes, [weight("w", 16, 16)], 16, 16)
    assert fp8.quantize(model, {"x": 1.0}, []) == (2, [])
    onnx.checker.check_model(model, full_check=True)
    assert set(quantizers(model)) == {"x", "w"}
    read = {node.name: list(node.input) for node in model.graph.node}
    assert read["first"] == read["second"] == ["x__dq", "w__dq"]
    assert read["turned"] == ["w__dq", "x__dq"]
    assert read["sum"] == ["a", "b", "c", "x"], "who does not compute in FP8 reads the tensor itself"


@pytest.mark.parametrize(
    ("operator", "shape", "settings"),
    [
        ("MatMul", (16, 8), {}),
        ("MatMul", (8, 16), {}),
        ("Gemm", (8, 16), {"transB": 1}),
        ("Conv", (16, 3, 3, 3), {}),
        ("Conv", (8, 16, 3, 3), {}),
        ("Conv", (32, 16, 3, 3), {"group": 2}),
        ("Conv", (16, 16, 7, 7), {}),
        ("ConvTranspose", (16, 16, 3, 3), {}),
    ],
)
def test_what_has_no_fp8_kernel_stays_in_fp32(operator: str, shape: tuple[int, ...], settings: dict[str, int]) -> None:
    model = model_of(
        [helper.make_node(operator, ["x", "w"], ["y"], name="node", **settings)], [weight("w", *shape)], "n"
    )
    unchanged = model.SerializeToString()
    assert fp8.quantize(model, {"x": 1.0}, []) == (0, ["node"])
    assert model.SerializeToString() == unchanged


def test_products_of_activations_and_tensors_without_a_range_are_left_alone() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "x"], ["a"], name="activations"),
        helper.make_node("MatMul", ["a", "w"], ["b"], name="no range"),
        helper.make_node("MatMul", ["b", "zeros"], ["y"], name="no weight"),
    ]
    zeros = numpy_helper.from_array(np.zeros((16, 16), np.float32), "zeros")
    model = model_of(nodes, [weight("w", 16, 16), zeros], 16, 16)
    assert fp8.quantize(model, {"x": 1.0, "b": 1.0}, []) == (0, ["activations", "no range", "no weight"])
    assert not quantizers(model)


def test_an_opset_that_cannot_be_raised_is_reported(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: Any, opset: int) -> Any:
        raise RuntimeError("no adapter")

    set_fp8(project)
    monkeypatch.setattr("onnx.version_converter.convert_version", refuse)
    with pytest.raises(StageError, match="cannot be converted to opset 19"):
        convert(project)
