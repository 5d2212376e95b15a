"""`AsyncTritonModel`: the same model, awaited.

In      a model's name.
Out     arrays by output name, or an error of clients/errors.py.

Checks, splitting, building and decoding are those of the sync client; only waiting differs. Many requests may be in
flight on one client. With shared memory they take turns, because the client has one pair of regions; prepared requests
have their own. Registering shared memory is a rare, short blocking call.

A client belongs to the event loop that uses it first, until that loop is closed; a forked child begins again. Of several loops that use
it first at once, one gets it and the others are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any

from planwright.errors import Fault

from . import failures, forks, preload
from . import request as request_rules
from .addresses import Protocol
from .errors import ClientError, ConnectionFailed, InvalidRequest, ModelUnavailable, RequestTimeout
from .model import TritonModel, is_answer
from .options import RETRIES, TIMEOUT_S, Options, Tls, checked_seconds
from .prepared import Request
from .request import Arrays, Chunk, ModelInfo
from .sequence import AsyncSequence, Step, step
from .shared_memory.registrar import SharedMemory
from .shared_memory.system import Regions
from .transport.async_transports import AsyncGrpc, AsyncHttp

AT_ONCE = 8  # requests of one call under way at once: enough that several instances of a model have work


class Home:
    """What belongs to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: Protocol, address: str, options: Options) -> None:
        self.loop = loop
        self.transport = (AsyncHttp if protocol == "http" else AsyncGrpc)(address, options)
        self.turns = asyncio.Lock()  # of plain requests over shared memory
        self.reading: asyncio.Task[ModelInfo] | None = None

    async def close(self) -> None:
        """Close the connections; to be awaited in this loop."""
        await self.transport.close()
        async with self.turns:
            pass  # requests under way no longer use the shared memory
        if self.reading is not None and not self.reading.done():
            with contextlib.suppress(ClientError):
                await self.reading


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
        preload.load_async(protocol)
        self.model, self.protocol = model, protocol
        self.options, self.address = self._sync.options, self._sync.address
        self._scratch: Regions | None = None
        self._home: Home | None = None
        self._settling = threading.Lock()  # event loops run in threads
        forks.register(self)

    async def __aenter__(self) -> AsyncTritonModel:
        await self.info()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def info(self) -> ModelInfo:
        """Names, types, shapes and batch limit, read from the server once."""
        home = self.home()
        reading = home.reading
        if reading is None or (reading.done() and (reading.cancelled() or reading.exception())):
            reading = home.reading = asyncio.create_task(asyncio.to_thread(lambda: self._sync.info))
        # a caller that is cancelled must not leave the others with half an answer on the connection
        return await asyncio.shield(reading)

    async def infer_sample(self, /, *args: Any, **inputs: Any) -> Arrays:
        """Answer one sample: arrays without a batch axis in and out."""
        return await self.infer_sample_at(None, args, inputs)

    async def infer_batch(self, /, *args: Any, **inputs: Any) -> Arrays:
        """Answer a batch; what exceeds one request is split, and a few of these requests are under way at once."""
        return await self.infer_batch_at(None, args, inputs)

    async def prepare(self, /, *args: Any, **inputs: Any) -> AsyncPreparedRequest:
        """Build a request once, to be sent many times; takes what `infer_batch` takes.

        Raises:
            InvalidRequest: It does not fit into one request.
        """
        return await self.prepare_at(None, args, inputs)

    def sequence(
        self, sequence_id: int | str | None = None, *, start: bool = False, end: bool = False
    ) -> AsyncSequence:
        """Return what sends requests of a sequence; see `TritonModel.sequence`. Await each before the next is sent."""
        return AsyncSequence(self, step(sequence_id, start=start, end=end))

    async def standalone(self) -> AsyncTritonModel | AsyncSequence:
        """Return what sends each request by itself; see `TritonModel.standalone`."""
        return self.sequence(start=True, end=True) if (await self.info()).sequence else self

    async def infer_sample_at(self, at: Step | None, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Arrays:
        """Answer one sample at a place in a sequence."""
        info = await self.info()
        request_rules.check_step(info, at)
        arrays = request_rules.check_sample(
            info, request_rules.named(info, args, inputs), allow_nan=self._sync.allow_nan
        )
        return {name: array[0, ...] for name, array in (await self._answer(info, arrays, at)).items()}

    async def infer_batch_at(self, at: Step | None, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> Arrays:
        """Answer a batch at a place in a sequence."""
        info = await self.info()
        request_rules.check_step(info, at)
        arrays = request_rules.check_batch(
            info, request_rules.named(info, args, inputs), allow_nan=self._sync.allow_nan
        )
        return await self._answer(info, arrays, at)

    async def prepare_at(
        self, at: Step | None, args: tuple[Any, ...], inputs: Mapping[str, Any]
    ) -> AsyncPreparedRequest:
        """Build a request at a place in a sequence."""
        info = await self.info()
        request_rules.check_step(info, at)
        arrays = request_rules.check_batch(
            info, request_rules.named(info, args, inputs), allow_nan=self._sync.allow_nan
        )
        return AsyncPreparedRequest(self, self._sync.built(info, request_rules.only_chunk(info, arrays, at)))

    async def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until the server answers for the model.

        Raises:
            RequestTimeout: It does not in time; the fault says what the last answer was.
        """
        deadline, last = time.monotonic() + checked_seconds(timeout_s, zero=True), "no answer yet"
        while time.monotonic() < deadline:
            try:
                await asyncio.wait_for(self.info(), max(deadline - time.monotonic(), 0.001))
                return
            except asyncio.TimeoutError:
                break
            except (ConnectionFailed, ModelUnavailable, RequestTimeout) as error:
                last = error.faults[0].why or error.faults[0].what
            await asyncio.sleep(max(min(0.1, deadline - time.monotonic()), 0))
        raise failures.not_ready(self.model, timeout_s, self.address, last)

    async def close(self) -> None:
        """Give back shared memory and close the connections.

        Raises:
            InvalidRequest: Another event loop uses this client, or none runs.
        """
        loop = _running_loop()
        with self._settling:
            home = self._home
            if home is not None and home.loop is not loop and home.loop.is_running():
                raise self._elsewhere()
            self._sync.refuse()
            self._home = None
        if home is not None and home.loop is loop:
            await home.close()
        scratch, self._scratch = self._scratch, None
        if scratch is not None and self._sync.memory is not None:
            self._sync.memory.give_back(scratch)
        await asyncio.to_thread(self._sync.close)  # may wait for a request that timed out

    def home(self) -> Home:
        """Return what belongs to the running event loop.

        Raises:
            InvalidRequest: None runs, another one uses this client, or the client is closed.
        """
        self._sync.check_open()
        loop = _running_loop()
        home = self._home
        return home if home is not None and home.loop is loop else self._settle(loop)

    def _settle(self, loop: asyncio.AbstractEventLoop) -> Home:
        with self._settling:
            self._sync.check_open()
            if self._home is not None and not self._home.loop.is_closed():
                raise self._elsewhere()
            if self._scratch is not None:
                self._scratch.abandon()  # a request of the closed loop may still write there
            self._home = Home(loop, self.protocol, self.address, self.options)
            return self._home

    def _elsewhere(self) -> InvalidRequest:
        fix = "make an AsyncTritonModel in each event loop"
        return InvalidRequest(Fault(f"the client of '{self.model}' belongs to another event loop", fix=fix))

    def after_fork(self) -> None:
        """Begin again in a forked child; connections and event loop are the parent's."""
        self._settling = threading.Lock()
        home, self._home = self._home, None
        if home is not None:
            forks.leave_to_parent(home)

    async def _answer(self, info: ModelInfo, arrays: Arrays, at: Step | None) -> Arrays:
        chunks = list(request_rules.split(info, arrays, at))
        return request_rules.join(
            chunks, await _few_at_once([partial(self._send_chunk, info, chunk) for chunk in chunks])
        )

    async def _send_chunk(self, info: ModelInfo, chunk: Chunk) -> Arrays:
        memory = self._sync.memory
        if memory is None:
            return await self.send(Request(info, chunk, self.protocol, None))
        async with self.home().turns:
            self._scratch = self._scratch or memory.take()
            return await self.send(Request(info, chunk, self.protocol, self._scratch))

    async def send(self, request: Request) -> Arrays:
        """Send one request and return its answers as they came."""
        for pause_s in self.options.pauses_s():
            try:
                return await self._send_once(request)
            except ClientError as error:
                if not request.may_repeat(error):
                    raise
                await asyncio.sleep(pause_s)
        return await self._send_once(request)

    async def _send_once(self, request: Request) -> Arrays:
        transport = self.home().transport
        try:
            return request.decode(await transport.infer(request.message(), self.model))
        except (
            BaseException
        ) as error:  # also a cancelled task: what does not know the end must not use the memory again
            if request.in_shared_memory and not is_answer(error):
                request.forget()
            raise

    def release(self, request: Request) -> None:
        """Give the shared memory of a prepared request back."""
        self._sync.release(request)


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise InvalidRequest(Fault("no event loop is running", fix="await it inside asyncio.run(...)")) from None


async def _few_at_once(calls: Sequence[Callable[[], Coroutine[Any, Any, Arrays]]]) -> list[Arrays]:
    """Return what each call returns, in their order; once one fails, the others are given up.

    All at once would open a connection each, and the last would time out while the server answers the first.
    """
    if len(calls) == 1:
        return [await calls[0]()]
    found: dict[int, Arrays] = {}
    waiting = iter(enumerate(calls))

    async def work() -> None:
        for place, call in waiting:
            found[place] = await call()

    tasks = [asyncio.create_task(work()) for _ in calls[:AT_ONCE]]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [found[place] for place in range(len(calls))]


class AsyncPreparedRequest:
    """A request that is already bytes (HTTP), a message (gRPC) or filled shared memory."""

    def __init__(self, model: AsyncTritonModel, request: Request) -> None:
        self._model, self._request, self._closed = model, request, False
        self._home: Home | None = None
        self._turns = asyncio.Lock()

    async def infer(self) -> Arrays:
        """Send it and return the answers, without rows that only filled a static batch."""
        if self._closed:
            raise InvalidRequest(Fault("the prepared request is closed", fix="prepare another one"))
        if not self._request.in_shared_memory:
            return self._request.trim(await self._model.send(self._request))
        home = self._model.home()
        if home is not self._home:  # a lock belongs to an event loop
            self._home, self._turns = home, asyncio.Lock()
        async with self._turns:
            return self._request.trim(await self._model.send(self._request))

    def close(self) -> None:
        """Give its shared memory back; closing the client does so too."""
        self._closed = True
        self._model.release(self._request)
