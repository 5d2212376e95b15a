"""HTTP and gRPC for asyncio.

In      an address and options; bodies and messages that are ready to be sent.
Out     answered bytes; errors of the tree.

Both belong to the event loop that was running when they were made. The grpc package cannot be used in a child of a process that has used it:
its threads stay in the parent, and calls hang or end the child. So such a child is refused.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from planwright.errors import Fault

from .. import failures
from ..errors import InvalidRequest
from ..options import Options, ssl_context

_grpc_pids: set[int] = (
    set()
)  # processes that have used the grpc package: this one, or one that this one was forked from


class AsyncHttp:
    """Keep-alive connections, as many as there are requests in flight."""

    def __init__(self, address: str, options: Options) -> None:
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
            async with self._session.post(
                url, data=body.content, headers={**body.headers, **self._options.headers}
            ) as response:
                answered = True
                content = await response.read()
        except asyncio.TimeoutError:
            raise failures.timed_out(self._address, self._options.timeout_s) from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise failures.no_tls(self._address, error) from None
        except aiohttp.ClientSSLError as error:
            raise failures.no_tls(self._address, error) from None
        except aiohttp.ClientConnectorError as error:
            raise failures.refused(self._address, error) from None
        except (aiohttp.ClientError, OSError, RuntimeError) as error:  # RuntimeError: closed while it waited
            raise failures.lost(self._address, error, answered=answered) from None
        except ValueError as error:  # a host that cannot be one
            raise failures.refused(self._address, error) from None
        if response.status != 200:
            raise failures.from_http(model, response.status, content)
        return content, response.headers.get("Inference-Header-Content-Length")

    async def close(self) -> None:
        """Close the connections; requests under way fail."""
        await self._session.close()


class AsyncGrpc:
    """An asyncio gRPC channel.

    Raises:
        InvalidRequest: This process is the child of one that has used the grpc package.
    """

    def __init__(self, address: str, options: Options) -> None:
        import grpc

        from .grpc_status import INFER, channel_options, credentials

        _refuse_in_child()
        self._address, self._options, self._closed = address, options, False
        self._channel = (
            grpc.aio.secure_channel(address, credentials(options), channel_options())
            if options.tls
            else grpc.aio.insecure_channel(address, channel_options())
        )
        self._infer = self._channel.unary_unary(INFER)
        self._metadata = tuple((key.lower(), value) for key, value in options.headers.items())

    async def infer(self, request: Any, model: str) -> Any:
        """Send one request; return the answer's bytes."""
        import grpc

        from .grpc_status import failure

        try:
            return await self._infer(request, timeout=self._options.timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise failure(error, model, self._address, self._options) from None
        except (grpc.aio.UsageError, asyncio.CancelledError) as error:
            if not self._closed:
                raise
            raise failures.lost(self._address, error) from None

    async def close(self) -> None:
        """Close the channel; calls under way fail."""
        self._closed = True
        await self._channel.close()


def _refuse_in_child() -> None:
    _grpc_pids.add(os.getpid())
    if len(_grpc_pids) > 1:
        why = "its parent has used it, whose threads are not here"
        fix = "use protocol='http' or TritonModel, or start the process with multiprocessing's spawn"
        raise InvalidRequest(Fault("asyncio's gRPC does not work in a forked process", why=why, fix=fix))
