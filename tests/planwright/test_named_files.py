"""Model files that are not ONNX are refused with the road to it, and do not stop the other models."""

from __future__ import annotations

from pathlib import Path

import pytest

from planwright.config.load import load_spec
from planwright.config.spec import ModelSpec


def models(folder: Path, entry: str) -> ModelSpec:
    config = folder / "config.yaml"
    config.write_text(f"version: 1\nmodels:\n  good: {{source: zoo/digits}}\n  mine: {entry}\n")
    return load_spec(config, "onnxruntime").models[1]


@pytest.mark.parametrize(
    ("name", "what", "road"),
    [
        ("net.keras", "a Keras model", "keras.models.load_model('net.keras').export('net')"),
        ("net.h5", "a Keras model", "--saved-model net"),
        ("net.tflite", "TensorFlow Lite", "python -m tf2onnx.convert --tflite net.tflite --output net.onnx"),
        ("net.pb", "a TensorFlow graph", "--graphdef net.pb"),
        ("net.pt", "a PyTorch file", "build_model()"),
        ("NET.PTH", "a PyTorch file", "docs/add-a-model.md"),
        ("net.safetensors", "weights without a model", "build_model()"),
        ("net.pkl", "a pickled model", "options={id(model): {'zipmap': False}}"),
        ("net.plan", "a TensorRT plan", "ONNX file"),
        ("saved/", "a TensorFlow SavedModel", "python -m tf2onnx.convert --saved-model saved/ --output saved.onnx"),
        ("other/", "a folder", "name the ONNX file in it"),
    ],
)
@pytest.mark.parametrize("form", ["{source: zoo/onnx, file: %s}", "{source: ./%s}"])
def test_the_road_to_onnx(tmp_path: Path, name: str, what: str, road: str, form: str) -> None:
    if name.endswith("/"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ("saved_model.pb" if name == "saved/" else "x")).touch()
    else:
        (tmp_path / name).write_bytes(b"x")
    (fault,) = models(tmp_path, form % name).missing
    assert what in fault.what
    assert road in fault.fix.replace("./", "")
    assert "config.yaml:4  models.mine.file" in fault.where


def test_onnx_files_are_taken_whatever_their_name(tmp_path: Path) -> None:
    for name in ("a.onnx", "a.bin", "a"):
        (tmp_path / name).touch()
        assert models(tmp_path, f"{{source: zoo/onnx, file: {name}}}").missing == ()
