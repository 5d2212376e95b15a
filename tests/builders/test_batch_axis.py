"""Axis 0 is measured: what is not a batch is named by tensor, axis and reason, and every way out that is offered works."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from builders.graphs import batch_axis
from planwright.compare import Tolerance
from planwright.errors import StageError
from planwright.golden import Arrays
from planwright.tensors import TensorSpec
from tests._models import constant, model, value
from tests._project import Project

RNG = np.random.default_rng(3)
SHAPE = constant("s", np.array([-1, 4], np.int64))
AXIS_1 = constant("axis", np.array([1], np.int64))


def nms() -> Any:
    limits = [
        constant("k", np.array([5])),
        constant("i", np.array([0.5], np.float32)),
        constant("t", np.array([0.1], np.float32)),
    ]
    return model(
        [helper.make_node("NonMaxSuppression", ["b", "c", "k", "i", "t"], ["sel"])],
        [value("b", "FP32", ["N", 20, 4]), value("c", "FP32", ["N", 2, 20])],
        [value("sel", "INT64", ["K", 3])],
        limits,
    )


def one(op: str, shape: list[Any], out: list[Any], *extra: str, init: tuple[Any, ...] = (), **attributes: Any) -> Any:
    """Return a model of one node, ``y = op(x, ...)``."""
    node = helper.make_node(op, ["x", *extra], ["y"], **attributes)
    return model([node], [value("x", "FP32", shape)], [value("y", "FP32", out)], init)


def mixing() -> Any:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["z"]),
        helper.make_node("Add", ["z", "x"], ["y"]),
    ]
    return model(nodes, [value("x", "FP32", ["N", 6])], [value("y", "FP32", ["N", 6])])


def two_axes() -> Any:
    node = helper.make_node("Gemm", ["x", "q"], ["y"], transB=1)
    return model([node], [value("x", "FP32", ["N", 4]), value("q", "FP32", ["M", 4])], [value("y", "FP32", ["N", "M"])])


def anchors() -> Any:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Identity", ["c"], ["anchors"])]
    outputs = [value("y", "FP32", ["N", 5]), value("anchors", "FP32", [7, 4])]
    return model(nodes, [value("x", "FP32", ["N", 5])], outputs, [constant("c", RNG.normal(size=(7, 4)).astype("f4"))])


def branching() -> Any:
    """Another branch if the batch is larger than five."""

    def branch(op: str, out: str) -> Any:
        return helper.make_graph([helper.make_node(op, ["x"], [out])], out, [], [value(out, "FP32", ["N", 4])])

    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "first"], ["n"]),
        helper.make_node("Greater", ["n", "five"], ["many"]),
        helper.make_node("If", ["many"], ["y"], then_branch=branch("Neg", "a"), else_branch=branch("Relu", "b")),
    ]
    limits = [constant("first", np.array(0)), constant("five", np.array(5))]
    return model(nodes, [value("x", "FP32", ["N", 4])], [value("y", "FP32", ["N", 4])], limits)


def random() -> Any:
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["r"], name="noise"),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    return model(nodes, [value("x", "FP32", ["N", 5])], [value("y", "FP32", ["N", 5])])


def scaled() -> Any:
    node = helper.make_node("Mul", ["x", "k"], ["y"])
    return model([node], [value("x", "FP32", ["N", 4]), value("k", "FP32", [])], [value("y", "FP32", ["N", 4])])


BAKED = constant("s", np.array([1, -1], np.int64))
# name -> graph, what the error says, in any order; "stage" is engine for the scalar, which no run has to find
REFUSED: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "nms": (nms, ("axis 0 of output 'sel'", "'K'")),
    "five_per_sample": (
        lambda: one("Reshape", ["N", 5, 4], ["M", 4], "s", init=(SHAPE,)),
        ("axis 0 of output 'y'", "5 rows per sample"),
    ),
    "constant": (anchors, ("axis 0 of output 'anchors'", "7 regardless of batch")),
    "baked": (
        lambda: one("Reshape", ["N", 2, 3], ["N", 6], "s", init=(BAKED,)),
        ("axis 0 of output 'y'", "(Reshape) reshapes to [1, -1]", "{fixed: 1}"),
    ),
    "baked_two": (
        lambda: one("Reshape", ["N", 6], ["N", 6], "s", init=(constant("s", np.array([2, 6], np.int64)),)),
        ("one batch size only", "batch 2 works and batch 1 fails", "{fixed: 2}"),
    ),
    "scalar_out": (lambda: one("ReduceMean", ["N", 5], [], keepdims=0), ("output 'y' has no batch axis",)),
    "two_axes": (two_axes, ("axis 1 of output 'y' depends on the batch", "x 'N', q 'M'")),
    "mixing": (mixing, ("output 'y' depends on a sample's neighbours",)),
    "random": (random, ("output 'y' is random", "'noise' (RandomNormalLike)")),
    "scalar_in": (scaled, ("input 'k' is a scalar",)),
    "constant_fixed": (anchors, ("axis 0 of output 'anchors'", "the same for all samples")),
    "five_fixed": (
        lambda: one("Reshape", ["N", 5, 4], ["M", 4], "s", init=(SHAPE,)),
        ("axis 0 of output 'y'", "5 rows per sample"),
    ),
    "branching": (branching, ("output 'y' is wrong", "a branch that depends on the batch", "'batch: none'")),
    "no_inputs": (
        lambda: model(
            [helper.make_node("Identity", ["c"], ["y"])],
            [],
            [value("y", "FP32", [4])],
            [constant("c", np.ones(4, "f4"))],
        ),
        ("no_inputs.onnx has no inputs",),
    ),
}
BATCH = {"constant_fixed": "{fixed: 7}", "five_fixed": "{fixed: 4}", "branching": 8}  # 4 if not listed
WAYS_OUT = {
    "nms": "none", "five_per_sample": "none", "constant": "none", "baked": "{fixed: 1}", "baked_two": "{fixed: 2}",
    "scalar_out": "none", "two_axes": "none", "mixing": "none", "scalar_in": "none", "constant_fixed": "none", "five_fixed": "none",
    "branching": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Every model that does not batch, built once; name -> its part of the report."""
    project = Project(tmp_path_factory.mktemp("refused"))
    for name, (graph, _) in REFUSED.items():
        onnx.save(graph(), project.folder / f"{name}.onnx")
    lines = (f"  {name}: {{source: {name}.onnx, batch: {BATCH.get(name, 4)}}}\n" for name in REFUSED)
    project.config.write_text("version: 1\nmodels:\n" + "".join(lines))
    done = project.build("--json")
    assert done.code == 1
    assert not list(project.repository.glob("*/*"))
    return {report["model"]: report for report in json.loads(done.out)["models"]}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_a_batch_is_named(refused: dict[str, dict[str, Any]], name: str) -> None:
    report = refused[name]
    text = json.dumps(report["errors"])
    assert all(words in text for words in REFUSED[name][1]), text
    assert "original model" not in text, "the file is the original"
    assert name == "scalar_in" or f"build_all.py {name} --until export --config" in report["errors"][0]["check"]
    line = list(REFUSED).index(name) + 3
    assert f"config.yaml:{line}" in report["errors"][0]["where"]
    assert report["failed_stage"] == ("engine" if name == "scalar_in" else "onnx")


