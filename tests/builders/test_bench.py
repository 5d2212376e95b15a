"""``python -m builders bench`` on the CPU: ONNX Runtime and PyTorch, side by side."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from planwright.gpu import devices
from tests._project import ROOT, Project

QUICK = ("--batch", "1,4", "--streams", "1,2", "--seconds", "0.2", "--rounds", "2")


def bench(project: Project, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "builders", "bench", *flags, "--config", str(project.folder / "config.yaml")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_engines_and_pytorch_stand_in_one_table(built: Project) -> None:
    done = bench(built, "digits", *QUICK, "--torch", "eager", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert {row["engine"].split()[0] for row in rows} == {"onnxruntime", "torch"}
    assert len(rows) == 2 * 2 * 2
    for row in rows:
        assert len(row["rounds"]) == 2
        for each in row["rounds"]:
            assert (
                each["latency_min_ms"] <= each["latency_median_ms"] <= each["latency_p99_ms"] <= each["latency_max_ms"]
            )
            # a thread cannot answer more than its own latencies allow; a tenth for the clocks' edges
            assert each["samples_per_s"] <= 1.1 * row["batch"] * row["streams"] * 1e3 / each["latency_mean_ms"]


def test_the_table_has_no_empty_columns(built: Project) -> None:
    done = bench(built, "digits", "--batch", "1", "--streams", "1", "--seconds", "0.1", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    assert "compute" in done.stdout
    assert "H2D" not in done.stdout, "nothing is copied to a GPU here"


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("digitz",), 2, "did you mean 'digits'?"),
        (("digits", "--batch", "one"), 2, "--batch: 'one'"),
        (("digits", "--streams", "0"), 2, "--streams: '0'"),
        (("digits", "--rounds", "0"), 2, "--rounds"),
        (("digits", "--torch", "fast"), 2, "eager, compile"),
        (("digitz", "--torch", "fast"), 2, "--torch: 'fast'"),  # flags are checked before models
        (("digits", "--torch", "eager", "--torch-python", "/bin/false"), 3, "--torch-python PYTHON"),
        (("digits", "--torch", "eager", "--torch-python", "/no/python"), 3, "--torch-python PYTHON"),
        (("digits", "--target", "tensorrt"), 3, "needs a CUDA device"),
    ],
)
def test_bad_input_is_reported(built: Project, flags: tuple[str, ...], code: int, words: str) -> None:
    done = bench(built, *flags)
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def command(project: Project, *words: str) -> subprocess.CompletedProcess[str]:
    words = (*words, "--config", str(project.config), "--json")
    done = subprocess.run(
        [sys.executable, "-m", "builders", *words], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.skipif(bool(devices()), reason="this machine has a GPU")
def test_layers_without_a_gpu_says_so(built: Project) -> None:
    done = command(built, "layers", "digits")
    assert done.returncode == 3
    [fault] = json.loads(done.stdout)["errors"]
    assert "needs a CUDA device" in fault["why"]
    assert "GPU machine" in fault["fix"]
    assert "--target" not in fault["fix"], "layers has no such flag"
    assert command(built, "layers", "digitz").returncode == 2


def test_search_says_what_it_needs(built: Project, tmp_path: Path) -> None:
    done = command(built, "search", "digits")
    assert done.returncode == 1
    [fault] = json.loads(done.stdout)["errors"]
    assert fault["where"].endswith("calibration.npz")
    assert "precision: int8" in fault["fix"]
    done = command(built, "search", "digits", "--build", str(tmp_path))
    assert done.returncode == 1
    [fault] = json.loads(done.stdout)["errors"]
    assert fault["where"].endswith("model.onnx")
