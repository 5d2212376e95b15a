"""`AsyncTritonModel`: the same model, awaited.

In      a model's name.
Out     arrays by output name, or an error of clients/errors.py.

Checks, splitting, building and decoding are those of the sync client; only waiting differs. Many requests may be in
flight on one client. With shared memory they take turns, because the client has one pair of regions; prepared requests
have their own. Registering shared memory is a rare, short blocking call.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from . import core, failures
from .core import Arrays, Chunk, ModelInfo
from .discover import Protocol
from .errors import ClientError, ConnectionFailed, ModelUnavailable, RequestTimeout
from .options import RETRIES, TIMEOUT_S, Options, Tls, ssl_context
from .request import Request
from .sync import SharedMemory, TritonModel, is_answer, named, not_ready


class AsyncTritonModel:
    """A served model; arguments as for `TritonModel`.

    Example:
        async with AsyncTritonModel("digits") as model:
            answers = await asyncio.gather(*(model.infer_sample(image=picture) for picture in pictures))
    """

    def __init__(
        self, model: str, url: str | None = None, *, protocol: Protocol = "http", shared_memory: SharedMemory | None = None,
        version: str = "", timeout_s: float = TIMEOUT_S, retries: int = RETRIES, tls: Tls | None = None,
        headers: Mapping[str, str] | None = None, allow_nan: bool = False,
    ) -> None:  # fmt: skip
        # reads the model's description and registers shared memory
        self._sync = TritonModel(model, url, protocol=protocol, shared_memory=shared_memory, version=version, timeout_s=timeout_s,
                                 retries=retries, tls=tls, headers=headers, allow_nan=allow_nan)  # fmt: skip
        self.model, self.protocol = model, protocol
        self.options, self.address = self._sync.options, self._sync.address
        self._turns = asyncio.Lock() if shared_memory else contextlib.nullcontext()
        self._reading: asyncio.Task[ModelInfo] | None = None
        self._transport: _Http | _Grpc | None = None

    async def __aenter__(self) -> AsyncTritonModel:
        await self.info()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def info(self) -> ModelInfo:
        """Names, types, shapes and batch limit, read from the server once."""
        if self._reading is None or (self._reading.done() and (self._reading.cancelled() or self._reading.exception())):
            self._reading = asyncio.create_task(asyncio.to_thread(lambda: self._sync.info))
        # a caller that is cancelled must not leave the others with half an answer on the connection
        return await asyncio.shield(self._reading)

    async def infer_sample(self, *args: Any, **inputs: Any) -> Arrays:
        """Answer one sample: arrays without a batch axis in and out."""
        info = await self.info()
        answers = await self._answer(
            info, core.check_sample(info, named(info, args, inputs), allow_nan=self._sync.allow_nan)
        )
        return {name: array[0] for name, array in answers.items()}

    async def infer_batch(self, *args: Any, **inputs: Any) -> Arrays:
        """Answer a batch; what exceeds one request is split and sent together."""
        info = await self.info()
        return await self._answer(
            info, core.check_batch(info, named(info, args, inputs), allow_nan=self._sync.allow_nan)
        )

    async def prepare(self, *args: Any, **inputs: Any) -> AsyncPreparedRequest:
        """Build a request once, to be sent many times; takes what `infer_batch` takes.

        Raises:
            InvalidRequest: It does not fit into one request.
        """
        info = await self.info()
        arrays = core.check_batch(info, named(info, args, inputs), allow_nan=self._sync.allow_nan)
        request = Request(info, core.only_chunk(info, arrays), self.protocol, self._sync.new_regions())
        request.message()
        return AsyncPreparedRequest(self, request)

    async def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until the server answers for the model.

        Raises:
            RequestTimeout: It does not in time; the fault says what the last answer was.
        """
        deadline, last = time.monotonic() + timeout_s, "no answer yet"
        while time.monotonic() < deadline:
            try:
                await asyncio.wait_for(self.info(), max(deadline - time.monotonic(), 0.001))
                return
            except asyncio.TimeoutError:
                break
            except (ConnectionFailed, ModelUnavailable, RequestTimeout) as error:
                last = error.faults[0].why or error.faults[0].what
            await asyncio.sleep(max(min(0.1, deadline - time.monotonic()), 0))
        raise not_ready(self.model, timeout_s, self.address, last)

    async def close(self) -> None:
        """Give back shared memory and close the connections."""
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.close()
        if self._reading is not None and not self._reading.done():
            with contextlib.suppress(ClientError):
                await self._reading
        await asyncio.to_thread(self._sync.close)  # may wait for a request that timed out

    async def _answer(self, info: ModelInfo, arrays: Arrays) -> Arrays:
        chunks = list(core.split(info, arrays))
        return core.join(chunks, await asyncio.gather(*(self._send_chunk(info, chunk) for chunk in chunks)))

    async def _send_chunk(self, info: ModelInfo, chunk: Chunk) -> Arrays:
        async with self._turns:
            return await self.send(Request(info, chunk, self.protocol, self._sync.scratch()))

    async def send(self, request: Request) -> Arrays:
        """Send one request and return its answers as they came."""
        for pause_s in self.options.pauses_s():
            try:
                return await self._send_once(request)
            except ClientError as error:
                if not error.retry_safe:
                    raise
                await asyncio.sleep(pause_s)
        return await self._send_once(request)

    async def _send_once(self, request: Request) -> Arrays:
        if self._transport is None:
            self._transport = (_Http if self.protocol == "http" else _Grpc)(self.address, self.options)
        try:
            return request.decode(await self._transport.infer(request.message(), self.model))
        except (
            BaseException
        ) as error:  # also a cancelled task: whoever does not know the end must not use the memory again
            if request.in_shared_memory and not is_answer(error):
                request.forget()
            raise


class AsyncPreparedRequest:
    """A request that is already bytes (HTTP), a message (gRPC) or filled shared memory."""

    def __init__(self, model: AsyncTritonModel, request: Request) -> None:
        self._model, self._request = model, request
        self._turns = asyncio.Lock() if request.in_shared_memory else contextlib.nullcontext()

    async def infer(self) -> Arrays:
        """Send it and return the answers, without rows that only filled a static batch."""
        async with self._turns:
            return self._request.trim(await self._model.send(self._request))

    def close(self) -> None:
        """Give its shared memory back; closing the client does so too."""
        self._request.close()


class _Http:
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
        except (aiohttp.ClientError, OSError) as error:
            raise failures.lost(self._address, error, answered=answered) from None
        if response.status != 200:
            raise failures.from_http(model, response.status, content)
        return content, response.headers.get("Inference-Header-Content-Length")

    async def close(self) -> None:
        await self._session.close()


class _Grpc:
    """An asyncio gRPC channel."""

    def __init__(self, address: str, options: Options) -> None:
        import grpc

        from .grpc import INFER, channel_options, credentials

        self._address, self._options = address, options
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

        from .grpc import failure

        try:
            return await self._infer(request, timeout=self._options.timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise failure(error, model, self._address, self._options) from None

    async def close(self) -> None:
        await self._channel.close()
