"""A real server for any test: ``python -m serving`` as a child process.

In      a model repository and further flags of ``python -m serving``.
Out     `running_server`, which yields a `ServerInfo`; `Launched` where a test needs the process itself; tiny repositories.

The kernel chooses free ports, so tests run beside other servers.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planwright.files import ROOT as ROOT  # tests import it from here
from planwright.own_server import free_ports
from planwright.server_info import ServerInfo

STOP_S = 60.0  # above the launcher's own limit: its exit time-out and 5 s, after which it ends the server by force
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


@dataclass
class Launched:
    """One ``python -m serving --json``.

    Attributes:
        process: The launcher (not tritonserver itself).
        folder: Holds ``server.json``, ``server.log`` and ``stderr.txt``.
        document: What it printed when it was ready; the errors if it could not start; {} before.
    """

    process: subprocess.Popen[str]
    folder: Path
    document: dict[str, Any]

    @property
    def info(self) -> ServerInfo:
        """How to reach the server; fails where it does not run."""
        info = ServerInfo.read(self.folder / "server.json")
        assert info is not None, self.stderr
        return info

    @property
    def stderr(self) -> str:
        """What the launcher printed for the user so far."""
        return (self.folder / "stderr.txt").read_text()

    @property
    def log(self) -> str:
        """What tritonserver itself wrote so far."""
        path = self.folder / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_ready(self) -> Launched:
        """Wait for the one line of JSON, or for the end of a launcher that cannot start."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line.strip() == "{":  # errors are printed over several lines, and then the launcher ends
            line += self.process.stdout.read()
            self.process.wait(STOP_S)
        self.document = json.loads(line) if line.strip() else {}
        return self

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Send a signal, wait, return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(STOP_S)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()


def launch(folder: Path, repository: Path, *flags: str, env: Mapping[str, str] | None = None) -> Launched:
    """Start ``python -m serving --json`` on free ports; `Launched.wait_ready` comes next, `Launched.stop` at last."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("--http-port", "--grpc-port", "--metrics-port")
    given = {flag.partition("=")[0] for flag in flags}
    ports = [f"{name}={port}" for name, port in zip(names, free_ports(), strict=True) if name not in given]
    command = [
        sys.executable,
        "-m",
        "serving",
        "--json",
        f"--model-repository={repository}",
        f"--server-file={folder / 'server.json'}",
    ]
    with (folder / "stderr.txt").open("w") as stderr:
        process = subprocess.Popen(
            [*command, *ports, *flags],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            preexec_fn=_end_with_the_tests,
        )
    return Launched(process, folder, {})


def _end_with_the_tests() -> None:
    """Let the kernel stop the launcher when the test run is killed."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def running_server(repository: Path, *flags: str) -> Iterator[ServerInfo]:
    """Serve `repository` while the block runs.

    Example:
        with running_server(repository, "--model-control-mode=explicit", "--load-model=*") as server:
            client = tritonclient.http.InferenceServerClient(server.http_url)
    """
    with tempfile.TemporaryDirectory(prefix="planwright-test-") as scratch:
        launched = launch(Path(scratch), repository, *flags)
        try:
            launched.wait_ready()
            if "errors" in launched.document or not launched.document:
                raise RuntimeError(f"the server did not start:\n{launched.stderr}\n{launched.log[-3000:]}")
            yield launched.info
        finally:
            launched.stop()
            assert launched.process.stdout is not None
            launched.process.stdout.close()
