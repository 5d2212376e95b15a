"""Which config.pbtxt loads and which is refused, as with NVIDIA's C++ onnxruntime backend, in the words of the ready table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from onnx import helper

from serving.watchdog import stubs_of
from tests import _models
from tests._models import constant, instances, model, publish, tensors, value
from tests._server import Launched, launch
from tests.serving._infer import over_http

DOUBLE = [helper.make_node("Add", ["x", "x"], ["y"])]


def doubler(repository: Path, name: str, shape: list[int | str], config: str) -> Path:
    """Publish y = 2x of FP32 with this shape."""
    made = model(DOUBLE, [value("x", "FP32", shape)], [value("y", "FP32", shape)])
    return publish(repository, name, made, config)


def io(dims: list[int], extra: str = "") -> str:
    """Return x and y of FP32 with these dims and further fields."""
    return "".join(
        f'{kind} {{ name: "{name}" data_type: TYPE_FP32 dims: {dims} {extra} }}\n'
        for kind, name in (("input", "x"), ("output", "y"))
    )


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server with models that load and models that must not."""
    folder = tmp_path_factory.mktemp("models")
    doubler(folder, "static", [2, 3], "max_batch_size: 0\n" + io([2, 3]) + instances(1))
    doubler(folder, "reshaped", ["n"], "max_batch_size: 4\n" + io([1], "reshape { shape: [] }") + instances(1))
    doubler(folder, "scalar", [], "max_batch_size: 0\n" + io([1]) + instances(1))
    doubler(
        folder,
        "open_input",
        ["n", "m"],
        "max_batch_size: 4\n"
        + tensors("input", ("x", "FP32", [3]))
        + tensors("output", ("y", "FP32", [-1]))
        + instances(1),
    )
    _models.adder(folder, "threads4", extra='parameters { key: "intra_op_thread_count" value { string_value: "4" } }\n')
    _models.adder(folder, "threads1", extra='parameters { key: "intra_op_thread_count" value { string_value: "1" } }\n')
    _models.adder(
        folder,
        "tuned",
        extra='optimization { graph { level: -1 } } parameters { key: "session.disable_prepacking" value { string_value: "1" } }\n',
    )
    optional = model(
        DOUBLE, [value("x", "FP32", [3])], [value("y", "FP32", [3])], [constant("x", np.ones(3, np.float32))]
    )
    publish(
        folder,
        "optional",
        optional,
        "max_batch_size: 0\n" + io([3]).replace("dims", "optional: true dims", 1) + instances(1),
    )
    # what must be refused
    doubler(folder, "closed_output", ["n", "m"], "max_batch_size: 4\n" + io([3]) + instances(1))
    doubler(folder, "no_batch", [2, 3], "max_batch_size: 4\n" + io([3]) + instances(1))
    _models.adder(
        folder, "bad_number", extra='parameters { key: "intra_op_thread_count" value { string_value: "many" } }\n'
    )
    ragged = io([-1]).replace("dims", "allow_ragged_batch: true dims", 1)
    doubler(folder, "ragged", ["n", "m"], f"max_batch_size: 4\n{ragged}{instances(1)}")
    (_models.adder(folder, "gone") / "1" / "model.onnx").unlink()
    (folder / "gone" / "1" / "readme.txt").write_text("a version folder without a model")
    whole = (_models.adder(folder, "cut") / "1" / "model.onnx").read_bytes()
    (folder / "cut" / "1" / "model.onnx").write_bytes(whole[: len(whole) // 2])
    launched = launch(tmp_path_factory.mktemp("run"), folder).wait_ready()
    yield launched
    launched.stop()
    assert launched.process.stdout is not None
    launched.process.stdout.close()


@pytest.fixture(scope="module")
def status(odd: Launched) -> dict[str, str]:
    assert "models" in odd.document, odd.stderr
    return {row["name"]: row["status"] for row in odd.document["models"]}


@pytest.mark.parametrize(
    "name", ["static", "reshaped", "scalar", "open_input", "threads4", "threads1", "tuned", "optional"]
)
def test_these_load(status: dict[str, str], name: str) -> None:
    assert status[name] == "READY"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("closed_output", "tensor 'y': the model expects 2 dimensions (shape [-1, -1]) but the model configuration specifies 2"),
        ("no_batch", "the first dimension must be -1; but shape expected by the model is [2, 3]"),
        ("bad_number", "parameter intra_op_thread_count must be a whole number, not 'many'"),
        ("ragged", "allow_ragged_batch needs NVIDIA's C++ onnxruntime backend"),
        ("gone", "unable to find '"),
        ("cut", "Protobuf parsing failed"),
    ],
)  # fmt: skip
def test_these_are_refused_with_the_reason(status: dict[str, str], name: str, reason: str) -> None:
    assert status[name].startswith("UNAVAILABLE: ")
    assert reason in status[name]


def test_shapes_come_back_as_config_pbtxt_says(odd: Launched) -> None:
    infer: Callable[..., dict[str, Any]] = over_http
    for name, shape in (("static", (2, 3)), ("reshaped", (3, 1)), ("scalar", (1,)), ("open_input", (2, 3))):
        x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        np.testing.assert_array_equal(infer(odd.info, name, x=x)["y"], 2 * x, err_msg=name)


def test_an_optional_input_may_be_left_out(odd: Launched) -> None:
    np.testing.assert_array_equal(over_http(odd.info, "optional")["y"], [2, 2, 2])


def test_threads_follow_the_parameter(odd: Launched) -> None:
    threads = {
        stub.model: psutil.Process(pid).num_threads() for pid, stub in stubs_of(odd.document["server_pid"]).items()
    }
    assert threads["threads4"] - threads["threads1"] == 3
