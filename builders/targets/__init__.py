"""What an engine and a target are, whichever library builds them.

In      an ONNX graph whose precision is already decided, and the model's part of config.yaml.
Out     `Target` (compiles and loads) and `Engine` (answers); `choose` is the rule behind ``--target auto``, and `get_target` returns one.

Each target is one module here with a class of this shape; nothing outside this folder depends on which one it is. Devices are counted by the
CUDA driver, through libcuda: TensorRT's own Runtime crashes the process on a machine without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from planwright.config.spec import ModelSpec, ServerSpec
from planwright.config.spec import Target as TargetName
from planwright.errors import MachineError
from planwright.golden import Arrays
from planwright.gpu import devices
from planwright.tensors import TensorSpec


class Engine(Protocol):
    """A loaded engine.

    Attributes:
        inputs, outputs: As the engine declares them, batch axis included, -1 where it varies.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, inputs: Arrays) -> Arrays:
        """Answer one batch."""

    def close(self) -> None:
        """Free its memory."""


class Target(Protocol):
    """Makes engines of one kind.

    Attributes:
        name: As in config.yaml and on the command line.
        platform, backend, filename: What config.pbtxt says and the engine file is called.
        kind: Default ``kind`` of an instance group.
    """

    name: str
    platform: str
    backend: str
    filename: str
    kind: str

    @property
    def max_opset(self) -> int:
        """Newest ONNX opset that it reads."""

    def key(self) -> str:
        """Return the folder name below ``compile/<precision>/``."""

    def versions(self) -> dict[str, str]:
        """Return what an engine depends on: runtime, CUDA, GPU, driver."""

    def compile(self, graph: Path, folder: Path, spec: ModelSpec) -> Mapping[str, Any]:
        """Write ``folder/<filename>`` and return figures for the record; raises StageError('engine', ...)."""

    def load(self, folder: Path) -> Engine:
        """Load the engine in `folder`."""


def get_target(name: str, server: ServerSpec | None = None) -> Target:
    """Return the target called `name`; `server` is the one that engines are made for."""
    if name == "tensorrt":
        from builders.targets.tensorrt.target import TensorRTTarget

        return TensorRTTarget(server)
    from builders.targets.ort import OnnxRuntimeTarget

    return OnnxRuntimeTarget()


def choose(requested: str, *, needs_engine: bool = True) -> tuple[TargetName, str]:
    """Return (target, reason); without `needs_engine` nothing is compiled or loaded, which needs no GPU.

    Raises:
        MachineError: A device is there but TensorRT is not, or tensorrt was requested where it cannot work (exit 3).
    """
    from builders.targets.tensorrt.target import no_device, no_tensorrt

    if requested == "onnxruntime":
        return "onnxruntime", "requested"
    if requested == "tensorrt" and not needs_engine:
        return "tensorrt", "requested; nothing here needs a GPU"
    count = len(devices())
    if requested == "auto" and not count:
        return "onnxruntime", "no CUDA device on this machine"
    if not count:
        raise MachineError(no_device())
    if find_spec("tensorrt") is None:
        raise MachineError(no_tensorrt())
    return "tensorrt", f"{count} CUDA device(s) and TensorRT"
