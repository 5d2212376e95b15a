"""Shared memory: nothing is left behind, nothing is mixed up, a server that does not allow it is reported as such."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as httpclient

from clients import AsyncTritonModel, InvalidRequest, RequestTimeout, SharedMemoryUnavailable, TritonModel
from clients.shared_memory import system
from planwright.server_info import ServerInfo
from tests._server import ROOT, running_server
from tests.clients._golden import WEIGHTS, floats
from tests.clients.conftest import regions


def names(server: ServerInfo) -> set[str]:
    """Return the names of the regions that the server has mapped."""
    client = httpclient.InferenceServerClient(server.http_url)
    try:
        return {region["name"] for region in client.get_system_shared_memory_status()}
    finally:
        client.close()


def registered(server: ServerInfo) -> int:
    return len(names(server))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_no_name_stands_in_dev_shm_while_in_use_and_the_server_lets_go_at_close(
    server: ServerInfo, protocol: Any
) -> None:
    url = server.grpc_url if protocol == "grpc" else server.http_url
    before = registered(server)
    with TritonModel("affine", url, protocol=protocol, shared_memory="system") as model:
        prepared = [model.prepare(x=floats(3, 4)) for _ in range(3)]
        for rows in (1, 8, 2):  # the memory grows, then is used again
            x = floats(rows, 4)
            assert np.allclose(model.infer_batch(x=x)["y"], x @ WEIGHTS, atol=1e-5)
        prepared[0].close()
        assert regions() == set()
        assert registered(server) == before + 2 * 3
    assert registered(server) == before


def test_errors_leave_nothing_behind(server: ServerInfo) -> None:
    before = registered(server)
    with TritonModel("affine", server.http_url, shared_memory="system") as model:
        model.infer_batch(x=floats(1, 4))
        with pytest.raises(InvalidRequest):
            model.infer_batch(x=floats(1, 5))
    assert (regions(), registered(server)) == (set(), before)


def test_a_killed_client_leaves_nothing_in_dev_shm(server: ServerInfo) -> None:
    code = (
        "import numpy as np, sys; from clients import TritonModel\n"
        f"m = TritonModel('affine', {server.http_url!r}, shared_memory='system'); m.infer_batch(x=np.zeros((8, 4), np.float32))\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdin is not None
    with child.stdout, child.stdin:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not [name for name in os.listdir("/dev/shm") if f"-{child.pid}-" in name]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_late_answer_goes_into_abandoned_memory_that_is_then_unregistered(server: ServerInfo, protocol: Any) -> None:
    before, url = registered(server), server.grpc_url if protocol == "grpc" else server.http_url
    slow, quick = np.array([[1_200_000]], np.int64), np.array([[5]], np.int64)
    with TritonModel("sleeper", url, protocol=protocol, shared_memory="system", timeout_s=0.3, retries=0) as model:
        assert model.infer_batch(x=quick)["y"].tolist() == [[5.0]]
        first = names(server)
        with pytest.raises(RequestTimeout):
            model.infer_batch(x=slow)
        with contextlib.suppress(RequestTimeout):  # over HTTP it waits behind the slow one, gRPC has cancelled that
            model.infer_batch(x=quick)
        assert len(names(server) - first) == 2, "the next request has an input and an output region of its own"
    assert registered(server) == before, "closing waited until both had ended"
    assert regions() == set()


def test_an_async_client_gives_the_memory_of_a_cancelled_request_back(server: ServerInfo) -> None:
    before = registered(server)

    async def use() -> None:
        async with AsyncTritonModel("sleeper", server.http_url, shared_memory="system") as model:
            await model.infer_sample(x=np.array([5], np.int64))
            first = names(server)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(model.infer_sample(x=np.array([900_000], np.int64)), 0.2)
            answer = await model.infer_sample(x=np.array([5], np.int64))
            assert answer["y"].tolist() == [5.0]
            assert len(names(server) - first) == 2

    asyncio.run(use())
    assert registered(server) == before


def test_a_server_that_does_not_allow_registering_is_reported_as_such(tmp_path: Path) -> None:
    from tests.clients import _golden

    _golden.affine(tmp_path / "models")
    with running_server(tmp_path / "models") as closed:
        for protocol, url in (("http", closed.http_url), ("grpc", closed.grpc_url)):
            protocols: Any = protocol
            with (
                TritonModel("affine", url, protocol=protocols, shared_memory="system", retries=0) as model,
                pytest.raises(SharedMemoryUnavailable) as caught,
            ):
                model.infer_batch(x=floats(1, 4))
            assert "--allow-client-shm" in caught.value.faults[0].fix
            assert regions() == set()


def test_memory_that_does_not_fit_is_refused_before_it_kills_the_process() -> None:
    with pytest.raises(SharedMemoryUnavailable, match="is full") as caught:
        system.SystemRegion("in", 1 << 50)
    assert "--shm-size" in caught.value.faults[0].fix
