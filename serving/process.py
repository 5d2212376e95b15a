"""One tritonserver process, from its start to its end.

In      `Options` and a machine that passed the preflight.
Out     a started, identified server; afterwards no process, no shared memory and no folder of it.

Odd lines: the answer at ``/v2`` is compared with our own id, because on a taken port it comes from another server;
PR_SET_PDEATHSIG, so that a killed launcher leaves no server behind; the janitor, which cleans up even then.
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

from planwright.polling import ended
from planwright.server_info import ADMIN_HEADER
from planwright.triton_admin import RefusedError, TritonAdmin
from serving import backend_folder, command, processes, startup
from serving.command import Identity
from serving.options import Options
from serving.preflight import Machine

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.05
_LIBC = ctypes.CDLL(None)


@dataclass
class Server:
    """A running tritonserver.

    Attributes:
        process: tritonserver itself.
        options: What it was started with.
        identity: Its id, admin key and shared memory prefix.
        version: Such as ``2.51.0``; known when it is ready.
    """

    process: subprocess.Popen[bytes]
    options: Options
    identity: Identity
    janitor: subprocess.Popen[str]
    version: str = ""

    @property
    def http_url(self) -> str:
        """``host:port`` of HTTP."""
        return f"{self.options.reachable_host}:{self.options.ports[0]}"

    @property
    def admin(self) -> TritonAdmin:
        """Its management API."""
        return TritonAdmin(self.http_url, {ADMIN_HEADER: self.identity.admin_key}, str(self.options.log), timeout_s=5)

    def wait_ready(self) -> list[dict[str, Any]]:
        """Wait until the server answers under its own id; return the repository index.

        Raises:
            PlanwrightError: It ended, a model's process cannot start, or time ran out.
        """
        log = startup.Log(self.options.log)
        deadline = time.monotonic() + self.options.start_timeout_s
        while time.monotonic() < deadline:
            log.read()
            fault = log.fatal()
            if fault is not None:
                raise log.failure(fault)
            if ended(self.process):
                raise log.ended(self.process.returncode)
            with suppress(RefusedError):  # it does not answer yet
                metadata = self.admin.metadata(timeout_s=2)
                if metadata.get("name") == self.identity.id:
                    self.version = str(metadata.get("version", ""))
                    return self.admin.index()
            time.sleep(_POLL_S)
        raise log.late(self.options.start_timeout_s)

    def stop(self) -> None:
        """End the server, by force after its exit time-out, and remove what it left; a time-out of 0 is no grace at all."""
        if not self.options.exit_timeout_s:
            self.kill()
            return
        stubs = processes.children(self.process.pid)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(self.options.exit_timeout_s + 5)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self._clean(stubs)

    def kill(self) -> None:
        """End the server at once, and remove what it left."""
        stubs = processes.children(self.process.pid)
        self.process.kill()
        self._clean(stubs)

    def _clean(self, stubs: dict[int, list[str]]) -> None:
        """End the model processes that outlive a server by about a second; remove its shared memory and its backend folder."""
        self.process.wait()
        for pid, words in stubs.items():
            processes.end(pid, words)
        self.janitor.communicate()


def start(options: Options, machine: Machine) -> Server:
    """Start tritonserver; `Server.wait_ready` comes next."""
    identity = Identity(f"planwright-{secrets.token_hex(6)}", secrets.token_hex(16))
    backends = backend_folder.make(machine.installation, machine.python) if machine.python else None
    janitor = _start_janitor(identity, backends)
    options.log.parent.mkdir(parents=True, exist_ok=True)
    with options.log.open("wb") as log:
        process = subprocess.Popen(
            command.words(options, machine, identity, backends), stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env=command.environment(machine), start_new_session=True, preexec_fn=_die_with_parent,
        )  # fmt: skip
    assert janitor.stdin is not None
    janitor.stdin.write(f"{process.pid}\n")
    janitor.stdin.flush()
    return Server(process, options, identity, janitor)


def _start_janitor(identity: Identity, backends: Path | None) -> subprocess.Popen[str]:
    script = Path(__file__).with_name("janitor.py")
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(script), identity.shm_prefix, str(backends or "")],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
