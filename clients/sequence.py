"""Where a request stands in a sequence, for models with ``sequence_batching``.

In      an id, and whether a request starts or ends its sequence.
Out     `SequenceStep`, which a request carries.

The server sends all requests of one id to the same instance of the model, in order. Without an id every request gets a new sequence, which
only makes sense where it both starts and ends it. A request of a sequence is one sample, because the server requires that.
"""

from __future__ import annotations

import operator
import secrets
from dataclasses import dataclass, replace
from typing import Any

from planwright.errors import Fault

from .errors import InvalidRequest
from .options import checked_flag, printable

_MAX_ID = 2**63 - 1  # gRPC carries it as an int64
_MAX_ID_BYTES = 128  # of the server's text ids: triton-inference-server/core, src/infer_request.cc


@dataclass(frozen=True)
class SequenceStep:
    """Where in a sequence a request stands; an id of None is a new one for each request."""

    sequence_id: int | str | None
    start: bool
    end: bool

    def with_id(self) -> SequenceStep:
        """Return the same step, with a random id where it has none."""
        return self if self.sequence_id is not None else replace(self, sequence_id=1 + secrets.randbelow(_MAX_ID))


def sequence_step(sequence_id: Any, *, start: Any, end: Any) -> SequenceStep:
    """Return a `SequenceStep`.

    Raises:
        InvalidRequest: The id is invalid, or is missing where the sequence has other requests.
    """
    start, end = checked_flag("start", start), checked_flag("end", end)
    if sequence_id is None:
        if not (start and end):
            fix = "give the same id with every request of the sequence"
            raise InvalidRequest(Fault("a sequence of several requests needs an id", fix=fix))
        return SequenceStep(None, start, end)
    if isinstance(sequence_id, str) and sequence_id:
        if len(sequence_id.encode("utf-8", "replace")) <= _MAX_ID_BYTES and sequence_id.isprintable():
            return SequenceStep(sequence_id, start, end)
    elif not isinstance(sequence_id, (str, bool)) and 0 < (number := _integer(sequence_id)) <= _MAX_ID:
        return SequenceStep(number, start, end)
    fix = f"give a number from 1 to {_MAX_ID}, or text of at most {_MAX_ID_BYTES} bytes"
    raise InvalidRequest(Fault(f"{printable(sequence_id)} is not the id of a sequence", fix=fix))


def _integer(value: Any) -> int:
    """Return an integer, 0 for anything else; arrays of several have an ``__index__`` too, which raises."""
    try:
        return operator.index(value)
    except Exception:
        return 0
