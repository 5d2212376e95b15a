"""What Triton refuses in fields of `serve` that speak of the engine's inputs: warm-up samples and CUDA graphs.

In      the mapping under ``serve``, the engine's inputs without the batch axis, the model's folder in the repository.
Out     one fault per rule that is broken, with its place in config.yaml.

Source: GenerateWarmupData in Triton core's src/backend_model_instance.cc.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from planwright.config.serve_fields import Loc, Where, readable
from planwright.errors import Fault, did_you_mean
from planwright.tensors import TensorSpec, shape_fits

Broken = tuple[Loc, str, str, str]  # place below serve, what, why, fix


def faults(serve: Mapping[str, Any], inputs: Sequence[TensorSpec], folder: Path | None, where: Where) -> list[Fault]:
    """Return what does not fit the engine.

    Args:
        serve: The mapping under ``serve``.
        inputs: As config.pbtxt declares them: without the batch axis where Triton adds it.
        folder: The model's folder, in which Triton looks for a warm-up's files; None where it is not known yet.
        where: Names a place in config.yaml.
    """
    config = readable(serve)
    found = [*_warm_ups(config, inputs, folder), *_graphs(config, inputs)]
    return [Fault(what, where("serve", *loc), why, fix) for loc, what, why, fix in found]


def speaks_of_inputs(serve: Mapping[str, Any]) -> bool:
    """True where there is something to check."""
    config = readable(serve)
    return bool(config.model_warmup or config.optimization.cuda.graph_spec)


def _warm_ups(config: Any, inputs: Sequence[TensorSpec], folder: Path | None) -> Iterator[Broken]:
    known = {tensor.name: tensor for tensor in inputs}
    for index, sample in enumerate(config.model_warmup):
        loc: Loc = ("model_warmup", index, "inputs")
        for name in sorted(sample.inputs):
            if name not in known:
                why = f"the model has {', '.join(map(str, inputs))}"
                yield (*loc, name), f"the warm-up has an input '{name}'", why, did_you_mean(name, known)
            else:
                yield from _tensor(sample.inputs[name], known[name], (*loc, name))
                yield from _file(sample.inputs[name], known[name], (*loc, name), folder)
        missing = [tensor for name, tensor in known.items() if name not in sample.inputs]
        if missing:
            why = f"the model needs {', '.join(map(str, missing))}"
            yield loc, f"the warm-up lacks input '{missing[0].name}'", why, _example(missing[0])


def _tensor(item: Any, tensor: TensorSpec, loc: Loc) -> Iterator[Broken]:
    from tritonclient.grpc import model_config_pb2

    given = model_config_pb2.DataType.Name(item.data_type)
    if item.data_type and given != tensor.config_type:
        what = f"warm-up input '{tensor.name}' is {given}"
        yield (*loc, "data_type"), what, f"the model has {tensor}", f"data_type: {tensor.config_type}"
    dims = tuple(item.dims)
    if any(size < 0 for size in dims) or shape_fits(tensor.shape, dims):  # an open axis is refused before any build
        return
    batch = len(dims) == len(tensor.shape) + 1
    why = f"the model has {tensor}" + ("; batch_size says how many samples, so dims has no batch axis" if batch else "")
    yield (*loc, "dims"), f"warm-up input '{tensor.name}' has dims {list(dims)}", why, _example(tensor)


def _example(tensor: TensorSpec) -> str:
    lengths = [size if size > 0 else "LENGTH" for size in tensor.shape]
    dims = f"[{', '.join(map(str, lengths))}]"
    return f"{tensor.name}: {{data_type: {tensor.config_type}, dims: {dims}, zero_data: true}}"


def _file(item: Any, tensor: TensorSpec, loc: Loc, folder: Path | None) -> Iterator[Broken]:
    """Check the file that Triton would read: raw bytes of one sample."""
    if folder is None or item.WhichOneof("input_data_type") != "input_data_file":
        return
    path, place = folder / "warmup" / item.input_data_file, (*loc, "input_data_file")
    if not path.is_file():
        yield (
            place,
            f"there is no file {path}",
            "Triton reads a warm-up's data there",
            "put it there, or use zero_data: true",
        )
        return
    need = math.prod(item.dims) * tensor.numpy_dtype.itemsize
    if tensor.datatype != "BYTES" and path.stat().st_size < need:
        why = f"{path} has {path.stat().st_size} bytes, a sample of {list(item.dims)} needs {need}"
        yield place, f"warm-up input '{tensor.name}' has too little data", why, "write the whole sample"


def _graphs(config: Any, inputs: Sequence[TensorSpec]) -> Iterator[Broken]:
    known = [tensor.name for tensor in inputs]
    for index, spec in enumerate(config.optimization.cuda.graph_spec):
        loc: Loc = ("optimization", "cuda", "graph_spec", index)
        for place, part in ((loc, spec), ((*loc, "graph_lower_bound"), spec.graph_lower_bound)):
            for name in sorted(part.input):
                if name not in known:
                    why = f"the model has {', '.join(known)}"
                    yield (
                        (*place, "input", name),
                        f"the CUDA graph has an input '{name}'",
                        why,
                        did_you_mean(name, known),
                    )
