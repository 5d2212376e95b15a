"""Requests import nothing, so a process may fork at any moment without leaving a child that waits for an import forever."""

from __future__ import annotations

from typing import Any

import pytest

from planwright.server_info import ServerInfo
from tests.clients.conftest import WAY_NAMES, WAYS
from tests.clients.test_shared_client import options, run


def found(what: str, server: ServerInfo, protocol: str, memory: str | None) -> Any:
    return run("tests.clients._importing", {"what": what, "options": options(server, protocol, memory)})["found"]


@pytest.mark.parametrize("what", ["sync", "async"])
@pytest.mark.parametrize(("protocol", "memory"), WAYS, ids=WAY_NAMES)
def test_what_requests_need_is_imported_when_the_client_is_made(
    server: ServerInfo, protocol: str, memory: str | None, what: str
) -> None:
    assert found(what, server, protocol, memory) == []


@pytest.mark.parametrize("what", ["request", "made"])
@pytest.mark.parametrize(("protocol", "memory"), WAYS, ids=WAY_NAMES)
def test_a_fork_during_the_first_request_or_while_a_client_is_made_leaves_a_child_that_answers(
    server: ServerInfo, protocol: str, memory: str | None, what: str
) -> None:
    assert found(what, server, protocol, memory) == "with 0"
