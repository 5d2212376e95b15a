"""gRPC, blocking, plain or with TLS: one connection, one call at a time.

In      an address and options.
Out     answered messages; errors of clients/errors.py.

Calls are encoded as HTTP/2 here, and not by the grpc package: its threads, locks and wake-ups take most of the CPU of a small request, and
under gevent need an extra switch; in a forked child they hang or end the process. Messages and method names are Triton's.
"""

from __future__ import annotations

import ssl
import struct
import threading
import time
from typing import Any
from urllib.parse import unquote

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from planwright.errors import Fault

from .. import errors, fork_safety
from ..addresses import split_address
from ..errors import ClientError, ConnectionFailed, InvalidRequest
from ..options import ClientOptions, checked_headers
from . import tcp
from .codec import GRPC_INFER, GRPC_SERVICE
from .http2 import Connection, NotHttp2Error, Reply, encode
from .idle_connections import MONITOR

_STATUS_DIGITS = 6
_PREFIX = struct.Struct(">BI")  # of a message: whether it is compressed, its length
_FRESH_S = 0.05  # a connection used so recently is not checked, which would be a system call per request
# https://github.com/grpc/grpc/blob/master/doc/statuscodes.md, in order of their numbers
_CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
    "UNAUTHENTICATED",
)  # fmt: skip
# of a proxy that answers by itself, https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md
_STATUSES = {"400": "INTERNAL", "401": "UNAUTHENTICATED", "403": "PERMISSION_DENIED", "404": "UNIMPLEMENTED", "429": "UNAVAILABLE",
             "502": "UNAVAILABLE", "503": "UNAVAILABLE", "504": "UNAVAILABLE"}  # fmt: skip
_RESETS = {7: "UNAVAILABLE", 8: "CANCELLED", 11: "RESOURCE_EXHAUSTED", 12: "PERMISSION_DENIED"}  # the rest: INTERNAL


