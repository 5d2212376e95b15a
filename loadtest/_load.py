"""What one locust user does: send prepared golden samples and check some of the answers.

In      settings, a model, a protocol.
Out     one record and one locust ``request`` event per call.

Bodies are built once per process and shared by all users, so that little but sending is left in the loop. Checking is
done after the clock has stopped.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clients import ClientError, ConnectionFailed, PreparedRequest, TritonModel
from clients import published as repository
from clients.discover import Protocol
from clients.validate import check_answers
from loadtest._recorder import Recorder
from loadtest._settings import Settings
from planwright.golden import Group

PAUSE_AFTER_FAILURE_S = 0.1  # a server that is gone must not be asked in a tight loop


class WrongAnswerError(Exception):
    """The server answered, but not what the golden sample says."""


@dataclass(frozen=True)
class Payload:
    """A prepared request and what it should answer."""

    request: PreparedRequest
    group: Group


class Payloads:
    """Prepared requests per model and protocol, built once per process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._built: dict[tuple[str, str], tuple[list[Payload], repository.PublishedVersion]] = {}

    def of(
        self, name: str, protocol: Protocol, model: TritonModel
    ) -> tuple[list[Payload], repository.PublishedVersion]:
        """Return the payloads of a model and the version that answers."""
        key = (name, protocol)
        if key not in self._built:
            version = self._version(name, model)
            size = min(self._settings.batch, model.info.limit)
            groups = list(version.golden().batches(size))
            self._built[key] = ([Payload(model.prepare(_inputs(model, group)), group) for group in groups], version)
        return self._built[key]

    def _version(self, name: str, model: TritonModel) -> repository.PublishedVersion:
        from loadtest._versions import newest_served

        return repository.version(self._settings.repository, name, newest_served(self._settings.http_url, name, model))


class Session:
    """One user: one connection, one model after its weight."""

    def __init__(
        self, settings: Settings, payloads: Payloads, recorder: Recorder, protocol: Protocol, name: str
    ) -> None:
        self._settings, self._recorder, self._protocol, self._name = settings, recorder, protocol, name
        url = settings.grpc_url if protocol == "grpc" else settings.http_url
        self._model = TritonModel(name, url, protocol=protocol, retries=0)
        self._choices, self._version = payloads.of(name, protocol, self._model)
        self._random = random.Random()
        self._asked = 0

    def ask(self, fire: Callable[..., Any]) -> None:
        """Send one request and tell locust and the recorder."""
        payload = self._choices[self._random.randrange(len(self._choices))]
        error: Exception | None = None
        answers = None
        began_s, started = time.time(), time.perf_counter()
        try:
            answers = payload.request.using(self._model).raw()
        except ClientError as caught:
            error = caught
        latency_us = (time.perf_counter() - started) * 1e6
        checked = answers is not None and self._due()
        if answers is not None and checked:
            error = self._wrong(payload, answers)
        self._recorder.record(
            self._name,
            self._protocol,
            began_s,
            latency_us,
            error=_text(error),
            checked=checked,
            wrong=isinstance(error, WrongAnswerError),
        )
        fire(
            request_type=self._protocol,
            name=self._name,
            response_time=latency_us / 1000,
            response_length=_size(answers),
            exception=error,
            context={},
        )
        if isinstance(error, ConnectionFailed):
            time.sleep(PAUSE_AFTER_FAILURE_S)

    def _due(self) -> bool:
        """The first answer of every user is checked, then a random share."""
        self._asked += 1
        return self._asked == 1 or self._random.random() < self._settings.check

    def _wrong(self, payload: Payload, answers: Any) -> WrongAnswerError | None:
        rows = len(next(iter(payload.group.inputs.values())))
        batched = self._model.info.batches
        shaped = {name: array[:rows] if batched else array[None] for name, array in answers.items()}
        failed = [check for check in check_answers(payload.group, shaped, self._version) if not check.passed]
        return WrongAnswerError(f"wrong answer: {failed[0].output}: {failed[0].reason}") if failed else None

    def close(self) -> None:
        """Close the connection; a gRPC channel left open would keep the process from ending."""
        self._model.close()


def _inputs(model: TritonModel, group: Group) -> Any:
    return group.inputs if model.info.batches else {name: array[0] for name, array in group.inputs.items()}


def _text(error: Exception | None) -> str:
    if error is None:
        return ""
    if isinstance(error, ClientError):
        fault = error.faults[0]
        return f"{type(error).__name__}: {fault.why or fault.what}"
    # figures differ from answer to answer: one line per kind of mistake
    return str(error).partition(" error ")[0] if " error " in str(error) else str(error)


def _size(answers: Any) -> int:
    return sum(array.nbytes for array in answers.values()) if answers else 0
