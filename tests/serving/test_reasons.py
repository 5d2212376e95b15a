"""Why a model does not load, in Triton's own words, wherever the server keeps them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from builders import reload
from planwright.errors import StageError
from planwright.triton_admin import load_error, logged_error
from tests import _models
from tests._server import Launched

Start = Callable[..., Launched]
LEVELS = "default priority level must be in range [1, 2]"
WARM_UP = 'model_warmup { name: "w" batch_size: 1 inputs { key: "z" value { data_type: TYPE_FP32 dims: [4] zero_data: true } } }\n'


def refused_models(folder: Path) -> None:
    """A config.pbtxt that is not accepted, one that cannot be read, and one whose warm-up fails."""
    _models.adder(folder, "levels", extra="dynamic_batching { priority_levels: 2 }\n")
    _models.adder(folder, "unreadable", extra="nonsense: 3\n")
    _models.adder(folder, "cold", extra=WARM_UP)


@pytest.mark.parametrize("mode", ["none", "explicit"])
def test_the_ready_table_has_the_reason(start: Start, repository: Path, mode: str) -> None:
    refused_models(repository)
    names = ["adder", "levels", "unreadable", "cold"]
    flags = ["--model-control-mode=explicit", *(f"--load-model={name}" for name in names)] if mode == "explicit" else []
    launched = start(repository, *flags).wait_ready()
    status = {model["name"]: model["status"] for model in launched.document["models"]}
    assert set(status) == set(names)
    assert status["adder"] == "READY"
    assert LEVELS in status["levels"]
    assert f"failed to read text proto from {repository}/unreadable/config.pbtxt" in status["unreadable"]
    assert "missing required input(s) ['x']" in status["cold"]
    assert LEVELS in " ".join(launched.stderr.split())


def test_what_the_health_endpoint_answers_is_said_as_it_is(start: Start, repository: Path) -> None:
    """A config.pbtxt that is not accepted leaves Triton ready, a model that fails to load does not."""
    _models.adder(repository, "levels", extra="dynamic_batching { priority_levels: 2 }\n")
    assert "/v2/health/ready answers 200" in start(repository).wait_ready().stderr
    _models.adder(repository, "cold", extra=WARM_UP)
    assert "/v2/health/ready answers 400" in start(repository).wait_ready().stderr


def test_a_server_whose_only_model_is_not_accepted_ends_with_the_reason(start: Start, tmp_path: Path) -> None:
    _models.adder(tmp_path / "models", "levels", extra="dynamic_batching { priority_levels: 2 }\n")
    launched = start(tmp_path / "models", "--model-control-mode=explicit", "--load-model=levels").wait_ready()
    assert launched.process.wait(10) == 1
    [fault] = launched.document["errors"]
    assert LEVELS in fault["why"]


def test_the_load_api_has_the_reason_from_the_log(start: Start, repository: Path) -> None:
    launched = start(repository, "--model-control-mode=explicit", "--load-model=adder").wait_ready()
    refused_models(repository)
    for name, words in (
        ("levels", LEVELS),
        ("unreadable", "failed to read text proto"),
        ("cold", "missing required input(s) ['x']"),
    ):
        with pytest.raises(StageError) as caught:
            reload.load(launched.info, name)
        why = caught.value.faults[0].why
        assert words in why
        assert "failed to poll" not in why
        assert "UNAVAILABLE state" not in why


def test_sentences_of_other_models_and_releases(tmp_path: Path) -> None:
    """Releases differ in quotes around a log's line; a model's name may be the beginning of another's."""
    log = (
        "E1125 08:04:30.602695 12699 model_repository_manager.cc:1460] \"Poll failed for model directory 'a': no dims for a\"\n"
        "E1125 08:04:30.602695 12699 model_repository_manager.cc:1460] Poll failed for model directory 'ab': no name for ab\n"
        "W1125 08:04:30.602936 12699 model_lifecycle.cc:111] \"ignore version directory 'x' of 'a'\"\n"
    )
    assert (logged_error(log, "a"), logged_error(log, "ab"), logged_error(log, "b")) == (
        "no dims for a",
        "no name for ab",
        "",
    )
    (tmp_path / "log").write_text(log)
    polled = "failed to load 'a', failed to poll from model repository"
    assert load_error(polled, str(tmp_path / "log"), "a") == "no dims for a"
    assert load_error(polled, str(tmp_path / "gone"), "a") == polled
    assert (
        load_error("Internal: ValueError: x\n\nAt:\n  /a/b.py(1): f\n", str(tmp_path / "log"), "a")
        == "Internal: ValueError: x"
    )
