"""``locust -f loadtest/``: load any published model over HTTP, gRPC and shared memory, in closed and open loops.

In      a running server (python -m serving, or docker compose up triton), the environment and config.yaml (see _settings.py).
Out     locust's own tables and web page, and runs/<id>/report.json and report.html when the test stops.

Three lines look odd and are needed: locust is imported first, because it patches the standard library for gevent; the
project's root is put on the import path, because locust puts only this folder there; ``init_gevent`` runs before any
gRPC channel exists, because without it users queue behind each other while the latency column looks healthy.

A scenario of your own is a subclass of `Infer` with a task, in any file of this folder. A load shape exists only where a
profile of users is asked for, because one that is merely there would cancel --users and --run-time.
"""

from __future__ import annotations

from locust import LoadTestShape, User, constant, events, tag, task  # isort: skip

import sys
import time
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import grpc.experimental.gevent

from loadtest import _choice, _run, _settings
from loadtest._load import TRANSPORTS, Payloads, Session
from loadtest._turns import Turns
from planwright import console
from planwright.errors import PlanwrightError

grpc.experimental.gevent.init_gevent()

try:
    SETTINGS = _settings.read()
except PlanwrightError as error:
    raise SystemExit(console.fail(error)) from None

RUN = _run.Run(SETTINGS)
PAYLOADS = Payloads(SETTINGS)
TURNS = {transport: Turns(SETTINGS.weighted) for transport in TRANSPORTS}

RUN.listen(events)
events.init.add_listener(_choice.choose)


class Infer(User):
    """One request in flight. Closed loop: the next goes out when the last is answered. Open loop: when one is due.

    Where there are fewer users than models, a user has several models and a connection for each, and takes them in turn.
    """

    abstract = True
    host = f"http://{SETTINGS.http_url}"
    wait_time = constant(0 if SETTINGS.arrivals != "closed" else SETTINGS.wait_s)
    transport: ClassVar[str] = "http"

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.sessions: dict[str, Session] = {}
        self._turn = 0

    def on_start(self) -> None:
        """Connect; a server that is not there ends the test with one clear message."""
        TURNS[self.transport].join(self)
        if self.connect():
            RUN.connected(self.environment.runner)

    def on_stop(self) -> None:
        """Close the connections."""
        TURNS[self.transport].leave(self)
        for session in self.sessions.values():
            session.close()

    def connect(self) -> bool:
        """Connect to this user's models that it has no connection for, which may change with the number of users."""
        try:
            while lacking := [name for name in TURNS[self.transport].models(self) if name not in self.sessions]:
                self.sessions[lacking[0]] = Session(
                    SETTINGS, PAYLOADS, RUN.recorder, RUN.checker, self.transport, lacking[0]
                )
        except PlanwrightError as error:
            RUN.give_up(self.environment, error)
            return False
        return True

    def ask(self) -> None:
        """Send requests until this user is to rest or to end; locust's way from task to task costs as much as a request's bookkeeping."""
        while self.ask_once() and not SETTINGS.wait_s:
            pass

    def ask_once(self) -> bool:
        """Send one request; in an open loop the next one that is due. Returns whether another may follow at once."""
        if not self.connect():
            return False
        models, fire = TURNS[self.transport].models(self), self.environment.events.request.fire
        if SETTINGS.arrivals == "closed":
            if RUN.recorder.over:
                time.sleep(0.05)  # until locust ends this user
                return False
            self._turn += 1
            self.sessions[models[self._turn % len(models)]].ask(fire)
            return bool(self._state == "running")
        arrival = RUN.next_due(models)
        if arrival is None:
            time.sleep(0.05)  # nothing is due any more: until locust ends this user
            return False
        self.sessions[arrival.model].ask(fire, arrival.due_s)
        return self._state == "running" or RUN.recorder.over  # after the end, what still waits is sent


class InferHttp(Infer):
    """HTTP with binary tensors and prebuilt bodies."""

    transport = "http"

    @tag("http")
    @task
    def infer(self) -> None:
        """One request."""
        self.ask()


class InferGrpc(Infer):
    """gRPC with prebuilt messages."""

    transport = "grpc"

    @tag("grpc")
    @task
    def infer(self) -> None:
        """One request."""
        self.ask()


class InferShm(Infer):
    """gRPC with tensors in system shared memory; on the server's own machine, when asked for."""

    transport = "shm"

    @tag("shm")
    @task
    def infer(self) -> None:
        """One request."""
        self.ask()


class InferCuda(Infer):
    """gRPC with tensors in CUDA shared memory; on the server's own machine, when asked for."""

    transport = "cuda"

    @tag("cuda")
    @task
    def infer(self) -> None:
        """One request."""
        self.ask()


if SETTINGS.users is not None:

    class Users(LoadTestShape):
        """As many users as PLANWRIGHT_USERS says at each moment; its end ends the test."""

        def tick(self) -> tuple[int, float] | None:
            """Return users and how many may start per second."""
            level = SETTINGS.users.at(self.get_run_time()) if SETTINGS.users else None
            return None if level is None else (max(round(level), 1), 100.0)
