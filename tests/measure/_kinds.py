"""Tiny models of many kinds, built by the real build: what a load test must be able to send, whatever people bring.

In      a project's folder.
Out     ONNX files, samples and the config.yaml that builds them.

Every answer depends on its input, so that a swapped, stale or constant one is wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests._models import constant, model, value

RNG = np.random.default_rng(7)
HEAD = "version: 1\ndefaults: {samples: {golden: 8, calibration: 8}}\nmodels:\n"


def write(folder: Path) -> list[str]:
    """Write all of them; returns their names."""
    makers = (_nan, _integers, _labels, _whole, _rank1, _scalars, _text, _words, _lengths, _sequence)
    entries = [make(folder) for make in makers]
    _config(folder, entries)
    return [name for name, _ in entries]


def _config(folder: Path, entries: list[tuple[str, str]]) -> None:
    sources = {name: f"{name}.{'py' if (folder / f'{name}.py').exists() else 'onnx'}" for name, _ in entries}
    lines = [f"  {name}: {{source: {sources[name]}{more}}}\n" for name, more in entries]
    (folder / "config.yaml").write_text(HEAD + "".join(lines))


def _save(folder: Path, name: str, made: Any, more: str = "", **samples: Any) -> tuple[str, str]:
    onnx.save(made, folder / f"{name}.onnx")
    if samples:
        np.savez(folder / f"{name}.npz", **samples)
        more += f", samples: {{file: {name}.npz}}"
    return name, more


def _nan(folder: Path) -> tuple[str, str]:
    """A model that takes NaN for a missing value, in every other sample."""
    nodes = [
        helper.make_node("IsNaN", ["x"], ["missing"]),
        helper.make_node("Where", ["missing", "instead", "x"], ["clean"]),
        helper.make_node("MatMul", ["clean", "w"], ["y"]),
    ]
    x = RNG.normal(size=(16, 6)).astype(np.float32)
    x[::2, 3] = np.nan
    weights = [constant("instead", np.float32(0.5)), constant("w", RNG.normal(size=(6, 4)).astype(np.float32))]
    made = model(nodes, [value("x", "FP32", ["n", 6])], [value("y", "FP32", ["n", 4])], weights)
    return _save(folder, "missing", made, x=x)


def _integers(folder: Path) -> tuple[str, str]:
    """INT64 and BOOL in and out."""
    nodes = [
        helper.make_node("Cast", ["flag"], ["number"], to=onnx.TensorProto.INT64),
        helper.make_node("Add", ["ids", "number"], ["sum"]),
        helper.make_node("Not", ["flag"], ["inverse"]),
    ]
    ids = np.arange(16 * 5, dtype=np.int64).reshape(16, 5) * 7
    made = model(
        nodes, [value("ids", "INT64", ["n", 5]), value("flag", "BOOL", ["n", 5])],
        [value("sum", "INT64", ["n", 5]), value("inverse", "BOOL", ["n", 5])],
    )  # fmt: skip
    flag = np.array([[bool(sample >> bit & 1) for bit in range(5)] for sample in range(16)])
    return _save(folder, "integers", made, ids=ids, flag=flag)


def _labels(folder: Path) -> tuple[str, str]:
    """Class ids and nothing else, another one for each sample."""
    made = model(
        [helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=1)],
        [value("x", "FP32", ["n", 16])], [value("label", "INT64", ["n", 1])],
    )  # fmt: skip
    return _save(folder, "labels", made, x=np.roll(np.eye(16, dtype=np.float32), 5, axis=1))


def _whole(folder: Path) -> tuple[str, str]:
    """No batch axis: one set of tensors per request."""
    made = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], [value("x", "FP32", [2, 3])], [value("y", "FP32", [2, 3])],
        [constant("w", RNG.normal(size=(3, 3)).astype(np.float32))],
    )  # fmt: skip
    return _save(folder, "whole", made, x=RNG.normal(size=(16, 2, 3)).astype(np.float32))


def _rank1(folder: Path) -> tuple[str, str]:
    """One number per sample, in and out: the batch is the only axis."""
    made = model(
        [helper.make_node("Mul", ["x", "three"], ["y"])], [value("x", "FP32", ["n"])], [value("y", "FP32", ["n"])],
        [constant("three", np.float32(3))],
    )  # fmt: skip
    return _save(folder, "rank1", made, x=RNG.normal(size=16).astype(np.float32))


def _scalars(folder: Path) -> tuple[str, str]:
    """Served as it is: a matrix and a number without any axis in, another number out."""
    nodes = [helper.make_node("Mul", ["x", "factor"], ["y"]), helper.make_node("ReduceSum", ["y"], ["sum"], keepdims=0)]
    made = model(
        nodes, [value("x", "FP32", ["rows", 4]), value("factor", "FP32", [])],
        [value("y", "FP32", ["rows", 4]), value("sum", "FP32", [])],
    )  # fmt: skip
    return _save(folder, "scalars", made, ", batch: none")


def _text(folder: Path) -> tuple[str, str]:
    """Words in, other words out, beyond ASCII and empty ones too; a column of them."""
    return _translated(folder, "text", ["n", 1])


def _words(folder: Path) -> tuple[str, str]:
    """The same without the column: one word a sample."""
    return _translated(folder, "words", ["n"])


def _translated(folder: Path, name: str, shape: list[Any]) -> tuple[str, str]:
    words = ["", "größe", "日本", "🙂", *(f"word {number}" for number in range(12))]
    node = helper.make_node(
        "LabelEncoder", ["word"], ["back"], domain="ai.onnx.ml", keys_strings=words, values_strings=[f"{word}→" for word in words],
        default_string="unknown",
    )  # fmt: skip
    graph = helper.make_graph([node], name, [value("word", "STRING", shape)], [value("back", "STRING", shape)])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    samples = np.array(words).reshape(-1, *shape[1:])
    return _save(folder, name, helper.make_model(graph, opset_imports=opsets, ir_version=8), word=samples)


def _sequence(folder: Path) -> tuple[str, str]:
    """Requests belong to sequences; each is one here."""
    made = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], [value("x", "FP32", ["n", 5])], [value("y", "FP32", ["n", 4])],
        [constant("w", RNG.normal(size=(5, 4)).astype(np.float32))],
    )  # fmt: skip
    serve = ", serve: {sequence_batching: {max_sequence_idle_microseconds: 5000000}}"
    return _save(folder, "sequence", made, serve, x=RNG.normal(size=(16, 5)).astype(np.float32))


LENGTHS = '''
"""Sums along an axis of any length; samples of three lengths."""
import numpy as np
import torch
from builders.source import Samples
from builders.torch_source import TorchSource


class Running(torch.nn.Module):
    def forward(self, x):
        return torch.cumsum(x, 1) * 2


class Model(TorchSource):
    input_names, output_names = ("x",), ("y",)
    dynamic_axes = {"x": {1: "length"}, "y": {1: "length"}}

    def build_model(self):
        return Running()

    def samples(self):
        rng = np.random.default_rng(3)
        made = [{"x": rng.normal(size=3 + number % 3).astype(np.float32)} for number in range(18)]
        return Samples(calibration=made[9:], golden=made[:9])
'''


def _lengths(folder: Path) -> tuple[str, str]:
    """Samples of three lengths, so golden samples in three groups; written in Python."""
    (folder / "lengths.py").write_text(LENGTHS.lstrip())
    return "lengths", ""
