"""infer: show the answer of a model for one file.

In      a model's name and a file: an image, .npy, .npz, .json, or .txt for a model that takes text.
Out     the answer, with class names and the five best where the output is class scores.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from planwright.errors import Fault, MachineError, PlanwrightError
from planwright.tensors import Array, Arrays, TensorSpec

from .errors import InvalidRequest
from .request import ModelInfo

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
FORMS = "an image, .npy (one input), .npz (one array per input), .json ({input: values}), .txt (a text input)"
TOP = 5


def require_file(path: Path) -> None:
    """Check the file before a server is called.

    Raises:
        InvalidRequest: The file is missing.
    """
    if not path.is_file():
        raise InvalidRequest(Fault(f"there is no file {path}", fix=f"name {FORMS}"))


def read_inputs(path: Path, info: ModelInfo) -> Arrays:
    """Return one sample (no batch axis) from a file that exists.

    Raises:
        InvalidRequest: The file is of an unknown type, or does not fit the model.
    """
    try:
        found = _read(path, info)
    except PlanwrightError:
        raise
    except Exception as error:  # numpy, zipfile, json and Pillow share no base
        why = str(error) or type(error).__name__
        raise InvalidRequest(Fault(f"cannot read {path}", why=why, fix=f"give {FORMS}")) from None
    if found is None:
        what, why = f"{path.name} cannot be an input of {info.name}", f"it takes {', '.join(map(str, info.inputs))}"
        raise InvalidRequest(Fault(what, why=why, fix=f"give {FORMS}"))
    return found


def _read(path: Path, info: ModelInfo) -> Arrays | None:
    suffix = path.suffix.lower()
    if suffix in IMAGES:
        return {_only_input(info, path).name: _image(path, _only_input(info, path))}
    if suffix == ".npy":
        return {_only_input(info, path).name: np.load(path, allow_pickle=False)}
    if suffix == ".npz":
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    if suffix == ".json":
        return _json(path, info)
    if suffix == ".txt" and len(info.inputs) == 1 and info.inputs[0].datatype == "BYTES":
        text = np.array(path.read_text(encoding="utf-8").strip(), dtype=object)
        return {info.inputs[0].name: text.reshape((1,) * len(info.inputs[0].shape))}
    return None


def _only_input(info: ModelInfo, path: Path) -> TensorSpec:
    if len(info.inputs) != 1:
        what = f"{info.name} takes {len(info.inputs)} inputs: {', '.join(map(str, info.inputs))}"
        raise InvalidRequest(Fault(what, str(path), fix="give a .npz or .json with one entry per input"))
    return info.inputs[0]


def _image(path: Path, tensor: TensorSpec) -> Array:
    """Decode and resize a picture to a UINT8 [H, W] or [H, W, 3] input.

    Values stay 0..255, also for a grey input trained on smaller numbers, such as the digits' 0..16.
    """
    try:
        from PIL import Image
    except ImportError:
        raise MachineError(Fault("images need Pillow", fix="pip install pillow, or give a .npy")) from None
    shape = tensor.shape
    grey, colour = len(shape) == 2, len(shape) == 3 and shape[2] == 3
    if tensor.datatype != "UINT8" or not (grey or colour) or -1 in shape:
        raise ValueError(f"an image fits UINT8 [H, W] or [H, W, 3], the model takes {tensor}")
    with Image.open(path) as picture:
        resized = picture.convert("L" if grey else "RGB").resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
        return np.array(resized, dtype=np.uint8)


def _json(path: Path, info: ModelInfo) -> Arrays:
    document: Any = json.loads(path.read_text(encoding="utf-8"))
    values = document if isinstance(document, dict) else {_only_input(info, path).name: document}
    specs = {tensor.name: tensor for tensor in info.inputs}
    return {name: _values(value, specs[name]) if name in specs else np.array(value) for name, value in values.items()}


def _values(value: Any, tensor: TensorSpec) -> Array:
    """Return JSON numbers in the model's type; a number outside the type is an error, and not rounded or wrapped."""
    if tensor.datatype == "BYTES":
        return np.array(value, dtype=object)
    given = np.array(value)
    if given.dtype.kind not in "biuf":
        raise TypeError(f"the model takes {tensor}, which this {type(value).__name__} is not")
    with np.errstate(all="ignore"):
        made = given.astype(tensor.numpy_dtype)
    exact = np.isfinite(made) == np.isfinite(given) if made.dtype.kind == "f" else made == given
    if not exact.all():
        raise ValueError(f"the model takes {tensor}, which cannot hold {given[~exact].ravel()[0]}")
    return made


def jsonable(array: Array) -> Any:
    """Return an array as a JSON value; bytes that are not UTF-8 become escapes."""
    if array.dtype.kind != "O":
        return array.tolist()
    texts = [each.decode("utf-8", "backslashreplace") if isinstance(each, bytes) else str(each) for each in array.flat]
    return np.array(texts, dtype=object).reshape(array.shape).tolist()


def readable(name: str, array: Array, labels: list[str]) -> list[str]:
    """Return lines that show an output: texts, the best classes, or numbers."""
    flat = array.reshape(-1)
    if array.dtype.kind == "O":
        return [f"{name}: {text!r}" for text in np.array(jsonable(array), dtype=object).reshape(-1)[:TOP]]
    if labels and len(labels) == flat.size:
        best = np.argsort(flat)[::-1][:TOP]
        return [f"{name}: {labels[i]:<24} {flat[i]:.4f}" for i in best]
    shown = np.array2string(array, precision=4, threshold=12, edgeitems=4)
    return [f"{name} {array.dtype}{list(array.shape)}: {shown}"]
