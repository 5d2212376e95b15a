"""What the blocking and the asyncio gRPC client share: names, channel options, credentials, and what a status means.

In      options, a status and its text.
Out     options of a channel; an error of the tree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import failures
from ..errors import ClientError
from ..options import Options, Tls, unreadable

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
    """Return the options of a channel of the grpc package."""
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
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise unreadable(tls, error) from None
    return grpc.ssl_channel_credentials(*parts)


# texts of the gRPC library, to distinguish an unreachable server from one that answers "unavailable"
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


def failure(error: Any, model: str, address: str, options: Options) -> ClientError:
    """Turn an RpcError, sync or async, into an error of the tree."""
    return error_from_status(error.code().name, str(error.details() or ""), model, address, options)


def error_from_status(code: str, text: str, model: str, address: str, options: Options) -> ClientError:
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
