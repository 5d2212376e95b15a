"""Checks of a PyTorch source: its names, its module, its axes and what the module returns.

In      the source, its module, its samples, the module's result: a tensor, a tuple or list of tensors, a dict, a dataclass, a namedtuple
        or a transformers ModelOutput.
Out     tensors in the order of `output_names`, by key if the result has keys, else by position; or a `StageError` with the line of the
        zoo file that is wrong.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from builders.error_log import reason
from builders.sources.base import Source
from builders.sources.samples import Sample, Samples
from builders.sources.user_code import place_of, shown
from planwright.console import many
from planwright.errors import Fault, StageError
from planwright.golden import Arrays


def check_names(source: Source) -> None:
    """Refuse names that are missing, repeated, or one string instead of a tuple."""
    for attribute in ("input_names", "output_names"):
        names: Any = getattr(source, attribute)
        if isinstance(names, str) or not names or len(set(names)) != len(names):
            why = "one string is not a tuple" if isinstance(names, str) else ""
            fix = f"write {attribute} = ({names!r},)" if why else f"name each one once, as in {attribute} = ('x',)"
            raise _broken(source, f"{attribute} is {names!r}", attribute, why, fix)
    twice = [name for name in source.output_names if name in source.input_names]
    if twice:
        what, why = f"'{twice[0]}' is an input and an output", "tensor names are unique in a graph"
        raise _broken(source, what, "output_names", why, f"rename the output to {twice[0]}_out")
    for name, axes in source.dynamic_axes.items():
        named = isinstance(axes, Mapping) and all(type(axis) is int and isinstance(axes[axis], str) for axis in axes)
        if not named:
            what, fix = f"dynamic_axes of '{name}' is {axes!r}", f"write dynamic_axes = {{'{name}': {{1: 'length'}}}}"
            raise _broken(source, what, "dynamic_axes", "it maps axis: name", fix)
    unknown = [name for name in source.dynamic_axes if name not in (*source.input_names, *source.output_names)]
    if unknown:
        known = ", ".join((*source.input_names, *source.output_names))
        what = f"dynamic_axes names '{unknown[0]}', which the model does not have"
        raise _broken(source, what, "dynamic_axes", "", f"known: {known}")


def check_module(source: Source, built: Any) -> None:
    """Refuse anything but a module whose forward takes the inputs in order."""
    import torch

    if not isinstance(built, torch.nn.Module):
        kind = "nothing" if built is None else f"a {type(built).__name__}"
        why = "the function ends without 'return'" if built is None else ""
        what = f"build_model() returns {kind}, not a torch.nn.Module"
        raise _broken(source, what, "build_model", why, "return the module")
    try:
        signature = inspect.signature(built.forward)
    except (TypeError, ValueError):  # TorchScript modules have none
        return
    try:
        signature.bind(*source.input_names)
    except TypeError as error:
        what = f"forward() of {type(built).__name__} does not take {len(source.input_names)} inputs"
        fix = f"name its arguments in order; they are {', '.join(signature.parameters)}"
        raise _broken(source, what, "input_names", f"{reason(error)}; {_listed(source)}", fix) from None
    for name, taken in zip(source.input_names, signature.parameters, strict=False):
        if name != taken and name in signature.parameters:
            what = f"input '{name}' would be forward()'s argument '{taken}'"
            fix = f"name the arguments in order; they are {', '.join(signature.parameters)}"
            raise _broken(source, what, "input_names", f"inputs are passed by position; {_listed(source)}", fix)


def tensors(source: Source, inputs: Arrays) -> tuple[Any, ...]:
    """Return the inputs as tensors in the order of the module's arguments."""
    import torch

    arrays = [np.require(inputs[name], requirements=["C", "W"]) for name in source.input_names]
    return tuple(torch.from_numpy(array) for array in arrays)


def named(source: Source, answers: Any) -> tuple[Any, ...]:
    """Return the module's result as tensors in the order of `output_names`."""
    try:
        return tensors_of(answers, source.output_names)
    except WrongOutputsError as error:
        fault = error.fault
        raise _broken(source, fault.what, "output_names", fault.why, fault.fix, stage="torch") from None


def refused(source: Source, model: Any, inputs: Arrays, error: Exception) -> StageError:
    """Return the StageError for a module that raised on a sample; its stack trace is added to error.log."""
    shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in inputs.items())
    fix, where = _advice(source, model, inputs, error)
    return source.blame.error(f"the model, given {shapes},", error, stage="torch", fix=fix, where=where)


def _advice(source: Source, model: Any, inputs: Arrays, error: Exception) -> tuple[str, str]:
    """Return a fix and its place, both empty if the line that raised is enough."""
    if any(str(p.dtype) == "torch.bfloat16" for p in model.parameters()):
        fix = "numpy has no bfloat16, so inputs cannot have it: end build_model() with .float()"
        return fix, place_of(type(source), "build_model")
    fixes = other_types(model, inputs)
    if not fixes and source.blame.place(error) == shown(source.blame.file):  # raised in a library's module
        fixes = ["return the types and shapes that the model takes from samples(), or correct build_model()"]
    return (fixes[0], place_of(type(source), "samples")) if fixes else ("", "")


