"""A compiling process that lacks a package says which."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from builders.targets.tensorrt import child
from planwright.errors import MachineError


def test_the_package_that_the_child_lacks_is_named(tmp_path: Path) -> None:
    """This Python has no TensorRT, which the child imports first."""
    pytest.importorskip("torch")  # in a full environment, where only TensorRT is not there
    if "tensorrt" in sys.modules:
        pytest.skip("TensorRT is here")
    with pytest.raises(MachineError, match="'tensorrt' is not installed"):
        child.run({"model": "digits", "graph": "x.onnx"}, tmp_path, lambda *_: "config.yaml:1")
