"""Real samples for a foreign ONNX file.

In      an npz with one array per input, samples along the first axis (an npy if there is one input).
Out     golden samples, spread evenly over the file, and the others for calibration.

Files are often sorted by class, so the first rows alone would be one class. Text may be in arrays of objects: numpy stores them as a
pickle, which may run any code when it is read, so `numpy.load` refuses it. Here a pickle is read that may hold text and nothing else:
only the few functions that numpy needs to rebuild such an array are found.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from builders.sources.samples import LEAST_GOLDEN, Sample, Samples, fingerprint, native, spread
from planwright.config.spec import ModelSpec
from planwright.console import many
from planwright.errors import Fault, StageError
from planwright.golden import Array
from planwright.tensors import TensorSpec, is_text, shape_fits, utf8_error

_FUNCTIONS = {
    "_reconstruct": np.zeros(0).__reduce__()[0],
    "scalar": np.float32(0).__reduce__()[0],
    "ndarray": np.ndarray,
    "dtype": np.dtype,
}
UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError)


def read(path: Path, spec: ModelSpec, inputs: Sequence[TensorSpec]) -> tuple[Samples, list[str]]:
    """Return the samples and a warning if some are repeated.

    Args:
        path: The file.
        spec: The model's part of config.yaml, with the number of samples to take.
        inputs: Inputs of the graph, without a batch axis.

    Raises:
        StageError: stage 'export': the file cannot be read or does not fit the graph.
    """
    place = spec.where("samples", "file")
    arrays = _arrays(path, place, inputs)
    faults = list(_faults(arrays, place, inputs))
    if faults:
        raise StageError("export", *faults)
    total = len(arrays[inputs[0].name])
    rows = {fingerprint(row): row for row in (_row(arrays, inputs, i) for i in reversed(range(total)))}
    distinct = list(rows.values())[::-1]
    if len(distinct) < LEAST_GOLDEN:
        why, fix = f"the file holds {many(len(distinct), 'different sample')}", "add samples along the first axis"
        raise StageError("export", Fault(f"at least {LEAST_GOLDEN} samples are needed", place, why, fix))
    golden = set(spread(len(distinct), spec.samples.golden))
    rest = [row for index, row in enumerate(distinct) if index not in golden]
    calibration = [rest[i] for i in spread(len(rest), spec.samples.calibration)]
    repeated = total - len(distinct)
    warnings = [f"{repeated} of {total} samples repeat another: each is used once"] if repeated else []
    return Samples(calibration, [distinct[i] for i in sorted(golden)]), warnings


def _row(arrays: Mapping[str, Array], inputs: Sequence[TensorSpec], index: int) -> Sample:
    return native({tensor.name: arrays[tensor.name][index] for tensor in inputs})


def _arrays(path: Path, place: str, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    try:
        stored = load(path)
        if "" not in stored:
            return stored
        return {inputs[0].name: stored[""]} if len(inputs) == 1 else {}
    except UNREADABLE as error:
        fix = "write them with numpy.savez; numbers and text only"
        raise StageError("export", Fault("the samples cannot be read", place, f"{path}: {error}", fix)) from None


def _faults(arrays: Mapping[str, Array], place: str, inputs: Sequence[TensorSpec]) -> Iterator[Fault]:
    for tensor in inputs:
        array = arrays.get(tensor.name)
        if array is None:
            why = f"the file holds {', '.join(sorted(arrays)) or 'one array without a name'}"
            yield Fault(f"the samples lack input '{tensor.name}'", place, why, f"numpy.savez(..., {tensor.name}=array)")
        elif not _type_fits(tensor, array) or not shape_fits(tensor.shape, array.shape[1:]) or not array.ndim:
            why = f"the file has {array.dtype}{list(array.shape)}, a sample is {tensor.numpy_dtype}{list(tensor.shape)}"
            fix = "make axis 0 the samples, followed by the input's own axes" + _cast(tensor, array)
            yield Fault(f"the samples of '{tensor.name}' do not fit", place, why, fix)
        elif is_text(array) and (why := utf8_error(array)):
            fix = "decode it first: [item.decode('latin-1') for item in ...]"
            yield Fault(f"the samples of '{tensor.name}' are not valid text", place, why, fix)
    counts = {tensor.name: len(arrays[tensor.name]) for tensor in inputs if np.ndim(arrays.get(tensor.name, 0))}
    if len(set(counts.values())) > 1:
        why = ", ".join(f"{name} has {count}" for name, count in counts.items())
        yield Fault("the inputs have different numbers of samples", place, why, "give every input one row per sample")


def _type_fits(tensor: TensorSpec, array: Array) -> bool:
    if tensor.datatype == "BYTES":
        return is_text(array)
    return bool(array.dtype.newbyteorder("=") == tensor.numpy_dtype)


def _cast(tensor: TensorSpec, array: Array) -> str:
    if _type_fits(tensor, array):
        return ""
    return f"; .astype({'str' if tensor.datatype == 'BYTES' else f'np.{tensor.numpy_dtype}'})"


def load(path: Path) -> dict[str, Array]:
    """Return the arrays of a file; the only array of an npy file has no name.

    Raises:
        UNREADABLE: It is neither, it is truncated, or an array of objects holds anything but text.
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
    except Exception as error:  # a truncated or hand-made pickle can raise anything
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
