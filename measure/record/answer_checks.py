"""Which answers are checked, and what checking costs the client.

In      the share to check, the answers.
Out     `Checker.wants` and `Checker.cost`: the share of the client's CPU time that went into checking, with a 95% interval.

Checking runs after an answer's clock has stopped, but in the same process as the load, so what it costs is measured. Where no
share is given, as many answers are checked as `BUDGET` of the client's CPU time allows; a share that is given is kept, and the
verdict says when that cost more than `LIMIT`.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from clients.published import PublishedVersion
from planwright.golden import Arrays, Group

BUDGET, LIMIT, MOST_SHARE = 0.012, 0.02, 0.05
FIRST = 5  # answers of a process that are always checked

cpu_s = time.process_time
Checked = TypeVar("Checked")


@dataclass
class Cost:
    """CPU seconds of the checks: count, sum, sum of squares; and of the whole client."""

    count: int = 0
    total_s: float = 0.0
    squares: float = 0.0
    client_s: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total_s += seconds
        self.squares += seconds * seconds

    def merge(self, other: Cost) -> None:
        self.count += other.count
        self.total_s += other.total_s
        self.squares += other.squares
        self.client_s += other.client_s

    def share(self) -> tuple[float, float, float]:
        """Return (share, low, high): checking over the CPU time of the rest, with its normal 95% interval."""
        rest_s = self.client_s - self.total_s
        if not self.count or rest_s <= 0:
            return 0.0, 0.0, 0.0
        mean = self.total_s / self.count
        spread = math.sqrt(max(self.squares / self.count - mean * mean, 0.0) * self.count)
        low, high = (max(self.total_s + sign * 1.96 * spread, 0.0) / rest_s for sign in (-1, 1))
        return self.total_s / rest_s, low, high


class Checker:
    """One process's choice of answers.

    Args:
        share: Share of answers to check; None for as many as the budget allows, up to `MOST_SHARE`.
    """

    def __init__(self, share: float | None) -> None:
        self._share = MOST_SHARE if share is None else share
        self._free = share is not None
        self._random = random.Random()
        self.begin()

    def begin(self) -> None:
        self.cost = Cost()
        self._tracks: set[object] = set()
        self._began_s = cpu_s()

    def wants(self, *, first: bool, track: object = None) -> bool:
        """Return whether to check an answer.

        The first of a `track`, a model over a transport, always is; the first of each user where the budget allows it.
        """
        if track is not None and track not in self._tracks:
            self._tracks.add(track)
            return True
        if not first and self._random.random() >= self._share:
            return False
        return self._free or self.cost.count < FIRST or self.cost.total_s <= BUDGET * (cpu_s() - self._began_s)

    def run(self, check: Callable[[], Checked]) -> Checked:
        """Run one check and add up what it cost; returns what is wrong."""
        began_s = time.thread_time()
        try:
            return check()
        finally:
            self.cost.add(time.thread_time() - began_s)

    def drain(self) -> Cost:
        """Return the cost since the last call, and begin again at zero."""
        now_s = cpu_s()
        self.cost.client_s, self._began_s = now_s - self._began_s, now_s
        cost, self.cost = self.cost, Cost()
        return cost


class GoldenAnswers:
    """The golden answers of a version that took over while a load goes on, found by the inputs' values.

    A request is prepared with samples of the version that is served at the start. When another one takes over, its answers to the
    same inputs are right although they differ, and swapped or stale ones are still wrong.
    """

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
