"""Small ONNX files of the tests of samples, the projects that build them, and what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from planwright.config.spec import ModelSpec
from planwright.golden import Golden
from tests._project import Project

WORDS = ["ja", "größe", "", "日本", "🙂", "a b", "x\0", "\0", "né"]
ENTRY = "version: 1\nmodels:\n  mine: {source: zoo/onnx, file: mine.onnx, batch: {max: 4}%s}\n"


def value(name: str, kind: int, *shape: Any) -> Any:
    return helper.make_tensor_value_info(name, kind, list(shape))


def save(
    path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: dict[str, Any] | None = None
) -> None:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))


def save_text(path: Path, words: list[str] = WORDS) -> None:
    """Write a model that numbers the words it knows, and repeats every text."""
    keys = {"keys_strings": words, "values_int64s": list(range(len(words))), "default_int64": -1}
    nodes = [
        helper.make_node("LabelEncoder", ["t"], ["id"], domain="ai.onnx.ml", **keys),
        helper.make_node("Identity", ["t"], ["back"]),
    ]
    text, number = TensorProto.STRING, TensorProto.INT64
    save(path, nodes, [value("t", text, "N", 1)], [value("id", number, "N", 1), value("back", text, "N", 1)])


def golden_of(project: Project, model: str = "mine") -> Golden:
    return Golden.load(project.folder / f"build/{model}/export/golden.npz")


def report(project: Project, *flags: str) -> Any:
    return json.loads(project.build("--json", *flags).out)["models"][0]


def rows_of(golden: Golden, name: str) -> list[Any]:
    return [row for group in golden.groups for row in (group.inputs | group.outputs)[name]]


def spec(**settings: Any) -> ModelSpec:
    return ModelSpec.model_validate({"name": "mine", "source": "zoo/onnx", "file": "mine.onnx", **settings})
