"""The files that a model of config.yaml names: those that do not exist, and those that are not ONNX, with how to convert them.

In      the model's keys as the file has them.
Out     one `Fault` per file; only that model fails, and the others are built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from planwright.errors import Fault

_TF2ONNX = "pip install tf2onnx tensorflow, then: python -m tf2onnx.convert {how} --output {stem}.onnx --opset 17"
_KERAS = "keras.models.load_model('{path}').export('{stem}') in Python writes a SavedModel folder; " + _TF2ONNX.replace(
    "{how}", "--saved-model {stem}"
)
_TORCH = "write a Python file whose build_model() loads it and returns the torch.nn.Module, and name that as source (docs/add-a-model.md)"
_SKLEARN = "skl2onnx.to_onnx(model, X[:1], options={{id(model): {{'zipmap': False}}}}) writes a scikit-learn model"
_PLAN = "name the ONNX file that it was built from: a plan fits one GPU and one TensorRT"
# suffix -> (what it is, how to convert it)
_CONVERSIONS = {
    **dict.fromkeys((".keras", ".h5"), ("a Keras model", _KERAS)),
    ".tflite": ("a TensorFlow Lite model", _TF2ONNX.replace("{how}", "--tflite {path}")),
    ".pb": (
        "a TensorFlow graph",
        _TF2ONNX.replace("{how}", "--graphdef {path} --inputs IN:0 --outputs OUT:0") + "; if it is ONNX, rename it to .onnx",
    ),
    **dict.fromkeys((".pt", ".pt2", ".pth"), ("a PyTorch file", _TORCH)),
    ".ckpt": ("a PyTorch checkpoint", _TORCH),
    ".safetensors": ("weights without a model", _TORCH),
    **dict.fromkeys((".pkl", ".joblib"), ("a pickled model", _SKLEARN)),
    **dict.fromkeys((".plan", ".engine"), ("a TensorRT plan", _PLAN)),
}  # fmt: skip


def faults(values: Mapping[str, Any], folder: Path, where: Callable[..., str], check: str) -> Iterator[Fault]:
    """Yield a fault per file that does not exist or is not ONNX.

    Args:
        values: The model's keys.
        folder: The folder of config.yaml.
        where: From a key to its place in config.yaml.
        check: The command that checks the fix.
    """
    samples, source, file = (values.get(key) for key in ("samples", "source", "file"))
    named = samples.get("file") if isinstance(samples, dict) else None
    code = source if isinstance(source, str) and source.endswith(".py") else None
    for loc, value in ((("source",), code), (("file",), file), (("samples", "file"), named)):
        if isinstance(value, str) and not (folder / value).exists():
            yield Fault(f"there is no file {value}", where(*loc), f"looked for {folder / value}", "fix the path", check)
    other = conversion(folder / file, file) if isinstance(file, str) and (folder / file).exists() else None
    if other:
        yield Fault(f"{file} is {other[0]}, not ONNX", where("file"), "zoo/onnx reads ONNX files", other[1], check)


def conversion(path: Path, name: str) -> tuple[str, str] | None:
    """Return (what the file is, how to convert it to ONNX); None where it may be ONNX.

    Args:
        path: The file or folder, which exists.
        name: Its path as config.yaml has it, for the commands.

    Example:
        >>> conversion(Path("net.tflite"), "net.tflite")[0]
        'a TensorFlow Lite model'
    """
    if path.is_dir():
        what, how = "a folder", "name the ONNX file in it"
        if (path / "saved_model.pb").is_file() or (path / "saved_model.pbtxt").is_file():
            what, how = "a TensorFlow SavedModel", _TF2ONNX.replace("{how}", "--saved-model {path}")
    elif path.suffix.lower() in _CONVERSIONS:
        what, how = _CONVERSIONS[path.suffix.lower()]
    else:
        return None
    return what, how.format(path=name, stem=name.rstrip("/").removesuffix(path.suffix))
