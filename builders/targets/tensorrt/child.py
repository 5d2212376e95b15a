"""The parent's side of the compiling child: start it, show its progress, turn its end into a result or an error.

In      a job for ``builders.targets.tensorrt.build``.
Out     the figures of its ``done``, or a `StageError`; Ctrl-C and a killed parent end the child too.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from builders.targets.tensorrt.explain import explain
from planwright import console
from planwright.errors import Fault, StageError, missing_package
from planwright.files import ROOT, write_json


def run(job: dict[str, Any], folder: Path, where: Any) -> dict[str, Any]:
    """Build one plan in a child process; `folder` gets the job's file and the child's log.

    Raises:
        StageError: stage 'engine': TensorRT refused, or its process died.
        MachineError: It lacks a package.
    """
    path, log = folder / "job.json", folder / "tensorrt.log"
    write_json(path, job)
    last: dict[str, Any] = {}
    with log.open("w") as stderr:
        command = [sys.executable, "-m", "builders.targets.tensorrt.build", str(path)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                last = json.loads(line)
                if last["event"] == "progress":
                    of = f"/{last['steps']}" if last["steps"] else ""
                    console.say(f"{job['model']:<16} compile  ... {last['phase']} {last['step']}{of}")
            code = process.wait()
        finally:
            process.kill()
            process.communicate()  # closes the pipe too
    if last.get("event") == "done":
        path.unlink()
        return last
    if last.get("event") == "failed":
        raise StageError("engine", explain(last, job, where))
    lines = log.read_text().strip().splitlines()
    missing = re.match(r"ModuleNotFoundError: No module named '([\w.]+)'", lines[-1]) if lines else None
    raise missing_package(missing[1]) if missing else StageError("engine", _died(code, log, lines))


def _died(code: int, log: Path, lines: list[str]) -> Fault:
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    why = "; ".join(lines[-3:]) or "it printed nothing"
    fix = "lower compile.optimization_level or compile.workspace_mib; if it stays, run the file with trtexec --onnx"
    return Fault(f"TensorRT's process died ({how})", str(log), why, fix, "python -m builders doctor")
