"""`AsyncTritonModel`: call a served model from asyncio.

In      a model's name.
Out     arrays by output name, or an error of clients/errors.py.

Checks, splitting, encoding and decoding are those of the blocking client; only waiting differs. Many requests may be in
flight on one client. With shared memory they take turns, because the client has one pair of regions; prepared requests
have their own. Registering shared memory is a rare, short blocking call.

A client belongs to the event loop that uses it first, until that loop is closed; a forked child starts from scratch. Of several loops that
use it first at the same time, one gets it and the others get an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from planwright.errors import Fault
from planwright.tensors import Arrays, first_sample

from . import errors, fork_safety
from . import request as request_rules
from .encoded_request import EncodedRequest
from .errors import ClientError, ConnectionFailed, InvalidRequest, ModelUnavailable, RequestTimeout
from .model import TritonModel, has_ended
from .options import READY_TIMEOUT_S, RETRIES, TIMEOUT_S, ClientOptions, Protocol, SharedMemory, Tls, checked_seconds
from .request import Args, Chunk, Inputs, ModelInfo, SequenceStep, sequence_step
from .shared_memory.system import RegionPair
from .transport.async_transports import AsyncGrpc, AsyncHttp

MAX_IN_FLIGHT = 8  # requests of one call in flight: enough to keep several instances of a model busy
# modules that requests would otherwise import; host names are resolved, and the model's config is read, in concurrent.futures.thread
_MODULES = {"http": ("aiohttp", "yarl", "concurrent.futures.thread"), "grpc": ("grpc.aio", "concurrent.futures.thread")}


class LoopState:
    """The state of a client that belongs to one event loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, protocol: Protocol, address: str, options: ClientOptions
    ) -> None:
        self.loop = loop
        self.transport = (AsyncHttp if protocol == "http" else AsyncGrpc)(address, options)
        self.turns = asyncio.Lock()  # of plain requests over shared memory
        self.reading: asyncio.Task[ModelInfo] | None = None

    async def close(self) -> None:
        """Close the connections; await it in this loop."""
        await self.transport.close()
        async with self.turns:
            pass  # no request in flight uses the shared memory any more
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
        # reads the model's config and registers shared memory
        self._sync = TritonModel(model, url, protocol=protocol, shared_memory=shared_memory, version=version, timeout_s=timeout_s,
                                 retries=retries, tls=tls, headers=headers, allow_nan=allow_nan)  # fmt: skip
        fork_safety.preload(_MODULES[protocol], protocol)
        self.model, self.protocol = model, protocol
        self.options, self.address = self._sync.options, self._sync.address
        self._scratch: RegionPair | None = None
        self._state: LoopState | None = None
        self._adopting = threading.Lock()  # event loops run in threads
        fork_safety.register(self)

    async def __aenter__(self) -> AsyncTritonModel:
        await self.info()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def info(self) -> ModelInfo:
        """Names, types, shapes and batch limit, read from the server once."""
        state = self.loop_state()
        reading = state.reading
        if reading is None or (reading.done() and (reading.cancelled() or reading.exception())):
            reading = state.reading = asyncio.create_task(asyncio.to_thread(lambda: self._sync.info))
        # a cancelled caller must not leave half an answer on the connection for the others
        return await asyncio.shield(reading)

    async def infer_sample(self, /, *args: Any, **inputs: Any) -> Arrays:
        """Answer one sample: arrays without a batch axis in and out."""
        return first_sample(await self.infer_at(None, args, inputs, sample=True))

    async def infer_batch(self, /, *args: Any, **inputs: Any) -> Arrays:
        """Answer a batch; more than the server takes at once is split, and a few of these requests are in flight at a time."""
        return await self.infer_at(None, args, inputs, sample=False)

    async def prepare(self, /, *args: Any, **inputs: Any) -> AsyncPreparedRequest:
        """Encode a request once, to be sent many times; takes what `infer_batch` takes.

        Raises:
            InvalidRequest: It does not fit into one request.
        """
        return await self.prepare_at(None, args, inputs)

    def sequence(
        self, sequence_id: int | str | None = None, *, start: bool = False, end: bool = False
    ) -> AsyncSequence:
        """Return a sender for requests of a sequence; see `TritonModel.sequence`. Await each before the next is sent."""
        return AsyncSequence(self, sequence_step(sequence_id, start=start, end=end))

    async def standalone(self) -> AsyncTritonModel | AsyncSequence:
        """Return a sender of independent requests; see `TritonModel.standalone`."""
        return self.sequence(start=True, end=True) if (await self.info()).sequence else self

    async def infer_at(self, step: SequenceStep | None, args: Args, inputs: Inputs, *, sample: bool) -> Arrays:
        """Answer a batch, or one sample as a batch of one, at a step of a sequence."""
        info, allow_nan = await self.info(), self._sync.allow_nan
        arrays = request_rules.check_call(info, step, args, inputs, sample=sample, allow_nan=allow_nan)
        chunks = list(request_rules.split(info, arrays, step))
        answers = await _gather_limited([partial(self._send_chunk, info, chunk) for chunk in chunks])
        return request_rules.join(chunks, answers)

    async def prepare_at(self, step: SequenceStep | None, args: Args, inputs: Inputs) -> AsyncPreparedRequest:
        """Encode a request at a step of a sequence."""
        info, allow_nan = await self.info(), self._sync.allow_nan
        arrays = request_rules.check_call(info, step, args, inputs, sample=False, allow_nan=allow_nan)
        return AsyncPreparedRequest(self, self._sync.encode(info, request_rules.only_chunk(info, arrays, step)))

    async def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until the server answers for the model.

        Raises:
            RequestTimeout: It does not in time; the fault gives the last answer.
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
        raise errors.not_ready(self.model, timeout_s, self.address, last)

    async def close(self) -> None:
        """Release shared memory and close the connections.

        Raises:
            InvalidRequest: Another event loop uses this client, or none is running.
        """
        loop = _running_loop()
        with self._adopting:
            state = self._state
            if state is not None and state.loop is not loop and state.loop.is_running():
                raise self._in_another_loop()
            self._sync.refuse_requests()
            self._state = None
        if state is not None and state.loop is loop:
            await state.close()
        scratch, self._scratch = self._scratch, None
        if scratch is not None and self._sync.memory is not None:
            self._sync.memory.give_back(scratch)
        await asyncio.to_thread(self._sync.close)  # may wait for a request that timed out

    def loop_state(self) -> LoopState:
        """Return the state that belongs to the running event loop.

        Raises:
            InvalidRequest: No loop is running, another one uses this client, or the client is closed.
        """
        self._sync.check_open()
        loop = _running_loop()
        state = self._state
        return state if state is not None and state.loop is loop else self._adopt(loop)

    def _adopt(self, loop: asyncio.AbstractEventLoop) -> LoopState:
        with self._adopting:
            self._sync.check_open()
            if self._state is not None and not self._state.loop.is_closed():
                raise self._in_another_loop()
            if self._scratch is not None:
                self._scratch.abandon()  # a request of the closed loop may still write there
            self._state = LoopState(loop, self.protocol, self.address, self.options)
            return self._state

    def _in_another_loop(self) -> InvalidRequest:
        fix = "make an AsyncTritonModel in each event loop"
        return InvalidRequest(Fault(f"the client of '{self.model}' belongs to another event loop", fix=fix))

    def after_fork(self) -> None:
        """Start from scratch in a forked child; connections and event loop are the parent's."""
        self._adopting = threading.Lock()
        state, self._state = self._state, None
        if state is not None:
            fork_safety.leave_to_parent(state)

    async def _send_chunk(self, info: ModelInfo, chunk: Chunk) -> Arrays:
        memory = self._sync.memory
        if memory is None:
            return await self.send(EncodedRequest(info, chunk, self.protocol, None))
        async with self.loop_state().turns:
            self._scratch = self._scratch or memory.take()
            return await self.send(EncodedRequest(info, chunk, self.protocol, self._scratch))

    async def send(self, request: EncodedRequest) -> Arrays:
        """Send one request, with retries, and return its answers, padding included."""
        for pause_s in self.options.pauses_s():
            try:
                return await self._send_once(request)
            except ClientError as error:
                if not request.may_repeat(error):
                    raise
                await asyncio.sleep(pause_s)
        return await self._send_once(request)

    async def _send_once(self, request: EncodedRequest) -> Arrays:
        transport = self.loop_state().transport
        try:
            return request.decode(await transport.infer(request.message(), self.model))
        except BaseException as error:  # also a cancelled task: its request may not have ended and may still write
            if request.in_shared_memory and not has_ended(error):
                request.abandon_memory()
            raise

    def release(self, request: EncodedRequest) -> None:
        """Release the shared memory of a prepared request."""
        self._sync.release(request)


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise InvalidRequest(Fault("no event loop is running", fix="await it inside asyncio.run(...)")) from None


