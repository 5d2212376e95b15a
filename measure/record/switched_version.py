"""The golden answers of a version that took over while a load goes on.

In      a published version, the inputs of a request.
Out     `Answers.to`: what that version should answer to them.

A request is prepared with samples of the version that is served at the start. When another one takes over, its answers to the
same inputs are right although they differ, and swapped or stale ones are still wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from clients.published import PublishedVersion
from planwright.golden import Arrays, Group


class Answers:
    """All golden answers of one version, by the inputs' values."""

    def __init__(self, version: PublishedVersion) -> None:
        self.version = version
        self._samples = {_key(sample.inputs, 0): sample.outputs for sample in version.golden().samples()}

    def to(self, inputs: Arrays) -> Group | None:
        """Return a batch with its right answers; None where this version has none for some of its samples."""
        rows = len(next(iter(inputs.values())))
        outputs = [self._samples.get(_key(inputs, row)) for row in range(rows)]
        known = [found for found in outputs if found is not None]
        if len(known) < rows or len({tuple(a.shape for a in found.values()) for found in known}) > 1:
            return None
        return Group(inputs, {name: np.concatenate([found[name] for found in known]) for name in known[0]})


def _key(inputs: Arrays, row: int) -> tuple[Any, ...]:
    return tuple((name, array.shape[1:], _bytes(array[row, ...])) for name, array in sorted(inputs.items()))


def _bytes(array: Any) -> bytes:
    return repr(array.tolist()).encode() if array.dtype.kind == "O" else bytes(array.tobytes())
