"""Other people's models: built from twenty lines or a foreign file, all in one server, every golden answer right.

The expected answers are those of the original model (PyTorch, scikit-learn through ONNX Runtime), of samples that differ, so a swapped, stale
or constant answer fails.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients import TritonModel
from planwright.server_info import ServerInfo
from tests._project import ROOT, Project
from tests._server import running_server
from tests.models.foreign import WRITERS

ZOO = Path(__file__).with_name("zoo")
CODE = {"mobilenet": 4, "vit": 4, "fcn": 2, "lstm": 4, "pair": 4, "ssdlite": "none"}
MODELS = [*CODE, *WRITERS]
LINES = 20


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Every model, built by one command."""
    project = Project(tmp_path_factory.mktemp("models"))
    shutil.copytree(ZOO, project.folder / "code")
    entries = [f"{name}: {{source: code/{name}.py, batch: {batch}}}" for name, batch in CODE.items()]
    for name, (write, settings) in WRITERS.items():
        write(project.folder)
        entries.append(f"{name}: {{source: {name}.onnx, {settings}}}")
    project.config.write_text("version: 1\nmodels:\n" + "".join(f"  {entry}\n" for entry in entries))
    done = project.build()
    assert done.code == 0, done.out
    return project


@pytest.fixture(scope="module")
def server(models: Project) -> Iterator[ServerInfo]:
    with running_server(models.repository, "--allow-client-shm") as info:
        yield info


@pytest.fixture(scope="module")
def verdicts(models: Project, server: ServerInfo) -> dict[str, list[dict[str, Any]]]:
    """The report of validate on every model, all loaded in one server."""
    words = ["-m", "clients", "validate", "--json", "--url", server.http_url, "--grpc-url", server.grpc_url]
    done = subprocess.run(
        [sys.executable, *words, "--repository", str(models.repository)], cwd=ROOT, capture_output=True, text=True
    )
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in MODELS}
    for row in json.loads(done.stdout)["rows"]:
        rows[row["model"]].append(row)
    return rows


@pytest.mark.parametrize("name", MODELS)
def test_every_golden_answer_is_right(verdicts: dict[str, list[dict[str, Any]]], name: str) -> None:
    bad = [row for row in verdicts[name] if row["verdict"] not in ("ok", "skipped")]
    assert not bad, bad
    answered = {row["transport"] for row in verdicts[name] if row["verdict"] == "ok" and row["samples"] > 1}
    assert answered == {"http", "grpc", "shm"}


@pytest.mark.parametrize("name", CODE)
def test_a_model_takes_twenty_lines(name: str) -> None:
    text = (ZOO / f"{name}.py").read_text()
    tree = ast.parse(text)
    imports = {
        line
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    code = [
        line
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and number not in imports and not line.startswith('"""')
    ]
    assert len(code) <= LINES, f"{len(code)} lines"


def infer(server: ServerInfo, name: str, **inputs: Any) -> dict[str, Any]:
    """Return the answers to whole tensors, the same over HTTP and over gRPC."""
    answers = []
    for protocol, url in (("http", server.http_url), ("grpc", server.grpc_url)):
        with TritonModel(name, url, protocol=protocol) as model:  # type: ignore[arg-type]
            answers.append(model.infer_batch(inputs))
    for output, array in answers[0].items():
        np.testing.assert_array_equal(array, answers[1][output])
    return answers[0]


def test_text_and_numbers_come_back_as_they_went(server: ServerInfo) -> None:
    found = infer(server, "text", word=np.array([["größe"], ["🙂"], ["unknown"], [""]], object))
    assert found["id"].ravel().tolist() == [2, 4, -1, -1]
    assert [text.decode() for text in found["back"].ravel()] == ["größe→", "🙂→", "?", "?"]


def test_shapes_are_the_models_own(server: ServerInfo) -> None:
    x = np.array([[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 3, 0]], np.float32)
    q = np.eye(4, dtype=np.float32)[:2]
    found = infer(server, "matrix", x=x, q=q)
    np.testing.assert_allclose(found["y"], x @ q.T)
    assert found["mean"].shape == ()
    assert found["mean"] == pytest.approx(0.5)
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_allclose(infer(server, "scaled", x=x, factor=np.float32(3))["y"], x * 3)
    table = infer(server, "whole_numbers", ids=np.array([[0, 1, 2], [7, 7, 7]]))
    assert table["sum"].shape == (2,)
    np.testing.assert_array_equal(table["sum"], table["rows"].sum(axis=1))


def test_scikit_learns_own_answers_are_served(models: Project, server: ServerInfo) -> None:
    from sklearn.datasets import load_iris
    from sklearn.ensemble import RandomForestClassifier

    x, y = load_iris(return_X_y=True)
    fitted = RandomForestClassifier(20, random_state=0).fit(x, y)
    found = infer(server, "sklearn_numbers", X=x[::40].astype(np.float32))
    np.testing.assert_array_equal(found["label"].ravel(), fitted.predict(x[::40]))
    np.testing.assert_allclose(found["probabilities"], fitted.predict_proba(x[::40]), atol=1e-5)
