"""Arrays in npy and npz files, text in arrays of objects included.

In      a file.
Out     its arrays by name.

numpy stores an array of objects as a pickle, which may run any code when it is read, so `numpy.load` refuses it. Here a pickle is
read that may hold text and nothing else: the few functions that numpy needs to put such an array together are found, no others.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from planwright.golden import Array

_FUNCTIONS = {
    "_reconstruct": np.zeros(0).__reduce__()[0],
    "scalar": np.float32(0).__reduce__()[0],
    "ndarray": np.ndarray,
    "dtype": np.dtype,
}
UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError)


def load(path: Path) -> dict[str, Array]:
    """Return the arrays of a file; the only array of an npy file has no name.

    Raises:
        UNREADABLE: It is neither, it is cut short, or an array of objects holds anything but text.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            return {"": _array(stream)}
    with zipfile.ZipFile(path) as archive:
        found = {}
        for name in archive.namelist():
            with archive.open(name) as stream:
                found[name.removesuffix(".npy")] = _array(stream)
        return found


def _array(stream: IO[bytes]) -> Array:
    version = np.lib.format.read_magic(stream)
    start = stream.tell()
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        if dtype.kind == "O":
            return _texts(stream).reshape(shape)
    stream.seek(start - np.lib.format.MAGIC_LEN)
    array: Array = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _texts(stream: IO[bytes]) -> Array:
    try:
        array = np.asarray(_Texts(stream).load(), dtype=object)
    except Exception as error:  # a pickle that is cut short or was made by hand raises anything
        raise pickle.UnpicklingError(str(error)) from None
    other = {type(item).__name__ for item in array.ravel() if not isinstance(item, str | bytes)}
    if other:
        raise ValueError(f"an array of objects holds a {', a '.join(sorted(other))}, not text")
    found: Array = array
    return found


class _Texts(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] != "numpy" or name not in _FUNCTIONS:
            raise pickle.UnpicklingError(f"an array of objects holds {module}.{name}, not text")
        return _FUNCTIONS[name]
