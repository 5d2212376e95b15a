"""The life of one run: from locust's test_start to report.html.

In      locust's events, settings.
Out     runs/<id>/report.json and report.html, the verdict as the process's exit code.

Only the master of a distributed run, or a lone process, reads the server's counters and writes. Requests under way at the end are
waited for, so that slow answers are not lost.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import gevent

from measure.load import user_selection
from measure.load.process_load import LAG_EVERY_S, ProcessLoad
from measure.load.workers import Worker, Workers, is_master, is_worker
from measure.record.server_statistics import Counters
from measure.report import build
from measure.report.schema import RunReport
from measure.report.verdict import LOUD, passed
from measure.workload.settings import Settings
from planwright import console
from planwright.errors import EXIT_FAILED, EXIT_INTERRUPTED, PlanwrightError

COLLECT_TIMEOUT_S = 10.0
DRAIN_S = 10.0  # how long requests under way are waited for at the end, unless --stop-timeout is given
PRUNE_EVERY_S, KEPT_S = 30, 60


class Run:
    """What one test did; a web page may start several, one after the other.

    Attributes:
        load: This process's part.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.load = settings, ProcessLoad(settings)
        self.recorder, self.checker = self.load.recorder, self.load.checker
        self._workers, self._worker = Workers(self.recorder), Worker(self.load, lambda: self._stopped)
        self._counters = Counters(settings)
        self._greenlets: list[Any] = []
        self._leaving = False
        self._reset()

    def _reset(self) -> None:
        self._started_s, self._peak_users = 0.0, 0
        self._given_up: PlanwrightError | None = None
        self._stopped = self._written = False
        for part in (self.load, self._worker, self._workers):
            part.reset()

    def listen(self, events: Any) -> None:
        events.test_start.add_listener(self.start)
        events.test_stopping.add_listener(lambda **_: self.load.end())
        events.test_stop.add_listener(self.stop)
        events.report_to_master.add_listener(self._worker.report)
        events.worker_report.add_listener(self._workers.take)
        events.spawning_complete.add_listener(self._spawned)
        events.init.add_listener(self._initialise)

    def start(self, environment: Any, **_: Any) -> None:
        inspect.stack()  # locust calls it as it stops users; the first call reads source files for 30 ms, in which no answer is seen
        self._reset()
        self._started_s = time.monotonic()
        environment.stop_timeout = environment.stop_timeout or DRAIN_S
        runner = environment.runner
        if is_master(environment):
            self._workers.begin(runner)
        if not is_worker(environment):
            self._counters.begin()
        if is_master(environment):
            watch = gevent.spawn(self._workers.watch, runner)
        else:
            self.load.make_queue(user_selection.covered(environment.user_classes, self.settings.weighted))
            watch = gevent.spawn(self.load.watch, lambda: self._finished(environment))
        self._greenlets = [watch, gevent.spawn(prune_periodically, runner.stats)]
        if not is_worker(environment):
            self._greenlets.append(gevent.spawn(self._counters.follow))

    def _finished(self, environment: Any) -> None:
        """End a local run whose load is over; a worker's ends with the last worker's."""
        if not is_worker(environment):
            gevent.spawn(environment.runner.quit)

    def connected(self, runner: Any) -> None:
        self.load.connected(runner.target_user_count)

    def give_up(self, environment: Any, error: PlanwrightError) -> None:
        """End the test for a reason that every user would meet again.

        The caller is a user, which does not wait here: a user that stops all users would wait for itself.
        """
        if self._given_up is None:
            self._given_up = error
            if is_worker(environment):
                self._worker.give_up(environment, error)
                return
            console.fail(error)
            environment.process_exit_code = error.exit_code
            if environment.runner is not None:
                gevent.spawn(environment.runner.quit)

    def stop(self, environment: Any, **_: Any) -> None:
        """Write the report; locust may report more than once that a test has stopped.

        The greenlet that comes here may be killed by a second one that quits meanwhile, so it does not write itself.
        """
        if self._stopped:
            return
        self._stopped = True
        for greenlet in self._greenlets:
            greenlet.kill()
        if not is_worker(environment) and self._started_s:
            gevent.spawn(self._finish, environment).get()

    def _finish(self, environment: Any) -> None:
        try:
            self._write(environment)
        finally:
            self._written = True

    def _write(self, environment: Any) -> None:
        if is_master(environment):
            self._workers.collect(environment.runner, COLLECT_TIMEOUT_S + DRAIN_S)
        duration_s = time.monotonic() - self._started_s
        window_s = self._workers.window_s or self.recorder.window_s
        counted = self._counters.end(window_s + self.settings.test.warmup_s, self.recorder.answers())
        stats = self._workers.stats
        stats.add(self.load.part(last=True)["load"])
        collected = build.Collected(
            tracks=self.recorder.tracks,
            chosen=user_selection.pairs(environment.user_classes, [name for name, _ in self.settings.models]),
            duration_s=duration_s,
            window_s=window_s,
            users=self._peak_users or environment.runner.user_count,
            processes=stats,
            counted=counted,
            identity=self._counters.server.identity(),
            stopped_by=self._given_up.faults[0].what if self._given_up else "",
        )
        folder, report = build.write_run(self.settings, collected)
        _show(folder / ("report.html" if self.settings.page else "report.json"), report)
        if report.verdict.status == "fail":
            environment.process_exit_code = environment.process_exit_code or EXIT_FAILED

    def _spawned(self, user_count: int, **_: Any) -> None:
        self._peak_users = max(self._peak_users, user_count)

    def _initialise(self, environment: Any, **_: Any) -> None:
        """Listen to workers or to the master, and leave on Ctrl-C by locust's own way out for SIGTERM.

        Python's own way would raise inside whichever user happens to run. A terminal sends Ctrl-C to workers too; their exit
        code is not the user's, and locust reports one above 1 as a failure of the worker.
        """
        if is_master(environment):
            self._workers.listen(environment.runner, lambda error: self.give_up(environment, error))
        elif is_worker(environment):
            self._worker.listen(environment)

        def interrupt() -> None:
            if not is_worker(environment):
                environment.process_exit_code = EXIT_INTERRUPTED
            os.kill(os.getpid(), signal.SIGTERM)

        gevent.signal_handler(signal.SIGINT, interrupt)
        environment.events.quitting.add_listener(self._leave)

    def _leave(self, environment: Any, **_: Any) -> None:
        """End a run that still goes on: its last records are sent, or its report is written, before the process ends.

        locust's handler of SIGTERM and its main greenlet both shut down, the main one because the last worker has quit. Only the
        first may: the end of the other would interrupt whatever Python does at its exit.
        """
        deadline_s, waits = time.monotonic() + COLLECT_TIMEOUT_S + 2 * DRAIN_S, self._leaving
        self._leaving = True
        if not waits and self._started_s:
            self._end(environment)
        while time.monotonic() < deadline_s and (waits or self._started_s and not self._done(environment)):
            gevent.sleep(LAG_EVERY_S)

    def _end(self, environment: Any) -> None:
        if is_worker(environment):
            self._worker.send_last(environment)
        elif is_master(environment):
            environment.runner.stop(send_stop_to_client=False)  # `Workers.collect` stops them
        else:
            environment.runner.stop()

    def _done(self, environment: Any) -> bool:
        return self._worker.done if is_worker(environment) else self._written