def other_types(model: Any, inputs: Sample) -> list[str]:
    """Return one sentence per input whose float type is not that of the weights."""
    dtypes = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()}
    types = sorted(dtypes - {"bfloat16"})  # numpy has no such type
    return [
        f"input '{name}' is {array.dtype}, the weights are {types[0]}: add .astype(np.{types[0]}) in samples()"
        for name, array in inputs.items()
        if types and array.dtype.kind == "f" and array.dtype.name not in types
    ]


def check_axes(source: Source, samples: Samples) -> None:
    """Refuse samples with varying axes that `dynamic_axes` does not name: the export would fix them."""
    parts = [*samples.golden, *samples.test]
    _require_axes(source, parts[0])
    free = {name: dict(axes) for name, axes in source.dynamic_axes.items()}
    missing = list(_varying(source, parts))
    if not missing:
        return
    words: dict[tuple[int, ...], str] = {}
    for name, axis, sizes in missing:
        word = words.setdefault(sizes, "length" if not words else f"length_{len(words) + 1}")
        free.setdefault(name, {})[axis] = word
    first, axis, sizes = missing[0]
    what = f"axis {axis} of input '{first}' varies, but dynamic_axes does not name it"
    why = f"samples have {', '.join(map(str, sorted(set(sizes))))} there, and the export would fix it at one of them"
    raise _broken(source, what, "dynamic_axes", why, f"write dynamic_axes = {free}")


def _require_axes(source: Source, sample: Sample) -> None:
    for name, array in sample.items():
        rank = array.ndim + (1 if source.batched else 0)
        beyond = [axis for axis in source.dynamic_axes.get(name, {}) if not 0 <= axis < rank]
        if beyond:
            what = f"dynamic_axes names axis {beyond[0]} of '{name}', which has {rank} axes"
            why = "axis 0 is the batch" if source.batched else ""
            raise _broken(source, what, "dynamic_axes", why, f"name one of axes 0 to {rank - 1}")


def _varying(source: Source, samples: Iterable[Sample]) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """Yield (input, axis of the tensor, its sizes in all samples) for axes that vary and are not declared."""
    rows, offset = list(samples), 1 if source.batched else 0
    for name in source.input_names:
        for axis in range(rows[0][name].ndim):
            sizes = tuple(sample[name].shape[axis] for sample in rows)
            if len(set(sizes)) > 1 and axis + offset not in source.dynamic_axes.get(name, {}):
                yield name, axis + offset, sizes


def _listed(source: Source) -> str:
    return f"input_names is {tuple(source.input_names)}"


def _broken(source: Source, what: str, at: str, why: str, fix: str, *, stage: str = "export") -> StageError:
    return source.blame.fault(what, place_of(type(source), at), why, fix, stage=stage)


class WrongOutputsError(Exception):
    """The model's result does not fit `output_names`; carries the fault without a place."""

    def __init__(self, what: str, why: str, fix: str) -> None:
        self.fault = Fault(what, "", why, fix)
        super().__init__(what)


def tensors_of(found: Any, names: Sequence[str]) -> tuple[Any, ...]:
    """Return the tensors of `found` in the order of `names`.

    Raises:
        WrongOutputsError: A key is missing, the count differs, or an item is not a tensor.
    """
    keyed = by_key(found, names)
    if keyed is not None:
        picked = [_keyed(keyed, name) for name in names]
    else:
        picked = list(found) if isinstance(found, tuple | list) else [found]
        if len(picked) != len(names):
            what = f"the model returns {many(len(picked), 'output')}, output_names has {len(names)}"
            raise WrongOutputsError(what, f"output_names is {tuple(names)}", "name every output, in the model's order")
    for name, item in zip(names, picked, strict=True):
        _require_tensor(name, item)
    return tuple(picked)


def by_key(found: Any, names: Sequence[str]) -> Mapping[str, Any] | None:
    """Return the items of a result with keys; None if it is read by position."""
    if isinstance(found, Mapping):
        return found
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        return {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    fields = getattr(found, "_fields", ())
    return dict(zip(fields, found, strict=True)) if set(names) <= set(fields) and fields else None


def _keyed(keyed: Mapping[str, Any], name: str) -> Any:
    if keyed.get(name) is None:
        there = [str(key) for key, value in keyed.items() if value is not None]
        fix = f"set output_names to the keys to serve, such as ({there[0]!r},)" if there else "return tensors"
        raise WrongOutputsError(f"the model returns no '{name}'", f"it returns {', '.join(there) or 'nothing'}", fix)
    return keyed[name]


def _require_tensor(name: str, item: Any) -> None:
    import torch

    if isinstance(item, torch.Tensor):
        if item.dtype == torch.bfloat16:
            why = "numpy and most clients lack that type"
            raise WrongOutputsError(f"output '{name}' is bfloat16", why, "end the model with .float()")
        return
    if isinstance(item, tuple | list | Mapping):
        what = f"output '{name}' is a {type(item).__name__} of {len(item)}, not a tensor"
        raise WrongOutputsError(what, "a served model has a flat list of outputs", "return each tensor separately")
    kind = "nothing (None)" if item is None else f"of type {type(item).__name__}"
    raise WrongOutputsError(f"output '{name}' is {kind}, not a tensor", "", "return a tensor, or remove the output")
