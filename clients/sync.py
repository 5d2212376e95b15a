"""`TritonModel`: ask a served model, blocking.

In      a model's name.
Out     arrays by output name, or an error of clients/errors.py.

    >>> with TritonModel("digits") as model:                     # doctest: +SKIP
    ...     scores = model.infer_sample(image=picture)["scores"]

One client per thread: a connection answers one request at a time. Answers may be read-only views of received bytes.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Literal

from planwright.errors import Fault

from . import core, failures
from .core import Arrays, ModelInfo
from .discover import PROTOCOLS, Protocol, address, is_encrypted
from .errors import (
    ClientError,
    ConnectionFailed,
    InvalidRequest,
    ModelUnavailable,
    RequestTimeout,
    SharedMemoryUnavailable,
)
from .options import RETRIES, TIMEOUT_S, Options, Tls
from .request import Request
from .shm import Regions
from .wire import model_path

SharedMemory = Literal["system", "cuda"]


class TritonModel:
    """A served model.

    Args:
        model: Its name; everything else is read from the server.
        url: ``host:port``; the server started here, or Triton's default port, when not given. ``https://`` and
            ``grpcs://`` ask for TLS.
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
        _check_choices(model, protocol, shared_memory, timeout_s)
        self.model, self.version, self.protocol, self.allow_nan = model, str(version), protocol, allow_nan
        self.options = Options(timeout_s, retries, dict(headers or {}), tls or (Tls() if is_encrypted(url) else None))
        self.address = address(url, protocol)
        self._shm = shared_memory
        self._info: ModelInfo | None = None
        self._scratch: Regions | None = None
        self._prepared: list[Regions] = []
        self._transport: Any = _transport(self.address, protocol, self.options)

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

    def infer_sample(self, *args: Any, **inputs: Any) -> Arrays:
        """Answer one sample: arrays without a batch axis in and out.

        Pass inputs by name, in the model's order, or as one mapping.
        """
        arrays = core.check_sample(self.info, self._named(args, inputs), allow_nan=self.allow_nan)
        return {name: array[0] for name, array in self._answer(arrays).items()}

    def infer_batch(self, *args: Any, **inputs: Any) -> Arrays:
        """Answer a batch: arrays ``(samples, ...)`` in and out; more than the server takes at once is split."""
        return self._answer(core.check_batch(self.info, self._named(args, inputs), allow_nan=self.allow_nan))

    def prepare(self, *args: Any, **inputs: Any) -> PreparedRequest:
        """Build a request once, to be sent many times; takes what `infer_batch` takes.

        With shared memory each prepared request has memory of its own, so others may be sent in between.

        Raises:
            InvalidRequest: It does not fit into one request.
        """
        arrays = core.check_batch(self.info, self._named(args, inputs), allow_nan=self.allow_nan)
        request = Request(self.info, core.only_chunk(self.info, arrays), self.protocol, self.new_regions())
        request.message()
        return PreparedRequest(self, request)

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
        deadline, last = time.monotonic() + timeout_s, "no answer yet"
        while time.monotonic() < deadline:
            try:
                self._info = self._read_info()
                return
            except (ConnectionFailed, ModelUnavailable, RequestTimeout) as error:
                last = error.faults[0].why or error.faults[0].what
            time.sleep(max(min(0.1, deadline - time.monotonic()), 0))
        raise not_ready(self.model, timeout_s, self.address, last)

    def close(self) -> None:
        """Give back shared memory and close the connection; prepared requests over shared memory end with it."""
        regions = [*self._prepared, *filter(None, [self._scratch])]
        self._prepared, self._scratch = [], None
        try:
            for each in regions:
                each.close()
        finally:
            self._transport.close()

    def _named(self, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return named(self.info, args, inputs)

    def _answer(self, arrays: Arrays) -> Arrays:
        chunks = list(core.split(self.info, arrays))
        return core.join(
            chunks, [self.send(Request(self.info, chunk, self.protocol, self.scratch())) for chunk in chunks]
        )

    def send(self, request: Request) -> Arrays:
        """Send one request and return its answers as they came."""
        answers: Arrays = self._retry(lambda: self._send_once(request))
        return answers

    def _send_once(self, request: Request) -> Arrays:
        try:
            return request.decode(self._transport.infer(request.message(), self.model))
        except BaseException as error:  # also Ctrl-C: whoever does not know the end must not use the memory again
            if request.in_shared_memory and not is_answer(error):
                request.forget()
            raise

    def _retry(self, call: Callable[[], Any]) -> Any:
        for pause_s in self.options.pauses_s():
            try:
                return call()
            except ClientError as error:
                if not error.retry_safe:
                    raise
                time.sleep(pause_s)
        return call()

    def _read_info(self) -> ModelInfo:
        if self.protocol == "http":
            path = model_path(self.model, self.version)
            return core.model_info(self.model, self._transport.json(f"{path}/config", self.model), self.version)
        answer = self._call("ModelConfig", "ModelConfigRequest")
        return core.model_info(self.model, answer["config"], self.version)

    def _read_versions(self) -> list[str]:
        document = (
            self._transport.json(model_path(self.model), self.model)
            if self.protocol == "http"
            else self._call("ModelMetadata", "ModelMetadataRequest")
        )
        return [str(number) for number in document["versions"]]

    def _read_statistics(self) -> dict[str, int]:
        if self.protocol == "http":
            document = self._transport.json(f"{model_path(self.model, self.version)}/stats", self.model)
        else:
            document = self._call("ModelStatistics", "ModelStatisticsRequest")
        newest = max(document["model_stats"], key=lambda item: int(item["version"]))
        return {name: int(newest.get(name, 0)) for name in ("inference_count", "execution_count")}

    def _call(self, method: str, kind: str) -> dict[str, Any]:
        from google.protobuf.json_format import MessageToDict

        answer = self._transport.call(
            method, self._transport.message(kind, name=self.model, version=self.version), self.model
        )
        document: dict[str, Any] = MessageToDict(answer, preserving_proto_field_name=True)
        return document

    def scratch(self) -> Regions | None:
        """Return the shared memory that plain calls take turns with, None where the client uses none."""
        if self._shm and self._scratch is None:
            self._scratch = self._make_regions()
        return self._scratch

    def new_regions(self) -> Regions | None:
        """Return shared memory of its own for a prepared request, None where the client uses none."""
        if not self._shm:
            return None
        regions = self._make_regions()
        self._prepared.append(regions)
        return regions

    def _make_regions(self) -> Regions:
        registrar = Registrar(self._transport, self.protocol, self._shm or "system")
        if self._shm == "cuda":
            from .cuda_shm import CudaRegion

            return Regions(self.info, registrar.register, registrar.unregister, CudaRegion)
        return Regions(self.info, registrar.register, registrar.unregister)


class PreparedRequest:
    """A request that is already bytes (HTTP), a message (gRPC) or filled shared memory."""

    def __init__(self, model: TritonModel, request: Request) -> None:
        self._model, self._request = model, request

    def using(self, model: TritonModel) -> PreparedRequest:
        """Return the same bytes to be sent by another client of the same model and protocol (not with shared memory).

        Raises:
            InvalidRequest: The other client asks another model or speaks another protocol, or memory would be shared.
        """
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
        """Send it and return the answers as they came."""
        return self._model.send(self._request)

    def close(self) -> None:
        """Give its shared memory back; closing the client does so too."""
        self._request.close()


class Registrar:
    """Tells the server about shared memory.

    It sends no admin key: a server that lets clients use shared memory (``--allow-client-shm``) leaves this open.
    """

    def __init__(self, transport: Any, protocol: Protocol, kind: SharedMemory) -> None:
        self._transport, self._protocol, self._kind = transport, protocol, kind
        self._grpc_name = "CudaSharedMemory" if kind == "cuda" else "SystemSharedMemory"

    def register(self, name: str, key: str, size_bytes: int) -> None:
        """Register a region.

        Raises:
            SharedMemoryUnavailable: The server does not take it.
        """
        try:
            if self._protocol == "http":
                self._transport.post_json(self._path(name, "register"), self._document(key, size_bytes), name)
            else:
                place = (
                    {"raw_handle": base64.b64decode(key), "device_id": 0}
                    if self._kind == "cuda"
                    else {"key": key, "offset": 0}
                )
                kind = f"{self._grpc_name}RegisterRequest"
                request = self._transport.message(kind, name=name, byte_size=size_bytes, **place)
                self._transport.call(f"{self._grpc_name}Register", request, name)
        except (ConnectionFailed, RequestTimeout):
            raise
        except ClientError as error:
            raise failures.no_shared_memory(error.faults[0].why) from None

    def unregister(self, name: str) -> None:
        """Unregister a region."""
        if self._protocol == "http":
            self._transport.post_json(self._path(name, "unregister"), {}, name)
        else:
            request = self._transport.message(f"{self._grpc_name}UnregisterRequest", name=name)
            self._transport.call(f"{self._grpc_name}Unregister", request, name)

    def _path(self, name: str, verb: str) -> str:
        return f"/v2/{self._kind}sharedmemory/region/{name}/{verb}"

    def _document(self, key: str, size_bytes: int) -> dict[str, Any]:
        if self._kind == "cuda":
            return {"raw_handle": {"b64": key}, "device_id": 0, "byte_size": size_bytes}
        return {"key": key, "offset": 0, "byte_size": size_bytes}


def named(info: ModelInfo, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return inputs by name, whichever way the caller passed them.

    Raises:
        InvalidRequest: More positional inputs than the model has, or one given twice.
    """
    if len(args) == 1 and isinstance(args[0], Mapping) and not inputs:
        return args[0]
    names = [tensor.name for tensor in info.inputs]
    if len(args) > len(names):
        raise InvalidRequest(
            Fault(
                f"{info.name} takes {len(names)} inputs",
                why=f"got {len(args)}; they are {', '.join(names)}",
                fix="pass them by name",
            )
        )
    both = [name for name in names[: len(args)] if name in inputs]
    if both:
        raise InvalidRequest(Fault(f"input '{both[0]}' is given twice", fix="pass it by name or by place"))
    return {**dict(zip(names, args, strict=False)), **inputs}


def is_answer(error: BaseException) -> bool:
    """True where the server has ended the request, so that it will write into no memory any more."""
    return isinstance(error, ClientError) and not isinstance(
        error, (ConnectionFailed, RequestTimeout, SharedMemoryUnavailable)
    )


def not_ready(model: str, timeout_s: float, where: str, last: str) -> RequestTimeout:
    """The model did not become ready; `last` is the last answer."""
    return RequestTimeout(
        Fault(f"'{model}' was not ready within {timeout_s:g} s", where, last, "see the server's ready table")
    )


def _check_choices(model: str, protocol: str, shared_memory: str | None, timeout_s: float) -> None:
    if not model:
        raise InvalidRequest(Fault("the model's name is empty", fix="name a model that the server serves"))
    if protocol not in PROTOCOLS:
        raise InvalidRequest(Fault(f"there is no protocol '{protocol}'", fix="use http or grpc"))
    if shared_memory not in (None, "system", "cuda"):
        raise InvalidRequest(Fault(f"there is no shared memory '{shared_memory}'", fix="use system, cuda, or None"))
    if not timeout_s > 0:
        raise InvalidRequest(Fault(f"timeout_s is {timeout_s}", fix="give seconds greater than 0"))


def _transport(where: str, protocol: Protocol, options: Options) -> Any:
    if protocol == "http":
        from .http import HttpTransport

        return HttpTransport(where, options)
    if options.tls is None:
        from .grpc_plain import PlainGrpcTransport

        return PlainGrpcTransport(where, options)
    from .grpc import GrpcTransport

    return GrpcTransport(where, options)
