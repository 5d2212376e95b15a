"""Step 'wrong' of h100.py: what must fail, and how it must be told.

In      plans that the step 'build' made.
Out     a row per fault: exit code, first words, whether cause and fix were named, whether anything was published.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks._h100.steps import CONFIG, REPOSITORY, ROOT, Step, command, plan_path
from benchmarks._parts.common import serve

MODEL = "digits_fp32"


def wrong(step: Step) -> None:
    """Plant each fault and look how it is told."""
    builds: list[tuple[str, list[str], dict[str, str], int, str]] = [
        ("an operator that TensorRT lacks", command("no_such_op"), {}, 1, "operator that TensorRT lacks"),
        ("a precision that is not there", command("digits_bf16"), {}, 1, "the precision is not there"),
        ("the GPU hidden", command(MODEL), {"CUDA_VISIBLE_DEVICES": ""}, 3, "needs a CUDA device"),
        ("a plan of another version than the server's", [*_paired()], {}, 1, "another TensorRT"),
    ]
    for what, words, environment, code, text in builds:
        _told(step, what, words, environment, code, text)
    with _memory_taken():
        _told(
            step,
            "too little GPU memory",
            command(MODEL, "--from", "compile", "--until", "compile", "--force"),
            {},
            1,
            "memory",
        )
    _told(
        step,
        "two contexts on one profile",
        [sys.executable, "-c", _TWO, str(plan_path(MODEL))],
        {},
        0,
        "one context per profile",
    )
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


def _told(step: Step, what: str, words: list[str], environment: dict[str, str], code: int, text: str) -> None:
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment}, timeout=200
    )
    said = done.stdout + done.stderr
    right = done.returncode == code and text in said and "Traceback" not in said
    line = next((line for line in said.splitlines() if text in line), said.strip()[-300:])
    step.row(fault=what, exit_code=done.returncode, told=line.strip()[:400])
    step.require(right, f"{what}: exit {code} and the cause")


def _paired() -> list[str]:
    """Return a build for a server whose TensorRT is another one; its config is a copy of ours beside it."""
    text = (
        (ROOT / CONFIG)
        .read_text()
        .replace("server: embedded", "server: {image: nvcr.io/nvidia/tritonserver:26.06-py3, tensorrt: 11.0.0.114}")
    )
    path = ROOT / CONFIG.with_name("h100_paired.yaml")
    path.write_text(text)
    words = command(MODEL)
    words[words.index(str(CONFIG))] = str(path.relative_to(ROOT))
    return words


@contextmanager
def _memory_taken() -> Iterator[None]:
    """Hold nearly all memory of the GPU in another process while the block runs."""
    code = ("import sys; sys.path.insert(0, '.')\nfrom planwright.trt import cuda\ncuda.use(0)\nfree, _ = cuda.memory_bytes()\n"
            "kept = cuda.Device(free - (300 << 20))\nprint('taken', flush=True)\nsys.stdin.read()")  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _served(step: Step) -> None:
    """Serve a good model beside broken ones: the good one answers, each broken one says why it does not."""
    with tempfile.TemporaryDirectory(prefix="planwright-h100-") as scratch:
        folder = Path(scratch)
        for name in ("digits_int8", "digits_fp16", MODEL):
            shutil.copytree(ROOT / REPOSITORY / name, folder / name)
        _edit(folder / "digits_fp16", lambda data: data[: len(data) // 2])
        _edit(folder / "digits_int8", lambda data: bytes(32) + data[32:])
        with serve(
            folder,
            "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in ("digits_int8", "digits_fp16", MODEL)),
            "--strict-readiness=false",
            "--trust-repository",
        ) as server:
            index = _index(server)
            step.row(repository_index=index)
            for name in ("digits_fp16", "digits_int8"):
                step.require(
                    "unable to create TensorRT engine" in str(index.get(name)),
                    f"{name}, damaged, says why it is not served",
                )
            answer = subprocess.run([sys.executable, "-m", "clients", "validate", MODEL, "--url", server.http_url, "--grpc-url", server.grpc_url,
                                     "--repository", str(folder)], cwd=ROOT, capture_output=True, text=True)  # fmt: skip
            step.require(answer.returncode == 0, "the good model beside them answers rightly")
            _outside(step, server)


def _outside(step: Step, server: Any) -> None:
    """Send a shape outside the profile: the server's batcher lets a longer sentence through, the backend must not."""
    request = urllib.request.Request(
        f"http://{server.http_url}/v2/models/{MODEL}/infer",
        data=b'{"inputs":[{"name":"image","shape":[65,8,8],"datatype":"UINT8","data":['
        + b",".join([b"0"] * 65 * 64)
        + b"]}]}",
    )
    try:
        urllib.request.urlopen(request, timeout=10)
        text = "it was answered"
    except urllib.error.HTTPError as error:
        text = error.read().decode()
    step.row(fault="a shape outside the profile", told=text[:300])
    step.require("64" in text, "a shape outside the profile is refused with its bounds")


def _index(server: Any) -> dict[str, str]:
    import json

    request = urllib.request.Request(
        f"http://{server.http_url}/v2/repository/index", data=b"{}", headers=server.admin_headers
    )
    rows = json.loads(urllib.request.urlopen(request, timeout=10).read())
    return {row["name"]: f"{row.get('state', '')} {row.get('reason', '')}".strip() for row in rows}


def _edit(model: Path, change: Any) -> None:
    path = next(model.glob("*/model.plan"))
    path.write_bytes(change(path.read_bytes()))
