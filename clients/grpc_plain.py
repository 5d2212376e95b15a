"""gRPC without TLS, blocking: one connection, one call at a time.

In      an address and options.
Out     answered messages; errors of the tree.

Calls are written here as HTTP/2, and not by the grpc package: its threads, locks and wake-ups take most of the CPU of a small request, and
under gevent need a switch of their own. Messages and method names are Triton's own.
"""

from __future__ import annotations

import functools
import socket
import struct
import time
from typing import Any
from urllib.parse import unquote

from planwright.errors import Fault

from . import failures
from .discover import split_address
from .errors import ClientError, ConnectionFailed, InvalidRequest
from .grpc import SERVICE, told
from .http2 import Connection, NotHttp2Error, Reply, encode
from .options import Options

_PREFIX = struct.Struct(">BI")  # of a message: is it compressed, its length
_FRESH_S = 0.05  # a connection used so lately is not looked at again: a system call per request
# https://github.com/grpc/grpc/blob/master/doc/statuscodes.md, in order of their numbers
_CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
    "UNAUTHENTICATED",
)  # fmt: skip
_RESETS = {7: "UNAVAILABLE", 8: "CANCELLED", 11: "RESOURCE_EXHAUSTED", 12: "PERMISSION_DENIED"}  # the rest: INTERNAL


class PlainGrpcTransport:
    """One connection to one server; not for two threads at once."""

    def __init__(self, address: str, options: Options) -> None:
        from google.protobuf.message import DecodeError
        from tritonclient.grpc import service_pb2

        self.address, self._options, self._messages = address, options, service_pb2
        self._where = split_address(address)
        self._connection: Connection | None = None
        self._used = 0.0
        self._unreadable = DecodeError
        self._metadata = tuple((name.lower(), _one_line(name, value)) for name, value in options.headers.items())
        self._head = functools.lru_cache(maxsize=None)(self._describe)

    def call(self, method: str, request: Any, model: str) -> Any:
        """Call one RPC."""
        kind = getattr(self._messages, f"{method}Response")
        try:
            return kind.FromString(self._ask(method, request, model))
        except self._unreadable as error:
            raise failures.unreadable(model, error) from None

    def infer(self, request: Any, model: str) -> memoryview:
        """Send a prepared message; returns the answer's bytes."""
        return self._ask("ModelInfer", request, model)

    def message(self, kind: str, /, **fields: Any) -> Any:
        """Make a request message."""
        return getattr(self._messages, kind)(**fields)

    def close(self) -> None:
        """Close the connection; an open one would hold up the server's shutdown."""
        kept, self._connection = self._connection, None
        if kept is not None:
            kept.close()

    def _ask(self, method: str, request: Any, model: str) -> memoryview:
        content = request.SerializeToString()
        deadline = time.monotonic() + self._options.timeout_s
        try:
            connection = self._open(deadline)
            reply = connection.ask(self._head(method), _PREFIX.pack(0, len(content)) + content, deadline)
        except BaseException as error:  # also Ctrl-C: what is still to come would answer the next call
            answered = self._connection is not None and self._connection.answered
            self.close()
            if isinstance(error, OSError):
                raise self._lost(error, answered=answered) from None
            raise
        self._used = time.monotonic()
        return self._read(reply, model)

    def _describe(self, method: str) -> bytes:
        """Return a method's header fields."""
        fields = [(":method", "POST"), (":scheme", "http"), (":path", SERVICE + method), (":authority", self.address),
                  ("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "planwright")]  # fmt: skip
        return encode([*fields, *self._metadata])

    def _open(self, deadline: float) -> Connection:
        kept = self._connection
        if kept is not None and (kept.last or (time.monotonic() - self._used > _FRESH_S and not kept.alive())):
            self.close()
        if self._connection is None:
            self._connection = self._connect(deadline - time.monotonic())
        return self._connection

    def _connect(self, timeout_s: float) -> Connection:
        try:
            plain = socket.create_connection(self._where, timeout=max(timeout_s, 0.001))
        except TimeoutError:
            raise
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that cannot be one
            raise failures.refused(self.address, error) from None
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Connection(plain)

    def _lost(self, error: OSError, *, answered: bool) -> ClientError:
        if isinstance(error, TimeoutError):
            return failures.timed_out(self.address, self._options.timeout_s)
        if isinstance(error, NotHttp2Error):
            fix = "give the server's gRPC port, 8001 by default, or protocol='http'"
            return ConnectionFailed(Fault(f"no gRPC server at {self.address}", why=str(error), fix=fix))
        return failures.lost(self.address, error, answered=answered)

    def _read(self, reply: Reply, model: str) -> memoryview:
        """Return the message of a reply, not yet parsed.

        Raises:
            ClientError: The call failed, or the reply is not one.
        """
        status = reply.blocks[-1].get("grpc-status") if reply.blocks else None
        if status != "0":
            raise self._failure(reply, status, model)
        content = reply.parts[0] if len(reply.parts) == 1 else b"".join(reply.parts)
        if content[: _PREFIX.size] != _PREFIX.pack(0, max(len(content) - _PREFIX.size, 0)):
            raise failures.unreadable(model, ValueError("it is not one uncompressed message"))
        return memoryview(content)[_PREFIX.size :]

    def _failure(self, reply: Reply, status: str | None, model: str) -> ClientError:
        if status is not None and status.isdecimal():
            code = _CODES[int(status)] if int(status) < len(_CODES) else "UNKNOWN"
            return told(code, unquote(reply.fields.get("grpc-message", "")), model, self.address, self._options)
        if reply.reset is not None:
            code = _RESETS.get(reply.reset, "INTERNAL")
            return told(
                code, f"the server broke the call off, HTTP/2 error {reply.reset}", model, self.address, self._options
            )
        said = ", ".join(f"{name} {value}" for name, value in reply.fields.items()) or "nothing"
        return failures.unreadable(model, ValueError(f"no gRPC status; it says {said}"))


def _one_line(name: str, value: str) -> str:
    """Return the value of a header.

    Raises:
        InvalidRequest: It holds what a header cannot.
    """
    if not f"{name}{value}".isprintable() or not f"{name}{value}".isascii():
        raise InvalidRequest(
            Fault(
                f"header '{name.strip()}' holds a line break, or a letter beyond ASCII", fix="give headers of one line"
            )
        )
    return value