class GrpcTransport:
    """One connection to one server, used by one thread at a time; others wait. `context` for TLS."""

    def __init__(self, address: str, options: ClientOptions, context: ssl.SSLContext | None = None) -> None:
        self.address, self._options, self._context = address, options, context
        self._where = split_address(address)
        self._connection: Connection | None = None
        self._used = 0.0
        self._turn = threading.Lock()
        self._metadata = tuple((name.lower(), value) for name, value in checked_headers(options.headers).items())
        self._heads = {GRPC_INFER: self._header_block(GRPC_INFER)}
        fork_safety.register(self)

    def call(self, method: str, request: Any, model: str) -> Any:
        """Call one RPC."""
        kind = getattr(service_pb2, f"{method}Response")
        try:
            return kind.FromString(self._call(GRPC_SERVICE + method, request.SerializeToString(), model))
        except DecodeError as error:
            raise errors.unreadable_answer(model, error) from None

    def infer(self, request: bytes, model: str) -> memoryview:
        """Send a serialized message; returns the answer's bytes."""
        return self._call(GRPC_INFER, request, model)

    def message(self, kind: str, /, **fields: Any) -> Any:
        """Make a request message."""
        return getattr(service_pb2, kind)(**fields)

    def close(self) -> None:
        """Close the connection; an open one would hold up the server's shutdown."""
        kept, self._connection = self._connection, None
        if kept is not None:
            kept.close()

    @property
    def connected(self) -> bool:
        """True while there is a connection."""
        return self._connection is not None

    def check_idle(self) -> None:
        """Close the connection if it is idle and the server wants it closed."""
        turn = self._turn
        if not turn.acquire(blocking=False):
            return
        try:
            kept = self._connection
            if kept is not None and time.monotonic() - self._used > _FRESH_S and not kept.alive():
                self.close()
        finally:
            turn.release()

    def interrupt(self) -> None:
        """Make the call that waits for an answer fail; called from another thread."""
        kept = self._connection
        if kept is not None:
            kept.interrupt()

    def after_fork(self) -> None:
        """Close this copy of the parent's connection, in a forked child."""
        self._turn = threading.Lock()
        self.close()

    def _call(self, path: str, message: bytes, model: str) -> memoryview:
        """Return the message of the answer, not yet parsed; raises `ClientError` where the call failed."""
        body = _PREFIX.pack(0, len(message)) + message
        deadline = time.monotonic() + self._options.timeout_s
        turn = self._turn
        if not turn.acquire(blocking=False) and not turn.acquire(timeout=self._options.timeout_s):
            raise errors.request_timeout(self.address, self._options.timeout_s)
        try:
            reply = self._exchange(self._heads.get(path) or self._header_block(path), body, deadline)
        finally:
            turn.release()
        return self._read(reply, model)

    def _exchange(self, head: bytes, body: bytes, deadline: float) -> Reply:
        try:
            reply = self._open(deadline).exchange(head, body, deadline)
        except BaseException as error:  # also Ctrl-C: the rest of the answer would be taken for the next one
            kept = self._connection
            self.close()
            if isinstance(error, OSError):
                raise self._lost(error, kept) from None
            raise
        self._used = time.monotonic()
        return reply

    def _header_block(self, path: str) -> bytes:
        """Return a method's header fields, encoded; raises `InvalidRequest` where the caller's own headers are too long."""
        fields = [(":method", "POST"), (":scheme", "https" if self._context else "http"), (":path", path), (":authority", self.address),
                  ("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "planwright")]  # fmt: skip
        try:
            return encode([*fields, *self._metadata])
        except ValueError as error:
            raise InvalidRequest(Fault("the headers are too long", why=str(error), fix="give shorter ones")) from None

    def _open(self, deadline: float) -> Connection:
        kept = self._connection
        if kept is not None and (kept.last or (time.monotonic() - self._used > _FRESH_S and not kept.alive())):
            self.close()
        if self._connection is None:
            timeout_s = deadline - time.monotonic()
            self._connection = Connection(tcp.connect(self._where, self.address, timeout_s, self._context))
            MONITOR.add(self)
        return self._connection

    def _lost(self, error: OSError, kept: Connection | None) -> ClientError:
        if isinstance(error, TimeoutError):
            return errors.request_timeout(self.address, self._options.timeout_s)
        if isinstance(error, NotHttp2Error):
            fix = "give the server's gRPC port, 8001 by default, or protocol='http'"
            return ConnectionFailed(Fault(f"no gRPC server at {self.address}", why=str(error), fix=fix))
        if self._context and kept is not None and not kept.greeted:
            # TLS 1.3 rejects a client after the handshake
            return errors.tls_failed(self.address, error, retry_safe=True)
        return errors.connection_lost(self.address, error, answered=kept is not None and kept.answered)

    def _read(self, reply: Reply, model: str) -> memoryview:
        """Return the message of a reply, not yet parsed; raises `ClientError` where the call failed."""
        if not reply.blocks or reply.blocks[-1].get("grpc-status") != "0":
            raise self._failure(reply, model)
        content = reply.parts[0] if len(reply.parts) == 1 else b"".join(reply.parts)
        if content[: _PREFIX.size] != _PREFIX.pack(0, max(len(content) - _PREFIX.size, 0)):
            raise errors.unreadable_answer(model, ValueError("it is not one uncompressed message"))
        return memoryview(content)[_PREFIX.size :]

    def _failure(self, reply: Reply, model: str) -> ClientError:
        fields = reply.fields
        status, http = fields.get("grpc-status", ""), fields.get(":status", "")
        if status.isascii() and status.isdecimal() and len(status) < _STATUS_DIGITS:
            code = _CODES[int(status)] if int(status) < len(_CODES) else "UNKNOWN"
            text = unquote(fields.get("grpc-message", ""))
        elif reply.reset is not None:
            code = _RESETS.get(reply.reset, "INTERNAL")
            text = f"the server reset the call, HTTP/2 error {reply.reset}"
        elif http in _STATUSES:
            code, text = _STATUSES[http], f"HTTP status {http}"
        else:
            sent = ", ".join(f"{name} {value}" for name, value in fields.items()) or "nothing"
            return errors.unreadable_answer(model, ValueError(f"no gRPC status; the peer sent {sent}"))
        return errors.error_from_grpc(code, text, model, self.address, self._options.timeout_s)
