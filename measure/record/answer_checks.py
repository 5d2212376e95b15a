"""Which answers are checked, and what checking costs the client.

In      the share that is wished for, the answers.
Out     `Checker.wants` and `Checker.cost`: the share of the client's CPU time that went into checking, with a 95% interval.

Checking runs after an answer's clock has stopped, but in the same process as the load, so what it costs is measured. Where no
share is given, so many answers are checked as stay within `BUDGET` of the client's CPU time; a share that is given is
kept, and the verdict says when it cost more than `LIMIT`.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

BUDGET, LIMIT, WISH = 0.012, 0.02, 0.05
FIRST = 5  # answers of a process that are checked before their cost is held against the budget

cpu_s = time.process_time


@dataclass
class Cost:
    """CPU seconds of the checks: count, sum, sum of squares; and of the whole client."""

    count: int = 0
    total_s: float = 0.0
    squares: float = 0.0
    client_s: float = 0.0

    def add(self, seconds: float) -> None:
        """Note one check."""
        self.count += 1
        self.total_s += seconds
        self.squares += seconds * seconds

    def merge(self, other: Cost) -> None:
        """Add what another process noted."""
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
        share: Share of answers to check; None for as many as the budget allows, up to `WISH`.
    """

    def __init__(self, share: float | None) -> None:
        self._share = WISH if share is None else share
        self._free = share is not None
        self._random = random.Random()
        self.begin()

    def begin(self) -> None:
        """Begin a run."""
        self.cost = Cost()
        self._tracks: set[object] = set()
        self._began_s = cpu_s()

    def wants(self, *, first: bool, track: object = None) -> bool:
        """Say whether to check an answer.

        The first of a `track`, a model over a transport, always is; the first one of each user where the budget has room.
        """
        if track is not None and track not in self._tracks:
            self._tracks.add(track)
            return True
        if not first and self._random.random() >= self._share:
            return False
        return self._free or self.cost.count < FIRST or self.cost.total_s <= BUDGET * (cpu_s() - self._began_s)

    def run(self, check: Callable[[], Exception | None]) -> Exception | None:
        """Run one check and note what it cost; returns what is wrong."""
        began_s = time.thread_time()
        try:
            return check()
        finally:
            self.cost.add(time.thread_time() - began_s)

    def drain(self) -> list[float]:
        """Return and forget the cost since the last call, as numbers."""
        now_s = cpu_s()
        self.cost.client_s, self._began_s = now_s - self._began_s, now_s
        cost, self.cost = self.cost, Cost()
        return [cost.count, cost.total_s, cost.squares, cost.client_s]
