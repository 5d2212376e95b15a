"""Which target: the rule behind ``--target auto``.

In      what the user asked for.
Out     the target's name and the reason, which is printed first and stands in build.json.

The CUDA driver is asked directly, through libcuda: TensorRT's own Runtime crashes the process on a machine without one.
"""

from __future__ import annotations

import ctypes
from importlib.util import find_spec

from planwright.errors import Fault, MachineError
from planwright.spec import Target

_CUDA_SUCCESS = 0


def cuda_devices() -> int:
    """Return how many CUDA devices the driver shows; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    if driver.cuInit(0) != _CUDA_SUCCESS or driver.cuDeviceGetCount(ctypes.byref(count)) != _CUDA_SUCCESS:
        return 0
    return count.value


def choose(asked: str) -> tuple[Target, str]:
    """Return (target, reason).

    Raises:
        MachineError: A device is there but TensorRT is not, or tensorrt was asked for where it cannot work (exit 3).
    """
    if asked == "onnxruntime":
        return "onnxruntime", "asked for"
    devices = cuda_devices()
    if asked == "auto" and not devices:
        return "onnxruntime", "no CUDA device on this machine"
    if not devices:
        raise MachineError(
            Fault(
                "the tensorrt target needs a CUDA device",
                why="the driver shows none",
                fix="use --target onnxruntime, or build on a GPU machine",
                check="python -m builders doctor",
            )
        )
    if find_spec("tensorrt") is None:
        why = f"there are {devices} CUDA devices, but the package tensorrt is not installed"
        raise MachineError(
            Fault(
                "TensorRT does not work here",
                why=why,
                fix="install the tensorrt of the server's image, or use --target onnxruntime",
                check="python -m builders doctor",
            )
        )
    return "tensorrt", f"{devices} CUDA device(s) and TensorRT"
