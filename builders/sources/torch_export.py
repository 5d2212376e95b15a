"""The two exporters of PyTorch, and their errors.

In      a Source, its module and example inputs.
Out     an ONNX file, or a `StageError` that names the user's line and suggests the other exporter.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from builders.error_log import captured, reason
from builders.graphs.check import INLINE_LIMIT_BYTES
from builders.sources import torch_contract
from builders.sources.base import Source
from builders.sources.samples import Sample
from builders.sources.user_code import Blame, place_of, shown
from planwright.errors import StageError

OPSETS = {"torchscript": 17, "dynamo": 18}  # what each is known to write: dynamo stays at 18 if less is requested
_FRAME = re.compile(r"(\S+\.py)\((\d+)\)")  # in the source range of a traced node


def export(source: Source, module: Any, args: tuple[Any, ...], path: Path) -> None:
    """Export with the exporter set in config.yaml."""
    import torch

    names = {"input_names": list(source.input_names), "output_names": list(source.output_names)}
    common = {"opset_version": source.spec.export.opset, **names}
    if source.spec.export.exporter == "dynamo":
        free = [dict.fromkeys(axes(source, name), torch.export.Dim.DYNAMIC) for name in source.input_names]
        shapes = _like_arguments(module, free)
        large = sum(p.numel() * p.element_size() for p in module.parameters()) > INLINE_LIMIT_BYTES
        common |= {"verbose": False, "external_data": large, "dynamic_shapes": shapes}
        torch.onnx.export(module, args, str(path), dynamo=True, **common)
    else:
        tensors = (*source.input_names, *source.output_names)
        named = {name: axes(source, name) for name in tensors if axes(source, name)}
        torch.onnx.export(module, args, str(path), dynamo=False, dynamic_axes=named, **common)


def axes(source: Source, name: str) -> dict[int, str]:
    """Return the free axes of a tensor: the batch, and what `dynamic_axes` names."""
    batch = {0: "batch"} if source.batched and not source.spec.batch.fixed else {}
    return {**batch, **source.dynamic_axes.get(name, {})}


def example(source: Source, golden: Sequence[Sample]) -> Sample:
    """Return the golden sample with the longest free axes: the tracer would take an axis of 1 for a constant."""
    offset = 1 if source.batched else 0

    def shortest(sample: Sample) -> tuple[int, ...]:
        free = [(name, axis - offset) for name in source.input_names for axis in source.dynamic_axes.get(name, {})]
        return tuple(sorted(sample[name].shape[axis] for name, axis in free if 0 <= axis < sample[name].ndim))

    return max(golden, key=shortest)


def flat(model: Any, names: Sequence[str]) -> Any:
    """Return a module that returns a tuple in the order of `names`, for a model whose result has keys."""
    import torch

    class Flat(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *args: Any) -> Any:
            return torch_contract.tensors_of(self.model(*args), names)

    return Flat().eval()


def _like_arguments(module: Any, items: list[Any]) -> tuple[Any, ...]:
    """Return one item per argument, those of ``*args`` as one tuple, as torch.export expects."""
    kinds = [item.kind for item in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return tuple(items)
    before = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*items[:before], tuple(items[before:]))


def refused(source: Source, module: Any, args: tuple[Any, ...], error: Exception) -> StageError:
    """Return the StageError for a failed export; its stack trace is added to error.log."""
    mine = source.spec.export.exporter
    other = "torchscript" if mine == "dynamo" else "dynamo"
    where = source.blame.record(error)
    if where == shown(source.blame.file):  # the exporter raised after the model ran
        where = _traced_place(source.blame, module, args, error) or place_of(type(source), "build_model")
    fix = f"try the other exporter: write 'export: {{exporter: {other}, opset: {OPSETS[other]}}}' below the model"
    fix += f" ({source.spec.where('export')})"
    fix += f"; what the exporter printed is in {source.log}" if source.log else ""
    return source.blame.fault(f"the {mine} exporter cannot export the model", where, _deepest(error), fix)


def _traced_place(blame: Blame, module: Any, args: tuple[Any, ...], error: Exception) -> str:
    """Return where the user's code calls the operator that TorchScript could not export; empty if unknown."""
    import torch

    operator = re.search(r"operator '(aten::\w+)'", str(error))
    if not operator:
        return ""
    frames: list[tuple[str, str]] = []
    with contextlib.suppress(Exception), captured(None):  # best effort: the error itself is known
        graph = torch.jit.trace(module, args, check_trace=False, strict=False).inlined_graph
        frames = [frame for node in graph.findAllNodes(operator[1]) for frame in _FRAME.findall(node.sourceRange())]
    return next((f"{shown(Path(file))}:{line}" for file, line in frames if blame.is_users(Path(file))), "")


def _deepest(error: BaseException) -> str:
    """Return the innermost reason, which dynamo wraps in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {reason(error)}"