@pytest.fixture(scope="module")
def ways_out(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same models, built as their errors advise."""
    project = Project(tmp_path_factory.mktemp("ways_out"))
    for name in WAYS_OUT:
        onnx.save(REFUSED[name][0](), project.folder / f"{name}.onnx")
    lines = (f"  {name}: {{source: {name}.onnx, batch: {batch}}}\n" for name, batch in WAYS_OUT.items())
    project.config.write_text("version: 1\nmodels:\n" + "".join(lines))
    done = project.build()
    assert done.code == 0, done.out
    return project


@pytest.mark.parametrize("name", WAYS_OUT)
def test_every_way_out_publishes_the_models_own_shapes(ways_out: Project, name: str) -> None:
    record = json.loads((ways_out.repository / name / "1/build.json").read_text())
    assert record["batch"]["kind"] == ("none" if WAYS_OUT[name] == "none" else "fixed")
    assert "max_batch_size: 0" in (ways_out.repository / name / "config.pbtxt").read_text()
    assert all(check["passed"] for check in record["checks"]["outputs"])


def test_one_number_per_sample_has_a_reshape(empty: Callable[[str], Project]) -> None:
    project = empty("version: 1\nmodels:\n  m: {source: m.onnx, batch: 4}\n")
    onnx.save(one("ReduceSum", ["N", 5], ["N"], "axis", init=(AXIS_1,), keepdims=0), project.folder / "m.onnx")
    done = project.build()
    assert done.code == 0, done.out
    text = (project.repository / "m/config.pbtxt").read_text()
    output = text[text.index("output {") : text.index("instance_group")]
    assert "dims: [1]" in output
    assert "reshape {" in output
    assert project.builders("lint", "--config", str(project.config)).code == 0


def test_one_text_per_sample_and_one_text_at_all(empty: Callable[[str], Project]) -> None:
    project = empty(
        "version: 1\nmodels:\n  each: {source: each.onnx, batch: 4}\n  whole: {source: whole.onnx, batch: none}\n"
    )
    for name, shape in (("each", ["N"]), ("whole", [])):
        tensors = [helper.make_tensor_value_info(label, onnx.TensorProto.STRING, shape) for label in ("x", "y")]
        node = helper.make_node("Identity", ["x"], ["y"])
        onnx.save(model([node], tensors[:1], tensors[1:]), project.folder / f"{name}.onnx")
    done = project.build()
    assert done.code == 0, done.out
    for name in ("each", "whole"):
        record = json.loads((project.repository / name / "1/build.json").read_text())
        assert record["trial_load"]["checks"] > 0, name


def probe(run: Callable[[Arrays], Arrays]) -> batch_axis.Probe:
    return batch_axis.Probe("torch", run, "config.yaml:3", lambda _: Tolerance())


SAMPLES = [{"x": RNG.normal(size=4).astype(np.float32)} for _ in range(2)]


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda x: x[::-1], "neighbours"),
        (lambda x: x * np.arange(1, len(x) + 1)[:, None], "row 1"),
        (lambda x: x - x.mean(), "neighbours"),
        (lambda x: np.concatenate([x, x]), "2 rows per sample"),
        (lambda x: x[x[:, 0] > x[:, 0].min() - 1][:1], "1 regardless of batch"),
        (lambda x: x @ x.T, "axis 1"),
        (lambda x: RNG.normal(size=x.shape), "random"),
        (lambda x: x.sum(), "no batch axis"),
    ],
    ids=["reversed", "position", "mean", "doubled", "first only", "square", "random", "sum"],
)
def test_any_model_is_probed_alike(run: Callable[[Any], Any], words: str) -> None:
    """Also a PyTorch model, of which there is no graph yet."""
    with pytest.raises(StageError) as caught:
        batch_axis.check(probe(lambda inputs: {"y": run(inputs["x"])}), SAMPLES, batch_axis.PROBED)
    assert words in str(caught.value)
    assert caught.value.faults[0].where == "config.yaml:3"


def test_a_golden_sample_with_more_rows_than_the_probed_pair_is_named() -> None:
    answers = probe(lambda inputs: inputs)
    batch_axis.require_one_row(answers, {"y": np.zeros((1, 4))})
    with pytest.raises(StageError) as caught:
        batch_axis.require_one_row(
            answers, {"y": np.zeros((1, 4)), "boxes": np.zeros((8, 3)), "none": np.zeros((0, 3))}
        )
    assert [fault.what for fault in caught.value.faults] == [
        "axis 0 of output 'boxes' is not the batch",
        "axis 0 of output 'none' is not the batch",
    ]
    assert "8 for one golden sample" in str(caught.value)


def test_a_batch_is_accepted_and_two_equal_samples_too() -> None:
    double = probe(lambda inputs: {"y": inputs["x"] * 2, "sum": inputs["x"].sum(axis=1)})
    batch_axis.check(double, SAMPLES, batch_axis.PROBED)
    batch_axis.check(double, SAMPLES[:1] * 2, batch_axis.PROBED)
    batch_axis.check(double, SAMPLES, (4,))


def test_a_fixed_batch_is_probed_at_its_size() -> None:
    seen: list[int] = []

    def run(inputs: Arrays) -> Arrays:
        seen.append(len(inputs["x"]))
        return {"y": inputs["x"] - inputs["x"].mean(axis=0)}

    with pytest.raises(StageError, match="neighbours"):
        batch_axis.check(probe(run), SAMPLES, (4,))
    assert set(seen) == {4}


def test_an_error_that_no_batch_size_avoids_is_passed_on() -> None:
    def run(_: Arrays) -> Arrays:
        raise RuntimeError("the model is broken")

    with pytest.raises(RuntimeError, match="is broken"):
        batch_axis.check(probe(run), SAMPLES, batch_axis.PROBED)


def test_how_tensors_batch_is_decided_in_one_place() -> None:
    from planwright.config.spec import BatchSpec

    free, static, scalar = (TensorSpec("x", "FP32", shape) for shape in ((-1, 4), (2, 4), ()))
    assert batch_axis.kind(BatchSpec(), [free, free]) == "dynamic"
    assert batch_axis.kind(BatchSpec(), [free, static]) == "none"
    assert batch_axis.kind(BatchSpec(), [free, scalar]) == "none"
    assert batch_axis.kind(BatchSpec(axis=False), [free]) == "none"
    assert batch_axis.kind(BatchSpec(fixed=2), [static]) == "fixed"
    assert [
        batch_axis.run_size(batch, [free]) for batch in (BatchSpec(), BatchSpec(fixed=2), BatchSpec(axis=False))
    ] == [8, 2, 0]
