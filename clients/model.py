"""`TritonModel`: call a served model, blocking.

In      a model's name.
Out     arrays by output name, or an error of clients/errors.py.

    >>> with TritonModel("digits") as model:                     # doctest: +SKIP
    ...     scores = model.infer_sample(image=picture)["scores"]

Threads may share a client: each request has its own connection, and its own shared memory, while it lasts. A forked child may use its parent's
client: it opens its own connections. Answers may be read-only views of received bytes.
"""

from __future__ import annotations

import functools
import operator
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from planwright.errors import Fault
from planwright.tensors import Arrays, first_sample

from . import errors, fork_safety
from . import options as option_rules
from . import request as request_rules
from .addresses import address, is_encrypted
from .encoded_request import EncodedRequest
from .errors import ClientError, ConnectionFailed, InvalidRequest, ModelUnavailable, RequestTimeout
from .options import READY_TIMEOUT_S, RETRIES, TIMEOUT_S, ClientOptions, Protocol, SharedMemory, Tls
from .request import Args, Chunk, Inputs, ModelInfo, SequenceStep, sequence_step
from .shared_memory.system import RegionPair, ServerRegistrar, SystemRegion
from .transport import codec
from .transport.pool import Pool

Result = TypeVar("Result")
_RETRY_SAFE = operator.attrgetter("retry_safe")
# modules that requests would otherwise import; of every client: numpy loads numpy.ma late, Python the codec of host names
_MODULES = ("numpy.ma", "encodings.idna", "tritonclient.utils")
_PROTOCOL_MODULES = {
    "http": (".transport.http", "geventhttpclient.response", "tritonclient.http"),
    "grpc": (".transport.grpc", "google.protobuf.json_format", "tritonclient.grpc.service_pb2"),
}