def prune_periodically(stats: Any) -> None:
    while True:
        gevent.sleep(PRUNE_EVERY_S)
        prune(stats)


def prune(stats: Any) -> None:
    """Keep locust's own counts per second from growing with the length of a run.

    It reads the last twelve seconds to show the present rate, and keeps the others for good, about a hundred bytes a second and
    row. Rates over the whole run come from its totals, which stay.
    """
    for entry in [stats.total, *stats.entries.values()]:
        for counts in (entry.num_reqs_per_sec, entry.num_fail_per_sec):
            newest = max(counts, default=0)
            for second in [second for second in counts if second < newest - KEPT_S]:
                del counts[second]


def _show(file: Path, report: RunReport) -> None:
    sys.stdout.flush()
    for row in report.models:
        latency = row.latency_us
        console.say(f"{row.model:<16} {row.protocol}  {row.throughput_per_s:.0f} infer/sec  "
                    f"p50 {latency.p50 / 1000:.2f} ms  p99 {latency.p99 / 1000:.2f} ms  "
                    f"{row.failures} failed, {row.wrong} wrong of {row.checked} checked")  # fmt: skip
    load = report.load
    if load.arrivals != "closed":
        console.say(f"{load.arrivals} arrivals, {load.offered_per_s:.1f} requests/s: {load.due} due, {load.waited} waited for "
                    f"a connection, {load.unsent} never sent; sends were {load.late_us.p50 / 1000:.2f} ms late (p50)")  # fmt: skip
    if report.server_note:
        console.say(report.server_note)
    verdict = report.verdict
    if any(reason.startswith(LOUD) for reason in verdict.reasons):
        console.say(f"\n{'!' * 72}\n!!!  {LOUD}\n{'!' * 72}\n")
    shown = verdict.reasons or ([passed(report)] if verdict.status == "pass" else [])
    console.say(f"verdict: {verdict.status}" + "".join(f"\n  {reason}" for reason in shown))
    console.say(f"report: {file}")
