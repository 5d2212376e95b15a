"""Each command block of README.md runs, in order, in a copy of the checkout; and every link has a target."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from planwright.own_server import free_ports
from tests.ux._checkout import ROOT, copy_to, files

START_S = 120.0
STEP_S = 900.0
FENCE = re.compile(r"^```(?:bash|sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Commands that other tests run: this suite itself, and what needs a container engine.
ELSEWHERE = {
    r"make test": "tests",
    r"(?:docker|docker-compose|cp \.env).*": "tests/deploy/test_compose.py",
    r"git clone .*|cd planwright": "tests/ux/_checkout.py",
}


def commands(text: str) -> list[str]:
    """Return the lines of all shell blocks, comments and continuations resolved."""
    lines = [
        line.partition(" # ")[0].strip()
        for block in FENCE.findall(text)
        for line in block.replace("\\\n", "").splitlines()
    ]
    return [line.removeprefix("$ ") for line in lines if line and not line.startswith("#")]


README = commands((ROOT / "README.md").read_text())


def elsewhere(command: str) -> str:
    return next((place for pattern, place in ELSEWHERE.items() if re.fullmatch(pattern, command)), "")


class Newcomer:
    """Runs the commands in a folder, servers in the background."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: list[subprocess.Popen[bytes]] = []
        self.environment = {**os.environ, "PATH": f"{folder / '.venv/bin'}:{os.environ['PATH']}"}

    def run(self, command: str) -> None:
        if "-m serving" in command:
            self.serve(command)
            return
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=STEP_S,
            env=self.environment,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"

    def serve(self, command: str) -> None:
        """Start a server on free ports, because 8000 may be taken on the machine that runs the tests."""
        names = ("--http-port", "--grpc-port", "--metrics-port")
        ports = " ".join(f"{name}={port}" for name, port in zip(names, free_ports(), strict=True))
        with (self.folder / "serving.log").open("wb") as log:
            server = subprocess.Popen(
                ["bash", "-c", f"exec {command} {ports}"], cwd=self.folder, stdout=log, stderr=log, env=self.environment
            )
        self.servers.append(server)
        deadline = time.monotonic() + START_S
        while not (self.folder / ".planwright/server.json").exists():
            assert server.poll() is None, (self.folder / "serving.log").read_text()
            assert time.monotonic() < deadline, "the server was not ready in time"
            time.sleep(0.2)

    def leave(self) -> None:
        for server in self.servers:
            server.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(60)
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    user = Newcomer(copy_to(tmp_path_factory.mktemp("clone")))
    yield user
    user.leave()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", range(len(README)), ids=[command.replace("/", "∕") for command in README])
def test_command(newcomer: Newcomer, number: int) -> None:
    command = README[number]
    place = elsewhere(command)
    if place:
        assert (ROOT / place).exists(), f"{command} should be run by {place}"
        return
    newcomer.run(command)
    if command == "make demo":
        reports = list(newcomer.folder.glob("runs/*/report.json"))
        assert reports
        assert list(newcomer.folder.glob("runs/*/report.html"))
        assert "error" not in json.loads(reports[0].read_text())


def test_the_readme_shows_the_commands_of_the_contract() -> None:
    shown = "\n".join(README)
    for command in (
        "make demo",
        "builders/build_all.py",
        "-m serving",
        "-m clients validate",
        "-m clients infer",
        "-f loadtest/",
        "-m loadtest sweep",
    ):
        assert command in shown


@pytest.mark.parametrize("page", [str(path) for path in files("*.md")])
def test_links_have_targets(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    local = [link for link in links if not re.match(r"[a-z]+:", link)]
    broken = [link for link in local if not ((ROOT / page).parent / link).exists()]
    assert not broken
