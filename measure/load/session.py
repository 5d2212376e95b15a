"""One locust user's connection to a model: send prepared requests and check some of the answers.

In      settings, a model, a transport; in an open loop the moment a request was due.
Out     one record and one locust ``request`` event per call.

Bodies are built once per process and shared by all users, so that little but sending is left in the loop; with shared memory
each user has its own. Checking is done after the clock has stopped.
"""

from __future__ import annotations

import inspect
import math
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import gevent

from clients import ClientError, ConnectionFailed, InvalidRequest, PreparedRequest, RequestTimeout, TritonModel
from clients import published as repository
from clients.options import TRANSPORTS
from clients.validate import check_answers, sample_inputs
from measure.load.user_selection import overrides, place_of
from measure.record.answer_checks import Checker, GoldenAnswers
from measure.record.recorder import Recorder
from measure.workload.settings import Settings
from planwright.errors import Fault, PlanwrightError, SpecError
from planwright.golden import Golden, Group

PAUSE_AFTER_FAILURE_S = 0.1  # a server that is gone must not be called in a tight loop
MOST_RIGHT = 64
LOOK_AGAIN_S = 1.0  # between readings of the version that is served
OWN_PAYLOADS = 4  # few requests per user, where it needs its own: in shared memory, or of a sequence model
clock = time.perf_counter


class WrongAnswerError(Exception):
    """The answer is not the golden sample's, or failed the scenario's own check."""


class UnknownAnswerError(Exception):
    """Another version answered, and what it should answer is not known."""


