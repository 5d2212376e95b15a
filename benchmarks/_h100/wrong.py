"""Step 'wrong' of h100.py: what must fail, and with which error.

In      plans built by the step 'build'.
Out     a row per fault: exit code, first line, whether cause and fix were named, whether anything was published.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks._h100.steps import CONFIG, REPOSITORY, BenchmarkStep, command, plan_path
from benchmarks._parts.common import ROOT, run_module, scratch_folder, serve
from planwright.server_info import ServerInfo

MODEL = "digits_fp32"


def wrong(step: BenchmarkStep) -> None:
    faults: list[tuple[str, list[str], dict[str, str], int, str]] = [
        ("an operator that TensorRT lacks", command("no_such_op"), {}, 1, "operator that TensorRT lacks"),
        ("a precision that the engine lacks", command("digits_bf16"), {}, 1, "does not support the precision"),
        ("the GPU hidden", command(MODEL), {"CUDA_VISIBLE_DEVICES": ""}, 3, "needs a CUDA device"),
        ("a plan of a version other than the server's", _paired(), {}, 1, "different TensorRT"),
    ]
    for fault in faults:
        _check(step, *fault)
    compile_again = command(MODEL, "--from", "compile", "--until", "compile", "--force")
    with _memory_taken():
        _check(step, "too little GPU memory", compile_again, {}, 1, "memory")
    two_runners = [sys.executable, "-c", _TWO, str(plan_path(MODEL))]
    _check(step, "two contexts on one profile", two_runners, {}, 0, "one context per profile")
    _served(step)


_TWO = """
import sys; sys.path.insert(0, '.')
from pathlib import Path
from planwright.trt.plan import Plan, PlanError
from planwright.trt.runner import Runner
plan = Plan.read(Path(sys.argv[1]))
first = Runner(plan)
try:
    Runner(plan)
except PlanError as error:
    print(error)
"""


def _check(step: BenchmarkStep, what: str, words: list[str], environment: dict[str, str], code: int, text: str) -> None:
    env = {**os.environ, **environment}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=env, timeout=200)
    output = done.stdout + done.stderr
    line = next((line for line in output.splitlines() if text in line), output.strip()[-300:])
    step.row(fault=what, exit_code=done.returncode, told=line.strip()[:400])
    clear = done.returncode == code and text in output and "Traceback" not in output
    step.require(clear, f"{what}: exit {code} and the cause")


def _paired() -> list[str]:
    """Return a build for a server with another TensorRT; its config is a copy beside ours."""
    embedded, other = "server: embedded", "server: {image: nvcr.io/nvidia/tritonserver:26.06-py3, tensorrt: 11.0.0.114}"
    text = (ROOT / CONFIG).read_text().replace(embedded, other)
    path = ROOT / CONFIG.with_name("h100_paired.yaml")
    path.write_text(text)
    words = command(MODEL)
    words[words.index(str(CONFIG))] = str(path.relative_to(ROOT))
    return words


@contextmanager
def _memory_taken() -> Iterator[None]:
    """Hold nearly all GPU memory in another process while the block runs."""
    code = ("import sys; sys.path.insert(0, '.')\nfrom planwright.trt import cuda\ncuda.use(0)\nfree, _ = cuda.memory_bytes()\n"
            "kept = cuda.Device(free - (300 << 20))\nprint('taken', flush=True)\nsys.stdin.read()")  # fmt: skip
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _served(step: BenchmarkStep) -> None:
    """Serve a good model beside broken ones: the good one answers, each broken one reports why it does not load."""
    names = ("digits_int8", "digits_fp16", MODEL)
    with scratch_folder() as folder:
        for name in names:
            shutil.copytree(ROOT / REPOSITORY / name, folder / name)
        _edit(folder / "digits_fp16", lambda data: data[: len(data) // 2])
        _edit(folder / "digits_int8", lambda data: bytes(32) + data[32:])
        flags = ["--trust-repository", "--model-control-mode=explicit", "--strict-readiness=false"]
        with serve(folder, *flags, *(f"--load-model={name}" for name in names)) as server:
            index = _index(server)
            step.row(repository_index=index)
            for name in names[:2]:
                reported = "unable to create TensorRT engine" in str(index.get(name))
                step.require(reported, f"{name}, damaged, reports why it is not served")
            places = ["--url", server.http_url, "--grpc-url", server.grpc_url, "--repository", str(folder)]
            done = run_module("clients", "validate", MODEL, *places)
            step.require(done.returncode == 0, "the good model beside them gives correct answers")
            _outside(step, server)


def _outside(step: BenchmarkStep, server: ServerInfo) -> None:
    """Send a shape outside the profile: the server's batcher lets it through, the backend must not."""
    tensor = {"name": "image", "shape": [65, 8, 8], "datatype": "UINT8", "data": [0] * 65 * 64}
    url, body = f"http://{server.http_url}/v2/models/{MODEL}/infer", json.dumps({"inputs": [tensor]}).encode()
    try:
        urllib.request.urlopen(url, body, timeout=10)
        text = "it was answered"
    except urllib.error.HTTPError as error:
        text = error.read().decode()
    step.row(fault="a shape outside the profile", told=text[:300])
    step.require("64" in text, "a shape outside the profile is refused with its bounds")


def _index(server: ServerInfo) -> dict[str, str]:
    url = f"http://{server.http_url}/v2/repository/index"
    request = urllib.request.Request(url, data=b"{}", headers=server.admin_headers)
    rows = json.loads(urllib.request.urlopen(request, timeout=10).read())
    return {row["name"]: f"{row.get('state', '')} {row.get('reason', '')}".strip() for row in rows}


def _edit(model: Path, change: Any) -> None:
    path = next(model.glob("*/model.plan"))
    path.write_bytes(change(path.read_bytes()))