async def _gather_limited(calls: list[Callable[[], Coroutine[Any, Any, Arrays]]]) -> list[Arrays]:
    """Return the results in the order of `calls`, a few of which run at a time; once one fails, the others are cancelled.

    All at once would open a connection each, and the last would time out while the server answers the first.
    """
    if len(calls) == 1:
        return [await calls[0]()]
    found: dict[int, Arrays] = {}
    waiting = iter(enumerate(calls))

    async def work() -> None:
        for index, call in waiting:
            found[index] = await call()

    tasks = [asyncio.create_task(work()) for _ in calls[:MAX_IN_FLIGHT]]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [found[index] for index in range(len(calls))]


class AsyncSequence:
    """Sends requests that carry a `SequenceStep`; the methods are those of `AsyncTritonModel`."""

    def __init__(self, model: AsyncTritonModel, step: SequenceStep) -> None:
        self._model, self._step = model, step

    async def infer_sample(self, /, *args: Any, **inputs: Any) -> Arrays:
        """Answer one sample."""
        return first_sample(await self._model.infer_at(self._step, args, inputs, sample=True))

    async def infer_batch(self, /, *args: Any, **inputs: Any) -> Arrays:
        """Answer a batch of one, or whole tensors of a model without a batch axis."""
        return await self._model.infer_at(self._step, args, inputs, sample=False)

    async def prepare(self, /, *args: Any, **inputs: Any) -> AsyncPreparedRequest:
        """Encode a request once, to be sent many times with the same id."""
        return await self._model.prepare_at(self._step, args, inputs)


class AsyncPreparedRequest:
    """A request that is already bytes (HTTP), a message (gRPC) or filled shared memory."""

    def __init__(self, model: AsyncTritonModel, request: EncodedRequest) -> None:
        self._model, self._request, self._closed = model, request, False
        self._state: LoopState | None = None
        self._turns = asyncio.Lock()

    async def infer(self) -> Arrays:
        """Send it and return the answers, without rows that only padded a static batch."""
        if self._closed:
            raise InvalidRequest(Fault("the prepared request is closed", fix="prepare another one"))
        if not self._request.in_shared_memory:
            return self._request.trim(await self._model.send(self._request))
        state = self._model.loop_state()
        if state is not self._state:  # a lock belongs to an event loop
            self._state, self._turns = state, asyncio.Lock()
        async with self._turns:
            return self._request.trim(await self._model.send(self._request))

    def close(self) -> None:
        """Release its shared memory; closing the client does so too."""
        self._closed = True
        self._model.release(self._request)
