"""`TritonModel`: call a served model, blocking.

In      a model's name.
Out     arrays by output name, or an error of clients/errors.py.

    >>> with TritonModel("digits") as model:                     # doctest: +SKIP
    ...     scores = model.infer_sample(image=picture)["scores"]

Threads may share a client: each request has a connection, and shared memory, of its own while it lasts. A forked child may use its parent's
client: it connects by itself. Answers may be read-only views of received bytes.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from planwright.errors import Fault

from . import failures, forks, preload
from . import request as request_rules
from .addresses import Protocol, address, is_encrypted
from .errors import (
    ClientError,
    ConnectionFailed,
    InvalidRequest,
    ModelUnavailable,
    RequestTimeout,
    SharedMemoryUnavailable,
)
from .options import (
    RETRIES,
    TIMEOUT_S,
    Tls,
    check_choices,
    checked_flag,
    checked_options,
    checked_seconds,
    checked_version,
    refused,
)
from .prepared import Request
from .request import Arrays, ModelInfo
from .sequence import Sequence, Step, step
from .shared_memory.registrar import ServerRegistrar
from .shared_memory.registrar import SharedMemory as SharedMemory
from .shared_memory.system import Region, Regions
from .transport import choose, codec
from .transport.pool import Pool

_RETRY_SAFE = operator.attrgetter("retry_safe")


class TritonModel:
    """A served model.

    Args:
        model: Its name; everything else is read from the server.
        url: ``host:port``; the server started here, or Triton's default port, when not given. ``https://`` and
            ``grpcs://`` mean TLS.
        protocol: ``http`` or ``grpc``.
        shared_memory: ``system`` or ``cuda`` to hand tensors over in shared memory (same machine only).
        version: A version, the newest when empty.
        timeout_s: Limit of one request.
        retries: How often a request is sent again where that is safe (`ClientError.retry_safe`), after growing pauses.
        tls: TLS files; None for plain text.
        headers: Sent with each request.
        allow_nan: Let inputs hold NaN, which otherwise is a mistake of the caller.

    Raises:
        ClientError: On first use, see clients/errors.py.
    """

    def __init__(
        self, model: str, url: str | None = None, *, protocol: Protocol = "http", shared_memory: SharedMemory | None = None,
        version: str = "", timeout_s: float = TIMEOUT_S, retries: int = RETRIES, tls: Tls | None = None,
        headers: Mapping[str, str] | None = None, allow_nan: bool = False,
    ) -> None:  # fmt: skip
        check_choices(model=model, url=url, protocol=protocol, shared_memory=shared_memory)
        self.model, self.version, self.protocol = model, checked_version(version), protocol
        self.allow_nan = checked_flag("allow_nan", allow_nan)
        tls = Tls() if tls is None and is_encrypted(url) else tls
        self.options = checked_options(timeout_s, retries, headers, tls)
        self.address = address(url, protocol)
        self._info: ModelInfo | None = None
        self._closed = False
        self._prepared: set[Request] = set()
        self._connections: Pool[Any] = Pool(choose.maker(self.address, protocol, self.options))
        self._connections.use(bool)  # options that cannot be used are reported here, and not with the first request
        self.memory = _memory(self._connections, protocol, shared_memory) if shared_memory else None

    def __enter__(self) -> TritonModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def info(self) -> ModelInfo:
        """Names, types, shapes and batch limit, read from the server once."""
        if self._info is None:
            self._info = self._retry(self._read_info)
        return self._info

    def infer_sample(self, /, *args: Any, **inputs: Any) -> Arrays:
        """Answer one sample: arrays without a batch axis in and out.

        Pass inputs by name, in the model's order, or as one mapping.
        """
        return self.infer_sample_at(None, args, inputs)

    def infer_batch(self, /, *args: Any, **inputs: Any) -> Arrays:
        """Answer a batch: arrays ``(samples, ...)`` in and out; more than the server takes at once is split."""
        return self.infer_batch_at(None, args, inputs)

    def prepare(self, /, *args: Any, **inputs: Any) -> PreparedRequest:
        """Build a request once, to be sent many times; takes what `infer_batch` takes.

        With shared memory each prepared request has memory of its own, so others may be sent in between.

        Raises:
            InvalidRequest: It does not fit into one request.
        """
        return self.prepare_at(None, args, inputs)

    def sequence(self, sequence_id: int | str | None = None, *, start: bool = False, end: bool = False) -> Sequence:
        """Return what sends requests of a sequence: `infer_sample`, `infer_batch` and `prepare`.

        Args:
            sequence_id: A number or text, the same for all requests of the sequence; without one, each is a sequence of its own.
            start: Whether the requests are the first of their sequence.
            end: Whether they are the last.

        Example:
            model.sequence(42, start=True).infer_sample(x=first)
            model.sequence(42, end=True).infer_sample(x=last)
        """
        return Sequence(self, step(sequence_id, start=start, end=end))

    def standalone(self) -> TritonModel | Sequence:
        """Return what sends each request by itself: the client, or for a sequence model sequences of one request."""
        return self.sequence(start=True, end=True) if self.info.sequence else self

    def infer_sample_at(self, at: Step | None, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Arrays:
        """Answer one sample at a place in a sequence."""
        request_rules.check_step(self.info, at)
        arrays = request_rules.check_sample(
            self.info, request_rules.named(self.info, args, inputs), allow_nan=self.allow_nan
        )
        return {name: array[0, ...] for name, array in self._answer(arrays, at).items()}

    def infer_batch_at(self, at: Step | None, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Arrays:
        """Answer a batch at a place in a sequence."""
        request_rules.check_step(self.info, at)
        return self._answer(
            request_rules.check_batch(
                self.info, request_rules.named(self.info, args, inputs), allow_nan=self.allow_nan
            ),
            at,
        )

    def prepare_at(self, at: Step | None, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> PreparedRequest:
        """Build a request at a place in a sequence."""
        request_rules.check_step(self.info, at)
        arrays = request_rules.check_batch(
            self.info, request_rules.named(self.info, args, inputs), allow_nan=self.allow_nan
        )
        return PreparedRequest(self, self.built(self.info, request_rules.only_chunk(self.info, arrays, at)))

    def versions(self) -> list[str]:
        """Return the versions that the server answers for, oldest first."""
        found: list[str] = self._retry(self._read_versions)
        return sorted(found, key=int)

    def statistics(self) -> dict[str, int]:
        """Return how many samples the served version has answered and in how many executions, since it was loaded."""
        counts: dict[str, int] = self._retry(self._read_statistics)
        return counts

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until the server answers for the model.

        Raises:
            RequestTimeout: It does not in time; the fault says what the last answer was.
        """
        deadline, last = time.monotonic() + checked_seconds(timeout_s, zero=True), "no answer yet"
        while time.monotonic() < deadline:
            try:
                self._info = self._read_info()
                return
            except (ConnectionFailed, ModelUnavailable, RequestTimeout) as error:
                last = error.faults[0].why or error.faults[0].what
            time.sleep(max(min(0.1, deadline - time.monotonic()), 0))
        raise failures.not_ready(self.model, timeout_s, self.address, last)

    def close(self) -> None:
        """Give back shared memory and close the connections; requests that other threads wait for fail."""
        self.refuse()
        self._connections.interrupt()
        try:
            for request in list(self._prepared):
                with request.turn:
                    self.release(request)
            if self.memory is not None:
                self.memory.close()
        finally:
            self._connections.close()

    def _answer(self, arrays: Arrays, at: Step | None) -> Arrays:
        chunks = list(request_rules.split(self.info, arrays, at))
        if self.memory is None:
            return request_rules.join(
                chunks, [self.send(Request(self.info, chunk, self.protocol, None)) for chunk in chunks]
            )
        answers = self.memory.use(lambda own: [self.send(Request(self.info, c, self.protocol, own)) for c in chunks])
        return request_rules.join(chunks, answers)

    def send(self, request: Request) -> Arrays:
        """Send one request and return its answers as they came."""
        answers: Arrays = self._retry(lambda: self._send_once(request), request.may_repeat)
        return answers

    def _send_once(self, request: Request) -> Arrays:
        self.check_open()
        try:
            message = request.message()
            line = self._connections.take()
            try:
                reply = line.infer(message, self.model)
            finally:
                self._connections.give_back(line)
            return request.decode(reply)
        except BaseException as error:  # also Ctrl-C: a request whose end is unknown may still write into its memory
            if request.in_shared_memory and not is_answer(error):
                request.forget()
            raise

    def refuse(self) -> None:
        """Refuse new requests from now on."""
        self._closed = True

    def check_open(self) -> None:
        """Refuse to go on after `close`.

        Raises:
            InvalidRequest: The client is closed.
        """
        if self._closed:
            raise InvalidRequest(Fault(f"the client of '{self.model}' is closed", fix="make another TritonModel"))

    def _retry(self, call: Callable[[], Any], may_repeat: Callable[[ClientError], bool] = _RETRY_SAFE) -> Any:
        for pause_s in self.options.pauses_s():
            try:
                return call()
            except ClientError as error:
                if not may_repeat(error):
                    raise
                time.sleep(pause_s)
        return call()

    def _read(self, path: str, method: str, pick: Callable[[Any], Any]) -> Any:
        """Return what `pick` finds in a JSON document, or in a message as one."""
        self.check_open()
        try:
            return pick(self._connections.use(lambda line: self._document(line, path, method)))
        except codec.UNREADABLE as error:
            raise failures.unreadable(self.model, error) from None

    def _document(self, line: Any, path: str, method: str) -> Any:
        if self.protocol == "http":
            return line.json(path, self.model)
        from google.protobuf.json_format import MessageToDict

        request = line.message(f"{method}Request", name=self.model, version=self.version)
        return MessageToDict(line.call(method, request, self.model), preserving_proto_field_name=True)

    def _read_info(self) -> ModelInfo:
        def pick(found: Any) -> ModelInfo:
            return request_rules.model_info(
                self.model, found if self.protocol == "http" else found["config"], self.version
            )

        info: ModelInfo = self._read(f"{codec.model_path(self.model, self.version)}/config", "ModelConfig", pick)
        return info

    def _read_versions(self) -> list[str]:
        found: list[str] = self._read(
            codec.model_path(self.model), "ModelMetadata", lambda found: list(map(str, found["versions"]))
        )
        return found

    def _read_statistics(self) -> dict[str, int]:
        def pick(found: Any) -> dict[str, int]:
            newest = max(found["model_stats"], key=lambda item: int(item["version"]))
            return {name: int(newest.get(name, 0)) for name in ("inference_count", "execution_count")}

        counts: dict[str, int] = self._read(
            f"{codec.model_path(self.model, self.version)}/stats", "ModelStatistics", pick
        )
        return counts

    def built(self, info: ModelInfo, chunk: request_rules.Chunk) -> Request:
        """Return a request that is ready to be sent, with shared memory of its own where the client uses any."""
        self.check_open()
        if (
            self.memory is not None
        ):  # it may have to be filled in again, and the caller may have changed the arrays by then
            chunk = request_rules.Chunk(
                {name: array.copy() for name, array in chunk.arrays.items()}, chunk.rows, chunk.step
            )
        request = Request(info, chunk, self.protocol, None if self.memory is None else self.memory.make())
        if request.in_shared_memory:
            self._prepared.add(request)
            forks.register(request)
        try:
            request.message()
        except BaseException:
            self.release(request)
            raise
        return request

    def release(self, request: Request) -> None:
        """Give the shared memory of a request that was `built` back."""
        self._prepared.discard(request)
        request.close()


