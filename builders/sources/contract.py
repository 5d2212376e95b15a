"""Check a zoo file when it is loaded and whenever one of its functions returns.

In      the module of a zoo file, the source made from it.
Out     the same source, whose functions raise only a `StageError` with the user's file and line.

The functions of the instance are wrapped here, once, so that callers get checked values.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from builders.sources import samples as samples_of
from builders.sources.samples import Samples
from builders.sources.user_code import Blame, place_of, shown
from planwright.errors import StageError
from planwright.tensors import datatype_from_numpy

STAGE = {"reference": "torch"}  # of functions whose errors are not the export's


def model_class(module: ModuleType, base: type, blame: Blame) -> type[Any]:
    """Return the class ``Model`` of a zoo file; raises StageError if there is none, or it is not a complete `Source`."""
    found = getattr(module, "Model", None)
    here = [item for item in vars(module).values() if inspect.isclass(item) and item.__module__ == module.__name__]
    if found is None:
        names = [item.__name__ for item in here]
        fix = f"rename {names[0]} to Model" if len(here) == 1 else "write 'class Model(TorchSource):'"
        where = place_of(here[0], "") if len(here) == 1 else shown(blame.file)
        raise blame.fault("there is no class 'Model'", where, f"it has {', '.join(names) or 'no class'}", fix)
    if not inspect.isclass(found) or not issubclass(found, base):
        where = place_of(found, "") if inspect.isclass(found) else shown(blame.file)
        fix = "write 'class Model(TorchSource):', from builders.sources.pytorch import TorchSource"
        why = "build_model() of a TorchSource returns the torch.nn.Module"
        raise blame.fault("Model is not a subclass of Source", where, why, fix)
    lacks = sorted(getattr(found, "__abstractmethods__", ()))
    if lacks:
        fix = f"write 'def {lacks[0]}(self):' in it; see docs/add-a-model.md"
        raise blame.fault(f"Model lacks {', '.join(f'{name}()' for name in lacks)}", place_of(found, ""), fix=fix)
    return found


def guarded(source: Any, blame: Blame) -> Any:
    """Wrap the functions of `source`; `samples` is called once and cached."""
    checks: dict[str, Callable[[Any, Blame, Any], Any]] = {
        "samples": _samples, "reference": _answers, "files": _pass, "warnings": _pass, "labels": _labels, "score": _pass, "write_onnx": _pass,
    }  # fmt: skip
    for name, check in checks.items():
        call = _wrapped(source, name, getattr(source, name), check, blame)
        setattr(source, name, functools.cache(call) if name == "samples" else call)
    return source


def _wrapped(source: Any, name: str, function: Callable[..., Any], check: Any, blame: Blame) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with blame.during(f"{name}()", STAGE.get(name, "export")):
            return check(source, blame, function(*args, **kwargs))

    return call


def _pass(source: Any, blame: Blame, found: Any) -> Any:
    return found


def _samples(source: Any, blame: Blame, found: Any) -> Samples:
    where = place_of(type(source), "samples")
    usable, faults = samples_of.checked(found, source.input_names, where, blame.check)
    if usable is None:
        raise StageError("export", *faults)
    return usable


def _answers(source: Any, blame: Blame, found: Any) -> dict[str, Any]:
    """Refuse anything but named arrays of types that Triton supports."""
    where = place_of(type(source), "reference")
    if not isinstance(found, Mapping) or not found:
        what = f"reference() returns {type(found).__name__}, not a dict of arrays"
        raise blame.fault(what, where, "", 'return {"output": array}', stage="torch")
    arrays = {str(name): np.asarray(value) for name, value in found.items()}
    for name, array in arrays.items():
        try:
            datatype_from_numpy(array.dtype)
        except KeyError:
            why = "Triton has no such type"
            raise blame.fault(f"output '{name}' is {array.dtype}", where, why, "cast it", stage="torch") from None
    return arrays


def _labels(source: Any, blame: Blame, found: Any) -> Any:
    where, fix = place_of(type(source), "labels"), 'return {"scores": ["cat", "dog"]}'
    outputs = source.output_names
    if isinstance(found, Mapping) and outputs and not set(found) <= set(outputs):
        what = f"labels() names '{next(name for name in found if name not in outputs)}', which is not an output"
        raise blame.fault(what, where, f"the outputs are {', '.join(outputs)}", fix)
    if not isinstance(found, Mapping) or any(isinstance(names, str) for names in found.values()):
        raise blame.fault("labels() does not return lists of names by output", where, fix=fix)
    return found
