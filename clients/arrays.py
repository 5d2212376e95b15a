"""Turn what a caller passes as an input into an array that can be sent.

In      anything: arrays of any layout and byte order, lists, numbers, text.
Out     arrays in native byte order, text as bytes objects; `InvalidRequest` for what is not an array of numbers or text.

Conversion runs code of other libraries, a tensor's ``__array__`` or a data frame's, so whatever it raises is reported as an
invalid input. A mask that hides something is refused: dropping it would send values that the caller has excluded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from planwright.errors import Fault
from planwright.tensors import Array

from .errors import InvalidRequest

_TEXT_KINDS = "SUT"  # bytes, str, and numpy 2's StringDType


def as_array(model: str, name: str, value: Any) -> Array:
    """Return `value` as an array in native byte order, text as objects.

    Raises:
        InvalidRequest: It is not an array, such as lists of different lengths, or parts of it are masked.
    """
    try:
        if _has_masked(value):
            what, fix = (
                f"{model}: input '{name}' is masked",
                "send array.filled(value), or leave out the masked samples",
            )
            raise InvalidRequest(Fault(what, why="models do not support masks", fix=fix))
        if isinstance(value, Mapping):  # numpy would take its keys
            raise TypeError(f"it is a {type(value).__name__}")
        array = _object_array(value) if _starts_with_text(value) else np.asarray(value)
        if array.dtype.kind in _TEXT_KINDS:
            return array.astype(object) if hasattr(value, "__array__") else _object_array(value)
        return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    except InvalidRequest:
        raise
    except Exception as error:
        what, why = f"{model}: input '{name}' is not an array", str(error) or type(error).__name__
        raise InvalidRequest(Fault(what, why=why, fix="give numpy arrays, or lists of equal lengths")) from None


def _object_array(value: Any) -> Array:
    """Return text unchanged: numpy's text types drop NUL characters at the end, and turn numbers among text into text."""
    return np.array(value, dtype=object)


def _starts_with_text(value: Any) -> bool:
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return isinstance(value, (str, bytes))


def _has_masked(value: Any) -> bool:
    """True where `value`, or an array in a list, is masked somewhere."""
    if isinstance(value, np.ma.MaskedArray):
        return bool(np.ma.is_masked(value))
    nested = value if isinstance(value, (list, tuple)) else ()
    return any(_has_masked(each) for each in nested if isinstance(each, (np.ma.MaskedArray, list, tuple)))


def sendable(model: str, name: str, array: Array, *, allow_nan: bool) -> tuple[Array, list[Fault]]:
    """Return an array of correct type and shape in C order, text as UTF-8 bytes, and the faults of its values.

    Raises:
        InvalidRequest: It is a view, such as a broadcast one, whose copy does not fit into memory.
    """
    if array.dtype.kind == "O":
        return _text(model, name, array)
    try:
        array = np.asarray(array, order="C")
    except MemoryError as error:
        what, fix = f"{model}: input '{name}' is too large for memory", "send smaller batches"
        raise InvalidRequest(Fault(what, why=str(error), fix=fix)) from None
    return array, [] if allow_nan else _nan_faults(model, name, array)


def _text(model: str, name: str, array: Array) -> tuple[Array, list[Fault]]:
    other = {type(item).__name__ for item in array.ravel() if not isinstance(item, (str, bytes))}
    if other:
        why = f"it holds a {', a '.join(sorted(other))}"
        return array, [Fault(f"{model}: input '{name}' must hold text", why=why, fix="give str or bytes")]
    encoded = np.empty(array.size, dtype=object)
    try:
        # bytes(): tritonclient sends everything but plain bytes, even numpy.bytes_, as its repr
        encoded[:] = [item.encode() if isinstance(item, str) else bytes(item) for item in array.ravel()]
    except UnicodeEncodeError as error:
        what, fix = f"{model}: input '{name}' holds text that UTF-8 cannot encode", "give complete characters, or bytes"
        return array, [Fault(what, why=str(error), fix=fix)]
    return encoded.reshape(array.shape), []


def _nan_faults(model: str, name: str, array: Array) -> list[Fault]:
    # min is NaN when any element is, and needs no second array of that size
    if array.dtype.kind != "f" or not array.size or not np.isnan(array.min()):
        return []
    count = int(np.isnan(array).sum())
    fix = "clean the data, or use TritonModel(..., allow_nan=True) where the model expects NaN"
    return [Fault(f"{model}: input '{name}' holds NaN", why=f"{count} of {array.size} elements", fix=fix)]
