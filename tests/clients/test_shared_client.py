"""One client used by several at once: threads, forked children, event loops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients import (
    AsyncTritonModel,
    ClientError,
    InvalidRequest,
    RequestTimeout,
    ServerError,
    SharedMemoryUnavailable,
    TritonModel,
    model_async,
)
from clients.shared_memory.cuda import CudaRegion
from planwright.server_info import ServerInfo
from tests._server import ROOT
from tests.clients._golden import WEIGHTS, floats
from tests.clients.conftest import WAY_NAMES, WAYS, regions
from tests.clients.test_shared_memory import names

Connect = Callable[..., TritonModel]
SLOW = 1_500_000  # turns of the sleeper: more than a second


def run(program: str, job: dict[str, Any]) -> dict[str, int]:
    """Run a program in a process of its own and return what it counted."""
    command = [sys.executable, "-m", program, json.dumps(job)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def burst(repository: Path, how: dict[str, Any], tls: Any = None, **counts: int) -> dict[str, int]:
    """Use one client with threads and forked children."""
    job = {"model": "affine", "repository": str(repository), "options": how, "tls": tls, "limit_s": 100.0, **counts}
    return run("benchmarks._parts.burst", job)


def in_event_loops(what: str, how: dict[str, Any]) -> dict[str, int]:
    """Use one asyncio client in several event loops or processes."""
    return run("tests.clients._async_burst", {"what": what, "options": how, "weights": WEIGHTS.tolist()})


def options(server: ServerInfo, protocol: str, memory: str | None) -> dict[str, Any]:
    url = server.grpc_url if protocol == "grpc" else server.http_url
    return {"url": url, "protocol": protocol, "shared_memory": memory, "timeout_s": 30}


@pytest.mark.parametrize(("protocol", "memory"), WAYS, ids=WAY_NAMES)
def test_threads_and_forked_children_of_one_client_get_their_own_answers(
    server: ServerInfo, repository: Path, protocol: str, memory: str | None
) -> None:
    before = names(server)
    found = burst(repository, options(server, protocol, memory), children=4, threads=4, requests=30)
    assert found == {"right": 5 * 4 * 30, "children ended": 4, "right at the end": 2}
    assert names(server) == before
    assert regions() == set()


@pytest.mark.parametrize(("protocol", "memory"), WAYS, ids=WAY_NAMES)
def test_a_child_of_an_async_client_gets_right_answers_or_is_refused(
    server: ServerInfo, protocol: str, memory: str | None
) -> None:
    before = names(server)
    found = in_event_loops("forked", options(server, protocol, memory))
    assert (found.pop("right"), found.pop("children ended")) == (72, 2)
    refused = "child: InvalidRequest: asyncio's gRPC does not work in a forked process"
    assert found == ({"child: right": 48} if protocol == "http" else {refused: 24})
    assert names(server) == before


@pytest.mark.parametrize(("protocol", "memory"), WAYS, ids=WAY_NAMES)
def test_an_async_client_serves_one_event_loop_after_the_other(
    server: ServerInfo, protocol: str, memory: str | None
) -> None:
    assert in_event_loops("loops", options(server, protocol, memory)) == {"right": 72}


@pytest.mark.parametrize(("protocol", "memory"), WAYS, ids=WAY_NAMES)
def test_an_async_client_refuses_a_second_event_loop_at_once(
    server: ServerInfo, protocol: str, memory: str | None
) -> None:
    found = in_event_loops("threads", options(server, protocol, memory))
    assert found == {"right": 48, "InvalidRequest: the client of 'affine' belongs to another event loop": 12}


@pytest.mark.parametrize(("protocol", "memory"), WAYS, ids=WAY_NAMES)
def test_event_loops_that_use_an_async_client_first_at_once_get_right_answers_or_are_refused(
    server: ServerInfo, monkeypatch: pytest.MonkeyPatch, protocol: Any, memory: Any
) -> None:
    class Slow(model_async.LoopState):
        """Gives every thread the time to begin before the first is done."""

        def __init__(self, *args: Any) -> None:
            made.append(self)
            time.sleep(0.3)
            super().__init__(*args)

    async def use(seed: int) -> None:
        x = np.full((2, 4), seed + 1, np.float32)
        for _ in range(20):
            y = (await model.infer_batch(x=x))["y"]
            found.append("right" if np.allclose(y, x @ WEIGHTS, atol=1e-4) else "WRONG")
        over.wait(20)
        await model.close()

    def run_loop(seed: int) -> None:
        start.wait(20)
        try:
            asyncio.run(use(seed))
        except InvalidRequest as error:
            found.append(error.faults[0].what)
            over.set()
        except BaseException as error:
            found.append(f"FOREIGN {error!r}")

    monkeypatch.setattr(model_async, "LoopState", Slow)
    found: list[str] = []
    made: list[model_async.LoopState] = []
    start, over = threading.Barrier(3), threading.Event()
    model = AsyncTritonModel("affine", **options(server, protocol, memory))
    threads = [threading.Thread(target=run_loop, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == ["right"] * 20 + ["the client of 'affine' belongs to another event loop"] * 2
    assert len(made) == 1


def test_an_async_client_is_closed_by_the_event_loop_that_uses_it(server: ServerInfo) -> None:
    async def use() -> None:
        async with AsyncTritonModel("affine", server.http_url, shared_memory="system") as model:
            x = floats(3, 4)
            await model.infer_batch(x=x)
            with pytest.raises(InvalidRequest, match="another event loop"):
                await asyncio.to_thread(lambda: asyncio.run(model.close()))
            assert np.allclose((await model.infer_batch(x=x))["y"], x @ WEIGHTS, atol=1e-4)

    asyncio.run(use())


class Counting:
    """Counts the requests in flight; fails the one of number `bad`."""

    def __init__(self, infer: Any, bad: int = 0) -> None:
        self.infer, self.bad = infer, bad
        self.now = self.most = self.sent = 0

    async def __call__(self, *args: Any) -> Any:
        self.now, self.sent = self.now + 1, self.sent + 1
        self.most = max(self.most, self.now)
        try:
            if self.sent == self.bad:
                raise ServerError("planted")
            return await self.infer(*args)
        finally:
            self.now -= 1


@contextlib.asynccontextmanager
async def counted(how: dict[str, Any], bad: int = 0) -> AsyncIterator[tuple[AsyncTritonModel, Counting]]:
    """Yield an asyncio client and what counts its requests."""
    async with AsyncTritonModel("affine", **how) as model:
        transport: Any = model.loop_state().transport
        transport.infer = counting = Counting(transport.infer, bad)
        yield model, counting


@pytest.mark.parametrize(("protocol", "memory"), WAYS, ids=WAY_NAMES)
def test_a_large_batch_has_few_requests_under_way_at_once(server: ServerInfo, protocol: Any, memory: Any) -> None:
    async def use() -> None:
        x = floats(1203, 4)
        async with counted(options(server, protocol, memory)) as (model, counting):
            assert np.allclose((await model.infer_batch(x=x))["y"], x @ WEIGHTS, atol=1e-4)
            assert counting.sent == 151
            assert counting.most == (1 if memory else model_async.MAX_IN_FLIGHT)

    asyncio.run(use())


@pytest.mark.parametrize(("protocol", "memory"), WAYS, ids=WAY_NAMES)
def test_a_batch_of_which_one_request_fails_sends_no_more(server: ServerInfo, protocol: Any, memory: Any) -> None:
    async def use() -> None:
        x = floats(800, 4)
        async with counted(options(server, protocol, memory), bad=20) as (model, counting):
            with pytest.raises(ServerError, match="planted"):
                await model.infer_batch(x=x)
            assert counting.now == 0
            assert counting.sent < 20 + model_async.MAX_IN_FLIGHT
            assert np.allclose((await model.infer_batch(x=x))["y"], x @ WEIGHTS, atol=1e-4)

    asyncio.run(use())


def test_threads_that_end_leave_their_connection_to_others(connect: Connect) -> None:
    model = connect("affine")
    for _ in range(20):
        thread = threading.Thread(target=lambda: model.infer_batch(x=floats(1, 4)))
        thread.start()
        thread.join()
    assert len(model._connections._made) == 1


def test_requests_of_two_threads_do_not_wait_for_each_other(connect: Connect) -> None:
    slow, quick = connect("sleeper", timeout_s=60), connect("affine")
    thread = threading.Thread(target=lambda: slow.infer_sample(x=np.array([SLOW], np.int64)))
    thread.start()
    time.sleep(0.2)
    assert slow.versions() == ["1"]
    assert np.allclose(quick.infer_batch(x=np.ones((1, 4), np.float32))["y"], WEIGHTS.sum(axis=0), atol=1e-5)
    assert thread.is_alive()
    thread.join()


def test_a_prepared_request_in_shared_memory_is_sent_by_one_thread_at_a_time(server: ServerInfo) -> None:
    with TritonModel("sleeper", server.http_url, shared_memory="system", timeout_s=0.5) as model:
        request = model.prepare(x=np.array([[3]], np.int64))
        assert request._request.turn.acquire(timeout=1)
        with pytest.raises(RequestTimeout):
            request.infer()
        request._request.turn.release()
        assert request.infer()["y"].tolist() == [[3.0]]


def test_closing_a_client_ends_what_other_threads_wait_for(connect: Connect, server: ServerInfo) -> None:
    before, model = names(server), connect("sleeper", timeout_s=60)
    found: list[Any] = []

    def use() -> None:
        try:
            found.append(model.infer_sample(x=np.array([SLOW], np.int64)))
        except ClientError as error:
            found.append(error)

    model.infer_sample(x=np.array([1], np.int64))
    thread = threading.Thread(target=use)
    thread.start()
    time.sleep(0.3)
    model.close()
    thread.join(30)
    assert isinstance(found[0], ClientError)
    assert names(server) == before


def test_a_closed_client_raises_an_error(connect: Connect) -> None:
    model, x = connect("affine"), floats(1, 4)
    request, other = model.prepare(x=x), model.prepare(x=x)
    other.close()
    other.close()
    with pytest.raises(InvalidRequest, match="prepared request is closed"):
        other.infer()
    model.close()
    model.close()
    for call in (
        lambda: model.infer_batch(x=x),
        request.infer,
        model.versions,
        model.statistics,
        lambda: model.prepare(x=x),
    ):
        with pytest.raises(InvalidRequest, match="is closed"):
            call()


@pytest.mark.parametrize(("protocol", "memory"), WAYS, ids=WAY_NAMES)
def test_a_closed_async_client_and_its_requests_in_flight_raise_errors(
    server: ServerInfo, protocol: Any, memory: Any
) -> None:
    async def use() -> None:
        model = AsyncTritonModel("sleeper", **options(server, protocol, memory))
        request = await model.prepare(x=np.array([[3]], np.int64))
        waiting = asyncio.create_task(model.infer_sample(x=np.array([SLOW], np.int64)))
        await asyncio.sleep(0.3)
        await model.close()
        with pytest.raises(ClientError):
            await waiting
        for call in (
            model.infer_sample(x=np.array([1], np.int64)),
            request.infer(),
            model.prepare(x=np.array([[3]], np.int64)),
        ):
            with pytest.raises(InvalidRequest, match="is closed"):
                await call
        await model.close()

    before = names(server)
    asyncio.run(use())
    assert names(server) == before


def test_a_coroutine_without_an_event_loop_is_refused(server: ServerInfo) -> None:
    model = AsyncTritonModel("affine", server.http_url)
    with pytest.raises(InvalidRequest, match="no event loop"):
        model.infer_batch(x=floats(1, 4)).send(None)
    with pytest.raises(InvalidRequest, match="no event loop"):
        model.close().send(None)


def test_a_child_leaves_the_memory_on_the_graphics_card_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for CUDA, which no machine without a card has: it only counts."""
    freed: list[str] = []

    class Handle:
        def __del__(self) -> None:
            freed.append("by its destructor")

    class Library:
        CudaSharedMemoryException = OSError

        def create_shared_memory_region(self, *_: Any) -> Handle:
            return Handle()

        def get_raw_handle(self, _: Handle) -> bytes:
            return b"key"

        def destroy_shared_memory_region(self, _: Handle) -> None:
            freed.append("by hand")

    monkeypatch.setattr("clients.shared_memory.cuda._library", Library)
    parents, own = CudaRegion("in", 64), CudaRegion("in", 64)
    parents.after_fork()
    parents.destroy()
    del parents
    gc.collect()
    assert freed == []
    own.destroy()
    assert freed == ["by hand", "by its destructor"]

    def refuse(*_: Any) -> Handle:
        raise OSError("unable to create cuda shared memory handle")

    monkeypatch.setattr(Library, "create_shared_memory_region", refuse)
    with pytest.raises(SharedMemoryUnavailable, match="there is no CUDA shared memory here"):
        CudaRegion("in", 64)
    monkeypatch.setattr("clients.shared_memory.cuda._users", [0])
    with pytest.raises(SharedMemoryUnavailable, match="forked from one that had used CUDA"):
        CudaRegion("in", 64)
