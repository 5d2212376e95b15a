"""One tritonserver process, from start to shutdown.

In      `ServeOptions` and a machine that passed the preflight.
Out     a started, identified server; after `stop` none of its processes, shared memory or folders are left.

The id at ``/v2`` is compared with our own, because on a taken port another server answers. PR_SET_PDEATHSIG ends the server
with a killed launcher, and the janitor cleans up even then.
"""

from __future__ import annotations

import ctypes
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from planwright.files import ROOT
from planwright.own_server import ended
from planwright.server_info import ADMIN_HEADER
from planwright.triton_admin import RefusedError, TritonAdmin
from serving import command, installation, processes
from serving.command import Identity
from serving.options import ServeOptions
from serving.preflight import Machine
from serving.readiness import StartupLog

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.05
_KILL_AFTER_S = 5.0  # beyond the exit time-out, which the server itself observes
_LIBC = ctypes.CDLL(None)


@dataclass
class TritonServer:
    """A running tritonserver; `janitor` cleans up when its input is closed, `version` is known when it is ready."""

    process: subprocess.Popen[bytes]
    options: ServeOptions
    identity: Identity
    janitor: subprocess.Popen[str]
    version: str = ""

    @property
    def http_url(self) -> str:
        return f"{self.options.reachable_host}:{self.options.ports[0]}"

    @property
    def admin(self) -> TritonAdmin:
        return TritonAdmin(self.http_url, {ADMIN_HEADER: self.identity.admin_key}, str(self.options.log), timeout_s=5)

    def wait_ready(self) -> list[dict[str, Any]]:
        """Wait until the server answers under its own id; return the repository index.

        Raises:
            PlanwrightError: It ended, a model's process cannot start, or the time-out was reached.
        """
        log = StartupLog(self.options.log)
        deadline = time.monotonic() + self.options.start_timeout_s
        while time.monotonic() < deadline:
            log.read()
            fatal = log.fatal()
            if fatal is not None:
                raise fatal
            if ended(self.process):
                raise log.ended(self.process.returncode)
            with suppress(RefusedError):  # it does not answer yet
                metadata = self.admin.metadata(timeout_s=2)
                if metadata.get("name") == self.identity.id:
                    self.version = str(metadata.get("version", ""))
                    return self.admin.index()
            time.sleep(_POLL_S)
        raise log.timed_out(self.options.start_timeout_s)

    def stop(self) -> None:
        """Shut the server down, kill it after its exit time-out (at once where that is 0), and remove what it left."""
        if not self.options.exit_timeout_s:
            self.kill()
            return
        stubs = processes.children(self.process.pid)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(self.options.exit_timeout_s + _KILL_AFTER_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self._clean(stubs)

    def kill(self) -> None:
        stubs = processes.children(self.process.pid)
        self.process.kill()
        self._clean(stubs)

    def _clean(self, stubs: list[psutil.Process]) -> None:
        """Kill the model processes, which outlive a server by about a second; let the janitor remove the rest."""
        self.process.wait()
        processes.kill(stubs)
        self.janitor.communicate()


def start(options: ServeOptions, machine: Machine) -> TritonServer:
    """Start tritonserver; call `TritonServer.wait_ready` next."""
    identity = Identity(f"planwright-{secrets.token_hex(6)}", secrets.token_hex(16))
    backends = installation.make_backend_folder(machine.installation, machine.python) if machine.python else None
    janitor = _start_janitor(identity, backends)
    options.log.parent.mkdir(parents=True, exist_ok=True)
    with options.log.open("wb") as log:
        process = subprocess.Popen(
            command.arguments(options, machine, identity, backends), stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env=command.environment(machine), start_new_session=True, preexec_fn=_die_with_parent,
        )  # fmt: skip
    assert janitor.stdin is not None
    janitor.stdin.write(f"{process.pid}\n")
    janitor.stdin.flush()
    return TritonServer(process, options, identity, janitor)


def _start_janitor(identity: Identity, backends: Path | None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "serving.janitor", identity.shm_prefix, str(backends or "")]
    return subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
