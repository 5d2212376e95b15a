"""The parent's side of PyTorch in bench: a child process that holds the model and measures on request.

In      a job, the interpreter that has PyTorch (it may be another than TensorRT's), the shapes that the engine runs.
Out     `Figures` per setting and variant.

The child outlives the rounds, because torch.compile takes minutes; it is idle between requests.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from builders.diagnostics.lanes import BenchSetting, Figures
from builders.stage import Job
from planwright.errors import Fault, MachineError, StageError
from planwright.files import ROOT
from planwright.golden import Golden
from planwright.tensors import datatype_from_numpy


class TorchBench:
    """One model in PyTorch: `label` is ``torch 2.9.1 cuda``, `precisions` what it can compute in here (FP16 only on a GPU)."""

    def __init__(self, job: Job, python: str, shapes: Mapping[str, Sequence[int]]) -> None:
        """Start the child; raises MachineError if that interpreter has no PyTorch or cannot create the model."""
        self._job = job
        self._child = _start(job, python)
        golden = Golden.load(job.export_folder / "golden.npz")
        types = {name: datatype_from_numpy(array.dtype) for name, array in golden.groups[0].inputs.items()}
        hello = self._request({
            "spec": job.model.model_dump(mode="json") | {"source": job.model.code},
            "root": str(job.root.resolve()),
            "random_weights": golden.meta.get("weights") == "random",
            "inputs": {name: {"shape": list(shapes[name][1:]), "datatype": types[name]} for name in types},
        })  # fmt: skip
        self.label, self.precisions = f"torch {hello['torch'].partition('+')[0]} {hello['device']}", hello["precisions"]

    def measure(self, variant: str, precision: str, setting: BenchSetting, seconds: float) -> Figures:
        """Measure one setting, after compiling it if it is the first of its variant and batch; raises StageError if PyTorch refuses."""
        case = {"variant": variant, "precision": precision, "batch": setting.batch, "streams": setting.streams}
        found = self._request({**case, "seconds": seconds})
        if "error" in found:
            what = f"{self._job.model.name}: PyTorch cannot run {variant} {precision}, {setting}"
            raise StageError("torch", Fault(what, why=found["error"], fix="leave --torch out, or another variant"))
        return Figures(**found)

    def close(self) -> None:
        self._child.kill()
        self._child.communicate()

    def _request(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(json.dumps(request) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, and its standard error says why
        line = self._child.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        errors = self._child.communicate()[1].strip().splitlines()
        raise MachineError(_unable(self._job, errors[-1] if errors else "it printed nothing"))


def _start(job: Job, python: str) -> subprocess.Popen[str]:
    command = [python, "-m", "builders.diagnostics.torch_child"]
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    except OSError as error:
        raise MachineError(_unable(job, str(error))) from None


def _unable(job: Job, why: str) -> Fault:
    fix = "name an interpreter that has PyTorch and what the model's source imports: --torch-python PYTHON"
    return Fault(f"{job.model.name} cannot be measured in PyTorch", why=why, fix=fix)
