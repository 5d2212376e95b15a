"""One real server with tiny models that all tests of this room share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clients import TritonModel
from planwright.server_info import ServerInfo
from tests import _models
from tests._server import running_server
from tests.clients import _golden

WAYS: list[tuple[str, str | None]] = [("http", None), ("grpc", None), ("http", "system"), ("grpc", "system")]
WAY_NAMES = ["http", "grpc", "http+shm", "grpc+shm"]


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of well-behaved models with golden samples."""
    return _golden.all_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[ServerInfo]:
    """A server that lets clients use shared memory; it also has models of tests/_models.py, without golden samples."""
    _models.sleeper(repository, "sleeper")
    _models.varied(repository)
    _models.steps(repository, "steps_direct")
    _models.steps(repository, "steps_oldest", how="oldest { max_candidate_sequences: 4 }")
    _models.adder(repository, "decoupled", extra="model_transaction_policy { decoupled: true }\n")
    _models.echo(repository, "echo", list(_models.ONNX_TYPES))
    with running_server(repository, "--allow-client-shm") as info:
        yield info


@pytest.fixture(params=WAYS, ids=WAY_NAMES)
def connect(request: pytest.FixtureRequest, server: ServerInfo) -> Iterator[Callable[..., TritonModel]]:
    """Make clients that speak each protocol, with and without shared memory; closed at the end."""
    protocol, memory = request.param
    made: list[TritonModel] = []

    def make(name: str, **options: Any) -> TritonModel:
        url = server.grpc_url if protocol == "grpc" else server.http_url
        made.append(TritonModel(name, url, protocol=protocol, shared_memory=memory, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def regions() -> set[str]:
    """Return the names of clients' regions in /dev/shm."""
    return {path.name for path in Path("/dev/shm").glob("planwright-in-*")} | {
        path.name for path in Path("/dev/shm").glob("planwright-out-*")
    }
