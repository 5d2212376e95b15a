"""Tensor names, types and shapes, the one table of every library's type names, and tensors of text.

In      type names of Triton's config.pbtxt (``TYPE_FP32``), of its protocol (``FP32``), of ONNX Runtime
        (``tensor(float)``) and numpy dtypes; text in any of numpy's forms: ``<U``, ``S``, or objects of str or bytes.
Out     `TensorSpec`, conversions between the names; the batch axis added and removed; text as str for a model, as bytes
        for comparing, as bytes with their lengths for an npz without pickle.

Source of the table: Triton docs/user_guide/model_configuration.md, section Datatypes.

numpy's fixed-width forms cannot hold text that ends with NUL, so packed text keeps every length. Bytes that are not UTF-8
stay bytes: a BYTES tensor may carry anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = dict[str, Array]
TEXT_KINDS = "OSU"  # numpy kinds that carry text

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
    return "BYTES" if dtype.kind in TEXT_KINDS else _FROM_NUMPY[dtype.name]


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


def is_text(array: Array) -> bool:
    """Say whether an array carries text."""
    return array.dtype.kind in TEXT_KINDS


def decode_text(array: Array) -> Array:
    """Return an object array of str.

    Example:
        >>> decode_text(np.array([b"ja", "größe"], object)).tolist()
        ['ja', 'größe']
    """
    return _objects([_decode_item(item) for item in array.ravel()], array.shape)


def _decode_item(item: Any) -> Any:
    if not isinstance(item, bytes):
        return str(item)
    try:
        return item.decode()
    except UnicodeDecodeError:
        return bytes(item)


def utf8_error(array: Array) -> str:
    """Return why an element is not text that UTF-8 can encode, empty where all are.

    Example:
        >>> utf8_error(np.array([b"ja", bytes([246])], object)).split(":")[1]
        ' invalid start byte'
    """
    for index, item in enumerate(array.ravel().tolist()):
        try:
            item.decode() if isinstance(item, bytes) else item.encode()
        except UnicodeError as error:
            return f"element {index} is {item!r:.40}: {getattr(error, 'reason', error)}"
    return ""


def encode_text(array: Array) -> Array:
    """Return an object array of bytes.

    Raises:
        UnicodeEncodeError: An element has a lone surrogate, which UTF-8 cannot encode.
    """
    return _objects([item if isinstance(item, bytes) else str(item).encode() for item in array.ravel()], array.shape)


def pack_text(array: Array) -> tuple[Array, Array]:
    """Return the bytes of all elements, one after the other, and their lengths in the array's shape.

    Raises:
        UnicodeEncodeError: An element has a lone surrogate, which UTF-8 cannot encode.
    """
    flat = encode_text(array).ravel()
    lengths = np.array([len(item) for item in flat], np.int64).reshape(array.shape)
    return np.frombuffer(b"".join(flat), np.uint8), lengths


def unpack_text(content: Array, lengths: Array) -> Array:
    """Return what `pack_text` was given, as objects of bytes: the form in which text comes from a server."""
    whole, ends = content.tobytes(), np.cumsum(lengths.ravel())
    items = [whole[end - length : end] for end, length in zip(ends, lengths.ravel(), strict=True)]
    return _objects(items, lengths.shape)


def _objects(items: list[Any], shape: tuple[int, ...]) -> Array:
    array = np.empty(len(items), object)
    array[:] = items
    return array.reshape(shape)
