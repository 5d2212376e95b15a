"""Tensor names, types and shapes, and the one table of every library's type names.

In      type names of Triton's config.pbtxt (``TYPE_FP32``), of its protocol (``FP32``), of ONNX Runtime
        (``tensor(float)``) and numpy dtypes.
Out     `TensorSpec`, conversions between the names; the batch axis added and removed.

Source of the table: Triton docs/user_guide/model_configuration.md, section Datatypes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = dict[str, Array]

# protocol name -> (ONNX Runtime element type, numpy dtype name); config.pbtxt has TYPE_<protocol>, and TYPE_STRING for BYTES
_TYPES: dict[str, tuple[str, str]] = {
    "BOOL": ("bool", "bool"),
    "UINT8": ("uint8", "uint8"),
    "UINT16": ("uint16", "uint16"),
    "UINT32": ("uint32", "uint32"),
    "UINT64": ("uint64", "uint64"),
    "INT8": ("int8", "int8"),
    "INT16": ("int16", "int16"),
    "INT32": ("int32", "int32"),
    "INT64": ("int64", "int64"),
    "FP16": ("float16", "float16"),
    "FP32": ("float", "float32"),
    "FP64": ("double", "float64"),
    "BYTES": ("string", "object"),
}
_FROM_ORT = {f"tensor({ort})": name for name, (ort, _) in _TYPES.items()}
_FROM_NUMPY = {numpy_name: name for name, (_, numpy_name) in _TYPES.items()}


@dataclass(frozen=True)
class TensorSpec:
    """One input or output as the engine declares it.

    Attributes:
        name: Tensor name.
        datatype: Protocol name: ``FP32``, ``INT32``, ``UINT8``, ``BYTES``, ...
        shape: Full shape with the batch axis where there is one; -1 where it varies.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The numpy dtype that carries this tensor."""
        return np.dtype(_TYPES[self.datatype][1])

    @property
    def config_type(self) -> str:
        """The name in config.pbtxt: ``TYPE_FP32``, and ``TYPE_STRING`` for BYTES."""
        return "TYPE_STRING" if self.datatype == "BYTES" else f"TYPE_{self.datatype}"

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON value; `from_dict` reads it back."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> TensorSpec:
        """Read what `as_dict` wrote."""
        return cls(value["name"], value["datatype"], tuple(value["shape"]))

    def __str__(self) -> str:
        return f"{self.name}: {self.datatype}{list(self.shape)}"


def datatype_from_ort(ort_type: str) -> str:
    """Return the protocol name of an ONNX Runtime type string.

    Raises:
        KeyError: Triton has no such type.

    Example:
        >>> datatype_from_ort("tensor(float)")
        'FP32'
    """
    return _FROM_ORT[ort_type]


def datatype_from_numpy(dtype: np.dtype[Any]) -> str:
    """Return the protocol name of a numpy dtype; strings and objects are BYTES.

    Raises:
        KeyError: Triton has no such type.

    Example:
        >>> datatype_from_numpy(np.dtype("float32")), datatype_from_numpy(np.dtype("U3"))
        ('FP32', 'BYTES')
    """
    return "BYTES" if dtype.kind in "OSU" else _FROM_NUMPY[dtype.name]


def datatype_from_config(config_type: str) -> str:
    """Return the protocol name of a config.pbtxt type.

    Example:
        >>> datatype_from_config("TYPE_STRING"), datatype_from_config("TYPE_INT32")
        ('BYTES', 'INT32')
    """
    name = config_type.removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def shape_fits(declared: tuple[int, ...], actual: tuple[int, ...]) -> bool:
    """Say whether `actual` is allowed by `declared`, where -1 allows any size.

    Example:
        >>> shape_fits((-1, 8, 8), (3, 8, 8)), shape_fits((-1, 8, 8), (3, 8))
        (True, False)
    """
    return len(declared) == len(actual) and all(d in (-1, a) for d, a in zip(declared, actual, strict=True))


def add_batch_axis(sample: Arrays) -> Arrays:
    """Return a batch of one: every array ``(1, *shape)``."""
    return {name: array[None] for name, array in sample.items()}


def first_sample(batch: Arrays) -> Arrays:
    """Return the first sample without a batch axis; a text stays an array, which a plain index would unwrap."""
    return {name: array[0, ...] for name, array in batch.items()}
