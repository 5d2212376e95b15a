"""One real load run on a real server, and the command that makes one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from planwright.server_info import ServerInfo
from tests._project import ROOT, Project
from tests._server import running_server
from tests.measure import _kinds


@dataclass(frozen=True)
class LoadRun:
    """A locust process that ended, and the report it left (None for none)."""

    code: int
    text: str
    folder: Path | None

    @property
    def report(self) -> dict[str, Any]:
        assert self.folder is not None, self.text
        found: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return found


def environment(server: ServerInfo, scratch: Path, **settings: str) -> dict[str, str]:
    """Return the environment that points locust at `server`."""
    server.write(scratch / "load-server.json")
    return {
        **os.environ, "PLANWRIGHT_SERVER_FILE": str(scratch / "load-server.json"), "PLANWRIGHT_RUNS": str(scratch / "runs"),
        **{f"PLANWRIGHT_{name.upper()}": value for name, value in settings.items()},
    }  # fmt: skip


def locust(server: ServerInfo, scratch: Path, *flags: str, **settings: str) -> LoadRun:
    """Run ``locust -f loadtest/ --headless`` to its end."""
    command = [sys.executable, "-m", "locust", "-f", "loadtest/", "--headless", "--only-summary", *flags]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(server, scratch, **settings), capture_output=True, text=True, timeout=120
    )
    return finished(done.returncode, done.stdout + done.stderr, scratch)


def finished(code: int, text: str, scratch: Path) -> LoadRun:
    assert "Traceback" not in text, text
    folders = sorted((scratch / "runs").glob("*/report.json"))
    return LoadRun(code, text, folders[-1].parent if folders else None)


@pytest.fixture(scope="session")
def run(served: ServerInfo, tmp_path_factory: pytest.TempPathFactory) -> LoadRun:
    """Six seconds over both protocols; the users rest a little, so that no machine is so busy that the client is the limit."""
    return locust(served, tmp_path_factory.mktemp("load"), "-u", "4", "-r", "4", "-t", "6s", wait_s="0.02")


@dataclass(frozen=True)
class Kinds:
    """A server on models of many kinds, and their names."""

    server: ServerInfo
    project: Project
    models: tuple[str, ...]


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kinds]:
    """Models of many kinds, built and served by one server."""
    project = Project(tmp_path_factory.mktemp("kinds"))
    names = _kinds.write(project.folder)
    done = project.build("--no-trial-load")  # the load test is one
    assert done.code == 0, done.out + done.err
    with running_server(project.repository, "--allow-client-shm") as server:
        yield Kinds(server, project, tuple(names))
