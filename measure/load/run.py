"""The life of one run: from locust's test_start to report.html.

In      locust's events, settings.
Out     runs/<id>/report.json and report.html, the verdict as the process's exit code.

In a distributed run the workers send their tracks with locust's own reports, and only the master (or a lone process)
looks at the server and writes. The clock of what is measured starts when users are connected, and stops when locust begins to
stop them. Requests that are then under way are waited for, so that slow answers at the end are not lost, and those that wait
for a connection are still sent, for `BACKLOG_S` or as long as the slowest answer took: only a server that does not keep up
leaves some that are never sent.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from measure.load import trim_locust_stats, user_selection
from measure.load.scheduler import Feed, clock
from measure.record.answer_checks import Checker, Cost
from measure.record.process_stats import LoadRecord
from measure.record.recorder import Recorder
from measure.record.server_counters import Counters
from measure.report import build
from measure.report.verdict import LOUD, passed
from measure.workload import arrivals
from measure.workload.arrivals import Arrival, Share
from measure.workload.settings import Settings
from planwright import console
from planwright.errors import EXIT_FAILED, EXIT_INTERRUPTED, PlanwrightError

KEY, STOP, LAST, SHARE = "planwright", "planwright_stop", "planwright_last", "planwright_share"
COLLECT_TIMEOUT_S = 10.0
DRAIN_S = 10.0  # how long requests under way are waited for at the end, where --stop-timeout says nothing
BACKLOG_S = 1.0  # how long requests that wait for a connection at the end are still sent
CONNECTING_S = 10.0  # an open loop waits so long for its connections, then begins with those that are there
LAG_EVERY_S = 0.05


class Run:
    """Collects what one test did; a web page may start several, one after the other."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.recorder = settings, Recorder()
        self.checker = Checker(settings.test.check)
        self.feed: Feed | None = None
        self._share = Share()
        self._counters = Counters(settings)
        self._given_up: PlanwrightError | None = None
        self._watching: list[Any] = []
        self._leaving = False
        self._reset()

    def _reset(self) -> None:
        self._started_s, self._cpu_s, self._reported_at = 0.0, time.process_time(), clock()
        self._given_up = None
        self._peak_users = self._connected = 0
        self._ended = self._stopped = self._sent_last = self._done = False
        self._workers: set[str] = set()
        self._collected: set[str] = set()
        self._used: tuple[float, float] | None = None
        self._finished: set[str] = set()
        self._window_s = 0.0
        self._others, self._own = LoadRecord(), LoadRecord()

    def listen(self, events: Any) -> None:
        """Register with locust."""
        events.test_start.add_listener(self.start)
        events.test_stopping.add_listener(self.stopping)
        events.test_stop.add_listener(self.stop)
        events.report_to_master.add_listener(self._to_master)
        events.worker_report.add_listener(self._from_worker)
        events.spawning_complete.add_listener(self._spawned)
        events.init.add_listener(self._initialise)

    def start(self, environment: Any, **_: Any) -> None:
        """Take the server's counters and begin to record."""
        import gevent

        inspect.stack()  # locust calls it as it stops users; the first call reads source files for 30 ms, in which no answer is seen
        self._reset()
        self.recorder.start(self.settings.test.warmup_s)
        self.checker.begin()
        self._started_s = time.monotonic()
        environment.stop_timeout = environment.stop_timeout or DRAIN_S
        if _is_master(environment):
            for index, client in enumerate(environment.runner.clients.values()):
                self._workers.add(client.id)
                environment.runner.send_message(SHARE, [index, environment.runner.worker_count], client_id=client.id)
        if not _is_worker(environment):
            self._counters.begin()
        if _is_master(environment):
            watch = self._watch_workers
        else:
            self.feed = self._make_feed(user_selection.covered(environment.user_classes, self.settings.weighted))
            watch = self._watch
        self._watching = [
            gevent.spawn(watch, environment.runner),
            gevent.spawn(trim_locust_stats.prune_periodically, environment.runner.stats),
            *([] if _is_worker(environment) else [gevent.spawn(self._counters.follow)]),
        ]

    def connected(self, runner: Any) -> None:
        """A user is ready to send; the first one of a closed loop, or the last of an open one, starts the clock."""
        self._connected += 1
        if self.feed is None and self._connected == 1:
            self._begin()
        elif self.feed is not None and self._connected >= runner.target_user_count:
            self._begin_feed()

    def stopping(self, environment: Any, **_: Any) -> None:
        """The load is over: nothing becomes due any more, and the clocks of throughput and of the client's CPU time stop."""
        self._ended, self._used = True, self._used or (time.process_time(), clock())
        if self.feed is None:
            self.recorder.stop()
        else:
            self.recorder.end(self.feed.end(max(BACKLOG_S, self.recorder.slowest_s)))

    def next_due(self, models: Sequence[str], transport: str) -> Arrival | None:
        """Wait for the next request of an open loop to one of these models; None at the end."""
        if self.feed is None:
            return None
        arrival = self.feed.take(models, transport)
        if self.feed.finished:  # the load lasts until the profile ends, and longer where requests still wait
            self.recorder.end(max(self.feed.last_moment, clock()))
        return arrival

    def stop(self, environment: Any, **_: Any) -> None:
        """Write the report; locust may say more than once that a test has stopped.

        The greenlet that comes here may be killed by a second one that quits meanwhile, so it does not write itself.
        """
        import gevent

        if self._stopped:
            return
        self._stopped = True
        for greenlet in self._watching:
            greenlet.kill()
        if not _is_worker(environment) and self._started_s:
            gevent.spawn(self._finish, environment).get()

    def _finish(self, environment: Any) -> None:
        try:
            self._write(environment)
        finally:
            self._done = True

    def _write(self, environment: Any) -> None:
        if _is_master(environment):
            self._collect(environment.runner)
        duration_s = time.monotonic() - self._started_s
        window_s = self._window_s or self.recorder.window_s
        counted = self._counters.end(window_s + self.settings.test.warmup_s, self.recorder.answers())
        self._others.add(self._part())
        measured = build.Measured(
            self.recorder.tracks, self._chosen(environment), duration_s, window_s,
            self._peak_users or environment.runner.user_count, counted, self._counters.server.identity(),
            self._others.client(automatic=self.settings.test.check is None), self._load(),
            stopped_by=self._given_up.faults[0].what if self._given_up else "",
        )  # fmt: skip
        folder, report = build.write_run(self.settings, measured)
        _tell(folder / ("report.html" if self.settings.page else "report.json"), report)
        if report["verdict"]["status"] == "fail":
            environment.process_exit_code = environment.process_exit_code or EXIT_FAILED

    def _chosen(self, environment: Any) -> list[tuple[str, str]]:
        """Return every model and transport that the run was to cover."""
        names = [name for name, _ in self.settings.models]
        users = [user for user in environment.user_classes if user_selection.transport_of(user)]
        pairs = (
            (name, user_selection.transport_of(user))
            for user in users
            for name in user_selection.models_of(user, names)
        )
        return sorted(set(pairs), key=lambda pair: names.index(pair[0]))

    def give_up(self, environment: Any, error: PlanwrightError) -> None:
        """End the test for a reason that every user would meet again.

        The caller is a user, which waits for nothing here: a user that stops all users would wait for itself.
        """
        import gevent

        if self._given_up is None:
            self._given_up = error
            console.fail(error)
            environment.process_exit_code = error.exit_code
            if environment.runner is not None:
                gevent.spawn(environment.runner.quit)

    def _make_feed(self, names: list[str]) -> Feed | None:
        settings = self.settings
        if not settings.open_loop:
            return None
        if settings.rate is None:
            return Feed(arrivals.trace(settings.trace, self._share), names, settings.trace[-1].due_s)
        length_s = settings.rate.length_s
        if settings.test.kind == "constant":
            return Feed(arrivals.constant(settings.rate, names, self._share), names, length_s)
        return Feed(arrivals.poisson(settings.rate, names, self._share, settings.test.seed), names, length_s)

    def _begin_feed(self) -> None:
        if self.feed is not None and not self.feed.begun and not self._ended:
            self._begin()
            self.feed.begin(clock())

    def _begin(self) -> None:
        """Start the clock; what connecting cost is not the load's."""
        self.recorder.start(self.settings.test.warmup_s)
        if self.settings.test.length_s:
            self.recorder.end(self.recorder.warm_until + self.settings.test.length_s)
        self.checker.begin()
        self._cpu_s, self._reported_at = time.process_time(), clock()

    def _watch(self, runner: Any) -> None:
        """Measure the event loop's lag; begin an open loop that waits too long, and end a load that is over by itself."""
        import gevent

        began = clock()
        while True:
            before = clock()
            gevent.sleep(LAG_EVERY_S)
            self._own.lag.record_value(max(round((clock() - before - LAG_EVERY_S) * 1e6), 1))
            if self._ended:
                continue
            if self.feed is not None and not self.feed.begun and self._connected and clock() - began > CONNECTING_S:
                self._begin_feed()
            if self._finished_alone:
                self._used = self._used or (time.process_time(), clock())
                if type(runner).__name__ == "LocalRunner":
                    gevent.spawn(runner.quit)
                return

    @property
    def _finished_alone(self) -> bool:
        """True where this process has nothing more to send, although the run was not stopped."""
        return self.recorder.over if self.feed is None else self.feed.finished

    def _watch_workers(self, runner: Any) -> None:
        """End the test when the load of every worker is over."""
        import gevent

        while not self._finished or len(self._finished) < runner.worker_count:
            gevent.sleep(LAG_EVERY_S)
        gevent.spawn(runner.quit)

    def _part(self) -> dict[str, Any]:
        """Return and drop what this process has to say of its part of the load."""
        cpu_s, now = self._used or (time.process_time(), clock())
        own, self._own = self._own, LoadRecord()
        own.cpu_s = cpu_s - self._cpu_s
        own.busiest = own.cpu_s / max(now - self._reported_at, 1e-9) if now - self._reported_at > 1 else 0.0
        self._cpu_s, self._reported_at = cpu_s, now
        own.cost = Cost(*self.checker.drain())  # type: ignore[arg-type]
        if self._stopped:
            own.processes = int(self._connected > 0)
            if self.feed is not None:
                own.due, own.waited, own.unsent = self.feed.due, self.feed.waited, self.feed.unsent
                own.offered_per_s, own.late = self.feed.due / max(self.feed.span_s, 1e-9), self.feed.late
                self.feed = None
        return own.encode()

    def _load(self) -> dict[str, Any]:
        settings = self.settings
        window_s = self._window_s or self.recorder.window_s
        span_s = window_s + settings.test.warmup_s
        asked = 0.0
        if settings.rate is not None:
            span_s = min(span_s, settings.rate.length_s)
            asked = settings.rate.total(span_s) / max(span_s, 1e-9)
        asked_for = {
            "wait_s": settings.test.wait_s,
            "profile": settings.test.users or "",
            "weights": dict(settings.models),
        }
        return {
            **self._others.load(
                settings.test.kind, settings.test.rate if settings.rate else "", asked, settings.scenario
            ),
            **asked_for,
        }

    def _initialise(self, environment: Any, **_: Any) -> None:
        """Take workers' last records, and leave on Ctrl-C by locust's own way out for SIGTERM.

        Python's own way would raise inside whichever user happens to run. A terminal sends Ctrl-C to workers too; their exit
        code is not the user's, and locust reports one above 1 as a failure of the worker.
        """
        import gevent

        if _is_master(environment):
            environment.runner.register_message(LAST, lambda msg, **_: self._take_last(msg.node_id, msg.data))
        elif _is_worker(environment):
            environment.runner.register_message(STOP, lambda environment, **_: self._send_last(environment))
            environment.runner.register_message(SHARE, lambda msg, **_: self._take_share(msg.data))

        def interrupt() -> None:
            if not _is_worker(environment):
                environment.process_exit_code = EXIT_INTERRUPTED
            os.kill(os.getpid(), signal.SIGTERM)

        gevent.signal_handler(signal.SIGINT, interrupt)
        environment.events.quitting.add_listener(self._leave)

    def _leave(self, environment: Any, **_: Any) -> None:
        """End a run that still goes on: its last records are sent, or its report is written, before the process ends.

        locust's handler of SIGTERM and its main greenlet both shut down, the main one because the last worker has quit. Only the
        first may: the end of the other would interrupt whatever Python does at its exit.
        """
        import gevent

        deadline_s, waits = time.monotonic() + COLLECT_TIMEOUT_S + 2 * DRAIN_S, self._leaving
        self._leaving = True
        if not waits and self._started_s:
            self._end(environment)
        while time.monotonic() < deadline_s and (waits or self._started_s and not self._done):
            gevent.sleep(LAG_EVERY_S)

    def _end(self, environment: Any) -> None:
        if _is_worker(environment):
            self._send_last(environment)
        elif _is_master(environment):
            environment.runner.stop(send_stop_to_client=False)  # `_collect` stops them
        else:
            environment.runner.stop()

    def _take_share(self, share: list[int]) -> None:
        self._share = Share(*share)

    def _collect(self, runner: Any) -> None:
        """Stop the workers and wait for their last records.

        When locust quits, it fires test_stop before its message reaches the workers, and their own last reports come too late. A
        worker that has stopped is not among locust's clients for a moment, so those that began count; one that died does not.
        """
        import gevent

        runner.send_message(STOP)
        with gevent.Timeout(COLLECT_TIMEOUT_S + DRAIN_S, False):
            while self._workers - self._collected - {client.id for client in runner.clients.missing}:
                gevent.sleep(0.05)

    def _send_last(self, environment: Any) -> None:
        if self._sent_last:
            return
        self._sent_last = True
        environment.runner.stop()
        last: dict[str, Any] = {}
        self._to_master(last)
        environment.runner.send_message(LAST, last[KEY])
        self._done = True

    def _take_last(self, client_id: str, part: dict[str, Any]) -> None:
        self._from_worker(client_id, {KEY: part})
        self._collected.add(client_id)

    def _spawned(self, user_count: int, **_: Any) -> None:
        self._peak_users = max(self._peak_users, user_count)

    def _to_master(self, data: dict[str, Any], **_: Any) -> None:
        finished = self._finished_alone
        data[KEY] = {
            "tracks": self.recorder.drain(), "load": self._part(), "window_s": self.recorder.window_s, "finished": finished,
        }  # fmt: skip

    def _from_worker(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        part = data.get(KEY)
        if part:
            self._finished |= {client_id} if part["finished"] else set()
            self.recorder.merge(part["tracks"])
            self._others.add(part["load"])
            self._window_s = max(self._window_s, part["window_s"])


def _is_worker(environment: Any) -> bool:
    return type(environment.runner).__name__ == "WorkerRunner"


def _is_master(environment: Any) -> bool:
    return type(environment.runner).__name__ == "MasterRunner"


def _tell(file: Any, report: dict[str, Any]) -> None:
    sys.stdout.flush()
    for row in report["models"]:
        latency = row["latency_us"]
        console.say(f"{row['model']:<16} {row['protocol']}  {row['throughput_per_s']:.0f} infer/sec  "
                    f"p50 {latency['p50'] / 1000:.2f} ms  p99 {latency['p99'] / 1000:.2f} ms  "
                    f"{row['failures']} failed, {row['wrong']} wrong of {row['checked']} checked")  # fmt: skip
    load = report["load"]
    if load["arrivals"] != "closed":
        console.say(f"{load['arrivals']} arrivals, {load['offered_per_s']:.1f} requests/s: {load['due']} due, {load['waited']} waited for "
                    f"a connection, {load['unsent']} never sent; sends were {load['late_us']['p50'] / 1000:.2f} ms late (p50)")  # fmt: skip
    verdict = report["verdict"]
    if report["server_note"]:
        console.say(report["server_note"])
    for reason in verdict["reasons"]:
        if reason.startswith(LOUD):
            console.say(f"\n{'!' * 72}\n!!!  {LOUD}\n{'!' * 72}\n")
            break
    shown = verdict["reasons"] or ([passed(report)] if verdict["status"] == "pass" else [])
    console.say(f"verdict: {verdict['status']}" + "".join(f"\n  {reason}" for reason in shown))
    console.say(f"report: {file}")
