"""Plans of several GPU architectures in one version; the plans themselves are stand-in bytes, for no GPU is needed to copy them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builders.repository import architectures
from builders.stage import Job
from builders.targets.tensorrt.target import TensorRTTarget
from planwright.config.load import load_spec
from planwright.errors import StageError
from planwright.files import HashCache, write_json
from planwright.gpu import Device
from tests._project import CONFIG

H100 = Device(0, "NVIDIA H100", "9.0", "580.1", "13.0", 80 << 30)
TENSORS = {
    "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 8, 8]}],
    "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 10]}],
}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    path = tmp_path / "config.yaml"
    path.write_text(
        CONFIG.replace("source: zoo/digits", 'source: zoo/digits\n    compile: {architectures: ["8.6", "9.0"]}')
    )
    spec = load_spec(path, "tensorrt")
    target = TensorRTTarget(spec.server)
    target.device, target.version = H100, "8.6.0"  # what a machine with this GPU would find out
    build = tmp_path / "build"
    return Job(
        spec.models[0], spec.root, build, tmp_path / "repository", target, spec.server, HashCache(build / "hashes.json")
    )


def put(job: Job, architecture: str, tensors: dict[str, Any]) -> Path:
    folder = job.compile_folder.with_name(f"trt8.6.0-sm{architecture}")
    folder.mkdir(parents=True)
    (folder / "model.plan").write_bytes(architecture.encode())
    write_json(folder / "tensors.json", tensors)
    return folder / "model.plan"


def test_each_architecture_has_its_file(job: Job) -> None:
    put(job, "90", TENSORS)
    other = put(job, "86", TENSORS)
    assert architectures.names(job) == {"8.6": "model.sm86.plan", "9.0": "model.plan"}
    assert architectures.others(job) == {"model.sm86.plan": other}


def test_a_missing_plan_is_named_with_the_command_that_makes_it(job: Job) -> None:
    put(job, "90", TENSORS)
    with pytest.raises(StageError, match="no plan for compute capability 8.6") as caught:
        architectures.others(job)
    assert "--until verify" in caught.value.faults[0].fix


def test_a_plan_with_other_tensors_is_refused(job: Job) -> None:
    put(job, "90", TENSORS)
    put(job, "86", {**TENSORS, "outputs": []})
    with pytest.raises(StageError, match=r"the plan for 8\.6 has different"):
        architectures.others(job)


def test_the_config_names_the_files(job: Job) -> None:
    from builders.repository import config_pbtxt
    from builders.stages.compile import read_tensors
    from planwright.config_pbtxt import parse

    put(job, "90", TENSORS)
    inputs, outputs = read_tensors(job.compile_folder)
    text = config_pbtxt.printed(config_pbtxt.message(job, inputs, outputs, [1], {}))
    assert dict(parse(text).cc_model_filenames) == {"8.6": "model.sm86.plan", "9.0": "model.plan"}