class Scenario(Protocol):
    """What a connection needs of its user; `Infer` is one."""

    transport: ClassVar[str]
    environment: Any

    def inputs(self, model: TritonModel) -> Iterable[Mapping[str, Any]] | None:
        """Return the inputs to send; None for golden samples."""

    def check(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
        """Return what is wrong with an answer."""


@dataclass(frozen=True)
class Payload:
    """A prepared request and what it should answer.

    Attributes:
        own: True where it serves one connection only.
        samples: How many it holds.
        right: GoldenAnswers that were compared and are right: batches of other sizes round otherwise, so there are a few.
    """

    request: PreparedRequest
    group: Group
    own: bool
    samples: int
    right: set[tuple[bytes, ...]] = field(default_factory=set)


Prepared = tuple[list[Payload], repository.PublishedVersion]  # and the version that answers


class Payloads:
    """Prepared requests per model and protocol, built once per process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._built: dict[tuple[type, str, str], Prepared] = {}
        self._turn = threading.Lock()
        self._newest: dict[str, tuple[float, str]] = {}
        self._answers: dict[str, GoldenAnswers] = {}

    def of(self, scenario: Scenario, name: str, model: TritonModel, *, own: bool) -> Prepared:
        """Return the payloads of a model and the version that answers; `own` makes some for this connection alone."""
        if own:
            return self._make(scenario, name, model, own=True)
        key = type(scenario), name, scenario.transport
        with self._turn:  # users connect at once, and each would build them
            if key not in self._built:
                self._built[key] = self._make(scenario, name, model, own=False)
        return self._built[key]

    def _make(self, scenario: Scenario, name: str, model: TritonModel, *, own: bool) -> Prepared:
        version = repository.version(self._settings.repository, name, model.versions()[-1])
        given = _called(scenario, scenario.inputs, lambda: scenario.inputs(model))
        if given is None:
            return self._prepared(model, version.golden(), own=own), version
        return _given(scenario, model, given, own=own), version

    def _prepared(self, model: TritonModel, golden: Golden, *, own: bool) -> list[Payload]:
        """Return requests of every size, each size repeated by its weight."""
        found: dict[int, list[Payload]] = {}
        prepare = model.standalone().prepare  # each a sequence of its own where the model has sequences
        for size in dict(self._settings.batches):
            groups = list(golden.batches(min(size, model.info.limit)))
            groups = random.sample(groups, min(OWN_PAYLOADS, len(groups))) if own else groups
            found[size] = [
                Payload(prepare(sample_inputs(model.info, group)), group, own, _rows(group)) for group in groups
            ]
        # a common multiple, so that a size's share does not depend on how many groups the golden samples make of it
        longest = math.lcm(*map(len, found.values()))
        return [
            payload
            for size, weight in self._settings.batches
            for payload in found[size] * (weight * longest // len(found[size]))
        ]

    def switched(self, name: str, model: TritonModel, known: str) -> GoldenAnswers | None:
        """Return the answers of a version that has taken over from `known`; None where that is still the newest one."""
        read_s, newest = self._newest.get(name, (-math.inf, ""))
        if clock() - read_s > LOOK_AGAIN_S:
            newest = model.versions()[-1]
            self._newest[name] = clock(), newest
        if newest == known:
            return None
        found = self._answers.get(name)
        if found is None or found.version.version != newest:
            version = repository.version(self._settings.repository, name, newest)
            found = self._answers[name] = GoldenAnswers(version)
        return found


@dataclass(frozen=True)
class Shared:
    """What all connections of a process share; `give_up` ends the run for a reason that every user would meet again."""

    settings: Settings
    recorder: Recorder
    checker: Checker
    payloads: Payloads
    give_up: Callable[[Any, PlanwrightError], None]


class Connection:
    """One connection of one user, to one model."""

    def __init__(self, shared: Shared, scenario: Scenario, name: str) -> None:
        settings, self._transport, self._name = shared.settings, scenario.transport, name
        self._key = name, scenario.transport
        self._recorder, self._checker = shared.recorder, shared.checker
        self._shared, self._scenario = shared, scenario
        self._own_check = overrides(type(scenario), "check")
        memory, over_http = TRANSPORTS[scenario.transport], scenario.transport == "http"
        address = settings.http_url if over_http else settings.grpc_url
        self._model = TritonModel(
            name, address, protocol="http" if over_http else "grpc", shared_memory=memory, retries=0, timeout_s=settings.test.timeout_s,
            allow_nan=True,  # golden samples may hold NaN where the model takes it for a missing value
        )  # fmt: skip
        # a prepared request of a sequence model has an id, which no two requests in flight may share
        own = memory is not None or self._model.info.sequence
        self._choices, self._version = shared.payloads.of(scenario, name, self._model, own=own)
        self._mine: dict[int, PreparedRequest] = {}
        self._random = random.Random()
        self._sent = 0

    def send(self, fire: Callable[..., Any], due: float | None = None) -> None:
        """Send one request, record it, and report it to locust.

        Args:
            fire: locust's ``request`` event.
            due: In an open loop, the moment the request was due: its latency counts from there.
        """
        if due is None and self._recorder.over:
            return
        payload = self._choices[self._random.randrange(len(self._choices))]
        error: Exception | None = None
        answers = None
        self._recorder.sent(self._key)
        sent = clock()
        try:
            answers = (self._mine.get(id(payload)) or self._bind(payload)).raw()
        except ClientError as caught:
            error = caught
        except gevent.GreenletExit:
            self._recorder.cut_off(self._key, clock() - sent)
            raise
        done = clock()
        self._sent += 1
        if answers is not None and self._checker.wants(first=self._sent == 1, track=self._key):
            error = self._check(payload, answers)
        began = sent if due is None else due
        if error is None:
            self._recorder.answered(self._key, began, (done - began) * 1e6, (done - sent) * 1e6, payload.samples)
        else:
            wrong = isinstance(error, WrongAnswerError)
            self._recorder.failed(self._key, began, (done - began) * 1e6, _text(error), wrong=wrong)
        fire(
            request_type=self._transport, name=self._name, response_time=(done - began) * 1e3, response_length=_size(answers),
            exception=error, context={},
        )  # fmt: skip
        if isinstance(error, ConnectionFailed):
            time.sleep(PAUSE_AFTER_FAILURE_S)

    def _bind(self, payload: Payload) -> PreparedRequest:
        found = payload.request if payload.own else payload.request.using(self._model)
        self._mine[id(payload)] = found
        return found

    def _check(self, payload: Payload, answers: Any) -> WrongAnswerError | None:
        """Check an answer, once its clock has stopped; one whose right answer is not known counts as not checked."""
        try:
            error = self._checker.run(lambda: self._wrong(payload, answers))
        except UnknownAnswerError:
            return None
        self._recorder.checked(self._key)
        return error

    def _wrong(self, payload: Payload, answers: Any) -> WrongAnswerError | None:
        """Compare with the golden answer, if there is one, and let the scenario check the answer, if it does."""
        if payload.group.outputs and (error := self._differs_from_golden(payload, answers)):
            return error
        return self._judged(payload, answers) if self._own_check else None

    def _differs_from_golden(self, payload: Payload, answers: Any) -> WrongAnswerError | None:
        """Compare with the golden answer; an answer that was right before is right again, byte for byte."""
        seen = _bytes_of(answers)
        if seen is not None and seen in payload.right:
            return None
        error = self._compared(payload, answers)
        if error is None and seen is not None and len(payload.right) < MOST_RIGHT:
            payload.right.add(seen)
        return error

    def _judged(self, payload: Payload, answers: Any) -> WrongAnswerError | None:
        scenario, batched = self._scenario, self._model.info.batches
        outputs = {name: array[: payload.samples] if batched else array for name, array in answers.items()}
        try:
            wrong = _called(scenario, scenario.check, lambda: _words(scenario.check(payload.group.inputs, outputs)))
        except PlanwrightError as error:
            self._shared.give_up(scenario.environment, error)
            raise UnknownAnswerError from None
        return WrongAnswerError(f"wrong answer: {wrong}") if wrong else None

    def _compared(self, payload: Payload, answers: Any) -> WrongAnswerError | None:
        batched = self._model.info.batches
        shaped = {name: array[: payload.samples] if batched else array[None] for name, array in answers.items()}
        error = _differs(payload.group, shaped, self._version)
        return error and self._compared_with_newer(payload, shaped, error)

    def _compared_with_newer(self, payload: Payload, shaped: Any, error: WrongAnswerError) -> WrongAnswerError | None:
        """Compare with the version that has taken over meanwhile; `error` stands where none has."""
        try:
            newer = self._shared.payloads.switched(self._name, self._model, self._version.version)
        except ClientError:
            raise UnknownAnswerError from None
        expected = newer.to(payload.group.inputs) if newer else None
        if newer is None:
            return error
        if expected is None:
            raise UnknownAnswerError
        return _differs(expected, shaped, newer.version)

    def close(self) -> None:
        """Close the connection; a gRPC channel left open would keep the process from ending."""
        self._model.close()


def _words(found: Any) -> str:
    if found is None or isinstance(found, str):
        return found or ""
    raise TypeError(f"it returned {type(found).__name__}; return text: what is wrong, empty if nothing is")


def _called(scenario: Scenario, method: Callable[..., Any], call: Callable[[], Any]) -> Any:
    """Return what a call to a method that a user wrote returns.

    Raises:
        SpecError: It failed; names its class, file and line.
    """
    try:
        return call()
    except PlanwrightError:
        raise
    except Exception as error:
        what = f"{type(scenario).__name__}.{method.__name__}() failed: {type(error).__name__}: {error}"
        raise SpecError(Fault(what, _place(error, method), fix="see docs/write-a-scenario.md")) from error


def _place(error: Exception, method: Callable[..., Any]) -> str:
    """Return file:line of the last line in the method's own file that the error came through."""
    own = inspect.getsourcefile(method)
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == own]
    return f"{own}:{lines[-1].lineno}" if lines else place_of(method)


