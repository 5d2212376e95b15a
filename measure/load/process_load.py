"""One process's part of a load: the clock, the arrivals, and what the part cost.

In      settings; users that connect, take the next request, and record its result.
Out     `ProcessLoad.part`: what was recorded since the last call, for the report or for the master.

The clock starts when users are connected, and stops when locust begins to stop them. Requests that wait for a connection are then
still sent, for `BACKLOG_S` or as long as the slowest answer took: only a server that does not keep up leaves some that are never sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import gevent

from measure.load.scheduler import ArrivalQueue, clock
from measure.record.answer_checks import Checker
from measure.record.process_stats import LoadRecord
from measure.record.recorder import Recorder
from measure.workload import arrivals
from measure.workload.arrivals import Arrival, Share
from measure.workload.settings import Settings

BACKLOG_S = 1.0  # how long requests that wait for a connection at the end are still sent
CONNECTING_S = 10.0  # an open loop waits so long for its connections, then begins with those that are there
LAG_EVERY_S = 0.05


class ProcessLoad:
    """The part of a local run, of a worker, or of a master, which has no users.

    Attributes:
        queue: Arrivals of an open loop; None in a closed one.
        share: Which part of the arrivals this process takes.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings, self.recorder, self.checker = settings, Recorder(), Checker(settings.test.check)
        self.queue: ArrivalQueue | None = None
        self.share = Share()
        self.reset()

    def reset(self) -> None:
        """Begin to record; the clock starts when users are connected."""
        self._connected = 0
        self._ended = False
        self._used: tuple[float, float] | None = None  # CPU time and moment at the end of the load
        self._stats = LoadRecord()
        self.queue = None
        self._start_clock()

    def _start_clock(self) -> None:
        self.recorder.start(self._settings.test.warmup_s)
        self.checker.begin()
        self._cpu_s, self._reported_at = time.process_time(), clock()

    def make_queue(self, names: list[str]) -> None:
        """Prepare an open loop's requests to these models."""
        rate, seed, trace = self._settings.rate, self._settings.test.seed, self._settings.trace
        if trace:
            self.queue = ArrivalQueue(arrivals.trace(trace, self.share), names, trace[-1].due_s)
        elif rate is not None:
            due = arrivals.poisson(rate, names, self.share, seed)
            if self._settings.test.kind == "constant":
                due = arrivals.constant(rate, names, self.share)
            self.queue = ArrivalQueue(due, names, rate.length_s)

    def connected(self, wanted: int) -> None:
        """Count a user that is ready to send; the first of a closed loop, or the last `wanted` of an open one, starts the clock."""
        self._connected += 1
        if self.queue is None and self._connected == 1:
            self._begin()
        elif self.queue is not None and self._connected >= wanted:
            self._begin_queue()

    def _begin(self) -> None:
        self._start_clock()
        if self._settings.test.length_s:
            self.recorder.end(self.recorder.warm_until + self._settings.test.length_s)

    def _begin_queue(self) -> None:
        if self.queue is not None and not self.queue.begun and not self._ended:
            self._begin()
            self.queue.begin(clock())

    def next_due(self, models: Sequence[str], transport: str) -> Arrival | None:
        """Wait for the next request of an open loop to one of these models; None at the end."""
        if self.queue is None:
            return None
        arrival = self.queue.take(models, transport)
        if self.queue.finished:  # the load lasts until the profile ends, and longer where requests still wait
            self.recorder.end(max(self.queue.last_moment, clock()))
        return arrival

    @property
    def finished(self) -> bool:
        """True where this process has nothing more to send, although the run was not stopped."""
        return self.recorder.over if self.queue is None else self.queue.finished

    def end(self) -> None:
        """The load is over: nothing becomes due any more, and the clocks of throughput and of the client's CPU time stop."""
        self._ended = True
        self._stop_cpu_clock()
        if self.queue is None:
            self.recorder.stop()
        else:
            self.recorder.end(self.queue.end(max(BACKLOG_S, self.recorder.slowest_s)))

    def _stop_cpu_clock(self) -> None:
        self._used = self._used or (time.process_time(), clock())

    def watch(self, finished: Callable[[], None]) -> None:
        """Measure the event loop's lag, begin an open loop that waits too long, and say when a load is over by itself."""
        began = clock()
        while True:
            before = clock()
            gevent.sleep(LAG_EVERY_S)
            self._stats.lag.record_value(max(round((clock() - before - LAG_EVERY_S) * 1e6), 1))
            if self._ended:
                continue
            if self.queue is not None and not self.queue.begun and self._connected and clock() - began > CONNECTING_S:
                self._begin_queue()
            if self.finished:
                self._stop_cpu_clock()
                finished()
                return

    def part(self, *, last: bool) -> dict[str, Any]:
        """Return and drop what was recorded since the last call; with the `last` part go the counts of an open loop."""
        cpu_s, now = self._used or (time.process_time(), clock())
        stats, self._stats = self._stats, LoadRecord()
        stats.cpu_s = max(cpu_s - self._cpu_s, 0.0)  # the clock may have started after a run that was given up
        stats.busiest = stats.cpu_s / max(now - self._reported_at, 1e-9) if now - self._reported_at > 1 else 0.0
        self._cpu_s, self._reported_at = cpu_s, now
        stats.cost = self.checker.drain()
        finished = self.finished
        if last:
            stats.processes = int(self._connected > 0)
            if self.queue is not None:
                stats.due, stats.waited, stats.unsent = self.queue.due, self.queue.waited, self.queue.unsent
                stats.offered_per_s, stats.late = self.queue.due / max(self.queue.span_s, 1e-9), self.queue.late
                self.queue = None
        return {"load": stats.encode(), "window_s": self.recorder.window_s, "finished": finished}
