"""What only a model's own inputs show to be wrong in `serve` is refused with its line of config.yaml, before anything is published."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import onnx
import pytest
from onnx import helper

from tests import _models
from tests._project import Project
from tests.planwright.test_serve_rules import TAKEN

ENTRY = """\
  {name}:
    source: m.onnx
    batch: {{max: 4}}
    serve:
      model_warmup:
      - batch_size: 1
        inputs:
          {warm_up}
"""
GOOD = "x: {data_type: TYPE_FP32, dims: [7], zero_data: true}"


def relu(shape: list[int | str]) -> Any:
    """Return y = max(x, 0)."""
    sides = [_models.value(name, "FP32", shape) for name in ("x", "y")]
    return _models.model([helper.make_node("Relu", ["x"], ["y"])], sides[:1], sides[1:])


def faults(out: str) -> list[dict[str, Any]]:
    document = json.loads(out)
    return [fault for part in document.get("models", [document]) for fault in part["errors"]]


def test_a_file_shows_its_inputs_before_the_build(empty: Callable[[str], Project]) -> None:
    wrong = [GOOD.replace("x:", "y:"), GOOD.replace("FP32", "INT64"), GOOD.replace("[7]", "[1, 7]")]
    project = empty(
        "version: 1\nmodels:\n"
        + "".join(ENTRY.format(name=f"m{i}", warm_up=text) for i, text in enumerate([GOOD, *wrong]))
    )
    onnx.save(relu(["n", "length"]), project.folder / "m.onnx")
    done = project.build("--json")
    assert done.code == 2
    places = [int(fault["where"].split("config.yaml:")[1].split()[0]) for fault in faults(done.out)]
    assert places == [17, 18, 26, 34], "the wrong name, the input that it leaves out, the type, the batch axis"
    assert not project.repository.exists()


@pytest.mark.parametrize("flags", [(), ("--plan",)])
def test_an_engine_shows_its_inputs_before_it_is_published(project: Project, flags: tuple[str, ...]) -> None:
    before = project.state()
    project.edit(
        "    serve:",
        "    serve:\n      model_warmup: [{batch_size: 1, inputs: {picture: {data_type: TYPE_UINT8, dims: [8, 8], zero_data: true}}}]",
    )
    done = project.build("--json", *flags)
    assert done.code == 2
    extra, lacking = (fault["what"] for fault in faults(done.out))
    assert "'picture'" in extra
    assert "lacks input 'image'" in lacking
    assert all(f"{project.config}:8" in fault["where"] for fault in faults(done.out))
    assert project.state() == before


def test_what_the_rules_take_the_server_takes(empty: Callable[[str], Project]) -> None:
    """Each of these settings is loaded by the real server, in the trial load, and answers."""
    entry = "  m{number}:\n    source: m.onnx\n    batch: {{max: 4}}\n    samples: {{golden: 4}}\n    serve:\n{serve}"
    indented = ["".join(f"      {line}\n" for line in serve.splitlines()) for serve in TAKEN]
    project = empty(
        "version: 1\nmodels:\n" + "".join(entry.format(number=i, serve=text) for i, text in enumerate(indented))
    )
    onnx.save(relu(["n", 2, "length"]), project.folder / "m.onnx")
    done = project.build("--json")
    assert done.code == 0, done.out
    assert [model["status"] for model in json.loads(done.out)["models"]] == ["built"] * len(TAKEN)
