"""CUDA calls that raise, and memory that is freed.

In      sizes, pointers, streams.
Out     the same calls of NVIDIA's own binding (cuda-python), each checked; `Pinned` and `Device` memory.

cuda-python 12.6 and later have the runtime in ``cuda.bindings.runtime``, older ones in ``cuda.cudart``.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

import numpy as np

cudart: Any
try:
    cudart = importlib.import_module("cuda.bindings.runtime")
except ImportError:
    cudart = importlib.import_module("cuda.cudart")

HOST_TO_DEVICE = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
DEVICE_TO_HOST = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
ANYWHERE = cudart.cudaMemcpyKind.cudaMemcpyDefault  # CUDA derives the place from the address
_NON_BLOCKING = cudart.cudaStreamNonBlocking
_NO_TIMING = cudart.cudaEventDisableTiming


class CudaError(RuntimeError):
    """A CUDA call failed; the text is CUDA's own."""


def call(function: Any, *args: Any) -> Any:
    """Call `function` and return its result: nothing, one value, or a tuple.

    Raises:
        CudaError: It returned an error code.
    """
    code, *results = function(*args)
    if int(code) != 0:
        name = cudart.cudaGetErrorString(code)[1]
        text = name.decode() if isinstance(name, bytes) else str(name)
        raise CudaError(f"{function.__name__}: {text}")
    return results[0] if len(results) == 1 else tuple(results)


def use(device: int) -> None:
    """Make `device` the current one of this thread."""
    call(cudart.cudaSetDevice, device)


def compute_capability(device: int) -> str:
    """Return ``9.0`` for an H100."""
    attribute = cudart.cudaDeviceAttr
    major = call(cudart.cudaDeviceGetAttribute, attribute.cudaDevAttrComputeCapabilityMajor, device)
    minor = call(cudart.cudaDeviceGetAttribute, attribute.cudaDevAttrComputeCapabilityMinor, device)
    return f"{major}.{minor}"


def memory_bytes() -> tuple[int, int]:
    """Return (free, total) of the current device."""
    free, total = call(cudart.cudaMemGetInfo)
    return int(free), int(total)


class Device:
    """Memory on the GPU."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = max(size_bytes, 1)
        self.pointer = int(call(cudart.cudaMalloc, self.size_bytes))

    def free(self) -> None:
        """Free it; a second call does nothing."""
        if self.pointer:
            cudart.cudaFree(self.pointer)
            self.pointer = 0


class Pinned:
    """Page-locked host memory, which the GPU reads and writes directly."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = max(size_bytes, 1)
        self.pointer = int(call(cudart.cudaHostAlloc, self.size_bytes, cudart.cudaHostAllocDefault))
        self._bytes = np.ctypeslib.as_array((ctypes.c_uint8 * self.size_bytes).from_address(self.pointer))

    def view(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return the first bytes as an array; it shares the memory."""
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return self._bytes[:size].view(dtype).reshape(shape)

    def free(self) -> None:
        """Free it; no view of it may be in use."""
        if self.pointer:
            cudart.cudaFreeHost(self.pointer)
            self.pointer = 0


class Event:
    """A point in a stream."""

    def __init__(self, *, timed: bool = False) -> None:
        self.handle = call(cudart.cudaEventCreateWithFlags, 0 if timed else _NO_TIMING)

    def record(self, stream: Any) -> None:
        """Mark the end of what `stream` holds now."""
        call(cudart.cudaEventRecord, self.handle, stream)

    def block(self, stream: Any) -> None:
        """Let `stream` go on only behind this point."""
        call(cudart.cudaStreamWaitEvent, stream, self.handle, 0)

    def wait(self) -> None:
        """Wait until the GPU has passed it."""
        call(cudart.cudaEventSynchronize, self.handle)

    def since_ms(self, earlier: Event) -> float:
        """Return the time between two timed events."""
        return float(call(cudart.cudaEventElapsedTime, earlier.handle, self.handle))

    def free(self) -> None:
        """Destroy it."""
        cudart.cudaEventDestroy(self.handle)


def stream(priority: int = 0) -> Any:
    """Return a new stream that does not wait for the default one; a lower `priority` number goes first."""
    return call(cudart.cudaStreamCreateWithPriority, _NON_BLOCKING, priority)


def copy(target: int, source: int, size_bytes: int, kind: Any, on: Any) -> None:
    """Copy without waiting."""
    call(cudart.cudaMemcpyAsync, target, source, size_bytes, kind, on)