def _given(scenario: Scenario, model: TritonModel, given: Any, *, own: bool) -> list[Payload]:
    """Prepare a scenario's own inputs; it checks the answers itself."""
    found = _called(scenario, scenario.inputs, lambda: [dict(_mapping(inputs)) for inputs in given])
    chosen = random.sample(found, min(OWN_PAYLOADS, len(found))) if own else found
    title, place = f"{type(scenario).__name__}.inputs()", place_of(scenario.inputs)
    if not found:
        raise SpecError(Fault(f"{title} gives no requests for {model.info.name}", place))
    try:
        prepare = model.standalone().prepare
        return [Payload(prepare(inputs), Group(inputs, {}), own, _rows_of(model, inputs)) for inputs in chosen]
    except InvalidRequest as error:
        faults = (Fault(f"{title}: {fault.what}", place, why=fault.why, fix=fault.fix) for fault in error.faults)
        raise SpecError(*faults) from None


def _mapping(inputs: Any) -> Mapping[str, Any]:
    if isinstance(inputs, Mapping):
        return inputs
    raise TypeError(f"a request is {type(inputs).__name__}; give a mapping of input names to arrays")


def _rows_of(model: TritonModel, inputs: Mapping[str, Any]) -> int:
    return len(next(iter(inputs.values()))) if model.info.batches else 1


def _bytes_of(answers: Any) -> tuple[bytes, ...] | None:
    """Return the answers' bytes; None for text, whose array holds addresses."""
    arrays = [answers[name] for name in sorted(answers)]
    return None if any(array.dtype.kind == "O" for array in arrays) else tuple(array.tobytes() for array in arrays)


def _differs(group: Group, answers: Any, version: repository.PublishedVersion) -> WrongAnswerError | None:
    failed = [check for check in check_answers(group, answers, version) if not check.passed]
    return WrongAnswerError(f"wrong answer: {failed[0].output}: {failed[0].reason}") if failed else None


def _rows(group: Group) -> int:
    return len(next(iter(group.inputs.values())))


def _text(error: Exception | None) -> str:
    if error is None:
        return ""
    if isinstance(error, ClientError):
        fault = error.faults[0]
        text = fault.what if isinstance(error, RequestTimeout) else fault.why or fault.what
        return f"{type(error).__name__}: {text}"
    # the figures differ from answer to answer: one line per kind of mistake
    return str(error).partition(" error ")[0] if " error " in str(error) else str(error)


def _size(answers: Any) -> int:
    return sum(array.nbytes for array in answers.values()) if answers else 0
