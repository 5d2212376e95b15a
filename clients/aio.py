"""`AsyncTritonModel`: the same model, awaited.

In      a model's name.
Out     arrays by output name, or an error of clients/errors.py.

Checks, splitting and decoding are those of the sync client; only waiting differs. Many requests may be in flight on one
client. With shared memory they take turns, because the client has one pair of regions. Reading the model's
description and registering are short blocking calls, made in the loop's own thread because geventhttpclient binds a
connection to its thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from . import core, failures, wire
from .core import Arrays, Chunk, ModelInfo
from .discover import Protocol, address
from .errors import ConnectionFailed, ModelUnavailable
from .options import RETRIES, TIMEOUT_S, Options, Tls
from .sync import SharedMemory, TritonModel, named, retryable


class AsyncTritonModel:
    """A served model; arguments as for `TritonModel`."""

    def __init__(
        self, model: str, url: str | None = None, *, protocol: Protocol = "http", shared_memory: SharedMemory | None = None,
        version: str = "", timeout_s: float = TIMEOUT_S, retries: int = RETRIES, tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.options = Options(timeout_s, retries, dict(headers or {}), tls)
        self.protocol, self.address = protocol, address(url, protocol)
        # reads the model's description and registers shared memory: rare calls that may block
        self._sync = TritonModel(model, url, protocol=protocol, shared_memory=shared_memory, version=version,
                                 timeout_s=timeout_s, retries=retries, tls=tls, headers=headers)  # fmt: skip
        self._shm_lock = asyncio.Lock() if shared_memory else None
        self._session: Any = None

    async def __aenter__(self) -> AsyncTritonModel:
        await self.info()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def info(self) -> ModelInfo:
        """Names, types, shapes and batch limit, read from the server once."""
        return self._sync.info

    async def infer_sample(self, *args: Any, **inputs: Any) -> Arrays:
        """Answer one sample: arrays without a batch axis in and out."""
        info = await self.info()
        answers = await self._answer(info, core.check_sample(info, named(info, args, inputs)))
        return {name: array[0] for name, array in answers.items()}

    async def infer_batch(self, *args: Any, **inputs: Any) -> Arrays:
        """Answer a batch; what exceeds one request is split and sent together."""
        info = await self.info()
        return await self._answer(info, core.check_batch(info, named(info, args, inputs)))

    async def close(self) -> None:
        """Give back shared memory and close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        self._sync.close()

    async def _answer(self, info: ModelInfo, arrays: Arrays) -> Arrays:
        chunks = list(core.split(info, arrays))
        return core.join(chunks, await asyncio.gather(*(self._send(info, chunk) for chunk in chunks)))

    async def _send(self, info: ModelInfo, chunk: Chunk) -> Arrays:
        async with self._shm_lock or contextlib.nullcontext():
            regions = self._sync.regions()
            inputs, outputs = regions.put(chunk) if regions is not None else ({}, {})
            build = wire.http_body if self.protocol == "http" else wire.grpc_request
            answers = await self._retry(build(info, chunk, inputs, outputs), info, outputs)
            if regions is not None and outputs:
                answers |= regions.take(outputs, len(next(iter(chunk.arrays.values()))))
            return answers

    async def _retry(self, request: Any, info: ModelInfo, elsewhere: wire.Places) -> Arrays:
        send = self._http if self.protocol == "http" else self._grpc
        for pause_s in self.options.pauses_s():
            try:
                return await send(request, info, elsewhere)
            except (ConnectionFailed, ModelUnavailable) as error:
                if not retryable(error):
                    raise
                await asyncio.sleep(pause_s)
        return await send(request, info, elsewhere)

    async def _http(self, body: wire.HttpBody, info: ModelInfo, elsewhere: wire.Places) -> Arrays:
        import aiohttp

        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, ssl=_ssl(self.options.tls))
            self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(self.options.timeout_s))
        scheme = "https" if self.options.tls else "http"
        headers = {**body.headers, **self.options.headers}
        try:
            async with self._session.post(f"{scheme}://{self.address}{body.path}", data=body.content, headers=headers) as response:
                content = await response.read()
        except asyncio.TimeoutError:
            raise failures.timed_out(self.address, self.options.timeout_s) from None
        except (aiohttp.ClientError, OSError) as error:
            raise failures.refused(self.address, error) from None
        if response.status != 200:
            raise failures.from_http(info.name, response.status, content)
        return wire.http_answer(info, content, response.headers.get("Inference-Header-Content-Length"), elsewhere)

    async def _grpc(self, request: Any, info: ModelInfo, elsewhere: wire.Places) -> Arrays:
        import grpc

        if self._session is None:
            self._session = _Channel(self.address, self.options)
        try:
            return wire.grpc_answer(info, await self._session.infer(request), elsewhere)
        except grpc.RpcError as error:
            from .grpc import failure

            raise failure(error, info.name, self.address, self.options) from None


class _Channel:
    """An asyncio gRPC channel."""

    def __init__(self, where: str, options: Options) -> None:
        import grpc
        from tritonclient.grpc import service_pb2_grpc

        from .grpc import channel_options, credentials

        self._options = options
        self._channel = (
            grpc.aio.secure_channel(where, credentials(options), channel_options())
            if options.tls
            else grpc.aio.insecure_channel(where, channel_options())
        )
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._metadata = tuple((key.lower(), value) for key, value in options.headers.items())

    async def infer(self, request: Any) -> Any:
        return await self._stub.ModelInfer(request, timeout=self._options.timeout_s, metadata=self._metadata)

    async def close(self) -> None:
        await self._channel.close()


def _ssl(tls: Tls | None) -> Any:
    """Return aiohttp's ssl argument; True checks against the system's certificates."""
    if tls is None:
        return True
    context = ssl.create_default_context(cafile=tls.root_certificate or None)
    if tls.certificate:
        context.load_cert_chain(tls.certificate, tls.key or None)
    return context


