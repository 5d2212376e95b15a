"""``locust -f loadtest/``: load any published model over HTTP and gRPC.

In      a running server (python -m serving, or docker compose up triton) and the environment (see _settings.py).
Out     locust's own tables and web page, and runs/<id>/report.json and report.html when the test stops.

Three lines look odd and are needed: locust is imported first, because it patches the standard library for gevent; the
project's root is put on the import path, because locust puts only this folder there; ``init_gevent`` runs before any
gRPC channel exists, because without it users queue behind each other while the latency column looks healthy.
"""

from __future__ import annotations

from locust import User, constant, events, tag, task  # isort: skip

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import grpc.experimental.gevent

from loadtest import _run, _settings
from loadtest._load import Payloads, Session
from planwright import console
from planwright.errors import PlanwrightError

grpc.experimental.gevent.init_gevent()

try:
    SETTINGS = _settings.read()
except PlanwrightError as error:
    raise SystemExit(console.fail(error)) from None

RUN = _run.Run(SETTINGS)
PAYLOADS = Payloads(SETTINGS)
_WEIGHTED = [name for name, weight in SETTINGS.models for _ in range(weight)]
# one wheel per protocol: users are spawned in turn, and one shared wheel could give each protocol a single model
_NAMES: dict[str, Iterator[str]] = {protocol: itertools.cycle(_WEIGHTED) for protocol in ("http", "grpc")}

RUN.listen(events)


class _Infer(User):
    """A closed loop: the next request goes out when the answer to the last one is in."""

    abstract = True
    host = f"http://{SETTINGS.http_url}"
    wait_time = constant(SETTINGS.wait_s)
    protocol: ClassVar[Literal["http", "grpc"]] = "http"
    session: Session | None = None

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.name = next(_NAMES[self.protocol])

    def on_start(self) -> None:
        """Connect; a server that is not there ends the test with one clear message."""
        try:
            self.session = Session(SETTINGS, PAYLOADS, RUN.recorder, self.protocol, self.name)
        except PlanwrightError as error:
            RUN.give_up(self.environment, error)

    def on_stop(self) -> None:
        """Close the connection."""
        if self.session is not None:
            self.session.close()

    def ask(self) -> None:
        """Send one request."""
        if self.session is not None:
            self.session.ask(self.environment.events.request.fire)


class InferHttp(_Infer):
    """HTTP with binary tensors and prebuilt bodies."""

    protocol = "http"

    @tag("http")
    @task
    def infer(self) -> None:
        """One request."""
        self.ask()


class InferGrpc(_Infer):
    """gRPC with prebuilt messages."""

    protocol = "grpc"

    @tag("grpc")
    @task
    def infer(self) -> None:
        """One request."""
        self.ask()
