"""Check that `serve` fits the engine, and find the line of config.yaml that Triton complains about.

In      config.yaml's `serve`; the tensors of the compiled engine, or those of the user's own ONNX file before any build.
Out     the lines of config.yaml that Triton would refuse, or did.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from builders.graphs import batch_axis, facts
from builders.repository import config_pbtxt
from builders.stage import Job
from builders.stages.compile import read_tensors
from planwright.config import serve_rules
from planwright.config.spec import ModelSpec
from planwright.errors import Fault, SpecError
from planwright.tensors import TensorSpec, datatype_from_config

# how Triton's messages name a field, where not by its name
_WORDS = {
    "model_warmup": ("warmup", "warm-up"),
    "instance_group": ("instance group", "gpu id"),
    "dynamic_batching": ("dynamic batching", "priority", "queue policy", "preserve_ordering", "timeout expired", "queue size"),
    "sequence_batching": ("sequence batching", "sequence slot"),
    "response_cache": ("response cache",),
    "optimization": ("execution accelerator", "cuda graph"),
}  # fmt: skip


def check(job: Job) -> None:
    """Refuse what only the engine's tensors show to be wrong; raises SpecError with every such line of config.yaml (exit 2)."""
    from tritonclient.grpc import model_config_pb2

    model, (inputs, outputs) = job.model, read_tensors(job.compile_folder)
    config = config_pbtxt.message(job, inputs, outputs, [1], {})
    name_of = model_config_pb2.DataType.Name
    declared = [TensorSpec(t.name, datatype_from_config(name_of(t.data_type)), tuple(t.dims)) for t in config.input]
    faults = [
        *serve_rules.batch_faults(model.serve, config.max_batch_size, model.where),
        *serve_rules.input_faults(model.serve, declared, job.repository / model.name, model.where),
    ]
    if faults:
        raise SpecError(*faults)


def from_file(model: ModelSpec, root: Path) -> list[Fault]:
    """Return what the user's ONNX file shows before a build; nothing for other sources, whose export makes the tensors."""
    path = root / str(model.file)
    if model.source != "zoo/onnx" or not path.is_file() or not serve_rules.refers_to_inputs(model.serve):
        return []
    try:
        inputs = facts.inputs(facts.read(path))
    except Exception:  # no onnx on this machine, or no ONNX file: the export reports it
        return []
    if model.io_int64 == "cast":
        inputs = [TensorSpec(t.name, "INT32" if t.datatype == "INT64" else t.datatype, t.shape) for t in inputs]
    batched = batch_axis.kind(model.batch, inputs) == "dynamic"
    declared = [TensorSpec(t.name, t.datatype, (t.shape[1:] if batched else t.shape) or (1,)) for t in inputs]
    return serve_rules.input_faults(model.serve, declared, None, model.where)


def place_of(model: ModelSpec, sentence: str) -> str:
    """Return the line of config.yaml that a sentence of Triton's is about: ``config.yaml:14  models.m.serve.model_warmup``."""
    lowered = sentence.lower()
    for loc, words in _fields(model):
        if any(word in lowered for word in words):
            return model.where("serve", *loc)
    return model.where()


def _fields(model: ModelSpec) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    parameters = model.serve.get("parameters")
    for name in parameters if isinstance(parameters, dict) else ():
        yield ("parameters", name), (str(name).lower(),)
    for key in model.serve:
        yield (key,), (key.lower(), *_WORDS.get(key, ()))
