"""What the tensorrt backend refuses, in the words of NVIDIA's C++ backend; a plan is told by its tensors and profiles alone."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests._project import ROOT


def tensor(name: str, datatype: str, shape: tuple[int, ...]) -> SimpleNamespace:
    return SimpleNamespace(name=name, datatype=datatype, shape=shape)


PLAN = SimpleNamespace(
    inputs=[tensor("image", "UINT8", (-1, 8, 8))],
    outputs=[tensor("scores", "FP32", (-1, 10))],
    profiles=[{"image": ((1, 8, 8), (4, 8, 8), (16, 8, 8))}],
)


def config(**changes: Any) -> dict[str, Any]:
    return {
        "name": "digits",
        "max_batch_size": 16,
        "input": [{"name": "image", "data_type": "TYPE_UINT8", "dims": ["8", "8"]}],
        "output": [{"name": "scores", "data_type": "TYPE_FP32", "dims": ["10"]}],
        **changes,
    }


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    # as in the stub, which has the backend's folder on its path
    monkeypatch.syspath_prepend(str(ROOT / "serving/backends/tensorrt"))
    import trt_checks  # type: ignore[import-not-found,unused-ignore]

    yield trt_checks
    del sys.modules["trt_checks"]


def test_a_config_that_fits_is_taken(checks: Any) -> None:
    checks.check_config(config(), PLAN, [0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_batch_size": 17}, "configuration specified max-batch 17 but TensorRT engine only supports max-batch 16"),
        ({"input": [{"name": "picture", "data_type": "TYPE_UINT8", "dims": ["8", "8"]}]},
         "unexpected inference input 'picture', allowed inputs are: image; expected configuration for input 'image'"),
        ({"input": [{"name": "image", "data_type": "TYPE_FP32", "dims": ["8", "8"]}]},
         "unexpected datatype TYPE_FP32 for inference input 'image', expecting TYPE_UINT8"),
        ({"output": [{"name": "scores", "data_type": "TYPE_FP32", "dims": ["10", "1"]}]},
         "the model expects 2 dimensions (shape [-1, 10]) but the model configuration specifies 3 dimensions"),
        ({"batch_input": [{}]}, "batch_input needs NVIDIA's C++ tensorrt backend"),
    ],
)  # fmt: skip
def test_a_config_that_does_not_fit_is_refused(checks: Any, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        checks.check_config(config(**changes), PLAN, [0])


def test_a_profile_that_the_plan_lacks_is_refused(checks: Any) -> None:
    with pytest.raises(ValueError, match="unable to use optimization profile 1: the plan has 1"):
        checks.check_config(config(), PLAN, [0, 1])


def test_a_shape_outside_the_profile_is_told_with_its_bounds(checks: Any) -> None:
    checks.check_request("digits_0", PLAN, {"image": (16, 8, 8)})
    with pytest.raises(checks.RequestError, match="dimension 0 to be between 1 and 16 but received 17"):
        checks.check_request("digits_0", PLAN, {"image": (17, 8, 8)})


def test_options_that_cannot_be_honoured_are_reported(checks: Any) -> None:
    lines = checks.ignored_options(
        config(optimization={"cuda": {"graphs": True, "busy_wait_events": True}, "eager_batching": True})
    )
    assert [line.split(" is ")[0] for line in lines] == [
        "optimization.cuda.busy_wait_events",
        "optimization.eager_batching",
    ]
