"""The models: foreign ONNX files, precision in the graph, and faults planted in each stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from builders.stage import Job
from planwright.errors import StageError
from tests._project import Project

FIXED = "version: 1\nmodels:\n  mine: {source: zoo/onnx, file: mine.onnx%s}\n"


def save(
    path: Path, batch: object = "batch", *, op: str = "Mul", scale: float = 3.0, dtype: int = TensorProto.FLOAT
) -> None:
    """Write a one-node model: y = op(x, scale)."""
    shape = [batch, 4]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "scale"] if op != "Nonsense" else ["x"], ["y"])], "g",
        [helper.make_tensor_value_info("x", dtype, shape)], [helper.make_tensor_value_info("y", dtype, shape)],
        [helper.make_tensor("scale", dtype, [], [scale])] if op != "Nonsense" else [],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save_model(model, str(path))


def failed(project: Project, *flags: str) -> tuple[str, str]:
    """Build, expect a failure, return (stage, text); nothing may be published."""
    done = project.build("--json", *flags)
    assert done.code == 1, done.out
    report = json.loads(done.out)["models"][0]
    assert not (project.repository / report["model"]).exists()
    return report["failed_stage"], json.dumps(report["errors"])


def test_a_foreign_onnx_file_is_read_built_and_published(empty: Callable[[str], Project]) -> None:
    project = empty(FIXED % ", batch: {max: 4}, serve: {dynamic_batching: {}}")
    save(project.folder / "mine.onnx")
    done = project.build()
    assert done.code == 0, done.out
    text = (project.repository / "mine/config.pbtxt").read_text()
    assert "max_batch_size: 4" in text
    assert "dims: [4]" in text


def test_a_fixed_batch_is_served_as_it_is(empty: Callable[[str], Project]) -> None:
    project = empty(FIXED % "")
    save(project.folder / "mine.onnx", 2)
    assert project.build().code == 0
    text = (project.repository / "mine/config.pbtxt").read_text()
    assert "max_batch_size: 0" in text
    assert "dims: [2, 4]" in text
    assert "planwright_fixed_batch" not in text


def test_a_fixed_batch_that_is_named_is_padded_by_clients(empty: Callable[[str], Project]) -> None:
    project = empty(FIXED % ", batch: {fixed: 2}")
    save(project.folder / "mine.onnx", 2)
    assert project.build().code == 0
    assert "planwright_fixed_batch" in (project.repository / "mine/config.pbtxt").read_text()


def test_dynamic_batching_asked_of_a_fixed_batch(empty: Callable[[str], Project]) -> None:
    project = empty(FIXED % ", serve: {dynamic_batching: {}}")
    save(project.folder / "mine.onnx", 2)
    stage, text = failed(project)
    assert stage == "engine"
    assert "batching requested for a model without a batch axis" in text
    assert "config.yaml:3" in text


def test_real_samples_are_used_and_checked(empty: Callable[[str], Project]) -> None:
    project = empty(FIXED % ", samples: mine.npz, batch: {max: 4}")
    save(project.folder / "mine.onnx")
    np.savez(project.folder / "mine.npz", x=np.zeros((40, 5), np.float32))
    stage, text = failed(project)
    assert stage == "export"
    assert "do not fit" in text
    np.savez(project.folder / "mine.npz", x=np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32))
    assert project.build().code == 0


@pytest.mark.parametrize(
    ("damage", "stage", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:40]), "onnx", "not a complete ONNX file"),
        (lambda path: save(path, op="Nonsense"), "onnx", "Nonsense"),
        (lambda path: save(path, scale=float("nan")), "torch", "NaN or infinity"),
        (lambda path: save(path, scale=0.0), "export", "too similar to tell apart"),
    ],
    ids=["truncated", "unsupported op", "NaN weights", "answers all alike"],
)
def test_bad_onnx_files_are_told_by_stage(
    empty: Callable[[str], Project], damage: Callable[[Path], object], stage: str, words: str
) -> None:
    project = empty(FIXED % ", batch: {max: 4}")
    path = project.folder / "mine.onnx"
    save(path)
    damage(path)
    found, text = failed(project)
    assert words in text
    assert found == stage


def test_weights_that_change_after_the_golden_answers_are_caught(project: Project) -> None:
    """A wrong weight in the graph: the stage that reads it is named, and what was served stays."""
    before = project.state()
    path = project.folder / "build/digits/graph/fp32/model.fp32.onnx"
    model = onnx.load(str(path))
    weight = model.graph.initializer[0]
    values = onnx.numpy_helper.to_array(weight) * np.float32(1.5)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save_model(model, str(path))
    done = project.build("--json", "--from", "compile")
    assert done.code == 1
    assert json.loads(done.out)["models"][0]["failed_stage"] == "engine"
    assert project.state() == before


def test_int8_keeps_the_accuracy_and_follows_tensorrts_rules(project: Project) -> None:
    project.edit("source: zoo/digits", "source: zoo/digits\n    precision: int8")
    assert project.build().code == 0
    record = json.loads((project.repository / "digits/2/build.json").read_text())
    fp32 = json.loads((project.repository / "digits/1/build.json").read_text())
    assert record["checks"]["score"]["accuracy"] >= fp32["checks"]["score"]["accuracy"] - 0.005
    graph = onnx.load(str(project.repository / "digits/2/model.onnx")).graph
    zero_points = {node.input[2] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    arrays = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name in zero_points]
    assert arrays
    assert all(not array.any() and array.dtype == np.int8 for array in arrays)
    ranges = list((project.folder / "build/calibration").glob("*.json"))
    assert len(ranges) == 1
    stamp = ranges[0].stat().st_mtime_ns
    assert project.build("--from", "graph", "--force").code == 0
    assert ranges[0].stat().st_mtime_ns == stamp, "the same samples are not measured twice"


def low_precision_job(project: Project) -> Job:
    """Read the config as for TensorRT, so that the graph stage may lower it, and run it on what there is."""
    from builders.targets import get_target
    from planwright.config.load import load_spec
    from planwright.files import HashCache

    spec, build = load_spec(project.config, "tensorrt"), project.folder / "build"
    target = get_target("onnxruntime")
    return Job(
        spec.models[0], spec.root, build, project.repository, target, spec.server, HashCache(build / "hashes.json")
    )


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_low_precision_graphs_are_made_and_checked(project: Project, precision: str) -> None:
    from builders.stage import execute
    from builders.stages.graph import GRAPH

    project.edit("source: zoo/digits", f"source: zoo/digits\n    precision: {precision}")
    job = low_precision_job(project)
    record = execute(GRAPH, job)
    assert 0 < record["result"]["peak"] < 65504
    graph = onnx.load(str(job.graph_file)).graph
    low = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.BFLOAT16
    assert {t.data_type for t in graph.initializer if t.dims} <= {low, TensorProto.INT64}
    assert [item.type.tensor_type.elem_type for item in graph.output] == [TensorProto.FLOAT], "edges keep their types"


def test_fp16_overflow_is_found_on_real_data(empty: Callable[[str], Project]) -> None:
    from builders.stage import execute
    from builders.stages.export import EXPORT
    from builders.stages.graph import GRAPH

    project = empty(FIXED % ", precision: fp16, batch: {max: 4}")
    save(project.folder / "mine.onnx", scale=1e6)
    job = low_precision_job(project)
    execute(EXPORT, job)
    with pytest.raises(StageError, match="does not fit FP16"):
        execute(GRAPH, job)


def test_the_documented_model_builds(empty: Callable[[str], Project]) -> None:
    """docs/add-a-model.md, as it is written."""
    import re

    root = Path(__file__).resolve().parents[2]
    text = (root / "docs/add-a-model.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.S)
    assert code is not None
    assert text.count("\n") < 50
    place = root / "builders/zoo/double.py"
    project = empty("version: 1\nmodels:\n  double: {source: zoo/double}\n")
    place.write_text(code[1])
    try:
        done = project.build()
    finally:
        place.unlink()
    assert done.code == 0, done.out


def resnet50(folder: Path) -> Any:
    from builders.sources.base import load_source
    from planwright.config.load import load_spec

    path = folder / "config.yaml"
    path.write_text("version: 1\nmodels:\n  resnet50: {source: zoo/resnet50}\n")
    return load_source(load_spec(path, "onnxruntime").models[0], folder)


def test_resnet50_without_weights_names_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # also where a hub could be reached
    with pytest.raises(StageError) as caught:
        resnet50(tmp_path).build_model()
    assert caught.value.stage == "torch"
    assert "--random-weights resnet50" in str(caught.value)
    assert "checkpoints/resnet50-11ad3fa6.pth" in str(caught.value)


def test_resnet50_takes_the_weights_that_lie_where_the_error_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    model = resnet50(tmp_path)
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    place = tmp_path / "torch/hub/checkpoints/resnet50-11ad3fa6.pth"
    place.parent.mkdir(parents=True)
    state = torchvision.models.resnet50(weights=None).state_dict()
    torch.save(state, place)
    assert torch.equal(model.build_model().body.fc.weight, state["fc.weight"])


def test_changing_one_models_weights_builds_that_model_alone(empty: Callable[[str], Project]) -> None:
    project = empty((FIXED % ", batch: {max: 4}") + "  other: {source: zoo/onnx, file: other.onnx, batch: {max: 4}}\n")
    save(project.folder / "mine.onnx")
    save(project.folder / "other.onnx", scale=5.0)
    assert project.build().code == 0
    save(project.folder / "other.onnx", scale=6.0)
    done = project.build("--json")
    assert {model["model"]: model["status"] for model in json.loads(done.out)["models"]} == {
        "mine": "kept",
        "other": "built",
    }


def test_one_models_missing_file_does_not_stop_the_others(empty: Callable[[str], Project]) -> None:
    project = empty("version: 1\nmodels:\n  gone: {source: models/gone.onnx}\n  mine: {source: mine.onnx, batch: 4}\n")
    save(project.folder / "mine.onnx")
    plan = project.build("--plan", "--json")
    assert plan.code == 2
    done = project.build("--json")
    assert done.code == 2
    for text in (plan.out, done.out):
        gone, mine = json.loads(text)["models"]
        assert gone["status"] == "failed"
        assert "there is no file models/gone.onnx" in gone["errors"][0]["what"]
        assert "config.yaml:3" in gone["errors"][0]["where"]
        assert mine["status"] in ("due", "built")
    assert (project.repository / "mine/1/model.onnx").exists()


def test_thresholds_that_would_judge_nothing_are_refused(empty: Callable[[str], Project]) -> None:
    project = empty(
        "version: 1\nmodels:\n  mine: {source: mine.onnx, batch: 4, accept: {z: {cosine: 0.9}}, score: {accuracy: 1}}\n"
    )
    save(project.folder / "mine.onnx")
    stage, text = failed(project)
    assert stage == "verify"
    assert "'accept' names 'z'" in text
    assert "'score' names 'accuracy'" in text
    assert "config.yaml:3  models.mine.accept.z" in text


def test_a_python_file_beside_the_config_is_a_source(empty: Callable[[str], Project]) -> None:
    """With what it imports from beside itself; a changed file is built again, a missing one named."""
    project = empty("version: 1\nmodels:\n  mine: {source: code/mine.py, batch: 4}\n  gone: {source: code/gone.py}\n")
    (project.folder / "code").mkdir()
    (project.folder / "code/planwright_test_factor.py").write_text("FACTOR = 3\n")
    text = (
        (Path(__file__).resolve().parents[2] / "docs/add-a-model.md")
        .read_text()
        .split("```python\n")[1]
        .split("```")[0]
    )
    code = "from planwright_test_factor import FACTOR\n" + text.replace("nn.Linear(4, 2)", "nn.Linear(4, FACTOR)")
    (project.folder / "code/mine.py").write_text(code)
    done = project.build("--json")
    assert done.code == 2
    mine, gone = json.loads(done.out)["models"]
    assert (mine["status"], gone["status"]) == ("built", "failed")
    assert "there is no file code/gone.py" in gone["errors"][0]["what"]
    assert "dims: [3]" in (project.repository / "mine/config.pbtxt").read_text()
    (project.folder / "code/planwright_test_factor.py").write_text("FACTOR = 5\n")
    assert json.loads(project.build("mine", "--json").out)["models"][0]["status"] == "built", "what it imports counts"
    assert "dims: [5]" in (project.repository / "mine/config.pbtxt").read_text()
    (project.folder / "code/mine.py").write_text(code.replace("64, 4", "48, 4"))
    assert json.loads(project.build("mine", "--json").out)["models"][0]["status"] == "built"
    (project.folder / "code/mine.py").write_text(code.replace("FACTOR)", "FACTOR + no_such)"))
    broken = json.loads(project.build("mine", "--json").out)["models"][0]
    assert broken["failed_stage"] == "export"
    assert f"{project.folder}/code/mine.py:" in broken["errors"][0]["where"]


def test_external_data_is_taken_along(empty: Callable[[str], Project]) -> None:
    project = empty(FIXED % ", batch: {max: 4}")
    save(project.folder / "plain.onnx")
    model = onnx.load(str(project.folder / "plain.onnx"))
    weight = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "scale"))
    model.graph.node[0].op_type = "MatMul"
    path = project.folder / "mine.onnx"
    onnx.save_model(model, str(path), save_as_external_data=True, location="mine.onnx.data", size_threshold=0)
    assert (project.folder / "mine.onnx.data").stat().st_size >= weight.nbytes
    done = project.build()
    assert done.code == 0, done.out
    assert [file.name for file in (project.repository / "mine/1").glob("*.onnx*")] == ["model.onnx"]
    (project.folder / "mine.onnx.data").unlink()
    assert failed_again(project) == "onnx"


def failed_again(project: Project) -> str:
    done = project.build("--json", "--force")
    assert done.code == 1
    stage = json.loads(done.out)["models"][0]["failed_stage"]
    return str(stage)


def test_int8_of_a_graph_with_nothing_to_quantize_says_so(empty: Callable[[str], Project]) -> None:
    project = empty(FIXED % ", batch: {max: 4}, precision: int8")
    save(project.folder / "mine.onnx")  # one product with a number: no operator that INT8 would compute
    stage, text = failed(project)
    assert stage == "graph"
    assert "no node of mine can run in INT8" in text
    assert "config.yaml:3  models.mine.precision" in text


def test_a_graph_that_loses_too_much_is_named(project: Project) -> None:
    project.edit(
        "source: zoo/digits", "source: zoo/digits\n    precision: int8\n    accept: {scores: {cosine: 0.9999999}}"
    )
    done = project.build("--json")
    assert done.code == 1
    report = json.loads(done.out)["models"][0]
    assert report["failed_stage"] == "graph"
    assert "config.yaml:6" in json.dumps(report["errors"])
    assert f"python -m builders search digits --config {project.config}" in report["errors"][0]["fix"]


def test_the_dynamo_exporter_and_its_opset(empty: Callable[[str], Project]) -> None:
    project = empty(
        "version: 1\nmodels:\n  d: {source: zoo/digits, batch: {max: 4}, export: {exporter: dynamo, opset: 18}}\n"
    )
    assert project.build("--until", "export").code == 0
    record = json.loads((project.folder / "build/d/export/stage.json").read_text())
    assert record["result"]["opset"] == 18
