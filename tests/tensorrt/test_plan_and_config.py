"""What can be said of the TensorRT target on a machine without a GPU: the plan of a build, and config.pbtxt.

In      the digits project; config texts; ``golden/*.pbtxt``, which are what Triton is to be given.
Out     proof that ``--plan`` needs no GPU, and that config.pbtxt is what it was, and reads back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builders.pipeline import NAMES
from builders.repository import config_pbtxt
from builders.stage import Job
from planwright.config_pbtxt import parse
from planwright.tensors import TensorSpec
from tests._project import Project
from tests.tensorrt.conftest import MakeJob

GOLDEN = Path(__file__).parent / "golden"
HEAD = "version: 1\nserver: {image: nvcr.io/nvidia/tritonserver:26.06-py3, tensorrt: 10.16.1.11}\nmodels:\n"
CONFIGS = {
    "dynamic": """\
  digits:
    source: zoo/digits
    batch: {min: 1, opt: 4, max: 8}
    slo: {p99_ms: 20}
    serve:
      dynamic_batching: {preferred_batch_size: [4, 8], max_queue_delay_microseconds: 500}
      optimization: {cuda: {graphs: true, graph_spec: [{batch_size: 8}]}}
""",
    "fixed": """\
  digits:
    source: zoo/digits
    batch: {fixed: 4}
""",
    "instances": """\
  digits:
    source: zoo/digits
    batch: {max: 8}
    serve:
      instance_group: [{count: 2, profile: ["0", "1"], gpus: [0]}]
""",
}


def parts(job: Job) -> tuple[Any, ...]:
    """What the engine of this model would declare, the version and the labels."""
    batch = job.model.batch.fixed or -1
    inputs = [TensorSpec("image", "UINT8", (batch, 8, 8))]
    outputs = [TensorSpec("scores", "FP32", (batch, 10))]
    return job, inputs, outputs, [3], {"scores": "3/scores.txt"}


@pytest.mark.parametrize("name", CONFIGS)
def test_config_is_what_it_was(name: str, make_job: MakeJob) -> None:
    job = make_job(HEAD + CONFIGS[name])
    text = config_pbtxt.printed(config_pbtxt.message(*parts(job)))
    assert text == (GOLDEN / f"{name}.pbtxt").read_text()
    assert parse(text) == config_pbtxt.message(*parts(job))


def test_the_golden_files_say_what_they_should() -> None:
    """They are read by meaning too, so that a wrong file cannot pass by being copied."""
    dynamic, fixed, instances = (parse((GOLDEN / f"{name}.pbtxt").read_text()) for name in CONFIGS)
    assert {config.platform for config in (dynamic, fixed, instances)} == {"tensorrt_plan"}
    assert {config.default_model_filename for config in (dynamic, fixed, instances)} == {"model.plan"}
    assert (dynamic.max_batch_size, list(dynamic.input[0].dims)) == (8, [8, 8])
    assert dynamic.optimization.cuda.graphs
    assert list(dynamic.dynamic_batching.preferred_batch_size) == [4, 8]
    assert (fixed.max_batch_size, list(fixed.input[0].dims)) == (0, [4, 8, 8])
    assert fixed.parameters["planwright_fixed_batch"].string_value == "4"
    group = instances.instance_group[0]
    assert (group.count, list(group.profile), list(group.gpus)) == (2, ["0", "1"], [0])
    assert group.kind == group.KIND_GPU


def test_a_plan_needs_no_gpu(project: Project) -> None:
    before = project.state()
    done = project.build("--plan", "--target", "tensorrt")
    assert done.code == 0, done.out + done.err
    assert "target tensorrt: requested; nothing here needs a GPU" in done.out
    assert all(name in done.out for name in NAMES)
    assert project.state() == before


def test_a_plan_names_every_stage_and_why(project: Project) -> None:
    done = project.build("--plan", "--target", "tensorrt", "--json")
    model = json.loads(done.out)["models"][0]
    assert list(model["stages"]) == list(NAMES)
    assert model["stages"]["export"].startswith("keep")  # made for the other target, and the same for this one
    assert model["stages"]["compile"].startswith("run")
    assert model["status"] == "due"
