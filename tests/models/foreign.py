"""ONNX files as other people's tools write them: transformers, scikit-learn, a detector, odd types and shapes.

In      a folder.
Out     one file per entry of `WRITERS`, each with the line of config.yaml that a user writes for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests._models import constant, model, value

RNG = np.random.default_rng(11)
WORDS = ["good", "bad", "größe", "日本", "🙂", "fine", "awful", "plain", "sehr", "gut"]


def bert(folder: Path) -> None:
    """A small BERT by the dynamo exporter, its weights in a separate file."""
    import torch

    from builders.sources.torchvision_shim import install

    install()
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=200, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    body = BertModel(config, add_pooling_layer=False).eval()
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    args = (torch.randint(0, 200, (2, 9)), torch.ones(2, 9, dtype=torch.int64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(body, args, str(folder / "bert.onnx"), dynamo=True, external_data=True, verbose=False,
                          input_names=["ids", "mask"], output_names=["states"],
                          dynamic_shapes={"input_ids": free, "attention_mask": free})  # fmt: skip


def _text() -> tuple[list[str], list[int]]:
    texts = [" ".join(RNG.choice(WORDS, 6)) for _ in range(80)]
    return texts, [int("good" in text or "gut" in text) for text in texts]


def sklearn_text(folder: Path) -> None:
    """A scikit-learn pipeline that reads text."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import StringTensorType
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts, truth = _text()
    fitted = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, truth)
    made = to_onnx(
        fitted, initial_types=[("text", StringTensorType([None, 1]))], options={"zipmap": False}, target_opset=17
    )
    onnx.save(made, folder / "sklearn_text.onnx")
    np.savez(folder / "sklearn_text.npz", text=np.array(texts)[:, None])


def sklearn_numbers(folder: Path) -> None:
    """A scikit-learn classifier of four measures."""
    from skl2onnx import to_onnx
    from sklearn.datasets import load_iris
    from sklearn.ensemble import RandomForestClassifier

    x, y = load_iris(return_X_y=True)
    fitted = RandomForestClassifier(20, random_state=0).fit(x, y)
    made = to_onnx(fitted, x[:1].astype(np.float32), options={"zipmap": False}, target_opset=17)
    onnx.save(made, folder / "sklearn_numbers.onnx")


def detector(folder: Path) -> None:
    """A picture of 640 by 640 in, 84 numbers for each of 8,400 places out, a fixed batch of 1, like YOLO exports."""
    nodes, parts, weights = [], [], []
    for stride in (8, 16, 32):
        weights.append(constant(f"w{stride}", RNG.normal(size=(84, 3, stride, stride)).astype(np.float32) / stride))
        nodes.append(helper.make_node("Conv", ["images", f"w{stride}"], [f"c{stride}"], strides=[stride, stride]))
        nodes.append(helper.make_node("Reshape", [f"c{stride}", "flat"], [f"r{stride}"]))
        parts.append(f"r{stride}")
    nodes.append(helper.make_node("Concat", parts, ["output0"], axis=2))
    inputs, outputs = [value("images", "FP32", [1, 3, 640, 640])], [value("output0", "FP32", [1, 84, 8400])]
    made = model(nodes, inputs, outputs, [*weights, constant("flat", np.array([1, 84, -1], np.int64))])
    onnx.save(made, folder / "detector.onnx")


def half(folder: Path) -> None:
    """FP16 in, inside and out."""
    weight = constant("w", RNG.normal(size=(6, 5)).astype(np.float16))
    made = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", "FP16", ["n", 6])],
        [value("y", "FP16", ["n", 5])],
        [weight],
    )
    onnx.save(made, folder / "half.onnx")


def whole_numbers(folder: Path) -> None:
    """INT64 in and out, and one number per sample."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "axis"], ["sum"], keepdims=0),
    ]
    outputs = [value("rows", "INT64", ["n", 3]), value("sum", "INT64", ["n"])]
    table = constant("table", RNG.integers(0, 10**12, 8))
    made = model(nodes, [value("ids", "INT64", ["n", 3])], outputs, [table, constant("axis", np.array([1], np.int64))])
    onnx.save(made, folder / "whole_numbers.onnx")


def text(folder: Path) -> None:
    """Text in, a number and other text out."""
    keys = {"keys_strings": WORDS, "domain": "ai.onnx.ml"}
    nodes = [
        helper.make_node(
            "LabelEncoder", ["word"], ["id"], values_int64s=list(range(len(WORDS))), default_int64=-1, **keys
        ),
        helper.make_node(
            "LabelEncoder", ["word"], ["back"], values_strings=[f"{w}→" for w in WORDS], default_string="?", **keys
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "text",
        [value("word", "STRING", ["n", 1])],
        [value("id", "INT64", ["n", 1]), value("back", "STRING", ["n", 1])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / "text.onnx")


def scaled(folder: Path) -> None:
    """A tensor and a number without any axis."""
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    inputs = [value("x", "FP32", [3, 4]), value("factor", "FP32", [])]
    onnx.save(model([node], inputs, [value("y", "FP32", [3, 4])]), folder / "scaled.onnx")


def matrix(folder: Path) -> None:
    """Two tensors with different first axes, and a scalar out: nothing here is a batch."""
    nodes = [
        helper.make_node("Gemm", ["x", "q"], ["y"], transB=1),
        helper.make_node("ReduceMean", ["y"], ["mean"], keepdims=0),
    ]
    inputs = [value("x", "FP32", ["N", 4]), value("q", "FP32", ["M", 4])]
    made = model(nodes, inputs, [value("y", "FP32", ["N", "M"]), value("mean", "FP32", [])])
    onnx.save(made, folder / "matrix.onnx")


Writer = Callable[[Path], Any]
WRITERS: dict[str, tuple[Writer, str]] = {
    "bert": (bert, "batch: 4"),
    "sklearn_text": (sklearn_text, "batch: 4, samples: sklearn_text.npz"),
    "sklearn_numbers": (sklearn_numbers, "batch: 4"),
    "detector": (detector, "samples: {golden: 3}"),
    "half": (half, "batch: 4"),
    "whole_numbers": (whole_numbers, "batch: 4"),
    "text": (text, "batch: 4"),
    "scaled": (scaled, "batch: none"),
    "matrix": (matrix, "batch: none"),
}