def _memory(connections: Pool[Any], protocol: Protocol, kind: SharedMemory) -> Pool[Regions]:
    registrar = ServerRegistrar(connections, protocol, kind)
    if kind == "cuda":
        preload.load_cuda()
        from .shared_memory.cuda import CudaRegion

        return Pool(lambda: Regions(registrar, CudaRegion))
    return Pool(lambda: Regions(registrar, Region))


class PreparedRequest:
    """A request that is already bytes (HTTP), a message (gRPC) or filled shared memory."""

    def __init__(self, model: TritonModel, request: Request) -> None:
        self._model, self._request, self._closed = model, request, False

    def using(self, model: TritonModel) -> PreparedRequest:
        """Return the same bytes to be sent by another client of the same model and protocol (not with shared memory).

        Raises:
            InvalidRequest: The other client calls another model or speaks another protocol, or memory would be shared.
        """
        if not isinstance(model, TritonModel):
            raise refused("the other client", model, "give a TritonModel")
        if (model.model, model.version, model.protocol) != (
            self._model.model,
            self._model.version,
            self._model.protocol,
        ):
            why = f"it was made for {self._model.model} over {self._model.protocol}"
            raise InvalidRequest(
                Fault(
                    "a prepared request fits its own model and protocol only",
                    why=why,
                    fix="prepare it with the other client",
                )
            )
        if self._request.in_shared_memory:
            why = "two at once would overwrite each other's answers"
            raise InvalidRequest(
                Fault("shared memory serves one client", why=why, fix="prepare the request with each client")
            )
        return PreparedRequest(model, self._request)

    def infer(self) -> Arrays:
        """Send it and return the answers, without rows that only filled a static batch."""
        return self._request.trim(self.raw())

    def raw(self) -> Arrays:
        """Send it and return the answers as they came; threads that share its memory take turns."""
        request = self._request
        if self._closed:
            raise InvalidRequest(Fault("the prepared request is closed", fix="prepare another one"))
        if not request.in_shared_memory:
            return self._model.send(request)
        timeout_s = self._model.options.timeout_s
        turn = request.turn
        if not turn.acquire(timeout=timeout_s):
            raise failures.timed_out(self._model.address, timeout_s)
        try:
            return self._model.send(request)
        finally:
            turn.release()

    def close(self) -> None:
        """Give its shared memory back; closing the client does so too."""
        self._closed = True
        with self._request.turn:
            self._model.release(self._request)


def is_answer(error: BaseException) -> bool:
    """True where the server has ended the request, so that it will write into no memory any more."""
    return isinstance(error, ClientError) and not isinstance(
        error, (ConnectionFailed, RequestTimeout, SharedMemoryUnavailable)
    )
