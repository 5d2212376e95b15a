"""Random inputs of a foreign ONNX file: sizes per input or axis, ranges of values, and models that refuse them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from builders.sources import onnx_random
from builders.sources.samples import fingerprint
from planwright.errors import PlanwrightError
from tests._project import Project
from tests.builders._onnx import ENTRY, report, save, spec, value


def image(axes: tuple[Any, ...] = ("N", 3, "H", "W")) -> list[onnx_random.RandomInput]:
    return [onnx_random.RandomInput("x", np.dtype("f4"), axes[1:]), onnx_random.RandomInput("ids", np.dtype("i8"), ("L",)),
            onnx_random.RandomInput("t", np.dtype(object), (1,))]  # fmt: skip


@pytest.mark.parametrize(
    ("dims", "x", "ids"),
    [
        ({}, (3, 8, 8), (8,)),
        ({"x": 64}, (3, 64, 64), (8,)),
        ({"x": [64, 96]}, (3, 64, 96), (8,)),
        ({"H": 64, "W": 96, "L": 5}, (3, 64, 96), (5,)),
        ({"x": [32, 64], "ids": [7]}, (3, 32, 64), (7,)),
    ],
)
def test_sizes_of_random_inputs(dims: dict[str, Any], x: tuple[int, ...], ids: tuple[int, ...]) -> None:
    sample = onnx_random.RandomSamples(image(), spec(options={"dims": dims}), [], range(4))[2]
    assert (sample["x"].shape, sample["ids"].shape) == (x, ids)


def test_ranges_of_random_inputs() -> None:
    made = onnx_random.RandomSamples(
        image(), spec(options={"ranges": {"ids": [30000, 30522], "x": [-1, -0.5]}}), [], range(40)
    )
    ids = np.concatenate([sample["ids"] for sample in made])
    x = np.stack([sample["x"] for sample in made])
    assert ids.min() >= 30000
    assert ids.max() < 30522
    assert len(set(ids.tolist())) > 100
    assert -1 <= x.min() < x.max() < -0.5
    assert fingerprint(made[3]) == fingerprint(made[3])
    assert fingerprint(made[3]) != fingerprint(made[4])


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ("{dims: {h: 64}}", ": H, W, x"),
        ("{dims: {N: 64}}", "'N', which is neither an input nor a free axis"),
        ("{dims: {x: [64]}}", "1 sizes, the input 2 free axes"),
        ("{dims: {x: [64, 0]}}", "[64, 0]"),
        ("{dims: {H: -3}}", "-3"),
        ("{dims: {H: 6.5}}", "6.5"),
        ("{dims: {H: [64, 96]}}", "[64, 96]"),
        ("{dims: 64}", "dims is not a mapping"),
        ("{ranges: {y: [0, 5]}}", "'y', which is not an input"),
        ("{ranges: {x: [5, 0]}}", "[5, 0]"),
        ("{ranges: {x: 5}}", "x"),
        ("{size: {x: 5}}", "no option 'size'"),
    ],
)
def test_wrong_sizes_and_ranges_are_refused_with_the_line(
    empty: Callable[[str], Project], options: str, fact: str
) -> None:
    project = empty(ENTRY % f",\n    options: {options}")
    shape = ["N", 3, "H", "W"]
    save(
        project.folder / "mine.onnx",
        [helper.make_node("Neg", ["x"], ["y"])],
        [value("x", 1, *shape)],
        [value("y", 1, *shape)],
    )
    failed = report(project)
    assert failed["status"] == "failed"
    assert fact in json.dumps(failed["errors"], ensure_ascii=False)
    assert "config.yaml:4  models.mine.options" in failed["errors"][0]["where"]


def test_all_mistakes_of_options_are_reported_at_once() -> None:
    with pytest.raises(PlanwrightError) as caught:
        onnx_random.shapes(image(), spec(options={"dims": {"Q": 1, "H": 0, "x": [1, 2, 3]}}))
    assert len(caught.value.faults) == 3
    with pytest.raises(PlanwrightError) as caught:
        onnx_random.ranges(image(), spec(options={"ranges": {"t": [0, 1], "ids": [0, 1.5], "q": [0, 1]}}))
    assert len(caught.value.faults) == 3


def test_a_model_that_refuses_random_sizes_names_dims(empty: Callable[[str], Project]) -> None:
    project = empty(ENTRY % "")
    nodes = [helper.make_node("SpaceToDepth", ["x"], ["y"], blocksize=32)]
    save(project.folder / "mine.onnx", nodes, [value("x", 1, "N", 1, "H", "W")], [value("y", 1, "N", 1024, "h", "w")])
    failed = report(project)
    assert failed["failed_stage"] == "onnx"
    fault = failed["errors"][0]
    assert "multiple of block_size" in fault["why"]
    assert "set to 8" in fault["why"]
    assert "options: {dims: {H: 64, W: 64}}" in fault["fix"]
    project.edit("batch: {max: 4}", "batch: {max: 4}, options: {dims: {H: 64, W: 64}}")
    assert report(project)["status"] == "built"


def test_ids_beyond_the_table_name_ranges(empty: Callable[[str], Project]) -> None:
    project = empty(ENTRY % "")
    table = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    save(project.folder / "mine.onnx", [helper.make_node("Gather", ["table", "ids"], ["y"])],
         [value("ids", TensorProto.INT64, "N", 3)], [value("y", 1, "N", 3, 6)], {"table": table})  # fmt: skip
    fault = report(project)["errors"][0]
    assert "ranges: {ids: [0, 100]}" in fault["fix"]
    project.edit("batch: {max: 4}", "batch: {max: 4}, options: {ranges: {ids: [0, 4]}}")
    assert report(project)["status"] == "built"
