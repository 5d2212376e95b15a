"""One server with well-behaved models shared by most tests of this folder, and a launcher for those that need their own."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from planwright.server_info import ServerInfo
from tests import _models
from tests._server import Launched, launch, running_server
from tests.serving._infer import DATATYPES

BATCHING = "dynamic_batching { max_queue_delay_microseconds: 300000 }\n"


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerInfo]:
    """A server with every tiny model, and every feature of config.pbtxt that these tests cover."""
    folder = tmp_path_factory.mktemp("models")
    _models.adder(folder, extra=BATCHING)
    _models.adder(folder, "unbatched", max_batch_size=8)
    warm_up = (
        'name: "w" batch_size: 4 count: 2 inputs { key: "x" value { data_type: TYPE_FP32 dims: [4] zero_data: true } }'
    )
    _models.adder(folder, "warm", extra=f"model_warmup {{ {warm_up} }}\n")
    _models.adder(folder, "cached", extra="response_cache { enable: true }\n")
    _models.picker(folder, extra=BATCHING)
    _models.echo(folder, "types", DATATYPES)
    _models.echo(folder, "text", ["STRING"])
    _models.sleeper(folder, "pair", count=2)
    _models.sleeper(folder, "queue", extra="dynamic_batching { default_queue_policy { max_queue_size: 1 } }\n")
    timeout = "timeout_action: REJECT default_timeout_microseconds: 100000"
    _models.sleeper(folder, "impatient", extra=f"dynamic_batching {{ default_queue_policy {{ {timeout} }} }}\n")
    _models.sleeper(folder, "ranked", extra="dynamic_batching { priority_levels: 2 default_priority_level: 2 }\n")
    _models.sleeper(folder, "direct")
    with running_server(folder, "--allow-client-shm") as info:
        yield info


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Launched]]:
    """Start launchers with the given flags; whatever still runs at the end of the test is killed, its janitor cleans up."""
    started: list[Launched] = []

    def begin(repository: Path, *flags: str, env: dict[str, str] | None = None) -> Launched:
        started.append(launch(tmp_path / f"run{len(started)}", repository, *flags, env=env))
        return started[-1]

    yield begin
    for each in started:
        each.stop(signal.SIGKILL)
        if each.process.stdout is not None:
            each.process.stdout.close()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one model."""
    folder = tmp_path / "models"
    _models.adder(folder)
    return folder
