"""Addresses of tensors of Triton's Python backend, and BF16 arrays for it.

In      a ``pb_utils.Tensor``, in the server's shared memory or on the GPU.
Out     its address, read from its DLPack capsule (dlpack.h, struct DLTensor), without a DLPack library; and `BFloat16`,
        which passes Triton an array of a type that numpy lacks.
"""

from __future__ import annotations

import ctypes
from typing import Any


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def address_of(tensor: Any) -> int:
    """Return the address of the tensor's first element, on the host or on the GPU; valid while the tensor lives."""
    capsule = tensor.to_dlpack()
    described = _DLTensor.from_address(_pointer(capsule, b"dltensor"))
    return int(described.data or 0) + int(described.byte_offset)


class _DLManagedTensor(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_DLManagedTensor))
_DLManagedTensor._fields_ = [("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype, _new_capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_CPU, _BFLOAT = 1, 4  # DLDeviceType.kDLCPU, DLDataTypeCode.kDLBfloat
_alive: dict[int, Any] = {}


class BFloat16:
    """The bits of a BF16 array, passed to Triton by DLPack: numpy has no such type.

    Attributes:
        bits: uint16 array, contiguous.
    """

    def __init__(self, bits: Any) -> None:
        self.bits = bits

    def __dlpack__(self, **_: Any) -> Any:
        """Return a capsule that keeps the array alive until its consumer deletes it."""
        shape = (ctypes.c_int64 * self.bits.ndim)(*self.bits.shape)
        managed = _DLManagedTensor()
        managed.tensor = _DLTensor(self.bits.ctypes.data, _CPU, 0, self.bits.ndim, _BFLOAT, 16, 1, shape, None, 0)
        managed.deleter = _delete
        _alive[ctypes.addressof(managed)] = (managed, shape, self.bits)
        return _new_capsule(ctypes.addressof(managed), b"dltensor", None)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU, 0


@_Deleter
def _delete(managed: Any) -> None:
    _alive.pop(ctypes.addressof(managed.contents), None)
