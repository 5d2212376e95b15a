"""The GPUs that the driver reports, without TensorRT and without the CUDA runtime.

In      libcuda, through ctypes.
Out     `Device`s.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path

_SUCCESS = 0
# values of CUdevice_attribute in cuda.h; they are part of its ABI
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Device:
    """One GPU: its name, compute capability such as ``9.0``, the driver's version and the CUDA version that it supports."""

    index: int
    name: str
    capability: str
    driver: str
    cuda: str
    memory_bytes: int


def devices() -> list[Device]:
    """Return the GPUs that the driver reports; none without a driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    if cuda.cuInit(0) != _SUCCESS or cuda.cuDeviceGetCount(ctypes.byref(count)) != _SUCCESS:
        return []
    return [_device(cuda, index) for index in range(count.value)]


def first_device() -> Device | None:
    """Return the GPU to use; None without one."""
    found = devices()
    return found[0] if found else None


def _device(cuda: ctypes.CDLL, index: int) -> Device:
    handle, name = ctypes.c_int(), ctypes.create_string_buffer(128)
    major, minor, version, size = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    cuda.cuDeviceGet(ctypes.byref(handle), index)
    cuda.cuDeviceGetName(name, len(name), handle)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, handle)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, handle)
    cuda.cuDriverGetVersion(ctypes.byref(version))
    cuda.cuDeviceTotalMem_v2(ctypes.byref(size), handle)
    supported = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Device(index, name.value.decode(), f"{major.value}.{minor.value}", _driver(), supported, size.value)


def _driver() -> str:
    path = Path("/proc/driver/nvidia/version")
    found = re.search(r"Kernel Module(?: for \S+)?\s+([\d.]+)", path.read_text()) if path.exists() else None
    return found[1] if found else "unknown"
