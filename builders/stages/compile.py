"""compile: the graph → an engine for the target.

In      ``model.<precision>.onnx``.
Out     the engine file and ``tensors.json``, its inputs and outputs as the engine itself declares them.

Everything version-specific is in `builders.targets`; this module only calls compile and load.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builders.graphs import batch_axis
from builders.graphs.external_data import with_data
from builders.sources.base import source_files
from builders.stage import Job, Stage, record_of
from builders.targets import Engine
from builders.targets.tensorrt import network
from planwright.errors import Fault, StageError
from planwright.files import read_json, write_json
from planwright.tensors import TensorSpec


def _run(job: Job, folder: Path) -> Mapping[str, Any]:
    exported, lowered = (record_of(folder).get("result", {}) for folder in (job.export_folder, job.graph_folder))
    opset = lowered.get("opset", exported.get("opset", 0))  # BF16 needs a newer one than the export
    if opset > job.target.max_opset:
        why = f"the graph is opset {opset}, {job.target.name} reads up to opset {job.target.max_opset}"
        fix, where = _older(job, exported.get("opset", 0)), job.model.where("export", "opset")
        raise StageError("engine", Fault("the graph's opset is too new for the target", where, why, fix))
    figures = job.target.compile(job.graph_file, folder, job.model)
    engine = job.target.load(folder)
    _check_batch(job, engine)
    engine.close()
    tensors = {"inputs": engine.inputs, "outputs": engine.outputs}
    write_json(folder / "tensors.json", {key: [tensor.as_dict() for tensor in of] for key, of in tensors.items()})
    return figures


def _older(job: Job, exported: int) -> str:
    """Return how to lower the graph's opset: by the export's setting, or by the precision if that raised it."""
    if exported <= job.target.max_opset:
        return f"choose another precision than {job.model.precision}, or a TensorRT that reads the opset"
    return f"set export.opset to {job.target.max_opset}"


def read_tensors(folder: Path) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Return (inputs, outputs) of the engine in `folder`."""
    stored = read_json(folder / "tensors.json")
    inputs, outputs = ([TensorSpec.from_dict(item) for item in stored[key]] for key in ("inputs", "outputs"))
    return inputs, outputs


def _check_batch(job: Job, engine: Engine) -> None:
    """Refuse an engine without the batch axis, or with another fixed batch, than config.yaml says; raises StageError."""
    model = job.model
    if model.batch.fixed is not None:
        other = [t for t in engine.inputs if not t.shape or t.shape[0] != model.batch.fixed]
        if other:
            what, why = f"the engine's batch is not {model.batch.fixed}", f"it declares {other[0]}"
            fix = "write the engine's own batch size, or leave batch out"
            raise StageError("engine", Fault(what, model.where("batch", "fixed"), why, fix))
        return
    wants = model.batch.axis and (model.batch.given or "dynamic_batching" in model.serve)
    if wants and batch_axis.kind(model.batch, engine.inputs) == "none":
        place = model.where("batch") if model.batch.given else model.where("serve", "dynamic_batching")
        fixed = next(t for t in engine.inputs if not t.shape or t.shape[0] != -1)
        named = f"input '{fixed.name}'"
        axis = f"axis 0 of {named} is {fixed.shape[0]}" if fixed.shape else f"{named} is a scalar"
        fix = "write 'batch: none' and no dynamic_batching to serve it as it is, or export it with a free first axis"
        what, why = "batching requested for a model without a batch axis", f"{axis}; the engine declares {fixed}"
        raise StageError("engine", Fault(what, place, why, fix))


def _spec_part(job: Job) -> dict[str, Any]:
    part: dict[str, Any] = {
        "precision": job.model.precision,
        "fixed": job.model.batch.fixed,
        "batch_given": job.model.batch.given,
        **({} if job.model.batch.axis else {"axis": False}),
    }
    if job.target.name == "tensorrt":
        part |= {
            "compile": job.model.compile.model_dump(exclude={"timing_cache", "architectures"}),
            "bounds": list(job.model.batch.bounds),
            **({"calibration": job.model.calibration.model_dump()} if job.model.calibration.native else {}),
        }
    return part


def _inputs(job: Job) -> dict[str, Path]:
    files = with_data(job.graph_file) | {name: Path(name) for name in job.model.compile.plugins}
    if job.model.precision == "int8" and job.model.calibration.native:
        files["calibration.npz"] = job.export_folder / "calibration.npz"
    if job.target.name == "tensorrt" and network.wanted(job.model):
        files |= source_files(job.model, job.root)
    return files


COMPILE = Stage(
    "compile", 1, lambda job: job.compile_folder, _spec_part, _inputs, lambda job: job.target.versions(), _run
)
