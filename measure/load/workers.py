"""A load spread over several processes: what the master and its workers say to each other.

In      locust's runners.
Out     `Workers`, the master's side, and `Worker`, the other one.

Workers send what they recorded with locust's own reports. When locust quits, it fires test_stop before its message reaches the workers,
and their own last reports come too late; so the master stops them itself and waits for a last record of each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent

from measure.load.process_load import LAG_EVERY_S, ProcessLoad
from measure.record.process_stats import LoadRecord
from measure.record.recorder import Recorder
from measure.workload.arrivals import Share
from planwright.errors import Fault, PlanwrightError

KEY, STOP, LAST, SHARE, GIVE_UP = (f"planwright{name}" for name in ("", "_stop", "_last", "_share", "_give_up"))


def is_worker(environment: Any) -> bool:
    return type(environment.runner).__name__ == "WorkerRunner"


def is_master(environment: Any) -> bool:
    return type(environment.runner).__name__ == "MasterRunner"


def _error_from(data: dict[str, Any]) -> PlanwrightError:
    error = PlanwrightError(*(Fault(**fault) for fault in data["faults"]))
    error.exit_code = data["exit_code"]
    return error


class Workers:
    """The workers of one run; none in a local run.

    Attributes:
        stats: What they counted of their own parts.
        window_s: The longest of their windows.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.reset()

    def reset(self) -> None:
        self._began, self._finished, self._collected = set[str](), set[str](), set[str]()
        self.stats, self.window_s = LoadRecord(), 0.0

    def listen(self, runner: Any, give_up: Callable[[PlanwrightError], None]) -> None:
        runner.register_message(GIVE_UP, lambda msg, **_: give_up(_error_from(msg.data)))
        runner.register_message(LAST, lambda msg, **_: self._take_last(msg.node_id, msg.data))

    def begin(self, runner: Any) -> None:
        """Give each its share of an open loop's arrivals."""
        for index, client in enumerate(runner.clients.values()):
            self._began.add(client.id)
            runner.send_message(SHARE, [index, runner.worker_count], client_id=client.id)

    def watch(self, runner: Any) -> None:
        while not self._finished or len(self._finished) < runner.worker_count:
            gevent.sleep(LAG_EVERY_S)
        gevent.spawn(runner.quit)

    def collect(self, runner: Any, timeout_s: float) -> None:
        """Stop the workers and wait for their last records.

        A worker that has stopped is not among locust's clients for a moment, so those that began count; one that died does not.
        """
        runner.send_message(STOP)
        with gevent.Timeout(timeout_s, False):
            while self._began - self._collected - {client.id for client in runner.clients.missing}:
                gevent.sleep(0.05)

    def take(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        """Merge what a worker sent with one of locust's reports."""
        part = data.get(KEY)
        if part:
            self._finished |= {client_id} if part["finished"] else set()
            self._recorder.merge(part["tracks"])
            self.stats.add(part["load"])
            self.window_s = max(self.window_s, part["window_s"])

    def _take_last(self, client_id: str, part: dict[str, Any]) -> None:
        self.take(client_id, {KEY: part})
        self._collected.add(client_id)


class Worker:
    """This process as a worker; `stopped` says whether locust has stopped its users.

    Attributes:
        done: True once the last record is sent; the process must not end before.
    """

    def __init__(self, load: ProcessLoad, stopped: Callable[[], bool]) -> None:
        self._load, self._stopped = load, stopped
        self.reset()

    def reset(self) -> None:
        self.done = self._sending = False

    def listen(self, environment: Any) -> None:
        """Take this process's share, and the order to stop."""
        environment.runner.register_message(STOP, lambda environment, **_: self.send_last(environment))
        environment.runner.register_message(SHARE, lambda msg, **_: setattr(self._load, "share", Share(*msg.data)))

    def give_up(self, environment: Any, error: PlanwrightError) -> None:
        """Let the master report the error and end the run of all workers."""
        faults = [vars(fault) for fault in error.faults]
        environment.runner.send_message(GIVE_UP, {"exit_code": error.exit_code, "faults": faults})

    def report(self, data: dict[str, Any], **_: Any) -> None:
        part = self._load.part(last=self._stopped())
        data[KEY] = {"tracks": self._load.recorder.drain(), **part}

    def send_last(self, environment: Any) -> None:
        """Stop the users and send the last record, once."""
        if self._sending:
            return
        self._sending = True
        environment.runner.stop()
        last: dict[str, Any] = {}
        self.report(last)
        environment.runner.send_message(LAST, last[KEY])
        self.done = True
