"""What a PyTorch model returns, as named arrays.

In      a tensor, a tuple or list of tensors, a dict, a dataclass, a namedtuple or a transformers ModelOutput.
Out     the tensors in the order of `output_names`: by key where the result has keys, by position where it has not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from planwright.errors import Fault


class WrongOutputsError(Exception):
    """What the model returned does not fit `output_names`; carries the fault without a place."""

    def __init__(self, what: str, why: str, fix: str) -> None:
        self.fault = Fault(what, "", why, fix)
        super().__init__(what)


def tensors(found: Any, names: Sequence[str]) -> tuple[Any, ...]:
    """Return the tensors of `found` in the order of `names`.

    Raises:
        WrongOutputsError: A key is missing, the count is another, or an item is not a tensor.
    """
    keyed = by_key(found, names)
    if keyed is not None:
        picked = [_keyed(keyed, name) for name in names]
    else:
        picked = list(found) if isinstance(found, tuple | list) else [found]
        if len(picked) != len(names):
            what = f"the model returns {_many(len(picked))}, output_names has {len(names)}"
            raise WrongOutputsError(what, f"output_names is {tuple(names)}", "name every output, in the model's order")
    for name, item in zip(names, picked, strict=True):
        _require_tensor(name, item)
    return tuple(picked)


def by_key(found: Any, names: Sequence[str]) -> Mapping[str, Any] | None:
    """Return the items of a result that has keys; None where it is taken by position."""
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
            why = "numpy and most clients have no such type"
            raise WrongOutputsError(f"output '{name}' is bfloat16", why, "end the model with .float()")
        return
    if isinstance(item, tuple | list | Mapping):
        what = f"output '{name}' is a {type(item).__name__} of {len(item)}, not a tensor"
        raise WrongOutputsError(what, "a served model has a flat list of outputs", "return each tensor by itself")
    kind = "nothing (None)" if item is None else f"of type {type(item).__name__}"
    raise WrongOutputsError(f"output '{name}' is {kind}, not a tensor", "", "return a tensor, or leave the output out")


def _many(count: int) -> str:
    return f"{count} output{'' if count == 1 else 's'}"
