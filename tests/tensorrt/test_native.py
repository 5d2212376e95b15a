"""The older and the other ways into TensorRT, as far as they go without one: native calibration, a network built by its source."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from builders.targets.tensorrt import network
from builders.targets.tensorrt.calibrator import full_batches
from planwright.golden import Golden, Group
from tests._project import Project
from tests.tensorrt.conftest import job_of

SOURCE = "source: zoo/digits"
NATIVE = f"{SOURCE}\n    precision: int8\n    calibration: {{native: true}}"


def test_the_graph_stays_fp32_where_tensorrt_calibrates(project: Project) -> None:
    project.edit(SOURCE, NATIVE + '\n    keep_fp32: ["/layers/layers.0/Conv"]')
    done = project.build("--target", "tensorrt", "--until", "graph")
    assert done.code == 0, done.out + done.err
    folder = project.folder / "build/digits/graph/int8"
    assert "QuantizeLinear" not in {node.op_type for node in onnx.load(str(folder / "model.int8.onnx")).graph.node}
    result = json.loads((folder / "stage.json").read_text())["result"]
    assert result["calibration"] == "native"
    assert result["kept_high"] == ["/layers/layers.0/Conv"]


def test_new_samples_make_compile_due(project: Project) -> None:
    from builders.stages.compile import COMPILE

    project.edit(SOURCE, NATIVE)
    job = job_of(project, "tensorrt")
    assert "calibration.npz" in COMPILE.inputs(job)


def test_onnxruntime_has_no_such_route(project: Project) -> None:
    project.edit(SOURCE, NATIVE)
    done = project.build()
    assert done.code == 2, done.out
    assert "calibration.native needs TensorRT 8.6" in done.out + done.err
    assert "config.yaml:" in done.out + done.err


@pytest.mark.parametrize(("batch", "full", "left"), [(4, 3, 3), (8, 1, 7), (16, 0, 15)])
def test_only_full_batches_of_the_shape_are_fed(tmp_path: Path, batch: int, full: int, left: int) -> None:
    groups = (
        Group({"ids": np.arange(12 * 5, dtype=np.int32).reshape(12, 5)}, {}),
        Group({"ids": np.zeros((3, 7), np.int32)}, {}),
    )
    Golden(groups).save(tmp_path / "calibration.npz")
    found, left_out = full_batches(tmp_path / "calibration.npz", {"ids": [batch, 5]})
    assert (len(found), left_out) == (full, left)
    assert all(each["ids"].shape == (batch, 5) for each in found)


def test_a_source_may_fill_the_network_itself(project: Project) -> None:
    from builders.stages.compile import COMPILE

    assert network.wanted(job_of(project, "tensorrt").model) is None
    project.edit(SOURCE, "source: zoo/digits_api")
    job = job_of(project, "tensorrt")
    assert network.wanted(job.model) == "zoo/digits_api"
    assert COMPILE.inputs(job)["source"].name == "digits_api.py", "an edit of the source makes compile due"
    weights = onnx.load(str(job.export_folder / "model.onnx")).graph.initializer
    assert {f"layers.{n}.{part}" for n in (0, 2, 7, 9) for part in ("weight", "bias")} <= {
        item.name for item in weights
    }


def test_such_a_model_is_served_by_onnxruntime_too(project: Project) -> None:
    project.edit(SOURCE, "source: zoo/digits_api")
    done = project.build("--until", "verify")
    assert done.code == 0, done.out + done.err
