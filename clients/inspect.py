"""infer: one answer, readable.

In      a model's name and a file: an image, .npy, .npz, .json, or .txt for a model that takes text.
Out     the answer, with class names and the five best where the output looks like class scores.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from planwright.errors import Fault
from planwright.tensors import TensorSpec

from .core import Array, Arrays, ModelInfo
from .errors import InvalidRequest

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
FORMS = "an image, .npy (one input), .npz (one array per input), .json ({input: values}), .txt (a text input)"
TOP = 5


def read_inputs(path: Path, info: ModelInfo) -> Arrays:
    """Return one sample (no batch axis) from a file.

    Raises:
        InvalidRequest: The file is missing, of another form, or does not fit the model.
    """
    if not path.is_file():
        raise InvalidRequest(Fault(f"there is no file {path}", fix=f"name {FORMS}"))
    suffix = path.suffix.lower()
    try:
        if suffix in IMAGES:
            return {_only(info, path).name: _image(path, _only(info, path))}
        if suffix == ".npy":
            return {_only(info, path).name: np.load(path, allow_pickle=False)}
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
        if suffix == ".json":
            return _json(path, info)
    except (OSError, ValueError) as error:
        raise InvalidRequest(Fault(f"cannot read {path}", why=str(error), fix=f"give {FORMS}")) from None
    if suffix == ".txt" and _only(info, path).datatype == "BYTES":
        return {_only(info, path).name: np.array([path.read_text().strip()], dtype=object)}
    inputs = ", ".join(str(tensor) for tensor in info.inputs)
    raise InvalidRequest(Fault(f"{info.name} does not understand {path.name}", why=f"it takes {inputs}", fix=f"give {FORMS}"))


def _only(info: ModelInfo, path: Path) -> TensorSpec:
    if len(info.inputs) != 1:
        names = ", ".join(str(tensor) for tensor in info.inputs)
        raise InvalidRequest(Fault(f"{info.name} takes {len(info.inputs)} inputs: {names}", str(path), fix="give a .npz or .json with one entry per input"))
    return info.inputs[0]


def _image(path: Path, tensor: TensorSpec) -> Array:
    """Decode and resize a picture to a UINT8 [H, W] or [H, W, 3] input.

    A grey input whose samples are small numbers, such as the digits' 0..16, still gets the picture's own 0..255.
    """
    from PIL import Image

    shape = tensor.shape
    grey, colour = len(shape) == 2, len(shape) == 3 and shape[2] == 3
    if tensor.datatype != "UINT8" or not (grey or colour) or -1 in shape:
        raise ValueError(f"an image fits UINT8 [H, W] or [H, W, 3], the model takes {tensor}")
    with Image.open(path) as picture:
        resized = picture.convert("L" if grey else "RGB").resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
        return np.array(resized, dtype=np.uint8)


def _json(path: Path, info: ModelInfo) -> Arrays:
    document: Any = json.loads(path.read_text())
    values = document if isinstance(document, dict) else {_only(info, path).name: document}
    types = {tensor.name: tensor.numpy_dtype for tensor in info.inputs}
    return {str(name): np.array(value, dtype=types.get(str(name))) for name, value in values.items()}


def readable(name: str, array: Array, labels: list[str]) -> list[str]:
    """Return lines that say what an output means."""
    flat = array.reshape(-1)
    if labels and len(labels) == flat.size:
        best = np.argsort(flat)[::-1][:TOP]
        return [f"{name}: {labels[i]:<24} {flat[i]:.4f}" for i in best]
    shown = np.array2string(array, precision=4, threshold=12, edgeitems=4)
    return [f"{name} {array.dtype}{list(array.shape)}: {shown}"]
