"""What goes wrong between a client and a server, reported as what it is."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients import (
    AsyncTritonModel,
    ClientError,
    ConnectionFailed,
    InvalidRequest,
    ModelUnavailable,
    RequestTimeout,
    TritonModel,
)
from clients.options import ClientOptions
from clients.transport.http import HttpTransport
from planwright.own_server import free_ports
from planwright.server_info import ServerInfo
from tests._server import launch
from tests.clients import _golden
from tests.clients._golden import WEIGHTS, floats
from tests.clients._speaker import speaker

Connect = Callable[..., TritonModel]
LONG = 1_500_000  # turns of the sleeper: more than a second


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_address_without_a_server_is_a_failed_connection_and_not_a_timeout(protocol: Any) -> None:
    with TritonModel("m", f"127.0.0.1:{free_ports(1)[0]}", protocol=protocol, retries=1, timeout_s=20) as model:
        began = time.monotonic()
        with pytest.raises(ConnectionFailed) as caught:
            _ = model.info
    assert "cannot reach a server" in caught.value.faults[0].what
    assert "python -m serving" in caught.value.faults[0].fix
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_unknown_host_is_a_failed_connection(protocol: Any) -> None:
    with (
        TritonModel("m", "no-such-host.invalid:80", protocol=protocol, retries=0, timeout_s=20) as model,
        pytest.raises(ConnectionFailed),
    ):
        _ = model.info


def test_a_client_that_waits_says_what_it_waited_for() -> None:
    with TritonModel("m", f"127.0.0.1:{free_ports(1)[0]}") as model, pytest.raises(RequestTimeout, match="refused"):
        model.wait_ready(0.3)


@pytest.mark.parametrize("name", ["nosuch", "no such/model", "ünknown"])
def test_an_unknown_model_is_named(connect: Connect, name: str) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        _ = connect(name).info
    assert name in caught.value.faults[0].what
    assert not caught.value.retry_safe


def test_an_unknown_version_is_named(connect: Connect) -> None:
    with pytest.raises(ModelUnavailable, match="version 77"):
        _ = connect("affine", version="77").info


def test_a_request_that_takes_too_long_ends_in_time_and_the_next_gets_its_own_answer(connect: Connect) -> None:
    model = connect("sleeper", timeout_s=0.4, retries=3)
    began = time.monotonic()
    with pytest.raises(RequestTimeout) as caught:
        model.infer_sample(x=np.array([LONG], np.int64))
    assert time.monotonic() - began < 1.5, "a timed out request is not sent again"
    assert "0.4 s" in caught.value.faults[0].what
    assert model.versions() == ["1"], "the late answer must not be taken for this one"
    later = connect("sleeper", timeout_s=30)
    assert later.infer_sample(x=np.array([7], np.int64))["y"] == [7]
    for number in (9, 10):
        assert model.infer_sample(x=np.array([number], np.int64))["y"] == [number]


@pytest.mark.parametrize(("protocol", "memory"), [("http", None), ("grpc", None), ("http", "system")])
def test_a_cancelled_async_request_leaves_the_client_usable(server: ServerInfo, protocol: Any, memory: Any) -> None:
    url = server.grpc_url if protocol == "grpc" else server.http_url

    async def use() -> None:
        async with AsyncTritonModel("sleeper", url, protocol=protocol, shared_memory=memory) as model:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(model.infer_sample(x=np.array([LONG], np.int64)), 0.3)
            answers = [await model.infer_sample(x=np.array([number], np.int64)) for number in (3, 4)]
            assert [answer["y"].tolist() for answer in answers] == [[3.0], [4.0]]

    asyncio.run(use())


def test_what_the_server_refuses_is_an_invalid_request(connect: Connect) -> None:
    model = connect("affine")
    object.__setattr__(model.info, "max_batch_size", 64)  # a client that believes in a larger limit than the server's
    with pytest.raises(InvalidRequest) as caught:
        model.infer_batch(x=floats(9, 4))
    assert "batch-size must be <= 8" in caught.value.faults[0].why


def test_a_request_of_100_mb_is_answered_or_refused_clearly_and_the_client_lives(connect: Connect) -> None:
    model = connect("any_length", timeout_s=120)
    large = np.ones((1, 25_000_000), np.float32)
    found = outcome(lambda: model.infer_batch(x=large)["y"])
    assert found.faults[0].fix if isinstance(found, ClientError) else found[0, -1] == 2
    assert model.infer_sample(x=np.ones(3, np.float32))["y"].tolist() == [2, 2, 2]


def outcome(call: Callable[[], Any]) -> Any:
    """Return the answer, or the error as a value."""
    try:
        return call()
    except ClientError as error:
        return error


def test_a_wrong_shape_of_100_mb_is_refused_before_it_is_sent(connect: Connect) -> None:
    model, large = connect("affine"), np.ones((1, 25_000_000), np.float32)
    before = model.statistics()
    with pytest.raises(InvalidRequest, match="must have shape"):
        model.infer_batch(x=large)
    assert model.statistics() == before


COMEBACKS = [("http", None, True), ("grpc", None, False), ("http", "system", False), ("grpc", "system", True)]


@pytest.mark.parametrize(("protocol", "memory", "used_meanwhile"), COMEBACKS)
def test_a_server_that_goes_away_and_comes_back(
    tmp_path: Path, protocol: Any, memory: Any, used_meanwhile: bool
) -> None:
    repository = tmp_path / "models"
    _golden.affine(repository)
    ports = [f"--{name}-port={port}" for name, port in zip(("http", "grpc", "metrics"), free_ports(), strict=True)]
    x = floats(2, 4)
    first = launch(tmp_path / "first", repository, "--allow-client-shm", *ports).wait_ready()
    url = first.info.grpc_url if protocol == "grpc" else first.info.http_url
    model = TritonModel("affine", url, protocol=protocol, shared_memory=memory, retries=2)
    try:
        prepared = model.prepare(x=x)
        assert np.allclose(prepared.infer()["y"], x @ WEIGHTS, atol=1e-5)
        first.stop(signal.SIGKILL)
        if used_meanwhile:
            with pytest.raises(ConnectionFailed):
                prepared.infer()
        second = launch(tmp_path / "second", repository, "--allow-client-shm", *ports).wait_ready()
        try:
            assert np.allclose(prepared.infer()["y"], x @ WEIGHTS, atol=1e-5)
            assert np.allclose(model.infer_batch(x=x)["y"], x @ WEIGHTS, atol=1e-5)
        finally:
            model.close()
            second.stop()
            _close(second)
    finally:
        first.stop()
        _close(first)


def _close(launched: Any) -> None:
    if launched.process.stdout is not None:
        launched.process.stdout.close()


def test_a_request_whose_answer_broke_off_is_not_sent_again() -> None:
    with speaker(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", b"") as (url, requests):
        with (
            TritonModel("m", url, retries=1, timeout_s=5) as model,
            pytest.raises(ConnectionFailed, match="broke before") as caught,
        ):
            _ = model.info
        assert not caught.value.retry_safe
        assert len(requests) == 1


def test_a_connection_that_closes_without_a_word_is_tried_again() -> None:
    with speaker(b"", b'HTTP/1.1 404 Not Found\r\nContent-Length: 29\r\n\r\n{"error":"unknown model: \'m\'"}'[:-1]) as (
        url,
        requests,
    ):
        with TritonModel("m", url, retries=1, timeout_s=5) as model, pytest.raises(ModelUnavailable):
            _ = model.info
        assert len(requests) == 2


def test_a_server_that_drips_its_answer_is_cut_off_at_the_time_limit() -> None:
    with speaker(b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n" + b" " * 400, drip_s=0.05) as (url, _):
        began = time.monotonic()
        with TritonModel("m", url, retries=0, timeout_s=0.6) as model, pytest.raises(RequestTimeout):
            _ = model.info
        assert time.monotonic() - began < 2


def test_a_request_to_a_busy_server_is_sent_again_a_bounded_number_of_times() -> None:
    busy = b'HTTP/1.1 503 Service Unavailable\r\nContent-Length: 16\r\n\r\n{"error":"busy"}'
    with speaker(busy, busy, busy) as (url, requests):
        with TritonModel("m", url, retries=2, timeout_s=5) as model, pytest.raises(ModelUnavailable, match="busy"):
            _ = model.info
        assert len(requests) == 3


def test_a_body_that_is_too_large_is_called_that() -> None:
    with speaker(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n") as (url, _):
        with (
            TritonModel("m", url, retries=0, timeout_s=5) as model,
            pytest.raises(InvalidRequest, match="exceeds the server's size limit") as caught,
        ):
            _ = model.info
        assert "--http-max-input-size" in caught.value.faults[0].fix


JSON = b'{"a": 1}'
HEADS = {
    "plain": b"Content-Type: application/json\r\nContent-Length: 8\r\n",
    "small letters": b"content-length:8\r\n",
    "more than is plain": b"Content-Length: 8\r\nServer: someone's proxy\r\n",
    "the last one": b"Content-Length: 8\r\nConnection: close\r\n",
}


def read(url: str) -> Any:
    with closing(HttpTransport(url, ClientOptions(timeout_s=5))) as transport:
        return transport.json("/v2", "m")


@pytest.mark.parametrize("drip_s", [0.0, 0.001], ids=["at once", "in drops"])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_an_answer_is_read_alike_however_its_head_is_worded(head: bytes, drip_s: float) -> None:
    with speaker(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + JSON, drip_s=drip_s) as (url, _):
        assert read(url) == {"a": 1}


def test_an_answer_in_chunks_is_read() -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (JSON[:3], JSON[3:], b""))
    with speaker(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks) as (url, _):
        assert read(url) == {"a": 1}


def test_bytes_after_an_answer_are_not_taken_for_the_next_one() -> None:
    said = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n" + JSON + b"HTTP/1.1 200 OK\r\n"
    with speaker(said, b"") as (url, _), closing(HttpTransport(url, ClientOptions(timeout_s=1))) as transport:
        first = outcome(lambda: transport.json("/v2", "m"))
        assert first == {"a": 1} or isinstance(first, ConnectionFailed)
        assert isinstance(outcome(lambda: transport.json("/v2", "m")), ConnectionFailed)
