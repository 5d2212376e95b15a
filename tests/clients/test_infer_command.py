"""infer: one file in, one readable answer out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from planwright.server_info import ServerInfo
from tests.clients._command import clients, where


@pytest.fixture
def infer(server: ServerInfo, repository: Path) -> Any:
    """Run ``infer`` against the shared server."""
    return lambda *arguments: clients("infer", *arguments, *where(server, repository))


def picture(path: Path, size: tuple[int, int], mode: str = "L") -> Path:
    """Save an image whose fourth of eight rows is bright: class "three"."""
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[size[1] * 3 // 8 : size[1] * 4 // 8] = 255
    Image.fromarray(pixels).convert(mode).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "size", "mode"),
    [("a.png", (8, 8), "L"), ("b.png", (64, 48), "RGB"), ("c.bmp", (16, 16), "RGB"), ("d.png", (8, 8), "RGBA")],
)
def test_an_image_is_fitted_to_the_model_and_the_best_classes_are_named(
    infer: Any, tmp_path: Path, name: str, size: tuple[int, int], mode: str
) -> None:
    done = infer("classes", picture(tmp_path / name, size, mode))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("scores: three")
    assert len(lines) == 5


def test_arrays_come_from_npy_npz_and_json(infer: Any, tmp_path: Path) -> None:
    a, b = np.arange(4, dtype=np.float32), np.array([1, 2], np.int32)
    np.save(tmp_path / "x.npy", a)
    np.savez(tmp_path / "ab.npz", a=a, b=b)
    (tmp_path / "ab.json").write_text(json.dumps({"a": a.tolist(), "b": b.tolist()}))
    assert infer("affine", tmp_path / "x.npy", "--protocol", "grpc").returncode == 0
    for name in ("ab.npz", "ab.json"):
        done = infer("two", tmp_path / name, "--json")
        assert json.loads(done.stdout) == {"s": [1.0, 2.0, 3.0, 4.0], "t": [2, 4]}


def test_text_goes_in_and_comes_out_as_text(infer: Any, tmp_path: Path) -> None:
    (tmp_path / "said.txt").write_text("zwölf Boxkämpfer\n")
    assert "zwölf Boxkämpfer" in infer("text", tmp_path / "said.txt").stdout
    assert json.loads(infer("text", tmp_path / "said.txt", "--json").stdout) == {"heard": ["zwölf Boxkämpfer"]}


def test_a_model_without_a_batch_axis_takes_whole_tensors(infer: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 4), np.float32))
    done = infer("foreign", tmp_path / "x.npy", "--json")
    assert json.loads(done.stdout) == {"y": [[0.0] * 3] * 2}


def test_one_number_or_text_per_sample_is_a_number_or_text_in_a_file(infer: Any, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"k": 3, "v": [1, 2], "w": "größe"}))
    np.savez(tmp_path / "a.npz", k=np.float32(3), v=np.array([1, 2], np.float32), w=np.array("größe"))
    for name in ("a.json", "a.npz"):
        assert json.loads(infer("per_sample", tmp_path / name, "--json").stdout) == {"d": 6, "s": 6, "again": "größe"}
    assert "again: 'größe'" in infer("per_sample", tmp_path / "a.json").stdout
    (tmp_path / "b.json").write_text(json.dumps({"s": 3, "v": [1, 2], "w": "größe"}))
    assert json.loads(infer("scalars", tmp_path / "b.json", "--json").stdout) == {"t": 9, "p": [3, 6], "again": "größe"}


def make(path: Path) -> Path:
    """Write the broken file that the name stands for."""
    contents: dict[str, bytes] = {
        "not.png": b"no image", "cut.npz": b"PK\x03\x04 cut", "empty.npy": b"", "broken.json": b"{", "ragged.json": b'{"a": [[1], [1, 2]], "b": [1, 2]}',
        "big.json": b'{"image": [300]}', "none.json": b'{"image": [null]}', "said.txt": b"hello", "a.csv": b"1,2",
    }  # fmt: skip
    path.write_bytes(contents[path.name])
    return path


@pytest.mark.parametrize(
    ("model", "name", "words"),
    [
        ("classes", "not.png", "cannot read"), ("two", "cut.npz", "cannot read"), ("affine", "empty.npy", "cannot read"), ("two", "broken.json", "cannot read"),
        ("two", "ragged.json", "cannot read"), ("classes", "big.json", "cannot read"), ("classes", "none.json", "cannot read"),
        ("classes", "said.txt", "cannot be an input"), ("two", "said.txt", "cannot be an input"), ("affine", "a.csv", "cannot be an input"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_with_the_accepted_types(
    infer: Any, tmp_path: Path, model: str, name: str, words: str
) -> None:
    done = infer(model, make(tmp_path / name))
    assert done.returncode == 1
    assert words in done.stderr
    assert ".npz (one array per input)" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("model", ["affine", "two"])
def test_an_image_for_a_model_that_takes_none(infer: Any, tmp_path: Path, model: str) -> None:
    done = infer(model, picture(tmp_path / "a.png", (8, 8)))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "FP32" in done.stderr


def test_a_missing_file_an_unknown_model_and_no_server(infer: Any, tmp_path: Path, repository: Path) -> None:
    assert "there is no file" in infer("affine", tmp_path / "nowhere.npy").stderr
    np.save(tmp_path / "here.npy", np.zeros(2, np.float32))
    done = infer("afine", tmp_path / "here.npy")
    assert (done.returncode, "did you mean 'affine'?" in done.stderr) == (1, True)
    gone = clients("infer", "affine", tmp_path / "here.npy", "--url", "127.0.0.1:1", "--repository", repository)
    assert (gone.returncode, "python -m serving" in gone.stderr) == (3, True)


def test_the_file_is_checked_before_the_server_is_called(tmp_path: Path) -> None:
    done = clients("infer", "affine", tmp_path / "nowhere.npy", "--url", "127.0.0.1:1")
    assert (done.returncode, "there is no file" in done.stderr) == (1, True)


@pytest.mark.parametrize("flags", [["--url", "ftp://a:1"], ["--url", "a:1", "--grpc-url", "ftp://a:1"]])
@pytest.mark.parametrize("words", [["infer", "affine", __file__], ["validate"]])
def test_an_address_that_cannot_be_used_is_bad_usage(words: list[str], flags: list[str]) -> None:
    done = clients(*words, *flags)
    assert (done.returncode, "'ftp'" in done.stderr, "grpcs" in done.stderr) == (2, True, True)


def test_json_holds_errors_too(infer: Any, tmp_path: Path) -> None:
    done = infer("affine", tmp_path / "nowhere.npy", "--json")
    assert json.loads(done.stdout)["errors"][0]["what"].startswith("there is no file")
