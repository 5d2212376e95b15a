"""HTTP and gRPC for asyncio.

In      an address and options; bodies and messages that are ready to be sent.
Out     answered bytes; errors of clients/errors.py.

Both belong to the event loop that was running when they were made. The grpc package cannot be used in a child of a process that has used it:
its threads stay in the parent, and calls hang or end the child. So such a child gets an error.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from planwright.errors import Fault

from .. import errors
from ..errors import InvalidRequest
from ..options import ClientOptions, Tls, ssl_context, tls_file_error
from .codec import GRPC_INFER

# processes that have used the grpc package: this one, or one that this one was forked from
_grpc_pids: set[int] = set()
_CHANNEL_OPTIONS = [
    # gRPC's own limit of 4 MiB per message is below one batch of images
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # the channel's own pauses grow to minutes, so a server that comes back would go unnoticed that long
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class AsyncHttp:
    """Keep-alive connections, one per request in flight."""

    def __init__(self, address: str, options: ClientOptions) -> None:
        import aiohttp

        self._address, self._options = address, options
        connector = aiohttp.TCPConnector(limit=0, ssl=ssl_context(options.tls) if options.tls else True)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(options.timeout_s))
        self._base = f"{'https' if options.tls else 'http'}://{address}"

    async def infer(self, body: Any, model: str) -> tuple[bytes, str | None]:
        """Send one body; return the answer and the length of its JSON part."""
        import aiohttp
        from yarl import URL

        answered = False
        try:
            url = URL(self._base + body.path, encoded=True)
            headers = {**body.headers, **self._options.headers}
            async with self._session.post(url, data=body.content, headers=headers) as response:
                answered = True
                content = await response.read()
        except asyncio.TimeoutError:
            raise errors.request_timeout(self._address, self._options.timeout_s) from None
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError) as error:
            raise errors.tls_failed(self._address, error) from None
        except aiohttp.ClientConnectorError as error:
            raise errors.connection_refused(self._address, error) from None
        except (aiohttp.ClientError, OSError, RuntimeError) as error:  # RuntimeError: closed while it waited
            raise errors.connection_lost(self._address, error, answered=answered) from None
        except ValueError as error:  # an invalid host name
            raise errors.connection_refused(self._address, error) from None
        if response.status != 200:
            raise errors.error_from_http(model, response.status, content)
        return content, response.headers.get("Inference-Header-Content-Length")

    async def close(self) -> None:
        """Close the connections; requests in flight fail."""
        await self._session.close()


class AsyncGrpc:
    """An asyncio gRPC channel.

    Raises:
        InvalidRequest: This process is the child of one that has used the grpc package.
    """

    def __init__(self, address: str, options: ClientOptions) -> None:
        import grpc

        _refuse_in_child()
        self._address, self._options, self._closed = address, options, False
        if options.tls:
            self._channel = grpc.aio.secure_channel(address, _credentials(options.tls), _CHANNEL_OPTIONS)
        else:
            self._channel = grpc.aio.insecure_channel(address, _CHANNEL_OPTIONS)
        self._infer = self._channel.unary_unary(GRPC_INFER)
        self._metadata = tuple((key.lower(), value) for key, value in options.headers.items())

    async def infer(self, request: Any, model: str) -> Any:
        """Send one request; return the answer's bytes."""
        import grpc

        try:
            return await self._infer(request, timeout=self._options.timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            code, text = error.code().name, str(error.details() or "")
            raise errors.error_from_grpc(code, text, model, self._address, self._options.timeout_s) from None
        except (grpc.aio.UsageError, asyncio.CancelledError) as error:
            if not self._closed:
                raise
            raise errors.connection_lost(self._address, error) from None

    async def close(self) -> None:
        """Close the channel; calls in flight fail."""
        self._closed = True
        await self._channel.close()


def _credentials(tls: Tls) -> Any:
    import grpc

    try:
        parts = [Path(name).read_bytes() if name else None for name in (tls.root_certificate, tls.key, tls.certificate)]
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise tls_file_error(tls, error) from None
    return grpc.ssl_channel_credentials(*parts)


def _refuse_in_child() -> None:
    _grpc_pids.add(os.getpid())
    if len(_grpc_pids) > 1:
        why = "its parent has used the grpc package, whose threads are not copied by a fork"
        fix = "use protocol='http' or TritonModel, or start the process with multiprocessing's spawn"
        raise InvalidRequest(Fault("asyncio's gRPC does not work in a forked process", why=why, fix=fix))