class TritonModel:
    """A served model.

    Args:
        model: Its name; everything else is read from the server.
        url: ``host:port``; the server started here, or Triton's default port, when not given. ``https://`` and
            ``grpcs://`` mean TLS.
        protocol: ``http`` or ``grpc``.
        shared_memory: ``system`` or ``cuda`` to pass tensors in shared memory (same machine only).
        version: A version, the newest when empty.
        timeout_s: Time limit of one request.
        retries: How often a request is sent again where that is safe (`ClientError.retry_safe`), after growing pauses.
        tls: TLS files; None for plain text.
        headers: Sent with each request.
        allow_nan: Accept NaN in inputs, which is an `InvalidRequest` otherwise.

    Raises:
        ClientError: On first use, see clients/errors.py.
    """

    def __init__(
        self, model: str, url: str | None = None, *, protocol: Protocol = "http", shared_memory: SharedMemory | None = None,
        version: str = "", timeout_s: float = TIMEOUT_S, retries: int = RETRIES, tls: Tls | None = None,
        headers: Mapping[str, str] | None = None, allow_nan: bool = False,
    ) -> None:  # fmt: skip
        option_rules.check_choices(model=model, url=url, protocol=protocol, shared_memory=shared_memory)
        self.model, self.version, self.protocol = model, option_rules.checked_version(version), protocol
        self.allow_nan = option_rules.checked_flag("allow_nan", allow_nan)
        tls = Tls() if tls is None and is_encrypted(url) else tls
        self.options = option_rules.checked_options(timeout_s, retries, headers, tls)
        self.address = address(url, protocol)
        self._info: ModelInfo | None = None
        self._closed = False
        self._prepared: set[EncodedRequest] = set()
        self._connections: Pool[Any] = Pool(_connection_factory(self.address, protocol, self.options))
        self._connections.use(bool)  # reports invalid options now, and not with the first request
        self.memory = _memory_pool(self._connections, protocol, shared_memory) if shared_memory else None

    def __enter__(self) -> TritonModel:
        return self

    def __exit__(self, *_: object) -> None:
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
        return first_sample(self.infer_at(None, args, inputs, sample=True))

    def infer_batch(self, /, *args: Any, **inputs: Any) -> Arrays:
        """Answer a batch: arrays ``(samples, ...)`` in and out; more than the server takes at once is split."""
        return self.infer_at(None, args, inputs, sample=False)

    def prepare(self, /, *args: Any, **inputs: Any) -> PreparedRequest:
        """Encode a request once, to be sent many times; takes what `infer_batch` takes.

        With shared memory each prepared request has its own memory, so others may be sent in between.

        Raises:
            InvalidRequest: It does not fit into one request.
        """
        return self.prepare_at(None, args, inputs)

    def sequence(self, sequence_id: int | str | None = None, *, start: bool = False, end: bool = False) -> Sequence:
        """Return a sender for requests of a sequence, with `infer_sample`, `infer_batch` and `prepare`.

        Args:
            sequence_id: A number or text, the same for all requests of the sequence; without one, each is a sequence of its own.
            start: Whether the requests are the first of their sequence.
            end: Whether they are the last.

        Example:
            model.sequence(42, start=True).infer_sample(x=first)
            model.sequence(42, end=True).infer_sample(x=last)
        """
        return Sequence(self, sequence_step(sequence_id, start=start, end=end))

    def standalone(self) -> TritonModel | Sequence:
        """Return a sender of independent requests: the client, or for a sequence model sequences of one request."""
        return self.sequence(start=True, end=True) if self.info.sequence else self

    def infer_at(self, step: SequenceStep | None, args: Args, inputs: Inputs, *, sample: bool) -> Arrays:
        """Answer a batch, or one sample as a batch of one, at a step of a sequence."""
        arrays = request_rules.check_call(self.info, step, args, inputs, sample=sample, allow_nan=self.allow_nan)
        chunks = list(request_rules.split(self.info, arrays, step))
        if self.memory is None:
            return request_rules.join(chunks, self._send_all(chunks, None))
        return request_rules.join(chunks, self.memory.use(lambda regions: self._send_all(chunks, regions)))

    def prepare_at(self, step: SequenceStep | None, args: Args, inputs: Inputs) -> PreparedRequest:
        """Encode a request at a step of a sequence."""
        arrays = request_rules.check_call(self.info, step, args, inputs, sample=False, allow_nan=self.allow_nan)
        return PreparedRequest(self, self.encode(self.info, request_rules.only_chunk(self.info, arrays, step)))

    def versions(self) -> list[str]:
        """Return the versions that the server answers for, oldest first."""
        path = codec.model_path(self.model)
        return self._retry(
            lambda: self._read(path, "ModelMetadata", lambda found: sorted(map(str, found["versions"]), key=int))
        )

    def statistics(self) -> dict[str, int]:
        """Return how many samples the served version has answered and in how many executions, since it was loaded."""

        def pick(found: Any) -> dict[str, int]:
            newest = max(found["model_stats"], key=lambda item: int(item["version"]))
            return {name: int(newest.get(name, 0)) for name in ("inference_count", "execution_count")}

        path = f"{codec.model_path(self.model, self.version)}/stats"
        return self._retry(lambda: self._read(path, "ModelStatistics", pick))

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until the server answers for the model.

        Raises:
            RequestTimeout: It does not in time; the fault gives the last answer.
        """
        deadline, last = time.monotonic() + option_rules.checked_seconds(timeout_s, zero=True), "no answer yet"
        while time.monotonic() < deadline:
            try:
                self._info = self._read_info()
                return
            except (ConnectionFailed, ModelUnavailable, RequestTimeout) as error:
                last = error.faults[0].why or error.faults[0].what
            time.sleep(max(min(0.1, deadline - time.monotonic()), 0))
        raise errors.not_ready(self.model, timeout_s, self.address, last)

    def close(self) -> None:
        """Release shared memory and close the connections; requests that other threads wait for fail."""
        self.refuse_requests()
        self._connections.interrupt()
        try:
            for request in list(self._prepared):
                with request.turn:
                    self.release(request)
            if self.memory is not None:
                self.memory.close()
        finally:
            self._connections.close()

    def _send_all(self, chunks: list[Chunk], regions: RegionPair | None) -> list[Arrays]:
        return [self.send(EncodedRequest(self.info, chunk, self.protocol, regions)) for chunk in chunks]

    def send(self, request: EncodedRequest) -> Arrays:
        """Send one request, with retries, and return its answers, padding included."""
        return self._retry(lambda: self._send_once(request), request.may_repeat)

    def _send_once(self, request: EncodedRequest) -> Arrays:
        self.check_open()
        try:
            message = request.message()
            connection = self._connections.take()
            try:
                reply = connection.infer(message, self.model)
            finally:
                self._connections.give_back(connection)
            return request.decode(reply)
        except BaseException as error:  # also Ctrl-C: a request that may not have ended may still write into its memory
            if request.in_shared_memory and not has_ended(error):
                request.abandon_memory()
            raise

    def refuse_requests(self) -> None:
        """Refuse new requests from now on."""
        self._closed = True

    def check_open(self) -> None:
        """Check that `close` was not called.

        Raises:
            InvalidRequest: The client is closed.
        """
        if self._closed:
            raise InvalidRequest(Fault(f"the client of '{self.model}' is closed", fix="make another TritonModel"))

    def _retry(self, call: Callable[[], Result], may_repeat: Callable[[ClientError], bool] = _RETRY_SAFE) -> Result:
        for pause_s in self.options.pauses_s():
            try:
                return call()
            except ClientError as error:
                if not may_repeat(error):
                    raise
                time.sleep(pause_s)
        return call()

    def _read(self, path: str, method: str, pick: Callable[[Any], Result]) -> Result:
        """Return what `pick` finds in the JSON document at `path`, or in the answer of the gRPC `method` as one."""
        self.check_open()
        try:
            return pick(self._connections.use(lambda connection: self._document(connection, path, method)))
        except codec.UNREADABLE as error:
            raise errors.unreadable_answer(self.model, error) from None

    def _document(self, connection: Any, path: str, method: str) -> Any:
        if self.protocol == "http":
            return connection.json(path, self.model)
        from google.protobuf.json_format import MessageToDict

        request = connection.message(f"{method}Request", name=self.model, version=self.version)
        return MessageToDict(connection.call(method, request, self.model), preserving_proto_field_name=True)

    def _read_info(self) -> ModelInfo:
        def pick(found: Any) -> ModelInfo:
            config = found if self.protocol == "http" else found["config"]
            return request_rules.model_info(self.model, config, self.version)

        return self._read(f"{codec.model_path(self.model, self.version)}/config", "ModelConfig", pick)

    def encode(self, info: ModelInfo, chunk: Chunk) -> EncodedRequest:
        """Return a request that is ready to be sent, with its own shared memory where the client uses any."""
        self.check_open()
        if self.memory is not None:  # it may have to be encoded again, after the caller has changed the arrays
            chunk = Chunk({name: array.copy() for name, array in chunk.arrays.items()}, chunk.rows, chunk.step)
        request = EncodedRequest(info, chunk, self.protocol, None if self.memory is None else self.memory.make())
        if request.in_shared_memory:
            self._prepared.add(request)
            fork_safety.register(request)
        try:
            request.message()
        except BaseException:
            self.release(request)
            raise
        return request

    def release(self, request: EncodedRequest) -> None:
        """Release the shared memory of a request that `encode` returned."""
        self._prepared.discard(request)
        request.close()


def _connection_factory(address: str, protocol: Protocol, options: ClientOptions) -> Callable[[], Any]:
    """Return a function that makes connections; the TLS files are read once, for all of them.

    Raises `InvalidRequest` where one of these files cannot be used, or a package is missing.
    """
    fork_safety.preload((*_MODULES, *_PROTOCOL_MODULES[protocol]), protocol)
    context = option_rules.ssl_context(options.tls, http2=protocol == "grpc") if options.tls else None
    if protocol == "http":
        from .transport.http import HttpTransport

        return functools.partial(HttpTransport, address, options, context)
    from .transport.grpc import GrpcTransport

    return functools.partial(GrpcTransport, address, options, context)


def _memory_pool(connections: Pool[Any], protocol: Protocol, kind: SharedMemory) -> Pool[RegionPair]:
    registrar = ServerRegistrar(connections, protocol, kind)
    if kind == "system":
        return Pool(lambda: RegionPair(registrar, SystemRegion))
    with fork_safety.IMPORT_LOCK:
        from .shared_memory import cuda

        cuda.load()
    return Pool(lambda: RegionPair(registrar, cuda.CudaRegion))


class Sequence:
    """Sends requests that carry a `SequenceStep`; the methods are those of `TritonModel`."""

    def __init__(self, model: TritonModel, step: SequenceStep) -> None:
        self._model, self._step = model, step

    def infer_sample(self, /, *args: Any, **inputs: Any) -> Arrays:
        """Answer one sample."""
        return first_sample(self._model.infer_at(self._step, args, inputs, sample=True))

    def infer_batch(self, /, *args: Any, **inputs: Any) -> Arrays:
        """Answer a batch of one, or whole tensors of a model without a batch axis."""
        return self._model.infer_at(self._step, args, inputs, sample=False)

    def prepare(self, /, *args: Any, **inputs: Any) -> PreparedRequest:
        """Encode a request once, to be sent many times with the same id."""
        return self._model.prepare_at(self._step, args, inputs)


class PreparedRequest:
    """A request that is already bytes (HTTP), a message (gRPC) or filled shared memory."""

    def __init__(self, model: TritonModel, request: EncodedRequest) -> None:
        self._model, self._request, self._closed = model, request, False

    def using(self, model: TritonModel) -> PreparedRequest:
        """Return the same bytes to be sent by another client of the same model and protocol (not with shared memory).

        Raises:
            InvalidRequest: The other client has another model or protocol, or memory would be shared.
        """
        if not isinstance(model, TritonModel):
            raise option_rules.invalid_argument("client", model, "give a TritonModel")
        own = self._model
        if (model.model, model.version, model.protocol) != (own.model, own.version, own.protocol):
            what = "a prepared request fits its own model and protocol only"
            why, fix = f"it was made for {own.model} over {own.protocol}", "prepare it with the other client"
            raise InvalidRequest(Fault(what, why=why, fix=fix))
        if self._request.in_shared_memory:
            why, fix = "two at once would overwrite each other's answers", "prepare the request with each client"
            raise InvalidRequest(Fault("shared memory serves one client", why=why, fix=fix))
        return PreparedRequest(model, self._request)

    def infer(self) -> Arrays:
        """Send it and return the answers, without rows that only padded a static batch."""
        return self._request.trim(self.raw())

    def raw(self) -> Arrays:
        """Send it and return the answers, padding included; threads that share its memory take turns."""
        request = self._request
        if self._closed:
            raise InvalidRequest(Fault("the prepared request is closed", fix="prepare another one"))
        if not request.in_shared_memory:
            return self._model.send(request)
        timeout_s = self._model.options.timeout_s
        turn = request.turn
        if not turn.acquire(timeout=timeout_s):
            raise errors.request_timeout(self._model.address, timeout_s)
        try:
            return self._model.send(request)
        finally:
            turn.release()

    def close(self) -> None:
        """Release its shared memory; closing the client does so too."""
        self._closed = True
        with self._request.turn:
            self._model.release(self._request)


def has_ended(error: BaseException) -> bool:
    """True where the server has finished the request, so that it no longer writes into its memory."""
    may_still_run = (ConnectionFailed, RequestTimeout, errors.SharedMemoryUnavailable)
    return isinstance(error, ClientError) and not isinstance(error, may_still_run)
