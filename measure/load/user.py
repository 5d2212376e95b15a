"""The base class of load-test users, and the one run that all of them belong to.

In      locust's environment; settings (see measure/workload/settings.py).
Out     `Infer`, from which every user class of ``loadtest/`` is made.

However many files extend `Infer`, this module is imported once, so one process has one run and leaves one report. Locust is
imported first, because it patches the standard library for gevent; ``init_gevent`` runs before any gRPC channel exists, because
without it users queue behind each other while the latency column looks healthy.
"""

from __future__ import annotations

from locust import LoadTestShape, User, constant, events, tag, task  # isort: skip

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import grpc.experimental.gevent

from clients import TritonModel
from measure.load import user_selection
from measure.load.run import Run
from measure.load.session import Connection, Payloads, Shared
from measure.workload import settings
from planwright import console
from planwright.errors import Fault, PlanwrightError, SpecError

__all__ = ["SETTINGS", "Infer", "ProfileOfUsers", "tag", "task"]

grpc.experimental.gevent.init_gevent()

for unknown in settings.unknown_variables(os.environ):
    console.warn(unknown)
try:
    SETTINGS = settings.read()
except PlanwrightError as error:
    raise SystemExit(console.fail(error)) from None

OPEN_LOOP, WAIT_S = SETTINGS.open_loop, SETTINGS.test.wait_s  # looked at for each request
RUN = Run(SETTINGS)
SHARED = Shared(SETTINGS, RUN.recorder, RUN.checker, Payloads(SETTINGS), RUN.give_up)
TURNS: dict[tuple[str, tuple[str, ...]], user_selection.Turns] = {}

RUN.listen(events)
events.init.add_listener(
    lambda environment, **_: user_selection.choose(environment, SETTINGS.weighted, SETTINGS.unready)
)


class Infer(User):
    """One request in flight. Closed loop: the next goes out when the last is answered. Open loop: when one is due.

    A subclass has a task that calls `send`, and may set what is different about it. Where there are fewer users than models, a
    user has several models and a connection for each, and takes them in turn.

    Attributes:
        transport: ``http``, ``grpc``, ``shm`` or ``cuda``.
        models: Which of the run's models this class calls; empty for all of them.
    """

    abstract = True
    host = f"http://{SETTINGS.http_url}"
    wait_time = constant(SETTINGS.test.wait_s)
    transport: ClassVar[str] = "http"
    models: ClassVar[Sequence[str]] = ()

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.connections: dict[str, Connection] = {}
        self._turn = 0
        self._turns: user_selection.Turns | None = None

    def inputs(self, model: TritonModel) -> Iterable[Mapping[str, Any]] | None:
        """Return the inputs to send, one mapping a request, as `TritonModel.infer_batch` takes them; None for golden samples.

        Called once per process, model and transport, and with shared memory once per user.
        """
        return None

    def check(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
        """Return what is wrong with an answer to `inputs`, or an empty text; called for the answers that are checked.

        Golden samples are compared with their own answers first.
        """
        raise NotImplementedError

    def on_start(self) -> None:
        """Connect; if the server cannot be reached, the test ends with one clear message."""
        names = user_selection.models_of(type(self), SETTINGS.weighted)
        self._turns = TURNS.setdefault((self.transport, names), user_selection.Turns(names))
        self._turns.join(self)
        if self._connect():
            RUN.connected(self.environment.runner)

    def on_stop(self) -> None:
        """Close the connections."""
        if self._turns is not None:
            self._turns.leave(self)
        for connection in self.connections.values():
            connection.close()

    def send(self) -> None:
        """Send requests until this user rests or ends; one call for many, because locust's way from task to task costs as much as a request's bookkeeping."""
        while self._send_one() and not WAIT_S:
            pass

    def _connect(self) -> tuple[str, ...]:
        """Return this user's models, all connected; none after an error. They may change while one is being connected."""
        try:
            models = self._models()
            while lacking := [name for name in models if name not in self.connections]:
                self.connections[lacking[0]] = Connection(SHARED, self, lacking[0])
                models = self._models()
        except PlanwrightError as error:
            RUN.give_up(self.environment, error)
            return ()
        return models

    def _models(self) -> tuple[str, ...]:
        if self._turns is None:
            what = f"{type(self).__name__}.on_start() does not call super().on_start()"
            raise SpecError(Fault(what, user_selection.place_of(self.on_start), fix="call it first"))
        return self._turns.models(self)

    def _send_one(self) -> bool:
        """Send one request; in an open loop the next one that is due. Returns whether another may follow at once."""
        models, fire = self._connect(), self.environment.events.request.fire
        if not models:
            return False
        if not OPEN_LOOP:
            if RUN.recorder.over:
                time.sleep(0.05)  # until locust ends this user
                return False
            self._turn += 1
            self.connections[models[self._turn % len(models)]].send(fire)
            return bool(self._state == "running")
        arrival = RUN.load.next_due(models, self.transport)
        if arrival is None:
            time.sleep(0.05)  # nothing is due any more: until locust ends this user
            return False
        self.connections[arrival.model].send(fire, arrival.due_s)
        return self._state == "running" or RUN.recorder.over  # after the end, what still waits is sent


class ProfileOfUsers(LoadTestShape):
    """As many users as PLANWRIGHT_USERS says at each moment; its end ends the test."""

    abstract = True

    def tick(self) -> tuple[int, float] | None:
        """Return users and how many may start per second."""
        level = SETTINGS.users.at(self.get_run_time()) if SETTINGS.users else None
        return None if level is None else (max(round(level), 1), 100.0)
