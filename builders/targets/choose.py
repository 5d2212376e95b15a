"""Choose the target: the rule behind ``--target auto``.

In      the value of ``--target``.
Out     the target's name and the reason, which is printed first and recorded in build.json.

Devices are counted by the CUDA driver, through libcuda: TensorRT's own Runtime crashes the process on a machine without one.
"""

from __future__ import annotations

from importlib.util import find_spec

from planwright.config.spec import Target
from planwright.errors import MachineError
from planwright.gpu import devices


def choose(requested: str, *, needs_engine: bool = True) -> tuple[Target, str]:
    """Return (target, reason).

    Args:
        requested: ``auto``, ``onnxruntime`` or ``tensorrt``.
        needs_engine: False where nothing is compiled or loaded, which needs no GPU.

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
