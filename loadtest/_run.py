"""The life of one run: from locust's test_start to report.html.

In      locust's events, settings.
Out     runs/<id>/report.json and report.html, the verdict as the process's exit code.

In a distributed run the workers send their tracks with locust's own reports, and only the master (or a lone process)
looks at the server and writes.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from loadtest import _report, _server
from loadtest._recorder import Recorder
from loadtest._settings import Settings
from planwright import console
from planwright.errors import EXIT_FAILED, EXIT_INTERRUPTED, PlanwrightError

KEY, STOP, LAST = "planwright", "planwright_stop", "planwright_last"
COLLECT_TIMEOUT_S = 10.0


class Run:
    """Collects what one test did; a web page may start several, one after the other."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.recorder = settings, Recorder()
        self._before: _server.Snapshot | None = None
        self._started_s = self._cpu_s = 0.0
        self._workers_cpu_s = 0.0
        self._given_up: PlanwrightError | None = None
        self._peak_users = self._waiting = 0

    def listen(self, events: Any) -> None:
        """Register with locust."""
        events.test_start.add_listener(self.start)
        events.test_stop.add_listener(self.stop)
        events.report_to_master.add_listener(self._to_master)
        events.worker_report.add_listener(self._from_worker)
        events.spawning_complete.add_listener(self._spawned)
        events.init.add_listener(self._initialise)

    def start(self, environment: Any, **_: Any) -> None:
        """Take the server's counters and begin to record."""
        self.recorder.start(self.settings.warmup_s)
        self._given_up, self._workers_cpu_s, self._peak_users = None, 0.0, 0
        self._started_s, self._cpu_s = time.time(), time.process_time()
        if not _is_worker(environment):
            self._before = self._snapshot()

    def stop(self, environment: Any, **_: Any) -> None:
        """Write the report."""
        if _is_worker(environment) or not self._started_s:
            return
        if _is_master(environment):
            self._collect(environment.runner)
        duration_s = time.time() - self._started_s
        cpu_s = self._workers_cpu_s or time.process_time() - self._cpu_s
        after = self._snapshot()
        server = _server.difference(self._before, after) if self._before and after else {}
        measured = _report.Measured(
            self.recorder.tracks, self._started_s, duration_s, self._peak_users or environment.runner.user_count, server,
            _server.identity(self.settings.http_url), cpu_s, lost_server=after is None, stopped_by=self._reason(),
        )  # fmt: skip
        folder, report = _report.write_run(self.settings, measured)
        _tell(folder, report)
        if report["verdict"]["status"] == "fail":
            environment.process_exit_code = EXIT_FAILED

    def give_up(self, environment: Any, error: PlanwrightError) -> None:
        """End the test for a reason that every user would meet again."""
        if self._given_up is None:
            self._given_up = error
            console.fail(error)
            environment.process_exit_code = error.exit_code
            if environment.runner is not None:
                environment.runner.quit()

    def _initialise(self, environment: Any, **_: Any) -> None:
        """Take workers' last records, and leave on Ctrl-C by locust's own way out for SIGTERM.

        Python's own way would raise inside whichever user happens to run.
        """
        import gevent

        if _is_master(environment):
            environment.runner.register_message(LAST, lambda msg, **_: self._take_last(msg.data))
        elif _is_worker(environment):
            environment.runner.register_message(STOP, lambda environment, **_: self._send_last(environment))

        def leave() -> None:
            environment.process_exit_code = EXIT_INTERRUPTED
            os.kill(os.getpid(), signal.SIGTERM)

        gevent.signal_handler(signal.SIGINT, leave)

    def _collect(self, runner: Any) -> None:
        """Stop the workers and wait for their last records.

        When locust quits, it fires test_stop before it tells the workers, and their own last reports come too late.
        """
        import gevent

        self._waiting = len(runner.clients.all)
        runner.send_message(STOP)
        with gevent.Timeout(COLLECT_TIMEOUT_S, False):
            while self._waiting > 0:
                gevent.sleep(0.05)

    def _send_last(self, environment: Any) -> None:
        environment.runner.stop()
        last: dict[str, Any] = {}
        self._to_master(last)
        environment.runner.send_message(LAST, last[KEY])

    def _take_last(self, part: dict[str, Any]) -> None:
        self._from_worker({KEY: part})
        self._waiting -= 1

    def _reason(self) -> str:
        return self._given_up.faults[0].what if self._given_up else ""

    def _snapshot(self) -> _server.Snapshot | None:
        names = [name for name, _ in self.settings.models]
        return _server.snapshot(self.settings.http_url, self.settings.metrics_url, names)

    def _spawned(self, user_count: int, **_: Any) -> None:
        self._peak_users = max(self._peak_users, user_count)

    def _to_master(self, data: dict[str, Any], **_: Any) -> None:
        cpu_s = time.process_time()
        data[KEY] = {"tracks": self.recorder.drain(), "cpu_s": cpu_s - self._cpu_s}
        self._cpu_s = cpu_s

    def _from_worker(self, data: dict[str, Any], **_: Any) -> None:
        part = data.get(KEY)
        if part:
            self.recorder.merge(part["tracks"])
            self._workers_cpu_s += part["cpu_s"]


def _is_worker(environment: Any) -> bool:
    return type(environment.runner).__name__ == "WorkerRunner"


def _is_master(environment: Any) -> bool:
    return type(environment.runner).__name__ == "MasterRunner"


def _tell(folder: Any, report: dict[str, Any]) -> None:
    sys.stdout.flush()
    for row in report["models"]:
        latency = row["latency_us"]
        console.say(f"{row['model']:<16} {row['protocol']}  {row['throughput_per_s']:.0f} infer/sec  "
                    f"p50 {latency['p50'] / 1000:.2f} ms  p99 {latency['p99'] / 1000:.2f} ms  "
                    f"{row['failures']} failed, {row['wrong']} wrong of {row['checked']} checked")  # fmt: skip
    verdict = report["verdict"]
    console.say(f"verdict: {verdict['status']}" + "".join(f"\n  {reason}" for reason in verdict["reasons"]))
    console.say(f"report: {folder / 'report.html'}")
