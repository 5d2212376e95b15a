"""The SLO of config.yaml reaches the report, the verdict and a tune as it was written, however large or small it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from measure.report import build
from measure.tune import slo
from planwright.config.load import load_spec
from planwright.errors import SpecError
from tests._models import constant, model, value
from tests._project import Project
from tests._server import running_server
from tests.measure.conftest import locust

LIMITS = {"large": ("1000000", 1e6), "small": ("0.00005", 5e-5), "odd": ("1234567.25", 1234567.25)}
SHORT = "1.1us"


def test_any_slo_is_held_from_the_build_to_the_verdict(tmp_path: Path) -> None:
    project = Project(tmp_path)
    weights = constant("w", np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32))
    node, x, y = (
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        value("x", "FP32", ["n", 6]),
        value("y", "FP32", ["n", 4]),
    )
    onnx.save(model([node], [x], [y], [weights]), tmp_path / "m.onnx")
    source = "source: zoo/onnx, file: m.onnx, samples: {golden: 8, calibration: 8}"
    models = "".join(f"  {name}: {{{source}, slo: {{p99_ms: {text}}}}}\n" for name, (text, _) in LIMITS.items())
    project.config.write_text(f"version: 1\nmodels:\n{models}")
    done = project.build("--no-trial-load")
    assert done.code == 0, done.out + done.err
    with running_server(project.repository) as server:
        run = locust(server, tmp_path, "-u", "3", "-r", "3", "-t", "4s", "--tags", "http", wait_s="0.02")
    assert run.folder is not None
    assert run.code == 1, "no answer comes within fifty nanoseconds"
    assert {row["model"]: row["slo"]["p99_ms"] for row in run.report["models"]} == {
        n: ms for n, (_, ms) in LIMITS.items()
    }
    missed = [reason for reason in run.report["verdict"]["reasons"] if "the SLO is" in reason]
    assert [reason.split("the SLO is ")[1] for reason in missed] == ["0.00005 ms"], "the other two are met"
    page = (run.folder / "report.html").read_text()
    for name, (text, _) in LIMITS.items():
        folder = project.repository / name
        assert f"<td>{text}</td>" in page
        assert f'"{text}"' in (folder / "config.pbtxt").read_text()
        assert slo.of_model(folder, {}).text == f"p99 < {text} ms"
        assert build.slo_of(folder, {}) == json.loads((folder / "1" / "build.json").read_text())["slo"]


def test_units_do_not_round(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"version: 1\nmodels: {{m: {{source: zoo/digits, slo: {SHORT}}}}}\n")
    assert load_spec(config, "onnxruntime").models[0].slo.p99_ms == 0.0011
    assert slo.parse(f"p99<{SHORT}").text == "p99 < 0.0011 ms"


@pytest.mark.parametrize("limit", [".inf", ".nan", "0"])
def test_what_is_no_limit_is_refused(tmp_path: Path, limit: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"version: 1\nmodels:\n  m:\n    source: zoo/digits\n    slo: {{p99_ms: {limit}}}\n")
    with pytest.raises(SpecError, match="config.yaml:5"):
        load_spec(config, "onnxruntime")
