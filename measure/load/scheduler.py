"""Hand arrivals to users at the moment they are due.

In      `Arrival`s, the moment that counts as zero.
Out     `ArrivalQueue.take`: the next request for a user that is free, and the moment it was due.

A gevent timer is late by half a millisecond and more, because its loop waits in whole milliseconds. So a thread of the system sleeps
until the next arrival and wakes the loop, which takes about a tenth of that. Requests for which no user is free wait here and
are sent as soon as one is: their latency counts from the moment they were due, and those that waited are counted.

At the end nothing more becomes due, and what waits is still handed out for a while: where the server keeps up, the queue is
empty within a moment, so no request fails a run only because the run ended.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import gevent
from gevent import monkey
from gevent.queue import SimpleQueue

from measure.record.recorder import HIGHEST_US, LOWEST_US, histogram
from measure.workload.arrivals import Arrival

_sleep: Any = monkey.get_original("time", "sleep")
_start_thread: Any = monkey.get_original("_thread", "start_new_thread")
_LONGEST_S = 0.05  # so that the thread sees the end of the run

clock = time.perf_counter


class ArrivalQueue:
    """One process's arrivals.

    Attributes:
        due: Requests that became due while the load went on.
        waited: Those of them for which no user was free.
        late: How late the others went out, in µs.
    """

    def __init__(self, arrivals: Iterator[Arrival], models: Iterable[str], length_s: float = math.inf) -> None:
        self._arrivals, self._length_s = arrivals, length_s
        self._waiting: dict[str, deque[float]] = {name: deque() for name in models}
        self._idle: dict[str, dict[str, deque[_Idle]]] = {name: {} for name in self._waiting}
        self._had: Counter[tuple[str, str]] = Counter()
        self._ready: deque[tuple[float, str]] = deque()
        self._wake = gevent.get_hub().loop.async_()
        self._zero = self._last = 0.0
        self._deadline = math.inf
        self._exhausted = self._released = False
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
        """Stop the arrivals; what waits is handed out for another `grace_s`. Returns the moment of the end.

        Arrivals that the event loop has not seen yet fell due while it was busy with ending the run: the load ended before them.
        """
        if not self.ended:
            self._deadline = clock() + grace_s
            self.ended, self._last = True, min([due for due, _ in self._ready] or [clock()])
            self._wake.stop()
            self._release_users()
        return self._last

    def take(self, models: Sequence[str], kind: str = "") -> Arrival | None:
        """Wait for the next request of one of these models; `due_s` is the moment it was due. None at the end.

        Of the idle users of a model, one of the `kind` (a transport) that has had the fewest of its requests comes next: users that
        simply took turns could fall into step with models that do, and leave a model without a transport.
        """
        waiting = [name for name in models if self._waiting[name]]
        if waiting and clock() < self._deadline:
            name = min(waiting, key=lambda each: self._waiting[each][0])
            self.waited += 1
            self._taken += 1
            self._had[name, kind] += 1
            return Arrival(self._waiting[name].popleft(), name)
        arrival = None if self._released else self._wait(models, kind)
        if arrival is not None:
            self._taken += 1
            self.late.record_value(min(max(round((clock() - arrival.due_s) * 1e6), LOWEST_US), HIGHEST_US))
        return arrival

    def _wait(self, models: Sequence[str], kind: str) -> Arrival | None:
        idle = _Idle()
        for name in models:
            self._idle[name].setdefault(kind, deque()).append(idle)
        try:
            arrival: Arrival | None = idle.inbox.get()
            return arrival
        finally:
            idle.give(None)  # a user that is stopped takes nothing any more
            for name in models:
                with suppress(ValueError):
                    self._idle[name][kind].remove(idle)

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
            self._hand_over(Arrival(due, model))
        if self._exhausted:
            self._release_users()

    def _hand_over(self, arrival: Arrival) -> None:
        """Give an arrival to an idle user of its model, or let it wait."""
        kinds = self._idle[arrival.model]
        for kind in sorted(kinds, key=lambda each: self._had[arrival.model, each]):
            while kinds[kind]:
                if kinds[kind].popleft().give(arrival):
                    self._had[arrival.model, kind] += 1
                    return
        self._waiting[arrival.model].append(arrival.due_s)

    def _release_users(self) -> None:
        self._released = True
        for users in [users for kinds in self._idle.values() for users in kinds.values()]:
            while users:
                users.popleft().give(None)


class _Idle:
    """A user that waits for a request of any of its models; it is given one thing, once."""

    def __init__(self) -> None:
        self.inbox: Any = SimpleQueue()
        self._given = False

    def give(self, arrival: Arrival | None) -> bool:
        """Wake the user; False where it was woken before."""
        given, self._given = self._given, True
        if not given:
            self.inbox.put(arrival)
        return not given
