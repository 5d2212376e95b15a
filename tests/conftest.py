"""Shared by all tests: digits, built once, and a real server on it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from planwright.server_info import ServerInfo
from tests._project import CONFIG, Project
from tests._server import running_server

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell starts its background jobs with SIGINT ignored, and the commands that these tests interrupt would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Digits, built; read only."""
    project = Project(tmp_path_factory.mktemp("built"))
    project.config.write_text(CONFIG)
    done = project.build()
    assert done.code == 0, done.out + done.err
    return project


@pytest.fixture(scope="session")
def served(built: Project) -> Iterator[ServerInfo]:
    """A real server on the built project."""
    with running_server(built.repository, "--allow-client-shm") as info:
        yield info
