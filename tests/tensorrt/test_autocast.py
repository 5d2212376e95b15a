"""``autocast: true``: NVIDIA ModelOpt does the casts if it is installed, and is named if not."""

from __future__ import annotations

import json
from importlib.util import find_spec

import onnx
import pytest

from tests._project import Project

SOURCE = "source: zoo/digits"
ENTRY = f'{SOURCE}\n    precision: fp16\n    autocast: true\n    keep_fp32: ["/layers/layers.0/Conv"]'
HERE = find_spec("modelopt") is not None


@pytest.mark.skipif(HERE, reason="nvidia-modelopt is installed, so its absence cannot be shown")
def test_without_the_package_it_is_named(project: Project) -> None:
    project.edit(SOURCE, ENTRY)
    done = project.build("--target", "tensorrt", "--until", "graph", "--json")
    assert done.code == 3, done.out
    text = json.dumps(json.loads(done.out)["models"][0]["errors"])
    assert "nvidia-modelopt is not installed" in text
    assert "pip install --no-deps -r constraints/autocast.txt" in text


@pytest.mark.skipif(not HERE, reason="nvidia-modelopt is not installed")
def test_it_casts_all_but_the_nodes_kept_high(project: Project) -> None:
    project.edit(SOURCE, ENTRY)
    done = project.build("--target", "tensorrt", "--until", "graph")
    assert done.code == 0, done.out + done.err
    graph = onnx.load(str(project.folder / "build/digits/graph/fp16/model.fp16.onnx")).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer if tensor.dims}
    assert types["layers.0.weight"] == onnx.TensorProto.FLOAT
    assert types["layers.2.weight"] == onnx.TensorProto.FLOAT16
    assert graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
