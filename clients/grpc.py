"""gRPC, blocking: one channel and Triton's own messages.

In      an address and options.
Out     answered messages; errors of the tree.

Under locust, ``grpc.experimental.gevent.init_gevent()`` must run before the first channel; loadtest does that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import failures
from .options import Options

# gRPC's own limit of 4 MiB per message is below one batch of images
_CHANNEL = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def channel_options() -> list[tuple[str, int]]:
    """Return the channel options that both the sync and the async client use."""
    return list(_CHANNEL)


def credentials(options: Options) -> Any:
    """Return gRPC channel credentials."""
    import grpc

    tls = options.tls
    parts = [Path(name).read_bytes() if name else None for name in (tls.root_certificate, tls.key, tls.certificate)] if tls else [None] * 3
    return grpc.ssl_channel_credentials(*parts)


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
        self._metadata = tuple((key.lower(), value) for key, value in options.headers.items())

    def call(self, method: str, request: Any, model: str) -> Any:
        """Call one RPC."""
        import grpc

        try:
            return getattr(self._stub, method)(request, timeout=self._options.timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise failure(error, model, self.address, self._options) from None

    def infer(self, request: Any, model: str) -> Any:
        """Send a prepared message."""
        return self.call("ModelInfer", request, model)

    def message(self, kind: str, /, **fields: Any) -> Any:
        """Make a request message."""
        return getattr(self._messages, kind)(**fields)

    def close(self) -> None:
        """Close the channel; under gevent the process would not end otherwise."""
        self._channel.close()


def failure(error: Any, model: str, address: str, options: Options) -> Exception:
    """Turn an RpcError, sync or async, into an error of the tree."""
    code, text = error.code().name, str(error.details())
    if code == "DEADLINE_EXCEEDED":
        return failures.timed_out(address, options.timeout_s)
    if code == "UNAVAILABLE" and _is_network(text):
        return failures.refused(address, ConnectionError(text))
    return failures.from_grpc(model, code, text)


def _is_network(text: str) -> bool:
    return any(part in text for part in ("failed to connect", "Connection re", "Socket closed", "recvmsg", "DNS", "connections to all", "GOAWAY", "End of TCP"))
