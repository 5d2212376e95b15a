"""What an engine is, whatever made it.

In      an ONNX graph whose precision is already decided, and the model's part of config.yaml.
Out     `Target` (compiles and loads) and `Engine` (answers); `get_target` finds the one asked for.

Each target is one module here with a class of this shape; nothing outside this folder knows which it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from planwright.golden import Arrays
from planwright.spec import ModelSpec
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
        ...


class Target(Protocol):
    """Makes engines of one kind.

    Attributes:
        name: As in config.yaml and on the command line.
        platform, backend, filename: What config.pbtxt says and the engine file is called.
        kind: Default ``kind`` of an instance group.
        max_opset: Newest ONNX opset that it reads.
    """

    name: str
    platform: str
    backend: str
    filename: str
    kind: str
    max_opset: int

    def key(self) -> str:
        """Return the folder name below ``compile/<precision>/``."""
        ...

    def versions(self) -> dict[str, str]:
        """Return what an engine depends on: runtime, CUDA, GPU, driver."""
        ...

    def compile(self, graph: Path, folder: Path, spec: ModelSpec) -> None:
        """Write ``folder/<filename>``; raises StageError('engine', ...)."""
        ...

    def load(self, folder: Path) -> Engine:
        """Load the engine in `folder`."""
        ...


def get_target(name: str) -> Target:
    """Return the target called `name`."""
    from builders.targets.ort import OnnxRuntimeTarget

    return OnnxRuntimeTarget()
