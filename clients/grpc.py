"""gRPC with TLS, blocking: one channel and Triton's own messages; also what both gRPC transports share.

In      an address and options.
Out     answered messages; errors of the tree.

Without TLS, clients/grpc_plain.py takes its place. Under locust, ``grpc.experimental.gevent.init_gevent()`` must run before the first
channel; loadtest does that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import failures
from .errors import ClientError
from .options import Options, Tls, unreadable

SERVICE = "/inference.GRPCInferenceService/"
INFER = SERVICE + "ModelInfer"
# gRPC's own limit of 4 MiB per message is below one batch of images
_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # the channel's own pauses grow to minutes, so a server that comes back would go unnoticed that long
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


def channel_options() -> list[tuple[str, int]]:
    """Return the channel options that both the sync and the async client use."""
    return list(_CHANNEL)


def credentials(options: Options) -> Any:
    """Return gRPC channel credentials.

    Raises:
        InvalidRequest: A TLS file cannot be read.
    """
    import grpc

    tls = options.tls or Tls()
    try:
        parts = [Path(name).read_bytes() if name else None for name in (tls.root_certificate, tls.key, tls.certificate)]
    except OSError as error:
        raise unreadable(tls, error) from None
    return grpc.ssl_channel_credentials(*parts)


# words of the gRPC library, to tell an unavailable server from a server that says "unavailable"
_NOBODY = ("failed to connect", "Connection refused", "errors resolving", "DNS resolution", "Name or service")
_BROKEN = (
    "Connection reset",
    "Socket closed",
    "recvmsg",
    "sendmsg",
    "GOAWAY",
    "End of TCP",
    "Broken pipe",
    "Stream removed",
)


class GrpcTransport:
    """One channel to one server."""

    def __init__(self, address: str, options: Options) -> None:
        import grpc
        from tritonclient.grpc import service_pb2, service_pb2_grpc

        self.address, self._options, self._messages = address, options, service_pb2
        secure = options.tls is not None
        self._channel = (
            grpc.secure_channel(address, credentials(options), channel_options())
            if secure
            else grpc.insecure_channel(address, channel_options())
        )
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._infer = self._channel.unary_unary(INFER)
        self._metadata = tuple((key.lower(), value) for key, value in options.headers.items())

    def call(self, method: str, request: Any, model: str) -> Any:
        """Call one RPC."""
        return self._ask(getattr(self._stub, method), request, model)

    def infer(self, request: bytes, model: str) -> Any:
        """Send a serialized message; returns the answer's bytes."""
        return self._ask(self._infer, request, model)

    def _ask(self, method: Any, request: Any, model: str) -> Any:
        import grpc

        try:
            return method(request, timeout=self._options.timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise failure(error, model, self.address, self._options) from None

    def message(self, kind: str, /, **fields: Any) -> Any:
        """Make a request message."""
        return getattr(self._messages, kind)(**fields)

    def close(self) -> None:
        """Close the channel; under gevent the process would not end otherwise."""
        self._channel.close()


def failure(error: Any, model: str, address: str, options: Options) -> ClientError:
    """Turn an RpcError, sync or async, into an error of the tree."""
    return told(error.code().name, str(error.details() or ""), model, address, options)


def told(code: str, text: str, model: str, address: str, options: Options) -> ClientError:
    """Turn a status and its words into an error of the tree; `code` is a name of grpc.StatusCode."""
    if code == "DEADLINE_EXCEEDED":
        return failures.timed_out(address, options.timeout_s)
    if code == "UNAVAILABLE" and any(part in text for part in ("handshake", "SSL", "TLS", "certificate")):
        return failures.no_tls(address, ConnectionError(text))
    if code == "UNAVAILABLE" and any(part in text for part in _NOBODY):
        return failures.refused(address, ConnectionError(text))
    if code == "UNAVAILABLE" and any(part in text for part in _BROKEN):
        return failures.lost(address, ConnectionError(text))
    return failures.from_grpc(model, code, text)
