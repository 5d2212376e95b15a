"""Text tensors: str for a model, bytes for comparing, bytes with their lengths on disk.

In      numpy arrays of text in any of numpy's forms: ``<U``, ``S``, or objects of str or bytes.
Out     object arrays of str or bytes, and a form that an npz holds without pickle.

numpy's fixed-width forms cannot hold text that ends with NUL, so a packed array keeps every length. Bytes that are not UTF-8
stay bytes: a BYTES tensor may carry anything.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planwright.tensors import Array

KINDS = "OSU"  # numpy kinds that carry text


def is_text(array: Array) -> bool:
    """Say whether an array carries text."""
    return array.dtype.kind in KINDS


def decoded(array: Array) -> Array:
    """Return an object array of str.

    Example:
        >>> decoded(np.array([b"ja", "größe"], object)).tolist()
        ['ja', 'größe']
    """
    return _objects([_decoded(item) for item in array.ravel()], array.shape)


def _decoded(item: Any) -> Any:
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


def encoded(array: Array) -> Array:
    """Return an object array of bytes.

    Raises:
        UnicodeEncodeError: An element has a lone surrogate, which UTF-8 cannot encode.
    """
    return _objects([item if isinstance(item, bytes) else str(item).encode() for item in array.ravel()], array.shape)


def packed(array: Array) -> tuple[Array, Array]:
    """Return the bytes of all elements, one after the other, and their lengths in the array's shape.

    Raises:
        UnicodeEncodeError: An element has a lone surrogate, which UTF-8 cannot encode.
    """
    flat = encoded(array).ravel()
    lengths = np.array([len(item) for item in flat], np.int64).reshape(array.shape)
    return np.frombuffer(b"".join(flat), np.uint8), lengths


def unpacked(content: Array, lengths: Array) -> Array:
    """Return what `packed` was given, as objects of bytes: the form in which text comes from a server."""
    whole, ends = content.tobytes(), np.cumsum(lengths.ravel())
    items = [whole[end - length : end] for end, length in zip(ends, lengths.ravel(), strict=True)]
    return _objects(items, lengths.shape)


def _objects(items: list[Any], shape: tuple[int, ...]) -> Array:
    array = np.empty(len(items), object)
    array[:] = items
    return array.reshape(shape)
