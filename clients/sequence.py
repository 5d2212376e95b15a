"""Sequences: requests that belong together, for models with ``sequence_batching``.

In      an id, and whether a request starts or ends its sequence.
Out     `Step`, which a request carries, and `Sequence` / `AsyncSequence`, which send requests of one.

The server sends all requests of one id to the same instance of the model, in order. Without an id every request is a sequence of its own, which
only makes sense where it both starts and ends it. A request of a sequence is one sample, because the server requires that.
"""

from __future__ import annotations

import operator
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from planwright.errors import Fault

from .arrays import Arrays
from .errors import InvalidRequest
from .options import checked_flag, shown

if TYPE_CHECKING:
    from .model import PreparedRequest, TritonModel
    from .model_async import AsyncPreparedRequest, AsyncTritonModel

_LARGEST_ID = 2**63 - 1  # gRPC carries it as an int64
_LONGEST_ID = 128  # of the server's text ids, in bytes: triton-inference-server/core, src/infer_request.cc


@dataclass(frozen=True)
class Step:
    """Where in a sequence a request stands; an id of None is a new one for each request."""

    sequence_id: int | str | None
    start: bool
    end: bool

    def numbered(self) -> Step:
        """Return the same with an id."""
        return self if self.sequence_id is not None else replace(self, sequence_id=1 + secrets.randbelow(_LARGEST_ID))


def step(sequence_id: Any, *, start: Any, end: Any) -> Step:
    """Return a `Step`.

    Raises:
        InvalidRequest: The id is not one, or is missing where the sequence has other requests.
    """
    start, end = checked_flag("start", start), checked_flag("end", end)
    if sequence_id is None:
        if not (start and end):
            fix = "give the same id with every request of the sequence"
            raise InvalidRequest(Fault("a sequence of several requests needs an id", fix=fix))
        return Step(None, start, end)
    if isinstance(sequence_id, str) and sequence_id:
        if len(sequence_id.encode("utf-8", "replace")) <= _LONGEST_ID and sequence_id.isprintable():
            return Step(sequence_id, start, end)
    elif not isinstance(sequence_id, (str, bool)) and 0 < (number := _whole(sequence_id)) <= _LARGEST_ID:
        return Step(number, start, end)
    fix = f"give a number from 1 to {_LARGEST_ID}, or text of at most {_LONGEST_ID} bytes"
    raise InvalidRequest(Fault(f"{shown(sequence_id)} is not the id of a sequence", fix=fix))


def _whole(value: Any) -> int:
    """Return a whole number, 0 for what is none; arrays of several have an ``__index__`` too, which raises."""
    try:
        return operator.index(value)
    except Exception:
        return 0


class Sequence:
    """Sends requests that carry a `Step`; the methods are those of `TritonModel`."""

    def __init__(self, model: TritonModel, at: Step) -> None:
        self._model, self._step = model, at

    def infer_sample(self, /, *args: Any, **inputs: Any) -> Arrays:
        """Answer one sample."""
        return self._model.infer_sample_at(self._step, args, inputs)

    def infer_batch(self, /, *args: Any, **inputs: Any) -> Arrays:
        """Answer a batch of one, or whole tensors of a model without a batch axis."""
        return self._model.infer_batch_at(self._step, args, inputs)

    def prepare(self, /, *args: Any, **inputs: Any) -> PreparedRequest:
        """Build a request once, to be sent many times with the same id."""
        return self._model.prepare_at(self._step, args, inputs)


class AsyncSequence:
    """Sends requests that carry a `Step`; the methods are those of `AsyncTritonModel`."""

    def __init__(self, model: AsyncTritonModel, at: Step) -> None:
        self._model, self._step = model, at

    async def infer_sample(self, /, *args: Any, **inputs: Any) -> Arrays:
        """Answer one sample."""
        return await self._model.infer_sample_at(self._step, args, inputs)

    async def infer_batch(self, /, *args: Any, **inputs: Any) -> Arrays:
        """Answer a batch of one, or whole tensors of a model without a batch axis."""
        return await self._model.infer_batch_at(self._step, args, inputs)

    async def prepare(self, /, *args: Any, **inputs: Any) -> AsyncPreparedRequest:
        """Build a request once, to be sent many times with the same id."""
        return await self._model.prepare_at(self._step, args, inputs)
