"""Hands arrivals to users at the moment they are due.

In      `Arrival`s, the moment that counts as zero.
Out     `Feed.take`: the time a request was due, for the next free user of its model.

A gevent timer comes half a millisecond late and more, because its loop waits in whole milliseconds. So a thread of the system
sleeps until the next arrival and wakes the loop, which comes within about a tenth. Requests that no user is free for
wait here and are sent as soon as one is: their latency counts from the moment they were due, and how many waited is counted.

At the end nothing more becomes due, and what waits is still handed out for a while: where the server keeps up, the queue is
empty within a moment, so a request is never held against a run only because the run ended.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any

import gevent
from gevent import monkey
from gevent.queue import SimpleQueue

from loadtest._arrivals import Arrival
from loadtest._recorder import HIGHEST_US, LOWEST_US, histogram

_sleep: Any = monkey.get_original("time", "sleep")
_start_thread: Any = monkey.get_original("_thread", "start_new_thread")
_LONGEST_S = 0.05  # so that the thread sees the end of the run

clock = time.perf_counter


class Feed:
    """One process's arrivals.

    Attributes:
        due: Requests that became due while the load went on.
        waited: Those of them for which no user was free.
        late: How late the others went out, in µs.
    """

    def __init__(self, arrivals: Iterator[Arrival], models: Iterable[str], length_s: float = math.inf) -> None:
        self._arrivals, self._length_s = arrivals, length_s
        self._queues: dict[str, Any] = {name: SimpleQueue() for name in models}
        self._idle: Counter[str] = Counter()
        self._ready: deque[tuple[float, str]] = deque()
        self._wake = gevent.get_hub().loop.async_()
        self._zero = self._last = 0.0
        self._deadline = math.inf
        self._exhausted = False
        self._taken = 0
        self.ended = self.begun = False
        self.due = self.waited = 0
        self.late = histogram()

    @property
    def span_s(self) -> float:
        """Seconds from the start to now, or to the end of the profile."""
        return min((self._last or clock()) - self._zero, self._length_s) if self.begun else 0.0

    @property
    def last_moment(self) -> float:
        """The moment at which the profile ends."""
        return self._zero + self._length_s

    @property
    def left(self) -> int:
        """Requests that are due and were not sent."""
        return self.due - self._taken + (0 if self.ended else len(self._ready))

    @property
    def unsent(self) -> int:
        """Those of them that could have been sent: they were still waiting when the time after the end was over."""
        return self.left if clock() >= self._deadline else 0

    @property
    def finished(self) -> bool:
        """True where every arrival was handed out."""
        return self._exhausted and not self.left

    def begin(self, zero: float) -> None:
        """Start; `zero` is a moment of ``time.perf_counter``."""
        self._zero, self.begun = zero, True
        self._wake.start(self._deliver)
        _start_thread(self._run, ())

    def end(self, grace_s: float) -> float:
        """Let nothing become due any more; what waits is handed out for another `grace_s`. Returns the moment of the end.

        Arrivals that the event loop has not seen yet fell due while it was busy with ending the run: the load ended before them.
        """
        if not self.ended:
            self._deadline = clock() + grace_s
            self.ended, self._last = True, min([due for due, _ in self._ready] or [clock()])
            self._wake.stop()
            self._release_users()
        return self._last

    def take(self, model: str) -> float | None:
        """Wait for the next request of a model and return the moment it was due; None at the end."""
        self._idle[model] += 1
        item: tuple[float, bool] | None = self._queues[model].get()
        self._idle[model] -= 1
        if item is None or clock() >= self._deadline:
            self._queues[model].put(None)  # for the next one who waits
            return None
        due, waited = item
        self._taken += 1
        if waited:
            self.waited += 1
        else:
            self.late.record_value(min(max(round((clock() - due) * 1e6), LOWEST_US), HIGHEST_US))
        return due

    def _run(self) -> None:
        """Sleep until each arrival and wake the loop; the system's own thread."""
        for arrival in self._arrivals:
            due = self._zero + arrival.due_s
            while not self.ended and (left_s := due - clock()) > 0:
                _sleep(min(left_s, _LONGEST_S))
            if self.ended:
                return
            self._ready.append((due, arrival.model))
            self._wake.send()
        self._exhausted = True
        self._wake.send()

    def _deliver(self) -> None:
        while self._ready:
            due, model = self._ready.popleft()
            self.due += 1
            queue = self._queues[model]
            queue.put((due, queue.qsize() >= self._idle[model]))
        if self._exhausted:
            self._release_users()

    def _release_users(self) -> None:
        for queue in self._queues.values():
            queue.put(None)
