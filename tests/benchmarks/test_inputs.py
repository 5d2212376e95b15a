"""A benchmark that lacks an input names it, fails --check and leaves its record unchanged."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks._parts import common
from benchmarks._parts.common import Inputs
from planwright.errors import MachineError
from tests._project import ROOT, Project


@pytest.fixture(autouse=True)
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of records of this test's own."""
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(common, "ROOT", tmp_path)
    return tmp_path / "results"


def bytes_of_records() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (ROOT / "benchmarks/results").glob("*.json")}


def run(*words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_benchmark_without_some_of_its_models_measures_the_others_and_keeps_the_record(built: Project) -> None:
    before = bytes_of_records()
    flags = ("--rounds", "1", "--seconds", "0.2", "--repository", str(built.repository))
    done = run("benchmarks/embedded.py", "--check", *flags)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "SDK CPU per small HTTP request" in said, "what is there is measured"
    for name in ("minilm", "resnet50"):
        assert f"not measured: {name} is not published" in said
    for command in ("minilm", "resnet50 --random-weights resnet50"):
        assert re.search(rf"python builders/build_all.py {command}\s*$", said, re.MULTILINE), said
    assert "the record is unchanged: benchmarks/results/embedded.json" in said
    assert bytes_of_records() == before


@pytest.mark.parametrize(
    "script", ["embedded", "load_answers", "load_client", "load_honesty", "load_soak", "shared_client", "tune", "h100"]
)
def test_a_benchmark_without_inputs_measures_nothing(script: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    where = [] if script == "h100" else ["--repository", str(tmp_path / "empty")]
    before = bytes_of_records()
    done = run(f"benchmarks/{script}.py", "--check", *where)
    said = done.stdout + done.stderr
    assert done.returncode in (1, 3), said
    assert ("digits is not published" in said) == (script not in ("h100",)), said
    assert bytes_of_records() == before


def test_a_record_is_written_only_where_nothing_was_missing(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = Inputs()
    assert whole.conclude("figures", {"rows": [1]}, met=True, check=True) == 0
    assert whole.conclude("figures", {"rows": [2]}, met=False, check=False) == 0
    assert whole.conclude("figures", {"rows": [3]}, met=False, check=True) == 1
    before = (records / "figures.json").read_bytes()
    lacking = Inputs()
    assert lacking.models(records, "digits") == []
    assert lacking.conclude("figures", {"rows": [4]}, met=True, check=False) == 0
    assert lacking.conclude("figures", {"rows": [4]}, met=True, check=True) == 1
    assert (records / "figures.json").read_bytes() == before
    assert "digits is not published" in "".join(capsys.readouterr())


def test_a_missing_model_is_named_with_the_command_that_builds_it(tmp_path: Path) -> None:
    inputs = Inputs()
    inputs.models(tmp_path, "digits", "minilm", "resnet50")
    commands = [fault.fix.removeprefix("python builders/build_all.py ") for fault in inputs.missing]
    assert commands == ["digits", "minilm", "resnet50 --random-weights resnet50"]
    for command in commands:
        name, *flags = command.split()
        (source,) = (ROOT / "builders/zoo").glob(f"{name}.py")
        assert bool(flags) == ("random_weights_allowed = True" in source.read_text()), command


def test_every_missing_input_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = Inputs()
    inputs.package("no_such_package", "install it")
    monkeypatch.setenv("TOOL", str(tmp_path / "moved"))
    assert inputs.program("sh", "install it", "TOOL") == "", "the variable says where it is, and it is not there"
    assert inputs.program("no-such-program", "install it") == ""
    inputs.folder(tmp_path / "none", "make it")
    inputs.cores(10_000)
    with pytest.raises(MachineError) as caught:
        inputs.require()
    assert len(caught.value.faults) == 5
    fine = Inputs()
    fine.package("json", "")
    fine.folder(tmp_path, "")
    fine.cores(1)
    assert fine.program("sh", "") == shutil.which("sh")
    fine.require()


def test_a_setting_of_bench_claims_no_cuda_graph() -> None:
    """Whether there is one is known when it was captured: the figures say so, the setting does not."""
    from builders.diagnostics.lanes import BenchSetting

    settings: list[Any] = [BenchSetting(8, 2), BenchSetting(8, 2, graphs=False)]
    assert {str(setting) for setting in settings} == {"batch 8, 2 streams"}
