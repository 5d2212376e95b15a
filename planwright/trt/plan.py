"""A loaded plan and its properties.

In      the bytes of a plan.
Out     `Plan`: its tensors, its optimization profiles, the memory it takes.

TensorRT's calls return None instead of raising and put the reason into the log, so the log's error lines are kept here
and become the exception. Without a usable GPU ``trt.Runtime`` crashes the process: callers query the driver first.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt

# TensorRT's name -> (Triton's name, numpy's name); BF16 and FP8 have no numpy type and travel as raw bytes
_TYPES = {
    "FLOAT": ("FP32", "float32"),
    "HALF": ("FP16", "float16"),
    "BF16": ("BF16", "uint16"),
    "INT8": ("INT8", "int8"),
    "UINT8": ("UINT8", "uint8"),
    "INT32": ("INT32", "int32"),
    "INT64": ("INT64", "int64"),
    "BOOL": ("BOOL", "bool"),
}
Shape = tuple[int, ...]


class PlanError(RuntimeError):
    """TensorRT refused; the text is the reason from its log."""


class Log(trt.ILogger):  # type: ignore[misc]
    """Keeps TensorRT's messages at ERROR and above, and hands every line to `listen`."""

    def __init__(self, listen: Any = None) -> None:
        trt.ILogger.__init__(self)
        self.errors: deque[str] = deque(maxlen=50)
        self._listen = listen

    def log(self, severity: Any, message: str) -> None:
        """Take one line; called by TensorRT from any of its threads."""
        # 8.6 calls it a warning that CUDA cannot be used, and then returns nothing
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR) or "CUDA initialization failure" in message:
            self.errors.append(message)
        if self._listen is not None:
            self._listen(severity, message)

    def reason(self, otherwise: str) -> str:
        """Return the error lines, or `otherwise`, and clear them."""
        text = "; ".join(self.errors) or otherwise
        self.errors.clear()
        return text


@dataclass(frozen=True)
class Tensor:
    """One input or output.

    Attributes:
        name: Tensor name.
        is_input: True for an input.
        datatype: Triton's name, such as ``FP32``.
        dtype: numpy's type; BF16 travels as uint16.
        shape: With -1 where it varies.
        is_shape: True where its values are shapes, which TensorRT reads on the host.
    """

    name: str
    is_input: bool
    datatype: str
    dtype: np.dtype[Any]
    shape: Shape
    is_shape: bool = False


class Plan:
    """A deserialized engine.

    Attributes:
        engine: ``trt.ICudaEngine``.
        tensors: Inputs, then outputs, in the engine's order.
        profiles: Per optimization profile: input -> (min, opt, max) shape.
    """

    def __init__(
        self, data: bytes, *, host_code_allowed: bool = False, plugins: Sequence[str] = (), log: Log | None = None
    ) -> None:
        """Deserialize.

        Args:
            data: The plan's bytes.
            host_code_allowed: Let a version-compatible plan run the code that it carries.
            plugins: Shared libraries with plugins that the plan needs.
            log: Where TensorRT's messages go.

        Raises:
            PlanError: Another version or device, a truncated file, too little memory.
        """
        self.log = log or Log()
        load_plugins(plugins, self.log)
        self._runtime = trt.Runtime(self.log)
        if host_code_allowed:
            self._runtime.engine_host_code_allowed = True
        engine = self._runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise PlanError(self.log.reason("the plan cannot be deserialized"))
        self.engine = engine
        self.tensors = sorted(self._tensors(), key=lambda tensor: not tensor.is_input)
        self.profiles = [self._profile(index) for index in range(engine.num_optimization_profiles)]

    @classmethod
    def read(cls, path: Path, **options: Any) -> Plan:
        """Load a file."""
        return cls(path.read_bytes(), **options)

    @property
    def inputs(self) -> list[Tensor]:
        """Input tensors."""
        return [tensor for tensor in self.tensors if tensor.is_input]

    @property
    def outputs(self) -> list[Tensor]:
        """Output tensors."""
        return [tensor for tensor in self.tensors if not tensor.is_input]

    @property
    def dynamic(self) -> bool:
        """True where any input has a dim that varies."""
        return any(-1 in tensor.shape for tensor in self.inputs)

    def choose_profile(self, shapes: dict[str, Shape], among: list[int] | None = None) -> int:
        """Return the profile that admits `shapes` and whose opt is nearest, as Triton's backend chooses.

        Raises:
            PlanError: None admits them.
        """
        fitting = []
        for index in among if among is not None else range(len(self.profiles)):
            bounds = self.profiles[index]
            if all(_within(shapes[name], *bounds[name]) for name in shapes if name in bounds):
                pairs = ((shapes[name], bounds[name][1]) for name in shapes if name in bounds)
                fitting.append((sum(abs(a - b) for have, opt in pairs for a, b in zip(have, opt, strict=True)), index))
        if not fitting:
            raise PlanError(self._refusal(shapes))
        return min(fitting)[1]

    def _refusal(self, shapes: dict[str, Shape]) -> str:
        for name, shape in shapes.items():
            spans = [self.profiles[i][name] for i in range(len(self.profiles)) if name in self.profiles[i]]
            if spans and not any(_within(shape, *span) for span in spans):
                admitted = " or ".join(f"{list(low)} to {list(high)}" for low, _, high in spans)
                return f"input '{name}' has shape {list(shape)}; the profiles admit {admitted}"
        return f"no optimization profile admits {shapes} together"

    def _tensors(self) -> list[Tensor]:
        found = []
        for index in range(self.engine.num_io_tensors):
            name = self.engine.get_tensor_name(index)
            is_input = self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            kind = self.engine.get_tensor_dtype(name).name
            if kind not in _TYPES:
                raise PlanError(f"'{name}' has the type {kind}, which Triton cannot carry")
            datatype, numpy_name = _TYPES[kind]
            shape = tuple(self.engine.get_tensor_shape(name))
            on_host = self.engine.get_tensor_location(name) == trt.TensorLocation.HOST
            found.append(Tensor(name, is_input, datatype, np.dtype(numpy_name), shape, on_host))
        return found

    def _profile(self, index: int) -> dict[str, tuple[Shape, Shape, Shape]]:
        bounds = {}
        for tensor in self.inputs:
            if not tensor.is_shape:
                low, opt, high = self.engine.get_tensor_profile_shape(tensor.name, index)
                bounds[tensor.name] = (tuple(low), tuple(opt), tuple(high))
        return bounds


def load_plugins(paths: Sequence[str], log: Any = None) -> None:
    """Register TensorRT's own plugins and those of `paths`.

    Raises:
        PlanError: A library cannot be loaded.
    """
    for path in paths:
        try:
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise PlanError(str(error)) from None
    trt.init_libnvinfer_plugins(log, "")


def _within(shape: Shape, low: Shape, opt: Shape, high: Shape) -> bool:
    return len(shape) == len(opt) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
