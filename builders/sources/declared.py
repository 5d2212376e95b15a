"""Whether an ONNX file declares the shapes that its model answers.

In      the exported graph, the golden samples and the reference answers.
Out     nothing, or a `StageError` that names tensor and axis: the config would promise other dims than clients get.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from builders.sources.base import Source
from builders.sources.user_code import place_of
from planwright.errors import Fault, StageError
from planwright.golden import Golden


def check(source: Source, model: Any, golden: Golden) -> None:
    """Compare every axis but the batch, whose length `builders.graphs.batch_axis` measures.

    Raises:
        StageError: stage 'onnx': an axis is fixed in the file and has another length in a sample or an answer.
    """
    faults = [_fault(source, *found) for found in _fixed_axes(source, model, golden)]
    if faults:
        raise StageError("onnx", *faults)


def _fixed_axes(source: Source, model: Any, golden: Golden) -> Iterator[tuple[str, str, int, int, list[int]]]:
    """Yield (kind, tensor, axis, length in the file, lengths seen) where the file fixes an axis at another length."""
    first = 1 if source.batched else 0
    for kind, items in (("input", model.graph.input), ("output", model.graph.output)):
        for item in items:
            arrays = [(g.inputs if kind == "input" else g.outputs).get(item.name) for g in golden.groups]
            shapes = [array.shape[1:] for array in arrays if array is not None]
            for axis, dim in enumerate(item.type.tensor_type.shape.dim[first:]):
                seen = sorted({shape[axis] for shape in shapes if axis < len(shape)})
                if dim.HasField("dim_value") and any(length != dim.dim_value for length in seen):
                    yield kind, item.name, axis + first, dim.dim_value, seen


def _fault(source: Source, kind: str, name: str, axis: int, fixed: int, seen: list[int]) -> Fault:
    what = f"the ONNX file fixes axis {axis} of {kind} '{name}' at {fixed}"
    why = f"the golden samples have {', '.join(map(str, seen))} there"
    if not hasattr(source, "dynamic_axes"):
        fix = "write the file again with that axis free"
        return Fault(what, source.spec.where("file"), why, fix, source.blame.check)
    fix = f"add {{'{name}': {{{axis}: 'length'}}}} to dynamic_axes, and take sizes from x.shape inside forward()"
    return Fault(what, place_of(type(source), "dynamic_axes"), why, fix, source.blame.check)
