"""Where a tensor of Triton's Python backend lies.

In      a ``pb_utils.Tensor``, in the server's shared memory or on the GPU.
Out     its address, read from its DLPack capsule (dlpack.h, struct DLTensor), without any library that speaks DLPack.
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
