"""`TritonModel`: ask a served model, blocking.

In      a model's name.
Out     arrays by output name, or an error of clients/errors.py.

    >>> with TritonModel("digits") as model:                     # doctest: +SKIP
    ...     scores = model.infer_sample(image=picture)["scores"]

One client per thread: a connection answers one request at a time.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal

from planwright.errors import Fault

from . import core, failures, wire
from .core import Arrays, Chunk, ModelInfo
from .discover import Protocol, address
from .errors import ClientError, ConnectionFailed, InvalidRequest, ModelUnavailable, RequestTimeout
from .options import RETRIES, TIMEOUT_S, Options, Tls
from .shm import Regions

SharedMemory = Literal["system"]


class TritonModel:
    """A served model.

    Args:
        model: Its name; everything else is read from the server.
        url: ``host:port``; the server started here, or Triton's default port, when not given.
        protocol: ``http`` or ``grpc``.
        shared_memory: ``system`` to hand tensors over in shared memory (same machine only).
        version: A version, the newest when empty.
        timeout_s: Limit of one request.
        retries: See `clients.options.Options`.
        tls: TLS files; None for plain text.
        headers: Sent with each request.

    Raises:
        ClientError: On first use, see clients/errors.py.
    """

    def __init__(
        self, model: str, url: str | None = None, *, protocol: Protocol = "http", shared_memory: SharedMemory | None = None,
        version: str = "", timeout_s: float = TIMEOUT_S, retries: int = RETRIES, tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.model, self.version, self.protocol = model, str(version), protocol
        self.options = Options(timeout_s, retries, dict(headers or {}), tls)
        self.address = address(url, protocol)
        self._wants_shm = shared_memory is not None
        self._info: ModelInfo | None = None
        self._regions: Regions | None = None
        self._transport: Any = _transport(self.address, protocol, self.options)

    def __enter__(self) -> TritonModel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def info(self) -> ModelInfo:
        """Names, types, shapes and batch limit, read from the server once."""
        if self._info is None:
            self._info = self._retry(self._read_info)
        return self._info

    def infer_sample(self, *args: Any, **inputs: Any) -> Arrays:
        """Answer one sample: arrays without a batch axis in and out.

        Pass inputs by name, in the model's order, or as one mapping.
        """
        arrays = core.check_sample(self.info, self._named(args, inputs))
        return {name: array[0] for name, array in self._answer(arrays).items()}

    def infer_batch(self, *args: Any, **inputs: Any) -> Arrays:
        """Answer a batch: arrays ``(samples, ...)`` in and out; more than the server takes at once is split."""
        return self._answer(core.check_batch(self.info, self._named(args, inputs)))

    def prepare(self, *args: Any, **inputs: Any) -> PreparedRequest:
        """Build a request once, to be sent many times.

        Raises:
            InvalidRequest: It does not fit into one request.
        """
        chunks = list(core.split(self.info, core.check_batch(self.info, self._named(args, inputs))))
        if len(chunks) > 1:
            why = f"the server takes {self.info.limit} samples at once"
            raise InvalidRequest(Fault("a prepared request must be one request", why=why, fix="prepare smaller batches"))
        return PreparedRequest(self, chunks[0])

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until the server answers for the model.

        Raises:
            RequestTimeout: It does not in time; the fault says what the last answer was.
        """
        deadline, last = time.monotonic() + timeout_s, "no answer yet"
        while time.monotonic() < deadline:
            try:
                self._info = self._read_info()
                return
            except (ConnectionFailed, ModelUnavailable, RequestTimeout) as error:
                last = error.faults[0].why or error.faults[0].what
            time.sleep(0.1)
        raise RequestTimeout(Fault(f"'{self.model}' was not ready within {timeout_s:g} s", self.address, last, "see the server's ready table"))

    def close(self) -> None:
        """Give back shared memory and close the connection."""
        regions, self._regions = self._regions, None
        try:
            if regions is not None:
                regions.close()
        except ClientError:
            pass  # the server is gone, and its registrations with it; the memory itself is unlinked
        finally:
            self._transport.close()

    def _named(self, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return named(self.info, args, inputs)

    def _answer(self, arrays: Arrays) -> Arrays:
        chunks = list(core.split(self.info, arrays))
        return core.join(chunks, [PreparedRequest(self, chunk).raw() for chunk in chunks])

    def _retry(self, call: Any) -> Any:
        for pause_s in self.options.pauses_s():
            try:
                return call()
            except (ConnectionFailed, ModelUnavailable) as error:
                if not retryable(error):
                    raise
                time.sleep(pause_s)
        return call()

    def _read_info(self) -> ModelInfo:
        version = f"/versions/{self.version}" if self.version else ""
        if self.protocol == "http":
            metadata = self._transport.json(f"/v2/models/{self.model}{version}", self.model)
            config = self._transport.json(f"/v2/models/{self.model}{version}/config", self.model)
            return core.model_info(metadata, config, self.version)
        from google.protobuf.json_format import MessageToDict

        request = self._transport.message("ModelConfigRequest", name=self.model, version=self.version)
        answer = MessageToDict(self._transport.call("ModelConfig", request, self.model), preserving_proto_field_name=True)
        return core.model_info({"name": self.model}, answer["config"], self.version)

    def regions(self) -> Regions | None:
        """Return the client's shared memory, None where it uses none."""
        if self._wants_shm and self._regions is None:
            registrar = Registrar(self._transport, self.protocol)
            self._regions = Regions(self.info, registrar.register, registrar.unregister)
        return self._regions


class PreparedRequest:
    """A request that is already bytes (HTTP), a message (gRPC) or a filled region (shared memory).

    With shared memory the client's regions belong to the request prepared last.
    """

    def __init__(self, model: TritonModel, chunk: Chunk) -> None:
        self._model, self._chunk, self._info = model, chunk, model.info
        regions = model.regions()
        places = regions.put(chunk) if regions is not None else ({}, {})
        self._outputs = places[1]
        build = wire.http_body if model.protocol == "http" else wire.grpc_request
        self._request: Any = build(self._info, chunk, *places)

    def using(self, model: TritonModel) -> PreparedRequest:
        """Return the same bytes to be sent by another client of the same model and protocol (not with shared memory)."""
        twin = copy.copy(self)
        twin._model = model
        return twin

    def infer(self) -> Arrays:
        """Send it and return the answers, without rows that only filled a static batch."""
        rows = self._chunk.rows
        answers = self.raw()
        return {name: array[:rows] for name, array in answers.items()} if self._info.fixed_batch else answers

    def raw(self) -> Arrays:
        """Send it and return the answers as they came."""
        answers: Arrays = self._model._retry(self._once)
        return answers

    def _once(self) -> Arrays:
        transport = self._model._transport
        if self._model.protocol == "http":
            content, header_length = transport.infer(self._request, self._info.name)
            answers = wire.http_answer(self._info, content, header_length, self._outputs)
        else:
            answers = wire.grpc_answer(self._info, transport.infer(self._request, self._info.name), self._outputs)
        regions = self._model.regions() if self._outputs else None
        if regions is not None:
            answers |= regions.take(self._outputs, len(next(iter(self._chunk.arrays.values()))))
        return answers


class Registrar:
    """Tells the server about shared memory; the APIs may be restricted, so it sends the admin key where one is known."""

    def __init__(self, transport: Any, protocol: Protocol) -> None:
        self._transport, self._protocol = transport, protocol

    def register(self, name: str, key: str, size_bytes: int) -> None:
        """Register a region.

        Raises:
            SharedMemoryUnavailable: The server does not take it.
        """
        try:
            if self._protocol == "http":
                document = {"key": key, "offset": 0, "byte_size": size_bytes}
                self._transport.post_json(f"/v2/systemsharedmemory/region/{name}/register", document, name)
            else:
                request = self._transport.message("SystemSharedMemoryRegisterRequest", name=name, key=key, offset=0, byte_size=size_bytes)
                self._transport.call("SystemSharedMemoryRegister", request, name)
        except (ConnectionFailed, RequestTimeout):
            raise
        except ClientError as error:
            raise failures.no_shared_memory(error.faults[0].why) from None

    def unregister(self, name: str) -> None:
        """Unregister a region."""
        if self._protocol == "http":
            self._transport.post_json(f"/v2/systemsharedmemory/region/{name}/unregister", {}, name)
        else:
            self._transport.call("SystemSharedMemoryUnregister", self._transport.message("SystemSharedMemoryUnregisterRequest", name=name), name)


def named(info: ModelInfo, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return inputs by name, whichever way the caller passed them.

    Raises:
        InvalidRequest: More positional inputs than the model has, or one given twice.
    """
    if len(args) == 1 and isinstance(args[0], Mapping) and not inputs:
        return args[0]
    names = [tensor.name for tensor in info.inputs]
    if len(args) > len(names):
        raise InvalidRequest(Fault(f"{info.name} takes {len(names)} inputs", why=f"got {len(args)}; they are {', '.join(names)}", fix="pass them by name"))
    both = [name for name in names[: len(args)] if name in inputs]
    if both:
        raise InvalidRequest(Fault(f"input '{both[0]}' is given twice", fix="pass it by name or by place"))
    return {**dict(zip(names, args, strict=False)), **inputs}


def retryable(error: ClientError) -> bool:
    """True where sending again is safe: the request never reached a model."""
    text = error.faults[0].why.lower()
    if isinstance(error, ModelUnavailable):
        return "exceeds maximum queue size" in text or "unavailable" in text
    return "refused" in text or "failed to connect" in text


def _transport(where: str, protocol: Protocol, options: Options) -> Any:
    if protocol == "http":
        from .http import HttpTransport

        return HttpTransport(where, options)
    if protocol == "grpc":
        from .grpc import GrpcTransport

        return GrpcTransport(where, options)
    raise InvalidRequest(Fault(f"there is no protocol '{protocol}'", fix="use http or grpc"))

